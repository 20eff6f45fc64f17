//! Telling a target what a segment holds, in guest order: data, packed blocks, zeros.

use std::ops::Range;

use formats::{BlockTarget, Placement, Result, TableWrite};

use crate::packing::PackedBlock;
use crate::store::Placed;

/// What a target answered for one segment.
#[derive(Default)]
pub struct Told {
    /// Where bytes go.
    pub placed: Vec<Placed>,
    /// Tables that are complete by now.
    pub tables: Vec<TableWrite>,
    /// File ranges that must be made to read as zeros.
    pub zeroed: Vec<Range<u64>>,
}

/// A part of a segment that is stored.
pub trait Part {
    /// Where it starts in the segment.
    fn start(&self) -> usize;

    /// Finds its place in `target`; the segment starts at guest offset `segment`.
    ///
    /// # Errors
    /// Those of the target.
    fn place(&self, target: &mut dyn BlockTarget, segment: u64, told: &mut Told) -> Result<()>;
}

/// Bytes that are stored as they are.
impl Part for Range<usize> {
    fn start(&self) -> usize {
        self.start
    }

    fn place(&self, target: &mut dyn BlockTarget, segment: u64, told: &mut Told) -> Result<()> {
        let (mut at, end) = (self.start as u64, self.end as u64);
        while at < end {
            let placement = target.place(segment + at, end - at)?;
            told.placed.push(Placed {
                placement,
                at: at as usize,
            });
            at += placement.len.clamp(1, end - at);
            told.tables.extend(target.take_tables());
        }
        Ok(())
    }
}

impl Part for PackedBlock {
    fn start(&self) -> usize {
        self.at
    }

    fn place(&self, target: &mut dyn BlockTarget, segment: u64, told: &mut Told) -> Result<()> {
        let len = (self.range.end - self.range.start) as u64;
        let offset = target.place_packed(segment + self.at as u64, len, self.form)?;
        told.placed.push(Placed {
            placement: Placement { offset, len },
            at: self.range.start,
        });
        told.tables.extend(target.take_tables());
        Ok(())
    }
}

impl Told {
    /// Forgets everything.
    pub fn clear(&mut self) {
        self.placed.clear();
        self.tables.clear();
        self.zeroed.clear();
    }

    /// Tells `target` of `parts` and `zeros` of the segment at guest offset `segment`; both ascend.
    ///
    /// # Errors
    /// Those of the target.
    pub fn tell<P: Part>(
        &mut self,
        target: &mut dyn BlockTarget,
        segment: u64,
        parts: &[P],
        zeros: &[Range<usize>],
    ) -> Result<()> {
        let mut zeros = zeros.iter().peekable();
        for part in parts {
            while let Some(range) = zeros.next_if(|range| range.start < part.start()) {
                self.zero(target, segment, range)?;
            }
            part.place(target, segment, self)?;
        }
        for range in zeros {
            self.zero(target, segment, range)?;
        }
        self.tables.extend(target.take_tables());
        Ok(())
    }

    fn zero(
        &mut self,
        target: &mut dyn BlockTarget,
        segment: u64,
        range: &Range<usize>,
    ) -> Result<()> {
        let len = (range.end - range.start) as u64;
        let zeroed = target.zero(segment + range.start as u64, len)?;
        self.zeroed.extend(zeroed);
        Ok(())
    }
}

/// What of the first `len` bytes of a segment is none of `data`, which ascends.
pub fn gaps(data: &[Range<usize>], len: usize) -> Vec<Range<usize>> {
    let starts = std::iter::once(0).chain(data.iter().map(|range| range.end));
    let ends = data.iter().map(|range| range.start).chain([len]);
    starts
        .zip(ends)
        .map(|(start, end)| start..end)
        .filter(|gap| !gap.is_empty())
        .collect()
}

/// Bytes in all of `ranges`.
pub fn total(ranges: &[Range<usize>]) -> u64 {
    ranges.iter().map(|r| (r.end - r.start) as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_what_is_left() {
        assert_eq!(gaps(&[0..4, 4..10], 10), []);
        assert_eq!(gaps(&[2..4, 4..5, 8..10], 12), [0..2, 5..8, 10..12]);
        assert_eq!(gaps(&[0..4, 6..8], 8).len(), 1);
        assert_eq!(gaps(&[], 0), []);
    }
}
