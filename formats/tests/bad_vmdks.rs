//! Sparse extents and streams with something wrong: each is told apart by the kind of its error, wherever on the way it comes.

mod common;

use common::vmdk::delta::{Cowd, SeSparse};
use common::vmdk::stream::{Layout, Pack, Stream, marker, zlib};
use common::vmdk::{Built, Header, SECTOR, Sparse, fails, kind, kinds, sector};
use formats::{ErrorKind, Format};

use ErrorKind::{Limit, Malformed, Truncated, Unsupported};

const STREAMS: [Layout; 4] = [Layout::Front, Layout::Tail, Layout::Both, Layout::Unmarked];
const MARKED: [Layout; 3] = [Layout::Front, Layout::Tail, Layout::Both];

/// Entry `index` of the first table of hosted and COWD extents.
fn entry(image: &Built, index: usize) -> usize {
    image.tables[0] + index * 4
}

fn le32(value: usize) -> [u8; 4] {
    (value as u32).to_le_bytes()
}

/// The sector of byte `at`, as an entry.
fn place(at: usize) -> [u8; 4] {
    le32(at / SECTOR)
}

mod cuts {
    use super::*;

    #[test]
    fn an_extent_cut_anywhere_is_truncated() {
        let sparse = Sparse::default().build();
        let cowd = Cowd::default().build();
        let se_sparse = SeSparse::default().build();
        for image in [sparse, cowd, se_sparse] {
            // The last grain is half a grain behind the end of the disk.
            let last = image.grains.last().expect("grains").1;
            let places = [
                20,
                SECTOR + 10,
                image.redundant.max(20) + 3,
                image.directory + 3,
                image.tables[0] + 100,
                image.tables[1] + 100,
                image.grain(0) + 100,
                image.grain(4) + 100,
                last,
                last + SECTOR - 1,
            ];
            for len in places {
                fails(image.clone().cut(len), Truncated);
            }
        }
    }

    #[test]
    fn a_stream_cut_anywhere_is_truncated() {
        for layout in STREAMS {
            let image = Stream::of(layout).build();
            for len in [20, SECTOR + 10, image.grain(0) + 5, image.grain(5) + 100] {
                fails(image.clone().cut(len), Truncated);
            }
            if layout == Layout::Tail {
                for at in [
                    image.tables[0],
                    image.tables[1],
                    image.directory,
                    image.footer,
                ] {
                    fails(image.clone().cut(at - SECTOR), Truncated);
                    fails(image.clone().cut(at), Truncated);
                    fails(image.clone().cut(at + 100), Truncated);
                }
            }
        }
    }

    #[test]
    fn no_cut_goes_unnoticed() {
        for (name, image) in kinds() {
            // Of the text of a descriptor, and of the sector at the end of a stream, nothing is missed.
            let needed = match name {
                "split.vmdk" => continue,
                // The tables in front do for it.
                "both.vmdk" => Stream::of(Layout::Both).build().grain(514),
                "front.vmdk" | "tail.vmdk" | "unmarked.vmdk" => image.len() - 1024,
                "sparse.vmdk" | "sesparse.vmdk" => image.len() - 2048,
                _ => image.len(),
            };
            let step = if name == "sesparse.vmdk" { 1999 } else { 333 };
            for len in (0..needed).step_by(step) {
                assert!(kind(&image[..len]).is_some(), "{name} cut to {len} bytes");
            }
        }
    }

    #[test]
    fn of_the_last_grain_only_what_the_disk_has_must_be_there() {
        let image = Sparse::default().build();
        let len = image.bytes.len();
        assert_eq!(kind(&image.clone().cut(len - 2048).bytes), None);
        fails(image.cut(len - 2049), Truncated);
    }
}

mod headers {
    use super::*;

    #[test]
    fn wrong_fields_of_a_sparse_header_are_told_apart() {
        let cases: [(&str, usize, &[u8], ErrorKind); 17] = [
            ("never completed", 0, b"kdmv", Malformed),
            ("version 0", 4, &[0], Unsupported),
            ("version 4", 4, &[4], Unsupported),
            ("unknown flag", 11, &[0x80], Unsupported),
            ("compressed, but not with what", 10, &[1], Malformed),
            ("markers without compression", 10, &[2], Malformed),
            (
                "more tables than directory",
                12,
                &[0, 0, 0, 0x10],
                Truncated,
            ),
            ("a capacity of 64 PiB", 18, &[2], Limit),
            ("a capacity past 2^64 bytes", 12, &[0xff; 8], Malformed),
            ("no grain size", 20, &[0; 8], Malformed),
            ("an odd grain size", 20, &[9], Malformed),
            ("a huge grain size", 27, &[0x80], Malformed),
            ("a descriptor past 2^64 bytes", 28, &[0xff; 8], Malformed),
            ("a descriptor past the end", 28, &[0, 0, 1], Truncated),
            ("a descriptor of more than 1 MiB", 36, &[1, 8], Limit),
            ("no entries", 44, &[0; 4], Malformed),
            ("2^32 entries", 44, &[0xff; 4], Malformed),
        ];
        for (what, at, bytes, expected) in cases {
            let image = Sparse::default().build().with(at, bytes);
            assert_eq!(kind(&image.bytes), Some(expected), "{what}");
        }
    }

