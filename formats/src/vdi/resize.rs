//! Another size for an image where it stands.
//!
//! All that matters of the header is in one sector: it is old or new. A map that has no room any more gets another place,
//! where the first blocks stood: these move behind the others first, as in VirtualBox. Blocks are numbered from the first
//! place on, so that all numbers become smaller with the new header, which stands in the new map already.
//!
//! ```text
//!   header · map │ 0 │ 1 │ 2 │              1. block 0 is copied behind the last   2. the header counts it
//!   header · map │ . │ 1 │ 2 │ 3 │          3. the map names the copy
//!   header · map │ new map · │ 1 │ 2 │ 3 │  4. the new map stands where block 0 was
//!   header ·     │ map · │ 0 │ 1 │ 2 │      5. the header: larger, and it names the new map
//! ```

use super::block_map::Entry;
use super::header::{ENTRY, Header, ImageType, SECTOR};
use super::target::{MAX_BLOCKS, MAX_DISK_SIZE};
use crate::error::{Error, Result};
use crate::in_place::Plan;
use crate::storage::{StorageRef, read_array};

/// Most bytes of a map that are put into another place: of disks of 16 TiB in the usual blocks.
const MOST_MOVED: u64 = 64 << 20;

/// How the image in `storage` gets `size` bytes, rounded up to sectors.
///
/// # Errors
/// `Limit` for more than QEMU and the format can address.
pub fn resize(storage: &StorageRef, size: u64) -> Result<Plan> {
    let header = Header::read(storage.as_ref())?;
    let rounded = size.checked_next_multiple_of(SECTOR);
    let Some(size) = rounded.filter(|size| *size <= MAX_DISK_SIZE) else {
        return Err(Error::limit("disk", "is too large for a VDI")
            .found(format!("{size} bytes"))
            .expected(format!("at most {MAX_DISK_SIZE} bytes (QEMU's limit)")));
    };
    let mut change = Change {
        storage,
        new: Header {
            disk_size: size,
            ..header.clone()
        },
        old: header,
        plan: Plan::new(size),
    };
    let blocks = change.new.guest_blocks();
    if blocks > MAX_BLOCKS {
        return Err(Error::limit("block map", "would have too many entries")
            .found(blocks)
            .expected(format!("at most {MAX_BLOCKS}")));
    }
    if size > change.old.disk_size {
        change.make_whole();
    }
    if blocks > u64::from(change.old.blocks) {
        change.with_larger_map(blocks as u32)?;
    }
    change.write_header()?;
    Ok(change.plan)
}

struct Change<'a> {
    storage: &'a StorageRef,
    old: Header,
    new: Header,
    plan: Plan,
}

