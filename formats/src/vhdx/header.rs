//! The header: 4096 bytes that say where the log is and in what state; there are two copies ([MS-VHDX] 2.2.2).

use uuid::Uuid;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, transmute};

use super::checksum::{checksum, seal, stored};
use super::guid;
use crate::error::{Error, Result};
use crate::storage::{Storage, read_array};

/// Length in bytes; each copy has 64 KiB of room.
pub const HEADER_LEN: usize = 4096;

/// Byte offsets of the two copies.
pub const HEADERS_AT: [u64; 2] = [64 << 10, 128 << 10];

/// Bytes at the start of the file that hold nothing but identifier, headers and region tables.
pub const HEADER_AREA: u64 = 1 << 20;

/// Boundary in bytes on which log, regions and blocks stand, and unit of the lengths of the first two.
pub const MIB: u64 = 1 << 20;

const SIGNATURE: [u8; 4] = *b"head";

/// The one version of the format.
const VERSION: u16 = 1;

/// The header as it stands on disk.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    signature: [u8; 4],
    checksum: U32,
    sequence_number: U64,
    file_write_guid: [u8; 16],
    data_write_guid: [u8; 16],
    log_guid: [u8; 16],
    log_version: U16,
    version: U16,
    log_length: U32,
    log_offset: U64,
    reserved: [u8; HEADER_LEN - 80],
}

/// A header whose fields make sense. Whether the log is inside the file is its reader's to check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The copy with the higher one counts.
    pub sequence_number: u64,
    /// Changes before the file is changed in any way.
    pub file_write_guid: Uuid,
    /// Changes before anything that the guest sees is changed: what children refer to.
    pub data_write_guid: Uuid,
    /// Which entries of the log count; null: none, the log is empty.
    pub log_guid: Uuid,
    /// Length of the log in bytes, a multiple of 1 MiB.
    pub log_length: u32,
    /// Byte offset of the log, a multiple of 1 MiB, not in the first.
    pub log_offset: u64,
}

impl Header {
    /// The header in `bytes`, which stand at byte `offset` of the file.
    ///
    /// # Errors
    /// `Malformed` when the checksum does not match or a field is out of range, `Unsupported` for another version.
    pub fn parse(bytes: &[u8; HEADER_LEN], offset: u64) -> Result<Header> {
        let raw: RawHeader = transmute!(*bytes);
        let malformed = |message: &'static str| Error::malformed("header", message).at(offset);
        if raw.signature != SIGNATURE {
            return Err(malformed("has another signature")
                .found(format!("\"{}\"", raw.signature.escape_ascii()))
                .expected("\"head\""));
        }
        let (found, expected) = (stored(bytes), checksum(bytes));
        if found != expected {
            return Err(malformed("the checksum does not match")
                .found(format!("{found:#010x}"))
                .expected(format!("{expected:#010x}")));
        }
        let unsupported = |message: &'static str, found: U16, expected: u16| {
            let error = Error::unsupported("header", message).at(offset);
            Err(error.found(found.get()).expected(expected))
        };
        if raw.version.get() != VERSION {
            return unsupported("unknown version of the format", raw.version, VERSION);
        }
        let log_guid = guid::from_bytes(raw.log_guid);
        // Nobody reads a log that is empty, whatever its version.
        if raw.log_version.get() != 0 && !log_guid.is_nil() {
            return unsupported("unknown version of the log", raw.log_version, 0);
        }
        let (log_offset, log_length) = (raw.log_offset.get(), raw.log_length.get());
        if !u64::from(log_length).is_multiple_of(MIB) || log_length == 0 && !log_guid.is_nil() {
            return Err(malformed("impossible length of the log")
                .found(log_length)
                .expected("a multiple of 1 MiB"));
        }
        if log_length > 0 && (log_offset < HEADER_AREA || !log_offset.is_multiple_of(MIB)) {
            return Err(malformed("impossible place of the log")
                .found(format!("byte {log_offset}"))
                .expected("a multiple of 1 MiB behind the headers"));
        }
        Ok(Header {
            sequence_number: raw.sequence_number.get(),
            file_write_guid: guid::from_bytes(raw.file_write_guid),
            data_write_guid: guid::from_bytes(raw.data_write_guid),
            log_guid,
            log_length,
            log_offset,
        })
    }

    /// Copy number `index` (0 or 1).
    ///
    /// # Errors
    /// As [`Header::parse`], and those of the storage.
    pub fn read_copy(storage: &dyn Storage, index: usize) -> Result<Header> {
        let at = HEADERS_AT.get(index).copied().unwrap_or_default();
        Header::parse(&read_array(storage, at)?, at)
    }

    /// The header as it stands on disk.
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let raw = RawHeader {
            signature: SIGNATURE,
            checksum: U32::ZERO,
            sequence_number: U64::new(self.sequence_number),
            file_write_guid: self.file_write_guid.to_bytes_le(),
            data_write_guid: self.data_write_guid.to_bytes_le(),
            log_guid: self.log_guid.to_bytes_le(),
            log_version: U16::ZERO,
            version: U16::new(VERSION),
            log_length: U32::new(self.log_length),
            log_offset: U64::new(self.log_offset),
            reserved: [0; HEADER_LEN - 80],
        };
        let mut bytes: [u8; HEADER_LEN] = transmute!(raw);
        seal(&mut bytes);
        bytes
    }
}

/// Both copies of the header, and which of them counts.
pub struct Headers {
    /// The one that counts.
    pub current: Header,
    /// Its number, 1 or 2, and why it was taken.
    pub choice: String,
    /// What is wrong with the other one, if anything.
    pub damage: Option<Error>,
    /// Whether both have the same number and content, which no specification allows and disk2vhd writes.
    pub are_equal: bool,
}

