//! Places for blocks that have none, in a dynamic disk that is there: behind all others, one footer further.

use std::ops::Range;

use super::bat::{BlockLayout, UNALLOCATED};
use super::dynamic_header::DynamicHeader;
use super::find::{self, Found};
use super::footer::{DiskType, FOOTER_LEN};
use super::resize::{PAGE, Table, place, refuse};
use crate::error::{Error, Result};
use crate::in_place::Plan;
use crate::storage::{StorageRef, read_array};

/// How all sectors of `range` of the disk in `storage` get a place in it.
///
/// # Errors
/// `Refused` for a disk that is not fit to be changed, `Unsupported` for one whose bits are in another order.
pub fn allocate(storage: &StorageRef, range: Range<u64>) -> Result<Plan> {
    let found = find::find(storage.as_ref(), false)?;
    let mut plan = Plan::new(found.footer.current_size);
    if found.footer.disk_type == DiskType::Fixed || range.is_empty() {
        return Ok(plan);
    }
    refuse(storage.as_ref(), &found)?;
    if super::is_old_tap(&found.footer) {
        return Err(Error::unsupported(
            "sector bitmap",
            "is in the byte order of XenServer's first version",
        ));
    }
    let mut warnings = Vec::new();
    let at = found.footer.data_offset;
    let header = DynamicHeader::read(storage.as_ref(), at, false, &mut warnings)?;
    let layout = BlockLayout::new(&found.footer, &header, found.data_end)?;
    let table = Table::read(storage.as_ref(), &header, &layout, found.data_end)?;
    if table.cut.is_some() {
        return Err(Error::refused(
            "BAT",
            "the last block is cut off at the end of the file",
        ));
    }
    let blocks = range.start / layout.block_size..range.end.div_ceil(layout.block_size);
    let mut added = Vec::new();
    for index in blocks.start..blocks.end.min(layout.blocks()) {
        let entry = table.entries.get(index as usize).copied();
        match entry.unwrap_or(UNALLOCATED) {
            UNALLOCATED => added.push(index),
            entry => complete(&mut plan, storage, &layout, entry, index, &range)?,
        }
    }
    add(&mut plan, &found, &header, &table, &added)?;
    Ok(plan)
}

/// Marks the sectors of `range` in a block as written: with zeros, which is what they were.
fn complete(
    plan: &mut Plan,
    storage: &StorageRef,
    layout: &BlockLayout,
    entry: u32,
    index: u64,
    range: &Range<u64>,
) -> Result<()> {
    let place = layout.place(index, entry)?;
    let start = index * layout.block_size;
    let first = range.start.saturating_sub(start) / 512;
    let end = range
        .end
        .saturating_sub(start)
        .min(layout.block_size)
        .div_ceil(512);
    for piece in first / 4096..end.div_ceil(4096) {
        let at = place.bitmap + piece * 512;
        let mut bits: [u8; 512] = read_array(storage.as_ref(), at)?;
        let before = bits;
        let sectors = (piece * 4096).max(first)..((piece + 1) * 4096).min(end);
        for sector in sectors {
            let within = sector % 4096;
            let bit = 0x80 >> (within % 8);
            if let Some(byte) = bits.get_mut((within / 8) as usize)
                && *byte & bit == 0
            {
                *byte |= bit;
                plan.zero(place.data + sector * 512, 512);
            }
        }
        if bits != before {
            plan.sync();
            plan.write(at, bits);
            plan.sync();
        }
    }
    Ok(())
}

fn add(
    plan: &mut Plan,
    found: &Found,
    header: &DynamicHeader,
    table: &Table,
    added: &[u64],
) -> Result<()> {
    if added.is_empty() {
        return Ok(());
    }
    let (stride, bitmap_len) = (table.stride, table.bitmap_len);
    let mut end = found.data_end;
    let mut places = Vec::new();
    for index in added {
        let at = (end + bitmap_len).next_multiple_of(PAGE) - bitmap_len;
        places.push((*index, at, place(at)?));
        end = at + stride;
    }
    plan.write(end, found.footer.to_bytes());
    plan.sync();
    plan.zero(found.data_end, FOOTER_LEN);
    for (_, at, _) in &places {
        plan.fill(*at, ((stride - bitmap_len) / 512).div_ceil(8), 0xFF);
    }
    plan.sync();
    for (index, _, entry) in places {
        plan.write(header.table_offset + index * 4, entry.to_be_bytes());
    }
    plan.sync();
    Ok(())
}
