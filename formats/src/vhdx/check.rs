//! What reading does not show: both copies of headers and region tables, and all of the BAT.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use super::bat::{BITMAP_BLOCK, BatEntry, BatLayout, ENTRY, Slot};
use super::layer::Structures;
use super::log::LogState;
use super::region_table::{RegionTable, TABLES_AT};
use super::source::units;
use crate::driver::{CheckReport, Finding, OpenContext};
use crate::error::{Error, Result};
use crate::findings::Findings;
use crate::overlap::{Inserted, UnitSet};
use crate::storage::{Storage, StorageRef};

/// What those findings are that are not told one by one.
const OF_THESE: &str = "of this sort";

/// Bytes of the BAT that are read at once.
const PIECE: u64 = 64 << 10;

/// Checks the VHDX in `file`.
///
/// # Errors
/// What keeps it from being looked at; `Io` soon after `cancel` is set.
pub fn check(file: &StorageRef, context: &OpenContext, cancel: &AtomicBool) -> Result<CheckReport> {
    let structures = Structures::read(file, context)?;
    let mut checker = Checker {
        layout: BatLayout::new(&structures.metadata),
        table_offset: structures.regions.bat.offset,
        used: UnitSet::new(&context.budget),
        damage: Findings::default(),
        oddities: Findings::default(),
        counts: [0; 8],
        bitmaps: 0,
        is_complete: true,
        structures: &structures,
    };
    checker.copies();
    checker.log();
    checker.bat(cancel)?;
    Ok(checker.report())
}

struct Checker<'a> {
    structures: &'a Structures,
    layout: BatLayout,
    table_offset: u64,
    /// MiB of the file that something stands in.
    used: UnitSet,
    damage: Findings,
    oddities: Findings,
    /// Blocks of each state.
    counts: [u64; 8],
    /// Sector bitmaps.
    bitmaps: u64,
    /// Whether there was memory for all that is used.
    is_complete: bool,
}

