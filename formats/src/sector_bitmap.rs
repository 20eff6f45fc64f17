//! Sector bitmaps of VHD and VHDX: a bit for every sector of a block, set when the sector's bytes are in this file.

use std::sync::{Arc, Mutex};

use crate::error::Result;
use crate::storage::StorageRef;

/// Bytes of bitmaps that are kept.
const KEPT_BYTES: u64 = 1 << 20;

/// Bitmaps that are kept, however small they are.
const KEPT: u64 = 64;

/// In which order a byte holds its eight bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BitOrder {
    /// The first sector is the most significant bit: VHD.
    HighestFirst,
    /// The first sector is the least significant bit: VHDX, and version 0.1 of XenServer's `tap`.
    LowestFirst,
}

/// The bitmaps of an image, read as they are needed.
#[derive(Debug)]
pub struct SectorBitmaps {
    storage: StorageRef,
    len: usize,
    order: BitOrder,
    keep: usize,
    /// Byte offset and bitmap, most recently used last.
    cache: Mutex<Vec<(u64, SectorBitmap)>>,
}

impl SectorBitmaps {
    /// The bitmaps of `len` bytes each in `storage`.
    pub fn new(storage: StorageRef, len: u64, order: BitOrder) -> SectorBitmaps {
        SectorBitmaps {
            storage,
            len: len as usize,
            order,
            keep: (KEPT_BYTES / len.max(1)).clamp(1, KEPT) as usize,
            cache: Mutex::new(Vec::new()),
        }
    }

    /// The bitmap at byte `offset` of the file.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn at(&self, offset: u64) -> Result<SectorBitmap> {
        if let Some(known) = self.known(offset) {
            return Ok(known);
        }
        // Read without holding the lock: other threads go on.
        let mut bytes = vec![0; self.len];
        self.storage.read_at(&mut bytes, offset)?;
        if self.order == BitOrder::LowestFirst {
            bytes.iter_mut().for_each(|b| *b = b.reverse_bits());
        }
        let bitmap = SectorBitmap(bytes.into());
        let mut cache = self.cache.lock().unwrap_or_else(|e| e.into_inner());
        if cache.len() >= self.keep {
            cache.remove(0);
        }
        cache.push((offset, bitmap.clone()));
        Ok(bitmap)
    }

    fn known(&self, offset: u64) -> Option<SectorBitmap> {
        let mut cache = self.cache.lock().unwrap_or_else(|e| e.into_inner());
        let place = cache.iter().rposition(|(at, _)| *at == offset)?;
        let entry = cache.remove(place);
        let bitmap = entry.1.clone();
        cache.push(entry);
        Some(bitmap)
    }
}

/// The bitmap of one block, the first sector in the most significant bit.
#[derive(Debug, Clone)]
pub struct SectorBitmap(Arc<[u8]>);

impl SectorBitmap {
    /// Whether sector `first` of the block is set, and how many sectors from there on, at most `limit`, are like it.
    pub fn run(&self, first: u64, limit: u64) -> (bool, u64) {
        let set = self.is_set(first);
        let same = if set { 0xFF } else { 0 };
        let mut sectors = 1;
        while sectors < limit {
            let at = first.saturating_add(sectors);
            if at.is_multiple_of(8) && self.byte(at) == Some(same) {
                sectors += 8;
            } else if self.is_set(at) == set {
                sectors += 1;
            } else {
                break;
            }
        }
        (set, sectors.min(limit))
    }

    fn is_set(&self, sector: u64) -> bool {
        self.byte(sector)
            .is_some_and(|byte| byte & (0x80 >> (sector % 8)) != 0)
    }

    fn byte(&self, sector: u64) -> Option<u8> {
        self.0.get((sector / 8) as usize).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    fn runs(bytes: &[u8], order: BitOrder) -> Vec<(bool, u64)> {
        let sectors = bytes.len() as u64 * 8;
        let storage = Arc::new(MemoryStorage::new(bytes.to_vec()));
        let bitmaps = SectorBitmaps::new(storage, bytes.len() as u64, order);
        let bitmap = bitmaps.at(0).unwrap();
        let mut runs = Vec::new();
        let mut at = 0;
        while at < sectors {
            let run = bitmap.run(at, sectors - at);
            runs.push(run);
            at += run.1;
        }
        assert_eq!(at, sectors);
        runs
    }

    #[test]
    fn the_first_sector_is_the_most_significant_bit() {
        let runs = runs(&[0b1011_0000, 0, 0xFF, 0xFF], BitOrder::HighestFirst);
        assert_eq!(
            runs,
            [(true, 1), (false, 1), (true, 2), (false, 12), (true, 16)]
        );
    }

    #[test]
    fn old_xen_images_have_it_the_other_way() {
        let runs = runs(&[0b0000_1101, 0xFF], BitOrder::LowestFirst);
        assert_eq!(
            runs,
            [(true, 1), (false, 1), (true, 2), (false, 4), (true, 8)]
        );
    }

    #[test]
    fn a_run_stops_at_its_limit() {
        let bitmap = SectorBitmap(vec![0xFF; 4].into());
        assert_eq!(bitmap.run(3, 2), (true, 2));
        assert_eq!(bitmap.run(5, 9), (true, 9));
        assert_eq!(bitmap.run(u64::MAX, 1), (false, 1));
    }

    #[test]
    fn few_bitmaps_are_kept() {
        let storage = Arc::new(MemoryStorage::new(vec![0xFF; 100 * 512]));
        let bitmaps = SectorBitmaps::new(storage, 512, BitOrder::HighestFirst);
        for block in (0..100).chain(0..100) {
            assert!(bitmaps.at(block * 512).unwrap().run(0, 1).0);
        }
        assert_eq!(bitmaps.cache.lock().unwrap().len(), KEPT as usize);
    }
}
