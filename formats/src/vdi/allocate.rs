//! Places for blocks that have none, in an image that is there: behind all others.

use std::ops::Range;

use super::block_map::Entry;
use super::header::{ENTRY, Header};
use crate::error::Result;
use crate::in_place::Plan;
use crate::storage::{StorageRef, read_array};

/// How all blocks of `range` of the disk in `storage` get a place in it.
///
/// # Errors
/// Those of the header and of the storage.
pub fn allocate(storage: &StorageRef, range: Range<u64>) -> Result<Plan> {
    let header = Header::read(storage.as_ref())?;
    let mut plan = Plan::new(header.disk_size);
    let size = u64::from(header.block_size);
    let blocks = range.start / size..range.end.div_ceil(size).min(header.guest_blocks());
    let mut added = Vec::new();
    for index in blocks {
        let at = header.map_offset + index * ENTRY;
        if !matches!(
            Entry::from(read_array(storage.as_ref(), at)?),
            Entry::Block(_)
        ) {
            added.push(at);
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
    plan.sync();
    plan.write(0, counted.over(&read_array(storage.as_ref(), 0)?));
    plan.sync();
    for (at, index) in added.into_iter().zip(header.allocated..) {
        plan.write(at, index.to_le_bytes());
    }
    plan.sync();
    Ok(plan)
}
