//! Another size for a disk where it stands.
//!
//! The footer at the end of the file says the size and is one sector: it is old or new. Before anything is written behind
//! it, a copy of it goes to where the file will end, because a file without a footer at its end is no image.
//!
//! ```text
//!  dynamic, the BAT needs more room:
//!   footer copy · header · BAT ┆ block a · block b · … · footer
//!                           BAT ─────┤     block b · … · (old footer) · block a · footer      1. footer, 2. copy of a
//!                                                                                    3. a in the BAT, 4. more BAT
//!                                                                                    5. header, 6. footer, copy
//! ```

use std::ops::Range;

use super::bat::{BlockLayout, UNALLOCATED, bitmap_len, overlap};
use super::dynamic_header::{DynamicHeader, HEADER_LEN};
use super::find::{self, Found};
use super::footer::{DiskType, FOOTER_LEN, Footer, has_right_checksum};
use super::geometry::{self, Geometry};
use crate::error::{Error, Result};
use crate::in_place::Plan;
use crate::storage::{Storage, StorageRef, read_array};

/// Boundary on which the data of moved blocks starts.
pub(super) const PAGE: u64 = 4096;

/// XenServer's mark in a footer, and the last version that has nothing behind its BAT.
const TAP: ([u8; 4], u32) = (*b"tap\0", 1);

/// How the disk in `storage` gets `size` bytes, rounded up to sectors.
///
/// # Errors
/// `Limit` for sizes over 2040 GiB, `Refused` for a disk that others rely on to stay as it is, and what is wrong with the
/// image.
pub fn resize(storage: &StorageRef, size: u64) -> Result<Plan> {
    let size = super::disk_size(size)?;
    let found = find::find(storage.as_ref(), false)?;
    refuse(storage.as_ref(), &found)?;
    let old = found.footer.current_size;
    let mut plan = Plan::new(size);
    plan.notes = geometry::notes(size);
    let change = Change {
        footer: Footer {
            current_size: size,
            // libvhdi takes this one for the size of the disk.
            original_size: size,
            geometry: Geometry::of_disk(size),
            ..found.footer.clone()
        },
        found,
        plan,
    };
    match (change.footer.disk_type, size < old) {
        (DiskType::Fixed, _) => change.fixed(storage.len()),
        (_, true) => change.smaller(storage),
        (_, false) => change.larger(storage),
    }
}

pub(super) fn refuse(storage: &dyn Storage, found: &Found) -> Result<()> {
    let refused = |why| Err(Error::refused("footer", why).at(found.data_end));
    if found.footer.saved_state {
        return refused("a saved state of the machine belongs to the disk as it is");
    }
    if found.footer.hidden {
        return refused("XenServer's mark says that the disk is the parent of others");
    }
    // Of a footer of 511 bytes the last one is missing.
    let there = (storage.len() - found.data_end).min(FOOTER_LEN) as usize;
    let mut bytes = [0; 512];
    if let Some(there) = bytes.get_mut(..there) {
        storage.read_at(there, found.data_end)?;
    }
    if !has_right_checksum(&bytes) {
        return refused("the footer at the end is damaged");
    }
    if !found.data_end.is_multiple_of(512) {
        return refused("does not start on a sector");
    }
    Ok(())
}

/// A change of size on its way.
struct Change {
    found: Found,
    /// The footer that the disk will have.
    footer: Footer,
    plan: Plan,
}

impl Change {
    fn fixed(mut self, file_len: u64) -> Result<Plan> {
        let (old, new) = (self.found.footer.current_size, self.footer.current_size);
        let data_end = self.found.data_end;
        let plan = &mut self.plan;
        if new > data_end {
            // What the footer covers now belongs to the disk afterwards.
            plan.write(new, self.found.footer.to_bytes());
            plan.sync();
            plan.zero(old, data_end + FOOTER_LEN - old);
            plan.sync();
            plan.write(new, self.footer.to_bytes());
            plan.sync();
            return Ok(self.plan);
        }
        if new > old {
            plan.zero(old, new - old);
            plan.sync();
        }
        plan.write(data_end, self.footer.to_bytes());
        plan.sync();
        if new < data_end {
            plan.write(new, self.footer.to_bytes());
            plan.sync();
        }
        if new + FOOTER_LEN != file_len {
            plan.set_len(0, new + FOOTER_LEN);
            plan.sync();
        }
        Ok(self.plan)
    }

    /// Blocks behind the new end keep their places, without an entry: they are zeros. 7-Zip wants no entry too many.
    fn smaller(mut self, storage: &StorageRef) -> Result<Plan> {
        let at = self.found.footer.data_offset;
        let header = DynamicHeader::read(storage.as_ref(), at, false, &mut Vec::new())?;
        let blocks = self.footer.current_size;
        let blocks = blocks.div_ceil(u64::from(header.block_size));
        self.write_footers(self.found.data_end);
        let header = DynamicHeader {
            max_table_entries: entries(blocks)?,
            ..header
        };
        self.write_header(storage.as_ref(), &header)?;
        Ok(self.plan)
    }

