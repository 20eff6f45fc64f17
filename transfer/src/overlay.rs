//! Writing a delta: only what differs from the image below, or what a layer of a chain defines.

use std::ops::Range;

use formats::{BlockSource, Mapping, Run, RunReader};

use crate::buffer::AlignedBuffer;
use crate::digest::SegmentHash;
use crate::error::Result;
use crate::segments::SEGMENT;
use crate::zero::is_zero;

/// The image that a delta is written over.
pub struct Below<'a> {
    /// Its disk, as long as the source.
    pub source: &'a dyn BlockSource,
    /// Whether the target can say "zeros" over data of the image below; otherwise zeros are stored.
    pub says_zeros: bool,
}

/// What a worker needs for it.
#[derive(Default)]
pub struct OverlayWorker {
    reader: RunReader,
    buffer: Option<AlignedBuffer>,
    /// Parts of the segment that are zeros over data, in ascending order.
    pub zeros: Vec<Range<usize>>,
}

impl OverlayWorker {
    /// Finds the parts of `content` that differ from what `runs` of the image below hold, in units of `unit` bytes:
    /// data is appended to `data`.
    ///
    /// # Errors
    /// Those of the image below.
    pub fn compare(
        &mut self,
        below: &Below<'_>,
        runs: &[Run],
        content: &[u8],
        unit: usize,
        data: &mut Vec<Range<usize>>,
    ) -> Result<()> {
        self.zeros.clear();
        let mut buffer = match self.buffer.take() {
            Some(buffer) => buffer,
            None => AlignedBuffer::new(SEGMENT as usize)
                .map_err(|e| formats::Error::io("get memory", e))?,
        };
        let other = &mut buffer[..content.len()];
        if runs.is_empty() {
            other.fill(0);
        }
        let mut done = 0;
        for run in runs {
            let end = done + run.len as usize;
            self.reader.read(run, &mut other[done..end])?;
            done = end;
        }
        for (index, (ours, theirs)) in content.chunks(unit).zip(other.chunks(unit)).enumerate() {
            if ours == theirs {
                continue;
            }
            let range = index * unit..index * unit + ours.len();
            if below.says_zeros && is_zero(ours) {
                join(&mut self.zeros, range);
            } else {
                join(data, range);
            }
        }
        self.buffer = Some(buffer);
        Ok(())
    }

    /// Finds the parts of `content` that the `runs` of a delta define, which are whole units of `unit` bytes: data is
    /// appended to `data`, and zeros as well if the target cannot say them.
    pub fn defined(
        &mut self,
        runs: &[Run],
        content: &[u8],
        unit: usize,
        says_zeros: bool,
        data: &mut Vec<Range<usize>>,
    ) {
        self.zeros.clear();
        let mut defined = Vec::new();
        let mut at = 0;
        for run in runs {
            let end = at + run.len as usize;
            if !matches!(run.mapping, Mapping::Absent) {
                join(&mut defined, at..end);
            }
            at = end;
        }
        for range in defined {
            for start in range.clone().step_by(unit) {
                let end = (start + unit).min(range.end);
                if says_zeros && is_zero(&content[start..end]) {
                    join(&mut self.zeros, start..end);
                } else {
                    join(data, start..end);
                }
            }
        }
    }
}

/// Appends `range` to `ranges`, or to the last of them if it follows that.
fn join(ranges: &mut Vec<Range<usize>>, range: Range<usize>) {
    match ranges.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => ranges.push(range),
    }
}

/// A hash of where `ranges` of the segment at guest offset `segment` are.
pub fn ranges_hash(segment: u64, ranges: &[Range<usize>]) -> SegmentHash {
    let ends = ranges.iter().flat_map(|range| [range.start, range.end]);
    let numbers = std::iter::once(ranges.len()).chain(ends);
    let bytes: Vec<u8> = numbers.flat_map(|n| (n as u64).to_le_bytes()).collect();
    SegmentHash::of(segment, &bytes)
}
