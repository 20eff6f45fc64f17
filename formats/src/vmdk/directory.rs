//! The upper table of a sparse extent: for every grain table where it stands.

use super::SECTOR;
use crate::block_set::BlockSet;
use crate::driver::OpenContext;
use crate::error::{Error, Result};
use crate::overlap::{Areas, Inserted, UnitSet};
use crate::storage::StorageRef;
use crate::table::PagedTable;

/// What an entry of the directory says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TablePlace {
    /// None of its grains is there.
    Absent,
    /// All of its grains are zeros.
    Zero,
    /// The grain table stands at this byte offset.
    At(u64),
}

/// What an entry means: its bytes, as a little-endian number.
pub type ReadEntry = Box<dyn Fn(u64) -> Result<TablePlace> + Send + Sync>;

/// How a directory is laid out.
pub struct DirectoryLayout {
    /// The name for messages.
    pub name: &'static str,
    /// Byte offset of the directory.
    pub offset: u64,
    /// Its entries.
    pub entries: u64,
    /// Bytes of an entry: 4 or 8.
    pub entry_size: u64,
    /// Bytes of a grain table.
    pub table_size: u64,
    /// What an entry means.
    pub read: ReadEntry,
}

/// A directory that was looked through: every table has a place of its own, or is an error where it is asked for.
pub struct Directory {
    layout: DirectoryLayout,
    entries: PagedTable,
    storage: StorageRef,
    /// Tables that are not absent.
    present: BlockSet,
    /// Sectors that grain tables stand in.
    pub(super) sectors: UnitSet,
    /// Entries whose table another entry has too.
    shared: BlockSet,
    any_shared: bool,
}

impl Directory {
    /// Looks through the directory that `layout` describes.
    ///
    /// # Errors
    /// `Truncated` when it is not inside the file, `Limit` when too many directories are open to keep track of all.
    pub fn open(
        storage: StorageRef,
        layout: DirectoryLayout,
        context: &OpenContext,
    ) -> Result<Directory> {
        let entries = PagedTable::new(
            storage.clone(),
            layout.name,
            layout.offset,
            layout.entries,
            layout.entry_size,
        )?;
        // Two sets of one bit an entry.
        if !context.budget.take(layout.entries / 4) {
            return Err(Error::limit(
                layout.name,
                "the extents of the disk have too many grain tables together",
            ));
        }
        let count = layout.entries;
        let mut directory = Directory {
            layout,
            entries,
            storage,
            present: BlockSet::new(count),
            sectors: UnitSet::new(&context.budget),
            shared: BlockSet::new(count),
            any_shared: false,
        };
        for index in 0..count {
            match directory.entry(index) {
                Ok(TablePlace::Absent) => {}
                Ok(TablePlace::Zero) => directory.present.insert(index),
                Ok(TablePlace::At(offset)) => {
                    directory.present.insert(index);
                    directory.note(index, offset);
                }
                // Said when the table is asked for.
                Err(_) => directory.present.insert(index),
            }
        }
        Ok(directory)
    }

    fn note(&mut self, index: u64, offset: u64) {
        // What is not there is said when it is asked for; noting it would take memory that no file stands behind.
        if offset >= self.storage.len() {
            return;
        }
        let first = offset / SECTOR;
        for sector in first..first + self.layout.table_size.div_ceil(SECTOR) {
            if self.sectors.insert(sector) == Inserted::Known {
                self.shared.insert(index);
                self.any_shared = true;
                // The rest of it is of no use, and looking would make many entries for one table costly.
                return;
            }
        }
    }

    /// The first grain table at `index` or later that is not absent.
    pub fn next_present(&self, index: u64) -> Option<u64> {
        self.present.next(index)
    }

    /// Where the directory itself stands: offset and length in bytes.
    pub fn place(&self) -> (u64, u64) {
        (
            self.layout.offset,
            self.layout.entries * self.layout.entry_size,
        )
    }

    fn entry(&self, index: u64) -> Result<TablePlace> {
        let entry = match self.layout.entry_size {
            8 => u64::from_le_bytes(self.entries.bytes(index.saturating_mul(8))?),
            _ => u32::from_le_bytes(self.entries.bytes(index.saturating_mul(4))?).into(),
        };
        (self.layout.read)(entry).map_err(|e| e.at(self.entry_offset(index)))
    }

    fn entry_offset(&self, index: u64) -> u64 {
        self.layout
            .offset
            .saturating_add(index.saturating_mul(self.layout.entry_size))
    }

    /// The place of grain table `index`, inside the file and clear of `areas` and of other tables.
    ///
    /// # Errors
    /// `Truncated` or `Malformed` when it is not.
    pub fn table(&self, index: u64, areas: &Areas) -> Result<TablePlace> {
        let place = self.entry(index)?;
        let TablePlace::At(offset) = place else {
            return Ok(place);
        };
        let wrong = |error: Error| {
            Err(error
                .at(self.entry_offset(index))
                .found(format!("grain table {index} at byte {offset}")))
        };
        if offset.saturating_add(self.layout.table_size) > self.storage.len() {
            return wrong(
                Error::truncated(
                    self.layout.name,
                    "a grain table is past the end of the file",
                )
                .expected(format!("an end at or before byte {}", self.storage.len()))
                .hint(
                    "the file is cut off; find the whole one, or read what is left with --salvage",
                ),
            );
        }
        if let Some(other) = areas.hit(offset, self.layout.table_size) {
            return wrong(Error::malformed(
                self.layout.name,
                format!("a grain table overlaps {other}"),
            ));
        }
        if self.any_shared && self.shared.next(index) == Some(index) {
            return wrong(Error::malformed(
                self.layout.name,
                "a grain table overlaps another one",
            ));
        }
        Ok(place)
    }
}
