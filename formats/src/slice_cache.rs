//! Slices of the lower tables of an image (L2 tables, grain tables): a few in memory, however many there are.

use std::sync::{Arc, Mutex};

use crate::error::Result;
use crate::storage::StorageRef;

/// Most bytes of a slice. Larger tables (those of qcow2 with clusters of 128 KiB to 2 MiB) come in several.
const SLICE_MAX: u64 = 64 << 10;

/// Slices that are kept: 4 MiB of the largest. Small ones are searched one by one, so their number is bounded too.
const SLICES_KEPT: usize = 16;

/// Reads slices of tables and keeps the last ones used.
#[derive(Debug)]
pub struct SliceCache {
    storage: StorageRef,
    slice_size: u64,
    /// Most recently used last: file offset and bytes.
    kept: Mutex<Vec<(u64, Arc<[u8]>)>>,
}

impl SliceCache {
    /// A cache for tables of `table_size` bytes.
    pub fn new(storage: StorageRef, table_size: u64) -> SliceCache {
        SliceCache {
            storage,
            slice_size: table_size.min(SLICE_MAX),
            kept: Mutex::new(Vec::new()),
        }
    }

    /// Bytes of a slice: all of the table, or 64 KiB.
    pub fn slice_size(&self) -> u64 {
        self.slice_size
    }

    /// The slice at file offset `offset`, if it is in memory.
    pub fn known(&self, offset: u64) -> Option<Arc<[u8]>> {
        let mut kept = self.kept.lock().unwrap_or_else(|e| e.into_inner());
        let found = kept.iter().rposition(|(at, _)| *at == offset)?;
        let entry = kept.remove(found);
        let slice = entry.1.clone();
        kept.push(entry);
        Some(slice)
    }

    /// Reads the slice at file offset `offset`, without keeping it. Nothing is locked meanwhile.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn read(&self, offset: u64) -> Result<Arc<[u8]>> {
        let mut bytes = vec![0; self.slice_size as usize];
        self.storage.read_at(&mut bytes, offset)?;
        Ok(bytes.into())
    }

    /// Keeps a slice that was read.
    pub fn keep(&self, offset: u64, slice: &Arc<[u8]>) {
        let mut kept = self.kept.lock().unwrap_or_else(|e| e.into_inner());
        // Two threads may have read the same one at once.
        if kept.iter().any(|(at, _)| *at == offset) {
            return;
        }
        if kept.len() >= SLICES_KEPT {
            kept.remove(0);
        }
        kept.push((offset, slice.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    #[test]
    fn the_slices_used_last_are_kept() {
        let bytes = (0..100u8).flat_map(|n| [n; 512]).collect();
        let cache = SliceCache::new(Arc::new(MemoryStorage::new(bytes)), 512);
        for n in 0..100 {
            let slice = cache.read(n * 512).unwrap();
            cache.keep(n * 512, &slice);
            cache.keep(n * 512, &slice);
            assert!(cache.known(0).is_some(), "{n}");
        }
        assert_eq!(cache.known(99 * 512).unwrap()[0], 99);
        assert!(cache.known(512).is_none());
        assert!(cache.read(100 * 512).is_err());
        let kept = cache.kept.lock().unwrap();
        assert_eq!(kept.len(), SLICES_KEPT);
    }
}
