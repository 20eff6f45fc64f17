//! Another size for a disk where it stands ([MS-VHDX] 2.6.2.2).
//!
//! The size is one item of the metadata, inside one sector: it is old or new. Before it, the headers get new ids, so that
//! nobody takes the file for what it was, and the BAT its room: in its region, or in a new one behind the end of the file,
//! which the two region tables name one after the other.

use std::ops::Range;

use uuid::Uuid;

use super::bat::{BatEntry, BatLayout, ENTRY};
use super::header::{HEADERS_AT, Header, Headers, MIB};
use super::layer::Structures;
use super::log::LogState;
use super::metadata::{MAX_DISK_SIZE, Metadata};
use super::region_table::{RegionTable, TABLES_AT};
use crate::driver::OpenContext;
use crate::error::{Error, Result};
use crate::in_place::Plan;
use crate::storage::{StorageRef, read_array};

/// Bytes that are written as a whole or not at all.
const SECTOR: u64 = 512;

/// How the disk in `storage` gets `size` bytes, rounded up to its logical sectors.
///
/// # Errors
/// `Limit` for more than 64 TiB, `Refused` for a file that was not closed properly or is damaged, and what is wrong with it.
pub fn resize(storage: &StorageRef, size: u64) -> Result<Plan> {
    let structures = whole(storage)?;
    let sector = structures.metadata.logical_sector_size.into();
    let rounded = size.checked_next_multiple_of(sector);
    let Some(size) = rounded.filter(|size| *size <= MAX_DISK_SIZE) else {
        return Err(Error::limit("disk", "is too large for a VHDX")
            .found(format!("{size} bytes"))
            .expected("at most 64 TiB"));
    };
    let mut change = Change::new(storage, &structures, size);
    change.renew_headers(&structures.headers);
    if change.new.blocks() > change.old.blocks() {
        change.with_larger_bat(&structures.regions)?;
    }
    change.write_size(&structures)?;
    Ok(change.plan)
}

/// How all blocks of `range` of the disk in `storage` get a place in it.
///
/// # Errors
/// As [`resize`].
pub fn allocate(storage: &StorageRef, range: Range<u64>) -> Result<Plan> {
    let structures = whole(storage)?;
    let layout = BatLayout::new(&structures.metadata);
    let mut change = Change::new(storage, &structures, layout.disk_size);
    let blocks = range.start / layout.block_size..range.end.div_ceil(layout.block_size);
    let bat = structures.regions.bat.offset;
    let mut entries = Vec::new();
    for block in blocks.start..blocks.end.min(layout.blocks()) {
        let at = bat + layout.block_index(block) * ENTRY;
        let entry = BatEntry(u64::from_le_bytes(read_array(storage.as_ref(), at)?));
        if layout.state(entry).is_some_and(|state| !state.is_stored()) {
            entries.push((at, BatEntry::fully_present(change.end)));
            change.end = change
                .end
                .checked_add(layout.block_size)
                .ok_or_else(|| too_long(block))?;
        }
    }
    if entries.is_empty() {
        return Ok(change.plan);
    }
    change.renew_headers(&structures.headers);
    change.plan.set_len(0, change.end);
    change.plan.sync();
    for (at, entry) in entries {
        change.plan.write(at, entry.0.to_le_bytes());
    }
    change.plan.sync();
    Ok(change.plan)
}

/// The structures of a file that was closed properly.
fn whole(storage: &StorageRef) -> Result<Structures> {
    let structures = Structures::read(storage, &OpenContext::default())?;
    let is_closed = matches!(structures.log, LogState::Empty | LogState::Clean);
    if is_closed && structures.headers.damage.is_none() {
        return Ok(structures);
    }
    Err(Error::refused("file", "was not closed properly, or is damaged").hint(
        "open it once where it belongs (Hyper-V), or let \"qemu-img check -r all\" replay its log",
    ))
}

struct Change<'a> {
    storage: &'a StorageRef,
    old: BatLayout,
    new: BatLayout,
    is_fixed: bool,
    /// Where what is added to the file goes: a multiple of 1 MiB.
    end: u64,
    plan: Plan,
}

