//! The header of a hosted sparse extent (`KDMV`): one sector at the front, and once more as the footer of a stream.
//!
//! Virtual Disk Format 5.0, "Hosted Sparse Extents".

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{MAX_SECTORS, SECTOR};
use crate::error::{Error, Result};

const STRUCTURE: &str = "sparse header";

/// What stands at the front of every hosted sparse extent.
pub const MAGIC: [u8; 4] = *b"KDMV";

/// What open-vmdk writes there until an extent is complete.
pub const UNFINISHED_MAGIC: [u8; 4] = *b"kdmv";

/// The grain directory stands at the end of the file, and only the footer says where.
pub const GD_AT_END: u64 = u64::MAX;

/// The newline bytes are there to be checked.
pub const FLAG_NEWLINE_TEST: u32 = 1;
/// There is a second grain directory with grain tables of its own.
pub const FLAG_REDUNDANT: u32 = 2;
/// An entry of 1 means zeros.
pub const FLAG_ZERO_GRAINS: u32 = 4;
/// Grains are compressed.
pub const FLAG_COMPRESSED: u32 = 0x1_0000;
/// Compressed grains and metadata have markers in front.
pub const FLAG_MARKERS: u32 = 0x2_0000;

/// Flags of which a reader must know what they mean.
const MUST_KNOW: u32 = 0xFFFF_0000;

/// Bytes that a transfer in text mode would change.
const NEWLINES: [u8; 4] = *b"\n \r\n";

/// Entries of a grain table in every file that products write.
pub const USUAL_TABLE_ENTRIES: u32 = 512;

/// Entries of a grain table that are accepted: what is read at once.
const MAX_TABLE_ENTRIES: u32 = 16 << 10;

/// Sectors of a grain that are accepted: 64 MiB.
const MAX_GRAIN: u64 = (64 << 20) / SECTOR;

/// Sectors of a compressed grain that are accepted: what one worker unpacks in one go.
const MAX_PACKED_GRAIN: u64 = (2 << 20) / SECTOR;

/// Grain tables that are accepted: 64 TiB in grains of 4 KiB.
const MAX_TABLES: u64 = 32 << 20;

/// The header as it stands in the file.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
struct Raw {
    magic: [u8; 4],
    version: U32,
    flags: U32,
    capacity: U64,
    grain_size: U64,
    descriptor_offset: U64,
    descriptor_size: U64,
    table_entries: U32,
    redundant_offset: U64,
    directory_offset: U64,
    overhead: U64,
    unclean_shutdown: u8,
    newlines: [u8; 4],
    compression: U16,
    padding: [u8; 433],
}

/// A header whose values can be true. Offsets and lengths in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SparseHeader {
    /// 1, 2 or 3.
    pub version: u32,
    /// The flags.
    pub flags: u32,
    /// Guest bytes of the extent.
    pub capacity: u64,
    /// Guest bytes of a grain, a power of two.
    pub grain_size: u64,
    /// Where the descriptor stands, and room for it; none: 0.
    pub descriptor: (u64, u64),
    /// Entries of a grain table.
    pub table_entries: u32,
    /// Where the redundant grain directory stands, if there is one.
    pub redundant: Option<u64>,
    /// Where the grain directory stands; `None` when only the footer knows.
    pub directory: Option<u64>,
    /// Where the first grain stands, if the writer knew.
    pub overhead: u64,
    /// Whether the extent was not closed properly.
    pub unclean: bool,
}