    /// The footer at byte `end` counts, that at the start is its copy.
    fn write_footers(&mut self, end: u64) {
        let bytes = self.footer.to_bytes();
        self.plan.write(end, bytes);
        self.plan.sync();
        self.plan.write(0, bytes);
        self.plan.sync();
    }

    fn larger(mut self, storage: &StorageRef) -> Result<Plan> {
        let header = DynamicHeader::read(
            storage.as_ref(),
            self.found.footer.data_offset,
            false,
            &mut Vec::new(),
        )?;
        // The old layout was checked when the image was opened.
        let layout = BlockLayout::new(&self.found.footer, &header, self.found.data_end)?;
        let mut table = Table::read(storage.as_ref(), &header, &layout, self.found.data_end)?;
        let blocks = self
            .footer
            .current_size
            .div_ceil(u64::from(header.block_size));
        let mut end = self.forget_batmap().max(table.last_end());
        let room = header.table_offset..table_end(header.table_offset, blocks);
        let mut moves = Vec::new();
        let mut new_header = DynamicHeader {
            max_table_entries: header.max_table_entries.max(entries(blocks)?),
            ..header.clone()
        };
        if is_free(&room, &self.found.footer, &header) {
            end = end.max(room.end);
            moves = table.move_out_of(&room, &mut end)?;
        } else {
            new_header.table_offset = end.next_multiple_of(PAGE);
            end = table_end(new_header.table_offset, blocks);
        }
        table.check_room(blocks, end)?;
        let end = end.next_multiple_of(512);
        self.make_room(end, &table);
        self.write_tables(&table, &moves, &header, &new_header, blocks);
        if new_header != header {
            self.write_header(storage.as_ref(), &new_header)?;
        }
        self.write_footers(end);
        Ok(self.plan)
    }

    /// XenServer keeps a map of full blocks behind the BAT, and expects it wherever its own mark stands: takes the mark
    /// away. Answers where blocks end.
    fn forget_batmap(&mut self) -> u64 {
        let has_batmap = self.found.footer.creator_application == TAP.0
            && self.found.footer.creator_version > TAP.1;
        if has_batmap {
            for footer in [&mut self.found.footer, &mut self.footer] {
                footer.creator_application = *b"win ";
            }
            let bytes = self.found.footer.to_bytes();
            for at in [self.found.data_end, 0] {
                self.plan.write(at, bytes);
                self.plan.sync();
            }
        }
        self.found.data_end
    }

    /// Puts the old footer where the file will end, and zeros behind the guest's part of a last block that is cut.
    fn make_room(&mut self, end: u64, table: &Table) {
        if end == self.found.data_end {
            return;
        }
        self.plan.write(end, self.found.footer.to_bytes());
        self.plan.sync();
        if let Some(cut) = &table.cut {
            self.plan.zero(cut.start, cut.end - cut.start);
        }
    }

    fn write_tables(
        &mut self,
        table: &Table,
        moves: &[Move],
        header: &DynamicHeader,
        new_header: &DynamicHeader,
        blocks: u64,
    ) {
        let plan = &mut self.plan;
        for moved in moves {
            plan.copy(moved.from, moved.to, table.stride);
        }
        plan.sync();
        let known = table.entries.len() as u64;
        let end = table_end(new_header.table_offset, blocks);
        if new_header.table_offset == header.table_offset {
            for moved in moves {
                let entry = (moved.to / 512) as u32;
                plan.write(
                    header.table_offset + moved.index * 4,
                    entry.to_be_bytes().to_vec(),
                );
            }
            plan.sync();
            let from = header.table_offset + known * 4;
            // Entries that stay behind the disk's end in a table that is long enough are nobody's.
            plan.fill(from, end - from, 0xFF);
        } else {
            let bytes: Vec<u8> = table.entries.iter().flat_map(|e| e.to_be_bytes()).collect();
            let from = new_header.table_offset + bytes.len() as u64;
            plan.write(new_header.table_offset, bytes);
            plan.fill(from, end - from, 0xFF);
        }
        plan.sync();
    }

    /// Writes what changes of the header: it stands in the first of its two sectors.
    fn write_header(&mut self, storage: &dyn Storage, header: &DynamicHeader) -> Result<()> {
        let at = self.found.footer.data_offset;
        let bytes = header.over(&read_array(storage, at)?);
        self.plan.write(at, bytes);
        self.plan.sync();
        Ok(())
    }
}

/// The end of a BAT, padded to whole sectors.
fn table_end(offset: u64, blocks: u64) -> u64 {
    offset.saturating_add((blocks * 4).next_multiple_of(512))
}

