//! What damaged and hostile VDIs lead to.

mod common;

use common::vdi::{Builder, UNALLOCATED};
use common::vmdk::memory;
use common::written::{Model, target, write};
use formats::reader::read_guest;
use formats::{ErrorKind, Format, Image, OpenContext, Result, open_storage};

const FREE: u32 = UNALLOCATED;

fn opened(bytes: Vec<u8>, salvage: bool) -> Result<Image> {
    let context = OpenContext {
        salvage,
        ..OpenContext::default()
    };
    open_storage(memory(bytes), Some(Format::Vdi), &context)
}

/// The kind of the first error on the way through the disk.
fn kind_of(bytes: Vec<u8>, salvage: bool) -> Option<ErrorKind> {
    let read = opened(bytes, salvage).and_then(|image| {
        let mut disk = vec![0; image.source.size() as usize];
        read_guest(image.source.as_ref(), 0, &mut disk)
    });
    read.err().map(|error| error.kind())
}

fn kind(builder: &Builder) -> Option<ErrorKind> {
    kind_of(builder.build(), false)
}

#[test]
fn versions_of_old_are_refused_by_name() {
    for version in [2, 0x0001_0000, 0x0001_0002, 0x0002_0001] {
        let builder = Builder {
            version,
            ..Builder::new(&[0])
        };
        let error = opened(builder.build(), false).err().expect("an error");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("version"), "{error}");
    }
}

#[test]
fn a_block_that_the_header_does_not_count_is_read_on_request_only() {
    let builder = Builder {
        allocated: Some(3),
        ..Builder::new(&[0, 2, 1])
    };
    assert_eq!(kind(&builder), None);
    let mut image = builder.build();
    image[388] = 2;
    assert_eq!(kind_of(image.clone(), false), Some(ErrorKind::Malformed));
    assert_eq!(kind_of(image, true), None);
}

#[test]
fn two_blocks_in_one_place_are_malformed() {
    let builder = Builder {
        allocated: Some(3),
        ..Builder::new(&[0, 2, 1, 2])
    };
    assert_eq!(kind(&builder), Some(ErrorKind::Malformed));
    assert_eq!(kind_of(builder.build(), true), Some(ErrorKind::Malformed));
    // Far from each other: with the slice of the second one at the latest.
    let mut map = vec![FREE; 40_000];
    (map[3], map[39_999]) = (0, 0);
    assert_eq!(kind(&Builder::new(&map)), Some(ErrorKind::Malformed));
}

#[test]
fn what_is_past_the_end_of_the_file_is_truncated() {
    let builder = Builder {
        disk_size: 3 * 4096 - 1000,
        ..Builder::new(&[0, 1, 2])
    };
    let image = builder.build();
    let end = image.len();
    // Of the last block only what the guest sees has to be there.
    assert_eq!(kind_of(image[..end - 1000].to_vec(), false), None);
    for cut in [1001, 4096, 3 * 4096] {
        let cut_off = image[..end - cut].to_vec();
        assert_eq!(kind_of(cut_off, false), Some(ErrorKind::Truncated), "{cut}");
    }
    for len in [0, 100, 455, 512 + 11] {
        let cut_off = image[..len].to_vec();
        assert_eq!(kind_of(cut_off, false), Some(ErrorKind::Truncated), "{len}");
    }
    // What is there of a block that is cut off can be had.
    let image = opened(image[..end - 2000].to_vec(), true).expect("open");
    let mut start = vec![0; 2096];
    read_guest(image.source.as_ref(), 2 * 4096, &mut start).expect("read");
    assert!(start == builder.block(2)[..2096]);
}

