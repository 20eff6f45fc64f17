//! Writing fixed disks: the disk, then the footer. A pipe can take it.

use std::ops::Range;

use super::footer::{DiskType, FOOTER_LEN, Footer};
use super::geometry;
use crate::error::Result;
use crate::storage::WritableStorage;
use crate::target::{BlockTarget, Identity, Placement, Summary};

/// Unit in which zeros are worth leaving out: the page that file systems allocate.
const BLOCK: u64 = 4096;

/// The layout of a fixed disk.
pub struct FixedTarget {
    size: u64,
}

impl FixedTarget {
    /// A disk of `size` bytes, a multiple of 512 that a footer can hold.
    pub fn new(size: u64) -> FixedTarget {
        FixedTarget { size }
    }

    fn file_size(&self) -> u64 {
        self.size.saturating_add(FOOTER_LEN)
    }
}

impl BlockTarget for FixedTarget {
    fn size(&self) -> u64 {
        self.size
    }

    fn block_size(&self) -> u64 {
        BLOCK
    }

    fn is_sequential(&self) -> bool {
        true
    }

    fn exact_length(&self) -> Option<u64> {
        Some(self.file_size())
    }

    fn notes(&self) -> Vec<String> {
        geometry::notes(self.size)
    }

    fn place(&mut self, guest_offset: u64, len: u64) -> Result<Placement> {
        Ok(Placement {
            offset: guest_offset,
            len,
        })
    }

    fn zero(&mut self, guest_offset: u64, len: u64) -> Result<Option<Range<u64>>> {
        Ok(Some(guest_offset..guest_offset.saturating_add(len)))
    }

    fn finish(self: Box<Self>, identity: &Identity, out: &dyn WritableStorage) -> Result<Summary> {
        let footer = Footer::new(DiskType::Fixed, self.size, identity.id, identity.unix_time);
        out.write_at(&footer.to_bytes(), self.size)?;
        out.set_len(self.file_size())?;
        Ok(Summary {
            file_size: self.file_size(),
        })
    }
}
