//! Logs of VHDXs that are damaged or hostile.

mod common;

use std::ops::Range;

use common::vhdx::log::{Change, Entry, SECTOR, summed};
use common::vhdx::wrong::{kind, malformed, sound};
use common::vhdx::{Built, DISK_ID, FULL, HEADERS, LOG, MIB, guid};
use common::{le64, patch};
use formats::ErrorKind;

const MB: u64 = MIB as u64;

/// The length of the file of [`sound`].
fn sound_len() -> usize {
    sound().build().len
}

fn change() -> Change {
    Change::Data(sound().data_at() as u64, vec![9; SECTOR])
}

fn with_log(bytes: Vec<u8>) -> Built {
    sound().logged(vec![(0, bytes)]).build()
}

/// The sound entry of a log: with a change of data and one to zeros.
fn entry() -> Entry {
    let zeros = Change::Zero(sound().data_at() as u64 + 8192, 4096);
    Entry::new(5, 0, sound_len(), vec![change(), zeros])
}

#[test]
fn a_log_without_a_whole_entry() {
    assert_eq!(kind(&with_log(entry().bytes())), None);
    malformed(sound().logged(vec![]).build(), "empty");
    let bytes = entry().bytes();
    let spoiled: [(Range<usize>, &str); 9] = [
        (0..4, "signature"),
        (4..8, "checksum"),
        (8..12, "length"),
        (16..24, "sequence number"),
        (32..48, "GUID"),
        (64..68, "signature of a descriptor"),
        (88..96, "sequence number of a descriptor"),
        (4096..4100, "signature of a data sector"),
        (8188..8192, "sequence number of a data sector"),
    ];
    for (range, what) in spoiled {
        let mut torn = bytes.clone();
        for byte in &mut torn[range.clone()] {
            *byte ^= 0x15;
        }
        malformed(with_log(torn.clone()), what);
        if range.start != 4 {
            malformed(with_log(summed(torn)), &format!("{what}, summed"));
        }
    }
    let mut torn = bytes;
    torn[5000] ^= 1;
    malformed(with_log(torn), "data");
}

#[test]
fn log_entries_with_a_wrong_guid() {
    let foreign = Entry {
        guid: guid(DISK_ID),
        ..entry()
    };
    malformed(with_log(foreign.bytes()), "foreign");
    let zero = Entry {
        guid: [0; 16],
        ..entry()
    };
    malformed(with_log(zero.bytes()), "zero");
    // The header is what is wrong.
    let built = with_log(entry().bytes());
    let built = built.with_both(HEADERS, 48, &guid(DISK_ID)).summed();
    malformed(built, "header");
}

#[test]
fn numbers_of_a_log_entry_that_cannot_be() {
    let bytes = entry().bytes();
    let set = |at: usize, value: &[u8], what: &str| {
        let mut bytes = bytes.clone();
        patch(&mut bytes, at, value);
        malformed(with_log(summed(bytes)), what);
    };
    for len in [0u32, 4095, 4096, 4097, 2 * MIB as u32, u32::MAX] {
        set(8, &len.to_le_bytes(), &format!("length {len}"));
    }
    for count in [3u32, 127, u32::MAX] {
        set(24, &count.to_le_bytes(), &format!("{count} descriptors"));
    }
    set(16, &[0; 8], "sequence number 0");
    for tail in [1u32, 4096, MIB as u32, u32::MAX] {
        set(12, &tail.to_le_bytes(), &format!("tail {tail}"));
    }
    // Of the data descriptor, then of the zero descriptor: not on a sector of 4 KiB.
    set(64 + 16, &[1], "data offset");
    set(96 + 16, &[1], "zero offset");
    set(96 + 8, &[1], "zero length");
}

#[test]
fn entries_that_are_torn_in_a_sequence_that_needs_them() {
    // The last entry says that the first one counts, but that is torn.
    let first = entry();
    let second = Entry {
        sequence: 6,
        ..first.clone()
    };
    let mut torn = first.bytes();
    torn[4096 + 200] ^= 1;
    let log = vec![(0, torn), (first.len(), second.bytes())];
    malformed(sound().logged(log).build(), "torn tail");
    // A gap in the numbers.
    let gap = Entry {
        sequence: 4,
        ..first.clone()
    };
    let log = vec![(0, gap.bytes()), (first.len(), second.bytes())];
    let image = sound().logged(log);
    // The first one is a sequence of its own, and the last one that is whole.
    assert_eq!(kind(&image.build()), None);
}

