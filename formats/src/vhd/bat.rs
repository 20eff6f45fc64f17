//! The block allocation table: for every block the sector at which its bitmap stands, its data right behind.

use std::ops::Range;

use super::dynamic_header::{DynamicHeader, HEADER_LEN};
use super::footer::{FOOTER_LEN, Footer};
use crate::block_set::BlockSet;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::StorageRef;
use crate::table::PagedTable;

/// The entry of a block that has no place in the file.
pub const UNALLOCATED: u32 = u32::MAX;

/// Blocks that a disk may have: 2040 GiB in blocks of 128 KiB. Beyond, only damage or malice remains.
pub const MAX_BLOCKS: u64 = (2040 << 30) / (128 << 10);

/// Bytes of the table that are looked at in one go when the image is opened.
const SCAN_BYTES: usize = 64 << 10;

/// Bytes of the bitmap in front of a block of `block_size` bytes: a bit a sector, in whole sectors.
pub fn bitmap_len(block_size: u64) -> u64 {
    (block_size / 512).div_ceil(8).next_multiple_of(512)
}

/// What the headers say about where blocks can be.
#[derive(Debug)]
pub struct BlockLayout {
    /// Guest-visible size in bytes.
    pub disk_size: u64,
    /// Guest bytes in a block.
    pub block_size: u64,
    /// Bytes of the bitmap in front of a block.
    pub bitmap_len: u64,
    header: Range<u64>,
    table: Range<u64>,
    data_end: u64,
}

/// Where a block stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockPlace {
    /// Byte offset of its sector bitmap.
    pub bitmap: u64,
    /// Byte offset of its data.
    pub data: u64,
}

impl BlockLayout {
    /// The layout that `footer` and `header` describe, for a file whose blocks end at byte `data_end`.
    ///
    /// # Errors
    /// `Malformed` when the structures overlap or the BAT is too short for the disk, `Truncated` when they are not
    /// inside the file, `Limit` for more blocks than [`MAX_BLOCKS`].
    pub fn new(footer: &Footer, header: &DynamicHeader, data_end: u64) -> Result<BlockLayout> {
        let malformed = |message| Error::malformed("BAT", message).at(header.table_offset);
        let entries = u64::from(header.max_table_entries);
        let header_end = footer.data_offset.saturating_add(HEADER_LEN);
        let table_end = header.table_offset.saturating_add(entries * 4);
        let layout = BlockLayout {
            disk_size: footer.current_size,
            block_size: u64::from(header.block_size),
            bitmap_len: bitmap_len(u64::from(header.block_size)),
            header: footer.data_offset..header_end,
            table: header.table_offset..table_end,
            data_end,
        };
        if entries < layout.blocks() {
            return Err(malformed("is too short for the disk")
                .found(format!("{entries} entries"))
                .expected(format!("at least {}", layout.blocks())));
        }
        if layout.blocks() > MAX_BLOCKS {
            return Err(Error::limit("BAT", "the disk has too many blocks")
                .at(header.table_offset)
                .found(layout.blocks())
                .expected(format!("at most {MAX_BLOCKS}")));
        }
        if table_end > data_end || header_end > data_end {
            return Err(Error::truncated("BAT", "does not fit into the file")
                .at(header.table_offset)
                .found(format!("{entries} entries"))
                .expected(format!("an end at or before byte {data_end}")));
        }
        if overlap(&layout.table, &layout.header) || header.table_offset < FOOTER_LEN {
            return Err(malformed("overlaps the headers"));
        }
        Ok(layout)
    }

    /// Blocks of the disk; the BAT may have more entries.
    pub fn blocks(&self) -> u64 {
        self.disk_size.div_ceil(self.block_size)
    }

    /// Bytes that a block takes in the file.
    fn stride(&self) -> u64 {
        self.bitmap_len + self.block_size
    }

    /// Guest bytes of block `index` that are inside the disk.
    fn visible(&self, index: u64) -> u64 {
        self.disk_size
            .saturating_sub(index.saturating_mul(self.block_size))
            .min(self.block_size)
    }

