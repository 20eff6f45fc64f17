//! Lays out a new hosted sparse extent: header, both directories with all grain tables, then grains as they come.

use std::borrow::Cow;

use super::SECTOR;
use super::header::{FLAG_NEWLINE_TEST, FLAG_REDUNDANT, SparseHeader, USUAL_TABLE_ENTRIES};
use crate::error::{Error, Result};
use crate::storage::WritableStorage;
use crate::target::{Placement, TableWrite};

/// Guest bytes of a grain in every file that products write.
pub const GRAIN: u64 = 64 << 10;

/// Where the descriptor stands, and room for it: what VMware keeps.
pub const DESCRIPTOR: (u64, u64) = (SECTOR, 20 * SECTOR);

const TABLE_SIZE: u64 = USUAL_TABLE_ENTRIES as u64 * 4;

/// Guest bytes that a grain table covers.
pub const COVERAGE: u64 = USUAL_TABLE_ENTRIES as u64 * GRAIN;

/// A hosted sparse extent that is being written, at `base` of the target.
pub struct SparseLayout {
    capacity: u64,
    base: u64,
    has_descriptor: bool,
    /// File offset of the first grain.
    overhead: u64,
    /// Grains that were placed.
    grains: u64,
    /// The grain table that the guest offset is in: its number and entries.
    table: Option<(u64, Vec<u32>)>,
    ready: Vec<TableWrite>,
}

impl SparseLayout {
    /// The layout of an extent of `capacity` guest bytes.
    ///
    /// # Errors
    /// `Limit` when a file with all its grains would be longer than 2 TiB: entries are sectors in 32 bits.
    pub fn new(capacity: u64, base: u64, has_descriptor: bool) -> Result<SparseLayout> {
        let mut layout = SparseLayout {
            capacity,
            base,
            has_descriptor,
            overhead: 0,
            grains: 0,
            table: None,
            ready: Vec::new(),
        };
        layout.overhead = layout
            .tables_end(layout.directory())
            .next_multiple_of(GRAIN);
        let full = layout.overhead + capacity.next_multiple_of(GRAIN);
        if full / SECTOR > u64::from(u32::MAX) {
            return Err(
                Error::limit("vmdk", "the disk is too large for one sparse file")
                    .found(format!("{capacity} bytes"))
                    .expected("less than 2 TiB")
                    .hint("-o subformat=twoGbMaxExtentSparse, vmfs or streamOptimized can hold it"),
            );
        }
        Ok(layout)
    }

    fn tables(&self) -> u64 {
        self.capacity.div_ceil(COVERAGE)
    }

    /// Where the redundant directory stands: it comes first, as in VMware's own files.
    fn redundant_directory(&self) -> u64 {
        let (offset, room) = DESCRIPTOR;
        if self.has_descriptor {
            offset + room
        } else {
            SECTOR
        }
    }

    fn directory(&self) -> u64 {
        self.tables_end(self.redundant_directory())
    }

    /// Where the grain tables behind the directory at `directory` start.
    fn tables_start(&self, directory: u64) -> u64 {
        directory + (self.tables() * 4).next_multiple_of(SECTOR)
    }

    fn tables_end(&self, directory: u64) -> u64 {
        self.tables_start(directory) + self.tables() * TABLE_SIZE
    }