#[test]
fn numbers_that_lead_far_beyond_are_truncated_and_do_not_wrap() {
    let mut map = vec![FREE; 16];
    map[3] = 0xFFFF_FFFD;
    let builder = Builder {
        block_size: 1 << 30,
        extra: u32::MAX,
        disk_size: 4 << 30,
        allocated: Some(0),
        ..Builder::new(&map)
    };
    let image = opened(builder.build(), true).expect("open");
    let lost = read_guest(image.source.as_ref(), 3 << 30, &mut [0]);
    assert_eq!(lost.unwrap_err().kind(), ErrorKind::Truncated);
    let image = opened(builder.build(), false).expect("open");
    let lost = read_guest(image.source.as_ref(), 3 << 30, &mut [0]);
    assert_eq!(lost.unwrap_err().kind(), ErrorKind::Malformed);
}

/// A map that is claimed, but not there, takes no memory.
#[test]
fn a_map_longer_than_the_file_is_truncated() {
    let mut image = Builder::new(&[0, 1]).build();
    image[384..388].copy_from_slice(&0x3FFF_0000u32.to_le_bytes());
    image[344..348].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(kind_of(image, false), Some(ErrorKind::Truncated));
}

#[test]
fn a_child_that_names_no_parent_is_read_on_request_only() {
    for image_type in [3, 4] {
        let builder = Builder {
            image_type,
            ..Builder::over(&[0, FREE], [0; 16])
        };
        assert_eq!(kind(&builder), Some(ErrorKind::Malformed));
        let image = opened(builder.build(), true).expect("open");
        assert_eq!(image.layers[0].info.warnings.len(), 1);
    }
}

#[test]
fn what_the_format_cannot_hold_is_refused_before_writing() {
    let kind = |size, options: &[&str]| {
        let options: Vec<_> = options.iter().map(|o| (*o).to_owned()).collect();
        let made = target(Format::Vdi, size, &options);
        made.err().map(|error| error.kind())
    };
    // The block map of QEMU may take 2 GiB less a sector.
    let most = ((1u64 << 31) - 512) / 4 * (1 << 20);
    for subformat in ["subformat=dynamic", "subformat=fixed"] {
        assert_eq!(kind(most, &[subformat]), None);
        assert_eq!(kind(most + 1, &[subformat]), Some(ErrorKind::Limit));
        assert_eq!(kind(u64::MAX, &[subformat]), Some(ErrorKind::Limit));
        assert_eq!(kind(0, &[subformat]), Some(ErrorKind::Unsupported));
    }
    assert_eq!(kind(1, &["subformat=thin"]), Some(ErrorKind::Usage));
    assert_eq!(kind(1, &["block_size=1M"]), Some(ErrorKind::Usage));
}

#[test]
fn what_is_written_stands_where_virtualbox_has_it() {
    let mib = 1usize << 20;
    let model: Model = vec![(3 << 20, vec![1; 512]), (5 << 20, vec![2; 100])];
    let size = (6 << 20) - 511;
    for (subformat, blocks) in [("dynamic", 2), ("fixed", 6)] {
        let options = [format!("subformat={subformat}")];
        let image = write(Format::Vdi, size, &options, &model, subformat).file;
        let image = image.to_bytes();
        assert_eq!(image.len(), (2 + blocks) * mib, "{subformat}");
        assert!(image.starts_with(b"<<< Oracle VM VirtualBox Disk Image >>>\n\0"));
        let number = |at: usize| common::le32(&image, at);
        assert_eq!([number(68), number(72)], [0x0001_0001, 0x190]);
        assert_eq!([number(340), number(344)], [1 << 20, 2 << 20]);
        assert_eq!(common::le64(&image, 368), 6 << 20);
        assert_eq!([number(384), number(388)], [6, blocks as u32]);
        let map: Vec<u32> = (0..6).map(|n| number(mib + n * 4)).collect();
        let expected = match subformat {
            "fixed" => [0, 1, 2, 3, 4, 5],
            _ => [FREE, FREE, FREE, 0, FREE, 1],
        };
        assert_eq!(map, expected);
        // Parent ids are nil, the own ones are not.
        assert!(image[424..456].iter().all(|byte| *byte == 0));
        assert!(image[392..424].iter().all(|byte| *byte == 9));
    }
}
