//! The map of a disk: from guest offsets over the BAT, and where it says so the sector bitmaps, to file offsets.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::bat::{BITMAP_BLOCK, BatEntry, BatLayout, BlockState, ENTRY, Slot};
use super::header::MIB;
use super::region_table::Region;
use crate::driver::OpenContext;
use crate::error::{Error, Result};
use crate::joined::{Joined, Place};
use crate::overlap::{Areas, Inserted, UnitSet};
use crate::sector_bitmap::{BitOrder, SectorBitmaps};
use crate::slice_cache::SliceCache;
use crate::source::{BlockSource, Run};
use crate::storage::StorageRef;

/// Steps that one call of `map` takes at most, each through one slice or one chunk. A disk of nothing but holes is
/// mapped in several calls, so that none of them takes long.
const STEPS_PER_RUN: usize = 4096;

/// Slices of the BAT that one call of `map` reads at most.
const SLICES_PER_RUN: usize = 64;

/// What errors call an entry of the table; their offset is where it stands.
const ENTRY_NAME: &str = "BAT entry";

/// The disk in a VHDX.
pub struct VhdxSource {
    storage: StorageRef,
    layout: BatLayout,
    table_offset: u64,
    slices: SliceCache,
    bitmaps: SectorBitmaps,
    /// Headers, log and regions: no block stands there.
    areas: Areas,
    seen: Mutex<Seen>,
    any_doubtful: AtomicBool,
    salvage: bool,
}

/// What was met on the way, to notice it when it comes a second time.
struct Seen {
    /// Slices of the BAT, by number.
    slices: UnitSet,
    /// MiB of the file that blocks stand in.
    blocks: UnitSet,
    /// MiB of the file that must not be read, because several blocks stand there.
    doubtful: UnitSet,
}

impl VhdxSource {
    /// The disk of `layout` whose table is in the region `bat` of `storage`; `areas` are the parts of the file that hold
    /// no blocks.
    ///
    /// # Errors
    /// `Truncated` when the table is not inside the file, `Malformed` when it is too short for the disk.
    pub fn new(
        storage: StorageRef,
        layout: BatLayout,
        bat: &Region,
        areas: Areas,
        context: &OpenContext,
    ) -> Result<VhdxSource> {
        let needed = layout.entries() * ENTRY;
        if needed > bat.length.into() {
            return Err(Error::malformed("BAT", "is too short for the disk")
                .at(bat.offset)
                .found(format!("{} bytes", bat.length))
                .expected(format!("at least {needed} bytes")));
        }
        Ok(VhdxSource {
            slices: SliceCache::new(storage.clone(), bat.length.into(), &context.slices),
            bitmaps: SectorBitmaps::new(
                storage.clone(),
                layout.bitmap_len(),
                BitOrder::LowestFirst,
            ),
            storage,
            layout,
            table_offset: bat.offset,
            areas,
            seen: Mutex::new(Seen {
                slices: UnitSet::new(&context.budget),
                blocks: UnitSet::new(&context.budget),
                doubtful: UnitSet::new(&context.budget),
            }),
            any_doubtful: AtomicBool::new(false),
            salvage: context.salvage,
        })
    }

    /// Entries in a slice.
    fn per_slice(&self) -> u64 {
        self.slices.slice_size() / ENTRY
    }

    /// File offset of the entry at `index`. The table is inside the file: the sum fits.
    fn entry_offset(&self, index: u64) -> u64 {
        self.table_offset
            .saturating_add(index.saturating_mul(ENTRY))
    }

    /// Slice number `number` of the table, if it had been read before.
    fn known(&self, number: u64) -> Option<Arc<[u8]>> {
        self.slices
            .known(self.entry_offset(number * self.per_slice()))
    }

    fn read(&self, number: u64) -> Result<Arc<[u8]>> {
        let offset = self.entry_offset(number * self.per_slice());
        let slice = self.slices.read(offset)?;
        self.note_blocks(&slice, number)?;
        self.slices.keep(offset, &slice);
        Ok(slice)
    }

    /// The entry at `index`.
    fn entry(&self, index: u64) -> Result<BatEntry> {
        let number = index / self.per_slice();
        let slice = match self.known(number) {
            Some(slice) => slice,
            None => self.read(number)?,
        };
        let (entries, _) = slice.as_chunks::<{ ENTRY as usize }>();
        let entry = entries.get((index % self.per_slice()) as usize);
        Ok(BatEntry(u64::from_le_bytes(*entry.unwrap_or(&[0; 8]))))
    }

    /// Enters the blocks of a slice that is read for the first time.
    fn note_blocks(&self, slice: &[u8], number: u64) -> Result<()> {
        let (entries, _) = slice.as_chunks::<{ ENTRY as usize }>();
        // Nothing has a place in the tables of a disk that is empty.
        if entries.iter().all(|entry| entry[0] & 7 < 6) {
            return Ok(());
        }
        let mut seen = self.seen.lock().unwrap_or_else(|e| e.into_inner());
        if seen.slices.insert(number) != Inserted::New {
            return Ok(());
        }
        for (bytes, index) in entries.iter().zip(number * self.per_slice()..) {
            let entry = BatEntry(u64::from_le_bytes(*bytes));
            if let Some(len) = self.placed_len(index, entry) {
                self.note_block(&mut seen, entry.offset(), len)
                    .map_err(|e| e.at(self.entry_offset(index)))?;
            }
        }
        Ok(())
    }

