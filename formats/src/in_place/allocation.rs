//! What an image is asked to give places to, and what has to stand around that.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::Plan;
use crate::error::{Error, Result};
use crate::open::LayerFile;
use crate::resize::place_of;
use crate::source::{BlockSource, Mapping, mapped, run_at};

/// A disk that a plan copies from.
#[derive(Clone)]
pub struct Guest(pub Arc<dyn BlockSource>);

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a disk of {} bytes", self.0.size())
    }
}

impl PartialEq for Guest {
    fn eq(&self, other: &Guest) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Guest {}

/// Whether an image that changes keeps the ids by which its children know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ids {
    /// They are as they were: its children show what they showed.
    Kept,
    /// They are new: its content is not what its children were made on.
    New,
}

/// What is to be overwritten of a disk.
#[derive(Debug, Clone)]
pub struct Allocation<'a> {
    ranges: &'a [Range<u64>],
    /// The disk as its guest sees it, with all that the image stands on.
    content: Guest,
    /// Whether the image stands on another one: what has no place in it shows that.
    pub is_delta: bool,
    /// Whether it does not matter what the ranges hold until they are overwritten.
    pub is_given_up: bool,
    /// What becomes of the ids.
    pub ids: Ids,
}

impl<'a> Allocation<'a> {
    /// `ranges` of the disk `content` in bytes, ascending; no two overlap.
    pub fn new(ranges: &'a [Range<u64>], content: Arc<dyn BlockSource>) -> Allocation<'a> {
        Allocation {
            ranges,
            content: Guest(content),
            is_delta: false,
            is_given_up: false,
            ids: Ids::Kept,
        }
    }

    /// The units of `unit` bytes that any of the ranges touches, each once, ascending.
    pub fn units(&self, unit: u64) -> impl Iterator<Item = u64> {
        let unit = unit.max(1);
        let mut next = 0;
        self.ranges.iter().flat_map(move |range| {
            let first = (range.start / unit).max(next);
            let end = range.end.div_ceil(unit).max(first);
            next = end;
            first..end
        })
    }

    /// What of `part` is to be overwritten.
    pub fn within(&self, part: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let from = self.ranges.partition_point(|range| range.end <= part.start);
        let (start, end) = (part.start, part.end);
        let behind = self.ranges.get(from..).unwrap_or_default();
        behind
            .iter()
            .take_while(move |range| range.start < end)
            .map(move |range| range.start.max(start)..range.end.min(end))
    }

    /// What of `part`, inside the disk, has to stay.
    fn around(&self, part: &Range<u64>) -> Vec<Range<u64>> {
        let end = part.end.min(self.content.0.size());
        let mut at = part.start;
        let mut gaps = Vec::new();
        for range in self.within(part).filter(|_| self.is_given_up) {
            if range.start > at {
                gaps.push(at..range.start);
            }
            at = range.end;
        }
        if at < end {
            gaps.push(at..end);
        }
        gaps
    }

    /// Puts what the disk holds in `unit`, around what is to be overwritten, to `place`: new, and zeros so far.
    ///
    /// # Errors
    /// Those of the disk's map.
    pub fn fill(&self, plan: &mut Plan, unit: &Range<u64>, place: u64) -> Result<()> {
        for gap in self.around(unit) {
            let mut at = gap.start;
            while at < gap.end {
                let run = run_at(self.content.0.as_ref(), at, gap.end - at)?;
                if !run.mapping.reads_zero() {
                    self.copy(plan, at, place + (at - unit.start), run.len);
                }
                at += run.len;
            }
        }
        Ok(())
    }

    /// Puts what `layer` does not hold of `unit` to its place there, around what is to be overwritten.
    ///
    /// # Errors
    /// Those of the maps.
    pub fn complete(
        &self,
        plan: &mut Plan,
        layer: &dyn BlockSource,
        unit: &Range<u64>,
        place: u64,
    ) -> Result<()> {
        for gap in self.around(unit) {
            let mut at = gap.start;
            while at < gap.end {
                let run = mapped(layer, at, gap.end - at)?;
                if !matches!(run.mapping, Mapping::Stored { .. }) {
                    self.copy(plan, at, place + (at - unit.start), run.len);
                }
                at += run.len;
            }
        }
        Ok(())
    }

    /// Fails when anything that is to be overwritten has no place in `layer`: where nobody can give it one.
    ///
    /// # Errors
    /// `Unsupported`; those of the map.
    pub fn check_places(&self, layer: &LayerFile) -> Result<()> {
        for range in self.ranges {
            let mut at = range.start;
            while at < range.end {
                let run = mapped(layer.source.as_ref(), at, range.end - at)?;
                if place_of(layer, &run).is_none() {
                    return Err(Error::unsupported(
                        "image",
                        "this kind of image gets no new blocks where it stands",
                    )
                    .found(format!("nothing at byte {at} of the disk"))
                    .hint("convert it to another kind"));
                }
                at += run.len;
            }
        }
        Ok(())
    }

    fn copy(&self, plan: &mut Plan, from: u64, to: u64, len: u64) {
        plan.copy_guest(self.content.clone(), from, to, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::RawSource;
    use crate::storage::MemoryStorage;

    #[test]
    fn units_come_once_and_gaps_are_what_is_left() {
        let disk = RawSource::new(Arc::new(MemoryStorage::new(vec![1; 100])));
        let ranges = [5..10, 10..12, 19..41, 90..95];
        let all = Allocation::new(&ranges, Arc::new(disk));
        let gaps = |all: &Allocation, part: Range<u64>| -> Vec<(u64, u64)> {
            let gaps = all.around(&part).into_iter();
            gaps.map(|gap| (gap.start, gap.end)).collect()
        };
        assert_eq!(gaps(&all, 5..20), [(5, 20)]);
        let all = Allocation {
            is_given_up: true,
            ..all
        };
        assert_eq!(all.units(10).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 9]);
        assert_eq!(all.within(&(10..20)).collect::<Vec<_>>(), [10..12, 19..20]);
        assert_eq!(gaps(&all, 0..20), [(0, 5), (12, 19)]);
        assert_eq!(gaps(&all, 90..110), [(95, 100)]);
        assert_eq!(gaps(&all, 20..40), []);
    }
}
