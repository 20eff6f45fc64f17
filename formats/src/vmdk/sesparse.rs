//! A space-efficient sparse extent: the deltas of ESXi on VMFS-6, and of disks above 2 TiB.
//!
//! VMware never documented it. The facts are those that QEMU's `block/vmdk.c` and dissect agree on; where they do not
//! (grains that were unmapped), they read as zeros, as in QEMU.

use std::sync::Arc;

use super::SECTOR;
use super::directory::{Directory, DirectoryLayout, TablePlace};
use super::grains::{Geometry, Grain, GrainFormat, GrainSource};
use super::header::in_bytes;
use crate::driver::OpenContext;
use crate::error::{Error, Result};
use crate::joined::PackedRange;
use crate::overlap::Areas;
use crate::source::BlockSource;
use crate::storage::{Storage, StorageRef, read_array};

/// What stands at the front: a little-endian number of 64 bits.
pub const MAGIC: u64 = 0xCAFE_BABE;

const VOLATILE_MAGIC: u64 = 0xCAFE_CAFE;
const VERSION: u64 = 0x2_0000_0001;
const STRUCTURE: &str = "seSparse header";

/// Sectors of a grain.
const GRAIN: u64 = 8;
/// Sectors of a grain table.
const TABLE: u64 = 64;

/// A part of the file: offset and length in bytes.
type Part = (u64, u64);

/// The header at sector 0: where everything stands.
#[derive(Debug, Clone, Copy)]
struct Header {
    capacity: u64,
    volatile: Part,
    journal_header: Part,
    journal: Part,
    directory: Part,
    tables: Part,
    free_bitmap: Part,
    backmap: Part,
    grains: Part,
}

impl Header {
    fn read(storage: &dyn Storage) -> Result<Header> {
        let sector: [u8; SECTOR as usize] = read_array(storage, 0)?;
        let mut fields = [0; 26];
        for (field, bytes) in fields.iter_mut().zip(sector.as_chunks().0) {
            *field = u64::from_le_bytes(*bytes);
        }
        let [magic, version, capacity, grain, table, flags, ..] = fields;
        if magic != MAGIC {
            return Err(Error::malformed(STRUCTURE, "has no magic")
                .found(format!("{magic:#x}"))
                .expected(format!("{MAGIC:#x}")));
        }
        let known = [
            ("version", version, VERSION),
            ("grain size", grain, GRAIN),
            ("grain table size", table, TABLE),
            ("flags", flags, 0),
        ];
        for (name, found, expected) in known {
            if found != expected {
                return Err(Error::unsupported(
                    STRUCTURE,
                    format!("has a {name} that is not known"),
                )
                .found(format!("{found:#x}"))
                .expected(format!("{expected:#x}")));
            }
        }
        let part = |index: usize| -> Result<Part> {
            Ok((
                in_bytes(STRUCTURE, "offset of a part", fields[index])?,
                in_bytes(STRUCTURE, "length of a part", fields[index + 1])?,
            ))
        };
        Ok(Header {
            capacity: in_bytes(STRUCTURE, "capacity", capacity)?,
            volatile: part(10)?,
            journal_header: part(12)?,
            journal: part(14)?,
            directory: part(16)?,
            tables: part(18)?,
            free_bitmap: part(20)?,
            backmap: part(22)?,
            grains: part(24)?,
        })
    }

    /// Fails when changes wait in the journal.
    fn check_journal(&self, storage: &dyn Storage) -> Result<()> {
        let (offset, _) = self.volatile;
        let sector: [u8; 32] = read_array(storage, offset)?;
        let field = |index: usize| {
            let bytes = sector.as_chunks().0.get(index).copied().unwrap_or_default();
            u64::from_le_bytes(bytes)
        };
        if field(0) != VOLATILE_MAGIC {
            return Err(Error::malformed("seSparse volatile header", "has no magic")
                .at(offset)
                .found(format!("{:#x}", field(0)))
                .expected(format!("{VOLATILE_MAGIC:#x}")));
        }
        if field(3) != 0 {
            return Err(Error::unsupported(
                "seSparse volatile header",
                "changes wait in the journal, and how to replay it is not known",
            )
            .at(offset)
            .hint("let ESXi open the disk and close it properly (power the VM on and off), then copy it again"));
        }
        Ok(())
    }
}

