//! `--salvage`: reading on with zeros where an image is damaged, and keeping the list of what was lost.

use std::sync::Mutex;

use formats::{Mapping, Run};

/// Holes that are kept one by one; of more only the number and the bytes are known.
const HOLES_KEPT: usize = 10_000;

/// A range that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hole {
    /// Guest offset in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// Why.
    pub reason: String,
}

impl Hole {
    /// Takes `other` in when it follows this hole for the same reason.
    fn join(&mut self, other: &Hole) -> bool {
        let follows = self.offset.checked_add(self.len) == Some(other.offset);
        if follows && self.reason == other.reason {
            self.len += other.len;
            return true;
        }
        false
    }
}

/// The list of what was lost.
#[derive(Debug, Default)]
pub struct Salvage(Mutex<Losses>);

/// What was lost in a transfer.
#[derive(Debug, Default, Clone)]
pub struct Losses {
    /// The first ranges, in guest order.
    pub holes: Vec<Hole>,
    /// Number of ranges.
    pub count: u64,
    /// Bytes in all of them.
    pub bytes: u64,
}

impl Salvage {
    /// Notes a range that cannot be read and answers the run that stands in for it: zeros.
    pub fn lost(&self, offset: u64, len: u64, reason: &formats::Error) -> Run {
        let mut losses = self.0.lock().unwrap_or_else(|e| e.into_inner());
        losses.bytes = losses.bytes.saturating_add(len);
        let hole = Hole {
            offset,
            len,
            reason: reason.to_string(),
        };
        // Most losses come one after the other; the last few are enough to find what this one continues.
        let mut recent = losses.holes.iter_mut().rev().take(64);
        if !recent.any(|known| known.join(&hole)) {
            losses.count += 1;
            if losses.holes.len() < HOLES_KEPT {
                losses.holes.push(hole);
            }
        }
        Run::new(len, Mapping::Zero)
    }

    /// What was lost so far.
    pub fn losses(&self) -> Losses {
        let mut losses = self.0.lock().unwrap_or_else(|e| e.into_inner()).clone();
        losses.holes.sort_by_key(|hole| hole.offset);
        let before = losses.holes.len();
        losses.holes.dedup_by(|later, earlier| earlier.join(later));
        losses.count -= (before - losses.holes.len()) as u64;
        losses
    }
}
