//! Damaged, cut, changed, and made to fill the memory.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::super::pages::Pages;
use super::super::{Packing, ROOM, UnpackedStorage};
use super::{ALL, Random, content, forget, kind, memory, open, open_up_to, pack, pack_at, read};
use crate::storage::{Storage, check_range};
use crate::{Error, ErrorKind, Result};

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

#[test]
fn dictionaries_are_unsupported() {
    // RFC 8878, 3.1.1: a frame that names the dictionary 9, and a last block of nothing.
    let packed = vec![0x28, 0xb5, 0x2f, 0xfd, 0x21, 9, 0, 1, 0, 0];
    assert_eq!(
        kind(open(Packing::Zstd, packed)),
        Some(ErrorKind::Unsupported)
    );
}

#[test]
fn hordes_of_small_streams_are_a_limit() {
    for packing in ALL {
        for bytes in [&b""[..], b"a"] {
            let packed = pack(packing, bytes).repeat(70_000);
            let started = Instant::now();
            assert_eq!(kind(open(packing, packed)), Some(ErrorKind::Limit));
            assert!(started.elapsed() < Duration::from_secs(60), "{packing}");
        }
    }
}
