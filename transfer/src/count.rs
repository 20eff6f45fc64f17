//! How much of a disk is data, by its map alone.

use std::sync::atomic::AtomicU64;

use formats::BlockSource;

use crate::error::{Error, Result};
use crate::pass::{Outcome, Setting};
use crate::segments::{SEGMENT, Segments};

/// Counts the bytes that `source` maps to data and to zeros, without reading any.
///
/// # Errors
/// Those of the map; `Interrupted`.
pub fn count(source: &dyn BlockSource, setting: &Setting<'_>) -> Result<Outcome> {
    let longest = AtomicU64::new(u64::MAX / SEGMENT * SEGMENT);
    let segments = Segments::new(vec![source], source.size(), &longest, setting.salvage);
    let mut outcome = Outcome::default();
    while let Some(segment) = segments.take()? {
        if setting.cancel.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        let data: u64 = segment
            .runs
            .iter()
            .flatten()
            .filter(|run| !run.mapping.reads_zero())
            .map(|run| run.len)
            .sum();
        outcome.data_bytes += data;
        outcome.zero_bytes += segment.len - data;
    }
    Ok(outcome)
}
