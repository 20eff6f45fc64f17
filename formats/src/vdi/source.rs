//! The map of an image of any type.

use super::block_map::BlockMap;
use crate::error::Result;
use crate::joined::{Joined, Place};
use crate::source::{BlockSource, Run};
use crate::storage::StorageRef;

/// Slices of the block map that one call of `map` looks into at most, so that none takes long.
const SLICES_PER_RUN: usize = 64;

/// A disk in blocks, each with a place in the file or without.
pub struct VdiSource {
    storage: StorageRef,
    map: BlockMap,
    unwritten: Place,
}

impl VdiSource {
    /// The disk whose blocks stand in `storage` where `map` says. What was never written is absent when the image has
    /// a parent, and zeros when it has none.
    pub fn new(storage: StorageRef, map: BlockMap) -> VdiSource {
        let unwritten = match map.header().image_type.has_parent() {
            true => Place::Absent,
            false => Place::Zero,
        };
        VdiSource {
            storage,
            map,
            unwritten,
        }
    }
}

impl BlockSource for VdiSource {
    fn size(&self) -> u64 {
        self.map.header().disk_size
    }

    fn block_size(&self) -> u64 {
        self.map.header().block_size.into()
    }

    fn map(&self, offset: u64, limit: u64) -> Result<Run> {
        let limit = limit.min(self.size().saturating_sub(offset));
        let mut run = Joined::new(offset, limit);
        let mut slices = 0;
        while run.is_open() && slices < SLICES_PER_RUN {
            match self.map.extend(&mut run, self.unwritten) {
                Ok(()) => slices += 1,
                Err(e) if run.is_empty() => return Err(e.in_file(self.storage.path())),
                // Said when the caller gets there.
                Err(_) => break,
            }
        }
        Ok(run.into_plain_run(&self.storage))
    }
}
