//! Read in every order and by many threads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::super::Pool;
use super::super::entry::Kind;
use super::super::{PAGE, Packing, ROOM, ROOM_MIN, room};
use super::{ALL, Random, content, forget, memory, open, pack, pack_at, read};
use crate::ErrorKind;
use crate::storage::Storage;

#[test]
fn what_was_packed_is_read_in_every_order() {
    let bytes = content(14 << 20 | 12_345);
    for packing in ALL {
        let packed = pack(packing, &bytes);
        assert_eq!(
            Packing::of(memory(packed.clone()).as_ref()).unwrap(),
            Some(packing)
        );
        let storage = open(packing, packed).unwrap();
        assert_eq!(storage.len(), bytes.len() as u64);
        let mut random = Random(7);
        for round in 0..30 {
            if round % 3 == 0 {
                forget(&storage);
            }
            let start = random.below(bytes.len() as u64) as usize;
            let len = random.below(3 << 20).min((bytes.len() - start) as u64) as usize;
            let found = read(&storage, start as u64, len);
            assert!(
                found == bytes[start..start + len],
                "{packing} {start} {len}"
            );
        }
        for (len, offset) in [
            (1, bytes.len() as u64),
            (1, u64::MAX),
            (2, bytes.len() as u64 - 1),
        ] {
            let error = storage.read_at(&mut vec![0; len], offset).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Truncated);
        }
    }
}

#[test]
fn lengths_around_a_page_are_exact() {
    for len in [0, 1, PAGE - 1, PAGE, PAGE + 1, 9 * PAGE, 9 * PAGE + 1] {
        let bytes = content(len);
        for packing in ALL {
            let storage = open(packing, pack(packing, &bytes)).unwrap();
            assert_eq!(storage.len(), len as u64, "{packing}");
            forget(&storage);
            assert!(read(&storage, 0, len) == bytes, "{packing} {len}");
        }
    }
}

#[test]
fn streams_in_a_row_are_one() {
    let bytes = content(6 << 20);
    let parts: Vec<&[u8]> = bytes.chunks(700_001).collect();
    for packing in ALL {
        let mut packed = Vec::new();
        for part in &parts {
            packed.extend(pack(packing, part));
            packed.extend(pack(packing, &[]));
            if packing == Packing::Zstd {
                packed.extend([0x5a, 0x2a, 0x4d, 0x18, 5, 0, 0, 0, 1, 2, 3, 4, 5]);
            }
        }
        // What tapes and devices leave behind.
        packed.extend([0; 700]);
        let storage = open(packing, packed).unwrap();
        let starts = storage.entries.list().iter();
        assert!(starts.filter(|e| matches!(e.kind, Kind::Stream)).count() > 0);
        assert!(read(&storage, 0, bytes.len()) == bytes, "{packing}");
        forget(&storage);
        assert!(
            read(&storage, 5 << 20, 1 << 20) == bytes[5 << 20..],
            "{packing}"
        );
    }
}

#[test]
fn gzip_is_entered_between_two_blocks() {
    let bytes = content(24 << 20);
    for level in [0, 2, 6, 9] {
        let packed = pack_at(Packing::Gzip, &bytes, level);
        let storage = open(Packing::Gzip, packed).unwrap();
        let blocks = storage.entries.list().iter();
        let blocks = blocks.filter(|e| matches!(e.kind, Kind::Block(_))).count();
        assert!(blocks >= 3, "level {level}: {blocks} blocks");
        for page in [20, 15, 10, 5] {
            forget(&storage);
            let before = storage.lock().unpacked;
            let found = read(&storage, page << 20, PAGE);
            assert!(
                found == bytes[(page as usize) << 20..][..PAGE],
                "{level} {page}"
            );
            let unpacked = storage.lock().unpacked - before;
            assert!(
                unpacked <= 9,
                "level {level}, page {page}: {unpacked} pages"
            );
        }
    }
}

#[test]
fn every_bit_at_which_a_block_can_start_is_met() {
    let bytes = content(100 << 20);
    let storage = open(Packing::Gzip, pack_at(Packing::Gzip, &bytes, 2)).unwrap();
    let used = storage.entries.list().iter().filter_map(|e| match &e.kind {
        Kind::Block(block) => Some(block.used()),
        Kind::Stream => None,
    });
    let mut met: Vec<u32> = used.collect();
    for page in (0..100).rev() {
        let found = read(&storage, page << 20, PAGE);
        assert!(found == bytes[(page as usize) << 20..][..PAGE], "{page}");
        if page % 3 == 0 {
            forget(&storage);
        }
    }
    met.sort();
    met.dedup();
    assert!(met.len() >= 6, "{met:?}");
}

