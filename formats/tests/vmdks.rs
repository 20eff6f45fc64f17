//! VMDKs of every kind, made by hand, read as what was put into them; and what salvage makes of damaged ones.

mod common;

use common::vmdk::delta::{Cowd, SeSparse};
use common::vmdk::stream::{Layout, Stream, zlib};
use common::vmdk::{Built, Disk, Grain, REDUNDANT, SECTOR, Sparse, flat, kinds, split};
use common::written::write;
use formats::{Format, Image, Result};

const LAYOUTS: [Layout; 4] = [Layout::Front, Layout::Tail, Layout::Both, Layout::Unmarked];

fn open(image: &Built, salvage: bool) -> Result<Image> {
    common::open(image.bytes.clone(), Some(Format::Vmdk), salvage)
}

/// The content, and whether there were warnings.
fn read(image: &Built, salvage: bool) -> (Vec<u8>, bool) {
    let image = open(image, salvage).expect("an image that opens");
    let content = common::content(&image).expect("an image that can be read");
    (content, !image.layers[0].info.warnings.is_empty())
}

#[test]
fn a_sparse_extent_holds_what_was_put_into_it() {
    for grain in [8, 16, 32, 64, 128, 256] {
        // With 16 entries the tables are shorter than a sector, with 1500 they end in the middle of one.
        for entries in [16, 512, 1500] {
            let sparse = Sparse::of(grain, entries);
            let expected = (sparse.disk.content(), false);
            assert!(
                read(&sparse.build(), false) == expected,
                "{grain} {entries}"
            );
        }
    }
}

#[test]
fn an_extent_with_one_directory_holds_as_much() {
    let mut sparse = Sparse::default();
    sparse.flags &= !REDUNDANT;
    assert!(read(&sparse.build(), false) == (sparse.disk.content(), false));
}

#[test]
fn zeros_are_not_taken_for_absent_grains() {
    let sparse = Sparse::default();
    let image = open(&sparse.build(), false).expect("an image");
    let at = |grain: u64| formats::run_at(image.source.as_ref(), grain * 4096, 4096);
    let is_zero = |grain| matches!(at(grain).expect("a run").mapping, formats::Mapping::Zero);
    assert!(is_zero(2) && !is_zero(3));
}

#[test]
fn a_directory_entry_of_one_is_a_table_of_zeros() {
    let sparse = Sparse::default();
    let image = sparse.build();
    let directory = image.directory;
    let image = image.with(directory, &1u32.to_le_bytes());
    let mut expected = sparse.disk.content();
    expected[..512 * 4096].fill(0);
    assert!(read(&image, false).0 == expected);
}

#[test]
fn the_largest_tables_are_read_to_their_end() {
    let mut sparse = Sparse::of(1, 16 << 10);
    sparse.disk.grains.insert(6, (16_000, Grain::Data));
    assert!(read(&sparse.build(), false).0 == sparse.disk.content());
}

#[test]
fn a_stream_holds_what_was_put_into_it() {
    for layout in LAYOUTS {
        for grain in [8, 16, 64, 128, 256] {
            let mut stream = Stream::of(layout);
            stream.disk = Disk::new(grain, 512, false);
            let expected = (stream.disk.content(), false);
            assert!(
                read(&stream.build(), false) == expected,
                "{layout:?} {grain}"
            );
        }
    }
}

#[test]
fn the_last_grain_of_a_stream_may_be_packed_as_short_as_the_disk_is() {
    for layout in LAYOUTS {
        let mut stream = Stream::of(layout);
        // The last grain, and no other, ends in zeros: in what is behind the disk's end.
        stream.pack = |grain| match grain[4095] {
            0 => zlib(&grain[..2048]),
            _ => zlib(grain),
        };
        assert!(
            read(&stream.build(), false).0 == stream.disk.content(),
            "{layout:?}"
        );
    }
}

#[test]
fn zeros_behind_a_stream_are_passed_over() {
    let stream = Stream::of(Layout::Tail);
    for more in [1, 512, 100_000] {
        let mut image = stream.build();
        image.bytes.resize(image.bytes.len() + more, 0);
        assert!(read(&image, false).0 == stream.disk.content(), "{more}");
    }
}

#[test]
fn a_cowd_extent_holds_what_was_put_into_it() {
    for grain in [1, 8, 128] {
        let cowd = Cowd {
            disk: Disk::new(grain, Cowd::ENTRIES, false),
            ..Cowd::default()
        };
        assert!(
            read(&cowd.build(), false) == (cowd.disk.content(), true),
            "{grain}"
        );
    }
}