impl<'a> Change<'a> {
    fn new(storage: &'a StorageRef, structures: &Structures, size: u64) -> Change<'a> {
        let old = BatLayout::new(&structures.metadata);
        Change {
            storage,
            old,
            new: BatLayout {
                disk_size: size,
                ..old
            },
            is_fixed: structures.metadata.leaves_blocks_allocated,
            end: storage.len().next_multiple_of(MIB),
            plan: Plan::new(size),
        }
    }

    /// Writes both headers, the one that does not count first ([MS-VHDX] 2.2.2).
    fn renew_headers(&mut self, headers: &Headers) {
        let is_first =
            Header::read_copy(self.storage.as_ref(), 0).is_ok_and(|h| h == headers.current);
        let order = match is_first {
            true => [1, 0],
            false => [0, 1],
        };
        let (file_write_guid, data_write_guid) = (Uuid::new_v4(), Uuid::new_v4());
        for (number, index) in (1..).zip(order) {
            let header = Header {
                sequence_number: headers.current.sequence_number.saturating_add(number),
                file_write_guid,
                data_write_guid,
                // Entries that change nothing now would undo what is changed.
                log_guid: Uuid::nil(),
                ..headers.current.clone()
            };
            let at = HEADERS_AT.get(index).copied().unwrap_or_default();
            self.plan.write(at, header.to_bytes());
            self.plan.sync();
        }
    }

    fn with_larger_bat(&mut self, regions: &RegionTable) -> Result<()> {
        let len = self.new.entries() * ENTRY;
        let mut bat = regions.bat;
        if len > bat.length.into() {
            let length = u32::try_from(len.next_multiple_of(MIB));
            bat.length = length.map_err(|_| too_long(len))?;
            bat.offset = self.end;
            self.end += u64::from(bat.length);
            self.plan.set_len(0, self.end);
            let known = self.old.entries() * ENTRY;
            self.plan
                .copy(regions.bat.offset, bat.offset, known.min(len));
        }
        self.clear_entries(bat.offset);
        if self.is_fixed {
            self.allocate(bat.offset)?;
        }
        self.plan.sync();
        if bat != regions.bat {
            let mut regions = regions.clone();
            regions.replace_bat(bat);
            for at in TABLES_AT {
                self.plan.write(at, regions.to_bytes());
                self.plan.sync();
            }
        }
        Ok(())
    }

    /// Takes the places from all blocks that are new: as in a new disk of Hyper-V. The bitmap of the last chunk stays.
    fn clear_entries(&mut self, bat: u64) {
        let first = self.old.block_index(self.old.blocks());
        let end = self.new.entries();
        let mut from = first;
        if let Some(chunk) = self.old.chunks().checked_sub(1) {
            let bitmap = self.old.bitmap_index(chunk);
            if (first..end).contains(&bitmap) {
                self.fill_entries(bat, first..bitmap);
                from = bitmap + 1;
            }
        }
        self.fill_entries(bat, from..end);
    }

    fn fill_entries(&mut self, bat: u64, entries: Range<u64>) {
        let len = entries.end.saturating_sub(entries.start) * ENTRY;
        self.plan.zero(bat + entries.start * ENTRY, len);
    }

    /// Gives places behind the end of the file to all blocks that are new.
    fn allocate(&mut self, bat: u64) -> Result<()> {
        let (first, blocks) = (self.old.blocks(), self.new.blocks());
        let mut written: Vec<u8> = Vec::new();
        let mut from = self.new.block_index(first);
        for block in first..blocks {
            let index = self.new.block_index(block);
            if index * ENTRY != from * ENTRY + written.len() as u64 {
                self.plan
                    .write(bat + from * ENTRY, std::mem::take(&mut written));
                from = index;
            }
            written.extend(BatEntry::fully_present(self.end).0.to_le_bytes());
            self.end = self
                .end
                .checked_add(self.new.block_size)
                .ok_or_else(|| too_long(blocks))?;
        }
        self.plan.write(bat + from * ENTRY, written);
        self.plan.set_len(0, self.end);
        Ok(())
    }

    fn write_size(&mut self, structures: &Structures) -> Result<()> {
        let region = &structures.regions.metadata;
        let at = Metadata::disk_size_at(self.storage.as_ref(), region)?;
        if at % SECTOR > SECTOR - 8 {
            return Err(Error::unsupported(
                "metadata",
                "the size of the disk lies across two sectors",
            )
            .at(at)
            .hint("convert --size makes a copy of another size"));
        }
        self.plan.sync();
        self.plan.write(at, self.new.disk_size.to_le_bytes());
        self.plan.sync();
        Ok(())
    }
}

fn too_long(len: u64) -> Error {
    Error::limit("BAT", "would be longer than a region can be").found(len)
}