#[test]
fn threads_that_read_ascending_do_not_begin_anew() {
    let bytes = content(200 << 20);
    for packing in [Packing::Gzip, Packing::Zstd] {
        let storage = open(packing, pack(packing, &bytes)).unwrap();
        let (next, turn) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for thread in 0..16 {
                let (storage, next, turn, bytes) = (&storage, &next, &turn, &bytes);
                scope.spawn(move || {
                    let mut random = Random(thread + 1);
                    let mut buf = vec![0; 300_000];
                    loop {
                        let segment = next.fetch_add(1, Ordering::Relaxed);
                        let start = (segment << 21) as usize;
                        if start >= bytes.len() {
                            break;
                        }
                        let mut at = start;
                        let end = (start + (2 << 20)).min(bytes.len());
                        while at < end {
                            let len = (random.below(300_000) as usize + 1).min(end - at);
                            storage.read_at(&mut buf[..len], at as u64).unwrap();
                            assert!(buf[..len] == bytes[at..at + len], "{packing} {at}");
                            at += len;
                        }
                        // As in a copy, a segment is done when all before it are.
                        while turn.load(Ordering::Acquire) != segment {
                            std::thread::sleep(Duration::from_micros(200));
                        }
                        turn.store(segment + 1, Ordering::Release);
                    }
                });
            }
        });
        let state = storage.lock();
        assert_eq!(state.begun, 1, "{packing}");
        assert!(state.unpacked <= 200, "{packing}: {}", state.unpacked);
    }
}

#[test]
fn looking_at_the_tables_meanwhile_does_not_begin_anew() {
    let bytes = content(150 << 20);
    for packing in [Packing::Gzip, Packing::Zstd] {
        let storage = open(packing, pack(packing, &bytes)).unwrap();
        for start in (0..bytes.len() - 65536).step_by(512 << 10) {
            let end = bytes.len() - 65536 - start % (7 << 20);
            for (at, len) in [(start, 65536), (end, 512), (0, 512)] {
                assert!(read(&storage, at as u64, len) == bytes[at..at + len]);
            }
        }
        assert_eq!(storage.lock().begun, 1, "{packing}");
    }
}

#[test]
fn memory_is_bounded() {
    let mut random = Random(5);
    let noise: Vec<u8> = (0..200 << 17)
        .flat_map(|_| random.next().to_le_bytes())
        .collect();
    let storage = open(Packing::Gzip, pack_at(Packing::Gzip, &noise, 0)).unwrap();
    for at in [0, 180, 30, 120, 90] {
        read(&storage, at << 20, 20 << 20);
        let held = storage.lock().pages.bytes();
        let kept: usize = storage.kept.values().map(Vec::capacity).sum();
        assert!(held <= (ROOM + 1) * PAGE, "{held}");
        assert!(kept <= 9 * PAGE, "{kept}");
    }
    assert_eq!(room(0), ROOM);
    assert_eq!(room(128 << 20), ROOM_MIN);
}

#[test]
fn of_several_storages_two_hold_pages() {
    let mut random = Random(5);
    let noise: Vec<u8> = (0..12 << 17)
        .flat_map(|_| random.next().to_le_bytes())
        .collect();
    let packed = pack_at(Packing::Gzip, &noise, 0);
    let pool = Pool::default();
    let all: Vec<_> = (0..4)
        .map(|_| open(Packing::Gzip, packed.clone()).unwrap().sharing(&pool))
        .collect();
    for round in 0..3 {
        for one in &all {
            assert!(read(one, 1 << 20, 3 << 20) == noise[1 << 20..4 << 20]);
            let holders = all.iter().filter(|one| one.lock().pages.bytes() > 0);
            assert!(holders.count() <= 2, "{round}");
        }
    }
}

#[test]
fn pages_of_zeros_are_holes_that_nobody_unpacks() {
    let mut bytes = content(20 << 20);
    bytes[3 << 20..15 << 20].fill(0);
    for packing in ALL {
        let storage = open(packing, pack(packing, &bytes)).unwrap();
        assert_eq!(storage.extent(3 << 20, 1 << 40).unwrap(), (12 << 20, false));
        assert_eq!(storage.extent(3 << 20 | 5, 7).unwrap(), (7, false));
        let (len, is_data) = storage.extent(2 << 20, 1 << 40).unwrap();
        assert!(is_data && len <= 1 << 20);
        assert_eq!(storage.extent(storage.len(), 1).unwrap(), (1, true));
        assert!(read(&storage, 3 << 20, 12 << 20) == bytes[3 << 20..15 << 20]);
        assert_eq!(storage.lock().unpacked, 0);
    }
}
