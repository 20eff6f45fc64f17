//! What the tests of packed storages share: content, and what packs it.

use std::io::Write;
use std::sync::Arc;

use super::pages::Pages;
use super::{Packing, ROOM, UnpackedStorage};
use crate::storage::MemoryStorage;
use crate::storage::Storage;
use crate::{ErrorKind, Result, StorageRef};

mod hostile;
mod reading;

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