#[test]
fn entries_that_wrap_and_are_torn_there() {
    let start = MIB - SECTOR;
    let wrapped = Entry {
        tail: start as u32,
        ..entry()
    };
    let bytes = wrapped.bytes();
    assert!(bytes.len() > SECTOR);
    let log = vec![(start, bytes.clone())];
    assert_eq!(kind(&sound().logged(log).build()), None);
    let mut torn = bytes.clone();
    torn[SECTOR + 10] ^= 1;
    malformed(
        sound().logged(vec![(start, torn)]).build(),
        "behind the border",
    );
    // What is behind the border is not at the front of the log, but behind the log.
    let mut built = sound().logged(vec![(start, bytes.clone())]).build();
    let (front, back) = (LOG, LOG + MIB);
    let lost = built.front[front..front + SECTOR].to_vec();
    assert!(lost.starts_with(b"data"));
    patch(&mut built.front, front, &[0; SECTOR]);
    let there = built.front[back..back + 8].to_vec();
    assert_eq!(there, b"metadata");
    malformed(built, "not wrapped");
    // Longer than the log.
    let changes = vec![change(); 300];
    let long = Entry::new(5, 0, sound_len(), changes).bytes();
    assert!(long.len() > MIB);
    malformed(
        sound().logged(vec![(0, long[..MIB].to_vec())]).build(),
        "longer than the log",
    );
}

#[test]
fn a_file_shorter_than_its_log_knows_it() {
    let len = sound_len() as u64;
    for (flushed, last, expected) in [
        (len, len, None),
        // Whole MiBs are not asked for: QEMU writes the length of the file.
        (len - 1, len + 1, None),
        (len + 1, len + 1, Some(ErrorKind::Truncated)),
        (len + MB, len + MB, Some(ErrorKind::Truncated)),
        (1 << 40, 1 << 40, Some(ErrorKind::Truncated)),
    ] {
        let entry = Entry {
            flushed,
            last,
            ..entry()
        };
        assert_eq!(kind(&with_log(entry.bytes())), expected, "{flushed}");
    }
}

#[test]
fn a_log_makes_the_file_no_longer_than_the_disk_can_need() {
    let len = sound_len() as u64;
    let disk = sound().build().len as u64;
    for (last, expected) in [
        (len + MB, None),
        (len + disk / 2, None),
        (1 << 40, Some(ErrorKind::Malformed)),
        (i64::MAX as u64, Some(ErrorKind::Malformed)),
        (u64::MAX, Some(ErrorKind::Malformed)),
    ] {
        let entry = Entry { last, ..entry() };
        assert_eq!(kind(&with_log(entry.bytes())), expected, "{last}");
        let salvaged = common::open(with_log(entry.bytes()).bytes(), None, true);
        let warnings = &salvaged.expect("salvaged").layers[0].info.warnings;
        let said = warnings
            .iter()
            .any(|w| w.contains("than the disk can need"));
        assert_eq!(said, expected.is_some(), "{warnings:?}");
        assert!(warnings[0].contains("longer"), "{warnings:?}");
    }
    // A change far away makes it as long.
    for far in [1 << 40, 1 << 62] {
        let changes = vec![Change::Zero(far, 4096)];
        let entry = Entry::new(5, 0, sound_len(), changes);
        malformed(with_log(entry.bytes()), &format!("{far}"));
    }
}

/// A log that writes where the headers are would change what it is found by.
#[test]
fn a_log_that_leads_far_away_takes_no_memory() {
    for offset in [1u64 << 50, !0xFFF, 1 << 63] {
        for far in [
            Change::Data(offset, vec![1; SECTOR]),
            Change::Zero(offset, 1 << 40),
            Change::Zero(offset, !0xFFF),
        ] {
            let entry = Entry::new(5, 0, sound_len(), vec![far]);
            // Whether that is an error is not told here: it must not take memory, hang or panic.
            kind(&with_log(entry.bytes()));
        }
    }
}

/// What a log replayed makes of the tables is checked like everything else.
#[test]
fn a_log_that_spoils_the_bat_is_noticed() {
    let image = sound();
    let built = image.build();
    for entry in [
        LOG as u64 | FULL,
        built.bat_entry(0) & !7 | 4,
        1 << 50 | FULL,
    ] {
        let mut table = built.front[built.bat..built.bat + SECTOR].to_vec();
        patch(&mut table, 0, &entry.to_le_bytes());
        assert_eq!(le64(&table, 0), entry);
        let change = Change::Data(built.bat as u64, table);
        let log = Entry::new(5, 0, sound_len(), vec![change]);
        let found = kind(&with_log(log.bytes()));
        let fine = [Some(ErrorKind::Malformed), Some(ErrorKind::Truncated)];
        assert!(fine.contains(&found), "{entry:x}: {found:?}");
    }
}
