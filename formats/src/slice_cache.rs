//! Slices of the lower tables of an image (L2 tables, grain tables): a few in memory, however many there are.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::error::Result;
use crate::storage::StorageRef;

/// Most bytes of a slice. Larger tables (those of qcow2 with clusters of 128 KiB to 2 MiB) come in several.
const SLICE_MAX: u64 = 64 << 10;

/// Bytes that are kept for all files together.
const BYTES_KEPT: usize = 8 << 20;

/// Slices that are kept for all files together: they are searched one by one.
const SLICES_KEPT: usize = 256;

/// The slices used last, of all files of an image: a split disk has thousands of them.
#[derive(Debug, Clone, Default)]
pub struct SharedSlices(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    caches: u64,
    bytes: usize,
    /// Most recently used last: whose it is, file offset, and bytes.
    slices: Vec<(u64, u64, Arc<[u8]>)>,
}

impl SharedSlices {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Reads slices of the tables of one file and keeps the last ones used.
#[derive(Debug)]
pub struct SliceCache {
    storage: StorageRef,
    slice_size: u64,
    shared: SharedSlices,
    /// Which of the caches in `shared` this is.
    number: u64,
}

impl SliceCache {
    /// A cache for tables of `table_size` bytes, which keeps them in `shared`.
    pub fn new(storage: StorageRef, table_size: u64, shared: &SharedSlices) -> SliceCache {
        let mut kept = shared.lock();
        kept.caches += 1;
        SliceCache {
            storage,
            slice_size: table_size.min(SLICE_MAX),
            number: kept.caches,
            shared: shared.clone(),
        }
    }

    /// Bytes of a slice: all of the table, or 64 KiB.
    pub fn slice_size(&self) -> u64 {
        self.slice_size
    }

    /// The slice at file offset `offset`, if it is in memory.
    pub fn known(&self, offset: u64) -> Option<Arc<[u8]>> {
        let mut kept = self.shared.lock();
        let mut slices = kept.slices.iter();
        let found = slices.rposition(|(of, at, _)| *of == self.number && *at == offset)?;
        let entry = kept.slices.remove(found);
        let slice = entry.2.clone();
        kept.slices.push(entry);
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
        let mut kept = self.shared.lock();
        let mut slices = kept.slices.iter();
        // Two threads may have read the same one at once.
        if slices.any(|(of, at, _)| *of == self.number && *at == offset) {
            return;
        }
        kept.bytes += slice.len();
        kept.slices.push((self.number, offset, slice.clone()));
        while kept.slices.len() > SLICES_KEPT || kept.bytes > BYTES_KEPT {
            kept.bytes -= kept.slices.remove(0).2.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    #[test]
    fn the_slices_used_last_are_kept_for_all_files_together() {
        let bytes: Vec<u8> = (0..=255u8).flat_map(|n| [n; 512]).collect();
        let shared = SharedSlices::default();
        let cache = || {
            let storage = Arc::new(MemoryStorage::new(bytes.clone()));
            SliceCache::new(storage, 512, &shared)
        };
        let (one, two) = (cache(), cache());
        for n in 0..256 {
            let slice = one.read(n * 512).unwrap();
            one.keep(n * 512, &slice);
            one.keep(n * 512, &slice);
            assert!(one.known(0).is_some(), "{n}");
        }
        assert!(two.known(0).is_none());
        two.keep(0, &two.read(0).unwrap());
        assert_eq!(one.known(255 * 512).unwrap()[0], 255);
        assert!(one.known(512).is_none());
        assert!(two.read(256 * 512).is_err());
        let kept = shared.lock();
        assert_eq!(
            (kept.slices.len(), kept.bytes),
            (SLICES_KEPT, SLICES_KEPT * 512)
        );
    }
}
