//! Logs made by hand: what is replayed, and what is not.

use std::sync::Arc;

use uuid::Uuid;
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::{U32, U64};

use super::entry::{RawDescriptor, RawHeader};
use super::*;
use crate::ErrorKind;
use crate::storage::MemoryStorage;
use crate::vhdx::checksum::seal;

const MIB: u64 = 1 << 20;
const LOG: u64 = MIB;
const GUID: Uuid = Uuid::from_u128(0xABCD);
const PAGE: usize = 4096;

/// What an entry tells to write.
#[derive(Clone, Copy)]
enum Write {
    Zero(u64, u64),
    Data(u64, u8),
}
use Write::{Data, Zero};

#[derive(Clone)]
struct Entry {
    guid: Uuid,
    tail: u64,
    sequence: u64,
    writes: Vec<Write>,
    flushed: u64,
    last: u64,
}

impl Entry {
    fn new(tail: u64, sequence: u64, writes: &[Write]) -> Entry {
        Entry {
            guid: GUID,
            tail,
            sequence,
            writes: writes.to_vec(),
            flushed: 4 * MIB,
            last: 4 * MIB,
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut descriptors = Vec::new();
        let mut data = Vec::new();
        for write in &self.writes {
            let (signature, edges, offset) = match *write {
                Zero(offset, length) => {
                    let mut edges = [0; 12];
                    edges[4..].copy_from_slice(&length.to_le_bytes());
                    (*b"zero", edges, offset)
                }
                Data(offset, byte) => {
                    let mut sector = [byte; PAGE];
                    sector[..4].copy_from_slice(b"data");
                    sector[4..8].copy_from_slice(&((self.sequence >> 32) as u32).to_le_bytes());
                    sector[4092..].copy_from_slice(&(self.sequence as u32).to_le_bytes());
                    data.extend(sector);
                    // The last four bytes and the first eight differ from the rest.
                    let (a, b) = (byte ^ 0xF0, byte ^ 0x0F);
                    (*b"desc", [a, a, a, a, b, b, b, b, b, b, b, b], offset)
                }
            };
            let raw = RawDescriptor {
                signature,
                edges,
                file_offset: U64::new(offset),
                sequence_number: U64::new(self.sequence),
            };
            descriptors.extend(raw.as_bytes());
        }
        let sectors = (64 + descriptors.len()).next_multiple_of(PAGE);
        let header = RawHeader {
            signature: *b"loge",
            checksum: U32::ZERO,
            entry_length: U32::new((sectors + data.len()) as u32),
            tail: U32::new(self.tail as u32),
            sequence_number: U64::new(self.sequence),
            descriptor_count: U32::new(self.writes.len() as u32),
            reserved: U32::ZERO,
            log_guid: self.guid.to_bytes_le(),
            flushed_file_offset: U64::new(self.flushed),
            last_file_offset: U64::new(self.last),
        };
        let mut bytes = [header.as_bytes(), &descriptors].concat();
        bytes.resize(sectors, 0);
        bytes.extend(data);
        seal(&mut bytes);
        bytes
    }
}

/// A file of 4 MiB, each page of it filled with its number modulo 251, with a log of 1 MiB that holds `entries` at their
/// places, around its end if need be.
fn file(entries: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut file: Vec<u8> = (0..1024usize)
        .flat_map(|page| [(page % 251) as u8; PAGE])
        .collect();
    file[MIB as usize..2 * MIB as usize].fill(0);
    for (at, bytes) in entries {
        for (index, byte) in bytes.iter().enumerate() {
            file[(LOG + (at + index as u64) % MIB) as usize] = *byte;
        }
    }
    file
}

fn header() -> Header {
    Header {
        sequence_number: 1,
        file_write_guid: Uuid::nil(),
        data_write_guid: Uuid::nil(),
        log_guid: GUID,
        log_length: MIB as u32,
        log_offset: LOG,
    }
}

fn replayed(file: Vec<u8>) -> Result<(Vec<u8>, LogState)> {
    let storage: StorageRef = Arc::new(MemoryStorage::new(file));
    let (storage, state) = replay(&storage, &header(), &Budget::default())?;
    let mut bytes = vec![0xEE; storage.len() as usize];
    storage.read_at(&mut bytes, 0)?;
    Ok((bytes, state))
}

fn kind(file: Vec<u8>) -> ErrorKind {
    replayed(file).unwrap_err().kind()
}

/// Replays `entries`, which stand in a row from `start` on, and answers which bytes changed: the first and the last page
/// of each range, with a byte from its middle.
fn run(start: u64, entries: &[Entry]) -> Result<(Vec<u8>, Vec<u8>)> {
    let mut placed = Vec::new();
    let mut at = start;
    for entry in entries {
        let bytes = entry.to_bytes();
        let next = at + bytes.len() as u64;
        placed.push((at, bytes));
        at = next;
    }
    let before = file(&placed);
    Ok((before.clone(), replayed(before)?.0))
}

fn page(bytes: &[u8], offset: u64) -> &[u8] {
    &bytes[offset as usize..][..PAGE]
}

fn data_page(byte: u8) -> Vec<u8> {
    let mut page = [byte; PAGE];
    page[..8].fill(byte ^ 0x0F);
    page[4092..].fill(byte ^ 0xF0);
    page.to_vec()
}

#[test]
fn a_log_without_id_is_empty_and_left_alone() {
    let before = file(&[(0, Entry::new(0, 1, &[Data(3 * MIB, 7)]).to_bytes())]);
    let storage: StorageRef = Arc::new(MemoryStorage::new(before));
    let mut empty = header();
    empty.log_guid = Uuid::nil();
    let (after, state) = replay(&storage, &empty, &Budget::default()).unwrap();
    assert!(Arc::ptr_eq(&after, &storage));
    assert_eq!(state, LogState::Empty);
}

#[test]
fn data_and_zeros_take_their_places() {
    let writes = [
        Data(3 * MIB, 7),
        Zero(2 * MIB, 8192),
        Data(3 * MIB + 8192, 9),
    ];
    let (before, after) = run(0, &[Entry::new(0, 5, &writes)]).unwrap();
    assert_eq!(page(&after, 3 * MIB), data_page(7));
    assert_eq!(page(&after, 3 * MIB + 8192), data_page(9));
    assert!(after[2 * MIB as usize..][..8192].iter().all(|b| *b == 0));
    for untouched in [0, 2 * MIB + 8192, 3 * MIB + 4096, 4 * MIB - 4096] {
        assert_eq!(page(&after, untouched), page(&before, untouched));
    }
}

#[test]
fn what_comes_later_lies_over_what_came_before() {
    let first = Entry::new(
        0,
        5,
        &[
            Zero(2 * MIB, MIB),
            Data(3 * MIB, 1),
            Data(3 * MIB + 4096, 2),
        ],
    );
    let second = Entry::new(0, 6, &[Data(2 * MIB + 4096, 3), Zero(3 * MIB, 4096)]);
    let third = Entry::new(0, 7, &[Data(2 * MIB + 4096, 4)]);
    let (_, after) = run(0, &[first, second, third]).unwrap();
    assert_eq!(page(&after, 2 * MIB + 4096), data_page(4));
    assert_eq!(page(&after, 2 * MIB), [0; PAGE]);
    assert_eq!(page(&after, 2 * MIB + 8192), [0; PAGE]);
    assert_eq!(page(&after, 3 * MIB), [0; PAGE]);
    assert_eq!(page(&after, 3 * MIB + 4096), data_page(2));
}

#[test]
fn more_descriptors_than_a_sector_holds_are_all_replayed() {
    let writes: Vec<Write> = (0..200u64)
        .map(|n| Data(2 * MIB + n * 4096, n as u8))
        .collect();
    let (_, after) = run(0, &[Entry::new(0, u64::from(u32::MAX) + 3, &writes)]).unwrap();
    for n in 0..200 {
        assert_eq!(page(&after, 2 * MIB + n * 4096), data_page(n as u8), "{n}");
    }
}

#[test]
fn entries_go_around_the_end_of_the_ring() {
    // Within an entry, and between entries.
    for start in [MIB - 4096, MIB - 8192, MIB - 4 * 4096] {
        let first = Entry::new(start, 8, &[Data(2 * MIB, 1), Data(3 * MIB, 1)]);
        let second = Entry::new(start, 9, &[Data(3 * MIB, 2)]);
        let (_, after) = run(start, &[first, second]).unwrap();
        assert_eq!(page(&after, 2 * MIB), data_page(1), "{start}");
        assert_eq!(page(&after, 3 * MIB), data_page(2), "{start}");
    }
}

#[test]
fn replaying_starts_with_the_entry_that_the_head_names() {
    let first = Entry::new(0, 1, &[Data(2 * MIB, 1)]);
    let second = Entry::new(8192, 2, &[Data(3 * MIB, 2)]);
    let (before, after) = run(0, &[first, second]).unwrap();
    assert_eq!(page(&after, 2 * MIB), page(&before, 2 * MIB));
    assert_eq!(page(&after, 3 * MIB), data_page(2));
}

#[test]
fn of_two_sequences_the_one_with_the_higher_head_counts() {
    let old = Entry::new(0, 90, &[Data(2 * MIB, 1)]).to_bytes();
    let new = Entry::new(40960, 100, &[Data(2 * MIB, 2)]).to_bytes();
    for (low, high) in [((0, &old), (40960, &new)), ((40960, &new), (0, &old))] {
        let entries = [(low.0, low.1.clone()), (high.0, high.1.clone())];
        let (after, _) = replayed(file(&entries)).unwrap();
        assert_eq!(page(&after, 2 * MIB), data_page(2));
    }
}

#[test]
fn a_head_whose_tail_is_none_of_its_sequence_does_not_count() {
    let torn = Entry::new(8192, 100, &[Data(2 * MIB, 1)]).to_bytes();
    let good = Entry::new(40960, 50, &[Data(2 * MIB, 2)]).to_bytes();
    let (after, _) = replayed(file(&[(0, torn.clone()), (40960, good)])).unwrap();
    assert_eq!(page(&after, 2 * MIB), data_page(2));
    assert_eq!(kind(file(&[(0, torn)])), ErrorKind::Malformed);
}

#[test]
fn a_torn_entry_ends_the_sequence_before_it() {
    let first = Entry::new(0, 1, &[Data(2 * MIB, 1)]).to_bytes();
    let second = Entry::new(0, 2, &[Data(2 * MIB, 2)]).to_bytes();
    for (at, what) in [
        (0, "signature"),
        (4, "checksum"),
        (16, "sequence"),
        (32, "id"),
        (64, "descriptor"),
        (64 + 16, "offset"),
        (64 + 24, "sequence of the descriptor"),
        (4096, "data sector"),
        (4096 + 4, "sequence of the data sector"),
        (8191, "its other half"),
        (6000, "content"),
    ] {
        let mut torn = second.clone();
        torn[at] ^= 0xFF;
        let sealed = !["checksum", "content"].contains(&what);
        if sealed {
            seal(&mut torn);
        }
        let (after, state) = replayed(file(&[(0, first.clone()), (8192, torn)])).unwrap();
        assert_eq!(page(&after, 2 * MIB), data_page(1), "{what}");
        let one = LogState::Replayed {
            entries: 1,
            changes: 1,
        };
        assert_eq!(state, one, "{what}");
    }
}

#[test]
fn entries_of_another_log_do_not_count() {
    let mut other = Entry::new(0, 7, &[Data(2 * MIB, 1)]);
    other.guid = Uuid::from_u128(1);
    assert_eq!(kind(file(&[(0, other.to_bytes())])), ErrorKind::Malformed);
    assert_eq!(kind(file(&[])), ErrorKind::Malformed);
}

#[test]
fn impossible_entries_do_not_count() {
    let good = Entry::new(0, 7, &[Data(2 * MIB, 1)]).to_bytes();
    for (at, patch) in [
        // Length: nothing, no whole sectors, too short for what is in it, longer than the log.
        (8, 0u32),
        (8, 8000),
        (8, 4096),
        (8, 2 << 20),
        // Tail: outside of the log, not on a sector.
        (12, 1 << 20),
        (12, 512),
        (16, 0),
        // Descriptors: more than there are.
        (24, 2),
        (24, u32::MAX),
    ] {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&patch.to_le_bytes());
        seal(&mut bytes);
        assert_eq!(
            kind(file(&[(0, bytes)])),
            ErrorKind::Malformed,
            "{at} {patch}"
        );
    }
    for writes in [
        [Zero(2 * MIB, 100)],
        [Zero(512, 4096)],
        [Data(512, 1)],
        [Data(!4095, 1)],
        [Zero(4096, !4095)],
    ] {
        let entry = Entry::new(0, 7, &writes).to_bytes();
        assert_eq!(kind(file(&[(0, entry)])), ErrorKind::Malformed);
    }
}

