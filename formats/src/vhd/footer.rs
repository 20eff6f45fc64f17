//! The footer: the last 512 bytes of every VHD, and the first 512 of dynamic and differencing ones.

use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, transmute};

use super::checksum::checksum;
use super::geometry::Geometry;
use crate::error::{Error, Result};

/// Length in bytes.
pub const FOOTER_LEN: u64 = 512;

/// What every footer starts with.
pub const COOKIE: [u8; 8] = *b"conectix";

/// What XenServer writes over the cookie of a VHD that nobody must use any more.
pub const POISON: [u8; 8] = *b"v_poison";

/// Largest disk in bytes: 2040 GiB, the limit of Hyper-V and of everybody who copied it.
pub const MAX_DISK_SIZE: u64 = 0xFF00_0000 * 512;

/// The data offset of a fixed disk, and of every dynamic header.
pub const NO_OFFSET: u64 = u64::MAX;

/// File format version 1.0; a reader refuses another major version.
pub(super) const VERSION: u32 = 0x0001_0000;

/// Feature bit 0: the disk may be thrown away at shutdown.
const TEMPORARY: u32 = 1;

/// Feature bit 1, "reserved", always set.
const RESERVED: u32 = 2;

/// 2000-01-01T00:00:00Z in seconds since 1970: where VHD's time starts.
const EPOCH: u64 = 946_684_800;

/// The footer as it stands on disk.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawFooter {
    cookie: [u8; 8],
    features: U32,
    version: U32,
    data_offset: U64,
    timestamp: U32,
    creator_application: [u8; 4],
    creator_version: U32,
    creator_os: [u8; 4],
    original_size: U64,
    current_size: U64,
    cylinders: U16,
    heads: u8,
    sectors_per_track: u8,
    disk_type: U32,
    checksum: U32,
    unique_id: [u8; 16],
    saved_state: u8,
    hidden: u8,
    reserved: [u8; 426],
}

/// `unix_time`, in seconds since 1970, as VHD tells time.
pub(super) fn timestamp(unix_time: u64) -> u32 {
    let since = unix_time.saturating_sub(EPOCH);
    since.try_into().unwrap_or(u32::MAX)
}

/// A time of a VHD in seconds since 1970.
pub(super) fn unix_time(timestamp: u32) -> u64 {
    EPOCH + u64::from(timestamp)
}

/// What kind of disk the file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskType {
    /// The disk, byte for byte, then the footer.
    Fixed,
    /// Blocks where something was written.
    Dynamic,
    /// Blocks where something differs from the parent.
    Differencing,
}

impl DiskType {
    /// The word that `info` uses.
    pub fn name(self) -> &'static str {
        match self {
            DiskType::Fixed => "fixed",
            DiskType::Dynamic => "dynamic",
            DiskType::Differencing => "differencing",
        }
    }

    fn code(self) -> u32 {
        match self {
            DiskType::Fixed => 2,
            DiskType::Dynamic => 3,
            DiskType::Differencing => 4,
        }
    }
}

/// A footer whose fields make sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footer {
    /// Feature bits.
    pub features: u32,
    /// Byte offset of the dynamic header; means nothing in a fixed disk.
    pub data_offset: u64,
    /// When the disk was made, in seconds since 2000-01-01T00:00:00Z.
    pub timestamp: u32,
    /// What made it (`win `, `vpc `, `qemu`).
    pub creator_application: [u8; 4],
    /// Version of what made it, major and minor in 16 bits each.
    pub creator_version: u32,
    /// Where it was made (`Wi2k`, `Mac `).
    pub creator_os: [u8; 4],
    /// Size in bytes when it was made. Says nothing about the disk of today.
    pub original_size: u64,
    /// Size in bytes: a multiple of 512, at most [`MAX_DISK_SIZE`].
    pub current_size: u64,
    /// The geometry, which may express less or more than the size.
    pub geometry: Geometry,
    /// Kind of disk.
    pub disk_type: DiskType,
    /// The id that children refer to.
    pub unique_id: [u8; 16],
    /// Whether a saved state of the VM belongs to the disk.
    pub saved_state: bool,
    /// XenServer's mark for a disk that is only a parent.
    pub hidden: bool,
}

impl Footer {
    /// The footer of a new disk: as Hyper-V writes it, but with the exact size of any multiple of 512.
    pub fn new(disk_type: DiskType, size: u64, unique_id: [u8; 16], unix_time: u64) -> Footer {
        Footer {
            features: RESERVED,
            data_offset: match disk_type {
                DiskType::Fixed => NO_OFFSET,
                _ => FOOTER_LEN,
            },
            timestamp: timestamp(unix_time),
            creator_application: *b"win ",
            creator_version: 0x000A_0000,
            creator_os: *b"Wi2k",
            original_size: size,
            current_size: size,
            geometry: Geometry::of_disk(size),
            disk_type,
            unique_id,
            saved_state: false,
            hidden: false,
        }
    }