impl Checker<'_> {
    /// Holds the copies of headers and region tables against each other.
    fn copies(&mut self) {
        let headers = &self.structures.headers;
        if let Some(error) = &headers.damage {
            self.damage.add(error);
        }
        if headers.are_equal {
            self.oddities
                .add("both headers have the same sequence number, as disk2vhd writes them");
        }
        let tables = [0, 1].map(|n| RegionTable::read_copy(self.structures.storage.as_ref(), n));
        for error in tables.iter().filter_map(|table| table.as_ref().err()) {
            self.damage.add(error);
        }
        if let [Ok(first), Ok(second)] = &tables
            && first != second
        {
            let error = Error::malformed("region table", "the two copies differ");
            self.damage.add(error.at(TABLES_AT[1]));
        }
    }

    fn log(&mut self) {
        match self.structures.log {
            LogState::Empty | LogState::Clean => {}
            LogState::Replayed { entries, .. } => self.oddities.add(format!(
                "the log was not replayed ({entries} entries): who writes to the file must do that first; \
                 all that is said here is as if it was"
            )),
            LogState::Damaged => self.damage.add("the log cannot be replayed"),
        }
    }

    fn bat(&mut self, cancel: &AtomicBool) -> Result<()> {
        let storage = self.structures.storage.clone();
        let len = self.layout.entries() * ENTRY;
        if len > self.structures.regions.bat.length.into() {
            // Said when the image is opened.
            return Ok(());
        }
        let mut at = 0;
        while at < len {
            if cancel.load(Ordering::Relaxed) {
                return Err(Error::io("check", std::io::ErrorKind::Interrupted.into()));
            }
            let (hole, is_data) = storage.extent(self.table_offset + at, len - at)?;
            if !is_data && hole >= ENTRY {
                let hole = hole / ENTRY * ENTRY;
                self.pass_hole(at / ENTRY..(at + hole) / ENTRY);
                at += hole;
                continue;
            }
            let mut bytes = vec![0; (len - at).min(PIECE) as usize];
            storage.read_at(&mut bytes, self.table_offset + at)?;
            let (entries, _) = bytes.as_chunks::<{ ENTRY as usize }>();
            for (entry, index) in entries.iter().zip(at / ENTRY..) {
                self.entry(
                    storage.as_ref(),
                    index,
                    BatEntry(u64::from_le_bytes(*entry)),
                );
            }
            at += bytes.len() as u64;
        }
        Ok(())
    }

    /// Notes entries that are all zero.
    fn pass_hole(&mut self, indices: Range<u64>) {
        let block = |index| {
            self.layout
                .first_block_from(index)
                .min(self.layout.blocks())
        };
        self.counts[0] += block(indices.end) - block(indices.start);
    }

    fn entry(&mut self, storage: &dyn Storage, index: u64, entry: BatEntry) {
        match self.layout.slot(index) {
            // The last chunk may have room for more than the disk has.
            Slot::Block(block) if block >= self.layout.blocks() => {}
            Slot::Block(block) => {
                self.counts[entry.state_bits() as usize] += 1;
                // Most of a huge disk.
                if matches!(entry, BatEntry(0) | BatEntry::ZERO) {
                    return;
                }
                let name = format!("block {block}");
                if entry.has_reserved_bits() {
                    self.odd(index, &name, "has reserved bits set", entry);
                }
                match self.layout.state(entry) {
                    None => {
                        let why = "has a state that disks of this kind do not have";
                        self.wrong(index, &name, why, entry);
                    }
                    Some(state) if state.is_stored() => {
                        self.place(storage, index, &name, entry, self.layout.visible(block));
                    }
                    // Harmless, but Hyper-V refuses some of them.
                    Some(_) if entry.offset() != 0 => {
                        self.odd(index, &name, "has a place, but nothing stored", entry);
                    }
                    Some(_) => {}
                }
            }
            Slot::Bitmap(chunk) if self.layout.is_differencing => {
                let name = format!("the sector bitmap of chunk {chunk}");
                if entry.is_bitmap_present() {
                    self.bitmaps += 1;
                    self.place(storage, index, &name, entry, BITMAP_BLOCK);
                } else if entry.0 != 0 {
                    self.wrong(index, &name, "has a state that does not exist", entry);
                }
            }
            Slot::Bitmap(chunk) if entry.0 != 0 => {
                let name = format!("the sector bitmap of chunk {chunk}");
                let why = "is not used, but its entry is set: old versions of QEMU did that";
                self.odd(index, &name, why, entry);
            }
            Slot::Bitmap(_) => {}
        }
    }

    /// Looks whether `len` bytes are a place of their own.
    fn place(&mut self, storage: &dyn Storage, index: u64, name: &str, entry: BatEntry, len: u64) {
        let offset = entry.offset();
        if offset.saturating_add(len) > storage.len() {
            return self.wrong(index, name, "is past the end of the file", entry);
        }
        if let Some(other) = self.structures.areas.hit(offset, len) {
            let why = format!("stands in the place of the {other}");
            return self.wrong(index, name, &why, entry);
        }
        let mut is_taken = false;
        for unit in units(offset, len) {
            match self.used.insert(unit) {
                Inserted::New => {}
                Inserted::Known => is_taken = true,
                Inserted::Full => self.is_complete = false,
            }
        }
        if is_taken {
            self.wrong(index, name, "stands where another one does", entry);
        }
    }

    fn message(&self, index: u64, name: &str, why: &str, entry: BatEntry) -> Error {
        Error::malformed("BAT", format!("{name} {why}"))
            .at(self.table_offset + index * ENTRY)
            .found(format!("{:#x}", entry.0))
    }

    fn wrong(&mut self, index: u64, name: &str, why: &str, entry: BatEntry) {
        self.damage.add(self.message(index, name, why, entry));
    }

    fn odd(&mut self, index: u64, name: &str, why: &str, entry: BatEntry) {
        self.oddities.add(self.message(index, name, why, entry));
    }

    fn report(mut self) -> CheckReport {
        if !self.is_complete {
            self.oddities
                .add("not all blocks could be held against each other: there are too many");
        }
        let [
            not_present,
            undefined,
            zero,
            unmapped,
            _,
            unmapped_once,
            full,
            partial,
        ] = self.counts;
        let findings = self
            .damage
            .told(OF_THESE, Finding::damage)
            .chain(self.oddities.told(OF_THESE, Finding::oddity))
            .collect();
        CheckReport {
            findings,
            counts: vec![
                ("blocks_fully_present", full),
                ("blocks_partially_present", partial),
                ("blocks_zero", zero + undefined + unmapped + unmapped_once),
                ("blocks_not_present", not_present),
                ("sector_bitmaps", self.bitmaps),
            ],
            ..CheckReport::default()
        }
    }
}
