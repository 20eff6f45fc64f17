//! The dynamic header: 1024 bytes that say where the BAT stands, how large blocks are, and who the parent is.

use std::ops::Range;

use zerocopy::byteorder::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, transmute};

use super::checksum::checksum;
use super::footer::{FOOTER_LEN, NO_OFFSET, VERSION};
use super::locator::{ParentLocator, RawLocator};
use crate::error::{Error, Result};
use crate::storage::{Storage, read_array};

/// Length in bytes.
pub const HEADER_LEN: u64 = 1024;

/// Block sizes that are read, in bytes; powers of two only.
const BLOCK_SIZES: std::ops::RangeInclusive<u32> = 512..=256 << 20;

const COOKIE: [u8; 8] = *b"cxsparse";
const CHECKSUM_FIELD: Range<usize> = 36..40;

/// The dynamic header as it stands on disk.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    cookie: [u8; 8],
    data_offset: U64,
    table_offset: U64,
    version: U32,
    max_table_entries: U32,
    block_size: U32,
    checksum: U32,
    parent_id: [u8; 16],
    parent_timestamp: U32,
    reserved: U32,
    parent_name: [u8; 512],
    locators: [RawLocator; 8],
    reserved_2: [u8; 256],
}

/// A dynamic header whose own fields make sense. Whether its BAT fits the disk and the file is the BAT's to check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DynamicHeader {
    /// Byte offset of the BAT: a multiple of 512.
    pub table_offset: u64,
    /// Entries of the BAT.
    pub max_table_entries: u32,
    /// Guest bytes in a block: a power of two from 512 to 256 MiB.
    pub block_size: u32,
    /// Id of the parent; null for none, and for a parent that is a raw disk.
    pub parent_id: [u8; 16],
    /// When the parent was last written to, in seconds since 2000-01-01T00:00:00Z.
    pub parent_timestamp: u32,
    /// File name of the parent in UTF-16BE, padded with NUL.
    pub parent_name: [u8; 512],
    /// Where longer names of the parent stand.
    pub locators: [ParentLocator; 8],
}

impl DynamicHeader {
    /// The header of a new dynamic disk.
    pub fn new(table_offset: u64, max_table_entries: u32, block_size: u32) -> DynamicHeader {
        DynamicHeader {
            table_offset,
            max_table_entries,
            block_size,
            parent_id: [0; 16],
            parent_timestamp: 0,
            parent_name: [0; 512],
            locators: [ParentLocator::default(); 8],
        }
    }

    /// Reads the header at byte `offset`. With `salvage`, a wrong checksum is only a warning.
    ///
    /// # Errors
    /// `Malformed` for an offset that cannot be, and those of [`DynamicHeader::parse`].
    pub fn read(
        storage: &dyn Storage,
        offset: u64,
        salvage: bool,
        warnings: &mut Vec<String>,
    ) -> Result<DynamicHeader> {
        if offset < FOOTER_LEN || !offset.is_multiple_of(512) {
            return Err(Error::malformed(
                "footer",
                "the data offset is no place for a dynamic header",
            )
            .found(offset)
            .expected("a multiple of 512 behind the copy of the footer"));
        }
        let bytes: [u8; 1024] = read_array(storage, offset)?;
        match DynamicHeader::parse(&bytes, offset) {
            Err(_) if salvage && !has_right_checksum(&bytes) => {
                warnings.push(
                    "the checksum of the dynamic header does not match; it was used all the same"
                        .to_owned(),
                );
                DynamicHeader::parse_unsummed(&bytes, offset)
            }
            result => result,
        }
    }

    /// The header in `bytes`, which stand at byte `offset` of the file.
    ///
    /// # Errors
    /// `Malformed` when the checksum does not match or a field is out of range, `Unsupported` for another version.
    pub fn parse(bytes: &[u8; 1024], offset: u64) -> Result<DynamicHeader> {
        let (found, expected) = checksums(bytes);
        // Where there is no header at all, its checksum says nothing.
        if found != expected && bytes.starts_with(&COOKIE) {
            return Err(
                Error::malformed("dynamic header", "the checksum does not match")
                    .at(offset)
                    .found(format!("{found:#010x}"))
                    .expected(format!("{expected:#010x}"))
                    .hint("--salvage reads on if the rest makes sense"),
            );
        }
        DynamicHeader::parse_unsummed(bytes, offset)
    }

    /// As [`DynamicHeader::parse`], whatever the checksum says: for salvage.
    ///
    /// # Errors
    /// As [`DynamicHeader::parse`].
    pub fn parse_unsummed(bytes: &[u8; 1024], offset: u64) -> Result<DynamicHeader> {
        let raw: RawHeader = transmute!(*bytes);
        let malformed = |message| Error::malformed("dynamic header", message).at(offset);
        if raw.cookie != COOKIE {
            return Err(malformed("has another cookie")
                .found(format!("\"{}\"", raw.cookie.escape_ascii()))
                .expected("\"cxsparse\""));
        }
        let version = raw.version.get();
        if version >> 16 != VERSION >> 16 {
            return Err(Error::unsupported("dynamic header", "unknown version")
                .at(offset)
                .found(format!("{version:#010x}"))
                .expected(format!("{VERSION:#010x}")));
        }
        let block_size = raw.block_size.get();
        if !block_size.is_power_of_two() || !BLOCK_SIZES.contains(&block_size) {
            return Err(malformed("impossible block size")
                .found(block_size)
                .expected("a power of two from 512 to 268435456"));
        }
        let table_offset = raw.table_offset.get();
        if !table_offset.is_multiple_of(512) {
            return Err(malformed("the BAT does not start on a sector")
                .found(table_offset)
                .expected("a multiple of 512"));
        }
        Ok(DynamicHeader {
            table_offset,
            max_table_entries: raw.max_table_entries.get(),
            block_size,
            parent_id: raw.parent_id,
            parent_timestamp: raw.parent_timestamp.get(),
            parent_name: raw.parent_name,
            locators: raw.locators.map(ParentLocator::from),
        })
    }

