//! The region table: where BAT and metadata stand; there are two copies ([MS-VHDX] 2.2.3).

use uuid::Uuid;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::checksum::{checksum, seal, stored};
use super::guid::{self, BAT_REGION, METADATA_REGION};
use super::header::{HEADER_AREA, MIB};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::Storage;

/// Length of a copy in bytes.
pub const TABLE_LEN: usize = 64 << 10;

/// Byte offsets of the two copies.
pub const TABLES_AT: [u64; 2] = [192 << 10, 256 << 10];

/// Entries that a table has room for.
const MAX_ENTRIES: u32 = 2047;

const SIGNATURE: [u8; 4] = *b"regi";

/// The head of the table as it stands on disk.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawTable {
    signature: [u8; 4],
    checksum: U32,
    entry_count: U32,
    reserved: U32,
}

/// An entry as it stands on disk.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawRegion {
    guid: [u8; 16],
    file_offset: U64,
    length: U32,
    required: U32,
}

/// An entry of the table: a multiple of 1 MiB in place and length, not in the first MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// What it holds.
    pub guid: Uuid,
    /// Byte offset.
    pub offset: u64,
    /// Length in bytes.
    pub length: u32,
    /// Whether nobody may read the file who does not know what it is.
    pub is_required: bool,
}

impl Region {
    /// What it is called.
    pub fn name(&self) -> &'static str {
        match self.guid {
            BAT_REGION => "BAT",
            METADATA_REGION => "metadata region",
            _ => "unknown region",
        }
    }
}

/// A region table with a BAT and metadata. Whether the regions are inside the file, and apart from the log, is for who
/// reads them to check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionTable {
    /// The region with the BAT.
    pub bat: Region,
    /// The region with the metadata.
    pub metadata: Region,
    /// All regions, those two included.
    pub all: Vec<Region>,
}

impl RegionTable {
    /// The table of a new file.
    pub fn new(bat_offset: u64, bat_length: u32, metadata_offset: u64) -> RegionTable {
        let region = |guid, offset, length| Region {
            guid,
            offset,
            length,
            is_required: true,
        };
        let bat = region(BAT_REGION, bat_offset, bat_length);
        let metadata = region(METADATA_REGION, metadata_offset, MIB as u32);
        RegionTable {
            bat,
            metadata,
            all: vec![bat, metadata],
        }
    }

