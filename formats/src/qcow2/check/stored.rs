//! The refcounts as the file has them: where their blocks stand, and what they say.

use std::collections::HashMap;
use std::sync::Arc;

use super::chunks::Chunks;
use super::tally::{Kind, Tally};
use crate::error::{Error, Result};
use crate::qcow2::header::Header;
use crate::qcow2::refcount::pick;
use crate::storage::StorageRef;

/// Bits of a refcount table entry that are no offset (qcow2 spec, "Host cluster management").
const RESERVED: u64 = 0x1ff;
/// Bytes of blocks that one lookup reads, unless clusters are smaller.
const SLICE: u64 = 4096;
/// Slices kept in memory: 8 MiB.
const SLICES_KEPT: usize = 2048;

/// A refcount block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block {
    /// All its refcounts are 0.
    Absent,
    /// It stands at this file offset.
    At(u64),
    /// What stands there says nothing.
    Unusable,
}

/// A part of a block, for lookups.
#[derive(Debug, Clone)]
enum Slice {
    Zeros,
    Bytes(Arc<[u8]>),
    Unusable,
}

/// The refcounts of an image.
pub struct Stored<'a> {
    storage: &'a StorageRef,
    cluster_bits: u32,
    order: u32,
    blocks: Vec<Block>,
    /// Whether the table itself can be read.
    is_there: bool,
    known: HashMap<u64, Slice>,
    last: (u64, Slice),
}

impl<'a> Stored<'a> {
    /// Reads the table and tells what is wrong with it.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn read(
        storage: &'a StorageRef,
        header: &Header,
        chunks: &mut Chunks<'_>,
        tally: &mut Tally,
    ) -> Result<Stored<'a>> {
        let entries = header.refcount_table_bytes() / 8;
        let start = header.refcount_table_offset;
        let end = start.saturating_add(header.refcount_table_bytes());
        let mut stored = Stored {
            storage,
            cluster_bits: header.cluster_bits,
            order: header.refcount_order,
            blocks: Vec::new(),
            is_there: entries > 0 && end <= storage.len(),
            known: HashMap::new(),
            last: (u64::MAX, Slice::Unusable),
        };
        if !stored.is_there {
            tally.note(Kind::Table, 1, start, || {
                Error::truncated("refcount table", "is not in the file")
                    .found(format!("{entries} entries"))
            });
            return Ok(stored);
        }
        // At most 1 Mi: 8 MiB.
        stored.blocks = vec![Block::Absent; entries as usize];
        chunks.entries(start, entries, |at, entry| {
            let block = stored.block_of(entry, at, tally);
            if let Some(place) = stored.blocks.get_mut(((at - start) / 8) as usize) {
                *place = block;
            }
            Ok(())
        })?;
        stored.find_shared(start, tally);
        Ok(stored)
    }

    fn block_of(&self, entry: u64, at: u64, tally: &mut Tally) -> Block {
        let wrong = if entry & RESERVED != 0 {
            "has reserved bits set"
        } else if !entry.is_multiple_of(1 << self.cluster_bits) {
            "points into the middle of a cluster"
        } else if entry.saturating_add(1 << self.cluster_bits) > self.storage.len() {
            "points past the end of the file"
        } else {
            return Block::At(entry);
        };
        tally.note(Kind::Entry, 1, at, || {
            Error::malformed("refcount table entry", wrong).found(format!("{entry:#018x}"))
        });
        Block::Unusable
    }

    /// A block that counts two parts of the file counts neither.
    fn find_shared(&mut self, start: u64, tally: &mut Tally) {
        let mut order: Vec<u32> = (0..).take(self.blocks.len()).collect();
        let offset = |index: &u32| match self.blocks[*index as usize] {
            Block::At(offset) => offset,
            _ => 0,
        };
        order.sort_by_key(|index| (offset(index), *index));
        let shared: Vec<u32> = order
            .windows(2)
            .filter(|pair| offset(&pair[0]) != 0 && offset(&pair[0]) == offset(&pair[1]))
            .map(|pair| pair[1])
            .collect();
        for index in shared {
            let block = std::mem::replace(&mut self.blocks[index as usize], Block::Unusable);
            tally.note(Kind::Entry, 1, start + u64::from(index) * 8, || {
                Error::malformed(
                    "refcount table entry",
                    "points to a block that counts another part of the file",
                )
                .found(format!("{block:?}"))
            });
        }
    }

    /// The blocks, in order of what they count.
    pub fn blocks(&self) -> impl Iterator<Item = Block> {
        self.blocks.iter().copied()
    }

    /// The block that counts `cluster`.
    pub fn block(&self, cluster: u64) -> Block {
        let index = usize::try_from(cluster / self.per_block()).ok();
        match index.and_then(|index| self.blocks.get(index)) {
            Some(block) => *block,
            None if self.is_there => Block::Absent,
            None => Block::Unusable,
        }
    }

    /// The first cluster that no entry of the table is for.
    pub fn end(&self) -> u64 {
        self.blocks.len() as u64 * self.per_block()
    }

    /// Clusters that a block counts.
    pub fn per_block(&self) -> u64 {
        (8 << self.cluster_bits) >> self.order
    }

    /// Bits of a refcount, as a power of two.
    pub fn order(&self) -> u32 {
        self.order
    }

    /// The refcount of `cluster`; `None` when its block says nothing.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn count(&mut self, cluster: u64) -> Result<Option<u64>> {
        let slice_size = SLICE.min(1 << self.cluster_bits);
        let per_slice = (slice_size * 8) >> self.order;
        let key = cluster / per_slice;
        if self.last.0 != key {
            self.last = (key, self.slice(key, per_slice, slice_size)?);
        }
        let bit = (cluster % per_slice) << self.order;
        Ok(match &self.last.1 {
            Slice::Zeros => Some(0),
            Slice::Unusable => None,
            Slice::Bytes(bytes) => Some(count_at(bytes, self.order, bit)),
        })
    }

    /// Forgets what was read: refcounts were changed.
    pub fn forget(&mut self) {
        self.known.clear();
        self.last = (u64::MAX, Slice::Unusable);
    }

    fn slice(&mut self, key: u64, per_slice: u64, slice_size: u64) -> Result<Slice> {
        if let Some(slice) = self.known.get(&key) {
            return Ok(slice.clone());
        }
        let first = key.saturating_mul(per_slice);
        let slice = match self.block(first) {
            Block::Absent => Slice::Zeros,
            Block::Unusable => Slice::Unusable,
            Block::At(offset) => {
                let mut bytes = vec![0; slice_size as usize];
                let within = first % self.per_block() / per_slice * slice_size;
                // The block is in the file.
                self.storage.read_at(&mut bytes, offset + within)?;
                Slice::Bytes(bytes.into())
            }
        };
        if self.known.len() >= SLICES_KEPT {
            self.known.clear();
        }
        self.known.insert(key, slice.clone());
        Ok(slice)
    }
}

/// The refcount of `1 << order` bits at `bit` of a block or a part of one.
pub fn count_at(bytes: &[u8], order: u32, bit: u64) -> u64 {
    let start = (bit / 64 * 8) as usize;
    let word = bytes.get(start..).and_then(|rest| rest.first_chunk());
    word.map_or(0, |word| pick(*word, order, bit % 64))
}
