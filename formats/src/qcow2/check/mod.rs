//! Checking: how often every cluster of the file is used, held against the refcounts (qcow2 spec, "Host cluster
//! management").
//!
//! ```text
//!  layout ── where the tables stand ──► l1 ── each L2 table once, with its uses ──► l2 ── each entry ─┐
//!     └────────── tables themselves ──────────────────┴────────────────────────────────────► counts ◄─┘
//!                                                                       stored ──► compare ◄────┘
//! ```
//!
//! Memory is bounded and time is linear, whatever the image says: uses are counted in windows of the file that fit into
//! memory, an L2 table that is named a million times is read once and counts a million times, tables that stand on
//! each other are not followed, and holes are not read.
//!
//! | file | what it does |
//! |---|---|
//! | `layout` | finds the tables that others are found through |
//! | `l1`, `l2` | goes from entry to entry |
//! | `counts` | uses of clusters, in bounded memory |
//! | `stored` | refcounts of the file: blocks and lookups |
//! | `compare` | uses against refcounts |
//! | `repair` | lowers refcounts, sets flags |
//! | `chunks`, `tally` | reading tables with holes; findings by kind |

mod chunks;
mod compare;
mod counts;
mod l1;
mod l2;
mod layout;
mod repair;
mod stored;
mod tally;

use std::sync::atomic::AtomicBool;

use self::chunks::Chunks;
use self::compare::Comparison;
use self::counts::{Counts, Use};
use self::l1::{L2Table, L2Tables};
use self::l2::{Entries, Mapped};
use self::layout::Layout;
use self::stored::{Block, Stored};
use self::tally::{Kind, Tally};
use super::bitmaps::BitmapPart;
use super::features::{self, DIRTY};
use super::header::{FULL_LENGTH, Header};
use super::l2::L2Format;
use crate::driver::{CheckReport, Finding, Repaired};
use crate::error::{Error, Result};
use crate::in_place::InPlace;
use crate::storage::StorageRef;

/// Checks the image in `storage`; setting `cancel` ends it with an error.
///
/// # Errors
/// What is wrong with the header, and those of the storage. All other damage is no error, it is the answer.
pub fn check(storage: &StorageRef, cancel: &AtomicBool) -> Result<CheckReport> {
    let mut audit = Audit::new(storage, cancel)?;
    audit.run(None)?;
    Ok(audit.report())
}

/// Puts right what [`check`] finds, if that is leaks and COPIED flags only. `out` is the file that `storage` reads.
///
/// # Errors
/// `Refused` when something else is wrong or when the file changed: then nothing is written. Those of the storage.
pub fn repair(storage: &StorageRef, out: &dyn InPlace, cancel: &AtomicBool) -> Result<Repaired> {
    repair::repair(Audit::new(storage, cancel)?, out)
}

/// One look at an image.
struct Audit<'a> {
    storage: &'a StorageRef,
    cancel: &'a AtomicBool,
    header: Header,
    format: L2Format,
    layout: Layout,
    stored: Stored<'a>,
    chunks: Chunks<'a>,
    counts: Counts,
    tally: Tally,
    mapped: Mapped,
    last: Option<u64>,
    /// Entries of the active L1 table that lead where another one leads.
    shared: u64,
    /// The L2 tables from this offset on, as far as they are known.
    l2_tables: Option<(u64, L2Tables)>,
}