    #[test]
    fn a_transfer_in_text_mode_is_noticed() {
        fails(Sparse::default().build().with(73, b"\n \n\n"), Malformed);
    }

    #[test]
    fn a_directory_keeps_clear_of_header_and_descriptor() {
        for (sector, expected) in [
            (0_u64, Malformed),
            (1, Malformed),
            (20, Malformed),
            (1 << 40, Truncated),
            (u64::MAX - 1, Malformed),
            (u64::MAX, Truncated),
        ] {
            let image = Sparse::default().build().with(56, &sector.to_le_bytes());
            fails(image, expected);
        }
    }

    #[test]
    fn both_directories_in_one_place_are_not_two() {
        let image = Sparse::default().build();
        // The redundant one starts in the middle of the other.
        let redundant = sector(image.redundant).to_le_bytes();
        fails(
            image.with(56, &redundant).with(48, &2_u64.to_le_bytes()),
            Malformed,
        );
    }
}

mod tables {
    use super::*;

    fn images() -> Vec<Built> {
        let streams = STREAMS.map(|layout| Stream::of(layout).build());
        let mut images = vec![Sparse::default().build(), Sparse::piece().build()];
        images.push(Cowd::default().build());
        images.into_iter().chain(streams).collect()
    }

    #[test]
    fn a_table_past_the_end_is_truncated() {
        for image in images() {
            let end = image.bytes.len();
            for at in [end - SECTOR, end + SECTOR, u32::MAX as usize * SECTOR] {
                let directory = image.directory;
                fails(image.clone().with(directory, &place(at)), Truncated);
            }
        }
    }

    #[test]
    fn a_table_that_two_entries_share_is_malformed() {
        for image in images() {
            let (second, first) = (image.directory + 4, image.tables[0]);
            fails(image.clone().with(second, &place(first)), Malformed);
            // Not all of it, but a part.
            fails(image.with(second, &place(first + SECTOR)), Malformed);
        }
    }

    #[test]
    fn a_directory_full_of_entries_for_one_table_takes_no_time() {
        const TABLES: u64 = 1 << 20;
        let header = Header {
            version: 1,
            flags: 0,
            capacity: TABLES << 14,
            grain: 1,
            descriptor: (0, 0),
            entries: 1 << 14,
            redundant: 0,
            directory: 1,
            overhead: 0,
        };
        let mut image = header.to_bytes();
        for _ in 0..TABLES {
            image.extend(place(SECTOR + TABLES as usize * 4));
        }
        image.resize(image.len() + (64 << 10), 0);
        let started = std::time::Instant::now();
        let image = common::open(image, Some(Format::Vmdk), false).expect("an image");
        assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
        let at = |table: u64| formats::run_at(image.source.as_ref(), table << 23, 1);
        assert!(at(0).is_ok());
        assert_eq!(at(TABLES - 1).unwrap_err().kind(), Malformed);
    }

    #[test]
    fn a_table_keeps_clear_of_header_descriptor_and_directories() {
        for image in [Sparse::default().build(), Stream::of(Layout::Tail).build()] {
            // An entry of 1 may mean zeros.
            for at in [2 * SECTOR, 20 * SECTOR, image.directory, image.redundant] {
                if at > 0 {
                    let directory = image.directory;
                    fails(image.clone().with(directory, &place(at)), Malformed);
                }
            }
        }
        let image = Cowd::default().build();
        let directory = image.directory;
        for at in [SECTOR, 3 * SECTOR, directory] {
            fails(image.clone().with(directory, &place(at)), Malformed);
        }
    }
}

mod grains {
    use super::*;

    fn plain() -> [Built; 3] {
        let piece = Sparse::piece().build();
        [Sparse::default().build(), piece, Cowd::default().build()]
    }

    #[test]
    fn two_grains_in_one_place_are_malformed() {
        for image in plain() {
            let (at, first) = (entry(&image, 1), image.grain(0));
            fails(image.clone().with(at, &place(first)), Malformed);
            // Also when different tables name them.
            let other = image.tables[1];
            fails(image.with(other, &place(first)), Malformed);
        }
    }

    #[test]
    fn two_grains_that_overlap_in_part_are_malformed() {
        for image in [Sparse::default().build(), Sparse::piece().build()] {
            let at = entry(&image, 1);
            for by in [SECTOR, 4096 - SECTOR] {
                let overlapping = place(image.grain(0) + by);
                fails(image.clone().with(at, &overlapping), Malformed);
            }
        }
    }

