//! How far a transfer is: counters that workers add to and anybody may look at.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counters of one pass over a disk.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    data: AtomicU64,
    total: AtomicU64,
    verifying: AtomicBool,
}

impl Progress {
    /// Starts a pass over `total` guest bytes.
    pub fn begin(&self, total: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.data.store(0, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    /// From now on what was written is read back.
    pub fn set_verifying(&self) {
        self.verifying.store(true, Ordering::Relaxed);
    }

    /// Whether what was written is being read back.
    pub fn is_verifying(&self) -> bool {
        self.verifying.load(Ordering::Relaxed)
    }

    /// Counts `guest` bytes that are done, `data` of which were read.
    pub fn add(&self, guest: u64, data: u64) {
        self.done.fetch_add(guest, Ordering::Relaxed);
        self.data.fetch_add(data, Ordering::Relaxed);
    }

    /// Guest bytes done.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Guest bytes of these that were read, rather than known to be zero.
    pub fn data(&self) -> u64 {
        self.data.load(Ordering::Relaxed)
    }

    /// Guest bytes of the pass.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }
}
