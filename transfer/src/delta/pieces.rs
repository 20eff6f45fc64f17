//! What a delta defines: its own map, without what it stands on.

use std::ops::Range;

use formats::source::run_at;
use formats::{BlockSource, Mapping, Result, Run};

/// Bytes that a piece has at most: what is done to one takes memory.
const LONGEST: u64 = 256 << 20;

/// A range that a delta defines in one way.
#[derive(Debug, Clone)]
pub struct Piece {
    /// Guest offset of its first byte.
    pub offset: u64,
    /// Where its content stands.
    pub run: Run,
}

impl Piece {
    /// The range on the disk, in bytes.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.run.len)
    }

    /// Whether it is zeros without anybody reading it.
    pub fn is_zero(&self) -> bool {
        self.run.mapping.reads_zero()
    }
}

/// How much a delta defines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// Bytes of data.
    pub data: u64,
    /// Bytes that it says are zeros.
    pub zero: u64,
}

impl Amount {
    /// Counts a piece.
    pub fn add(&mut self, piece: &Piece) {
        match piece.is_zero() {
            true => self.zero += piece.run.len,
            false => self.data += piece.run.len,
        }
    }
}

/// The pieces of a delta in guest order.
pub struct Pieces<'d> {
    delta: &'d dyn BlockSource,
    next: u64,
    end: u64,
}

impl<'d> Pieces<'d> {
    /// Those before byte `end` of the disk.
    pub fn new(delta: &'d dyn BlockSource, end: u64) -> Pieces<'d> {
        Pieces {
            delta,
            next: 0,
            end: end.min(delta.size()),
        }
    }

    fn found(&mut self) -> Result<Option<Piece>> {
        while self.next < self.end {
            let offset = self.next;
            let run = run_at(self.delta, offset, (self.end - offset).min(LONGEST))?;
            self.next = offset.saturating_add(run.len);
            if !matches!(run.mapping, Mapping::Absent) {
                return Ok(Some(Piece { offset, run }));
            }
        }
        Ok(None)
    }
}

impl Iterator for Pieces<'_> {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Result<Piece>> {
        let found = self.found();
        if found.is_err() {
            self.next = self.end;
        }
        found.transpose()
    }
}

/// How much `delta` defines.
///
/// # Errors
/// Those of its map.
pub fn amount(delta: &dyn BlockSource) -> Result<Amount> {
    let mut amount = Amount::default();
    for piece in Pieces::new(delta, u64::MAX) {
        amount.add(&piece?);
    }
    Ok(amount)
}
