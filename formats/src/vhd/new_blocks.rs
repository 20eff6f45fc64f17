//! Where the blocks of a new sparse disk go: the BAT that is filled, and the file behind it.

use super::bat::{MAX_BLOCKS, UNALLOCATED};
use super::dynamic_header::HEADER_LEN;
use super::footer::FOOTER_LEN;
use crate::error::{Error, Result};
use crate::storage::WritableStorage;

/// Boundary in bytes on which the data of every block starts, so that hosts read and write it by whole pages.
pub(super) const PAGE: u64 = 4096;

/// Byte offset of the BAT: right behind the dynamic header.
pub(super) const TABLE_OFFSET: u64 = FOOTER_LEN + HEADER_LEN;

/// Entries of the BAT that are turned into bytes in one go.
const ENTRIES_AT_ONCE: usize = 64 << 10;

/// Block sizes that are written, in bytes: what every reader takes; one bitmap sector suffices for each.
pub(super) const BLOCK_SIZES: std::ops::RangeInclusive<u64> = 64 << 10..=2 << 20;

/// The page in front of a block's data: padding that reads as zeros, and in its last sector the bitmap with a bit
/// for every sector of the block, here all of them set. One for each of [`BLOCK_SIZES`], the smallest first.
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

/// The blocks of a disk that is being written, in the order in which they come.
pub(super) struct NewBlocks {
    /// Guest bytes in a block.
    pub block_size: u64,
    /// The page in front of a block of which every sector was written.
    pub full_gap: &'static [u8],
    table: Vec<u32>,
    /// Byte offset behind the BAT and what stands with it.
    head_end: u64,
    /// Byte offset, on a page boundary, at which the next block's page of the bitmap goes.
    next: Option<u64>,
}

/// The place of a block.
pub(super) struct BlockPlace {
    /// Byte offset of its data. The page of its bitmap is right before.
    pub data: u64,
    /// Whether it got it just now.
    pub is_new: bool,
}

impl NewBlocks {
    /// The blocks of a disk of `size` bytes, of `block_size` bytes each: a power of two from 64 KiB to 2 MiB. Behind the
    /// BAT, `room` bytes (whole sectors) stay free.
    ///
    /// # Errors
    /// `Limit` when a disk of this size, written full, would not fit into the BAT or a file of 2 TiB; `Usage` for
    /// another block size.
    pub fn new(size: u64, block_size: u64, room: u64) -> Result<NewBlocks> {
        let power = block_size.trailing_zeros().checked_sub(16);
        let gap = power.and_then(|power| GAPS.get(power as usize));
        let Some(full_gap) = gap.filter(|_| block_size.is_power_of_two()) else {
            return Err(Error::usage("block size", "is not one that can be written")
                .found(block_size)
                .expected("a power of two from 64k to 2M"));
        };
        let blocks = size.div_ceil(block_size);
        let head_end = table_end(blocks).saturating_add(room);
        let last_bitmap = head_end
            .next_multiple_of(PAGE)
            .saturating_add(blocks.saturating_sub(1).saturating_mul(block_size + PAGE));
        if blocks > MAX_BLOCKS || last_bitmap / 512 >= u64::from(UNALLOCATED) {
            return Err(Error::limit(
                "BAT",
                "cannot address a disk of this size in blocks of this size",
            )
            .found(format!("{blocks} blocks of {block_size} bytes"))
            .hint("-o block_size=2M can"));
        }
        Ok(NewBlocks {
            block_size,
            full_gap,
            table: vec![UNALLOCATED; blocks as usize],
            head_end,
            next: None,
        })
    }

    /// Entries of the BAT.
    pub fn count(&self) -> u32 {
        self.table.len() as u32
    }

    /// Byte offset of the end of the BAT.
    pub fn table_end(&self) -> u64 {
        table_end(self.table.len() as u64)
    }

    /// Where the end footer goes: behind the last block, which is as long as all others.
    pub fn data_end(&self) -> u64 {
        self.next.unwrap_or(self.head_end)
    }

    /// Whether block `index` has a place.
    pub fn has(&self, index: u64) -> bool {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        self.table
            .get(index)
            .is_some_and(|entry| *entry != UNALLOCATED)
    }

    /// The place of block `index`, which it gets when it is asked for first.
    ///
    /// # Errors
    /// `Limit` for a block past the end of the disk, or of the largest file.
    pub fn place(&mut self, index: u64) -> Result<BlockPlace> {
        let entry = usize::try_from(index)
            .ok()
            .and_then(|index| self.table.get_mut(index))
            .ok_or_else(|| {
                Error::limit("BAT", "the block is past the end of the disk").found(index)
            })?;
        if *entry != UNALLOCATED {
            return Ok(BlockPlace {
                data: (u64::from(*entry) + 1) * 512,
                is_new: false,
            });
        }
        let gap = self.next.unwrap_or(self.head_end.next_multiple_of(PAGE));
        let data = gap.saturating_add(PAGE);
        *entry = u32::try_from((data - 512) / 512)
            .ok()
            .filter(|sector| *sector != UNALLOCATED)
            .ok_or_else(|| Error::limit("BAT", "the file would be larger than 2 TiB"))?;
        self.next = Some(data.saturating_add(self.block_size));
        Ok(BlockPlace { data, is_new: true })
    }

    /// Writes the BAT.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn write_table(&self, out: &dyn WritableStorage) -> Result<()> {
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