    /// The footer in `bytes`, which stand at byte `offset` of the file.
    ///
    /// # Errors
    /// `Malformed` when the checksum does not match or a field is out of range, `Unsupported` for another version or a
    /// retired type of disk, `Limit` for a size over [`MAX_DISK_SIZE`].
    pub fn parse(bytes: &[u8; 512], offset: u64) -> Result<Footer> {
        let (found, expected) = checksums(bytes);
        if found != expected {
            return Err(Error::malformed("footer", "the checksum does not match")
                .at(offset)
                .found(format!("{found:#010x}"))
                .expected(format!("{expected:#010x}"))
                .hint("--salvage reads on if the rest makes sense"));
        }
        Footer::parse_unsummed(bytes, offset)
    }

    /// As [`Footer::parse`], whatever the checksum says: for salvage.
    ///
    /// # Errors
    /// As [`Footer::parse`].
    pub fn parse_unsummed(bytes: &[u8; 512], offset: u64) -> Result<Footer> {
        let raw: RawFooter = transmute!(*bytes);
        if raw.cookie != COOKIE {
            return Err(Error::malformed("footer", "has another cookie")
                .at(offset)
                .found(format!("\"{}\"", raw.cookie.escape_ascii()))
                .expected("\"conectix\""));
        }
        let version = raw.version.get();
        if version >> 16 != VERSION >> 16 {
            return Err(Error::unsupported("footer", "unknown file format version")
                .at(offset)
                .found(format!("{version:#010x}"))
                .expected(format!("{VERSION:#010x}")));
        }
        Ok(Footer {
            features: raw.features.get(),
            data_offset: raw.data_offset.get(),
            timestamp: raw.timestamp.get(),
            creator_application: raw.creator_application,
            creator_version: raw.creator_version.get(),
            creator_os: raw.creator_os,
            original_size: raw.original_size.get(),
            current_size: check_size(raw.current_size.get(), offset)?,
            geometry: Geometry {
                cylinders: raw.cylinders.get(),
                heads: raw.heads,
                sectors_per_track: raw.sectors_per_track,
            },
            disk_type: check_type(raw.disk_type.get(), offset)?,
            unique_id: raw.unique_id,
            saved_state: raw.saved_state != 0,
            hidden: raw.hidden != 0,
        })
    }

    /// The footer as it stands on disk, with its checksum.
    pub fn to_bytes(&self) -> [u8; 512] {
        let mut raw = RawFooter {
            cookie: COOKIE,
            features: U32::new(self.features),
            version: U32::new(VERSION),
            data_offset: U64::new(self.data_offset),
            timestamp: U32::new(self.timestamp),
            creator_application: self.creator_application,
            creator_version: U32::new(self.creator_version),
            creator_os: self.creator_os,
            original_size: U64::new(self.original_size),
            current_size: U64::new(self.current_size),
            cylinders: U16::new(self.geometry.cylinders),
            heads: self.geometry.heads,
            sectors_per_track: self.geometry.sectors_per_track,
            disk_type: U32::new(self.disk_type.code()),
            checksum: U32::ZERO,
            unique_id: self.unique_id,
            saved_state: self.saved_state.into(),
            hidden: self.hidden.into(),
            reserved: [0; 426],
        };
        raw.checksum = U32::new(checksum(raw.as_bytes(), CHECKSUM_FIELD));
        transmute!(raw)
    }

    /// Whether the disk is marked as temporary.
    pub fn is_temporary(&self) -> bool {
        self.features & TEMPORARY != 0
    }

    /// Whether it has feature bits that the specification does not know.
    pub fn has_unknown_features(&self) -> bool {
        self.features & !(TEMPORARY | RESERVED) != 0
    }
}

const CHECKSUM_FIELD: std::ops::Range<usize> = 64..68;

/// The checksum that `bytes` carry, and the one that they have.
fn checksums(bytes: &[u8; 512]) -> (u32, u32) {
    let raw: &RawFooter = zerocopy::transmute_ref!(bytes);
    (raw.checksum.get(), checksum(bytes, CHECKSUM_FIELD))
}

/// Whether the checksum in `bytes` is right.
pub fn has_right_checksum(bytes: &[u8; 512]) -> bool {
    let (found, expected) = checksums(bytes);
    found == expected
}

