//! VHDXs that were not closed: their logs are replayed in memory.

mod common;

use common::patch;
use common::vhdx::log::{Change, Entry, SECTOR};
use common::vhdx::seen::{assert_content, opened};
use common::vhdx::{Block, Content, DISK_ID, FULL, MIB, REGIONS, Vhdx, guid, log};
use formats::reader::read_guest;
use formats::{ErrorKind, Image, OpenContext, Result, open_storage};

const MB: u64 = MIB as u64;

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
            (3 * MB - 4096, vec![0x99; SECTOR]),
        ],
    );
    assert_content(opened.source.as_ref(), &expected, "BAT");
}

/// Nothing is written to the new block: the file is as long as the log says all the same.
#[test]
fn a_log_makes_the_file_as_long_as_it_says() {
    let (image, len) = two_blocks();
    let built = image.build();
    let mut table = built.front[built.bat..built.bat + SECTOR].to_vec();
    patch(&mut table, 16, &(len as u64 | FULL).to_le_bytes());
    let change = Change::Data(built.bat as u64, table);
    let entry = |last| Entry {
        last,
        ..Entry::new(5, 0, len, vec![change.clone()])
    };
    let opened = replayed(&image, 0, &[entry((len + MIB) as u64)]).expect("open");
    let content = image.content(&Content::default());
    assert_content(opened.source.as_ref(), &content, "longer");
    let opened = replayed(&image, 0, &[entry(len as u64)]).expect("open");
    let lost = read_guest(opened.source.as_ref(), 2 * MB, &mut [0]);
    assert_eq!(lost.map_err(|e| e.kind()), Err(ErrorKind::Truncated));
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
