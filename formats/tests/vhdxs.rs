//! What VHDXs of every kind read as: fixed, dynamic and differencing, with and without a log to be replayed.

mod common;

use std::path::Path;

use common::patch;
use common::vhdx::log::{Change, Entry, SECTOR};
use common::vhdx::{
    Block, Content, DATA_WRITE, DISK_ID, FULL, HEADERS, Item, KIB, MIB, REGIONS, UNDEFINED,
    UNMAPPED, Vhdx, ZERO, braced, guid, kinds, log,
};
use common::written::SparseFile;
use formats::reader::read_guest;
use formats::{
    BlockSource, ErrorKind, Format, Image, OpenContext, Result, StorageRef, open_storage, run_at,
};

const MB: u64 = MIB as u64;
const GB: u64 = 1 << 30;

fn opened(storage: StorageRef) -> Image {
    open_storage(storage, None, &OpenContext::default()).expect("open")
}

/// The disk is `content`, and zeros wherever that says nothing.
fn assert_content(source: &dyn BlockSource, content: &Content, what: &str) {
    let mut done = 0;
    for (offset, bytes) in &content.0 {
        assert_zeros(source, done, *offset, what);
        let mut read = vec![0xEE; bytes.len()];
        read_guest(source, *offset, &mut read).expect("read");
        let difference = read.iter().zip(bytes).position(|(a, b)| a != b);
        assert_eq!(difference, None, "{what}: from {offset} on");
        done = offset + bytes.len() as u64;
    }
    assert_zeros(source, done, source.size(), what);
}

fn assert_zeros(source: &dyn BlockSource, from: u64, to: u64, what: &str) {
    let mut at = from;
    while at < to {
        let run = run_at(source, at, (to - at).min(64 << 20)).expect("a run");
        if run.mapping.reads_zero() {
            let all = run_at(source, at, to - at).expect("a run");
            at += all.len;
            continue;
        }
        let mut read = vec![0xEE; run.len as usize];
        read_guest(source, at, &mut read).expect("read");
        assert!(read.iter().all(|byte| *byte == 0), "{what}: at {at}");
        at += run.len;
    }
}

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

// Chains.

/// A folder with these images.
fn folder(images: &[(&str, &Vhdx)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, image) in images {
        write(&folder.path().join(name), &image.build().file());
    }
    folder
}

/// Writes the parts of a file that are not zeros.
fn write(path: &Path, file: &SparseFile) {
    use formats::Storage;
    use std::os::unix::fs::FileExt;
    let out = std::fs::File::create(path).expect("create");
    out.set_len(file.len()).expect("its length");
    let mut at = 0;
    while at < file.len() {
        let (len, is_data) = file.extent(at, file.len() - at).expect("an extent");
        if is_data {
            let mut bytes = vec![0; len.min(file.len() - at) as usize];
            file.read_at(&mut bytes, at).expect("read");
            out.write_all_at(&bytes, at).expect("write");
        }
        at += len;
    }
}

fn open_in(folder: &tempfile::TempDir, name: &str) -> Result<Image> {
    formats::open(&folder.path().join(name), None, &OpenContext::default())
}

const MIDDLE_ID: &str = "55555555-0000-4000-8000-000000000005";
const TIP_ID: &str = "66666666-0000-4000-8000-000000000006";

