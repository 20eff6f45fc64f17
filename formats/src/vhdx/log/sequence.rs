//! Finding the entries that are to be replayed ([MS-VHDX] 2.3.3).
//!
//! The specification starts a sequence of entries at every place of the ring and keeps the valid one with the highest
//! number at its end. Entries follow each other without gaps and with numbers in a row, so that each has one successor
//! at most, and one predecessor: the ring falls apart into *chains*, and all sequences of a chain end with its last
//! entry, the head. Of these the longest is valid if any is: the one from the start of the chain. So that looking at
//! each entry once is enough.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::entry::LogEntry;
use super::ring::{Ring, SECTOR};
use crate::budget::Budget;
use crate::error::{Error, Result};

/// Bytes that an entry takes in memory while it is looked for, about.
const ENTRY_BYTES: u64 = 128;

/// The entries that are to be replayed, the oldest first.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sequence(pub Vec<LogEntry>);

impl Sequence {
    /// The active sequence of the log, among entries with the id `log_guid`; `None` when there is none.
    ///
    /// # Errors
    /// `Limit` for a log with more entries than there is memory for in `budget`, and those of the storage.
    pub fn find(ring: &Ring, log_guid: Uuid, budget: &Budget) -> Result<Option<Sequence>> {
        let entries = entries(ring, log_guid, budget)?;
        let follows = |entry: &LogEntry| {
            let next = entries.get(&ring.wrapped(entry.at + entry.length))?;
            (entry.sequence_number.checked_add(1) == Some(next.sequence_number)).then_some(next)
        };
        let with_predecessor: Vec<u64> = entries
            .values()
            .filter_map(|entry| follows(entry).map(|next| next.at))
            .collect();
        let mut firsts = entries.clone();
        for at in with_predecessor {
            firsts.remove(&at);
        }
        let mut best: Option<Sequence> = None;
        for first in firsts.values() {
            let chain: Vec<LogEntry> = std::iter::successors(Some(first), |entry| follows(entry))
                .copied()
                .collect();
            let number = |sequence: &Sequence| sequence.0.last().map(|head| head.sequence_number);
            let found = Sequence(active_part(chain));
            if number(&found) > best.as_ref().and_then(number) {
                best = Some(found);
            }
        }
        Ok(best)
    }

    /// The last entry.
    pub fn head(&self) -> Option<&LogEntry> {
        self.0.last()
    }

    /// Descriptors in all entries.
    pub fn descriptors(&self) -> u64 {
        self.0.iter().map(|e| u64::from(e.descriptors)).sum()
    }
}

/// What of a chain is to be replayed: from the entry on that its head names as the tail. Nothing, if that is none of it.
fn active_part(mut chain: Vec<LogEntry>) -> Vec<LogEntry> {
    let tail = chain.last().map(|head| head.tail);
    match chain.iter().position(|entry| Some(entry.at) == tail) {
        Some(first) => chain.split_off(first),
        None => Vec::new(),
    }
}

/// All whole entries, by their place in the ring.
fn entries(ring: &Ring, log_guid: Uuid, budget: &Budget) -> Result<BTreeMap<u64, LogEntry>> {
    let mut entries = BTreeMap::new();
    let mut at = 0;
    while at < ring.size() {
        if at.is_multiple_of(SECTOR * 256) {
            let hole = ring.hole(at)? / SECTOR * SECTOR;
            if hole > 0 {
                at += hole;
                continue;
            }
        }
        let Some(entry) = LogEntry::read(ring, at, log_guid)? else {
            at += SECTOR;
            continue;
        };
        if !budget.take(ENTRY_BYTES) {
            return Err(too_many());
        }
        entries.insert(at, entry);
        at += entry.length;
    }
    Ok(entries)
}

/// The error for a log that needs more memory than there is.
pub fn too_many() -> Error {
    Error::limit("log", "has more changes than there is memory for")
        .hint("let Hyper-V or qemu-img check -r all replay it, on a copy")
}
