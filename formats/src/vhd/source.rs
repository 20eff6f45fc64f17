//! The map of dynamic and differencing disks. That of a fixed disk is that of a raw one without the footer.

use super::bat::Bat;
use crate::error::Result;
use crate::sector_bitmap::SectorBitmaps;
use crate::source::{BlockSource, Mapping, Run};
use crate::storage::StorageRef;

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

    /// [`BlockSource::map`], without the name of the file in its errors.
    fn run(&self, offset: u64, limit: u64) -> Result<Run> {
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

impl BlockSource for SparseSource {
    fn size(&self) -> u64 {
        self.bat.layout().disk_size
    }

    fn block_size(&self) -> u64 {
        self.bat.layout().block_size
    }

    fn map(&self, offset: u64, limit: u64) -> Result<Run> {
        self.run(offset, limit)
            .map_err(|e| e.in_file(self.storage.path()))
    }
}
