//! The BLAKE3 of a whole disk, for as long as it costs less than the copy itself.
//!
//! A digest of guest content has to hash every zero of a sparse disk, while a copy skips them. So a digest that nobody
//! asked for by name stops when the zeros outgrow the data by far: the price of `--verify` follows the data.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::digest::{Blake3Tree, SegmentHash};

/// Zeros that may be hashed besides [`ZEROS_PER_DATA`] times the data: a second or two.
const FREE_ZEROS: u64 = 8 << 30;

/// Hashing zeros is several times faster than reading and storing data.
const ZEROS_PER_DATA: u64 = 4;

/// Whether a digest is still wanted, and how long zeros may be in one piece meanwhile. Shared by all workers.
#[derive(Debug)]
pub struct Budget {
    spent: AtomicBool,
    longest_zeros: AtomicU64,
}

impl Budget {
    /// Zeros come in pieces of `longest_zeros`, and of any length once the budget is spent.
    pub fn new(wanted: bool, longest_zeros: u64) -> Budget {
        Budget {
            spent: AtomicBool::new(!wanted),
            longest_zeros: AtomicU64::new(longest_zeros),
        }
    }

    /// Whether zeros need not be hashed any more.
    pub fn is_spent(&self) -> bool {
        self.spent.load(Ordering::Relaxed)
    }

    /// Bytes of zeros that may be one segment.
    pub fn longest_zeros(&self) -> &AtomicU64 {
        &self.longest_zeros
    }

    fn spend(&self, then_longest: u64) {
        self.spent.store(true, Ordering::Relaxed);
        self.longest_zeros.store(then_longest, Ordering::Relaxed);
    }
}

/// The digest in the making, fed in guest order.
#[derive(Debug, Default)]
pub struct AffordableDigest {
    tree: Box<Blake3Tree>,
    zeros: u64,
    data: u64,
}

impl AffordableDigest {
    /// The hashes of the next segment, which has `data` bytes of data and `zeros` bytes that its map knows as zeros.
    /// `then_longest` is how long zeros may be when it becomes too much.
    pub fn update(
        &mut self,
        budget: &Budget,
        hashes: &[SegmentHash],
        data: u64,
        zeros: u64,
        then_longest: u64,
    ) {
        if budget.is_spent() {
            return;
        }
        self.data = self.data.saturating_add(data);
        self.zeros = self.zeros.saturating_add(zeros);
        let affordable = FREE_ZEROS.saturating_add(self.data.saturating_mul(ZEROS_PER_DATA));
        if self.zeros > affordable {
            budget.spend(then_longest);
            return;
        }
        hashes.iter().for_each(|hash| self.tree.push(hash));
    }

    /// The digest in hexadecimal, if it was affordable to the end.
    pub fn finish(self, budget: &Budget) -> Option<String> {
        (!budget.is_spent()).then(|| self.tree.finish().to_hex().to_string())
    }
}
