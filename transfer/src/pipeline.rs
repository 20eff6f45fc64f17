//! The conveyor: workers take segments, prepare them in parallel, pass one by one in guest order, and store in parallel.
//!
//! ```text
//!   Segments ──take──► worker 1: prepare ─┐ turnstile ┌─► in_order ─► store
//!                      worker 2: prepare ─┤ (ticket   ├─► in_order ─► store
//!                      worker 3: prepare ─┘  order)   └─► in_order ─► store
//! ```
//!
//! A worker keeps its segment from beginning to end, in its own buffer: nothing is handed over, nothing queues up, and
//! the bytes in flight are at most one segment a worker. The lowest ticket never waits, so the conveyor cannot stop.
//!
//! There are more workers than cores, because some of them wait for storage. If all of them unpacked at once they would
//! also finish at once, and all store while the cores stand idle; so only as many as there are cores do heavy work at a
//! time, and the others store meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};

use formats::Mapping;

use crate::error::{Error, Result};
use crate::segments::{Segment, Segments};

/// What is done to each segment.
pub trait Stage: Sync {
    /// What a worker keeps from segment to segment: buffers, decoders.
    type Worker;

    /// A worker's own things.
    fn worker(&self) -> Result<Self::Worker>;

    /// In parallel, in any order.
    fn prepare(&self, worker: &mut Self::Worker, segment: &Segment) -> Result<()>;

    /// Whether preparing a segment keeps a core busy rather than waiting for storage: it has to be unpacked.
    fn is_heavy(&self, segment: &Segment) -> bool {
        let mut runs = segment.runs.iter().flatten();
        runs.any(|run| matches!(run.mapping, Mapping::Packed { .. }))
    }

    /// How many heavy segments are prepared at a time.
    fn heavy_at_once(&self) -> usize {
        cores()
    }

    /// One segment at a time, in guest order.
    fn in_order(&self, worker: &mut Self::Worker, segment: &Segment) -> Result<()>;

    /// In parallel again.
    fn store(&self, worker: &mut Self::Worker, segment: &Segment) -> Result<()>;
}

/// The cores that this program may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Runs all segments through `stage` with `threads` workers, until the end, the first error, or `cancel`.
///
/// # Errors
/// The error of the lowest segment that failed; `Interrupted` when `cancel` was set.
pub fn run<S: Stage>(
    stage: &S,
    segments: &Segments<'_>,
    threads: usize,
    cancel: &AtomicBool,
) -> Result<()> {
    let turnstile = Turnstile::default();
    let cores = Slots::new(stage.heavy_at_once());
    let failure: Mutex<Option<(u64, Error)>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for started in 0..threads.max(1) {
            let worker = || {
                // Also when this thread panics: the others must not wait for its ticket.
                let _stop = StopOnPanic(&turnstile);
                if let Err((ticket, error)) = work(stage, segments, &turnstile, &cores, cancel) {
                    turnstile.stop();
                    let mut failure = failure.lock().unwrap_or_else(|e| e.into_inner());
                    if failure.as_ref().is_none_or(|(first, _)| ticket < *first) {
                        *failure = Some((ticket, error));
                    }
                }
            };
            if let Err(e) = std::thread::Builder::new().spawn_scoped(scope, worker) {
                // The machine allows no more threads: those that there are do the work.
                if started == 0 {
                    let error = formats::Error::io("start a thread", e);
                    let mut failure = failure.lock().unwrap_or_else(|e| e.into_inner());
                    *failure = Some((u64::MAX, error.into()));
                }
                break;
            }
        }
    });
    match failure.into_inner().unwrap_or_else(|e| e.into_inner()) {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}

fn work<S: Stage>(
    stage: &S,
    segments: &Segments<'_>,
    turnstile: &Turnstile,
    cores: &Slots,
    cancel: &AtomicBool,
) -> Result<(), (u64, Error)> {
    let mut worker = stage.worker().map_err(|e| (u64::MAX, e))?;
    loop {
        if turnstile.stopped() {
            return Ok(());
        }
        // Before the segment is taken, so that lower tickets come first here too.
        let core = cores.enter();
        if cancel.load(Ordering::Relaxed) {
            return Err((u64::MAX, Error::Interrupted));
        }
        let Some(segment) = segments.take().map_err(|e| (u64::MAX - 1, e))? else {
            return Ok(());
        };
        let failed = |error| (segment.ticket, error);
        let core = stage.is_heavy(&segment).then_some(core);
        stage.prepare(&mut worker, &segment).map_err(failed)?;
        drop(core);
        if !turnstile.wait_for(segment.ticket) {
            return Ok(());
        }
        let done = stage.in_order(&mut worker, &segment);
        if done.is_ok() {
            turnstile.pass();
        }
        done.map_err(failed)?;
        stage.store(&mut worker, &segment).map_err(failed)?;
    }
}

/// So many at a time.
struct Slots {
    free: Mutex<usize>,
    left: Condvar,
}

impl Slots {
    fn new(free: usize) -> Slots {
        Slots {
            free: Mutex::new(free),
            left: Condvar::new(),
        }
    }

    /// Waits for a free slot; it is given back when the answer is dropped.
    fn enter(&self) -> Slot<'_> {
        let mut free = self.free.lock().unwrap_or_else(|e| e.into_inner());
        while *free == 0 {
            free = self.left.wait(free).unwrap_or_else(|e| e.into_inner());
        }
        *free -= 1;
        Slot(self)
    }
}

struct Slot<'a>(&'a Slots);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(|e| e.into_inner()) += 1;
        self.0.left.notify_one();
    }
}

/// Lets tickets through one at a time, in order.
#[derive(Default)]
struct Turnstile {
    next: Mutex<u64>,
    moved: Condvar,
    stopped: AtomicBool,
}

impl Turnstile {
    /// Waits until all lower tickets have passed; `false` when everything stopped instead.
    fn wait_for(&self, ticket: u64) -> bool {
        let mut next = self.next.lock().unwrap_or_else(|e| e.into_inner());
        while *next != ticket {
            if self.stopped() {
                return false;
            }
            next = self.moved.wait(next).unwrap_or_else(|e| e.into_inner());
        }
        !self.stopped()
    }

    fn pass(&self) {
        *self.next.lock().unwrap_or_else(|e| e.into_inner()) += 1;
        self.moved.notify_all();
    }

    fn stop(&self) {
        // Under the lock, so that nobody is between looking and waiting.
        let _next = self.next.lock().unwrap_or_else(|e| e.into_inner());
        self.stopped.store(true, Ordering::Relaxed);
        self.moved.notify_all();
    }

    fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

struct StopOnPanic<'a>(&'a Turnstile);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
        }
    }
}