    /// Bytes of the file that the entry at `index` says are used, if any: of the last block what the guest sees.
    fn placed_len(&self, index: u64, entry: BatEntry) -> Option<u64> {
        match self.layout.slot(index) {
            Slot::Block(block) => {
                let visible = self.layout.visible(block);
                let is_stored = self.layout.state(entry).is_some_and(BlockState::is_stored);
                (is_stored && visible > 0).then_some(visible)
            }
            // Old versions of QEMU left garbage there in disks without a parent.
            Slot::Bitmap(chunk) => {
                let is_used = self.layout.is_differencing && chunk < self.layout.chunks();
                (is_used && entry.is_bitmap_present()).then_some(BITMAP_BLOCK)
            }
        }
    }

    fn note_block(&self, seen: &mut Seen, offset: u64, len: u64) -> Result<()> {
        // What is not there takes no memory: it is an error whenever it is asked for.
        if offset >= self.storage.len() {
            return Ok(());
        }
        for unit in units(offset, len) {
            if seen.blocks.insert(unit) == Inserted::Known {
                self.any_doubtful.store(true, Ordering::Relaxed);
                if seen.doubtful.insert(unit) == Inserted::Full {
                    return Err(twice(offset));
                }
            }
        }
        Ok(())
    }

    /// Fails unless the `len` bytes of block or bitmap at `offset` are a place of their own in the file. When
    /// salvaging, the first part is enough: how many bytes are there.
    fn check_place(&self, name: &'static str, offset: u64, len: u64) -> Result<u64> {
        let there = self.storage.len().saturating_sub(offset).min(len);
        if there < len && !(self.salvage && there > 0) {
            return Err(past_the_end(name)
                .found(format!("{len} bytes at byte {offset}"))
                .expected(format!("an end at or before byte {}", self.storage.len()))
                .hint(
                    "the file is cut off; find the whole one, or read what is left with --salvage",
                ));
        }
        if let Some(other) = self.areas.hit(offset, len) {
            return Err(Error::malformed(
                ENTRY_NAME,
                format!("the {name} stands in the place of the {other}"),
            )
            .found(format!("byte {offset}")));
        }
        if self.any_doubtful.load(Ordering::Relaxed) {
            let seen = self.seen.lock().unwrap_or_else(|e| e.into_inner());
            if units(offset, len).any(|unit| seen.doubtful.contains(unit)) {
                return Err(twice(offset));
            }
        }
        Ok(there)
    }

    /// Adds what the table says from `run.next()` on, as far as one slice and one chunk go; whether a slice was read.
    fn extend(&self, run: &mut Joined) -> Result<bool> {
        let block = run.next() / self.layout.block_size;
        let index = self.layout.block_index(block);
        let number = index / self.per_slice();
        let known = self.known(number);
        let was_known = known.is_some();
        let slice = match known {
            Some(slice) => slice,
            None if self.pass_hole(run, block, index)? => return Ok(false),
            None => self.read(number)?,
        };
        let (entries, _) = slice.as_chunks::<{ ENTRY as usize }>();
        let rest = entries
            .get((index % self.per_slice()) as usize..)
            .unwrap_or_default();
        let ratio = self.layout.chunk_ratio();
        let count = (ratio - block % ratio).min(self.layout.blocks() - block);
        let rest = rest.get(..count as usize).unwrap_or(rest);
        self.extend_from(run, rest, block)?;
        Ok(!was_known)
    }

    /// Passes over a part of the table that is a hole of the file: a disk that was never written to has nothing else.
    fn pass_hole(&self, run: &mut Joined, block: u64, index: u64) -> Result<bool> {
        let at = self.entry_offset(index);
        let left = (self.layout.entries() - index) * ENTRY;
        let (len, is_data) = self.storage.extent(at, left)?;
        let end = self.layout.first_block_from(index + len / ENTRY);
        if is_data || end <= block {
            return Ok(false);
        }
        let end = end.min(self.layout.blocks());
        let len = (end * self.layout.block_size).saturating_sub(run.next());
        run.push(self.not_present(), len);
        Ok(true)
    }

    /// What a block is that was never written.
    fn not_present(&self) -> Place {
        if self.layout.is_differencing {
            Place::Absent
        } else {
            Place::Zero
        }
    }