/// Opens the extent in `storage`.
///
/// # Errors
/// What is wrong with the headers or the grain directory; `Unsupported` for a journal that must be replayed.
pub fn open(storage: &StorageRef, context: &OpenContext) -> Result<Arc<dyn BlockSource>> {
    let header = Header::read(storage.as_ref())?;
    header.check_journal(storage.as_ref())?;
    let geometry = Geometry {
        capacity: header.capacity,
        grain_size: GRAIN * SECTOR,
        table_entries: TABLE * SECTOR / 8,
        entry_size: 8,
    };
    let tables = geometry.capacity.div_ceil(geometry.coverage());
    let (offset, len) = header.directory;
    if len / 8 < tables {
        return Err(
            Error::malformed(STRUCTURE, "the grain directory is too short for the disk")
                .found(format!("{} entries", len / 8))
                .expected(format!("at least {tables}")),
        );
    }
    let (first, room) = header.tables;
    let layout = DirectoryLayout {
        name: "grain directory",
        offset,
        entries: tables,
        entry_size: 8,
        table_size: geometry.table_size(),
        read: Box::new(move |entry| directory_entry(entry, first, room)),
    };
    let directory = Directory::open(storage.clone(), layout, context)?;
    let mut areas = Areas::default();
    let parts = [
        ("the header", (0, SECTOR)),
        ("the volatile header", header.volatile),
        ("the journal header", header.journal_header),
        ("the journal", header.journal),
        ("the grain directory", header.directory),
        ("the grain tables", header.tables),
        ("the free bitmap", header.free_bitmap),
        ("the backmap", header.backmap),
    ];
    for (name, (offset, len)) in parts {
        if let Some(other) = areas.add(name, offset, len) {
            return Err(
                Error::malformed(STRUCTURE, format!("{name} overlaps {other}"))
                    .found(format!("{len} bytes at byte {offset}")),
            );
        }
    }
    let format = SeGrains {
        grains: header.grains,
    };
    let source = GrainSource::new(
        format,
        geometry,
        (storage.clone(), directory),
        storage.clone(),
        areas,
        context,
    );
    // Grain tables belong into an area where no grain may be; that they are in there was checked entry by entry.
    Ok(Arc::new(source.with_table_areas(Areas::default())))
}

/// An entry of the directory: nothing, or 1 in the upper four bits and the number of a grain table.
fn directory_entry(entry: u64, first: u64, room: u64) -> Result<TablePlace> {
    if entry == 0 {
        return Ok(TablePlace::Absent);
    }
    if entry >> 32 != 0x1000_0000 {
        return Err(Error::malformed(
            "grain directory",
            "an entry is neither empty nor a grain table",
        )
        .found(format!("{entry:#018x}")));
    }
    let within = (entry & 0xFFFF_FFFF) * TABLE * SECTOR;
    if within + TABLE * SECTOR > room {
        return Err(
            Error::malformed("grain directory", "names a grain table that does not exist")
                .found(format!("number {}", entry & 0xFFFF_FFFF))
                .expected(format!("less than {}", room / (TABLE * SECTOR))),
        );
    }
    Ok(TablePlace::At(first + within))
}

/// What entries of grain tables say.
struct SeGrains {
    grains: Part,
}

impl GrainFormat for SeGrains {
    fn grain(&self, entry: &[u8]) -> Result<Grain> {
        let entry = entry
            .try_into()
            .map(u64::from_le_bytes)
            .map_err(|_| Error::malformed("grain table", "has half an entry"))?;
        let wrong = |what: &'static str| {
            Err(Error::malformed("grain table", what).found(format!("{entry:#018x}")))
        };
        match entry >> 60 {
            0 if entry == 0 => Ok(Grain::Absent),
            // Unmapped, and zeros.
            1 | 2 => Ok(Grain::Zero),
            3 => {
                let number =
                    (entry & 0x0FFF_0000_0000_0000) >> 48 | (entry & 0xFFFF_FFFF_FFFF) << 12;
                let (first, room) = self.grains;
                match number.checked_mul(GRAIN * SECTOR) {
                    Some(within) if within < room => Ok(Grain::Stored(first + within)),
                    _ => wrong("a grain is outside of the place for grains"),
                }
            }
            _ => wrong("an entry is of no known type"),
        }
    }

    fn packed(&self, _data: &StorageRef, _offset: u64, _guest: u64) -> Result<PackedRange> {
        Err(Error::malformed("grain table", "has no compressed grains"))
    }
}
