//! Places for blocks that have none, in an image that is there: behind all others.

use super::block_map::Entry;
use super::header::{ENTRY, Header};
use crate::error::Result;
use crate::in_place::{Allocation, Plan};
use crate::storage::{StorageRef, read_array};

/// How all blocks of the disk in `storage` that are `wanted` get a place in it.
///
/// # Errors
/// Those of the header and of the storage.
pub fn allocate(storage: &StorageRef, wanted: &Allocation) -> Result<Plan> {
    let header = Header::read(storage.as_ref())?;
    let mut plan = Plan::new(header.disk_size);
    let size = u64::from(header.block_size);
    let mut added = Vec::new();
    let blocks = wanted.units(size);
    for index in blocks.take_while(|index| *index < header.guest_blocks()) {
        let at = header.map_offset + index * ENTRY;
        if !matches!(
            Entry::from(read_array(storage.as_ref(), at)?),
            Entry::Block(_)
        ) {
            added.push((index, at));
        }
    }
    if added.is_empty() {
        return Ok(plan);
    }
    // No more than there are entries: each of them had none.
    let counted = Header {
        allocated: header.allocated.saturating_add(added.len() as u32),
        ..header.clone()
    };
    plan.set_len(0, counted.file_end().max(storage.len()));
    // What may be there belongs to nobody.
    for index in header.allocated..counted.allocated {
        let start = header.data_offset + u64::from(index) * header.stride();
        let there = storage.len().saturating_sub(start).min(header.stride());
        plan.zero(start, there);
    }
    for ((index, _), place) in added.iter().zip(header.allocated..) {
        let block = index * size..(index + 1) * size;
        wanted.fill(&mut plan, &block, header.block_offset(place))?;
    }
    plan.sync();
    plan.write(0, counted.over(&read_array(storage.as_ref(), 0)?));
    plan.sync();
    for ((_, at), index) in added.into_iter().zip(header.allocated..) {
        plan.write(at, index.to_le_bytes());
    }
    plan.sync();
    Ok(plan)
}
