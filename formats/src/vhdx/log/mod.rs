//! The log: changes of tables that may not have reached their places before the file was left ([MS-VHDX] 2.3).
//!
//! Who writes to the file must replay it first. Here nothing is written: what the log says lies over the file, as a
//! storage of its own ([`overlay::Replayed`]), and everything else is read from that.

pub mod entry;
pub mod overlay;
pub mod ring;
pub mod sequence;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use self::overlay::Replayed;
use self::ring::Ring;
use self::sequence::Sequence;
use super::header::Header;
use crate::budget::Budget;
use crate::error::{Error, Result};
use crate::storage::StorageRef;

/// In what state the log was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogState {
    /// The header says that there is nothing in it.
    Empty,
    /// It has entries, but they change nothing.
    Clean,
    /// Entries were replayed, in memory.
    Replayed {
        /// How many.
        entries: u64,
        /// Descriptors in them.
        changes: u64,
    },
    /// What it says is unknown, because it is damaged: only when salvaging.
    Damaged,
}

/// The file with the log that `header` tells of replayed, and what was found in it.
///
/// # Errors
/// `Malformed` when the log is not empty but has no entries to replay, `Truncated` when it, or what was in the file
/// when it was written, is not there any more, `Limit` when it has more changes than fit into `budget`.
pub fn replay(
    storage: &StorageRef,
    header: &Header,
    budget: &Budget,
) -> Result<(StorageRef, LogState)> {
    if header.log_guid.is_nil() {
        if header.log_length > 0 {
            // Nobody needs it now, but who writes to the file would.
            Ring::new(storage.clone(), header.log_offset, header.log_length.into())?;
        }
        return Ok((storage.clone(), LogState::Empty));
    }
    let ring = Ring::new(storage.clone(), header.log_offset, header.log_length.into())?;
    let sequence = Sequence::find(&ring, header.log_guid, budget)?;
    let Some((sequence, head)) = sequence.as_ref().and_then(|s| Some((s, *s.head()?))) else {
        return Err(Error::malformed(
            "log",
            "is not empty, but has no entries that could be replayed",
        )
        .at(header.log_offset)
        .hint("--salvage reads on as if it were empty: what was written last may be lost"));
    };
    if head.flushed_file_offset > storage.len() {
        return Err(
            Error::truncated("log", "was written when the file was longer")
                .at(ring.file_offset(head.at))
                .found(format!("a file of {} bytes", storage.len()))
                .expected(format!("at least {} bytes", head.flushed_file_offset))
                .hint("the file is cut off; find the whole one"),
        );
    }
    let mut replayed = Replayed::new(storage.clone());
    for entry in &sequence.0 {
        entry.changes(&ring, |change| replayed.apply(&ring, change, budget))?;
    }
    replayed.extend_to(head.last_file_offset);
    let state = match sequence.descriptors() {
        0 if head.last_file_offset <= storage.len() => LogState::Clean,
        changes => LogState::Replayed {
            entries: sequence.0.len() as u64,
            changes,
        },
    };
    Ok(match state {
        LogState::Clean => (storage.clone(), state),
        _ => (Arc::new(replayed), state),
    })
}
