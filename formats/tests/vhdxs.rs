//! What VHDXs of every kind read as: fixed, dynamic and differencing, with and without a log to be replayed.

mod common;

use common::vhdx::seen::{assert_content, opened};
use common::vhdx::{
    Block, Content, DATA_WRITE, FULL, HEADERS, Item, KIB, MIB, REGIONS, UNDEFINED, UNMAPPED, Vhdx,
    ZERO, guid, kinds,
};
use formats::{ErrorKind, Format, OpenContext, StorageRef, open_storage};

const MB: u64 = MIB as u64;
const GB: u64 = 1 << 30;

fn reads_as_made(image: &Vhdx, what: &str) {
    let opened = opened(image.build().storage());
    assert_eq!(opened.layers[0].info.format, Format::Vhdx, "{what}");
    assert_eq!(opened.source.size(), image.size, "{what}");
    assert_eq!(opened.source.sector_size(), image.sector, "{what}");
    assert_eq!(opened.source.block_size(), u64::from(image.block_size));
    assert_content(
        opened.source.as_ref(),
        &image.content(&Content::default()),
        what,
    );
    let warnings = &opened.layers[0].info.warnings;
    assert!(warnings.is_empty(), "{what}: {warnings:?}");
}

#[test]
fn every_block_size_and_sector_size_is_read() {
    for shift in 0..=8 {
        for sector in [512, 4096] {
            let block_size = MB << shift;
            let image = Vhdx {
                block_size: block_size as u32,
                sector,
                ..Vhdx::new(
                    3 * block_size + 8192,
                    &[(0, Block::Full), (2, Block::Full), (3, Block::Full)],
                )
            };
            reads_as_made(&image, &format!("{shift} {sector}"));
        }
    }
}

#[test]
fn a_fixed_image_has_every_block() {
    let blocks = [0, 1, 2, 3].map(|index| (index, Block::Full));
    let image = Vhdx {
        is_fixed: true,
        ..Vhdx::new(4 * MB, &blocks)
    };
    reads_as_made(&image, "fixed");
    let opened = opened(image.build().storage());
    assert_eq!(opened.layers[0].info.subformat, "fixed");
}

#[test]
fn states_without_data_are_zeros() {
    let states = [ZERO, UNDEFINED, UNMAPPED, 0];
    let blocks = (1..).zip(states.map(Block::State));
    let blocks: Vec<_> = blocks.chain([(0, Block::Full), (5, Block::Full)]).collect();
    reads_as_made(&Vhdx::new(6 * MB, &blocks), "states");
}

/// The entries of sector bitmaps stand between those of blocks: the offsets behind the first chunks are told apart.
#[test]
fn data_behind_many_chunks_is_found() {
    for (block_size, sector) in [(MB, 512), (32 * MB, 512), (256 * MB, 512), (2 * MB, 4096)] {
        let base = Vhdx {
            block_size: block_size as u32,
            sector,
            ..Vhdx::new(16 * GB, &[])
        };
        let ratio = base.chunk_ratio();
        let last = base.block_count() - 1;
        let wanted = [
            0,
            ratio - 1,
            ratio,
            ratio + 1,
            2 * ratio,
            3 * ratio - 1,
            last,
        ];
        let blocks = wanted.into_iter().filter(|index| *index <= last);
        let image = Vhdx {
            blocks: blocks.map(|index| (index, Block::Full)).collect(),
            ..base
        };
        reads_as_made(&image, &format!("{block_size} {sector}"));
    }
}

#[test]
fn a_disk_may_end_anywhere_in_its_last_block_and_that_block_may_be_cut_there() {
    for size in [512, MB - 512, MB + 512, 3 * MB - 4096] {
        let last = size.div_ceil(MB) - 1;
        let image = Vhdx::new(size, &[(last, Block::Full)]);
        reads_as_made(&image, &format!("{size}"));
        // QEMU once left out what nobody sees.
        let built = image.build();
        let visible = (size - last * MB) as usize;
        let short = built.clone().cut(built.len - MIB + visible);
        let opened = opened(short.storage());
        assert_content(
            opened.source.as_ref(),
            &image.content(&Content::default()),
            "short",
        );
    }
}