/// Whether `bytes`, damaged or not, say that they belong to a fixed disk.
pub fn looks_fixed(bytes: &[u8; 512]) -> bool {
    let raw: &RawFooter = zerocopy::transmute_ref!(bytes);
    raw.disk_type.get() == DiskType::Fixed.code()
}

/// Whether `bytes` have the one file format version that exists.
pub fn has_known_version(bytes: &[u8; 512]) -> bool {
    let raw: &RawFooter = zerocopy::transmute_ref!(bytes);
    raw.version.get() == VERSION
}

fn check_size(size: u64, offset: u64) -> Result<u64> {
    if size > MAX_DISK_SIZE {
        return Err(Error::limit("footer", "the disk is too large for a VHD")
            .at(offset)
            .found(size)
            .expected(format!("at most {MAX_DISK_SIZE} bytes")));
    }
    if !size.is_multiple_of(512) {
        return Err(
            Error::malformed("footer", "the current size is not in whole sectors")
                .at(offset)
                .found(size)
                .expected("a multiple of 512"),
        );
    }
    Ok(size)
}

fn check_type(code: u32, offset: u64) -> Result<DiskType> {
    match code {
        2 => Ok(DiskType::Fixed),
        3 => Ok(DiskType::Dynamic),
        4 => Ok(DiskType::Differencing),
        1 | 5 | 6 => Err(Error::unsupported("footer", "a retired type of disk")
            .at(offset)
            .found(code)
            .expected("2 (fixed), 3 (dynamic) or 4 (differencing)")),
        _ => Err(Error::malformed("footer", "unknown type of disk")
            .at(offset)
            .found(code)
            .expected("2 (fixed), 3 (dynamic) or 4 (differencing)")),
    }
}

/// Sets the bytes at `at` of a footer and makes its checksum right again: for tests of damaged images.
#[cfg(test)]
pub(super) fn patched(mut footer: [u8; 512], at: usize, bytes: &[u8]) -> [u8; 512] {
    footer[at..at + bytes.len()].copy_from_slice(bytes);
    let sum = checksum(&footer, CHECKSUM_FIELD);
    footer[CHECKSUM_FIELD].copy_from_slice(&sum.to_be_bytes());
    footer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn footer() -> Footer {
        Footer::new(DiskType::Dynamic, 10 << 20, [7; 16], EPOCH + 5)
    }

    fn kind(at: usize, bytes: &[u8]) -> ErrorKind {
        let bytes = patched(footer().to_bytes(), at, bytes);
        Footer::parse(&bytes, 0).unwrap_err().kind()
    }

    #[test]
    fn a_written_footer_is_read_back() {
        let bytes = footer().to_bytes();
        assert_eq!(Footer::parse(&bytes, 0).unwrap(), footer());
        assert_eq!(&bytes[..16], b"conectix\0\0\0\x02\0\x01\0\0");
        assert_eq!(&bytes[24..40], b"\0\0\0\x05win \0\x0a\0\0Wi2k");
        assert_eq!(&bytes[56..64], &[1, 45, 4, 17, 0, 0, 0, 3]);
        assert!(bytes[84..].iter().all(|b| *b == 0));
    }

    #[test]
    fn a_fixed_footer_has_no_data_offset() {
        let footer = Footer::new(DiskType::Fixed, 512, [7; 16], 0);
        assert_eq!(footer.data_offset, NO_OFFSET);
        assert_eq!(footer.timestamp, 0);
        assert!(looks_fixed(&footer.to_bytes()));
    }

    #[test]
    fn a_bad_checksum_is_told_with_both_values() {
        let mut bytes = footer().to_bytes();
        bytes[500] = 1;
        let error = Footer::parse(&bytes, 42).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed);
        assert_eq!(error.offset(), Some(42));
        assert!(error.found_value().is_some() && error.expected_value().is_some());
        assert_eq!(Footer::parse_unsummed(&bytes, 42).unwrap(), footer());
    }

    #[test]
    fn impossible_fields_are_refused() {
        assert_eq!(kind(0, b"conectiX"), ErrorKind::Malformed);
        assert_eq!(kind(12, &[0, 2]), ErrorKind::Unsupported);
        assert_eq!(kind(48, &513u64.to_be_bytes()), ErrorKind::Malformed);
        let too_large = (MAX_DISK_SIZE + 512).to_be_bytes();
        assert_eq!(kind(48, &too_large), ErrorKind::Limit);
        for (code, expected) in [
            (0u32, ErrorKind::Malformed),
            (1, ErrorKind::Unsupported),
            (5, ErrorKind::Unsupported),
            (6, ErrorKind::Unsupported),
            (7, ErrorKind::Malformed),
        ] {
            assert_eq!(kind(60, &code.to_be_bytes()), expected, "{code}");
        }
    }
}