    /// The table in `bytes`, [`TABLE_LEN`] of them, which stand at byte `offset` of the file.
    ///
    /// # Errors
    /// `Malformed` when the checksum does not match, an entry cannot be, regions overlap or one of the two that every
    /// file has is missing; `Unsupported` for a region that is required but not known.
    pub fn parse(bytes: &[u8], offset: u64) -> Result<RegionTable> {
        let malformed =
            |message: &'static str| Error::malformed("region table", message).at(offset);
        let Ok((table, entries)) = RawTable::ref_from_prefix(bytes) else {
            return Err(malformed("is too short").found(format!("{} bytes", bytes.len())));
        };
        if table.signature != SIGNATURE {
            return Err(malformed("has another signature")
                .found(format!("\"{}\"", table.signature.escape_ascii()))
                .expected("\"regi\""));
        }
        let (found, expected) = (stored(bytes), checksum(bytes));
        if found != expected {
            return Err(malformed("the checksum does not match")
                .found(format!("{found:#010x}"))
                .expected(format!("{expected:#010x}")));
        }
        let count = table.entry_count.get();
        if count > MAX_ENTRIES {
            return Err(malformed("too many entries")
                .found(count)
                .expected(format!("at most {MAX_ENTRIES}")));
        }
        let Ok((entries, _)) = <[RawRegion]>::ref_from_prefix_with_elems(entries, count as usize)
        else {
            return Err(malformed("has no room for its entries").found(count));
        };
        let mut all = entries
            .iter()
            .map(|raw| parse_region(raw, offset))
            .collect::<Result<Vec<_>>>()?;
        check_disjoint(&mut all, offset)?;
        let find = |guid, name: &'static str| {
            let mut found = all.iter().copied().filter(|region| region.guid == guid);
            match (found.next(), found.next()) {
                (Some(region), None) => Ok(region),
                (None, _) => Err(malformed("a region is missing").expected(name)),
                (Some(_), Some(_)) => Err(malformed("a region is there twice").found(name)),
            }
        };
        let (bat, metadata) = (
            find(BAT_REGION, "a BAT")?,
            find(METADATA_REGION, "a metadata region")?,
        );
        let known = [BAT_REGION, METADATA_REGION];
        if let Some(unknown) = all
            .iter()
            .find(|region| region.is_required && !known.contains(&region.guid))
        {
            return Err(Error::unsupported(
                "region table",
                "the file has a region that nobody may ignore, and that is not known",
            )
            .at(offset)
            .found(unknown.guid));
        }
        Ok(RegionTable { bat, metadata, all })
    }

    /// Gives the BAT another region.
    pub fn replace_bat(&mut self, bat: Region) {
        for region in self.all.iter_mut().filter(|r| r.guid == BAT_REGION) {
            *region = bat;
        }
        self.all.sort_by_key(|region| region.offset);
        self.bat = bat;
    }

    /// The table as it stands on disk, without the zeros at its end.
    pub fn to_bytes(&self) -> Vec<u8> {
        let table = RawTable {
            signature: SIGNATURE,
            checksum: U32::ZERO,
            entry_count: U32::new(self.all.len() as u32),
            reserved: U32::ZERO,
        };
        let mut bytes = table.as_bytes().to_vec();
        for region in &self.all {
            let raw = RawRegion {
                guid: region.guid.to_bytes_le(),
                file_offset: U64::new(region.offset),
                length: U32::new(region.length),
                required: U32::new(region.is_required.into()),
            };
            bytes.extend(raw.as_bytes());
        }
        bytes.resize(TABLE_LEN, 0);
        seal(&mut bytes);
        bytes
    }

    /// Copy number `index` (0 or 1).
    ///
    /// # Errors
    /// As [`RegionTable::parse`], and those of the storage.
    pub fn read_copy(storage: &dyn Storage, index: usize) -> Result<RegionTable> {
        let offset = TABLES_AT.get(index).copied().unwrap_or_default();
        let mut bytes = vec![0; TABLE_LEN];
        storage.read_at(&mut bytes, offset)?;
        RegionTable::parse(&bytes, offset)
    }

    /// The first copy, or the second when the first is damaged; a warning tells of that.
    ///
    /// # Errors
    /// As [`RegionTable::parse`] of the first copy.
    pub fn read(storage: &dyn Storage, warnings: &mut Vec<String>) -> Result<RegionTable> {
        let error = match RegionTable::read_copy(storage, 0) {
            Err(error) if error.kind() == ErrorKind::Malformed => error,
            result => return result,
        };
        match RegionTable::read_copy(storage, 1) {
            Ok(table) => {
                warnings.push(format!("{error}; the second region table was used"));
                Ok(table)
            }
            Err(_) => Err(error),
        }
    }
}

fn parse_region(raw: &RawRegion, table_offset: u64) -> Result<Region> {
    let region = Region {
        guid: guid::from_bytes(raw.guid),
        offset: raw.file_offset.get(),
        length: raw.length.get(),
        // The other bits are reserved.
        is_required: raw.required.get() & 1 != 0,
    };
    let is_possible = region.offset >= HEADER_AREA
        && region.offset.is_multiple_of(MIB)
        && region.length > 0
        && u64::from(region.length).is_multiple_of(MIB)
        && region.offset.checked_add(region.length.into()).is_some();
    if !is_possible {
        return Err(
            Error::malformed("region table", "impossible place of a region")
                .at(table_offset)
                .found(format!(
                    "{} bytes at byte {} for {}",
                    region.length, region.offset, region.guid
                ))
                .expected("multiples of 1 MiB behind the headers"),
        );
    }
    Ok(region)
}

