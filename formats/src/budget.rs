//! Memory that all layers of a chain share.
//!
//! A bound for each layer is no bound for a chain of 64 of them. What is worth knowing but can be done without (which
//! clusters were met already) is kept only as far as the budget of the whole chain reaches.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a fresh budget: enough to know every cluster of 64 KiB in 28 TiB of data.
const BYTES: u64 = 64 << 20;

/// Bytes that may still be used. Clones share them.
#[derive(Debug, Clone)]
pub struct Budget(Arc<AtomicU64>);

impl Default for Budget {
    fn default() -> Budget {
        Budget::new(BYTES)
    }
}

impl Budget {
    /// A budget of `bytes`.
    pub fn new(bytes: u64) -> Budget {
        Budget(Arc::new(AtomicU64::new(bytes)))
    }

    /// Takes `bytes` for good; `false` when they are not left.
    pub fn take(&self, bytes: u64) -> bool {
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(bytes)
            })
            .is_ok()
    }
}
