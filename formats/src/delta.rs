//! A layer of a chain as a delta of its own, in units as large as the format it is written to can tell apart.

use std::sync::Arc;

use crate::error::Result;
use crate::source::{BlockSource, Mapping, Run, mapped};
use crate::stack::Window;

/// What a layer defines. Units of which it defines nothing are [`Mapping::Absent`]; those of which it defines a part
/// are completed from what is below it.
pub struct Delta {
    layer: Arc<dyn BlockSource>,
    below: Window,
    unit: u64,
    size: u64,
}

impl Delta {
    /// `layer` over the disk `below`, in units of `unit` bytes (not 0). The disk has `size` bytes: what it has behind the
    /// end of the layer is zeros, which hide what is below.
    pub fn new(
        layer: Arc<dyn BlockSource>,
        below: Arc<dyn BlockSource>,
        unit: u64,
        size: u64,
    ) -> Delta {
        Delta {
            layer,
            below: Window::new(below, size),
            unit: unit.max(1),
            size,
        }
    }

    /// What the layer itself says.
    fn own(&self, offset: u64, limit: u64) -> Result<Run> {
        if offset >= self.layer.size() {
            return Ok(Run::new(limit, Mapping::Zero));
        }
        mapped(self.layer.as_ref(), offset, limit)
    }

    /// Whether the layer defines nothing from `start` to `end`.
    fn is_absent(&self, start: u64, end: u64) -> Result<bool> {
        let mut at = start;
        while at < end {
            let run = self.own(at, end - at)?;
            if !matches!(run.mapping, Mapping::Absent) {
                return Ok(false);
            }
            at += run.len;
        }
        Ok(true)
    }
}

impl BlockSource for Delta {
    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> u32 {
        self.layer.sector_size()
    }

    fn block_size(&self) -> u64 {
        self.layer.block_size()
    }

    fn map(&self, offset: u64, limit: u64) -> Result<Run> {
        let run = self.own(offset, limit)?;
        if !matches!(run.mapping, Mapping::Absent) {
            return Ok(run);
        }
        let start = offset - offset % self.unit;
        let unit_end = start.saturating_add(self.unit).min(self.size);
        if !self.is_absent(start, unit_end)? {
            let len = run.len.min(unit_end - offset);
            let below = mapped(&self.below, offset, len)?;
            return Ok(match below.mapping {
                Mapping::Absent => Run::new(below.len, Mapping::Zero),
                _ => below,
            });
        }
        // All units that end within the run are absent like this one.
        let end = offset.saturating_add(run.len);
        let whole = match end >= self.size {
            true => end,
            false => (end - end % self.unit).max(unit_end.min(end)),
        };
        Ok(Run::new(whole - offset, Mapping::Absent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reader::read_guest;
    use crate::source::run_at;
    use crate::stack::Stack;
    use crate::storage::{MemoryStorage, StorageRef};

    /// Bytes, each absent (`None`), zero (`Some(0)`) or stored.
    struct Bytes(Vec<Option<u8>>);

    impl BlockSource for Bytes {
        fn size(&self) -> u64 {
            self.0.len() as u64
        }
        fn block_size(&self) -> u64 {
            1
        }
        fn map(&self, offset: u64, limit: u64) -> Result<Run> {
            let (at, first) = (offset as usize, self.0[offset as usize]);
            let same = self.0[at..].iter().take_while(|b| **b == first).count() as u64;
            Ok(match first {
                None => Run::new(same.min(limit), Mapping::Absent),
                Some(0) => Run::new(same.min(limit), Mapping::Zero),
                Some(byte) => {
                    let storage: StorageRef = Arc::new(MemoryStorage::new(vec![byte]));
                    Run::new(1, Mapping::Stored { storage, offset: 0 })
                }
            })
        }
    }

    /// The bytes of a delta: `None` where it leaves the disk below as it is.
    fn read(delta: &Delta, step: u64) -> Vec<Option<u8>> {
        let mut all = Vec::new();
        while (all.len() as u64) < delta.size() {
            let at = all.len() as u64;
            let run = run_at(delta, at, step).unwrap();
            let mut bytes = vec![0; run.len as usize];
            let absent = matches!(run.mapping, Mapping::Absent);
            read_guest(delta, at, &mut bytes).unwrap();
            all.extend(bytes.into_iter().map(|b| (!absent).then_some(b)));
        }
        all
    }

    fn disk(bytes: &[Option<u8>]) -> Arc<dyn BlockSource> {
        Arc::new(Bytes(bytes.to_vec()))
    }

    #[test]
    fn units_that_are_defined_in_part_are_completed() {
        let below = disk(&[1, 2, 3, 4, 5, 6, 7].map(Some));
        let layer = disk(&[None, None, None, Some(0), None, None, Some(9), None, None]);
        for step in 1..10 {
            let delta = Delta::new(layer.clone(), below.clone(), 3, 9);
            let expected = [
                None,
                None,
                None,
                Some(0),
                Some(5),
                Some(6),
                Some(9),
                Some(0),
                Some(0),
            ];
            assert_eq!(read(&delta, step), expected, "{step}");
        }
    }

    #[test]
    fn behind_the_end_of_the_layer_are_zeros_that_hide() {
        let below = disk(&[1, 2, 3, 4, 5, 6, 7].map(Some));
        let delta = Delta::new(disk(&[None; 4]), below, 3, 6);
        let expected = [None, None, None, Some(4), Some(0), Some(0)];
        assert_eq!(read(&delta, u64::MAX), expected);
    }

    #[test]
    fn a_delta_over_the_disk_below_is_the_layer_over_it() {
        let mut seed = 7_u32;
        let mut random = |below: u32| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 16) % below
        };
        for _ in 0..500 {
            let mut bytes = |most| -> Vec<Option<u8>> {
                let (len, dense) = (1 + random(most), 1 + random(6));
                let byte = |_| (random(dense) == 0).then(|| (random(3) * 50) as u8);
                (0..len).map(byte).collect()
            };
            let (layer, below) = (disk(&bytes(40)), disk(&bytes(40)));
            let (unit, step) = (1 + u64::from(random(9)), 1 + u64::from(random(50)));
            let whole = Stack::new(layer.clone(), vec![below.clone()]);
            let mut expected = vec![0; whole.size() as usize];
            read_guest(&whole, 0, &mut expected).unwrap();
            let delta = Delta::new(layer.clone(), below.clone(), unit, layer.size());
            let base = Window::new(below.clone(), layer.size());
            let mut under = vec![0; layer.size() as usize];
            read_guest(&base, 0, &mut under).unwrap();
            let found = read(&delta, step);
            for (at, chunk) in found.chunks(unit as usize).enumerate() {
                let absent = chunk.iter().filter(|b| b.is_none()).count();
                assert!(absent == 0 || absent == chunk.len(), "{at} of {unit}");
            }
            let bytes = found.iter().zip(under);
            let bytes: Vec<u8> = bytes.map(|(ours, below)| ours.unwrap_or(below)).collect();
            assert_eq!(bytes, expected);
        }
    }
}