/// Fails when two regions overlap; they are put in the order of the file.
fn check_disjoint(regions: &mut [Region], table_offset: u64) -> Result<()> {
    regions.sort_by_key(|region| region.offset);
    for pair in regions.windows(2) {
        let [one, next] = pair else { continue };
        if one.offset.saturating_add(one.length.into()) > next.offset {
            return Err(Error::malformed("region table", "two regions overlap")
                .at(table_offset)
                .found(format!(
                    "{} and {} at byte {}",
                    one.name(),
                    next.name(),
                    next.offset
                )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    fn table() -> RegionTable {
        RegionTable::new(3 << 20, 1 << 20, 2 << 20)
    }

    fn kind(change: impl Fn(&mut RegionTable)) -> ErrorKind {
        let mut table = table();
        change(&mut table);
        RegionTable::parse(&table.to_bytes(), 0).unwrap_err().kind()
    }

    #[test]
    fn a_table_survives_being_written() {
        let read = RegionTable::parse(&table().to_bytes(), 0).unwrap();
        assert_eq!((read.bat, read.metadata), (table().bat, table().metadata));
    }

    #[test]
    fn impossible_regions_are_malformed() {
        for (offset, length) in [
            (0, 1 << 20),
            (1 << 20, 0),
            (1 << 20, 4096),
            (1_500_000, 1 << 20),
            (u64::MAX << 20, 1 << 20),
            // Into the metadata, and over all of it.
            (2 << 20, 1 << 20),
            (1 << 20, 8 << 20),
        ] {
            let kind = kind(|table| {
                table.all[0].offset = offset;
                table.all[0].length = length;
            });
            assert_eq!(kind, ErrorKind::Malformed, "{offset} {length}");
        }
    }

    #[test]
    fn both_regions_are_there_once() {
        assert_eq!(kind(|table| table.all.truncate(1)), ErrorKind::Malformed);
        let again = |table: &mut RegionTable| {
            let mut second = table.bat;
            second.offset = 9 << 20;
            table.all.push(second);
        };
        assert_eq!(kind(again), ErrorKind::Malformed);
    }

    #[test]
    fn unknown_regions_are_unsupported_if_they_are_required() {
        let unknown = |is_required| {
            move |table: &mut RegionTable| {
                table.all.push(Region {
                    guid: Uuid::from_u128(5),
                    offset: 7 << 20,
                    length: 1 << 20,
                    is_required,
                });
            }
        };
        assert_eq!(kind(unknown(true)), ErrorKind::Unsupported);
        let mut table = table();
        unknown(false)(&mut table);
        assert_eq!(
            RegionTable::parse(&table.to_bytes(), 0).unwrap().all.len(),
            3
        );
    }

    #[test]
    fn counts_and_checksums_are_checked() {
        let parse = |bytes: &[u8]| RegionTable::parse(bytes, 0).unwrap_err().kind();
        let mut bytes = table().to_bytes();
        bytes[65535] = 1;
        assert_eq!(parse(&bytes), ErrorKind::Malformed);
        for count in [2048u32, u32::MAX] {
            bytes[8..12].copy_from_slice(&count.to_le_bytes());
            seal(&mut bytes);
            assert_eq!(parse(&bytes), ErrorKind::Malformed);
        }
        assert_eq!(parse(&[0; 65536]), ErrorKind::Malformed);
        assert_eq!(parse(&[]), ErrorKind::Malformed);
    }

    #[test]
    fn the_second_copy_stands_in_for_a_damaged_first() {
        let mut file = vec![0; 320 << 10];
        file[256 << 10..].copy_from_slice(&table().to_bytes());
        let mut warnings = Vec::new();
        RegionTable::read(&MemoryStorage::new(file.clone()), &mut warnings).unwrap();
        assert_eq!(warnings.len(), 1);
        file[(256 << 10) + 9] ^= 1;
        let error = RegionTable::read(&MemoryStorage::new(file), &mut warnings).unwrap_err();
        assert_eq!(
            (error.kind(), error.offset()),
            (ErrorKind::Malformed, Some(192 << 10))
        );
    }
}