    #[test]
    fn a_grain_keeps_clear_of_everything_else() {
        for image in plain() {
            let at = entry(&image, 1);
            for other in [
                3 * SECTOR,
                image.directory,
                image.tables[0],
                image.tables[1],
            ] {
                fails(image.clone().with(at, &place(other)), Malformed);
            }
        }
        for layout in STREAMS {
            let image = Stream::of(layout).build();
            let at = entry(&image, 1);
            for other in [SECTOR, image.directory, image.tables[0]] {
                fails(image.clone().with(at, &place(other)), Malformed);
            }
        }
    }

    #[test]
    fn a_grain_past_the_end_is_truncated() {
        let streams = STREAMS.map(|layout| Stream::of(layout).build());
        for image in plain().into_iter().chain(streams) {
            let at = entry(&image, 1);
            let end = image.bytes.len().next_multiple_of(SECTOR);
            for other in [end, end + 4096, u32::MAX as usize * SECTOR] {
                fails(image.clone().with(at, &place(other)), Truncated);
            }
        }
    }
}

mod streams {
    use super::*;

    fn tail() -> Built {
        Stream::of(Layout::Tail).build()
    }

    #[test]
    fn a_directory_at_the_end_wants_a_footer() {
        let image = tail();
        let footer = image.footer;
        fails(image.clone().with(footer, &[0; SECTOR]), Truncated);
        fails(image.with(footer, b"kdmv"), Truncated);
        let front = Stream::of(Layout::Front).build();
        fails(front.with(56, &[0xff; 8]), Truncated);
    }

    #[test]
    fn a_footer_that_contradicts_the_header_is_malformed() {
        let image = tail();
        for (field, bytes) in [(12, &[1][..]), (20, &[16]), (44, &[1]), (56, &[0xff; 8])] {
            let at = image.footer + field;
            fails(image.clone().with(at, bytes), Malformed);
        }
        let at = image.footer + 4;
        fails(image.with(at, &[9]), Unsupported);
    }

    #[test]
    fn a_marker_for_another_grain_is_malformed() {
        for layout in MARKED {
            let image = Stream::of(layout).build();
            let at = image.grain(4);
            for sector in [0_u64, 8, 33, u64::MAX] {
                fails(image.clone().with(at, &sector.to_le_bytes()), Malformed);
            }
            fails(image.clone().with(at, &marker(1, 4)), Malformed);
            // Two entries that change places: both are grains, but not theirs.
            let (four, five) = (place(image.grain(4)), place(image.grain(5)));
            let (to_four, to_five) = (entry(&image, 4), entry(&image, 5));
            fails(image.with(to_four, &five).with(to_five, &four), Malformed);
        }
    }

    #[test]
    fn the_check_ends_at_a_marker_of_impossible_length() {
        let image = tail();
        for at in [image.tables[0], image.directory, image.footer] {
            for sectors in [(1 << 55) - 1, 1 << 55, u64::MAX - 1, u64::MAX] {
                let image = image.clone().with(at - SECTOR, &u64::to_le_bytes(sectors));
                assert!(common::check(&image.bytes, Format::Vmdk).is_ok());
            }
        }
    }

    #[test]
    fn without_markers_two_entries_for_one_grain_are_malformed() {
        let image = Stream::of(Layout::Unmarked).build();
        let (at, first) = (entry(&image, 1), image.grain(0));
        fails(image.with(at, &place(first)), Malformed);
    }

    #[test]
    fn a_length_that_no_grain_has_is_malformed() {
        for layout in STREAMS {
            let image = Stream::of(layout).build();
            let at = image.grain(4) + if layout == Layout::Unmarked { 0 } else { 8 };
            for len in [0, 8193, u32::MAX as usize] {
                fails(image.clone().with(at, &le32(len)), Malformed);
            }
            // Too short for its stream.
            fails(image.with(at, &le32(20)), Malformed);
        }
    }

    #[test]
    fn a_grain_that_does_not_inflate_to_a_grain_is_malformed() {
        let packs: [Pack; 6] = [
            |grain| zlib(&grain[..4095]),
            |grain| zlib(&[grain, &[0]].concat()),
            |_| zlib(&[]),
            |_| zlib(&[7; 8 << 20])[..8000].to_vec(),
            |_| vec![0x55; 100],
            |grain| zlib(grain)[2..].to_vec(),
        ];
        for layout in STREAMS {
            for pack in packs {
                let mut stream = Stream::of(layout);
                stream.pack = pack;
                fails(stream.build(), Malformed);
            }
        }
    }

    #[test]
    fn the_last_grain_must_reach_the_end_of_the_disk() {
        for layout in STREAMS {
            let mut stream = Stream::of(layout);
            stream.pack = |grain| match grain[4095] {
                0 => zlib(&grain[..2047]),
                _ => zlib(grain),
            };
            fails(stream.build(), Malformed);
        }
    }

    #[test]
    fn a_wrong_checksum_is_malformed() {
        for layout in STREAMS {
            let mut stream = Stream::of(layout);
            stream.pack = |grain| {
                let mut packed = zlib(grain);
                let last = packed.len() - 1;
                packed[last] ^= 1;
                packed
            };
            fails(stream.build(), Malformed);
        }
    }
}
