//! The block allocation table: for every block, and for the sector bitmap of every chunk of blocks, a state and a place
//! ([MS-VHDX] 2.5).
//!
//! ```text
//!  ┌─────────┬─────────┬───┬──────────────┬────────┬────────────┬─────────┬───
//!  │ block 0 │ block 1 │ … │ block CR - 1 │ bitmap │ block CR   │ …       │ bitmap
//!  └─────────┴─────────┴───┴──────────────┴────────┴────────────┴─────────┴───
//!    a chunk: CR blocks, 2^23 sectors        1 MiB of bits, one a sector
//! ```

use super::metadata::Metadata;

/// Bytes of an entry.
pub const ENTRY: u64 = 8;

/// Bytes of a sector bitmap block.
pub const BITMAP_BLOCK: u64 = 1 << 20;

/// Sectors that a sector bitmap block has bits for.
const SECTORS_PER_CHUNK: u64 = 8 * BITMAP_BLOCK;

/// Bits of an entry that hold the file offset, which is a multiple of 1 MiB.
const OFFSET_BITS: u64 = !0xF_FFFF;

/// Bits of an entry that mean nothing.
const RESERVED_BITS: u64 = 0xF_FFF8;

/// State of a sector bitmap block that is there.
const BITMAP_PRESENT: u64 = 6;

/// State of a block ([MS-VHDX] 2.5.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockState {
    /// Nothing was written: the parent's, or anything; zeros here.
    NotPresent,
    /// Anything; zeros here.
    Undefined,
    /// Zeros.
    Zero,
    /// Given back by the guest; zeros.
    Unmapped,
    /// All of it is in this file.
    FullyPresent,
    /// The sector bitmap says which sectors are in this file.
    PartiallyPresent,
}

impl BlockState {
    /// Whether the block has a place in this file.
    pub fn is_stored(self) -> bool {
        matches!(
            self,
            BlockState::FullyPresent | BlockState::PartiallyPresent
        )
    }
}

/// An entry of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatEntry(pub u64);

impl BatEntry {
    /// Zeros, without a place: with one, Hyper-V would refuse the file.
    pub const ZERO: BatEntry = BatEntry(2);

    /// The entry of a block that is all at byte `offset` of the file, a multiple of 1 MiB.
    pub fn fully_present(offset: u64) -> BatEntry {
        BatEntry(offset | 6)
    }

    /// The entry of a block of which some sectors are at byte `offset` of the file, a multiple of 1 MiB.
    pub fn partially_present(offset: u64) -> BatEntry {
        BatEntry(offset | 7)
    }

    /// The entry of a sector bitmap block at byte `offset` of the file, a multiple of 1 MiB.
    pub fn bitmap(offset: u64) -> BatEntry {
        BatEntry(offset | BITMAP_PRESENT)
    }

    /// The state of the block whose entry it is; `None` for one that does not exist.
    pub fn state(self) -> Option<BlockState> {
        Some(match self.0 & 7 {
            0 => BlockState::NotPresent,
            1 => BlockState::Undefined,
            2 => BlockState::Zero,
            // What it was in the first drafts of the specification: QEMU takes it, too.
            3 | 5 => BlockState::Unmapped,
            6 => BlockState::FullyPresent,
            7 => BlockState::PartiallyPresent,
            _ => return None,
        })
    }

    /// The number of the state as it stands in the entry.
    pub fn state_bits(self) -> u64 {
        self.0 & 7
    }

    /// Whether the sector bitmap block whose entry it is has a place in this file.
    pub fn is_bitmap_present(self) -> bool {
        self.state_bits() == BITMAP_PRESENT
    }

    /// The place of the block: a byte offset in the file, a multiple of 1 MiB.
    pub fn offset(self) -> u64 {
        self.0 & OFFSET_BITS
    }

    /// Whether bits are set that should not be.
    pub fn has_reserved_bits(self) -> bool {
        self.0 & RESERVED_BITS != 0
    }
}

/// Whose entry stands at an index of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// That of a block.
    Block(u64),
    /// That of the sector bitmap of a chunk.
    Bitmap(u64),
}

/// Which entry is whose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatLayout {
    /// Guest-visible size in bytes.
    pub disk_size: u64,
    /// Guest bytes in a block: a power of two from 1 MiB to 256 MiB.
    pub block_size: u64,
    /// Bytes of a logical sector: 512 or 4096.
    pub sector_size: u64,
    /// Whether the disk has a parent.
    pub is_differencing: bool,
}

impl BatLayout {
    /// That of the disk that `metadata` describes.
    pub fn new(metadata: &Metadata) -> BatLayout {
        BatLayout {
            disk_size: metadata.disk_size,
            block_size: metadata.block_size,
            sector_size: metadata.logical_sector_size.into(),
            is_differencing: metadata.has_parent,
        }
    }

    /// Blocks of a chunk, from 16 to 32768: those whose sectors one bitmap has bits for.
    pub fn chunk_ratio(&self) -> u64 {
        SECTORS_PER_CHUNK * self.sector_size / self.block_size
    }

    /// Blocks of the disk.
    pub fn blocks(&self) -> u64 {
        self.disk_size.div_ceil(self.block_size)
    }

    /// Chunks of the disk.
    pub fn chunks(&self) -> u64 {
        self.blocks().div_ceil(self.chunk_ratio())
    }

