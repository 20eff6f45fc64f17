//! A copy-on-write extent (`COWD`): vmfsSparse, the deltas of ESX on VMFS-3 and VMFS-5.
//!
//! Virtual Disk Format 5.0, "ESX Server Sparse Extents". One table level like a hosted sparse extent, without
//! redundancy, markers or an entry for zeros.

use std::sync::Arc;

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::SECTOR;
use super::directory::{Directory, DirectoryLayout};
use super::grains::{Geometry, GrainSource};
use super::hosted::{HostedFormat, directory_entry};
use crate::driver::OpenContext;
use crate::error::{Error, Result};
use crate::overlap::Areas;
use crate::source::BlockSource;
use crate::storage::{StorageRef, read_array};

/// What stands at the front.
pub const MAGIC: [u8; 4] = *b"COWD";

/// Bytes of the header.
const HEADER: u64 = 2048;

/// Entries of a grain table.
const TABLE_ENTRIES: u64 = 4096;

/// The extent has no parent.
const FLAG_ROOT: u32 = 1;

/// Sectors of a grain that are accepted.
const MAX_GRAIN: u32 = 2048;

/// The part of the header that says where things are.
#[derive(Debug, Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    magic: [u8; 4],
    version: U32,
    flags: U32,
    capacity: U32,
    grain_size: U32,
    directory_offset: U32,
    directory_entries: U32,
    free_sector: U32,
}

/// An extent, opened.
pub struct CowdExtent {
    /// Its map.
    pub source: Arc<dyn BlockSource>,
    /// Whether it says that it has no parent.
    pub is_root: bool,
}

/// Opens the extent in `storage`.
///
/// # Errors
/// What is wrong with header or grain directory.
pub fn open(storage: &StorageRef, context: &OpenContext) -> Result<CowdExtent> {
    let bytes: [u8; 32] = read_array(storage.as_ref(), 0)?;
    let raw = Raw::read_from_bytes(&bytes)
        .map_err(|_| Error::malformed("COWD header", "is too short"))?;
    let geometry = check(&raw)?;
    let tables = geometry.capacity.div_ceil(geometry.coverage());
    let offset = u64::from(raw.directory_offset.get()) * SECTOR;
    let layout = DirectoryLayout {
        name: "grain directory",
        offset,
        entries: tables,
        entry_size: 4,
        table_size: geometry.table_size(),
        read: Box::new(directory_entry),
    };
    let directory = Directory::open(storage.clone(), layout, context)?;
    let mut areas = Areas::default();
    areas.add("the header", 0, HEADER);
    let (offset, len) = directory.place();
    if let Some(other) = areas.add("the grain directory", offset, len) {
        return Err(
            Error::malformed("grain directory", format!("overlaps {other}"))
                .at(offset)
                .found(format!("{len} bytes")),
        );
    }
    let source = GrainSource::new(
        HostedFormat::plain(geometry.grain_size),
        geometry,
        (storage.clone(), directory),
        storage.clone(),
        areas,
        context,
    );
    Ok(CowdExtent {
        source: Arc::new(source),
        is_root: raw.flags.get() & FLAG_ROOT != 0,
    })
}

fn check(raw: &Raw) -> Result<Geometry> {
    if raw.magic != MAGIC {
        return Err(Error::malformed("COWD header", "has no magic")
            .found(format!("{:02x?}", raw.magic))
            .expected("COWD"));
    }
    if raw.version.get() != 1 {
        return Err(Error::unsupported("COWD header", "has an unknown version")
            .found(raw.version.get())
            .expected(1));
    }
    let grain = raw.grain_size.get();
    if !grain.is_power_of_two() || grain > MAX_GRAIN {
        return Err(
            Error::malformed("COWD header", "the grain size is impossible")
                .found(format!("{grain} sectors"))
                .expected(format!("a power of two up to {MAX_GRAIN}, usually 1")),
        );
    }
    let geometry = Geometry {
        capacity: u64::from(raw.capacity.get()) * SECTOR,
        grain_size: u64::from(grain) * SECTOR,
        table_entries: TABLE_ENTRIES,
        entry_size: 4,
    };
    let tables = geometry.capacity.div_ceil(geometry.coverage());
    if u64::from(raw.directory_entries.get()) < tables {
        return Err(Error::malformed(
            "COWD header",
            "the grain directory is too short for the disk",
        )
        .found(format!("{} entries", raw.directory_entries))
        .expected(format!("at least {tables}")));
    }
    Ok(geometry)
}