impl SparseHeader {
    /// Parses the sector in `bytes`.
    ///
    /// # Errors
    /// `Malformed`, `Unsupported` or `Limit` with the field that is wrong.
    pub fn parse(bytes: &[u8; SECTOR as usize]) -> Result<SparseHeader> {
        let raw =
            Raw::ref_from_bytes(bytes).map_err(|_| Error::malformed(STRUCTURE, "is no sector"))?;
        let malformed = |message: &'static str| Error::malformed(STRUCTURE, message);
        if raw.magic == UNFINISHED_MAGIC {
            return Err(malformed("the extent was never completed")
                .found("the magic \"kdmv\"")
                .hint("its writer was stopped; export the disk again"));
        }
        if raw.magic != MAGIC {
            return Err(malformed("has no magic")
                .found(format!("{:02x?}", raw.magic))
                .expected("KDMV"));
        }
        let version = raw.version.get();
        if !(1..=3).contains(&version) {
            return Err(Error::unsupported(STRUCTURE, "has an unknown version")
                .found(version)
                .expected("1 to 3"));
        }
        let header = SparseHeader {
            version,
            flags: raw.flags.get(),
            capacity: in_bytes(STRUCTURE, "capacity", raw.capacity.get())?,
            grain_size: grain_bytes(raw.grain_size.get())?,
            descriptor: (
                in_bytes(STRUCTURE, "descriptor offset", raw.descriptor_offset.get())?,
                in_bytes(STRUCTURE, "descriptor size", raw.descriptor_size.get())?,
            ),
            table_entries: raw.table_entries.get(),
            redundant: None,
            directory: match raw.directory_offset.get() {
                GD_AT_END => None,
                sectors => Some(in_bytes(STRUCTURE, "grain directory offset", sectors)?),
            },
            // Only a help: whatever it says must not keep anybody from reading.
            overhead: raw.overhead.get().min(MAX_SECTORS) * SECTOR,
            unclean: raw.unclean_shutdown != 0,
        };
        header.check(raw)?;
        Ok(SparseHeader {
            redundant: match raw.redundant_offset.get() {
                _ if header.flags & FLAG_REDUNDANT == 0 => None,
                0 | GD_AT_END => None,
                sectors => Some(in_bytes(
                    STRUCTURE,
                    "redundant grain directory offset",
                    sectors,
                )?),
            },
            ..header
        })
    }

    /// The sector that says so.
    pub fn to_bytes(self) -> [u8; SECTOR as usize] {
        let raw = Raw {
            magic: MAGIC,
            version: self.version.into(),
            flags: self.flags.into(),
            capacity: (self.capacity / SECTOR).into(),
            grain_size: (self.grain_size / SECTOR).into(),
            descriptor_offset: (self.descriptor.0 / SECTOR).into(),
            descriptor_size: (self.descriptor.1 / SECTOR).into(),
            table_entries: self.table_entries.into(),
            redundant_offset: (self.redundant.unwrap_or(0) / SECTOR).into(),
            directory_offset: self.directory.map_or(GD_AT_END, |at| at / SECTOR).into(),
            overhead: (self.overhead / SECTOR).into(),
            unclean_shutdown: self.unclean.into(),
            newlines: NEWLINES,
            compression: u16::from(self.is_compressed()).into(),
            padding: [0; 433],
        };
        zerocopy::transmute!(raw)
    }

    /// `sector`, the one that was parsed, with the capacity and the places of this header. Everything else stays.
    pub fn over(&self, sector: &[u8; SECTOR as usize]) -> [u8; SECTOR as usize] {
        let mut raw: Raw = zerocopy::transmute!(*sector);
        raw.capacity = (self.capacity / SECTOR).into();
        raw.descriptor_offset = (self.descriptor.0 / SECTOR).into();
        if let Some(redundant) = self.redundant {
            raw.redundant_offset = (redundant / SECTOR).into();
        }
        if let Some(directory) = self.directory {
            raw.directory_offset = (directory / SECTOR).into();
        }
        zerocopy::transmute!(raw)
    }

    fn check(&self, raw: &Raw) -> Result<()> {
        let unknown = self.flags & MUST_KNOW & !(FLAG_COMPRESSED | FLAG_MARKERS);
        if unknown != 0 {
            return Err(
                Error::unsupported(STRUCTURE, "has flags that are not known")
                    .found(format!("{unknown:#x}")),
            );
        }
        if self.flags & FLAG_NEWLINE_TEST != 0 && raw.newlines != NEWLINES {
            return Err(
                Error::malformed(STRUCTURE, "its newline bytes were changed")
                    .found(format!("{:02x?}", raw.newlines))
                    .expected(format!("{NEWLINES:02x?}"))
                    .hint("the file went through a transfer in text mode; copy it again, in binary mode"),
            );
        }
        let algorithm = raw.compression.get();
        if algorithm > 1 {
            return Err(
                Error::unsupported(STRUCTURE, "names an unknown compression")
                    .found(algorithm)
                    .expected("0 (none) or 1 (deflate)"),
            );
        }
        if (algorithm == 1) != self.is_compressed() {
            return Err(
                Error::malformed(STRUCTURE, "contradicts itself about compression")
                    .found(format!("algorithm {algorithm}, flags {:#x}", self.flags)),
            );
        }
        if self.has_markers() && !self.is_compressed() {
            return Err(
                Error::malformed(STRUCTURE, "has markers, but no compressed grains")
                    .found(format!("flags {:#x}", self.flags)),
            );
        }
        if self.is_compressed() && self.grain_size / SECTOR > MAX_PACKED_GRAIN {
            return Err(Error::limit(STRUCTURE, "compressed grains are too large")
                .found(self.grain_size)
                .expected(format!("at most {} bytes", MAX_PACKED_GRAIN * SECTOR)));
        }
        if !(1..=MAX_TABLE_ENTRIES).contains(&self.table_entries) {
            return Err(
                Error::malformed(STRUCTURE, "grain tables have an impossible length")
                    .found(format!("{} entries", self.table_entries))
                    .expected(format!("1 to {MAX_TABLE_ENTRIES}, usually 512")),
            );
        }
        if self.tables() > MAX_TABLES {
            return Err(Error::limit(STRUCTURE, "the extent is too large")
                .found(format!(
                    "{} bytes in {} grain tables",
                    self.capacity,
                    self.tables()
                ))
                .expected(format!("at most {MAX_TABLES} grain tables")));
        }
        Ok(())
    }

