//! The metadata table: the first 64 KiB of the metadata region, which say where its items stand ([MS-VHDX] 2.6.1).

use std::collections::HashSet;

use uuid::Uuid;
use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::guid;
use crate::error::{Error, Result};

/// Length in bytes.
pub const TABLE_LEN: u32 = 64 << 10;

/// Entries that a table has room for.
const MAX_ENTRIES: u16 = 2047;

/// How many of them may be a user's.
const MAX_USER_ENTRIES: usize = 1024;

/// Longest item in bytes.
const MAX_ITEM: u32 = 1 << 20;

const SIGNATURE: [u8; 8] = *b"metadata";

/// Flag 0: written by a program for its own use.
const USER: u32 = 1;
/// Flag 1: says something about the disk, not about the file.
const VIRTUAL_DISK: u32 = 2;
/// Flag 2: nobody may read the file who does not know what it is.
const REQUIRED: u32 = 4;

/// The head of the table as it stands on disk.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawTable {
    signature: [u8; 8],
    reserved: U16,
    entry_count: U16,
    reserved_2: [u8; 20],
}

/// An entry as it stands on disk.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawEntry {
    item_id: [u8; 16],
    offset: U32,
    length: U32,
    flags: U32,
    reserved: U32,
}

/// An entry of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// What the item is.
    pub item_id: Uuid,
    /// Byte offset from the start of the region, behind the table; 0 for an empty item.
    pub offset: u32,
    /// Length in bytes.
    pub length: u32,
    /// Whether a program wrote it for its own use.
    pub is_user: bool,
    /// Whether it says something about the disk, not about the file.
    pub is_virtual_disk: bool,
    /// Whether nobody may read the file who does not know what it is.
    pub is_required: bool,
}

impl Entry {
    fn parse(raw: &RawEntry, region_len: u32) -> Result<Entry> {
        let flags = raw.flags.get();
        let entry = Entry {
            item_id: guid::from_bytes(raw.item_id),
            offset: raw.offset.get(),
            length: raw.length.get(),
            is_user: flags & USER != 0,
            is_virtual_disk: flags & VIRTUAL_DISK != 0,
            is_required: flags & REQUIRED != 0,
        };
        let end = entry.offset.checked_add(entry.length);
        let is_possible = match entry.length {
            0 => entry.offset == 0,
            length => {
                entry.offset >= TABLE_LEN
                    && length <= MAX_ITEM
                    && end.is_some_and(|end| end <= region_len)
            }
        };
        if is_possible {
            return Ok(entry);
        }
        Err(malformed("impossible place of an item")
            .found(format!(
                "{} bytes at byte {} for {}",
                entry.length, entry.offset, entry.item_id
            ))
            .expected(format!(
                "at most 1 MiB, between the table and the end of the region at byte {region_len}"
            )))
    }

    fn to_raw(self) -> RawEntry {
        let flags = [
            (self.is_user, USER),
            (self.is_virtual_disk, VIRTUAL_DISK),
            (self.is_required, REQUIRED),
        ];
        let set = flags.iter().filter(|(is_set, _)| *is_set);
        RawEntry {
            item_id: self.item_id.to_bytes_le(),
            offset: U32::new(self.offset),
            length: U32::new(self.length),
            flags: U32::new(set.map(|(_, flag)| flag).sum()),
            reserved: U32::ZERO,
        }
    }
}

/// A table whose items stand apart from each other inside the region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataTable {
    /// Its entries.
    pub entries: Vec<Entry>,
}

impl MetadataTable {
    /// The table in `bytes`, the first [`TABLE_LEN`] of a region of `region_len` bytes.
    ///
    /// # Errors
    /// `Malformed` when an entry cannot be, is there twice, or stands on another's item.
    pub fn parse(bytes: &[u8], region_len: u32) -> Result<MetadataTable> {
        let Ok((table, entries)) = RawTable::ref_from_prefix(bytes) else {
            return Err(malformed("is too short").found(format!("{} bytes", bytes.len())));
        };
        if table.signature != SIGNATURE {
            return Err(malformed("has another signature")
                .found(format!("\"{}\"", table.signature.escape_ascii()))
                .expected("\"metadata\""));
        }
        let count = table.entry_count.get();
        if count > MAX_ENTRIES {
            return Err(malformed("too many entries")
                .found(count)
                .expected(format!("at most {MAX_ENTRIES}")));
        }
        let Ok((entries, _)) = <[RawEntry]>::ref_from_prefix_with_elems(entries, count.into())
        else {
            return Err(malformed("has no room for its entries").found(count));
        };
        let entries = entries
            .iter()
            .map(|raw| Entry::parse(raw, region_len))
            .collect::<Result<Vec<_>>>()?;
        let table = MetadataTable { entries };
        table.check()?;
        Ok(table)
    }