impl<'a> Audit<'a> {
    fn new(storage: &'a StorageRef, cancel: &'a AtomicBool) -> Result<Audit<'a>> {
        let mut first = vec![0; storage.len().min(FULL_LENGTH as u64) as usize];
        storage.read_at(&mut first, 0)?;
        let header = Header::parse(&first)?;
        features::check_readable(header.incompatible, &Default::default())?;
        let mut tally = Tally::default();
        let mut chunks = Chunks::new(storage, cancel);
        let layout = Layout::read(&**storage, &header, &mut tally);
        let stored = Stored::read(storage, &header, &mut chunks, &mut tally)?;
        Ok(Audit {
            storage,
            cancel,
            format: L2Format::of(&header),
            header,
            layout,
            stored,
            chunks,
            counts: Counts::new(),
            tally,
            mapped: Mapped::default(),
            last: None,
            shared: 0,
            l2_tables: None,
        })
    }

    /// Forgets what was counted and found.
    fn again(&mut self) {
        self.counts = Counts::new();
        self.tally = Tally::default();
        self.mapped = Mapped::default();
        self.last = None;
        self.shared = 0;
    }

    /// Counts and compares, window by window; lowers refcounts that are too high if there is a place to.
    fn run(&mut self, lower: Option<&dyn InPlace>) -> Result<()> {
        let file_len = self.storage.len();
        l1::check(
            &self.layout,
            &self.header,
            file_len,
            &mut self.chunks,
            &mut self.stored,
            &mut self.tally,
        )?;
        let mut is_first = true;
        loop {
            self.count_tables(is_first)?;
            self.count_entries(is_first)?;
            Comparison {
                cluster_bits: self.header.cluster_bits,
                clusters: file_len.div_ceil(self.header.cluster_size()),
                counts: &self.counts,
                stored: &self.stored,
                chunks: &mut self.chunks,
                tally: &mut self.tally,
                last: &mut self.last,
                lower,
            }
            .run()?;
            is_first = false;
            if !self.counts.advance()? {
                return Ok(());
            }
        }
    }

    /// Counts what holds tables. They come first, so that data in their places is noticed.
    fn count_tables(&mut self, is_first: bool) -> Result<()> {
        let bits = self.header.cluster_bits;
        for ((offset, len), uses) in &self.layout.areas {
            let (first, last) = (offset >> bits, (offset + len - 1) >> bits);
            self.counts
                .add(first, last - first + 1, *uses, Use::Metadata);
        }
        for block in self.stored.blocks() {
            if let Block::At(offset) = block {
                self.counts.add(offset >> bits, 1, 1, Use::Metadata);
            }
        }
        self.count_bitmaps(is_first)?;
        self.each_l2(|audit, table| {
            let uses = table.uses.into();
            audit
                .counts
                .add(table.offset >> bits, 1, uses, Use::Metadata);
            if is_first && table.offset + audit.header.cluster_size() > audit.storage.len() {
                audit.tally.note(Kind::Table, uses, table.offset, || {
                    Error::truncated("L2 table", "runs past the end of the file")
                });
            }
            Ok(())
        })
    }

    fn count_bitmaps(&mut self, is_first: bool) -> Result<()> {
        let (bits, file_len) = (self.header.cluster_bits, self.storage.len());
        let (counts, tally) = (&mut self.counts, &mut self.tally);
        for (offset, entries) in &self.layout.bitmap_tables {
            self.chunks.entries(*offset, *entries, |at, entry| {
                let wrong = match BitmapPart::parse(entry, 1 << bits) {
                    Ok(BitmapPart::Stored(offset)) if offset < file_len => {
                        counts.add(offset >> bits, 1, 1, Use::Metadata);
                        return Ok(());
                    }
                    Ok(BitmapPart::Stored(_)) => {
                        Error::truncated("bitmap table entry", "points past the end of the file")
                    }
                    Ok(_) => return Ok(()),
                    Err(error) => error,
                };
                if is_first {
                    tally.note(Kind::Entry, 1, at, || wrong);
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn count_entries(&mut self, is_first: bool) -> Result<()> {
        let mut chunks = Chunks::new(self.storage, self.cancel);
        let size = self.header.cluster_size();
        let mut mapped = Mapped::default();
        self.each_l2(|audit, table| {
            if is_first {
                audit.shared += u64::from(table.active.saturating_sub(1));
            }
            if let Some(bytes) = chunks.read(table.offset, size)? {
                Entries {
                    format: audit.format,
                    file_len: audit.storage.len(),
                    counts: &mut audit.counts,
                    stored: &mut audit.stored,
                    tally: is_first.then_some(&mut audit.tally),
                    mapped: &mut mapped,
                }
                .table(table, bytes)?;
            }
            Ok(())
        })?;
        self.mapped = mapped;
        Ok(())
    }

    /// Goes through all L2 tables in the order of the file.
    fn each_l2(&mut self, mut each: impl FnMut(&mut Self, &L2Table) -> Result<()>) -> Result<()> {
        let mut from = 0;
        loop {
            let tables = match self.l2_tables.take() {
                Some((known, tables)) if known == from => tables,
                _ => L2Tables::gather(
                    &self.layout,
                    &self.header,
                    from,
                    self.storage.len(),
                    &mut self.chunks,
                )?,
            };
            for table in &tables.list {
                each(self, table)?;
            }
            let next = tables.next;
            self.l2_tables = Some((from, tables));
            match next {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }

    fn report(self) -> CheckReport {
        let cluster_size = self.header.cluster_size();
        let is_dirty = self.header.has(DIRTY);
        let misleading = [Kind::Table, Kind::Entry, Kind::Overlap, Kind::Low];
        // What is in another file was not looked at.
        let is_map_sound = !self.format.external_data
            && self.mapped.cut == 0
            && misleading.iter().all(|kind| self.tally.count(*kind) == 0);
        let shared = self.shared;
        let (size, file_len) = (self.header.size, self.storage.len());
        let mut report = self.tally.report(&**self.storage, cluster_size, is_dirty);
        let end = self.last.map_or(0, |last| (last + 1) * cluster_size);
        if shared > 0 {
            report.findings.push(Finding::oddity(format!(
                "{}: {shared} L1 entries lead where others lead, so that one content comes again and again, on a disk of \
                 {size} bytes in a file of {file_len}: no program writes such images; --max-size bounds what is made of them",
                self.storage.path().display()
            )));
        }
        report.is_map_sound = is_map_sound;
        report.counts.extend([
            ("clusters", self.header.size.div_ceil(cluster_size)),
            ("allocated_clusters", self.mapped.allocated),
            ("compressed_clusters", self.mapped.compressed),
            ("image_end_offset", end),
        ]);
        report
    }
}