#[test]
fn the_header_with_the_higher_number_counts_if_it_is_whole() {
    let image = Vhdx::new(2 * MB, &[(0, Block::Full)]);
    let other = guid("99999999-0000-4000-8000-000000000009");
    let content = image.content(&Content::default());
    // Number, what is spoiled, and which header counts.
    for (sequences, spoiled, current) in [
        ([7, 8], None, 1),
        ([8, 7], None, 0),
        ([u64::MAX, 0], None, 0),
        ([7, 8], Some(1), 0),
        ([8, 7], Some(0), 1),
    ] {
        let image = Vhdx {
            sequences,
            ..image.clone()
        };
        // The other header has another id, which is the one that a child would refer to.
        let mut built = image.build();
        built = built.with(HEADERS[1 - current] + 32, &other).summed();
        if let Some(spoiled) = spoiled {
            built = built.with(HEADERS[spoiled] + 4000, &[1]);
        }
        let opened = opened(built.storage());
        let identity = opened.layers[0].info.identity.expect("an id");
        assert_eq!(identity.to_string(), DATA_WRITE, "{sequences:?}");
        assert_content(opened.source.as_ref(), &content, "headers");
    }
}

/// disk2vhd writes both headers alike.
#[test]
fn two_headers_that_are_the_same_are_one() {
    let image = Vhdx {
        sequences: [3, 3],
        ..Vhdx::new(2 * MB, &[(0, Block::Full)])
    };
    let opened = opened(image.build().storage());
    assert_content(
        opened.source.as_ref(),
        &image.content(&Content::default()),
        "same",
    );
}

#[test]
fn either_region_table_will_do() {
    let image = Vhdx::new(2 * MB, &[(1, Block::Full)]);
    for spoiled in REGIONS {
        let built = image.build().with(spoiled + 60 * KIB, &[1]);
        let opened = opened(built.storage());
        assert_content(
            opened.source.as_ref(),
            &image.content(&Content::default()),
            "region table",
        );
    }
}

#[test]
fn regions_and_items_that_nobody_needs_are_passed_over() {
    let further_items = vec![
        Item {
            guid: "aaaaaaaa-0000-4000-8000-00000000000a",
            flags: 0,
            data: vec![7; 100],
        },
        Item {
            guid: "bbbbbbbb-0000-4000-8000-00000000000b",
            flags: 1,
            data: Vec::new(),
        },
    ];
    let image = Vhdx {
        further_items,
        ..Vhdx::new(2 * MB, &[(1, Block::Full)])
    };
    let mut built = image.build();
    let at = built.append(MIB);
    let unknown = "cccccccc-0000-4000-8000-00000000000c";
    let entry = common::vhdx::region(unknown, at, MIB as u32, 0);
    let built = built
        .with_both(REGIONS, 8, &[3])
        .with_both(REGIONS, 16 + 2 * 32, &entry)
        .summed();
    let opened = opened(built.storage());
    assert_content(
        opened.source.as_ref(),
        &image.content(&Content::default()),
        "unknown",
    );
}

/// QEMU left garbage there before 2023.
#[test]
fn sector_bitmap_entries_without_a_parent_mean_nothing() {
    let image = Vhdx::new(5 * GB, &[(0, Block::Full), (5 * 1024 - 1, Block::Full)]);
    let index = image.bitmap_index(0);
    for entry in [1, 6, 0x10_0006, u64::MAX] {
        let opened = opened(image.build().with_bat(index, entry).storage());
        assert_content(
            opened.source.as_ref(),
            &image.content(&Content::default()),
            "bitmap entry",
        );
    }
}

#[test]
fn a_locator_without_the_flag_is_not_followed() {
    let image = Vhdx::new(2 * MB, &[(0, Block::Full)]);
    let with = image.clone().over("nobody.vhdx", DATA_WRITE).build();
    let (_, parameters) = with.items[0];
    let opened = opened(with.with(parameters + 4, &[0]).summed().storage());
    assert_content(
        opened.source.as_ref(),
        &image.content(&Content::default()),
        "locator",
    );
}

/// The kinds that the mutation test starts from.
#[test]
fn the_samples_are_what_they_say() {
    for (name, bytes) in kinds() {
        let storage: StorageRef = std::sync::Arc::new(formats::MemoryStorage::new(bytes));
        let image = open_storage(storage, None, &OpenContext::default());
        match name {
            // Its parent is not there.
            "differencing.vhdx" => {
                assert_eq!(image.err().map(|e| e.kind()), Some(ErrorKind::Malformed))
            }
            _ => assert!(image.expect(name).source.size() > 0),
        }
    }
    let full = Vhdx::new(MB, &[(0, Block::Full)]).build();
    assert_eq!(full.bat_entry(0) & 7, FULL);
}