impl Headers {
    /// Reads both copies and chooses.
    ///
    /// # Errors
    /// `Malformed` when neither is whole, or when both are, differ, and have the same sequence number; `Truncated` when
    /// the file ends before.
    pub fn read(storage: &dyn Storage) -> Result<Headers> {
        let [first_at, second_at] = HEADERS_AT;
        let first: [u8; HEADER_LEN] = read_array(storage, first_at)?;
        let second: [u8; HEADER_LEN] = read_array(storage, second_at)?;
        let chosen = |current, choice: &str, damage| {
            Ok(Headers {
                current,
                choice: choice.to_owned(),
                damage,
                are_equal: false,
            })
        };
        match (
            Header::parse(&first, first_at),
            Header::parse(&second, second_at),
        ) {
            (Err(error), Err(other)) => Err(error.hint(format!("nor can the other copy be used: {other}"))),
            (Ok(one), Err(damage)) => chosen(one, "1 (the other is damaged)", Some(damage)),
            (Err(damage), Ok(two)) => chosen(two, "2 (the other is damaged)", Some(damage)),
            (Ok(one), Ok(two)) if one.sequence_number > two.sequence_number => {
                chosen(one, "1 (the higher sequence number)", None)
            }
            (Ok(one), Ok(two)) if one.sequence_number < two.sequence_number => {
                chosen(two, "2 (the higher sequence number)", None)
            }
            (Ok(one), Ok(_)) if first == second => Ok(Headers {
                current: one,
                choice: "1 (both are the same)".to_owned(),
                damage: None,
                are_equal: true,
            }),
            (Ok(one), Ok(_)) => Err(Error::malformed(
                "header",
                "both copies have the same sequence number, but differ: none of them is the current one",
            )
            .at(second_at)
            .found(one.sequence_number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::storage::MemoryStorage;

    fn header(sequence_number: u64) -> Header {
        Header {
            sequence_number,
            file_write_guid: Uuid::from_u128(1),
            data_write_guid: Uuid::from_u128(2),
            log_guid: Uuid::from_u128(3),
            log_length: 1 << 20,
            log_offset: 1 << 20,
        }
    }

    fn patched(at: usize, patch: &[u8]) -> [u8; HEADER_LEN] {
        let mut bytes = header(7).to_bytes();
        bytes[at..at + patch.len()].copy_from_slice(patch);
        seal(&mut bytes);
        bytes
    }

    fn chosen(first: &[u8], second: &[u8]) -> Result<Headers> {
        let mut file = vec![0; 192 << 10];
        file[64 << 10..][..first.len()].copy_from_slice(first);
        file[128 << 10..][..second.len()].copy_from_slice(second);
        Headers::read(&MemoryStorage::new(file))
    }

    #[test]
    fn a_header_survives_being_written() {
        let bytes = header(7).to_bytes();
        assert_eq!(Header::parse(&bytes, 0).unwrap(), header(7));
        assert_eq!(bytes[8], 7);
        assert_eq!(bytes[66], 1);
    }

    #[test]
    fn impossible_fields_are_malformed() {
        let mut flipped = header(7).to_bytes();
        flipped[4000] = 1;
        let error = Header::parse(&flipped, 65536).unwrap_err();
        assert_eq!(
            (error.kind(), error.offset()),
            (ErrorKind::Malformed, Some(65536))
        );
        for (at, patch) in [
            (0, &b"daeh"[..]),
            // Lengths and offsets of the log.
            (68, &[0, 0, 8, 0]),
            (68, &[0, 0, 0, 0]),
            (72, &[0, 0, 0]),
            (72, &[0, 0, 0x18]),
        ] {
            let error = Header::parse(&patched(at, patch), 0).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Malformed, "{at} {patch:?}");
        }
    }

    #[test]
    fn other_versions_are_unsupported() {
        for (at, version) in [(66, [2, 0]), (66, [0, 0]), (64, [1, 0])] {
            let error = Header::parse(&patched(at, &version), 0).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
        }
        let mut without_log = patched(48, &[0; 16]);
        without_log[64] = 1;
        seal(&mut without_log);
        Header::parse(&without_log, 0).unwrap();
    }

    #[test]
    fn the_higher_sequence_number_counts() {
        let low = header(u64::MAX - 1).to_bytes();
        let high = header(u64::MAX).to_bytes();
        for (first, second) in [(&low, &high), (&high, &low)] {
            let headers = chosen(first, second).unwrap();
            assert_eq!(headers.current.sequence_number, u64::MAX);
            assert!(headers.damage.is_none() && !headers.are_equal);
        }
    }

    #[test]
    fn a_damaged_copy_leaves_the_other() {
        let good = header(1).to_bytes();
        assert!(chosen(&good, &[0; 4096]).unwrap().damage.is_some());
        let headers = chosen(&[0; 4096], &good).unwrap();
        assert_eq!(headers.choice, "2 (the other is damaged)");
        let error = chosen(&[0; 4096], &[1; 4096]).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Malformed);
    }

    #[test]
    fn equal_sequence_numbers_are_taken_only_of_equal_headers() {
        let one = header(5).to_bytes();
        assert!(chosen(&one, &one).unwrap().are_equal);
        let mut other = header(5);
        other.data_write_guid = Uuid::from_u128(9);
        let error = chosen(&one, &other.to_bytes()).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Malformed);
    }

    #[test]
    fn a_file_without_room_for_headers_is_truncated() {
        let error = Headers::read(&MemoryStorage::new(vec![0; 100_000]));
        assert_eq!(error.err().unwrap().kind(), ErrorKind::Truncated);
    }
}
