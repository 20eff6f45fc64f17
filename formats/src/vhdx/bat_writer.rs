//! Writing the BAT: page by page, so that the table of a large disk is never in memory as a whole.

use std::borrow::Cow;

use super::bat::{BatEntry, BatLayout, ENTRY, Slot};
use crate::block_set::BlockSet;
use crate::error::{Error, Result};
use crate::storage::WritableStorage;
use crate::target::TableWrite;

/// Entries of a page: 64 KiB.
const PER_PAGE: u64 = 8192;

/// A BAT that is being written.
pub struct BatWriter {
    layout: BatLayout,
    offset: u64,
    /// From this block on, those that nothing was said of are zeros; before, they are not present.
    zeros_from: u64,
    /// The page that is being filled, and its number.
    open: Option<(u64, Vec<u64>)>,
    /// Pages that were handed out.
    done: BlockSet,
    ready: Vec<TableWrite>,
}

impl BatWriter {
    /// The table of `layout` at byte `offset` of the file. Blocks that nothing is said of are not present, those from
    /// `zeros_from` on zeros.
    pub fn new(layout: BatLayout, offset: u64, zeros_from: u64) -> BatWriter {
        BatWriter {
            done: BlockSet::new(pages(&layout)),
            layout,
            offset,
            zeros_from,
            open: None,
            ready: Vec::new(),
        }
    }

    /// Puts `entry` at `index`. Indices never go back by more than a page.
    ///
    /// # Errors
    /// `Malformed` when they do, `Limit` behind the end of the table.
    pub fn set(&mut self, index: u64, entry: BatEntry) -> Result<()> {
        let number = index / PER_PAGE;
        if index >= self.layout.entries_with_bitmaps() {
            return Err(Error::limit("BAT", "the block is past the end of the disk").found(index));
        }
        if self.open.as_ref().is_none_or(|(open, _)| *open != number) {
            self.close();
            if self.done.contains(number) {
                return Err(
                    Error::malformed("BAT", "a block was placed behind its turn")
                        .found(format!("entry {index}"))
                        .expected("ascending offsets"),
                );
            }
            self.open = Some((number, self.untouched(number)));
        }
        let page = self.open.as_mut().map(|(_, page)| page);
        if let Some(place) = page.and_then(|page| page.get_mut((index % PER_PAGE) as usize)) {
            *place = entry.0;
        }
        Ok(())
    }

    /// Page `number` as it is when nothing was said of any of its blocks.
    fn untouched(&self, number: u64) -> Vec<u64> {
        let first = number * PER_PAGE;
        let zeros = self.zeros_from..self.layout.blocks();
        (first..first + PER_PAGE)
            .map(|index| match self.layout.slot(index) {
                Slot::Block(block) if zeros.contains(&block) => BatEntry::ZERO.0,
                _ => 0,
            })
            .collect()
    }

    fn close(&mut self) {
        if let Some((number, page)) = self.open.take() {
            self.done.insert(number);
            self.ready.push(TableWrite {
                offset: self.page_offset(number),
                bytes: Cow::Owned(to_bytes(&page)),
            });
        }
    }

    fn page_offset(&self, number: u64) -> u64 {
        self.offset + number * PER_PAGE * ENTRY
    }

    /// Pages that are complete.
    pub fn take(&mut self) -> Vec<TableWrite> {
        std::mem::take(&mut self.ready)
    }

    /// Writes all pages that were not taken.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn finish(mut self, out: &dyn WritableStorage) -> Result<()> {
        self.close();
        for page in &self.ready {
            out.write_at(&page.bytes, page.offset)?;
        }
        if self.zeros_from >= self.layout.blocks() {
            return Ok(());
        }
        let first = self.layout.block_index(self.zeros_from) / PER_PAGE;
        let numbers = first..pages(&self.layout);
        for number in numbers.filter(|number| !self.done.contains(*number)) {
            let page = self.untouched(number);
            out.write_at(&to_bytes(&page), self.page_offset(number))?;
        }
        Ok(())
    }
}

fn pages(layout: &BatLayout) -> u64 {
    layout.entries_with_bitmaps().div_ceil(PER_PAGE)
}

fn to_bytes(page: &[u64]) -> Vec<u8> {
    page.iter().flat_map(|entry| entry.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::storage::MemoryTarget;

    /// 40 blocks of 256 MiB: two chunks of 16 and one of 8.
    const SMALL: BatLayout = BatLayout {
        disk_size: 10 << 30,
        block_size: 256 << 20,
        sector_size: 512,
        is_differencing: false,
    };

    #[test]
    fn blocks_are_zeros_and_bitmaps_are_not_there_unless_something_is_said() {
        let mut writer = BatWriter::new(SMALL, 0, 0);
        writer.set(1, BatEntry::fully_present(4 << 20)).unwrap();
        let out = MemoryTarget::default();
        writer.finish(&out).unwrap();
        let bytes = out.into_bytes();
        let entries: Vec<u64> = (bytes.as_chunks().0.iter())
            .map(|entry| u64::from_le_bytes(*entry))
            .collect();
        assert_eq!(entries[..3], [2, 4 << 20 | 6, 2]);
        // The bitmaps, and what is behind the disk.
        assert_eq!([entries[16], entries[33], entries[42], entries[50]], [0; 4]);
        assert_eq!(entries.iter().filter(|entry| **entry == 2).count(), 39);
    }

    #[test]
    fn blocks_before_the_zeros_are_not_present() {
        for zeros_from in [0, 17, 39, 40, 41] {
            let out = MemoryTarget::default();
            BatWriter::new(SMALL, 0, zeros_from).finish(&out).unwrap();
            let bytes = out.into_bytes();
            let entries = bytes.as_chunks::<8>().0;
            let zeros = entries.iter().filter(|entry| entry[0] == 2).count();
            assert_eq!(zeros as u64, 40u64.saturating_sub(zeros_from));
        }
    }

    #[test]
    fn pages_are_handed_out_and_written_once() {
        let layout = BatLayout {
            disk_size: 64 << 30,
            block_size: 1 << 20,
            ..SMALL
        };
        let mut writer = BatWriter::new(layout, 1 << 20, 0);
        writer.set(0, BatEntry(6)).unwrap();
        writer.set(PER_PAGE - 1, BatEntry(6)).unwrap();
        assert!(writer.take().is_empty());
        writer.set(3 * PER_PAGE, BatEntry(6)).unwrap();
        let taken = writer.take();
        assert_eq!((taken.len(), taken[0].offset), (1, 1 << 20));
        assert_eq!(
            writer.set(1, BatEntry(6)).unwrap_err().kind(),
            ErrorKind::Malformed
        );
        let past = layout.entries_with_bitmaps();
        assert_eq!(
            writer.set(past, BatEntry(6)).unwrap_err().kind(),
            ErrorKind::Limit
        );
        let out = MemoryTarget::default();
        writer.finish(&out).unwrap();
        let bytes = out.into_bytes();
        // The first page was taken.
        assert!(bytes[1 << 20..][..1 << 16].iter().all(|byte| *byte == 0));
        assert_eq!(bytes[(1 << 20) + (1 << 16)], 2);
        assert_eq!(bytes.len(), (1 << 20) + 9 * (1 << 16));
    }
}
