//! Writing differencing disks: blocks that hold something else than the parent's, and for each chunk that has blocks
//! which do so in part a bitmap of their sectors.

use std::borrow::Cow;
use std::ops::Range;

use super::bat::{BITMAP_BLOCK, BatEntry, BlockState};
use super::bat_writer::BatWriter;
use super::new_image::{BAT_AT, NewImage, ParentEnd};
use super::target::check_on_disk;
use crate::error::{Error, Result};
use crate::storage::WritableStorage;
use crate::target::{BlockTarget, Identity, Placement, Summary, TableWrite};

/// Unit in which child and parent are compared: a page, so that what is stored is whole pages of the file.
const PAGE: u64 = 4096;

/// The layout of a differencing disk.
pub struct DifferencingTarget {
    image: NewImage,
    bat: BatWriter,
    block: Option<OpenBlock>,
    chunk: Option<OpenChunk>,
    /// The block in which the parent ends, and whether it has had its turn.
    parent_end: Option<(ParentEnd, bool)>,
    /// Sector bitmaps that are complete.
    bitmaps: Vec<TableWrite>,
    /// Free from this byte offset on.
    next: u64,
}

/// The block that the guest offset is in.
struct OpenBlock {
    number: u64,
    /// Byte offset of its data, once something is stored in it.
    data: Option<u64>,
    /// A bit for every sector that is not the parent's.
    sectors: Vec<u8>,
    /// How many those are.
    count: u64,
}

/// The chunk that the guest offset is in.
struct OpenChunk {
    number: u64,
    bitmap: Vec<u8>,
    is_needed: bool,
}

impl OpenBlock {
    /// Notes that sectors `range` are not the parent's.
    fn define(&mut self, range: Range<u64>) {
        let mut sector = range.start;
        while sector < range.end {
            let whole = sector.is_multiple_of(8) && range.end - sector >= 8;
            let (bits, len): (u8, u64) = if whole {
                (0xFF, 8)
            } else {
                (1 << (sector % 8), 1)
            };
            if let Some(byte) = self.sectors.get_mut((sector / 8) as usize) {
                self.count += u64::from((bits & !*byte).count_ones());
                *byte |= bits;
            }
            sector += len;
        }
    }
}

impl DifferencingTarget {
    /// A disk as `image` says.
    pub fn new(image: NewImage) -> DifferencingTarget {
        DifferencingTarget {
            // Past the end of the parent, not all readers know by themselves that there are zeros.
            bat: BatWriter::new(image.layout, BAT_AT, image.first_past_parent()),
            block: None,
            chunk: None,
            parent_end: image.parent_end().map(|end| (end, false)),
            bitmaps: Vec::new(),
            next: image.data_at(),
            image,
        }
    }

    fn allocate(&mut self, len: u64) -> u64 {
        let offset = self.next;
        self.next += len;
        offset
    }

    /// Block `number`, with what was noted of it.
    fn open(&mut self, number: u64) -> Result<OpenBlock> {
        match self.block.take() {
            Some(block) if block.number == number => return Ok(block),
            other => self.block = other,
        }
        self.close_block()?;
        self.cover_parent_end(number)?;
        self.begin(number)
    }

    /// Gives the block in which the parent ends its turn, if it had none and stands before block `number`.
    fn cover_parent_end(&mut self, number: u64) -> Result<()> {
        let due = self.parent_end.filter(|(_, is_done)| !is_done);
        if let Some((end, _)) = due.filter(|(end, _)| end.block < number) {
            self.block = Some(self.begin(end.block)?);
            self.close_block()?;
        }
        Ok(())
    }

    /// Block `number`, of which nothing is known.
    fn begin(&mut self, number: u64) -> Result<OpenBlock> {
        if let Some((end, is_done)) = &mut self.parent_end {
            *is_done |= end.block == number;
        }
        let chunk = number / self.image.layout.chunk_ratio();
        if self.chunk.as_ref().is_none_or(|open| open.number != chunk) {
            self.close_chunk()?;
            self.chunk = Some(OpenChunk {
                number: chunk,
                bitmap: Vec::new(),
                is_needed: false,
            });
        }
        Ok(OpenBlock {
            number,
            data: None,
            sectors: vec![0; self.image.layout.bitmap_len() as usize],
            count: 0,
        })
    }

