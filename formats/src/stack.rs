//! Disks made of disks: a chain of layers, and a part of a disk.

use std::sync::Arc;

use crate::error::Result;
use crate::source::{BlockSource, Mapping, Run, run_at};

/// A chain of layers that reads as one disk: the tip first, the base last.
pub struct Stack {
    layers: Vec<Arc<dyn BlockSource>>,
    tip: Arc<dyn BlockSource>,
}

impl Stack {
    /// The chain of `tip` over `parents`, nearest first. The tip decides the size: of a larger parent the rest is
    /// hidden, past the end of a smaller one there are zeros.
    pub fn new(tip: Arc<dyn BlockSource>, parents: Vec<Arc<dyn BlockSource>>) -> Stack {
        let mut layers = vec![tip.clone()];
        layers.extend(parents);
        Stack { layers, tip }
    }
}

impl BlockSource for Stack {
    fn size(&self) -> u64 {
        self.tip.size()
    }

    fn sector_size(&self) -> u32 {
        self.tip.sector_size()
    }

    /// The smallest of all layers: what is damaged in one of them is lost in its units.
    fn block_size(&self) -> u64 {
        let sizes = self.layers.iter().map(|layer| layer.block_size());
        sizes.min().unwrap_or(512)
    }

    fn map(&self, offset: u64, mut limit: u64) -> Result<Run> {
        for layer in &self.layers {
            // A layer hides what is below it also past its own end: its guest read zeros there.
            if offset >= layer.size() {
                return Ok(Run::new(limit, Mapping::Zero));
            }
            let run = run_at(layer.as_ref(), offset, limit)?;
            if !matches!(run.mapping, Mapping::Absent) {
                return Ok(run);
            }
            limit = run.len;
        }
        Ok(Run::new(limit, Mapping::Zero))
    }
}

/// The first bytes of a disk, as a disk of their own.
pub struct Window {
    inner: Arc<dyn BlockSource>,
    size: u64,
}

impl Window {
    /// `inner` cut, or continued with zeros, to `size` bytes.
    pub fn new(inner: Arc<dyn BlockSource>, size: u64) -> Window {
        Window { inner, size }
    }
}

impl BlockSource for Window {
    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> u32 {
        self.inner.sector_size()
    }

    fn block_size(&self) -> u64 {
        self.inner.block_size()
    }

    fn map(&self, offset: u64, limit: u64) -> Result<Run> {
        if offset >= self.inner.size() {
            return Ok(Run::new(limit, Mapping::Zero));
        }
        run_at(self.inner.as_ref(), offset, limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reader::read_guest;
    use crate::storage::{MemoryStorage, StorageRef};

    /// Blocks of 4 bytes, each absent (`None`), zero (`Some(0)`) or filled with a byte.
    struct Toy(Vec<Option<u8>>);

    impl BlockSource for Toy {
        fn size(&self) -> u64 {
            self.0.len() as u64 * 4
        }
        fn block_size(&self) -> u64 {
            4
        }
        fn map(&self, offset: u64, limit: u64) -> Result<Run> {
            let len = limit.min(4 - offset % 4);
            Ok(match self.0[offset as usize / 4] {
                None => Run::new(len, Mapping::Absent),
                Some(0) => Run::new(len, Mapping::Zero),
                Some(byte) => {
                    let storage: StorageRef = Arc::new(MemoryStorage::new(vec![byte; 4]));
                    Run::new(len, Mapping::Stored { storage, offset: 0 })
                }
            })
        }
    }

    fn read(layers: Vec<Toy>) -> Vec<u8> {
        let mut layers = layers
            .into_iter()
            .map(|l| Arc::new(l) as Arc<dyn BlockSource>);
        let tip = layers.next().unwrap();
        let stack = Stack::new(tip, layers.collect());
        let mut out = vec![0xEE; stack.size() as usize];
        read_guest(&stack, 0, &mut out).unwrap();
        out.iter().step_by(4).copied().collect()
    }

    #[test]
    fn zero_over_parent_stays_zero_and_absent_shows_it() {
        let tip = Toy(vec![Some(0), None, Some(1)]);
        let base = Toy(vec![Some(9), Some(8), Some(7)]);
        assert_eq!(read(vec![tip, base]), [0, 8, 1]);
    }

    #[test]
    fn a_shorter_layer_hides_what_is_below_its_end() {
        let tip = Toy(vec![None, None, None]);
        let middle = Toy(vec![None]);
        let base = Toy(vec![Some(9), Some(8), Some(7)]);
        assert_eq!(read(vec![tip, middle, base]), [9, 0, 0]);
    }

    #[test]
    fn a_larger_parent_is_cut() {
        assert_eq!(
            read(vec![Toy(vec![None]), Toy(vec![Some(5), Some(6)])]),
            [5]
        );
    }

    #[test]
    fn a_window_cuts_and_continues_with_zeros() {
        let toy: Arc<dyn BlockSource> = Arc::new(Toy(vec![Some(1), Some(2)]));
        let mut out = vec![0xEE; 12];
        read_guest(&Window::new(toy.clone(), 12), 0, &mut out).unwrap();
        assert_eq!(out, [1, 1, 1, 1, 2, 2, 2, 2, 0, 0, 0, 0]);
        assert_eq!(Window::new(toy, 4).size(), 4);
    }
}