    fn check(&self) -> Result<()> {
        let users = self.entries.iter().filter(|entry| entry.is_user).count();
        if users > MAX_USER_ENTRIES {
            return Err(malformed("too many entries of users")
                .found(users)
                .expected(format!("at most {MAX_USER_ENTRIES}")));
        }
        let mut known = HashSet::new();
        for entry in &self.entries {
            if !known.insert((entry.item_id, entry.is_user)) {
                return Err(malformed("an item is there twice").found(entry.item_id));
            }
        }
        let mut items: Vec<_> = self.entries.iter().filter(|e| e.length > 0).collect();
        items.sort_by_key(|entry| entry.offset);
        for pair in items.windows(2) {
            let [one, next] = pair else { continue };
            if one.offset.saturating_add(one.length) > next.offset {
                return Err(malformed("two items overlap")
                    .found(format!("{} and {}", one.item_id, next.item_id)));
            }
        }
        Ok(())
    }

    /// The table as it stands on disk, without the zeros at its end.
    pub fn to_bytes(&self) -> Vec<u8> {
        let table = RawTable {
            signature: SIGNATURE,
            reserved: U16::ZERO,
            entry_count: U16::new(self.entries.len() as u16),
            reserved_2: [0; 20],
        };
        let mut bytes = table.as_bytes().to_vec();
        for entry in &self.entries {
            bytes.extend(entry.to_raw().as_bytes());
        }
        bytes
    }
}

fn malformed(message: &'static str) -> Error {
    Error::malformed("metadata table", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    const REGION: u32 = 1 << 20;

    fn entry(id: u128, offset: u32, length: u32) -> Entry {
        Entry {
            item_id: Uuid::from_u128(id),
            offset,
            length,
            is_user: false,
            is_virtual_disk: true,
            is_required: true,
        }
    }

    fn parse(entries: &[Entry]) -> Result<MetadataTable> {
        let table = MetadataTable {
            entries: entries.to_vec(),
        };
        let mut bytes = table.to_bytes();
        bytes.resize(bytes.len().max(TABLE_LEN as usize), 0);
        MetadataTable::parse(&bytes, REGION)
    }

    #[test]
    fn a_table_survives_being_written() {
        let user = Entry {
            is_user: true,
            is_required: false,
            ..entry(1, 65544, 4)
        };
        let entries = [entry(1, 65536, 8), user, entry(2, 0, 0)];
        assert_eq!(parse(&entries).unwrap().entries, entries);
    }

    #[test]
    fn items_outside_of_the_region_or_on_each_other_are_malformed() {
        let first = entry(1, 65536, 8);
        for second in [
            entry(2, 65535, 1),
            entry(2, 0, 8),
            entry(2, 65536, 0),
            entry(2, REGION - 4, 5),
            entry(2, u32::MAX, 2),
            entry(2, 65536, MAX_ITEM + 1),
            entry(2, 65543, 4),
            entry(1, 70000, 8),
        ] {
            let error = parse(&[first, second]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Malformed, "{second:?}");
        }
        parse(&[first, entry(2, 65544, 4), entry(3, REGION - 4, 4)]).unwrap();
    }

    #[test]
    fn too_many_entries_are_malformed() {
        let empty = |count: u128| (0..count).map(|id| entry(id, 0, 0)).collect::<Vec<_>>();
        assert!(parse(&empty(2047)).is_ok());
        assert!(parse(&empty(2048)).is_err());
        let mut users = empty(1025);
        users.iter_mut().for_each(|entry| entry.is_user = true);
        assert!(parse(&users[1..]).is_ok());
        assert!(parse(&users).is_err());
        assert!(MetadataTable::parse(b"metadata", REGION).is_err());
        assert!(MetadataTable::parse(&[0; 64], REGION).is_err());
    }
}
