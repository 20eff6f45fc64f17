//! Reading the tables of a file that may be mostly holes.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};
use crate::storage::StorageRef;

/// Bytes that are read at once.
const CHUNK: u64 = 256 << 10;

/// A file whose holes are not read.
pub struct Chunks<'a> {
    storage: &'a StorageRef,
    cancel: &'a AtomicBool,
    /// What is known about the extent that was looked at last: its start, its end, whether it holds data.
    extent: (u64, u64, bool),
    buffer: Vec<u8>,
}

impl<'a> Chunks<'a> {
    /// The file in `storage`; setting `cancel` makes the next read fail.
    pub fn new(storage: &'a StorageRef, cancel: &'a AtomicBool) -> Chunks<'a> {
        Chunks {
            storage,
            cancel,
            extent: (0, 0, true),
            buffer: Vec::new(),
        }
    }

    /// The `len` bytes at `offset`, which lie in the file; `None` when all of them stand in a hole. What is behind the
    /// end of the file reads as zeros.
    ///
    /// # Errors
    /// Those of the storage, and `Io` when cancelled.
    pub fn read(&mut self, offset: u64, len: u64) -> Result<Option<&[u8]>> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(Error::io("check", std::io::ErrorKind::Interrupted.into()));
        }
        let there = self.storage.len().saturating_sub(offset).min(len);
        if self.hole_at(offset)? >= there {
            return Ok(None);
        }
        self.buffer.resize(len as usize, 0);
        let (bytes, behind) = self.buffer.split_at_mut(there as usize);
        self.storage.read_at(bytes, offset)?;
        behind.fill(0);
        Ok(Some(&self.buffer))
    }

    /// Gives `each` the 64-bit entries of a table, in order, with their offsets in the file; those that are 0 are left
    /// out.
    ///
    /// # Errors
    /// As [`Chunks::read`], and those of `each`.
    pub fn entries(
        &mut self,
        offset: u64,
        entries: u64,
        mut each: impl FnMut(u64, u64) -> Result<()>,
    ) -> Result<()> {
        let end = offset.saturating_add(entries.saturating_mul(8));
        let mut at = offset;
        while at < end {
            let hole = self.hole_at(at)?.min(end - at) / 8 * 8;
            if hole > 0 {
                at += hole;
                continue;
            }
            let len = (end - at).min(CHUNK);
            let Some(bytes) = self.read(at, len)? else {
                at += len;
                continue;
            };
            for (place, entry) in (at..).step_by(8).zip(bytes.as_chunks::<8>().0) {
                let entry = u64::from_be_bytes(*entry);
                if entry != 0 {
                    each(place, entry)?;
                }
            }
            at += len;
        }
        Ok(())
    }

    /// Bytes from `offset` on that are known to be a hole.
    fn hole_at(&mut self, offset: u64) -> Result<u64> {
        let (start, end, _) = self.extent;
        let len = self.storage.len();
        if offset >= len {
            return Ok(0);
        }
        if !(start..end).contains(&offset) {
            let (extent, is_data) = self.storage.extent(offset, len - offset)?;
            self.extent = (offset, offset + extent, is_data);
        }
        let (_, end, is_data) = self.extent;
        Ok(if is_data { 0 } else { end - offset })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{FileStorage, MemoryStorage};
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;

    #[test]
    fn entries_are_found_between_holes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 40).unwrap();
        let places = [512u64, 70_000 * 8, (1 << 30) + 8, (1 << 40) - 8];
        for place in places {
            file.as_file()
                .write_all_at(&place.to_be_bytes(), place)
                .unwrap();
        }
        let storage: StorageRef = Arc::new(FileStorage::open(file.path()).unwrap());
        let cancel = AtomicBool::new(false);
        let mut found = Vec::new();
        Chunks::new(&storage, &cancel)
            .entries(512, (1 << 37) - 64, |at, entry| {
                assert_eq!(at, entry);
                found.push(at);
                Ok(())
            })
            .unwrap();
        assert_eq!(found, places);
    }

    #[test]
    fn a_table_that_is_cut_ends_in_zeros() {
        let storage: StorageRef = Arc::new(MemoryStorage::new(vec![7; 100]));
        let cancel = AtomicBool::new(false);
        let mut chunks = Chunks::new(&storage, &cancel);
        let bytes = chunks.read(90, 20).unwrap().unwrap();
        assert_eq!((&bytes[..10], &bytes[10..]), (&[7; 10][..], &[0; 10][..]));
        cancel.store(true, Ordering::Relaxed);
        assert!(chunks.read(0, 1).is_err());
    }
}
