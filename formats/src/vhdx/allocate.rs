//! Places for blocks that have none, in a disk that is there: behind the end of the file.

use super::bat::{BatEntry, BatLayout, BlockState, ENTRY};
use super::resize::{Change, too_long, whole};
use crate::error::Result;
use crate::in_place::{Allocation, Ids, Plan};
use crate::open::LayerFile;
use crate::storage::read_array;

/// How all blocks of the disk in `layer` that are `wanted` get a place in it. The headers get new ids in any case if the
/// content changes.
///
/// # Errors
/// `Refused` for a file that was not closed properly or is damaged, and what is wrong with it.
pub fn allocate(layer: &LayerFile, wanted: &Allocation) -> Result<Plan> {
    let storage = &layer.storage;
    let structures = whole(storage)?;
    let layout = BatLayout::new(&structures.metadata);
    let mut change = Change::new(storage, &structures, layout.disk_size);
    let bat = structures.regions.bat.offset;
    let (mut entries, mut filled) = (Vec::new(), Plan::default());
    let blocks = wanted.units(layout.block_size);
    for block in blocks.take_while(|block| *block < layout.blocks()) {
        let at = bat + layout.block_index(block) * ENTRY;
        let entry = BatEntry(u64::from_le_bytes(read_array(storage.as_ref(), at)?));
        let start = block * layout.block_size;
        let unit = start..start.saturating_add(layout.block_size);
        match layout.state(entry) {
            Some(BlockState::PartiallyPresent) => {
                // Nobody looks at the sectors that the bitmap leaves to the parent.
                wanted.complete(&mut filled, layer.source.as_ref(), &unit, entry.offset())?;
                entries.push((at, BatEntry::fully_present(entry.offset())));
            }
            Some(state) if !state.is_stored() => {
                wanted.fill(&mut filled, &unit, change.end)?;
                entries.push((at, BatEntry::fully_present(change.end)));
                change.end = change
                    .end
                    .checked_add(layout.block_size)
                    .ok_or_else(|| too_long(block))?;
            }
            _ => {}
        }
    }
    if entries.is_empty() && wanted.ids == Ids::Kept {
        return Ok(change.plan);
    }
    change.renew_headers(&structures.headers, wanted.ids);
    if !entries.is_empty() {
        change.plan.set_len(0, change.end);
        change.plan.go_on_with(filled);
        change.plan.sync();
    }
    for (at, entry) in entries {
        change.plan.write(at, entry.0.to_le_bytes());
    }
    change.plan.sync();
    Ok(change.plan)
}
