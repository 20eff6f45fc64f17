//! Writing dynamic disks: blocks in the order in which they come.

use std::ops::Range;

use super::bat::BatEntry;
use super::bat_writer::BatWriter;
use super::new_image::{BAT_AT, NewImage};
use crate::error::{Error, Result};
use crate::storage::WritableStorage;
use crate::target::{BlockTarget, Identity, Placement, Summary, TableWrite};

/// The layout of a dynamic disk.
pub struct DynamicTarget {
    image: NewImage,
    bat: BatWriter,
    /// The block that was placed last: its number and the byte offset of its data.
    last: Option<(u64, u64)>,
    /// Byte offset of the next block.
    next: u64,
}

impl DynamicTarget {
    /// A disk as `image` says. What is never placed is zeros: a block that is "not present" could be anything by the
    /// specification.
    pub fn new(image: NewImage) -> DynamicTarget {
        DynamicTarget {
            bat: BatWriter::new(image.layout, BAT_AT, 0),
            last: None,
            next: image.data_at(),
            image,
        }
    }

    /// The byte offset of the data of block `block`, which gets its place when it is asked for first.
    fn block(&mut self, block: u64) -> Result<u64> {
        if let Some((last, data)) = self.last
            && last == block
        {
            return Ok(data);
        }
        let data = self.next;
        let index = self.image.layout.block_index(block);
        self.bat.set(index, BatEntry::fully_present(data))?;
        self.next = data + self.image.layout.block_size;
        self.last = Some((block, data));
        Ok(data)
    }
}

/// Fails when the `len` bytes at `guest_offset` are not on the disk of `image`.
pub(super) fn check_on_disk(image: &NewImage, guest_offset: u64, len: u64) -> Result<()> {
    let size = image.layout.disk_size;
    match guest_offset.checked_add(len) {
        Some(end) if end <= size && len > 0 => Ok(()),
        _ => Err(Error::limit("VHDX", "the disk has no such place")
            .at(guest_offset)
            .found(format!("{len} bytes"))
            .expected(format!("a disk of {size} bytes"))),
    }
}

impl BlockTarget for DynamicTarget {
    fn size(&self) -> u64 {
        self.image.layout.disk_size
    }

    fn sector_size(&self) -> Option<u32> {
        Some(self.image.layout.sector_size as u32)
    }

    fn block_size(&self) -> u64 {
        self.image.layout.block_size
    }

    fn is_sequential(&self) -> bool {
        false
    }

    fn head(&self, identity: &Identity) -> Result<Option<Vec<u8>>> {
        Ok(Some(self.image.head(identity)))
    }

    fn place(&mut self, guest_offset: u64, len: u64) -> Result<Placement> {
        check_on_disk(&self.image, guest_offset, len)?;
        let block_size = self.image.layout.block_size;
        let within = guest_offset % block_size;
        let data = self.block(guest_offset / block_size)?;
        Ok(Placement {
            offset: data + within,
            len: len.min(block_size - within),
        })
    }

    fn zero(&mut self, _guest_offset: u64, _len: u64) -> Result<Option<Range<u64>>> {
        // What is not placed is zeros, and so is what nothing is written to.
        Ok(None)
    }

    fn take_tables(&mut self) -> Vec<TableWrite> {
        self.bat.take()
    }

    fn finish(self: Box<Self>, identity: &Identity, out: &dyn WritableStorage) -> Result<Summary> {
        self.bat.finish(out)?;
        self.image.finish(identity, self.next, out)?;
        Ok(Summary {
            file_size: self.next,
        })
    }
}
