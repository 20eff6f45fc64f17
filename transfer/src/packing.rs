//! Packing blocks for targets that store them packed: in parallel, before they have a place.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use formats::{Codec, Form, Mapping, PackWorker, Packer, Result, Run};

/// The packer of a target, and what its threads need.
pub struct Packing {
    packer: Arc<dyn Packer>,
    how: How,
    /// Compressors are large: there are only as many as are in use at once.
    idle: Mutex<Vec<Box<dyn PackWorker>>>,
}

/// How blocks are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Those that the source holds packed are taken as they are.
    Adopting,
    /// All of them are packed anew.
    Anew,
    /// None: each is taken for as large as it could become.
    Measuring,
}

/// The packed blocks of a segment.
#[derive(Default)]
pub struct PackedBlocks {
    /// What is stored, block after block.
    pub bytes: Vec<u8>,
    /// The blocks, in the order of the segment.
    pub blocks: Vec<PackedBlock>,
    /// Those that were taken as the source has them.
    adopted: Vec<PackedBlock>,
}

/// A packed block.
#[derive(Debug, Clone)]
pub struct PackedBlock {
    /// Offset in the segment.
    pub at: usize,
    /// Where it is in [`PackedBlocks::bytes`].
    pub range: Range<usize>,
    /// What was made of it.
    pub form: Form,
}

impl PackedBlocks {
    /// Forgets everything.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.blocks.clear();
        self.adopted.clear();
    }
}

impl Packing {
    /// Packing with `packer`.
    pub fn new(packer: Arc<dyn Packer>, how: How) -> Packing {
        Packing {
            packer,
            how,
            idle: Mutex::default(),
        }
    }

    /// Bytes of a block.
    pub fn unit(&self) -> usize {
        self.packer.unit() as usize
    }

    /// Whether `run`, which is at `at` of its segment, may be a block that can be taken as it is.
    pub fn may_adopt(&self, run: &Run, at: usize) -> bool {
        let unit = self.unit();
        let Mapping::Packed {
            codec, unit: own, ..
        } = &run.mapping
        else {
            return false;
        };
        self.how == How::Adopting
            && at.is_multiple_of(unit)
            && run.len == unit as u64
            && *own as usize == unit
            && self.packer.takes(*codec)
    }

    /// Takes the block at `at` of the segment at guest offset `segment` as the source has it: `stream`, which holds
    /// `block`.
    pub fn adopt(
        &self,
        segment: u64,
        at: usize,
        block: &[u8],
        (codec, stream): (Codec, &[u8]),
        packed: &mut PackedBlocks,
    ) -> Result<()> {
        let start = packed.bytes.len();
        let form = self.with_worker(|worker| {
            let guest_offset = segment + at as u64;
            worker.adopt(guest_offset, block, codec, stream, &mut packed.bytes)
        })?;
        let range = start..packed.bytes.len();
        packed.adopted.push(PackedBlock { at, range, form });
        Ok(())
    }

    /// Packs the blocks of `content`, the segment at guest offset `segment`, that have any of `data` and were not
    /// adopted. `content` is whole units; `data` is made of whole units but for the end of the disk.
    pub fn pack(
        &self,
        segment: u64,
        content: &[u8],
        data: &[Range<usize>],
        packed: &mut PackedBlocks,
    ) -> Result<()> {
        let unit = self.unit();
        if self.how == How::Measuring {
            let (most, form) = self.packer.most();
            let starts = data.iter().flat_map(|range| range.clone().step_by(unit));
            packed
                .blocks
                .extend(starts.enumerate().map(|(index, at)| PackedBlock {
                    at,
                    range: index * most..(index + 1) * most,
                    form,
                }));
            return Ok(());
        }
        self.with_worker(|worker| {
            for at in data.iter().flat_map(|range| range.clone().step_by(unit)) {
                let known = packed.adopted.binary_search_by_key(&at, |block| block.at);
                if let Ok(index) = known {
                    packed.blocks.push(packed.adopted[index].clone());
                    continue;
                }
                let start = packed.bytes.len();
                let block = &content[at..at + unit];
                let form = worker.pack(segment + at as u64, block, &mut packed.bytes)?;
                let range = start..packed.bytes.len();
                packed.blocks.push(PackedBlock { at, range, form });
            }
            Ok(())
        })
    }

    fn with_worker<T>(&self, work: impl FnOnce(&mut dyn PackWorker) -> Result<T>) -> Result<T> {
        let idle = self.idle.lock().unwrap_or_else(|e| e.into_inner()).pop();
        let mut worker = idle.unwrap_or_else(|| self.packer.worker());
        let result = work(worker.as_mut());
        self.idle
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .push(worker);
        result
    }
}