#[test]
fn a_sesparse_extent_holds_what_was_put_into_it() {
    for first in [0, 4094] {
        let extent = SeSparse {
            first,
            ..SeSparse::default()
        };
        assert!(
            read(&extent.build(), false) == (extent.disk.content(), true),
            "{first}"
        );
    }
}

#[test]
fn the_pieces_of_a_disk_are_put_together() {
    let image = common::open(split().into_bytes(), None, false).expect("an image");
    let flat = flat();
    let expected = [
        flat.clone(),
        Sparse::piece().disk.content(),
        vec![0; 100 * SECTOR],
        flat[3 * SECTOR..11 * SECTOR].to_vec(),
        Cowd::default().disk.content(),
        SeSparse::default().disk.content(),
    ];
    assert!(common::content(&image).expect("content") == expected.concat());
    assert_eq!(image.layers[0].info.warnings, [""; 0]);
}

#[test]
fn a_sparse_file_without_capacity_holds_nothing_but_a_descriptor() {
    let mut sparse = Sparse {
        descriptor: Some(split()),
        ..Sparse::default()
    };
    sparse.disk.grains.clear();
    let image = sparse.build().with(12, &[0; 8]);
    let expected = common::open(split().into_bytes(), None, false).expect("an image");
    let expected = common::content(&expected).expect("content");
    // Some have no directory either.
    for directory in [image.directory, 0] {
        let field = (directory as u64 / SECTOR as u64).to_le_bytes();
        let image = image.clone().with(48, &[0; 8]).with(56, &field);
        assert!(read(&image, false).0 == expected, "{directory}");
    }
}

#[test]
fn the_check_finds_nothing_in_sound_images() {
    for (name, image) in kinds() {
        let findings = common::check(&image, Format::Vmdk).expect("a check");
        assert_eq!(findings, [], "{name}");
    }
    let options = ["subformat=streamOptimized".to_owned()];
    let model = vec![(3 << 20, common::Random::new(1).bytes(300_000))];
    let written = write(Format::Vmdk, 40 << 20, &options, &model, "a stream");
    let findings = common::check(&written.file.to_bytes(), Format::Vmdk);
    assert_eq!(findings.expect("a check"), []);
}

#[test]
fn salvage_takes_the_redundant_directory_where_the_first_is_lost() {
    let sparse = Sparse::default();
    let image = sparse.build().with(56, &0xFFFF_FFFF_u64.to_le_bytes());
    assert!(open(&image, false).is_err());
    assert!(read(&image, true) == (sparse.disk.content(), true));
}

#[test]
fn salvage_makes_a_lost_directory_anew_from_the_markers() {
    for layout in [Layout::Front, Layout::Tail, Layout::Both] {
        let stream = Stream::of(layout);
        let whole = stream.build();
        let lost = whole.clone().with(56, &0xFFFF_FFFF_u64.to_le_bytes());
        assert!(open(&lost, false).is_err(), "{layout:?}");
        assert!(
            read(&lost, true) == (stream.disk.content(), true),
            "{layout:?}"
        );
        if layout == Layout::Tail {
            let tail = whole.tables[0] - SECTOR;
            assert!(read(&whole.cut(tail), true) == (stream.disk.content(), true));
        }
    }
}

#[test]
fn salvage_reads_the_grains_of_a_stream_that_broke_off() {
    let stream = Stream::of(Layout::Tail);
    let whole = stream.build();
    // In the middle of grain 5, and all of 4 is there.
    let image = open(&whole.clone().cut(whole.grain(5) + 700), true).expect("an image");
    let mut front = vec![0; 5 * 4096];
    formats::reader::read_guest(image.source.as_ref(), 0, &mut front).expect("the front");
    assert!(front == stream.disk.content()[..5 * 4096]);
    let error = formats::reader::read_guest(image.source.as_ref(), 5 * 4096, &mut [0; 512]);
    assert_eq!(error.unwrap_err().kind(), formats::ErrorKind::Truncated);
}

#[test]
fn salvage_goes_past_what_is_no_marker() {
    let stream = Stream::of(Layout::Tail);
    let whole = stream.build();
    let (lost, tail) = (whole.grain(1), whole.tables[0] - SECTOR);
    let image = open(&whole.with(lost, &[0xA5; 12]).cut(tail), true).expect("an image");
    let content = common::content(&image).expect("content");
    let mut expected = stream.disk.content();
    expected[4096..8192].fill(0);
    assert!(content == expected);
}
