//! Packed storages: read in every order, by many threads, damaged, cut, and made to fill the memory.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::entry::Kind;
use super::*;
use crate::ErrorKind;
use crate::storage::MemoryStorage;

const ALL: [Packing; 3] = [Packing::Gzip, Packing::Zstd, Packing::Bzip2];

/// xorshift64*: the same numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}

/// Bytes that a disk may hold: text that packs well, noise that does not, and zeros.
fn content(len: usize) -> Vec<u8> {
    let mut random = Random(len as u64 | 1);
    let mut bytes = Vec::with_capacity(len + (1 << 20));
    while bytes.len() < len {
        let count = random.below(200_000) as usize;
        match random.below(4) {
            0 => bytes.resize(bytes.len() + 4 * count, 0),
            1 => bytes.extend((0..count).map(|_| random.next() as u8)),
            _ => bytes.extend((0..count).map(|_| b"words of a disk "[random.below(16) as usize])),
        }
    }
    bytes.truncate(len);
    bytes
}

fn pack(packing: Packing, bytes: &[u8]) -> Vec<u8> {
    pack_at(packing, bytes, 1)
}

fn pack_at(packing: Packing, bytes: &[u8], level: u32) -> Vec<u8> {
    match packing {
        Packing::Gzip => {
            let mut deflate =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
            deflate.write_all(bytes).unwrap();
            deflate.finish().unwrap()
        }
        Packing::Zstd => {
            let mut context = zstd_safe::CCtx::create();
            context
                .set_parameter(zstd_safe::CParameter::ChecksumFlag(true))
                .unwrap();
            let mut out = vec![0; zstd_safe::compress_bound(bytes.len())];
            let len = context.compress2(&mut out[..], bytes).unwrap();
            out.truncate(len);
            out
        }
        Packing::Bzip2 => {
            let mut bzip = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::new(level));
            bzip.write_all(bytes).unwrap();
            bzip.finish().unwrap()
        }
    }
}

fn memory(bytes: Vec<u8>) -> StorageRef {
    Arc::new(MemoryStorage::new(bytes))
}

fn open(packing: Packing, packed: Vec<u8>) -> Result<UnpackedStorage> {
    open_up_to(packing, packed, u64::MAX)
}

fn open_up_to(packing: Packing, packed: Vec<u8>, limit: u64) -> Result<UnpackedStorage> {
    UnpackedStorage::new(memory(packed), packing, limit, &mut |_| Ok(()))
}

fn kind(result: Result<UnpackedStorage>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

fn read(storage: &UnpackedStorage, offset: u64, len: usize) -> Vec<u8> {
    let mut buf = vec![0xEE; len];
    storage.read_at(&mut buf, offset).unwrap();
    buf
}

/// Forgets every page but those that are kept for good.
fn forget(storage: &UnpackedStorage) {
    let mut state = storage.lock();
    state.pages = Pages::new(ROOM);
    state.streams.clear();
}

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

#[test]
fn cut_streams_are_truncated() {
    let bytes = content(300_000);
    for packing in ALL {
        let packed = pack(packing, &bytes);
        for keep in (1..packed.len()).step_by(packed.len() / 50) {
            let found = kind(open(packing, packed[..keep].to_vec()));
            let expected = if keep < 4 {
                ErrorKind::Malformed
            } else {
                ErrorKind::Truncated
            };
            assert_eq!(found, Some(expected), "{packing} {keep}");
        }
        let last = packed[..packed.len() - 1].to_vec();
        assert_eq!(kind(open(packing, last)), Some(ErrorKind::Truncated));
        assert_eq!(kind(open(packing, Vec::new())), Some(ErrorKind::Malformed));
    }
}

#[test]
fn garbage_behind_the_streams_is_an_error() {
    for packing in ALL {
        let mut packed = pack(packing, b"content");
        let end = packed.len() as u64;
        packed.extend([0; 300]);
        assert!(open(packing, packed.clone()).is_ok());
        packed.push(1);
        let error = open(packing, packed).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed);
        assert_eq!(error.offset(), Some(end + 300));
        for other in ALL.into_iter().filter(|other| *other != packing) {
            let joined = [pack(packing, b"content"), pack(other, b"content")].concat();
            assert_eq!(kind(open(packing, joined)), Some(ErrorKind::Malformed));
        }
    }
}

#[test]
fn no_mutant_reads_as_something_else() {
    let bytes = content(150_000);
    let asked = std::env::var("DISKFERRY_MUTANTS").ok();
    let rounds = asked.and_then(|n| n.parse().ok()).unwrap_or(1500);
    for packing in ALL {
        let packed = [
            pack(packing, &bytes[..100_000]),
            pack(packing, &bytes[100_000..]),
        ]
        .concat();
        let mut random = Random(11);
        for round in 0..rounds {
            let mut mutant = packed.clone();
            for _ in 0..=random.below(3) {
                let at = random.below(mutant.len() as u64) as usize;
                match random.below(4) {
                    0 => mutant[at] ^= 1 << random.below(8),
                    1 => mutant[at] = random.next() as u8,
                    2 => drop(mutant.remove(at)),
                    _ => mutant.truncate(at.max(1)),
                }
            }
            let started = Instant::now();
            if let Ok(storage) = open_up_to(packing, mutant, 1 << 20) {
                // A whole second stream may be cut off, or turned into one that is skipped: nothing tells that.
                let found = read(&storage, 0, storage.len() as usize);
                assert!(
                    found == bytes || found == bytes[..100_000] || found == bytes[100_000..],
                    "{packing} {round}"
                );
            }
            assert!(
                started.elapsed() < Duration::from_secs(5),
                "{packing} {round}"
            );
        }
    }
}

