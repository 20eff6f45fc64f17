//! Behaviour of the whole format: images made by the target, whole or damaged, and read back.

mod damaged;
mod reading;
mod references;
mod writing;

use std::sync::Arc;

use crate::driver::{Format, OpenContext, driver};
use crate::error::Result;
use crate::open::{Image, open_storage};
use crate::options::Options;
use crate::reader::read_guest;
use crate::storage::{MemoryStorage, MemoryTarget, WritableStorage};
use crate::target::Identity;

const IDENTITY: Identity = Identity {
    id: [0; 16],
    unix_time: 0,
};

/// An image in memory, to be damaged.
struct Sample {
    bytes: Vec<u8>,
    cluster_size: u64,
}

impl Sample {
    /// An image of `size` bytes with clusters of `cluster_size`, written with the target: `blocks` are guest offsets
    /// and what stands there.
    fn new(size: u64, cluster_size: u64, blocks: &[(u64, &[u8])]) -> Sample {
        let pairs = [format!("cluster_size={cluster_size}")];
        let driver = driver(Format::Qcow2);
        let options = Options::new(driver.options(), &pairs).unwrap();
        let mut target = driver.target(size, &options, "a".as_ref()).unwrap();
        let out = MemoryTarget::default();
        for (offset, bytes) in blocks {
            let mut done = 0;
            while done < bytes.len() {
                let left = (bytes.len() - done) as u64;
                let placed = target.place(offset + done as u64, left).unwrap();
                assert!(placed.len >= 1 && placed.len <= left);
                let end = done + placed.len as usize;
                out.write_at(&bytes[done..end], placed.offset).unwrap();
                done = end;
                for table in target.take_tables() {
                    out.write_at(&table.bytes, table.offset).unwrap();
                }
            }
        }
        let summary = target.finish(&IDENTITY, &out).unwrap();
        let bytes = out.into_bytes();
        assert_eq!(bytes.len() as u64, summary.file_size);
        Sample {
            bytes,
            cluster_size,
        }
    }

    fn be64(&self, at: u64) -> u64 {
        u64::from_be_bytes(self.bytes[at as usize..][..8].try_into().unwrap())
    }

    fn patch(&mut self, at: u64, bytes: &[u8]) {
        self.bytes[at as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    fn set64(&mut self, at: u64, value: u64) {
        self.patch(at, &value.to_be_bytes());
    }

    /// Where L1 entry `index` stands in the file.
    fn l1_entry(&self, index: u64) -> u64 {
        self.be64(40) + index * 8
    }

    /// Where the L2 entry for guest cluster `cluster` stands in the file; its table must be there.
    fn l2_entry(&self, cluster: u64) -> u64 {
        let per_table = self.cluster_size / 8;
        let table = self.be64(self.l1_entry(cluster / per_table)) & !(1 << 63);
        assert_ne!(table, 0);
        table + cluster % per_table * 8
    }

    /// Sets the refcount of the cluster at file offset `offset`.
    fn set_refcount(&mut self, offset: u64, count: u16) {
        let cluster = offset / self.cluster_size;
        let per_block = self.cluster_size / 2;
        let block = self.be64(self.be64(48) + cluster / per_block * 8);
        self.patch(block + cluster % per_block * 2, &count.to_be_bytes());
    }

    /// Puts clusters of data behind the end of the file; where they stand.
    fn append(&mut self, data: &[u8]) -> u64 {
        let at = self.bytes.len() as u64;
        self.bytes.extend(data);
        at
    }

    fn open(&self) -> Result<Image> {
        let storage = Arc::new(MemoryStorage::new(self.bytes.clone()));
        open_storage(storage, Some(Format::Qcow2), &OpenContext::default())
    }

    fn read(&self) -> Result<Vec<u8>> {
        let image = self.open()?;
        let mut disk = vec![0xee; image.source.size() as usize];
        read_guest(image.source.as_ref(), 0, &mut disk)?;
        Ok(disk)
    }
}

/// Bytes that differ from block to block and do not compress well.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 56) as u8 | 1
        })
        .collect()
}
