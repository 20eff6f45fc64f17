//! The block map: for every block of the disk the place in the file at which it stands.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::header::{ENTRY, Header};
use crate::driver::OpenContext;
use crate::error::{Error, Result};
use crate::joined::{Joined, Place};
use crate::overlap::{Inserted, UnitSet};
use crate::slice_cache::SliceCache;
use crate::storage::StorageRef;

/// The entry of a block that was never written.
pub const UNALLOCATED: u32 = u32::MAX;

/// The entry of a block that was given back: zeros, whatever the parent has there.
pub const DISCARDED: u32 = u32::MAX - 1;

/// What an entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Nothing: the parent knows, if there is one.
    Unallocated,
    /// The block is zeros.
    Discarded,
    /// The block is the one of this number in the file.
    Block(u32),
}

impl From<[u8; 4]> for Entry {
    fn from(bytes: [u8; 4]) -> Entry {
        match u32::from_le_bytes(bytes) {
            UNALLOCATED => Entry::Unallocated,
            DISCARDED => Entry::Discarded,
            index => Entry::Block(index),
        }
    }
}

/// Fails when the block map is not wholly in a file of `file_len` bytes.
///
/// # Errors
/// `Truncated`.
pub fn check_length(header: &Header, file_len: u64) -> Result<()> {
    if header.map_offset + header.map_len() <= file_len {
        return Ok(());
    }
    Err(Error::truncated("block map", "does not fit into the file")
        .at(header.map_offset)
        .found(format!("{} entries", header.blocks))
        .expected(format!("an end at or before byte {file_len}"))
        .hint("the file is cut off; find the whole one"))
}

/// The block map of an image, read by slices. Blocks that come twice are noticed with the slice of the second one.
#[derive(Debug)]
pub struct BlockMap {
    storage: StorageRef,
    header: Header,
    slices: SliceCache,
    salvage: bool,
    seen: Mutex<Seen>,
    any_doubtful: AtomicBool,
}

/// What was met on the way, to notice it when it comes a second time.
#[derive(Debug)]
struct Seen {
    slices: UnitSet,
    blocks: UnitSet,
    /// Blocks that two entries name.
    doubtful: UnitSet,
}