/// A base, a middle and a tip of 4 GiB and more, with blocks of every state in both chunks.
fn chain(sector: u32, block_size: u64) -> [Vhdx; 3] {
    let per_block = block_size / u64::from(sector);
    let image = |size: u64, seed, data_write, blocks: &[(u64, Block)]| Vhdx {
        sector,
        block_size: block_size as u32,
        seed,
        data_write,
        ..Vhdx::new(size, blocks)
    };
    let chunk = (1 << 23) * u64::from(sector) / block_size;
    let size = (chunk + 4) * block_size;
    let everywhere: Vec<_> = [0, 1, 2, 3, 4, 5, chunk, chunk + 1, chunk + 2]
        .map(|index| (index, Block::Full))
        .to_vec();
    let base = image(size, 1, DATA_WRITE, &everywhere);
    let partial = [
        (0, Block::Partial(vec![(0, 1), (3, 2), (per_block - 1, 1)])),
        (1, Block::State(ZERO)),
        (2, Block::Full),
        (3, Block::Partial(vec![(per_block / 2 - 1, 2)])),
        (4, Block::State(UNMAPPED)),
        (chunk, Block::Partial(vec![(1, 7)])),
        (chunk + 3, Block::Partial(vec![(0, per_block)])),
    ];
    let middle = image(size, 2, MIDDLE_ID, &partial).over("base.vhdx", DATA_WRITE);
    let partial = [
        (0, Block::Partial(vec![(1, 1), (per_block / 2, 1)])),
        (1, Block::Partial(vec![(0, 2)])),
        (5, Block::State(UNDEFINED)),
        (chunk + 1, Block::Partial(vec![(per_block - 1, 1)])),
    ];
    let tip = image(size, 3, TIP_ID, &partial).over("middle.avhdx", MIDDLE_ID);
    [base, middle, tip]
}

fn content_of(chain: &[Vhdx]) -> Content {
    let bottom = Content::default();
    chain
        .iter()
        .fold(bottom, |below, image| image.content(&below))
}

#[test]
fn a_chain_of_three_is_read_sector_by_sector() {
    for (sector, block_size) in [(512, 2 * MB), (512, 32 * MB), (4096, 32 * MB)] {
        let chain = chain(sector, block_size);
        let folder = folder(&[
            ("base.vhdx", &chain[0]),
            ("middle.avhdx", &chain[1]),
            ("tip.avhdx", &chain[2]),
        ]);
        let what = format!("{sector} {block_size}");
        for (name, layers) in [("base.vhdx", 1), ("middle.avhdx", 2), ("tip.avhdx", 3)] {
            let image = open_in(&folder, name).expect("open");
            assert_eq!(image.layers.len(), layers);
            let content = content_of(&chain[..layers]);
            assert_content(image.source.as_ref(), &content, &format!("{what} {name}"));
        }
    }
}

#[test]
fn either_linkage_will_do() {
    let base = Vhdx::new(2 * MB, &[(0, Block::Full), (1, Block::Full)]);
    for (linkages, fits) in [
        ([TIP_ID, DATA_WRITE], true),
        ([DATA_WRITE, TIP_ID], true),
        ([TIP_ID, MIDDLE_ID], false),
    ] {
        let mut child = Vhdx {
            seed: 4,
            data_write: DISK_ID,
            ..Vhdx::new(2 * MB, &[(0, Block::Partial(vec![(1, 1)]))])
        };
        child.parent = Some(vec![
            ("parent_linkage".to_owned(), braced(linkages[0])),
            ("parent_linkage2".to_owned(), braced(linkages[1])),
            ("relative_path".to_owned(), ".\\base.vhdx".to_owned()),
        ]);
        let folder = folder(&[("base.vhdx", &base), ("child.avhdx", &child)]);
        match open_in(&folder, "child.avhdx") {
            Ok(image) => {
                assert!(fits, "{linkages:?}");
                let content = content_of(&[base.clone(), child]);
                assert_content(image.source.as_ref(), &content, "linkage");
            }
            Err(error) => assert!(!fits, "{linkages:?}: {error}"),
        }
    }
}