    /// Finds the place for the first of the `len` guest bytes at `offset` of this extent.
    pub fn place(&mut self, offset: u64, len: u64) -> Placement {
        let first = offset / GRAIN;
        let wanted = (offset + len - 1) / GRAIN - first + 1;
        let mut entries = self.open_table(offset / COVERAGE);
        let within = (first % u64::from(USUAL_TABLE_ENTRIES)) as usize;
        // Grains in a row, as long as this table maps them.
        let (mut count, mut start) = (0, 0);
        for entry in entries.iter_mut().skip(within).take(wanted as usize) {
            let expected = start + count * GRAIN;
            let free = self.overhead + self.grains * GRAIN;
            let known = u64::from(*entry) * SECTOR;
            let place = if *entry == 0 { free } else { known };
            if count > 0 && place != expected {
                break;
            }
            if *entry == 0 {
                // Below 2^32 sectors: checked for a full extent.
                *entry = (free / SECTOR) as u32;
                self.grains += 1;
            }
            if count == 0 {
                start = place;
            }
            count += 1;
        }
        self.table = Some((offset / COVERAGE, entries));
        let skip = offset % GRAIN;
        Placement {
            offset: self.base + start + skip,
            len: len.min(count * GRAIN - skip),
        }
    }

    /// The grain table `index`; one that was filled before is handed out.
    fn open_table(&mut self, index: u64) -> Vec<u32> {
        match self.table.take() {
            Some((open, entries)) if open == index => return entries,
            other => self.table = other,
        }
        self.close_table();
        vec![0; USUAL_TABLE_ENTRIES as usize]
    }

    fn close_table(&mut self) {
        let Some((index, entries)) = self.table.take() else {
            return;
        };
        let bytes: Vec<u8> = entries.iter().flat_map(|e| e.to_le_bytes()).collect();
        for directory in [self.redundant_directory(), self.directory()] {
            self.ready.push(TableWrite {
                offset: self.base + self.tables_start(directory) + index * TABLE_SIZE,
                bytes: Cow::Owned(bytes.clone()),
            });
        }
    }

    /// Grain tables that are complete.
    pub fn take_tables(&mut self) -> Vec<TableWrite> {
        std::mem::take(&mut self.ready)
    }

    /// Writes what is left: tables, directories, `descriptor`, header; answers the length of the file.
    ///
    /// # Errors
    /// Those of the storage, and `Limit` for a descriptor that has no room.
    pub fn finish(mut self, descriptor: &str, out: &dyn WritableStorage) -> Result<u64> {
        self.close_table();
        for table in self.take_tables() {
            out.write_at(&table.bytes, table.offset)?;
        }
        for directory in [self.redundant_directory(), self.directory()] {
            let first = self.tables_start(directory) / SECTOR;
            let entries = (0..self.tables()).map(|n| (first + n * (TABLE_SIZE / SECTOR)) as u32);
            let bytes: Vec<u8> = entries.flat_map(|entry| entry.to_le_bytes()).collect();
            out.write_at(&bytes, self.base + directory)?;
        }
        let len = self.overhead + self.grains * GRAIN;
        out.set_len(self.base + len)?;
        if self.has_descriptor {
            out.write_at(&descriptor_area(descriptor)?, self.base + DESCRIPTOR.0)?;
        }
        out.write_at(&self.header().to_bytes(), self.base)?;
        Ok(len)
    }

    fn header(&self) -> SparseHeader {
        SparseHeader {
            version: 1,
            flags: FLAG_NEWLINE_TEST | FLAG_REDUNDANT,
            capacity: self.capacity,
            grain_size: GRAIN,
            descriptor: if self.has_descriptor {
                DESCRIPTOR
            } else {
                (0, 0)
            },
            table_entries: USUAL_TABLE_ENTRIES,
            redundant: Some(self.redundant_directory()),
            directory: Some(self.directory()),
            overhead: self.overhead,
            unclean: false,
        }
    }
}

/// A descriptor with the zeros behind it.
///
/// # Errors
/// `Limit` when it is longer than the place that is kept for it.
pub fn descriptor_area(text: &str) -> Result<Vec<u8>> {
    let room = DESCRIPTOR.1 as usize;
    if text.len() > room {
        return Err(Error::limit("descriptor", "does not fit into its place")
            .found(format!("{} bytes", text.len()))
            .expected(format!("at most {room}"))
            .hint("choose a shorter file name"));
    }
    let mut area = text.as_bytes().to_vec();
    area.resize(room, 0);
    Ok(area)
}