impl BlockMap {
    /// The block map that `header` says is in `storage`. With `salvage`, blocks that the header does not count are
    /// taken, too.
    ///
    /// # Errors
    /// `Truncated` when it is not wholly in the file.
    pub fn open(storage: StorageRef, header: Header, context: &OpenContext) -> Result<BlockMap> {
        check_length(&header, storage.len())?;
        let guest_len = header.guest_blocks() * ENTRY;
        Ok(BlockMap {
            slices: SliceCache::new(storage.clone(), guest_len, &context.slices),
            storage,
            header,
            salvage: context.salvage,
            seen: Mutex::new(Seen {
                slices: UnitSet::new(&context.budget),
                blocks: UnitSet::new(&context.budget),
                doubtful: UnitSet::new(&context.budget),
            }),
            any_doubtful: AtomicBool::new(false),
        })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Adds to `run` what the slice for its next block says, from that block on. What was never written is `unwritten`.
    ///
    /// # Errors
    /// `Malformed` for a block that the header does not count or that comes twice, `Truncated` for one that is not
    /// there, and those of the storage. What was added before stays.
    pub fn extend(&self, run: &mut Joined, unwritten: Place) -> Result<()> {
        let block_size = u64::from(self.header.block_size);
        let first = run.next() / block_size;
        let (slice, start) = self.slice(first)?;
        let skip = (first * ENTRY).saturating_sub(start) as usize;
        let (entries, _) = slice.get(skip..).unwrap_or_default().as_chunks::<4>();
        // Most of what a huge disk has is nothing: no need to go through that one by one.
        if entries.iter().all(|entry| *entry == [0xFF; 4]) {
            let within = run.next() % block_size;
            run.push(unwritten, entries.len() as u64 * block_size - within);
            return Ok(());
        }
        for (entry, index) in entries.iter().zip(first..) {
            if !run.is_open() {
                break;
            }
            let rest = block_size - run.next() % block_size;
            match Entry::from(*entry) {
                Entry::Unallocated => run.push(unwritten, rest),
                Entry::Discarded => run.push(Place::Zero, rest),
                Entry::Block(block) => self
                    .push_block(run, block, block_size - rest)
                    .map_err(|e| e.at(self.header.map_offset + index * ENTRY))?,
            }
        }
        Ok(())
    }

    /// Adds the rest of the block that stands at `index`, from its byte `within` on, as far as it is there.
    fn push_block(&self, run: &mut Joined, index: u32, within: u64) -> Result<()> {
        if index >= self.header.allocated && !self.salvage {
            return Err(uncounted(&self.header, index).hint("--salvage reads it all the same"));
        }
        self.check_doubt(index)?;
        let start = self.header.block_offset(index).saturating_add(within);
        let wanted = (u64::from(self.header.block_size) - within).min(run.left());
        let there = self.storage.len().saturating_sub(start).min(wanted);
        if there == 0 {
            return Err(past_the_end(index, start, self.storage.len()));
        }
        run.push(Place::Stored(start), there);
        if there < wanted {
            run.close();
        }
        Ok(())
    }

    /// The slice in which the entry of block `index` stands, and the byte of the map at which it starts.
    fn slice(&self, index: u64) -> Result<(Arc<[u8]>, u64)> {
        let guest_len = self.header.guest_blocks() * ENTRY;
        let size = self.slices.slice_size().max(1);
        let aligned = index * ENTRY / size * size;
        // The last slice starts earlier, so that it ends where the map does.
        let start = aligned.min(guest_len.saturating_sub(size));
        let offset = self.header.map_offset + start;
        if let Some(slice) = self.slices.known(offset) {
            return Ok((slice, start));
        }
        let slice = self.slices.read(offset)?;
        let news = slice.get((aligned - start) as usize..).unwrap_or_default();
        self.note_blocks(news, aligned / size);
        self.slices.keep(offset, &slice);
        Ok((slice, start))
    }

    /// Enters the blocks of slice `number` when it is read for the first time.
    fn note_blocks(&self, slice: &[u8], number: u64) {
        let mut seen = self.seen.lock().unwrap_or_else(|e| e.into_inner());
        if seen.slices.insert(number) != Inserted::New {
            return;
        }
        let (entries, _) = slice.as_chunks::<4>();
        for entry in entries {
            if let Entry::Block(index) = Entry::from(*entry)
                && self.header.block_offset(index) < self.storage.len()
                && seen.blocks.insert(index.into()) == Inserted::Known
            {
                seen.doubtful.insert(index.into());
                self.any_doubtful.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Fails when block `index` is known to be named twice.
    fn check_doubt(&self, index: u32) -> Result<()> {
        if !self.any_doubtful.load(Ordering::Relaxed) {
            return Ok(());
        }
        let seen = self.seen.lock().unwrap_or_else(|e| e.into_inner());
        if seen.doubtful.contains(index.into()) {
            return Err(
                Error::malformed("block map", "two blocks stand in one place")
                    .found(format!("block {index} of the file, twice")),
            );
        }
        Ok(())
    }
}

/// The error for an entry that names block `index` of the file, which the header does not count.
pub fn uncounted(header: &Header, index: u32) -> Error {
    Error::malformed("block map", "names a block that is not allocated")
        .found(format!("block {index} of the file"))
        .expected(format!("one below {}", header.allocated))
}

/// The error for block `index` of the file, of which what stands at byte `offset` is behind the end, `file_len`.
pub fn past_the_end(index: u32, offset: u64, file_len: u64) -> Error {
    Error::truncated("block map", "a block is past the end of the file")
        .found(format!("block {index} of the file, byte {offset}"))
        .expected(format!("an end at or before byte {file_len}"))
        .hint("the file is cut off; find the whole one, or read what is left with --salvage")
}