#[test]
fn a_parent_may_be_named_in_any_of_three_ways() {
    let base = Vhdx::new(2 * MB, &[(0, Block::Full)]);
    for (key, value) in [
        ("relative_path", "base.vhdx"),
        ("relative_path", ".\\base.vhdx"),
        ("relative_path", "..\\elsewhere\\base.vhdx"),
        ("absolute_win32_path", "\\\\?\\C:\\vms\\base.vhdx"),
        (
            "volume_path",
            "\\\\?\\Volume{26a21bda-a627-11d7-9931-806e6f6e6963}\\vms\\base.vhdx",
        ),
    ] {
        let mut child = Vhdx::new(2 * MB, &[]);
        child.data_write = DISK_ID;
        child.parent = Some(vec![
            (key.to_owned(), value.to_owned()),
            ("parent_linkage".to_owned(), braced(DATA_WRITE)),
        ]);
        let folder = folder(&[("base.vhdx", &base), ("child.avhdx", &child)]);
        let image = open_in(&folder, "child.avhdx").unwrap_or_else(|e| panic!("{value}: {e}"));
        assert_content(
            image.source.as_ref(),
            &content_of(std::slice::from_ref(&base)),
            value,
        );
    }
}

#[test]
fn a_child_may_be_larger_or_smaller_than_its_parent() {
    let base = Vhdx::new(3 * MB, &[(0, Block::Full), (2, Block::Full)]);
    for size in [MB + 512, 3 * MB, 6 * MB] {
        let child = Vhdx {
            seed: 9,
            data_write: DISK_ID,
            ..Vhdx::new(size, &[(1, Block::Partial(vec![(0, 1)]))])
        };
        let child = child.over("base.vhdx", DATA_WRITE);
        let folder = folder(&[("base.vhdx", &base), ("child.avhdx", &child)]);
        let image = open_in(&folder, "child.avhdx").expect("open");
        assert_eq!(image.source.size(), size);
        assert_content(
            image.source.as_ref(),
            &content_of(&[base.clone(), child]),
            "size",
        );
    }
}

// Logs.

/// The disk of `image` when its log is `entries`, one after the other from byte `start` of the log on.
fn replayed(image: &Vhdx, start: usize, entries: &[Entry]) -> Result<Image> {
    let mut at = start;
    let mut log = Vec::new();
    for entry in entries {
        log.push((at, entry.bytes()));
        at = (at + entry.len()) % image.log_len;
    }
    let storage = image.clone().logged(log).build().storage();
    open_storage(storage, None, &OpenContext::default())
}

/// An image with two blocks, and the length of its file.
fn two_blocks() -> (Vhdx, usize) {
    let image = Vhdx::new(4 * MB, &[(0, Block::Full), (1, Block::Full)]);
    let len = image.data_at() + 2 * MIB;
    (image, len)
}

fn page(byte: u8) -> Vec<u8> {
    // Every byte of it has another place in the log.
    (0..SECTOR).map(|i| byte ^ (i % 251) as u8).collect()
}

/// The content of [`two_blocks`], with changes.
fn changed(image: &Vhdx, changes: &[(u64, Vec<u8>)]) -> Content {
    let mut content = image.content(&Content::default());
    for (at, bytes) in changes {
        let start = at / MB * MB;
        let block = content.0.entry(start).or_insert_with(|| vec![0; MIB]);
        patch(block, (at - start) as usize, bytes);
    }
    content
}

#[test]
fn data_and_zeros_of_a_log_are_replayed_in_memory() {
    let (image, len) = two_blocks();
    let data = image.data_at() as u64;
    let entry = Entry::new(
        5,
        0,
        len,
        vec![
            Change::Data(data + 4096, page(0x11)),
            Change::Zero(data + MB - 4096, 8192),
            Change::Data(data + MB + 8192, page(0x22)),
        ],
    );
    let opened = replayed(&image, 0, &[entry]).expect("open");
    let expected = changed(
        &image,
        &[
            (4096, page(0x11)),
            (MB - 4096, vec![0; 4096]),
            (MB, vec![0; 4096]),
            (MB + 8192, page(0x22)),
        ],
    );
    assert_content(opened.source.as_ref(), &expected, "replay");
    // It is said.
    assert_eq!(opened.layers[0].info.warnings.len(), 1);
}

