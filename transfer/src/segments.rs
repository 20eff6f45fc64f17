//! Cutting a disk into the pieces that workers take one after the other.
//!
//! The map of a disk is asked for piece by piece, just ahead of the copy: the whole map of a large fragmented disk would
//! not fit into memory, and the copy could not start before it was complete.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use formats::{BlockSource, Mapping, Run, run_at};

use crate::error::Result;
use crate::salvage::Salvage;

/// Bytes of guest content that one worker handles at a time. A power of two, as the tree of BLAKE3 wants it, and a
/// multiple of every block size up to 2 MiB, so that a compressed unit never lies across two of them.
pub const SEGMENT: u64 = 2 << 20;

/// How often the map is asked while one segment of zeros is made longer: nobody can stop it meanwhile, and other workers
/// wait.
const LOOKS: u32 = 16;

/// A piece of the guest's disk: `len` bytes, in one or several disks side by side.
#[derive(Debug)]
pub struct Segment {
    /// Place in the order of all segments, from 0 without gaps.
    pub ticket: u64,
    /// Guest offset, a multiple of [`SEGMENT`].
    pub offset: u64,
    /// Length in bytes: at most [`SEGMENT`], unless it is all zeros.
    pub len: u64,
    /// For each disk its runs, together `len` bytes; none for a disk that maps all of it to zeros, or for a delta that
    /// says nothing of it.
    pub runs: Vec<Vec<Run>>,
}

impl Segment {
    /// Whether all disks read as zeros here, as far as their maps know; for a delta, whether it says nothing.
    pub fn is_zero(&self) -> bool {
        self.runs.iter().all(Vec::is_empty)
    }
}

/// Hands out the segments of one or several disks in guest order.
pub struct Segments<'a> {
    sources: Vec<&'a dyn BlockSource>,
    size: u64,
    longest_zeros: &'a AtomicU64,
    salvage: Option<&'a Salvage>,
    is_delta: bool,
    next: Mutex<(u64, u64)>,
}

impl<'a> Segments<'a> {
    /// The first `size` bytes of `sources`, each at least that large. A segment of zeros is at most `longest_zeros`
    /// bytes (a multiple of [`SEGMENT`]), which may change on the way.
    pub fn new(
        sources: Vec<&'a dyn BlockSource>,
        size: u64,
        longest_zeros: &'a AtomicU64,
        salvage: Option<&'a Salvage>,
    ) -> Segments<'a> {
        Segments {
            sources,
            size,
            longest_zeros,
            salvage,
            is_delta: false,
            next: Mutex::new((0, 0)),
        }
    }

    /// The same, for a delta: its zeros are no less than data.
    pub fn of_delta(self, is_delta: bool) -> Segments<'a> {
        Segments { is_delta, ..self }
    }

    /// Whether nobody has to be told of what is mapped so.
    fn is_nothing(&self, mapping: &Mapping) -> bool {
        match self.is_delta {
            true => matches!(mapping, Mapping::Absent),
            false => mapping.reads_zero(),
        }
    }

    /// The next segment, or none at the end of the disk.
    ///
    /// # Errors
    /// Those of the maps.
    pub fn take(&self) -> Result<Option<Segment>> {
        let mut next = self.next.lock().unwrap_or_else(|e| e.into_inner());
        let (offset, ticket) = *next;
        if offset >= self.size {
            return Ok(None);
        }
        let mut len = (self.size - offset).min(SEGMENT);
        let runs = self
            .sources
            .iter()
            .enumerate()
            .map(|(index, source)| self.runs(index, *source, offset, len))
            .collect::<Result<Vec<_>>>()?;
        if runs.iter().all(Vec::is_empty) {
            len = self.zeros_from(offset, len)?;
        }
        *next = (offset + len, ticket + 1);
        Ok(Some(Segment {
            ticket,
            offset,
            len,
            runs,
        }))
    }

    fn runs(
        &self,
        index: usize,
        source: &dyn BlockSource,
        offset: u64,
        len: u64,
    ) -> Result<Vec<Run>> {
        // Only the first disk is copied; zeros in the place of what the others have would go by unseen.
        let salvage = self.salvage.filter(|_| index == 0);
        let mut runs = Vec::new();
        let (mut done, mut is_nothing) = (0, true);
        while done < len {
            let run = run(source, offset + done, len - done, salvage)?;
            done += run.len;
            is_nothing &= self.is_nothing(&run.mapping);
            runs.push(run);
        }
        if is_nothing {
            runs.clear();
        }
        Ok(runs)
    }

    /// Length of the zeros that start with the `known` bytes at `offset`: up to the end of the disk or a whole number
    /// of segments. The further they reach, the further ahead is asked.
    fn zeros_from(&self, offset: u64, known: u64) -> Result<u64> {
        let longest = self.longest_zeros.load(Ordering::Relaxed).max(SEGMENT);
        let most = longest.min(self.size - offset);
        let mut len = known;
        let mut step = SEGMENT;
        let mut looks = 0;
        while len < most && looks < LOOKS {
            looks += 1;
            let limit = step.min(most - len);
            let mut all = limit;
            for source in &self.sources {
                // A damaged entry further on is met again when its own segment is cut.
                match run(*source, offset + len, limit, None) {
                    Ok(run) if self.is_nothing(&run.mapping) => all = all.min(run.len),
                    _ => all = 0,
                }
            }
            len += all;
            if all == 0 {
                break;
            }
            step = step.saturating_mul(8);
        }
        if offset + len == self.size {
            return Ok(len);
        }
        Ok((len / SEGMENT * SEGMENT).max(known))
    }
}