    /// Whether grains are compressed.
    pub fn is_compressed(&self) -> bool {
        self.flags & FLAG_COMPRESSED != 0
    }

    /// Whether there are markers.
    pub fn has_markers(&self) -> bool {
        self.flags & FLAG_MARKERS != 0
    }

    /// Guest bytes that one grain table covers.
    pub fn coverage(&self) -> u64 {
        u64::from(self.table_entries) * self.grain_size
    }

    /// Grain tables, which is entries of the grain directory.
    pub fn tables(&self) -> u64 {
        self.capacity.div_ceil(self.coverage())
    }
}

/// The bytes that `sectors` are, which is what the `field` of a header says.
///
/// # Errors
/// `Malformed` for more than any file has.
pub fn in_bytes(structure: &'static str, field: &'static str, sectors: u64) -> Result<u64> {
    if sectors > MAX_SECTORS {
        return Err(
            Error::malformed(structure, format!("the {field} is impossible"))
                .found(format!("{sectors} sectors"))
                .expected(format!("at most {MAX_SECTORS}")),
        );
    }
    Ok(sectors * SECTOR)
}

fn grain_bytes(sectors: u64) -> Result<u64> {
    if !sectors.is_power_of_two() || sectors > MAX_GRAIN {
        return Err(Error::malformed(STRUCTURE, "the grain size is impossible")
            .found(format!("{sectors} sectors"))
            .expected(format!("a power of two up to {MAX_GRAIN}, usually 128")));
    }
    Ok(sectors * SECTOR)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::ErrorKind;

    fn sector() -> [u8; 512] {
        let raw = Raw {
            magic: MAGIC,
            version: 1.into(),
            flags: 3.into(),
            capacity: 20480.into(),
            grain_size: 128.into(),
            descriptor_offset: 1.into(),
            descriptor_size: 20.into(),
            table_entries: 512.into(),
            redundant_offset: 21.into(),
            directory_offset: 26.into(),
            overhead: 128.into(),
            unclean_shutdown: 0,
            newlines: NEWLINES,
            compression: 0.into(),
            padding: [0; 433],
        };
        raw.as_bytes().try_into().unwrap()
    }

    #[test]
    fn a_usual_one_is_read() {
        let header = SparseHeader::parse(&sector()).unwrap();
        assert_eq!(header.capacity, 10 << 20);
        assert_eq!(header.grain_size, 64 << 10);
        assert_eq!(header.redundant, Some(21 * 512));
        assert_eq!(header.directory, Some(26 * 512));
        assert_eq!((header.tables(), header.coverage()), (1, 32 << 20));
    }

    #[test]
    fn each_field_is_checked() {
        let cases: [(usize, &[u8], ErrorKind); 12] = [
            (0, b"kdmv", ErrorKind::Malformed),
            (0, b"VMDK", ErrorKind::Malformed),
            (4, &[0], ErrorKind::Unsupported),
            (4, &[4], ErrorKind::Unsupported),
            (10, &[4], ErrorKind::Unsupported),
            (10, &[1], ErrorKind::Malformed),
            (12, &[0xff; 8], ErrorKind::Malformed),
            (20, &[127], ErrorKind::Malformed),
            (20, &[0; 8], ErrorKind::Malformed),
            (44, &[0; 4], ErrorKind::Malformed),
            (73, b"\n\n\n\n", ErrorKind::Malformed),
            (77, &[2], ErrorKind::Unsupported),
        ];
        for (at, bytes, kind) in cases {
            let mut sector = sector();
            sector[at..at + bytes.len()].copy_from_slice(bytes);
            assert_eq!(
                SparseHeader::parse(&sector).unwrap_err().kind(),
                kind,
                "{at}"
            );
        }
    }
}