    /// The header as it stands on disk, with its checksum.
    pub fn to_bytes(&self) -> [u8; 1024] {
        let mut raw = RawHeader {
            cookie: COOKIE,
            data_offset: U64::new(NO_OFFSET),
            table_offset: U64::new(self.table_offset),
            version: U32::new(VERSION),
            max_table_entries: U32::new(self.max_table_entries),
            block_size: U32::new(self.block_size),
            checksum: U32::ZERO,
            parent_id: self.parent_id,
            parent_timestamp: U32::new(self.parent_timestamp),
            reserved: U32::ZERO,
            parent_name: self.parent_name,
            locators: self.locators.map(RawLocator::from),
            reserved_2: [0; 256],
        };
        raw.checksum = U32::new(checksum(raw.as_bytes(), CHECKSUM_FIELD));
        transmute!(raw)
    }

    /// The first sector of the header in `bytes` with the BAT of this one. The second one, and what nobody here knows,
    /// stays.
    pub fn over(&self, bytes: &[u8; 1024]) -> [u8; 512] {
        let mut raw: RawHeader = transmute!(*bytes);
        raw.table_offset = U64::new(self.table_offset);
        raw.max_table_entries = U32::new(self.max_table_entries);
        raw.checksum = U32::new(checksum(raw.as_bytes(), CHECKSUM_FIELD));
        let halves: [[u8; 512]; 2] = transmute!(raw);
        halves[0]
    }

    /// Whether anything at all is said about a parent.
    pub fn mentions_parent(&self) -> bool {
        self.parent_id != [0; 16]
            || self.parent_name != [0; 512]
            || self.locators.iter().any(|l| *l != ParentLocator::default())
    }
}

/// The checksum that `bytes` carry, and the one that they have.
fn checksums(bytes: &[u8; 1024]) -> (u32, u32) {
    let raw: &RawHeader = zerocopy::transmute_ref!(bytes);
    (raw.checksum.get(), checksum(bytes, CHECKSUM_FIELD))
}

fn has_right_checksum(bytes: &[u8; 1024]) -> bool {
    let (found, expected) = checksums(bytes);
    found == expected
}

/// Sets the bytes at `at` of a header and makes its checksum right again: for tests of damaged images.
#[cfg(test)]
pub(super) fn patched(mut header: [u8; 1024], at: usize, bytes: &[u8]) -> [u8; 1024] {
    header[at..at + bytes.len()].copy_from_slice(bytes);
    let sum = checksum(&header, CHECKSUM_FIELD);
    header[CHECKSUM_FIELD].copy_from_slice(&sum.to_be_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn header() -> DynamicHeader {
        DynamicHeader::new(1536, 5, 2 << 20)
    }

    fn kind(at: usize, bytes: &[u8]) -> ErrorKind {
        let bytes = patched(header().to_bytes(), at, bytes);
        DynamicHeader::parse(&bytes, 512).unwrap_err().kind()
    }

    #[test]
    fn a_written_header_is_read_back() {
        let mut header = header();
        header.parent_id = [9; 16];
        header.parent_name[1] = b'x';
        header.locators[3] = ParentLocator {
            code: *b"W2ru",
            data_space: 512,
            data_length: 20,
            data_offset: 4096,
        };
        let bytes = header.to_bytes();
        assert_eq!(DynamicHeader::parse(&bytes, 512).unwrap(), header);
        assert!(header.mentions_parent());
        assert_eq!(&bytes[8..16], &[0xFF; 8]);
        assert_eq!(&bytes[576 + 72..576 + 76], b"W2ru");
    }

    #[test]
    fn impossible_fields_are_refused() {
        assert!(!header().mentions_parent());
        assert_eq!(kind(0, b"x"), ErrorKind::Malformed);
        assert_eq!(kind(24, &[0, 2]), ErrorKind::Unsupported);
        assert_eq!(kind(16, &1537u64.to_be_bytes()), ErrorKind::Malformed);
        for size in [0u32, 256, 513, 3 << 20, 512 << 20, u32::MAX] {
            assert_eq!(kind(32, &size.to_be_bytes()), ErrorKind::Malformed);
        }
    }

    #[test]
    fn a_bad_checksum_is_read_on_request_only() {
        let mut bytes = header().to_bytes();
        bytes[900] = 1;
        let error = DynamicHeader::parse(&bytes, 512).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed);
        assert!(error.found_value().is_some());
        let mut file = vec![0; 512];
        file.extend(bytes);
        let storage = crate::MemoryStorage::new(file);
        let mut warnings = Vec::new();
        assert!(DynamicHeader::read(&storage, 512, false, &mut warnings).is_err());
        assert!(warnings.is_empty());
        let read = DynamicHeader::read(&storage, 512, true, &mut warnings).unwrap();
        assert_eq!((read, warnings.len()), (header(), 1));
    }
}
