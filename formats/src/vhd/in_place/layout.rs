//! Where the blocks of a fixed disk go when it becomes dynamic in its own file, and in which order.
//!
//! Blocks keep their order and follow each other. So a block that moves towards the end can only be in the way of those
//! before it, and one that moves towards the front of those behind it: there is always an order in which nothing is
//! written over that has not moved yet.

use std::ops::Range;

use crate::block_set::BlockSet;
use crate::error::{Error, Result};
use crate::vhd::bat::{UNALLOCATED, overlap};
use crate::vhd::new_blocks::{PAGE, data_start, table_end};

/// Blocks that move at once.
const BATCH: usize = 2;

/// Blocks from which on the first one gets free room in front of it: with that, those behind it move so far that they need
/// not be kept twice meanwhile.
const MANY: u64 = 64;

/// The places of all blocks that hold something.
#[derive(Debug)]
pub struct Layout {
    size: u64,
    block_size: u64,
    /// Where what stands in front of the first block's data starts.
    start: u64,
    /// Numbers of the blocks, ascending.
    used: Vec<u32>,
}

/// Blocks that move at once: a range of their numbers among the used ones.
pub type Batch = Range<usize>;

impl Layout {
    /// The layout for a disk of `size` bytes, of whose blocks of `block_size` bytes those in `used` hold something.
    ///
    /// # Errors
    /// `Limit` when the file would be larger than 2 TiB.
    pub fn new(size: u64, block_size: u64, used: &BlockSet) -> Result<Layout> {
        let blocks = size.div_ceil(block_size);
        let lead = match used.count() {
            MANY.. => BATCH as u64 * block_size,
            _ => 0,
        };
        let mut numbers = Vec::new();
        let mut next = used.next(0);
        while let Some(number) = next {
            numbers.push(number as u32);
            next = used.next(number + 1);
        }
        let layout = Layout {
            size,
            block_size,
            start: data_start(blocks).saturating_add(lead),
            used: numbers,
        };
        match layout.new_place(layout.used.len()).start / 512 {
            sector if sector < u64::from(UNALLOCATED) => Ok(layout),
            _ => Err(Error::limit("BAT", "the file would be larger than 2 TiB")),
        }
    }

    /// Guest bytes of a block.
    pub fn block_size(&self) -> u64 {
        self.block_size
    }

    /// Blocks of the disk.
    pub fn blocks(&self) -> u64 {
        self.size.div_ceil(self.block_size)
    }

    /// Blocks that hold something.
    pub fn used(&self) -> &[u32] {
        &self.used
    }

    /// Where the tables may be, and nothing else.
    pub fn front(&self) -> Range<u64> {
        0..self.start
    }

    /// Where the footer goes.
    pub fn data_end(&self) -> u64 {
        match self.used.len() {
            0 => table_end(self.blocks()),
            count => self.new_place(count).start,
        }
    }

    /// Where the `nth` used block stands in the fixed disk: the last one may be shorter than the others.
    pub fn old_place(&self, nth: usize) -> Range<u64> {
        let number = self.used.get(nth).copied().map_or(0, u64::from);
        self.guest_range(number)
    }

    /// The bytes of block `number`.
    pub fn guest_range(&self, number: u64) -> Range<u64> {
        let start = number.saturating_mul(self.block_size);
        start..start.saturating_add(self.block_size).min(self.size)
    }

    /// Where it will stand: a page that ends in its bitmap, then its data.
    pub fn new_place(&self, nth: usize) -> Range<u64> {
        let stride = self.block_size + PAGE;
        let start = self.start.saturating_add(nth as u64 * stride);
        start..start + stride
    }

    /// The entry of the BAT for it.
    pub fn entry(&self, nth: usize) -> u32 {
        ((self.new_place(nth).start + PAGE - 512) / 512) as u32
    }

    /// New places that have a byte in common with `range`.
    pub fn new_places(&self, range: &Range<u64>) -> Range<usize> {
        let stride = self.block_size + PAGE;
        let nth = |at: u64| at.saturating_sub(self.start) / stride;
        let end = range.end.saturating_sub(self.start).div_ceil(stride);
        let count = self.used.len();
        (nth(range.start) as usize).min(count)..(end as usize).min(count)
    }

    /// Which blocks move, in which order.
    pub fn batches(&self) -> Vec<Batch> {
        let to_the_end =
            |nth: &usize| self.new_place(*nth).start + PAGE > self.old_place(*nth).start;
        let mut batches = Vec::new();
        let mut first = 0;
        while first < self.used.len() {
            let rises = to_the_end(&first);
            let others = first..self.used.len();
            let run = others
                .into_iter()
                .take_while(|nth| to_the_end(nth) == rises);
            let end = first + run.count();
            let mut run: Vec<Batch> = (first..end)
                .step_by(BATCH)
                .map(|at| at..(at + BATCH).min(end))
                .collect();
            if rises {
                run.reverse();
            }
            batches.append(&mut run);
            first = end;
        }
        batches
    }

    /// Whether blocks of a batch go where others of it, or they themselves, stand.
    pub fn is_tight(&self, batch: &Batch) -> bool {
        batch.clone().any(|to| {
            let to = self.new_place(to);
            batch
                .clone()
                .any(|from| overlap(&to, &self.old_place(from)))
        })
    }

    /// Most bytes that a batch has.
    pub fn batch_len(&self) -> u64 {
        BATCH as u64 * self.block_size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(blocks: u64, used: impl Iterator<Item = u64>) -> Layout {
        let mut set = BlockSet::new(blocks);
        used.for_each(|number| set.insert(number));
        Layout::new(blocks * 8192, 8192, &set).unwrap()
    }

    /// Nothing is written over what has not moved, and every block moves once.
    fn check(layout: &Layout) {
        let mut left: Vec<usize> = (0..layout.used().len()).collect();
        for batch in layout.batches() {
            left.retain(|nth| !batch.contains(nth));
            for to in batch {
                let to = layout.new_place(to);
                for nth in &left {
                    assert!(!overlap(&to, &layout.old_place(*nth)), "{layout:?}");
                }
                assert!(!overlap(&to, &layout.front()));
            }
        }
        assert!(left.is_empty());
    }

    #[test]
    fn no_block_is_written_over_before_it_moved() {
        let mut state = 1u64;
        for round in 0..300 {
            let mut density = 8;
            let used = (0..200).filter(|number| {
                state = state
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                if number % 40 == 0 {
                    density = (state >> 40) % 17;
                }
                (state >> 33) % 16 < density
            });
            let used: Vec<u64> = used.collect();
            let blocks = 1 + 199 * (round % 3 + 1) / 3;
            check(&layout(
                blocks,
                used.into_iter().filter(|number| *number < blocks),
            ));
        }
        check(&layout(200, 0..200));
        check(&layout(200, 150..200));
        check(&layout(5, std::iter::empty()));
    }

    #[test]
    fn a_full_disk_moves_without_a_second_copy() {
        let layout = layout(200, 0..200);
        assert!(layout.batches().iter().all(|batch| !layout.is_tight(batch)));
    }

    #[test]
    fn the_largest_disk_fits() {
        let size = crate::vhd::footer::MAX_DISK_SIZE;
        let mut all = BlockSet::new(size >> 21);
        (0..size >> 21).for_each(|number| all.insert(number));
        let layout = Layout::new(size, 2 << 20, &all).unwrap();
        assert!(layout.entry(layout.used().len() - 1) < UNALLOCATED);
        assert!(layout.data_end() < 2 << 40);
    }
}