    /// Entries that the table must have.
    pub fn entries(&self) -> u64 {
        if self.is_differencing {
            self.entries_with_bitmaps()
        } else {
            // Nothing needs the bitmap entry of the last chunk.
            self.blocks() + self.chunks().saturating_sub(1)
        }
    }

    /// Entries of a table with room for all bitmaps: what is written, whether the disk has a parent or not.
    pub fn entries_with_bitmaps(&self) -> u64 {
        self.chunks() * (self.chunk_ratio() + 1)
    }

    /// The state that `entry` gives its block; `None` for one that does not exist, or not in a disk of this kind.
    pub fn state(&self, entry: BatEntry) -> Option<BlockState> {
        let state = entry.state();
        state.filter(|state| self.is_differencing || *state != BlockState::PartiallyPresent)
    }

    /// Index of the entry of block `block`.
    pub fn block_index(&self, block: u64) -> u64 {
        block + block / self.chunk_ratio()
    }

    /// Index of the entry of the sector bitmap of chunk `chunk`.
    pub fn bitmap_index(&self, chunk: u64) -> u64 {
        chunk * (self.chunk_ratio() + 1) + self.chunk_ratio()
    }

    /// Whose entry stands at `index`.
    pub fn slot(&self, index: u64) -> Slot {
        let with_bitmap = self.chunk_ratio() + 1;
        let (chunk, within) = (index / with_bitmap, index % with_bitmap);
        if within == self.chunk_ratio() {
            Slot::Bitmap(chunk)
        } else {
            Slot::Block(chunk * self.chunk_ratio() + within)
        }
    }

    /// The first block whose entry stands at `index` or behind.
    pub fn first_block_from(&self, index: u64) -> u64 {
        match self.slot(index) {
            Slot::Block(block) => block,
            Slot::Bitmap(chunk) => (chunk + 1) * self.chunk_ratio(),
        }
    }

    /// Guest bytes of block `block` that are inside the disk.
    pub fn visible(&self, block: u64) -> u64 {
        self.disk_size
            .saturating_sub(block.saturating_mul(self.block_size))
            .min(self.block_size)
    }

    /// Bytes that the bits of one block take in the bitmap of its chunk: 32 bytes to 64 KiB.
    pub fn bitmap_len(&self) -> u64 {
        self.block_size / self.sector_size / 8
    }

    /// Byte offset of the bits of block `block` in the bitmap of its chunk.
    pub fn bits_at(&self, block: u64) -> u64 {
        block % self.chunk_ratio() * self.bitmap_len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(disk_size: u64, block_size: u64, sector_size: u64) -> BatLayout {
        BatLayout {
            disk_size,
            block_size,
            sector_size,
            is_differencing: false,
        }
    }

    #[test]
    fn chunks_have_2_to_the_23_sectors() {
        for (sector, block, ratio) in [
            (512, 2 << 20, 2048),
            (512, 32 << 20, 128),
            (4096, 1 << 20, 32768),
            (512, 256 << 20, 16),
        ] {
            let layout = layout(64 << 40, block, sector);
            assert_eq!(layout.chunk_ratio(), ratio);
            assert_eq!(layout.bitmap_len() * ratio, BITMAP_BLOCK);
        }
    }

    #[test]
    fn entries_are_counted_as_by_the_specification() {
        // One chunk and a block: the bitmap of the second chunk matters to differencing disks only.
        let mut two = layout((2048 * 2 + 1) << 20, 2 << 20, 512);
        assert_eq!((two.blocks(), two.chunks(), two.entries()), (2049, 2, 2050));
        assert_eq!(two.entries_with_bitmaps(), 2 * 2049);
        two.is_differencing = true;
        assert_eq!(two.entries(), 2 * 2049);
        let one = layout(4 << 30, 2 << 20, 512);
        assert_eq!((one.chunks(), one.entries()), (1, 2048));
        assert_eq!(layout(0, 1 << 20, 512).entries(), 0);
        assert_eq!(one.state(BatEntry(7)), None);
        assert_eq!(two.state(BatEntry(7)), Some(BlockState::PartiallyPresent));
    }

    #[test]
    fn every_index_belongs_to_one_block_or_bitmap() {
        let layout = layout(40 << 30, 256 << 20, 512);
        let mut expected = Vec::new();
        for chunk in 0..layout.chunks() {
            expected.extend((0..16).map(|i| Slot::Block(chunk * 16 + i)));
            expected.push(Slot::Bitmap(chunk));
        }
        for (index, slot) in (0..).zip(&expected) {
            assert_eq!(layout.slot(index), *slot);
            match *slot {
                Slot::Block(block) => {
                    assert_eq!(layout.block_index(block), index);
                    assert_eq!(layout.first_block_from(index), block);
                }
                Slot::Bitmap(chunk) => {
                    assert_eq!(layout.bitmap_index(chunk), index);
                    assert_eq!(layout.first_block_from(index), (chunk + 1) * 16);
                }
            }
        }
    }

    #[test]
    fn an_entry_is_a_state_and_a_place() {
        let entry = BatEntry(5 << 20 | 0x18 | 7);
        assert_eq!(entry.state(), Some(BlockState::PartiallyPresent));
        assert_eq!((entry.offset(), entry.has_reserved_bits()), (5 << 20, true));
        assert_eq!(BatEntry(4).state(), None);
        assert_eq!(BatEntry(5).state(), Some(BlockState::Unmapped));
        assert_eq!(BatEntry::ZERO.state(), Some(BlockState::Zero));
        assert!(!BatEntry(!RESERVED_BITS).has_reserved_bits());
    }
}