#[test]
fn a_bomb_is_refused_quickly() {
    let zeros = vec![0; 16 << 20];
    for packing in ALL {
        // 3 GiB, as streams in a row.
        let packed = pack_at(packing, &zeros, 9).repeat(192);
        let started = Instant::now();
        assert_eq!(
            kind(open_up_to(packing, packed.clone(), 64 << 20)),
            Some(ErrorKind::Limit)
        );
        assert!(started.elapsed() < Duration::from_secs(5));
        assert!(open_up_to(packing, pack(packing, &zeros), 16 << 20).is_ok());
        assert_eq!(
            kind(open_up_to(packing, pack(packing, &zeros), (16 << 20) - 1)),
            Some(ErrorKind::Limit)
        );
    }
}

#[test]
fn opening_can_be_stopped() {
    let packed = pack(Packing::Gzip, &content(20 << 20));
    let len = packed.len() as u64;
    let mut told = Vec::new();
    let stopped = UnpackedStorage::new(memory(packed), Packing::Gzip, u64::MAX, &mut |read| {
        told.push(read);
        match read {
            read if read > len / 2 => Err(Error::refused("conversion", "was interrupted")),
            _ => Ok(()),
        }
    });
    assert_eq!(kind(stopped), Some(ErrorKind::Refused));
    assert!(told.is_sorted() && told.len() > 5);
}

/// A storage whose bytes are other ones later.
#[derive(Debug)]
struct Unsteady {
    bytes: Vec<u8>,
    flipped: AtomicU64,
}

impl Storage for Unsteady {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }
    fn path(&self) -> &Path {
        Path::new("unsteady.gz")
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.path(), self.len(), offset, buf.len())?;
        buf.copy_from_slice(&self.bytes[offset as usize..][..buf.len()]);
        let flipped = self.flipped.load(Ordering::Relaxed).checked_sub(offset);
        if let Some(byte) = flipped.and_then(|at| buf.get_mut(at as usize)) {
            *byte ^= 4;
        }
        Ok(())
    }
}

#[test]
fn what_differs_the_second_time_is_an_error() {
    let bytes = content(12 << 20);
    for packing in ALL {
        let packed = pack(packing, &bytes);
        let unsteady = Arc::new(Unsteady {
            flipped: AtomicU64::new(u64::MAX),
            bytes: packed,
        });
        let storage = UnpackedStorage::new(unsteady.clone(), packing, u64::MAX, &mut |_| Ok(()));
        let storage = storage.unwrap();
        let mut failed = 0;
        for part in 1..20 {
            let at = unsteady.len() / 20 * part;
            forget(&storage);
            unsteady.flipped.store(at, Ordering::Relaxed);
            let mut buf = vec![0; bytes.len()];
            match storage.read_at(&mut buf, 0) {
                Ok(()) => assert!(buf == bytes, "{packing}"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Malformed);
                    failed += 1;
                }
            }
            unsteady.flipped.store(u64::MAX, Ordering::Relaxed);
            assert!(read(&storage, 0, bytes.len()) == bytes, "{packing}");
        }
        assert!(failed > 2, "{packing}: {failed}");
    }
}

#[test]
fn who_begins_anew_too_often_is_told_to_unpack_the_file() {
    // One frame, so that every step back begins at the start.
    let mut random = Random(3);
    let noise: Vec<u8> = (0..90 << 17)
        .flat_map(|_| random.next().to_le_bytes())
        .collect();
    let storage = open(Packing::Zstd, pack(Packing::Zstd, &noise)).unwrap();
    let mut error = None;
    for round in 0..1000 {
        let page = if round % 2 == 0 { 80 } else { 1 };
        storage.lock().pages = Pages::new(ROOM);
        error = storage.read_at(&mut [0; 10], page << 20).err();
        if error.is_some() {
            break;
        }
    }
    let error = error.unwrap();
    assert_eq!(error.kind(), ErrorKind::Limit);
    assert!(error.to_string().contains("unpack the file first"));
}

#[test]
fn windows_that_take_too_much_memory_are_a_limit() {
    // RFC 8878, 3.1.1: a frame without its content size, and a window of 2^30 bytes.
    let mut packed = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 20 << 3];
    packed.extend([1, 0, 0]);
    assert_eq!(kind(open(Packing::Zstd, packed)), Some(ErrorKind::Limit));
}