    /// The place of block `index`, whose entry is `entry`.
    ///
    /// # Errors
    /// `Truncated` when it is not wholly inside the file (of the last block only what the guest sees must be),
    /// `Malformed` when it overlaps the headers or the BAT.
    pub fn place(&self, index: u64, entry: u32) -> Result<BlockPlace> {
        let bitmap = u64::from(entry) * 512;
        let data = bitmap + self.bitmap_len;
        if data + self.visible(index) > self.data_end {
            return Err(self.past_the_end(index, data));
        }
        let all = bitmap..data + self.block_size;
        let reserved = [0..FOOTER_LEN, self.header.clone(), self.table.clone()];
        if reserved.iter().any(|range| overlap(range, &all)) {
            return Err(Error::malformed(
                "BAT",
                format!("block {index} overlaps the headers or the BAT"),
            )
            .at(self.entry_offset(index))
            .found(format!("sector {entry}")));
        }
        Ok(BlockPlace { bitmap, data })
    }

    /// The error for a block whose data, at byte `data`, is not all in the file.
    fn past_the_end(&self, index: u64, data: u64) -> Error {
        Error::truncated("BAT", format!("block {index} is past the end of the file"))
            .at(self.entry_offset(index))
            .found(format!("data at byte {data}"))
            .expected(format!("an end at or before byte {}", self.data_end))
            .hint("the file is cut off; find the whole one, or read what is left with --salvage")
    }

    /// Bytes of the file, at most `wanted`, that are there from guest byte `within` of block `index` on, whose data
    /// stands at byte `data`. Fewer than `wanted` only in what is salvaged from a file that was cut off.
    ///
    /// # Errors
    /// `Truncated` when there are none.
    pub fn there(&self, index: u64, data: u64, within: u64, wanted: u64) -> Result<u64> {
        match self.data_end.saturating_sub(data + within).min(wanted) {
            0 => Err(self.past_the_end(index, data)),
            there => Ok(there),
        }
    }

    fn entry_offset(&self, index: u64) -> u64 {
        self.table.start.saturating_add(index.saturating_mul(4))
    }
}

/// Whether two ranges have a byte in common.
pub fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

/// A BAT in which no two blocks stand in one place.
#[derive(Debug)]
pub struct Bat {
    layout: BlockLayout,
    table: PagedTable,
    allocated: BlockSet,
    /// Entries, ascending, whose blocks overlap others: only when salvaging.
    shared: Vec<u32>,
    salvage: bool,
}

impl Bat {
    /// Looks through the whole table. With `salvage`, what is wrong becomes a warning, and an error again where a
    /// block that is out of the file is asked for.
    ///
    /// # Errors
    /// As [`BlockLayout::place`], and `Malformed` when two blocks overlap.
    pub fn open(
        storage: StorageRef,
        layout: BlockLayout,
        salvage: bool,
        warnings: &mut Vec<String>,
    ) -> Result<Bat> {
        let blocks = layout.blocks();
        let table = PagedTable::new(storage.clone(), "BAT", layout.table.start, blocks, 4)?;
        let mut scan = Scan {
            layout: &layout,
            allocated: BlockSet::new(blocks),
            sectors: Vec::new(),
            shared: Vec::new(),
            wrong: 0,
            first: None,
            salvage,
        };
        scan.read(&storage, blocks)?;
        scan.check_overlaps()?;
        if let Some(error) = scan.first {
            warnings.push(format!(
                "{} entries of the BAT are wrong: {error}",
                scan.wrong
            ));
        }
        Ok(Bat {
            allocated: scan.allocated,
            shared: scan.shared,
            layout,
            table,
            salvage,
        })
    }

    /// Where blocks can be.
    pub fn layout(&self) -> &BlockLayout {
        &self.layout
    }

    /// Blocks that are allocated.
    pub fn allocated(&self) -> u64 {
        self.allocated.count()
    }

    /// The first allocated block at `index` or later.
    pub fn next_allocated(&self, index: u64) -> Option<u64> {
        self.allocated.next(index)
    }

    /// The place of block `index`, if it has one.
    ///
    /// # Errors
    /// As [`BlockLayout::place`], and those of the storage.
    pub fn place(&self, index: u64) -> Result<Option<BlockPlace>> {
        if !self.allocated.contains(index) {
            return Ok(None);
        }
        // The file may have changed since it was opened.
        let entry = self.table.be32(index)?;
        if self.shared.binary_search(&entry).is_ok() {
            return Err(Error::malformed("BAT", "the block overlaps another one")
                .at(self.layout.entry_offset(index))
                .found(format!("sector {entry}")));
        }
        match self.layout.place(index, entry) {
            // The first part of a block is better than nothing of it.
            Err(e) if self.salvage && e.kind() == ErrorKind::Truncated => {
                let bitmap = u64::from(entry) * 512;
                let data = bitmap + self.layout.bitmap_len;
                self.layout.there(index, data, 0, 1)?;
                Ok(Some(BlockPlace { bitmap, data }))
            }
            place => place.map(Some),
        }
    }
}