impl Change<'_> {
    /// Lets the file go on to the end of its last block, of which it needs only what the guest saw.
    fn make_whole(&mut self) {
        let end = self.old.file_end();
        if self.storage.len() < end {
            self.plan.set_len(0, end);
            self.plan.sync();
        }
    }

    fn with_larger_map(&mut self, blocks: u32) -> Result<()> {
        self.new.blocks = blocks;
        let in_place = self.new.map_offset + self.new.map_len() <= self.new.data_offset;
        let mut from = self.old.map_offset + self.old.map_len();
        if !in_place {
            from = self.move_map()?;
        }
        let end = self.new.map_offset + self.new.map_len();
        if self.new.image_type == ImageType::Static {
            self.allocate_all(from)?;
        } else {
            self.plan.fill(from, end - from, 0xFF);
        }
        self.plan.sync();
        Ok(())
    }

    /// Gives a place to each block that is new, in the entries from byte `at` of the file on.
    fn allocate_all(&mut self, at: u64) -> Result<()> {
        let added = self.new.blocks - self.old.blocks;
        let first = self.new.allocated;
        let allocated = first.checked_add(added);
        let allocated = allocated.filter(|n| u64::from(*n) <= MAX_BLOCKS);
        let Some(allocated) = allocated.filter(|_| u64::from(added) * ENTRY <= MOST_MOVED) else {
            return Err(too_large(added));
        };
        let bytes: Vec<u8> = (first..allocated).flat_map(u32::to_le_bytes).collect();
        self.new.allocated = allocated;
        let end = self.new.file_end().max(self.storage.len());
        self.plan.set_len(0, end);
        self.plan.sync();
        self.plan.write(at, bytes);
        Ok(())
    }

    /// Puts the map where the first blocks stand, and them behind the others. Answers the byte at which its new entries
    /// go.
    fn move_map(&mut self) -> Result<u64> {
        if self.old.map_len() > MOST_MOVED {
            return Err(too_large(self.old.blocks));
        }
        let stride = self.old.stride();
        let room = self.new.map_len().next_multiple_of(SECTOR).div_ceil(stride);
        let data_offset = self.old.data_offset + room * stride;
        if u32::try_from(data_offset).is_err() {
            return Err(too_large(self.new.blocks));
        }
        let room = room as u32;
        let mut entries = self.entries()?;
        let moved = self.move_blocks(&mut entries, room)?;
        // Nothing that the old header knows is there by now.
        self.new.map_offset = self.old.data_offset;
        self.new.data_offset = data_offset;
        self.new.allocated = moved - room;
        let bytes: Vec<u8> = entries
            .iter()
            .flat_map(|entry| match Entry::from(*entry) {
                Entry::Block(index) => (index - room).to_le_bytes(),
                _ => *entry,
            })
            .collect();
        let end = self.new.map_offset + bytes.len() as u64;
        self.plan.write(self.new.map_offset, bytes);
        Ok(end)
    }

    fn entries(&self) -> Result<Vec<[u8; 4]>> {
        let mut bytes = vec![0; self.old.map_len() as usize];
        self.storage.read_at(&mut bytes, self.old.map_offset)?;
        Ok(bytes.as_chunks::<4>().0.to_vec())
    }

    /// Moves the blocks at the first `room` places behind all others, with the old header; how many places there are then.
    fn move_blocks(&mut self, entries: &mut [[u8; 4]], room: u32) -> Result<u32> {
        let first_free = self.old.allocated.max(room);
        let mut next = first_free;
        let mut changed = Vec::new();
        for (index, entry) in (0..).zip(entries.iter_mut()) {
            let Entry::Block(from) = Entry::from(*entry) else {
                continue;
            };
            if from >= room {
                continue;
            }
            let at = self.old.data_offset + u64::from(from) * self.old.stride();
            let to = self.old.data_offset + u64::from(next) * self.old.stride();
            let there = self.storage.len().saturating_sub(at);
            self.plan.copy(at, to, self.old.stride().min(there));
            *entry = next.to_le_bytes();
            changed.push((self.old.map_offset + index * ENTRY, *entry));
            next = next.checked_add(1).ok_or_else(|| too_large(next))?;
        }
        if u64::from(next) > MAX_BLOCKS {
            return Err(too_large(next));
        }
        let counted = self.counting(next)?;
        self.plan
            .set_len(0, counted.file_end().max(self.storage.len()));
        self.plan.sync();
        if !changed.is_empty() {
            self.write(&counted)?;
        }
        for (at, entry) in changed {
            self.plan.write(at, entry);
        }
        self.plan.sync();
        Ok(next)
    }

    /// The old header with this many allocated blocks. The map has at least as many entries.
    fn counting(&mut self, allocated: u32) -> Result<Header> {
        let counted = Header {
            allocated,
            blocks: self.old.blocks.max(allocated),
            ..self.old.clone()
        };
        let (old_end, end) = [self.old.map_len(), counted.map_len()]
            .map(|len| self.old.map_offset + len)
            .into();
        if end > self.old.data_offset {
            return Err(Error::unsupported(
                "block map",
                "has no room for the blocks that would move out of its way",
            )
            .hint("convert --size makes a copy of another size"));
        }
        self.plan.fill(old_end, end - old_end, 0xFF);
        Ok(counted)
    }

    fn write_header(&mut self) -> Result<()> {
        self.plan.sync();
        let new = self.new.clone();
        self.write(&new)
    }

    fn write(&mut self, header: &Header) -> Result<()> {
        let bytes = header.over(&read_array(self.storage.as_ref(), 0)?);
        self.plan.write(0, bytes);
        self.plan.sync();
        Ok(())
    }
}

fn too_large(blocks: u32) -> Error {
    Error::limit("block map", "is too large to be put into another place")
        .found(format!("{blocks} entries"))
        .hint("convert --size makes a copy of another size")
}
