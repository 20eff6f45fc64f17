//! Writing dynamic disks: blocks in the order in which they come, each with its data on a page boundary.

use std::borrow::Cow;
use std::ops::Range;

use super::bat::{MAX_BLOCKS, UNALLOCATED};
use super::dynamic_header::{DynamicHeader, HEADER_LEN};
use super::footer::{DiskType, FOOTER_LEN, Footer};
use super::geometry;
use crate::error::{Error, Result};
use crate::storage::WritableStorage;
use crate::target::{BlockTarget, Identity, Placement, Summary, TableWrite};

/// Boundary in bytes on which the data of every block starts, so that hosts read and write it by whole pages.
pub(super) const PAGE: u64 = 4096;

/// Byte offset of the BAT: right behind the dynamic header.
pub(super) const TABLE_OFFSET: u64 = FOOTER_LEN + HEADER_LEN;

/// Entries of the BAT that are turned into bytes in one go.
const ENTRIES_AT_ONCE: usize = 64 << 10;

/// Block sizes that are written, in bytes: what every reader takes; one bitmap sector suffices for each.
pub(super) const BLOCK_SIZES: std::ops::RangeInclusive<u64> = 64 << 10..=2 << 20;

/// What stands in front of a block's data: padding that reads as zeros, and in its last sector the bitmap with a bit
/// for every sector of the block. One for each of [`BLOCK_SIZES`], the smallest first.
static GAPS: [[u8; PAGE as usize]; 6] = gaps();

const fn gaps() -> [[u8; PAGE as usize]; 6] {
    let mut gaps = [[0; PAGE as usize]; 6];
    let mut size = 0;
    while size < gaps.len() {
        // 64 KiB have 128 sectors: 16 bytes.
        let mut byte = 0;
        while byte < 16 << size {
            gaps[size][PAGE as usize - 512 + byte] = 0xFF;
            byte += 1;
        }
        size += 1;
    }
    gaps
}

/// The layout of a dynamic disk.
pub struct DynamicTarget {
    size: u64,
    block_size: u64,
    gap: &'static [u8],
    table: Vec<u32>,
    /// Byte offset, on a page boundary, at which the next block's gap goes.
    next: Option<u64>,
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
        let power = block_size.trailing_zeros().checked_sub(16);
        let gap = power.and_then(|power| GAPS.get(power as usize));
        let Some(gap) = gap.filter(|_| block_size.is_power_of_two()) else {
            return Err(Error::usage("block size", "is not one that can be written")
                .found(block_size)
                .expected("a power of two from 64k to 2M"));
        };
        let blocks = size.div_ceil(block_size);
        let last_bitmap = data_start(blocks)
            .saturating_add(blocks.saturating_sub(1).saturating_mul(block_size + PAGE));
        if blocks > MAX_BLOCKS || last_bitmap / 512 >= u64::from(UNALLOCATED) {
            return Err(Error::limit(
                "BAT",
                "cannot address a disk of this size in blocks of this size",
            )
            .found(format!("{blocks} blocks of {block_size} bytes"))
            .hint("-o block_size=2M can"));
        }
        Ok(DynamicTarget {
            size,
            block_size,
            gap,
            table: vec![UNALLOCATED; blocks as usize],
            next: None,
            ready: Vec::new(),
        })
    }

    fn table_end(&self) -> u64 {
        table_end(self.table.len() as u64)
    }

    /// Where the end footer goes: behind the last block, which is as long as all others.
    fn data_end(&self) -> u64 {
        self.next.unwrap_or(self.table_end())
    }

    /// The byte offset of the data of block `index`, which gets its place when it is asked for first.
    fn block(&mut self, index: u64) -> Result<u64> {
        let start = data_start(self.table.len() as u64);
        let entry = usize::try_from(index)
            .ok()
            .and_then(|index| self.table.get_mut(index))
            .ok_or_else(|| {
                Error::limit("BAT", "the block is past the end of the disk").found(index)
            })?;
        if *entry != UNALLOCATED {
            return Ok((u64::from(*entry) + 1) * 512);
        }
        let gap = self.next.unwrap_or(start);
        let data = gap.saturating_add(PAGE);
        *entry = u32::try_from((data - 512) / 512)
            .ok()
            .filter(|sector| *sector != UNALLOCATED)
            .ok_or_else(|| Error::limit("BAT", "the file would be larger than 2 TiB"))?;
        self.ready.push(TableWrite {
            offset: gap,
            bytes: Cow::Borrowed(self.gap),
        });
        self.next = Some(data.saturating_add(self.block_size));
        Ok(data)
    }

    fn write_table(&self, out: &dyn WritableStorage) -> Result<()> {
        let mut offset = TABLE_OFFSET;
        for entries in self.table.chunks(ENTRIES_AT_ONCE) {
            let bytes: Vec<u8> = entries.iter().flat_map(|e| e.to_be_bytes()).collect();
            out.write_at(&bytes, offset)?;
            offset = offset.saturating_add(bytes.len() as u64);
        }
        let padding = self.table_end().saturating_sub(offset).min(512);
        out.write_at(&vec![0xFF; padding as usize], offset)
    }
}

/// Byte offset of the end of a BAT of `blocks` entries, padded to whole sectors.
pub(super) fn table_end(blocks: u64) -> u64 {
    TABLE_OFFSET + (blocks * 4).next_multiple_of(512)
}

/// Byte offset of the first block's gap.
pub(super) fn data_start(blocks: u64) -> u64 {
    table_end(blocks).next_multiple_of(PAGE)
}

impl BlockTarget for DynamicTarget {
    fn size(&self) -> u64 {
        self.size
    }

    fn block_size(&self) -> u64 {
        self.block_size
    }

    fn is_sequential(&self) -> bool {
        false
    }

    fn notes(&self) -> Vec<String> {
        geometry::notes(self.size)
    }

    fn place(&mut self, guest_offset: u64, len: u64) -> Result<Placement> {
        let within = guest_offset % self.block_size;
        let data = self.block(guest_offset / self.block_size)?;
        Ok(Placement {
            offset: data.saturating_add(within),
            len: len.min(self.block_size - within),
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
            self.table.len() as u32,
            self.block_size as u32,
        );
        for table in &self.ready {
            out.write_at(&table.bytes, table.offset)?;
        }
        self.write_table(out)?;
        out.write_at(&header.to_bytes(), FOOTER_LEN)?;
        out.write_at(&footer, 0)?;
        out.write_at(&footer, self.data_end())?;
        let file_size = self.data_end().saturating_add(FOOTER_LEN);
        out.set_len(file_size)?;
        Ok(Summary { file_size })
    }
}
