//! The maps of the three kinds of disk.

use super::bat::Bat;
use super::bitmap::SectorBitmaps;
use crate::error::Result;
use crate::source::{BlockSource, Mapping, Run};
use crate::storage::StorageRef;

/// The page that file systems allocate: a fixed disk has no blocks of its own.
const FIXED_BLOCK: u64 = 4096;

/// A fixed disk: the first bytes of its file.
pub struct FixedSource {
    storage: StorageRef,
    size: u64,
}

impl FixedSource {
    /// The disk of the first `size` bytes of `storage`, which must be there.
    pub fn new(storage: StorageRef, size: u64) -> FixedSource {
        FixedSource { storage, size }
    }
}

impl BlockSource for FixedSource {
    fn size(&self) -> u64 {
        self.size
    }

    fn block_size(&self) -> u64 {
        FIXED_BLOCK
    }

    fn map(&self, offset: u64, limit: u64) -> Result<Run> {
        let (len, data) = self.storage.extent(offset, limit)?;
        let mapping = if data {
            Mapping::Stored {
                storage: self.storage.clone(),
                offset,
            }
        } else {
            Mapping::Zero
        };
        Ok(Run::new(len, mapping))
    }
}

/// A dynamic or differencing disk: blocks, each with a bitmap of the sectors that were written.
pub struct SparseSource {
    storage: StorageRef,
    bat: Bat,
    bitmaps: SectorBitmaps,
    unwritten: Mapping,
}

impl SparseSource {
    /// The disk whose blocks stand in `storage` where `bat` says. What was never written reads as `unwritten`: zeros in
    /// a dynamic disk, absent in a differencing one.
    pub fn new(
        storage: StorageRef,
        bat: Bat,
        bitmaps: SectorBitmaps,
        unwritten: Mapping,
    ) -> SparseSource {
        SparseSource {
            storage,
            bat,
            bitmaps,
            unwritten,
        }
    }

    fn hole(&self, index: u64, offset: u64, limit: u64) -> Run {
        let end = match self.bat.next_allocated(index) {
            Some(next) => next.saturating_mul(self.block_size()),
            None => self.size(),
        };
        let len = end.saturating_sub(offset).min(limit);
        Run::new(len, self.unwritten.clone())
    }
}

impl BlockSource for SparseSource {
    fn size(&self) -> u64 {
        self.bat.layout().disk_size
    }

    fn block_size(&self) -> u64 {
        self.bat.layout().block_size
    }

    fn map(&self, offset: u64, limit: u64) -> Result<Run> {
        let index = offset / self.block_size();
        let within = offset % self.block_size();
        let Some(place) = self.bat.place(index)? else {
            return Ok(self.hole(index, offset, limit));
        };
        let limit = limit.min(self.block_size() - within);
        let layout = self.bat.layout();
        let limit = layout.there(index, place.data, within, limit)?;
        let first = within / 512;
        let sectors = (within + limit).div_ceil(512) - first;
        let (written, sectors) = self.bitmaps.at(place.bitmap)?.run(first, sectors);
        let len = ((first + sectors) * 512 - within).min(limit);
        let mapping = if written {
            Mapping::Stored {
                storage: self.storage.clone(),
                offset: place.data + within,
            }
        } else {
            self.unwritten.clone()
        };
        Ok(Run::new(len, mapping))
    }
}
