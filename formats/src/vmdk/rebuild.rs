//! Making the tables of a stream anew from its markers, when the directory is lost.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::SECTOR;
use super::check::zero_sectors;
use super::header::SparseHeader;
use super::marker::{GRAIN_MARKER, Marker};
use crate::error::{Error, Result};
use crate::storage::{MemoryStorage, StorageRef};

/// Most bytes of tables that are made: enough for 1 TiB in grains of 64 KiB.
const MOST_BYTES: u64 = 64 << 20;

/// Tables in memory that name grains in the file.
pub struct Rebuilt {
    /// What they stand in.
    pub storage: StorageRef,
    /// Byte offset of the grain directory in there.
    pub directory: u64,
}

/// Goes through the grains of `storage` one after the other, as far as it makes sense.
///
/// # Errors
/// `Limit` when the tables would not fit into memory, and those of the storage.
pub fn from_markers(
    storage: &StorageRef,
    header: &SparseHeader,
    warnings: &mut Vec<String>,
) -> Result<Rebuilt> {
    let entries = u64::from(header.table_entries);
    let table_size = (entries * 4).next_multiple_of(SECTOR);
    let directory_size = (header.tables() * 4).next_multiple_of(SECTOR);
    let too_much = || {
        Error::limit(
            "grain directory",
            "cannot be made anew: the disk is too large",
        )
        .expected(format!("at most {MOST_BYTES} bytes of tables"))
    };
    if directory_size > MOST_BYTES {
        return Err(too_much());
    }
    let mut tables: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    let mut at = first_item(header);
    let (mut grains, mut twice) = (0u64, 0u64);
    while at.saturating_add(SECTOR) <= storage.len() {
        match Marker::read(storage.as_ref(), at)? {
            Marker::Grain { sector, len } if is_grain(header, sector, len) => {
                let grain = sector * SECTOR / header.grain_size;
                let (index, within) = (grain / entries, (grain % entries) as usize);
                let room = (tables.len() as u64 + 1) * table_size + directory_size;
                if !tables.contains_key(&index) && room > MOST_BYTES {
                    return Err(too_much());
                }
                let table = tables
                    .entry(index)
                    .or_insert_with(|| vec![0; entries as usize]);
                let place = u32::try_from(at / SECTOR).map_err(|_| too_much())?;
                if let Some(entry) = table.get_mut(within) {
                    twice += u64::from(*entry != 0);
                    *entry = place;
                }
                grains += 1;
                at += (GRAIN_MARKER + u64::from(len)).next_multiple_of(SECTOR);
            }
            // Zeros stand at the end, and also between grains where the writer left room.
            Marker::EndOfStream => at += zero_sectors(storage.as_ref(), at)? * SECTOR,
            Marker::GrainTable(sectors)
            | Marker::GrainDirectory(sectors)
            | Marker::Footer(sectors)
            | Marker::Other(sectors)
                if sectors <= MOST_BYTES / SECTOR =>
            {
                at += SECTOR + sectors * SECTOR
            }
            // Something that is no marker: on to the next sector that looks like one.
            _ => at += SECTOR,
        }
    }
    if twice > 0 {
        warnings.push(format!(
            "{twice} grains are there twice: the later ones were taken"
        ));
    }
    warnings.push(format!("{grains} grains were found by their markers"));
    Ok(laid_out(tables, directory_size, table_size))
}

/// Where grains can start: behind header and descriptor.
fn first_item(header: &SparseHeader) -> u64 {
    let (offset, len) = header.descriptor;
    SECTOR.max(offset.saturating_add(len))
}

fn is_grain(header: &SparseHeader, sector: u64, len: u32) -> bool {
    let grain_sectors = header.grain_size / SECTOR;
    sector.is_multiple_of(grain_sectors)
        && sector < header.capacity.div_ceil(SECTOR)
        && u64::from(len) <= 2 * header.grain_size
}

fn laid_out(tables: BTreeMap<u64, Vec<u32>>, directory_size: u64, table_size: u64) -> Rebuilt {
    // Sector 0 stays free: 0 means "none".
    let directory = SECTOR;
    let mut bytes = vec![0; (directory + directory_size) as usize];
    for (index, table) in tables {
        let sector = (bytes.len() as u64 / SECTOR) as u32;
        let at = (directory + index * 4) as usize;
        if let Some(entry) = bytes.get_mut(at..at + 4) {
            entry.copy_from_slice(&sector.to_le_bytes());
        }
        bytes.extend(table.iter().flat_map(|entry| entry.to_le_bytes()));
        let end = (bytes.len() as u64)
            .next_multiple_of(SECTOR)
            .max(table_size);
        bytes.resize(end as usize, 0);
    }
    Rebuilt {
        storage: Arc::new(MemoryStorage::new(bytes)),
        directory,
    }
}
