//! Places for blocks that have none, in a dynamic disk that is there: behind all others, one footer further.

use std::ops::Range;

use super::bat::{BlockLayout, BlockPlace, UNALLOCATED};
use super::dynamic_header::DynamicHeader;
use super::find::{self, Found};
use super::footer::{DiskType, FOOTER_LEN};
use super::resize::{PAGE, Table, place, refuse};
use crate::error::{Error, Result};
use crate::in_place::{Allocation, Plan};
use crate::storage::{StorageRef, read_array};

/// How all sectors of the disk in `storage` that are `wanted` get a place in it.
///
/// # Errors
/// `Refused` for a disk that is not fit to be changed, `Unsupported` for one whose bits are in another order.
pub fn allocate(storage: &StorageRef, wanted: &Allocation) -> Result<Plan> {
    let found = find::find(storage.as_ref(), false)?;
    let mut plan = Plan::new(found.footer.current_size);
    refuse(storage.as_ref(), &found)?;
    if found.footer.disk_type == DiskType::Fixed {
        return Ok(plan);
    }
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
    let mut added = Vec::new();
    let blocks = wanted.units(layout.block_size);
    for index in blocks.take_while(|index| *index < layout.blocks()) {
        let entry = table.entries.get(index as usize).copied();
        let block = index * layout.block_size..(index + 1) * layout.block_size;
        match entry.unwrap_or(UNALLOCATED) {
            UNALLOCATED if wanted.is_delta => {
                // The other sectors stay the parent's.
                let mut bits = vec![0; table.bitmap_len as usize];
                for range in wanted.within(&block) {
                    set_bits(&mut bits, sectors_of(&range, block.start), |_| {});
                }
                added.push((index, bits));
            }
            UNALLOCATED => {
                let bits = (layout.block_size / 512).div_ceil(8) as usize;
                added.push((index, vec![0xFF; bits]));
            }
            entry => {
                let place = layout.place(index, entry)?;
                complete(&mut plan, storage, place, &block, wanted)?;
            }
        }
    }
    add(&mut plan, &found, &header, &table, added)?;
    Ok(plan)
}

/// The sectors of a block from byte `start` of the disk on that `range` touches.
fn sectors_of(range: &Range<u64>, start: u64) -> Range<u64> {
    (range.start - start) / 512..(range.end - start).div_ceil(512)
}

/// Sets the bits of `sectors`, and calls `visit` with each that was not set.
fn set_bits(bits: &mut [u8], sectors: Range<u64>, mut visit: impl FnMut(u64)) {
    for sector in sectors {
        let bit = 0x80 >> (sector % 8);
        if let Some(byte) = bits.get_mut((sector / 8) as usize)
            && *byte & bit == 0
        {
            *byte |= bit;
            visit(sector);
        }
    }
}

/// Sectors that 512 bytes of a bitmap have bits for.
const SECTORS: u64 = 4096;

/// Marks what is wanted of a block as written: with zeros, which is what it was, unless that does not matter.
fn complete(
    plan: &mut Plan,
    storage: &StorageRef,
    place: BlockPlace,
    block: &Range<u64>,
    wanted: &Allocation,
) -> Result<()> {
    let parts = (0..).map(|part| (part, block.start + part * SECTORS * 512));
    for (part, start) in parts.take_while(|(_, start)| *start < block.end) {
        let covered = start..(start + SECTORS * 512).min(block.end);
        let mut ranges = wanted.within(&covered).peekable();
        if ranges.peek().is_none() {
            continue;
        }
        let at = place.bitmap + part * 512;
        let mut bits: [u8; 512] = read_array(storage.as_ref(), at)?;
        let before = bits;
        let mut unwritten: Vec<Range<u64>> = Vec::new();
        for range in ranges {
            let sectors = sectors_of(&range, start);
            set_bits(&mut bits, sectors, |sector| match unwritten.last_mut() {
                Some(last) if last.end == sector => last.end += 1,
                _ => unwritten.push(sector..sector + 1),
            });
        }
        if bits == before {
            continue;
        }
        if !wanted.is_given_up {
            for range in unwritten {
                let from = place.data + (part * SECTORS + range.start) * 512;
                plan.zero(from, (range.end - range.start) * 512);
            }
        }
        plan.sync();
        plan.write(at, bits);
        plan.sync();
    }
    Ok(())
}

fn add(
    plan: &mut Plan,
    found: &Found,
    header: &DynamicHeader,
    table: &Table,
    added: Vec<(u64, Vec<u8>)>,
) -> Result<()> {
    if added.is_empty() {
        return Ok(());
    }
    let (stride, bitmap_len) = (table.stride, table.bitmap_len);
    let mut end = found.data_end;
    let mut places = Vec::new();
    for (index, bits) in added {
        let at = (end + bitmap_len).next_multiple_of(PAGE) - bitmap_len;
        places.push((index, at, place(at)?, bits));
        end = at + stride;
    }
    plan.write(end, found.footer.to_bytes());
    plan.sync();
    plan.zero(found.data_end, FOOTER_LEN);
    for (_, at, _, bits) in &mut places {
        plan.write(*at, std::mem::take(bits));
    }
    plan.sync();
    for (index, _, entry, _) in places {
        plan.write(header.table_offset + index * 4, entry.to_be_bytes());
    }
    plan.sync();
    Ok(())
}
