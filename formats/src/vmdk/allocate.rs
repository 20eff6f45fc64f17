//! Places for grains that have none, in a sparse extent that is there: behind all others.

use super::SECTOR;
use super::header::SparseHeader;
use super::hosted::geometry;
use super::layer::Kind;
use crate::error::{Error, Result};
use crate::in_place::{Allocation, Plan};
use crate::open::LayerFile;
use crate::storage::{StorageRef, read_array};

/// How all grains of the disk in `layer` that are `wanted` get a place in it.
///
/// # Errors
/// `Unsupported` for compressed grains, and tables that are not there.
pub fn allocate(layer: &LayerFile, wanted: &Allocation) -> Result<Plan> {
    let storage = &layer.storage;
    let mut plan = Plan::new(layer.source.size());
    if Kind::read(storage.as_ref())? != Kind::Hosted {
        return wanted.check_places(layer).map(|()| plan);
    }
    let header = SparseHeader::parse(&read_array(storage.as_ref(), 0)?)?;
    let Some(directory) = header.directory.filter(|_| !header.is_compressed()) else {
        return Err(Error::unsupported("vmdk", "has compressed grains"));
    };
    let size = header.grain_size;
    let mut filled = Vec::new();
    let mut end = storage.len().next_multiple_of(header.grain_size);
    let mut entries = Vec::new();
    for grain in wanted.units(size) {
        let at = entry_at(storage, &header, directory, grain)?;
        // 0 is nothing, 1 is zeros.
        if le32(storage, at)? > 1 {
            continue;
        }
        let sector = u32::try_from(end / SECTOR)
            .map_err(|_| Error::limit("vmdk", "the file would be larger than 2 TiB"))?;
        entries.push((at, sector));
        filled.push((grain, end));
        if let Some(redundant) = header.redundant.filter(|at| *at != directory) {
            entries.push((entry_at(storage, &header, redundant, grain)?, sector));
        }
        end += header.grain_size;
    }
    if entries.is_empty() {
        return Ok(plan);
    }
    plan.set_len(0, end);
    for (grain, place) in filled {
        wanted.fill(&mut plan, &(grain * size..(grain + 1) * size), place)?;
    }
    plan.sync();
    for (at, sector) in entries {
        plan.write(at, sector.to_le_bytes());
    }
    plan.sync();
    Ok(plan)
}

/// Where the entry of `grain` stands.
fn entry_at(
    storage: &StorageRef,
    header: &SparseHeader,
    directory: u64,
    grain: u64,
) -> Result<u64> {
    let entries = geometry(header).table_entries;
    let table = le32(storage, directory + grain / entries * 4)?;
    if table < 2 {
        return Err(
            Error::unsupported("grain directory", "has no grain table there")
                .at(directory + grain / entries * 4),
        );
    }
    Ok(u64::from(table) * SECTOR + grain % entries * 4)
}

fn le32(storage: &StorageRef, at: u64) -> Result<u32> {
    Ok(u32::from_le_bytes(read_array(storage.as_ref(), at)?))
}