    fn close_block(&mut self) -> Result<()> {
        let Some(mut block) = self.block.take() else {
            return Ok(());
        };
        let layout = self.image.layout;
        let visible = layout.visible(block.number).div_ceil(layout.sector_size);
        if let Some((end, _)) = self.parent_end.filter(|(end, _)| end.block == block.number) {
            block.define(end.sector..visible);
        }
        // Past the end of the parent there is nothing to show.
        let is_whole = block.count == visible || block.number >= self.image.first_past_parent();
        let entry = match block.data {
            None if is_whole => BatEntry::ZERO,
            Some(data) if is_whole => BatEntry::fully_present(data),
            // Zeros over a part of the parent's block: the block is there, and nothing was written to it.
            data => {
                let data = data.unwrap_or_else(|| self.allocate(layout.block_size));
                BatEntry::partially_present(data)
            }
        };
        if let Some(state) = entry.state().filter(|state| state.is_stored()) {
            self.note_sectors(&block, state == BlockState::PartiallyPresent);
        }
        self.bat.set(layout.block_index(block.number), entry)
    }

    /// Copies the bits of `block` to the bitmap of its chunk, which is written if any block needs it.
    fn note_sectors(&mut self, block: &OpenBlock, is_needed: bool) {
        let at = self.image.layout.bits_at(block.number) as usize;
        if let Some(chunk) = &mut self.chunk {
            chunk.is_needed |= is_needed;
            chunk.bitmap.resize(BITMAP_BLOCK as usize, 0);
            if let Some(bits) = chunk.bitmap.get_mut(at..at + block.sectors.len()) {
                bits.copy_from_slice(&block.sectors);
            }
        }
    }

    fn close_chunk(&mut self) -> Result<()> {
        let Some(chunk) = self.chunk.take().filter(|chunk| chunk.is_needed) else {
            return Ok(());
        };
        let offset = self.allocate(BITMAP_BLOCK);
        let index = self.image.layout.bitmap_index(chunk.number);
        self.bat.set(index, BatEntry::bitmap(offset))?;
        self.bitmaps.push(TableWrite {
            offset,
            bytes: Cow::Owned(chunk.bitmap),
        });
        Ok(())
    }

    /// The sectors of a block from its byte `within` on that `len` bytes take.
    fn sectors(&self, within: u64, len: u64) -> Result<Range<u64>> {
        let size = self.image.layout.sector_size;
        if !within.is_multiple_of(size) {
            return Err(
                Error::malformed("VHDX", "a part of a sector cannot be stored alone").found(within),
            );
        }
        Ok(within / size..(within + len).div_ceil(size))
    }
}

impl BlockTarget for DifferencingTarget {
    fn size(&self) -> u64 {
        self.image.layout.disk_size
    }

    fn sector_size(&self) -> Option<u32> {
        Some(self.image.layout.sector_size as u32)
    }

    fn block_size(&self) -> u64 {
        PAGE
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
        let len = len.min(block_size - within);
        let sectors = self.sectors(within, len)?;
        let mut block = self.open(guest_offset / block_size)?;
        let data = match block.data {
            Some(data) => data,
            None => self.allocate(block_size),
        };
        block.data = Some(data);
        block.define(sectors);
        self.block = Some(block);
        Ok(Placement {
            offset: data + within,
            len,
        })
    }

    fn zero(&mut self, guest_offset: u64, len: u64) -> Result<Option<Range<u64>>> {
        check_on_disk(&self.image, guest_offset, len)?;
        let block_size = self.image.layout.block_size;
        let (mut at, end) = (guest_offset, guest_offset + len);
        while at < end {
            let within = at % block_size;
            let len = (end - at).min(block_size - within);
            let sectors = self.sectors(within, len)?;
            let mut block = self.open(at / block_size)?;
            block.define(sectors);
            self.block = Some(block);
            at += len;
        }
        Ok(None)
    }

    fn take_tables(&mut self) -> Vec<TableWrite> {
        let mut tables = self.bat.take();
        tables.append(&mut self.bitmaps);
        tables
    }

    fn finish(
        mut self: Box<Self>,
        identity: &Identity,
        out: &dyn WritableStorage,
    ) -> Result<Summary> {
        self.close_block()?;
        self.cover_parent_end(u64::MAX)?;
        self.close_chunk()?;
        for bitmap in &self.bitmaps {
            out.write_at(&bitmap.bytes, bitmap.offset)?;
        }
        self.bat.finish(out)?;
        self.image.finish(identity, self.next, out)?;
        Ok(Summary {
            file_size: self.next,
        })
    }
}