#[test]
fn a_file_shorter_than_when_the_log_was_written_is_truncated() {
    let mut entry = Entry::new(0, 1, &[Data(2 * MIB, 1)]);
    entry.flushed = 4 * MIB + 1;
    assert_eq!(kind(file(&[(0, entry.to_bytes())])), ErrorKind::Truncated);
    let cut = file(&[])[..3 << 19].to_vec();
    assert_eq!(kind(cut), ErrorKind::Truncated);
}

#[test]
fn the_file_becomes_as_long_as_the_log_says() {
    let mut entry = Entry::new(0, 1, &[Data(6 * MIB, 1)]);
    entry.last = 8 * MIB;
    let (_, after) = run(0, &[entry]).unwrap();
    assert_eq!(after.len() as u64, 8 * MIB);
    assert_eq!(page(&after, 5 * MIB), [0; PAGE]);
    assert_eq!(page(&after, 6 * MIB), data_page(1));
    let entry = Entry::new(0, 1, &[Zero(6 * MIB, 8192)]);
    assert_eq!(run(0, &[entry]).unwrap().1.len() as u64, 6 * MIB + 8192);
}

#[test]
fn entries_without_changes_leave_the_file_as_it_is() {
    let (_, state) = replayed(file(&[(0, Entry::new(0, 1, &[]).to_bytes())])).unwrap();
    assert_eq!(state, LogState::Clean);
}