#[test]
fn a_log_that_changes_the_bat_and_makes_the_file_longer_is_replayed() {
    let image = log::sample();
    let opened = opened(image.build().storage());
    let expected = changed(
        &image,
        &[
            (4096, vec![0x77; SECTOR]),
            (MB, vec![0; 8192]),
            (2 * MB + 8192, vec![0x88; SECTOR]),
        ],
    );
    assert_content(opened.source.as_ref(), &expected, "BAT");
}

/// The log is replayed first: the tables that it changes are not looked at before.
#[test]
fn a_log_may_change_metadata_and_region_tables() {
    let (image, len) = two_blocks();
    let built = image.build();
    let (_, size_at) = built.items[1];
    let sector = |at: usize| built.front[at..at + SECTOR].to_vec();
    let items_at = size_at / SECTOR * SECTOR;
    let grown = (4 * MB - 1536).to_le_bytes();
    let mut items = sector(items_at);
    patch(&mut items, size_at - items_at, &grown);
    // What stands in the file is nonsense until the log is replayed.
    let mut bad = image.clone().logged(vec![]).build();
    let entry = Entry::new(
        77,
        0,
        len,
        vec![
            Change::Data(items_at as u64, items),
            Change::Data(REGIONS[0] as u64, sector(REGIONS[0])),
            Change::Data(REGIONS[1] as u64, sector(REGIONS[1])),
        ],
    );
    bad = bad
        .with(size_at, &[0xFF; 8])
        .with_both(REGIONS, 0, &[0; 96])
        .with(LOG_AT, &entry.bytes());
    let opened = opened(bad.storage());
    assert_eq!(opened.source.size(), 4 * MB - 1536);
    assert_content(
        opened.source.as_ref(),
        &image.content(&Content::default()),
        "metadata",
    );
}

const LOG_AT: usize = common::vhdx::LOG;

#[test]
fn entries_may_wrap_around_the_end_of_the_log() {
    let (image, len) = two_blocks();
    let data = image.data_at() as u64;
    let ring = image.log_len;
    // The border in the header's sector, behind it, in the data sectors, and between two entries.
    for start in [
        ring - 4096,
        ring - 2 * 4096,
        ring - 3 * 4096,
        ring - 5 * 4096,
    ] {
        let changes = |at: u64, first: u8| {
            (0..3u64)
                .map(|n| Change::Data(data + at + n * 4096, page(first + n as u8)))
                .collect()
        };
        let first = Entry::new(9, start, len, changes(0, 0x10));
        let second = Entry {
            sequence: 10,
            changes: changes(4096, 0x40),
            ..first.clone()
        };
        let opened = replayed(&image, start, &[first, second]).expect("open");
        let expected = changed(
            &image,
            &[
                (0, page(0x10)),
                (4096, page(0x40)),
                (8192, page(0x41)),
                (3 * 4096, page(0x42)),
            ],
        );
        assert_content(opened.source.as_ref(), &expected, &format!("{start}"));
    }
}

/// More descriptors than a sector holds: 126 in the first one, 128 in each further one.
#[test]
fn an_entry_may_have_many_descriptors() {
    let (image, len) = two_blocks();
    let data = image.data_at() as u64;
    for count in [125, 126, 127, 128, 200] {
        let changes = (0..count).map(|n| Change::Data(data + n * 4096, page(n as u8)));
        let entry = Entry::new(1, 0, len, changes.collect());
        let opened = replayed(&image, 0, &[entry]).expect("open");
        let pages: Vec<_> = (0..count).map(|n| (n * 4096, page(n as u8))).collect();
        assert_content(
            opened.source.as_ref(),
            &changed(&image, &pages),
            &format!("{count}"),
        );
    }
}