fn entries(blocks: u64) -> Result<u32> {
    let entries = u32::try_from(blocks).ok();
    entries
        .filter(|_| blocks <= super::bat::MAX_BLOCKS)
        .ok_or_else(|| {
            Error::limit("BAT", "the disk would have too many blocks")
                .found(blocks)
                .expected(format!("at most {}", super::bat::MAX_BLOCKS))
                .hint("convert --size makes a copy with larger blocks")
        })
}

/// Whether nothing but blocks stands in `room`, where the BAT is to grow.
fn is_free(room: &Range<u64>, footer: &Footer, header: &DynamicHeader) -> bool {
    let headers = footer.data_offset..footer.data_offset.saturating_add(HEADER_LEN);
    let mut locators = header.locators.iter().filter(|l| l.data_length > 0);
    !overlap(room, &headers)
        && !locators.any(|locator| {
            // Some count the room in bytes, some in sectors.
            let space = u64::from(locator.data_space.max(locator.data_length)).max(512);
            let end = locator.data_offset.saturating_add(space);
            overlap(room, &(locator.data_offset..end))
        })
}

/// A block that gets another place.
struct Move {
    index: u64,
    from: u64,
    to: u64,
}

/// The BAT as it is, in memory: at most 64 MiB.
pub(super) struct Table {
    pub(super) entries: Vec<u32>,
    pub(super) bitmap_len: u64,
    /// Bytes of a block with its bitmap.
    pub(super) stride: u64,
    /// What is behind the guest's part of a last block that the file does not hold to its end.
    pub(super) cut: Option<Range<u64>>,
}

impl Table {
    pub(super) fn read(
        storage: &dyn Storage,
        header: &DynamicHeader,
        layout: &BlockLayout,
        data_end: u64,
    ) -> Result<Table> {
        let mut bytes = vec![0; layout.blocks() as usize * 4];
        storage.read_at(&mut bytes, header.table_offset)?;
        let (words, _) = bytes.as_chunks::<4>();
        let block_size = u64::from(header.block_size);
        let mut table = Table {
            entries: words.iter().map(|word| u32::from_be_bytes(*word)).collect(),
            bitmap_len: bitmap_len(block_size),
            stride: bitmap_len(block_size) + block_size,
            cut: None,
        };
        if let Some(last) = table.entries.last().filter(|entry| **entry != UNALLOCATED) {
            let start = u64::from(*last) * 512;
            let visible = layout.disk_size - (layout.blocks() - 1) * block_size;
            let seen = start + table.bitmap_len + visible;
            let end = start + table.stride;
            table.cut = (end > data_end).then_some(seen..end);
        }
        Ok(table)
    }

    /// Where the last block ends, if the file does not hold it to its end.
    fn last_end(&self) -> u64 {
        self.cut.as_ref().map_or(0, |cut| cut.end)
    }

    /// Gives blocks that stand in `room` places from `end` on, which grows.
    fn move_out_of(&mut self, room: &Range<u64>, end: &mut u64) -> Result<Vec<Move>> {
        let mut moves = Vec::new();
        let (stride, bitmap_len) = (self.stride, self.bitmap_len);
        let cut_end = self.cut.as_ref().map(|cut| cut.end);
        for (index, entry) in (0..).zip(&mut self.entries) {
            let from = u64::from(*entry) * 512;
            if *entry == UNALLOCATED || !overlap(room, &(from..from + stride)) {
                continue;
            }
            if cut_end == Some(from + stride) {
                return Err(Error::unsupported(
                    "BAT",
                    "the one block stands in its way and is cut off at the end of the file",
                )
                .hint("convert --size makes a copy of another size"));
            }
            let to = (*end + bitmap_len).next_multiple_of(PAGE) - bitmap_len;
            *entry = place(to)?;
            *end = to + stride;
            moves.push(Move { index, from, to });
        }
        Ok(moves)
    }

    /// Fails when a disk of `blocks` blocks, written full, would not fit into a file of 2 TiB, whose blocks end at byte
    /// `end` by now.
    fn check_room(&self, blocks: u64, end: u64) -> Result<()> {
        let allocated = self.entries.iter().filter(|e| **e != UNALLOCATED).count() as u64;
        let missing = blocks.saturating_sub(allocated);
        let full = end.saturating_add(missing.saturating_mul(self.stride + PAGE));
        place(full.saturating_sub(self.stride)).map(|_| ())
    }
}

/// The entry of a block whose bitmap stands at byte `at`.
pub(super) fn place(at: u64) -> Result<u32> {
    u32::try_from(at / 512)
        .ok()
        .filter(|sector| *sector != UNALLOCATED)
        .ok_or_else(|| Error::limit("BAT", "the file would be larger than 2 TiB"))
}