    /// Adds what `entries` say, the first of which is that of block `first`.
    fn extend_from(&self, run: &mut Joined, entries: &[[u8; 8]], first: u64) -> Result<()> {
        let mut rest = entries;
        let mut block = first;
        while let Some((bytes, others)) = rest.split_first()
            && run.is_open()
        {
            let entry = BatEntry(u64::from_le_bytes(*bytes));
            let within = run.next() % self.layout.block_size;
            let state = self.layout.state(entry);
            let state = state.ok_or_else(|| self.illegal(block, entry))?;
            let hole = match state {
                BlockState::NotPresent => self.not_present(),
                BlockState::Undefined | BlockState::Zero | BlockState::Unmapped => Place::Zero,
                BlockState::FullyPresent | BlockState::PartiallyPresent => {
                    self.extend_block(run, block, entry, within)
                        .map_err(|e| e.near(self.entry_offset(self.layout.block_index(block))))?;
                    rest = others;
                    block += 1;
                    continue;
                }
            };
            // Holes of a huge disk are long.
            let same = 1 + others.iter().take_while(|other| *other == bytes).count();
            run.push(hole, same as u64 * self.layout.block_size - within);
            rest = rest.get(same..).unwrap_or_default();
            block += same as u64;
        }
        Ok(())
    }

    /// Adds block `block` from its byte `within` on, which has a place in the file.
    fn extend_block(
        &self,
        run: &mut Joined,
        block: u64,
        entry: BatEntry,
        within: u64,
    ) -> Result<()> {
        let visible = self.layout.visible(block);
        let there = self.check_place("block", entry.offset(), visible)?;
        let there = there.saturating_sub(within);
        if there == 0 {
            // Salvaging, and behind what is left of the block.
            return Err(past_the_end("block").found(format!("byte {within} of block {block}")));
        }
        let data = entry.offset() + within;
        if entry.state() == Some(BlockState::PartiallyPresent) {
            self.extend_partial(run, block, data, within, there)?;
        } else {
            run.push(Place::Stored(data), there);
        }
        if there < visible - within {
            run.close();
        }
        Ok(())
    }

    /// Adds the `len` bytes of block `block` from its byte `within` on, which stands at byte `data` of the file, as its
    /// sector bitmap says.
    fn extend_partial(
        &self,
        run: &mut Joined,
        block: u64,
        data: u64,
        within: u64,
        len: u64,
    ) -> Result<()> {
        let chunk = block / self.layout.chunk_ratio();
        let entry = self.entry(self.layout.bitmap_index(chunk))?;
        if !entry.is_bitmap_present() {
            return Err(Error::malformed(
                ENTRY_NAME,
                "a block is there in part, but has no sector bitmap",
            )
            .found(format!("block {block}, sector bitmap {:#x}", entry.0)));
        }
        self.check_place("sector bitmap", entry.offset(), BITMAP_BLOCK)?;
        let bits = self
            .bitmaps
            .at(entry.offset() + self.layout.bits_at(block))?;
        let sector_size = self.layout.sector_size;
        let (mut at, end) = (within, within + len);
        while at < end && run.is_open() {
            let sector = at / sector_size;
            let sectors = end.div_ceil(sector_size) - sector;
            let (is_here, sectors) = bits.run(sector, sectors);
            let piece = ((sector + sectors) * sector_size).min(end) - at;
            let place = if is_here {
                Place::Stored(data + (at - within))
            } else {
                Place::Absent
            };
            run.push(place, piece);
            at += piece;
        }
        Ok(())
    }

    fn illegal(&self, block: u64, entry: BatEntry) -> Error {
        let (kind, states) = match self.layout.is_differencing {
            true => ("a state that does not exist", "0, 1, 2, 3, 6, 7"),
            false => (
                "a state that disks without a parent do not have",
                "0, 1, 2, 3, 6",
            ),
        };
        Error::malformed(ENTRY_NAME, format!("block {block} has {kind}"))
            .at(self.entry_offset(self.layout.block_index(block)))
            .found(entry.state_bits())
            .expected(states)
    }
}

/// The MiB of the file that the `len` bytes at `offset`, a multiple of 1 MiB, take.
pub(super) fn units(offset: u64, len: u64) -> std::ops::Range<u64> {
    let first = offset / MIB;
    first..first + len.div_ceil(MIB)
}

fn past_the_end(name: &'static str) -> Error {
    Error::truncated(
        ENTRY_NAME,
        format!("the {name} is past the end of the file"),
    )
}

fn twice(offset: u64) -> Error {
    Error::malformed(ENTRY_NAME, "two blocks stand in one place of the file")
        .found(format!("byte {offset}"))
}

impl BlockSource for VhdxSource {
    fn size(&self) -> u64 {
        self.layout.disk_size
    }

    fn sector_size(&self) -> u32 {
        self.layout.sector_size as u32
    }

    fn block_size(&self) -> u64 {
        self.layout.block_size
    }

    fn map(&self, offset: u64, limit: u64) -> Result<Run> {
        let mut run = Joined::new(offset, limit);
        let mut read = 0;
        for _ in 0..STEPS_PER_RUN {
            if !run.is_open() || read >= SLICES_PER_RUN {
                break;
            }
            match self.extend(&mut run) {
                Ok(was_read) => read += usize::from(was_read),
                Err(error) if run.is_empty() => return Err(error.in_file(self.storage.path())),
                // Said when that block is asked for.
                Err(_) => run.close(),
            }
        }
        Ok(run.into_plain_run(&self.storage))
    }
}
