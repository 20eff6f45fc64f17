//! Whether two disks hold the same, and where they do not.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use formats::{BlockSource, Run, RunReader};

use crate::buffer::AlignedBuffer;
use crate::error::{Error, Result};
use crate::pass::Setting;
use crate::pipeline::{self, Stage};
use crate::segments::{SEGMENT, Segment, Segments};
use crate::zero::is_zero;

/// Differences are told in sectors of this many bytes.
const SECTOR: usize = 512;

/// Ranges that are kept; of more only the number is known.
const RANGES_KEPT: usize = 10_000;

/// A range in which two disks differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Difference {
    /// Guest offset in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
}

/// How two disks compare.
#[derive(Debug, Clone, Default)]
pub struct Comparison {
    /// The first ranges that differ, in guest order, neighbours joined.
    pub differences: Vec<Difference>,
    /// How many there are.
    pub count: u64,
    /// Bytes in all of them.
    pub bytes: u64,
    /// Sizes of the two disks in bytes.
    pub sizes: [u64; 2],
    /// Where the last range ends.
    end: u64,
}

impl Comparison {
    /// Whether the content is the same; a longer disk may go on with zeros.
    pub fn is_equal(&self) -> bool {
        self.count == 0
    }

    fn add(&mut self, offset: u64, length: u64) {
        self.bytes += length;
        let continues = self.count > 0 && self.end == offset;
        self.end = offset + length;
        if continues {
            // Of ranges beyond those that are kept only the number counts.
            if self.count <= RANGES_KEPT as u64
                && let Some(last) = self.differences.last_mut()
            {
                last.length += length;
            }
            return;
        }
        self.count += 1;
        if self.differences.len() < RANGES_KEPT {
            self.differences.push(Difference { offset, length });
        }
    }
}

/// Compares `first` and `second`. What both maps call zeros is not read. Of disks of two lengths the shorter one counts
/// as zeros past its end. With `stop_early`, the first difference found ends it.
///
/// # Errors
/// Those of the sources; `Interrupted`.
pub fn compare(
    first: &dyn BlockSource,
    second: &dyn BlockSource,
    stop_early: bool,
    setting: &Setting<'_>,
) -> Result<Comparison> {
    let sizes = [first.size(), second.size()];
    let size = sizes[0].max(sizes[1]);
    let windows = [first, second].map(|source| Continued { source, size });
    let longest = AtomicU64::new(u64::MAX / SEGMENT * SEGMENT);
    let sources = windows.iter().map(|w| w as &dyn BlockSource).collect();
    let segments = Segments::new(sources, size, &longest, None);
    setting.progress.begin(size);
    let both = Both {
        setting,
        stop_early,
        stopped: AtomicBool::new(false),
        result: Mutex::new(Comparison {
            sizes,
            ..Comparison::default()
        }),
    };
    match pipeline::run(&both, &segments, setting.threads, setting.cancel) {
        Err(Error::Interrupted) if both.stopped.load(Ordering::Relaxed) => {}
        other => other?,
    }
    Ok(both.result.into_inner().unwrap_or_else(|e| e.into_inner()))
}

/// A disk that goes on with zeros.
struct Continued<'a> {
    source: &'a dyn BlockSource,
    size: u64,
}

impl BlockSource for Continued<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn block_size(&self) -> u64 {
        self.source.block_size()
    }

    fn map(&self, offset: u64, limit: u64) -> formats::Result<Run> {
        if offset >= self.source.size() {
            return Ok(Run::new(limit, formats::Mapping::Zero));
        }
        self.source
            .map(offset, limit.min(self.source.size() - offset))
    }
}

struct Both<'a> {
    setting: &'a Setting<'a>,
    stop_early: bool,
    stopped: AtomicBool,
    result: Mutex<Comparison>,
}

struct Worker {
    readers: [RunReader; 2],
    buffers: [AlignedBuffer; 2],
    differences: Vec<Difference>,
}

impl Stage for Both<'_> {
    type Worker = Worker;

    fn worker(&self) -> Result<Worker> {
        let buffer = || {
            AlignedBuffer::new(SEGMENT as usize).map_err(|e| formats::Error::io("get memory", e))
        };
        Ok(Worker {
            readers: Default::default(),
            buffers: [buffer()?, buffer()?],
            differences: Vec::new(),
        })
    }

    fn prepare(&self, worker: &mut Worker, segment: &Segment) -> Result<()> {
        worker.differences.clear();
        if segment.is_zero() {
            return Ok(());
        }
        let len = segment.len as usize;
        for ((runs, reader), buffer) in segment
            .runs
            .iter()
            .zip(&mut worker.readers)
            .zip(&mut worker.buffers)
        {
            let mut rest = &mut buffer[..len];
            for run in runs {
                let (now, later) = rest.split_at_mut(run.len as usize);
                reader.read(run, now)?;
                rest = later;
            }
        }
        let [a, b] = &worker.buffers;
        let zeros = |index: usize| segment.runs.get(index).is_none_or(Vec::is_empty);
        let equal = match (zeros(0), zeros(1)) {
            (false, false) => a[..len] == b[..len],
            (true, _) => is_zero(&b[..len]),
            (_, true) => is_zero(&a[..len]),
        };
        if equal {
            return Ok(());
        }
        // A disk that is all zeros here was not read, and the buffer holds what was in it before.
        for (index, buffer) in worker.buffers.iter_mut().enumerate() {
            if zeros(index) {
                buffer[..len].fill(0);
            }
        }
        let [a, b] = &worker.buffers;
        let sectors = a[..len].chunks(SECTOR).zip(b[..len].chunks(SECTOR));
        for (index, (one, other)) in sectors.enumerate() {
            if one != other {
                worker.differences.push(Difference {
                    offset: segment.offset + (index * SECTOR) as u64,
                    length: one.len() as u64,
                });
            }
        }
        Ok(())
    }

    fn in_order(&self, worker: &mut Worker, _segment: &Segment) -> Result<()> {
        let mut result = self.result.lock().unwrap_or_else(|e| e.into_inner());
        for difference in &worker.differences {
            result.add(difference.offset, difference.length);
        }
        if self.stop_early && result.count > 0 {
            self.stopped.store(true, Ordering::Relaxed);
            return Err(Error::Interrupted);
        }
        Ok(())
    }

    fn store(&self, _worker: &mut Worker, segment: &Segment) -> Result<()> {
        let read = if segment.is_zero() { 0 } else { segment.len };
        self.setting.progress.add(segment.len, read);
        Ok(())
    }
}
