//! Which blocks hold something: a target of the engine that only listens.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use crate::block_set::BlockSet;
use crate::error::{Error, Result};
use crate::storage::WritableStorage;
use crate::target::{BlockTarget, Identity, Placement, Summary};

/// The blocks that hold something, while they are found.
#[derive(Debug, Clone)]
pub struct Used(Arc<Mutex<BlockSet>>);

impl Used {
    /// None so far, of a disk of `size` bytes in blocks of `block_size`.
    pub fn new(size: u64, block_size: u64) -> Used {
        Used(Arc::new(Mutex::new(BlockSet::new(
            size.div_ceil(block_size),
        ))))
    }

    /// Adds block `number`.
    pub fn insert(&self, number: u64) {
        self.with(|used| used.insert(number));
    }

    pub(super) fn with<T>(&self, look: impl FnOnce(&mut BlockSet) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(|e| e.into_inner()))
    }
}

/// What the engine tells of data becomes a block that holds something. It stores nothing.
#[derive(Debug)]
pub struct Scan {
    size: u64,
    block_size: u64,
    used: Used,
}

impl Scan {
    /// Adds what is found on a disk of `size` bytes, in blocks of `block_size`, to `used`.
    pub fn new(size: u64, block_size: u64, used: Used) -> Scan {
        Scan {
            size,
            block_size,
            used,
        }
    }
}

impl BlockTarget for Scan {
    fn size(&self) -> u64 {
        self.size
    }

    fn block_size(&self) -> u64 {
        self.block_size
    }

    fn is_sequential(&self) -> bool {
        false
    }

    fn place(&mut self, guest_offset: u64, len: u64) -> Result<Placement> {
        self.used.insert(guest_offset / self.block_size);
        Ok(Placement {
            offset: guest_offset,
            len: len.min(self.block_size - guest_offset % self.block_size),
        })
    }

    fn zero(&mut self, _guest_offset: u64, _len: u64) -> Result<Option<Range<u64>>> {
        Ok(None)
    }

    fn finish(
        self: Box<Self>,
        _identity: &Identity,
        _out: &dyn WritableStorage,
    ) -> Result<Summary> {
        Err(Error::unsupported("scan", "is no image"))
    }
}