#[test]
fn a_log_that_needs_more_memory_than_there_is_is_over_the_limit() {
    let writes: Vec<Write> = (0..100).map(|n| Data(2 * MIB + n * 4096, 1)).collect();
    let bytes = file(&[(0, Entry::new(0, 1, &writes).to_bytes())]);
    let storage: StorageRef = Arc::new(MemoryStorage::new(bytes));
    for budget in [0, 1000] {
        let error = replay(&storage, &header(), &Budget::new(budget)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit);
    }
}

#[test]
fn holes_and_data_of_the_replayed_file_are_told_apart() {
    let mut entry = Entry::new(0, 1, &[Zero(2 * MIB, MIB), Data(2 * MIB + 8192, 1)]);
    entry.last = 8 * MIB;
    let storage: StorageRef = Arc::new(MemoryStorage::new(file(&[(0, entry.to_bytes())])));
    let (storage, _) = replay(&storage, &header(), &Budget::default()).unwrap();
    let extent = |offset| storage.extent(offset, 100 * MIB).unwrap();
    assert_eq!(extent(0), (2 * MIB, true));
    assert_eq!(extent(2 * MIB), (8192, false));
    assert_eq!(extent(2 * MIB + 8192 + 100), (3996, true));
    assert_eq!(extent(2 * MIB + 12288), (MIB - 12288, false));
    assert_eq!(extent(5 * MIB), (3 * MIB, false));
    let mut buf = [0; 10];
    let past = storage.read_at(&mut buf, 8 * MIB - 9).unwrap_err();
    assert_eq!(past.kind(), ErrorKind::Truncated);
}
