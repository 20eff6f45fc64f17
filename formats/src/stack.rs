//! Disks made of disks: a chain of layers, pieces one after the other, and a part of a disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::source::{BlockSource, Mapping, Run, mapped};
use crate::storage::{MemoryStorage, StorageRef};

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
            let run = mapped(layer.as_ref(), offset, limit)?;
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
        mapped(self.inner.as_ref(), offset, limit)
    }
}

/// A disk with other bytes in a few places.
pub struct Patched {
    inner: Arc<dyn BlockSource>,
    /// Where each starts, ascending; no two overlap.
    patches: BTreeMap<u64, StorageRef>,
}

impl Patched {
    /// `inner` with each of `patches` at its offset. What is behind the end of the disk does not count.
    pub fn new(inner: Arc<dyn BlockSource>, patches: Vec<(u64, Vec<u8>)>) -> Patched {
        let patches = patches.into_iter().filter(|(_, bytes)| !bytes.is_empty());
        let stored =
            patches.map(|(at, bytes)| (at, Arc::new(MemoryStorage::new(bytes)) as StorageRef));
        Patched {
            inner,
            patches: stored.collect(),
        }
    }
}

impl BlockSource for Patched {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn sector_size(&self) -> u32 {
        self.inner.sector_size()
    }

    fn block_size(&self) -> u64 {
        self.inner.block_size()
    }

    fn map(&self, offset: u64, limit: u64) -> Result<Run> {
        if let Some((at, storage)) = self.patches.range(..=offset).next_back()
            && offset - at < storage.len()
        {
            let within = offset - at;
            let mapping = Mapping::Stored {
                storage: storage.clone(),
                offset: within,
            };
            return Ok(Run::new(limit.min(storage.len() - within), mapping));
        }
        let next = self.patches.range(offset..).next();
        let limit = next.map_or(limit, |(at, _)| limit.min(at - offset));
        mapped(self.inner.as_ref(), offset, limit)
    }
}

/// Pieces of disks, one after the other, as one disk: the extents of a split VMDK.
pub struct Concat {
    /// Where each piece starts, and the disk that its bytes are the first ones of.
    pieces: Vec<(u64, Arc<dyn BlockSource>)>,
    size: u64,
    sector_size: u32,
}

impl Concat {
    /// The first `len` bytes of each piece, one piece after the other. A piece that is shorter goes on with zeros.
    ///
    /// # Errors
    /// `Limit` when the sum is not a number of 64 bits.
    pub fn new(
        pieces: impl IntoIterator<Item = (u64, Arc<dyn BlockSource>)>,
        sector_size: u32,
    ) -> Result<Concat> {
        let mut placed = Vec::new();
        let mut size: u64 = 0;
        for (len, piece) in pieces {
            if len == 0 {
                continue;
            }
            placed.push((size, piece));
            size = size.checked_add(len).ok_or_else(|| {
                Error::limit("extents", "are together longer than any disk can be")
            })?;
        }
        Ok(Concat {
            pieces: placed,
            size,
            sector_size,
        })
    }
}

impl BlockSource for Concat {
    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn block_size(&self) -> u64 {
        let sizes = self.pieces.iter().map(|(_, piece)| piece.block_size());
        sizes.min().unwrap_or(512)
    }

    fn map(&self, offset: u64, limit: u64) -> Result<Run> {
        let after = self.pieces.partition_point(|(start, _)| *start <= offset);
        let end = self
            .pieces
            .get(after)
            .map_or(self.size, |(start, _)| *start);
        let Some((start, piece)) = after.checked_sub(1).and_then(|i| self.pieces.get(i)) else {
            return Ok(Run::new(limit, Mapping::Zero));
        };
        let limit = limit.min(end - offset);
        if offset - start >= piece.size() {
            return Ok(Run::new(limit, Mapping::Zero));
        }
        mapped(piece.as_ref(), offset - start, limit)
    }
}

/// Zeros, whatever a parent says.
pub struct Zeros(pub u64);

impl BlockSource for Zeros {
    fn size(&self) -> u64 {
        self.0
    }

    fn block_size(&self) -> u64 {
        4096
    }

    fn map(&self, _offset: u64, limit: u64) -> Result<Run> {
        Ok(Run::new(limit, Mapping::Zero))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reader::read_guest;

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
    fn pieces_stand_one_after_the_other() {
        let toy = |bytes: &[Option<u8>]| Arc::new(Toy(bytes.to_vec())) as Arc<dyn BlockSource>;
        let pieces = [
            (6, toy(&[Some(1), Some(2)])),
            (0, toy(&[Some(9)])),
            (4, Arc::new(Zeros(4)) as Arc<dyn BlockSource>),
            (6, toy(&[Some(3)])),
        ];
        let disk = Concat::new(pieces, 512).unwrap();
        let mut out = vec![0xEE; 16];
        read_guest(&disk, 0, &mut out).unwrap();
        assert_eq!(out, [1, 1, 1, 1, 2, 2, 0, 0, 0, 0, 3, 3, 3, 3, 0, 0]);
        assert_eq!((disk.size(), disk.block_size()), (16, 4));
        let huge = [(u64::MAX, toy(&[])), (1, toy(&[]))];
        assert!(Concat::new(huge, 512).is_err());
    }

    #[test]
    fn patches_hide_what_is_below_them() {
        let toy: Arc<dyn BlockSource> = Arc::new(Toy(vec![Some(1), None, Some(2)]));
        let patched = Patched::new(toy, vec![(2, vec![8; 3]), (9, vec![9]), (11, vec![7; 5])]);
        let mut out = vec![0xEE; 12];
        read_guest(&patched, 0, &mut out).unwrap();
        assert_eq!(out, [1, 1, 8, 8, 8, 0, 0, 0, 2, 9, 2, 7]);
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
