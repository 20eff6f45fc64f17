//! What only looking at all of the block map shows: how many blocks there are, and which of them nobody names.

use std::sync::atomic::{AtomicBool, Ordering};

use super::block_map::{self, Entry};
use super::header::{ENTRY, Header};
use crate::budget::Budget;
use crate::driver::{CheckReport, Finding, OpenContext};
use crate::error::{Error, Result};
use crate::findings::Findings;
use crate::overlap::{Inserted, UnitSet};
use crate::storage::{Storage, StorageRef};

/// Bytes of the block map that are read at once.
const PIECE: u64 = 64 << 10;

/// Checks the block map of the image in `storage`.
///
/// # Errors
/// What keeps it from being looked at.
pub fn check(
    storage: &StorageRef,
    context: &OpenContext,
    cancel: &AtomicBool,
) -> Result<CheckReport> {
    let header = Header::read(storage.as_ref())?;
    block_map::check_length(&header, storage.len())?;
    let mut checker = Checker::new(&header, storage.len(), &context.budget);
    checker.read_map(storage.as_ref(), cancel)?;
    Ok(checker.into_report())
}

struct Checker<'a> {
    header: &'a Header,
    file_len: u64,
    blocks: UnitSet,
    /// Whether there was no room to remember a block.
    is_forgetful: bool,
    named: u64,
    distinct: u64,
    discarded: u64,
    uncounted: Findings,
    missing: Findings,
    duplicate: Findings,
}

impl<'a> Checker<'a> {
    fn new(header: &'a Header, file_len: u64, budget: &Budget) -> Checker<'a> {
        Checker {
            header,
            file_len,
            blocks: UnitSet::new(budget),
            is_forgetful: false,
            named: 0,
            distinct: 0,
            discarded: 0,
            uncounted: Findings::default(),
            missing: Findings::default(),
            duplicate: Findings::default(),
        }
    }

    fn read_map(&mut self, storage: &dyn Storage, cancel: &AtomicBool) -> Result<()> {
        let mut piece = vec![0; PIECE as usize];
        let mut done = 0;
        while done < self.header.map_len() {
            if cancel.load(Ordering::Relaxed) {
                return Err(Error::refused("check", "was cancelled"));
            }
            let len = (self.header.map_len() - done).min(PIECE);
            piece.truncate(len as usize);
            storage.read_at(&mut piece, self.header.map_offset + done)?;
            let (entries, _) = piece.as_chunks::<4>();
            for (entry, index) in entries.iter().zip(done / ENTRY..) {
                match Entry::from(*entry) {
                    Entry::Unallocated => {}
                    Entry::Discarded => self.discarded += 1,
                    Entry::Block(block) => self.block(index, block),
                }
            }
            done += len;
        }
        Ok(())
    }

    /// Takes note that block `index` of the disk stands at `block` of the file.
    fn block(&mut self, index: u64, block: u32) {
        let at = self.header.map_offset + index * ENTRY;
        self.named += 1;
        if block >= self.header.allocated {
            let wrong = || block_map::uncounted(self.header, block);
            self.uncounted.add_at(at, 1, wrong);
        }
        let start = self.header.block_offset(block);
        let size = u64::from(self.header.block_size);
        // Of the last block of the disk only what the guest sees has to be there.
        let rest = self.header.disk_size.saturating_sub(index * size);
        if start.saturating_add(rest.min(size)) > self.file_len {
            let wrong = || block_map::past_the_end(block, start, self.file_len);
            self.missing.add_at(at, 1, wrong);
            return;
        }
        match self.blocks.insert(block.into()) {
            Inserted::New => self.distinct += 1,
            Inserted::Full => self.is_forgetful = true,
            Inserted::Known => self.duplicate.add_at(at, 1, || {
                Error::malformed("block map", "two blocks stand in one place")
                    .found(format!("block {block} of the file, again"))
            }),
        }
    }

    fn into_report(self) -> CheckReport {
        let mut report = CheckReport {
            counts: vec![
                ("allocated_blocks", self.named),
                ("discarded_blocks", self.discarded),
            ],
            ..CheckReport::default()
        };
        let allocated = u64::from(self.header.allocated);
        let sorts = [
            ("out_of_file", self.missing),
            ("duplicates", self.duplicate),
            ("not_allocated", self.uncounted),
        ];
        for (name, sort) in sorts {
            if sort.count() == 0 {
                continue;
            }
            let told = sort.told("entries of this sort", Finding::damage);
            report.findings.extend(told);
            report.counts.push((name, sort.count()));
            report.places.push((name, sort.places().to_vec()));
        }
        // What makes reading safe: everything that an entry names is there and belongs to it alone.
        report.is_map_sound = report.findings.is_empty() && !self.is_forgetful;
        if self.is_forgetful {
            report.findings.push(Finding::oddity(
                "there are too many blocks to know whether two stand in one place".to_owned(),
            ));
        } else if self.distinct < allocated {
            let message = format!(
                "the header counts {allocated} allocated blocks, the block map names {}: the rest of the file belongs to nobody",
                self.distinct
            );
            report.findings.push(Finding::oddity(message));
            report
                .counts
                .push(("unreferenced", allocated - self.distinct));
        }
        report
    }
}