#[test]
fn of_several_sequences_the_one_with_the_highest_number_counts() {
    let (image, len) = two_blocks();
    let data = image.data_at() as u64;
    let entry = |sequence, tail, byte| {
        Entry::new(
            sequence,
            tail,
            len,
            vec![Change::Data(data + u64::from(byte) * 4096, page(byte))],
        )
    };
    let put = |entries: &[(usize, Entry)]| {
        let log = entries.iter().map(|(at, e)| (*at, e.bytes())).collect();
        opened(image.clone().logged(log).build().storage())
    };
    // An old one in front, the right one in the middle, older ones behind.
    let opened = put(&[
        (0, entry(5, 0, 1)),
        (5 * 8192, entry(20, 5 * 8192, 2)),
        (6 * 8192, entry(21, 5 * 8192, 3)),
        (9 * 8192, entry(19, 9 * 8192, 4)),
    ]);
    let expected = changed(&image, &[(2 * 4096, page(2)), (3 * 4096, page(3))]);
    assert_content(opened.source.as_ref(), &expected, "sequences");
    // Of one sequence, only what is not before the tail of its last entry.
    let opened = put(&[
        (0, entry(5, 0, 1)),
        (8192, entry(6, 8192, 2)),
        (2 * 8192, entry(7, 8192, 3)),
    ]);
    assert_content(opened.source.as_ref(), &expected, "tail");
}

#[test]
fn what_is_torn_behind_the_last_whole_entry_does_not_count() {
    let (image, len) = two_blocks();
    let data = image.data_at() as u64;
    let entry = |sequence, byte| {
        Entry::new(
            sequence,
            0,
            len,
            vec![Change::Data(data + u64::from(byte) * 4096, page(byte))],
        )
    };
    let expected = changed(&image, &[(4096, page(1))]);
    let whole = entry(30, 1);
    let other_log = Entry {
        guid: guid(DISK_ID),
        ..entry(31, 2)
    };
    let mut torn = entry(31, 2).bytes();
    torn[4096 + 100] ^= 1;
    for (what, second) in [
        ("torn", torn),
        ("of another log", other_log.bytes()),
        ("not the next", entry(32, 2).bytes()),
    ] {
        // The number after next would be a sequence of its own, if its tail were in it.
        let log = vec![(0, whole.bytes()), (whole.len(), second)];
        let opened = opened(image.clone().logged(log).build().storage());
        assert_content(opened.source.as_ref(), &expected, what);
    }
}

#[test]
fn entries_do_not_count_when_there_is_no_log() {
    let (image, len) = two_blocks();
    let data = image.data_at() as u64;
    let entry = Entry::new(5, 0, len, vec![Change::Data(data, page(1))]);
    let image = Vhdx {
        log: vec![(0, entry.bytes())],
        ..image
    };
    let opened = opened(image.build().storage());
    assert_content(
        opened.source.as_ref(),
        &image.content(&Content::default()),
        "no log",
    );
    assert!(opened.layers[0].info.warnings.is_empty());
}

/// Hyper-V leaves such entries: there is nothing to be done.
#[test]
fn an_entry_without_descriptors_is_whole() {
    let (image, len) = two_blocks();
    let opened = replayed(&image, 0, &[Entry::new(5, 0, len, vec![])]).expect("open");
    assert_content(
        opened.source.as_ref(),
        &image.content(&Content::default()),
        "empty",
    );
}

#[test]
fn a_log_of_several_mib_is_searched_to_its_end() {
    let image = Vhdx {
        log_len: 4 * MIB,
        ..two_blocks().0
    };
    let len = image.data_at() + 2 * MIB;
    let data = image.data_at() as u64;
    let start = 4 * MIB - 2 * SECTOR;
    let entry = Entry::new(5, start, len, vec![Change::Data(data, page(1))]);
    let opened = replayed(&image, start, &[entry]).expect("open");
    assert_content(
        opened.source.as_ref(),
        &changed(&image, &[(0, page(1))]),
        "long",
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