/// The look through the table when the image is opened.
struct Scan<'a> {
    layout: &'a BlockLayout,
    allocated: BlockSet,
    /// Where the blocks start, in sectors. Never more than fit into the file.
    sectors: Vec<u32>,
    /// Those of them that overlap.
    shared: Vec<u32>,
    wrong: u64,
    first: Option<Error>,
    salvage: bool,
}

impl Scan<'_> {
    fn read(&mut self, storage: &StorageRef, blocks: u64) -> Result<()> {
        let mut page = vec![0; SCAN_BYTES];
        let mut index = 0;
        while index < blocks {
            let entries = (blocks - index).min(SCAN_BYTES as u64 / 4);
            page.truncate(entries as usize * 4);
            storage.read_at(&mut page, self.layout.entry_offset(index))?;
            let (words, _) = page.as_chunks::<4>();
            for (entry, index) in words.iter().zip(index..) {
                self.entry(index, u32::from_be_bytes(*entry))?;
            }
            index += entries;
        }
        Ok(())
    }

    fn entry(&mut self, index: u64, entry: u32) -> Result<()> {
        if entry == UNALLOCATED {
            return Ok(());
        }
        self.allocated.insert(index);
        match self.layout.place(index, entry) {
            Ok(_) if self.sectors.len() as u64 > self.layout.data_end / self.layout.stride() => {
                // More blocks than the file has room for: some stand in one place.
                self.shared.push(entry);
                let error = self.too_many(index, entry);
                self.wrong(error)
            }
            Ok(_) => {
                self.sectors.push(entry);
                Ok(())
            }
            Err(error) => self.wrong(error),
        }
    }

    fn check_overlaps(&mut self) -> Result<()> {
        let mut sectors = std::mem::take(&mut self.sectors);
        sectors.sort_unstable();
        let stride = self.layout.stride() / 512;
        for pair in sectors.windows(2) {
            let [one, next] = *pair else { continue };
            if u64::from(next - one) < stride {
                let error = Error::malformed("BAT", "two blocks overlap")
                    .at(self.layout.table.start)
                    .found(format!("sectors {one} and {next}"))
                    .expected(format!("{stride} sectors for each"));
                self.wrong(error)?;
                self.shared.extend([one, next]);
            }
        }
        self.shared.sort_unstable();
        self.shared.dedup();
        Ok(())
    }

    fn too_many(&self, index: u64, entry: u32) -> Error {
        Error::malformed("BAT", "more blocks than fit into the file: some overlap")
            .at(self.layout.entry_offset(index))
            .found(format!("sector {entry} for block {index}"))
    }

    fn wrong(&mut self, error: Error) -> Result<()> {
        if !self.salvage {
            return Err(error);
        }
        self.wrong += 1;
        self.first.get_or_insert(error);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::footer::DiskType;
    use super::*;
    use crate::ErrorKind;
    use crate::storage::MemoryStorage;
    use std::sync::Arc;

    const BLOCK: u64 = 4096;

    /// A file whose BAT of blocks of 4 KiB holds `entries`, over a disk of `size` bytes.
    fn open(
        entries: &[u32],
        size: u64,
        file_len: u64,
        salvage: bool,
    ) -> Result<(Bat, Vec<String>)> {
        let footer = Footer::new(DiskType::Dynamic, size, [1; 16], 0);
        let header = DynamicHeader::new(1536, entries.len() as u32, BLOCK as u32);
        let layout = BlockLayout::new(&footer, &header, file_len)?;
        let mut file = vec![0; 1536];
        file.extend(entries.iter().flat_map(|e| e.to_be_bytes()));
        file.resize(file_len as usize, 0);
        let mut warnings = Vec::new();
        let bat = Bat::open(
            Arc::new(MemoryStorage::new(file)),
            layout,
            salvage,
            &mut warnings,
        )?;
        Ok((bat, warnings))
    }

    fn kind(entries: &[u32], size: u64, file_len: u64) -> ErrorKind {
        open(entries, size, file_len, false).unwrap_err().kind()
    }

    #[test]
    fn bitmaps_are_whole_sectors() {
        assert_eq!(bitmap_len(512), 512);
        assert_eq!(bitmap_len(2 << 20), 512);
        assert_eq!(bitmap_len(4 << 20), 1024);
        assert_eq!(bitmap_len(256 << 20), 64 << 10);
    }

    #[test]
    fn blocks_stand_behind_their_bitmaps() {
        let (bat, warnings) =
            open(&[UNALLOCATED, 13, 4], 3 * BLOCK, 2048 + 2 * 4608, false).unwrap();
        assert!(warnings.is_empty());
        assert_eq!(bat.place(0).unwrap(), None);
        let place = bat.place(2).unwrap().unwrap();
        assert_eq!((place.bitmap, place.data), (2048, 2560));
        assert_eq!((bat.allocated(), bat.next_allocated(0)), (2, Some(1)));
        assert_eq!(bat.place(3).unwrap(), None);
    }

    #[test]
    fn a_block_past_the_end_is_truncated() {
        let size = 2 * BLOCK;
        for entry in [5, 0x7FFF_FFFF, 0xFFFF_FFFE] {
            let entries = [entry, UNALLOCATED];
            assert_eq!(kind(&entries, size, 2048 + 4608), ErrorKind::Truncated);
            let (bat, warnings) = open(&entries, size, 2048 + 4608, true).unwrap();
            assert_eq!(warnings.len(), 1);
            // What is salvaged is what the file has of the block.
            match bat.place(0) {
                Ok(place) => assert_eq!((entry, place.map(|p| p.data)), (5, Some(3072))),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Truncated),
            }
        }
    }

    #[test]
    fn of_the_last_block_only_the_visible_part_must_be_there() {
        let entries = [UNALLOCATED, 4];
        open(&entries, BLOCK + 512, 2048 + 1024, false).unwrap();
        assert_eq!(
            kind(&entries, BLOCK + 1024, 2048 + 1024),
            ErrorKind::Truncated
        );
    }

    #[test]
    fn a_block_in_the_headers_is_malformed() {
        for entry in 0..4 {
            assert_eq!(kind(&[entry], BLOCK, 1 << 20), ErrorKind::Malformed);
        }
        open(&[4], BLOCK, 1 << 20, false).unwrap();
    }

    #[test]
    fn two_blocks_at_one_place_are_malformed() {
        for other in [4, 5, 12] {
            assert_eq!(
                kind(&[4, other], 2 * BLOCK, 1 << 20),
                ErrorKind::Malformed,
                "{other}"
            );
        }
        open(&[4, 13], 2 * BLOCK, 1 << 20, false).unwrap();
    }

    #[test]
    fn more_blocks_than_fit_are_malformed_without_keeping_them() {
        assert_eq!(kind(&[100; 60], 60 * BLOCK, 64 << 10), ErrorKind::Malformed);
        let (_, warnings) = open(&[100; 60], 60 * BLOCK, 64 << 10, true).unwrap();
        assert_eq!(warnings.len(), 1);
    }

    #[test]
    fn a_bat_too_short_for_the_disk_is_malformed() {
        assert_eq!(
            kind(&[UNALLOCATED], BLOCK + 512, 1 << 20),
            ErrorKind::Malformed
        );
        // Entries behind the end of the disk do not count.
        open(&[UNALLOCATED, 0], BLOCK, 1 << 20, false).unwrap();
    }

    #[test]
    fn truncated_bat_is_an_error() {
        let footer = Footer::new(DiskType::Dynamic, BLOCK, [1; 16], 0);
        for entries in [1000, u32::MAX] {
            let header = DynamicHeader::new(1536, entries, BLOCK as u32);
            let error = BlockLayout::new(&footer, &header, 4096).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Truncated);
        }
    }

    #[test]
    fn a_bat_over_the_headers_is_malformed() {
        let footer = Footer::new(DiskType::Dynamic, BLOCK, [1; 16], 0);
        for offset in [0, 512, 1024] {
            let header = DynamicHeader::new(offset, 1, BLOCK as u32);
            let error = BlockLayout::new(&footer, &header, 4096).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Malformed);
        }
    }

    #[test]
    fn too_many_blocks_are_over_the_limit() {
        let footer = Footer::new(DiskType::Dynamic, 2040 << 30, [1; 16], 0);
        let header = DynamicHeader::new(1536, u32::MAX, 65536);
        let error = BlockLayout::new(&footer, &header, u64::MAX).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit);
    }

    #[test]
    fn blocks_that_overlap_are_not_salvaged_as_each_other() {
        let entries = [4, 4, UNALLOCATED];
        let (bat, warnings) = open(&entries, 3 * BLOCK, 1 << 20, true).unwrap();
        assert_eq!(warnings.len(), 1);
        for index in [0, 1] {
            assert_eq!(bat.place(index).unwrap_err().kind(), ErrorKind::Malformed);
        }
    }
}
