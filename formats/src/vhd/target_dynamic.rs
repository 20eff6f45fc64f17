//! Writing dynamic disks: blocks in the order in which they come, each with its data on a page boundary.

use std::borrow::Cow;
use std::ops::Range;

use super::dynamic_header::DynamicHeader;
use super::footer::{DiskType, FOOTER_LEN, Footer};
use super::geometry;
use super::new_blocks::{NewBlocks, PAGE, TABLE_OFFSET};
use crate::error::Result;
use crate::storage::WritableStorage;
use crate::target::{BlockTarget, Identity, Placement, Summary, TableWrite};

/// The layout of a dynamic disk.
pub struct DynamicTarget {
    size: u64,
    blocks: NewBlocks,
    ready: Vec<TableWrite>,
}

impl DynamicTarget {
    /// A disk of `size` bytes, a multiple of 512 that a footer can hold, in blocks of `block_size` bytes: a power of
    /// two from 64 KiB to 2 MiB.
    ///
    /// # Errors
    /// `Limit` when a disk of this size, written full, would not fit into the BAT or a file of 2 TiB; `Usage` for
    /// another block size.
    pub fn new(size: u64, block_size: u64) -> Result<DynamicTarget> {
        Ok(DynamicTarget {
            size,
            blocks: NewBlocks::new(size, block_size, 0)?,
            ready: Vec::new(),
        })
    }
}

impl BlockTarget for DynamicTarget {
    fn size(&self) -> u64 {
        self.size
    }

    fn block_size(&self) -> u64 {
        self.blocks.block_size
    }

    fn is_sequential(&self) -> bool {
        false
    }

    fn notes(&self) -> Vec<String> {
        geometry::notes(self.size)
    }

    fn place(&mut self, guest_offset: u64, len: u64) -> Result<Placement> {
        let block_size = self.blocks.block_size;
        let within = guest_offset % block_size;
        let place = self.blocks.place(guest_offset / block_size)?;
        if place.is_new {
            self.ready.push(TableWrite {
                offset: place.data - PAGE,
                bytes: Cow::Borrowed(self.blocks.full_gap),
            });
        }
        Ok(Placement {
            offset: place.data.saturating_add(within),
            len: len.min(block_size - within),
        })
    }

    fn zero(&mut self, _guest_offset: u64, _len: u64) -> Result<Option<Range<u64>>> {
        // No entry, or sectors of a block that nothing was written to.
        Ok(None)
    }

    fn take_tables(&mut self) -> Vec<TableWrite> {
        std::mem::take(&mut self.ready)
    }

    fn finish(self: Box<Self>, identity: &Identity, out: &dyn WritableStorage) -> Result<Summary> {
        let footer = Footer::new(
            DiskType::Dynamic,
            self.size,
            identity.id,
            identity.unix_time,
        )
        .to_bytes();
        let header = DynamicHeader::new(
            TABLE_OFFSET,
            self.blocks.count(),
            self.blocks.block_size as u32,
        );
        for table in &self.ready {
            out.write_at(&table.bytes, table.offset)?;
        }
        self.blocks.write_table(out)?;
        out.write_at(&header.to_bytes(), FOOTER_LEN)?;
        out.write_at(&footer, 0)?;
        out.write_at(&footer, self.blocks.data_end())?;
        let file_size = self.blocks.data_end().saturating_add(FOOTER_LEN);
        out.set_len(file_size)?;
        Ok(Summary { file_size })
    }
}