/// What stands at `offset` of `source`, or the loss of it.
fn run(
    source: &dyn BlockSource,
    offset: u64,
    limit: u64,
    salvage: Option<&Salvage>,
) -> Result<Run> {
    match (run_at(source, offset, limit), salvage) {
        (Ok(run), _) => Ok(run),
        (Err(error), Some(salvage)) => {
            // What the entry stood for is lost: one block of the image.
            let block = source.block_size().max(512);
            let len = (block - offset % block).min(limit);
            Ok(salvage.lost(offset, len, &error))
        }
        (Err(error), None) => Err(error.into()),
    }
}

/// Fills `starts` with the places of all compressed units of `runs`, ascending.
pub fn find_starts(runs: &[Run], starts: &mut Vec<u64>) {
    starts.clear();
    starts.extend(runs.iter().filter_map(|run| match run.mapping {
        Mapping::Packed { offset, .. } => Some(offset),
        _ => None,
    }));
    starts.sort_unstable();
}

#[cfg(test)]
mod tests {
    use super::*;
    use formats::{MemoryStorage, StorageRef};
    use std::sync::Arc;

    /// A disk with one data byte range.
    struct Disk {
        size: u64,
        data: std::ops::Range<u64>,
        storage: StorageRef,
    }

    impl Disk {
        fn new(size: u64, data: std::ops::Range<u64>) -> Disk {
            let storage = Arc::new(MemoryStorage::new(Vec::new()));
            Disk {
                size,
                data,
                storage,
            }
        }
    }

    impl BlockSource for Disk {
        fn size(&self) -> u64 {
            self.size
        }
        fn block_size(&self) -> u64 {
            512
        }
        fn map(&self, offset: u64, limit: u64) -> formats::Result<Run> {
            Ok(if offset < self.data.start {
                Run::new(limit.min(self.data.start - offset), Mapping::Absent)
            } else if offset < self.data.end {
                let mapping = Mapping::Stored {
                    storage: self.storage.clone(),
                    offset,
                };
                Run::new(limit.min(self.data.end - offset), mapping)
            } else {
                Run::new(limit, Mapping::Zero)
            })
        }
    }

    fn cut(disks: &[&Disk]) -> Vec<(u64, u64, bool)> {
        let sources = disks.iter().map(|d| *d as &dyn BlockSource).collect();
        let longest = AtomicU64::new(u64::MAX);
        let segments = Segments::new(sources, disks[0].size, &longest, None);
        let mut all = Vec::new();
        while let Some(segment) = segments.take().unwrap() {
            assert_eq!(segment.ticket, all.len() as u64);
            all.push((segment.offset, segment.len, segment.is_zero()));
        }
        all
    }

    #[test]
    fn long_zeros_are_one_segment_and_data_is_cut() {
        let disk = Disk::new(64 << 40, (5 << 20)..(7 << 20));
        assert_eq!(
            cut(&[&disk]),
            [
                (0, 4 << 20, true),
                (4 << 20, SEGMENT, false),
                (6 << 20, SEGMENT, false),
                (8 << 20, (64 << 40) - (8 << 20), true),
            ]
        );
    }

    #[test]
    fn the_end_of_an_odd_disk_is_there() {
        assert_eq!(cut(&[&Disk::new(513, 0..1)]), [(0, 513, false)]);
        assert_eq!(
            cut(&[&Disk::new(SEGMENT + 1, 0..0)]),
            [(0, SEGMENT + 1, true)]
        );
        assert_eq!(cut(&[&Disk::new(0, 0..0)]), []);
    }

    #[test]
    fn side_by_side_zeros_are_zeros_of_both() {
        let one = Disk::new(8 << 20, 0..1);
        let two = Disk::new(8 << 20, (5 << 20)..(6 << 20));
        assert_eq!(
            cut(&[&one, &two]),
            [
                (0, SEGMENT, false),
                (2 << 20, SEGMENT, true),
                (4 << 20, SEGMENT, false),
                (6 << 20, SEGMENT, true),
            ]
        );
    }
}
