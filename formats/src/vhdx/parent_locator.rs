//! The parent locator: the id of the parent and names of its file, as keys and values ([MS-VHDX] 2.6.2.6).

use std::collections::BTreeMap;

use uuid::Uuid;
use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::guid::{self, VHDX_LOCATOR_TYPE};
use crate::error::{Error, Result};
use crate::reference;
use crate::utf16;

/// The DataWriteGuid of the parent.
const PARENT_LINKAGE: &str = "parent_linkage";
/// Another one, which the parent may have as well.
const PARENT_LINKAGE_2: &str = "parent_linkage2";
/// Where the parent is, from the child's folder on.
const RELATIVE_PATH: &str = "relative_path";
/// Keys of paths, in the order in which they are to be tried.
const PATHS: [&str; 3] = [RELATIVE_PATH, "volume_path", "absolute_win32_path"];

/// The head of the locator as it stands on disk.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawLocator {
    locator_type: [u8; 16],
    reserved: U16,
    key_value_count: U16,
}

/// An entry as it stands on disk.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawEntry {
    key_offset: U32,
    value_offset: U32,
    key_length: U16,
    value_length: U16,
}

/// A locator that says who the parent is and names at least one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentLocator {
    /// The DataWriteGuid that the parent must have.
    pub parent_linkage: Uuid,
    /// The one that it may have instead.
    pub parent_linkage_2: Option<Uuid>,
    /// All keys with their values.
    pub values: BTreeMap<String, String>,
}

impl ParentLocator {
    /// The locator of a new child of the image with the DataWriteGuid `parent_linkage`, at `relative_path` (with `\`
    /// between folders).
    pub fn new(parent_linkage: Uuid, relative_path: &str) -> ParentLocator {
        let linkage = parent_linkage.braced().to_string();
        let values = [
            (PARENT_LINKAGE.to_owned(), linkage),
            (RELATIVE_PATH.to_owned(), relative_path.to_owned()),
        ];
        ParentLocator {
            parent_linkage,
            parent_linkage_2: None,
            values: values.into(),
        }
    }

    /// The locator in `bytes`, all of its item.
    ///
    /// # Errors
    /// `Unsupported` for a parent that is no VHDX, `Malformed` when an entry cannot be, a key is there twice, the
    /// linkage is missing or there is no path.
    pub fn parse(bytes: &[u8]) -> Result<ParentLocator> {
        let Ok((head, entries)) = RawLocator::ref_from_prefix(bytes) else {
            return Err(malformed("is too short").found(format!("{} bytes", bytes.len())));
        };
        let locator_type = guid::from_bytes(head.locator_type);
        if locator_type != VHDX_LOCATOR_TYPE {
            return Err(
                Error::unsupported("parent locator", "is of a type that is not known")
                    .found(locator_type)
                    .expected(VHDX_LOCATOR_TYPE),
            );
        }
        let count = head.key_value_count.get();
        let Ok((entries, _)) = <[RawEntry]>::ref_from_prefix_with_elems(entries, count.into())
        else {
            return Err(malformed("has no room for its entries").found(count));
        };
        let mut values = BTreeMap::new();
        for entry in entries {
            let key = text(bytes, entry.key_offset, entry.key_length)?;
            let value = text(bytes, entry.value_offset, entry.value_length)?;
            if values.insert(key.clone(), value).is_some() {
                return Err(malformed("a key is there twice").found(format!("{key:?}")));
            }
        }
        let locator = ParentLocator {
            parent_linkage: linkage(&values, PARENT_LINKAGE)?.ok_or_else(|| {
                malformed("does not say who the parent is").expected(PARENT_LINKAGE)
            })?,
            parent_linkage_2: linkage(&values, PARENT_LINKAGE_2)?,
            values,
        };
        if locator.paths().next().is_none() {
            return Err(malformed("names no path").expected(PATHS.join(", ")));
        }
        Ok(locator)
    }

    /// The paths it names, as they are written, best first.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        PATHS
            .iter()
            .filter_map(|key| self.values.get(*key))
            .map(String::as_str)
    }

    /// Names to try for the parent, best first, with `/` between folders.
    pub fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for path in self.paths() {
            for name in reference::candidates(&utf16::windows_path(path.to_owned())) {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        names
    }

    /// The locator as it stands on disk.
    pub fn to_bytes(&self) -> Vec<u8> {
        let head = RawLocator {
            locator_type: VHDX_LOCATOR_TYPE.to_bytes_le(),
            reserved: U16::ZERO,
            key_value_count: U16::new(self.values.len() as u16),
        };
        let entry_len = size_of::<RawEntry>();
        let start = size_of::<RawLocator>() + self.values.len() * entry_len;
        let mut entries = Vec::new();
        let mut texts = Vec::new();
        for (key, value) in &self.values {
            let (key, value) = (utf16::encode_le(key), utf16::encode_le(value));
            let key_offset = start + texts.len();
            let entry = RawEntry {
                key_offset: U32::new(key_offset as u32),
                value_offset: U32::new((key_offset + key.len()) as u32),
                key_length: U16::new(key.len() as u16),
                value_length: U16::new(value.len() as u16),
            };
            entries.extend(entry.as_bytes());
            texts.extend(key);
            texts.extend(value);
        }
        [head.as_bytes(), &entries, &texts].concat()
    }
}

/// A key or value: UTF-16LE of `length` bytes at `offset` of the locator.
fn text(bytes: &[u8], offset: U32, length: U16) -> Result<String> {
    let (start, len) = (offset.get() as usize, usize::from(length.get()));
    let part = start.checked_add(len).and_then(|end| bytes.get(start..end));
    let text = part.filter(|_| start > 0).and_then(|part| {
        let (_, odd) = part.as_chunks::<2>();
        // Nothing stops at a NUL here: a name with one in it leads nowhere.
        match odd {
            [] => utf16::decode(part, u16::from_le_bytes),
            _ => None,
        }
    });
    text.ok_or_else(|| {
        malformed("a key or value is no text inside of it").found(format!("{len} bytes at {start}"))
    })
}

fn linkage(values: &BTreeMap<String, String>, key: &str) -> Result<Option<Uuid>> {
    let Some(value) = values.get(key) else {
        return Ok(None);
    };
    let id = Uuid::try_parse(value.trim_end_matches('\0'));
    id.map(Some)
        .map_err(|_| malformed("a linkage is no GUID").found(format!("{value:?}")))
}

fn malformed(message: &'static str) -> Error {
    Error::malformed("parent locator", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    const LINKAGE: &str = "{83ed88a1-52bc-4a3c-9f3d-5bb6bfcb3b34}";

    fn parse(values: &[(&str, &str)]) -> Result<ParentLocator> {
        let values = values.iter().map(|(k, v)| ((*k).into(), (*v).into()));
        let locator = ParentLocator {
            values: values.collect(),
            ..ParentLocator::new(Uuid::nil(), "")
        };
        ParentLocator::parse(&locator.to_bytes())
    }

    fn kind(values: &[(&str, &str)]) -> ErrorKind {
        parse(values).unwrap_err().kind()
    }

    #[test]
    fn a_locator_survives_being_written() {
        let id = Uuid::try_parse(LINKAGE).unwrap();
        let locator = ParentLocator::new(id, ".\\båse.vhdx");
        assert_eq!(ParentLocator::parse(&locator.to_bytes()).unwrap(), locator);
        assert_eq!(locator.values[PARENT_LINKAGE], LINKAGE);
    }

    #[test]
    fn the_relative_path_comes_first_then_what_the_others_end_in() {
        let locator = parse(&[
            ("absolute_win32_path", "\\\\?\\d:\\vm\\old.vhdx"),
            ("parent_linkage", LINKAGE),
            ("parent_linkage2", "{83ed88a1-52bc-4a3c-9f3d-000000000000}"),
            ("relative_path", "..\\vm\\base.vhdx"),
            ("volume_path", "\\\\?\\Volume{1}\\vm\\base.vhdx"),
        ])
        .unwrap();
        assert_eq!(
            locator.names(),
            ["../vm/base.vhdx", "base.vhdx", "old.vhdx"]
        );
        assert!(locator.parent_linkage_2.is_some());
    }

    #[test]
    fn linkage_and_a_path_must_be_there() {
        let path = ("relative_path", "a.vhdx");
        assert_eq!(kind(&[path]), ErrorKind::Malformed);
        assert_eq!(kind(&[("parent_linkage", LINKAGE)]), ErrorKind::Malformed);
        // Keys are case-sensitive.
        assert_eq!(
            kind(&[("Parent_Linkage", LINKAGE), path]),
            ErrorKind::Malformed
        );
        assert_eq!(kind(&[("parent_linkage", "x"), path]), ErrorKind::Malformed);
        let other = [("parent_linkage", LINKAGE), ("parent_linkage2", "x"), path];
        assert_eq!(kind(&other), ErrorKind::Malformed);
        parse(&[("parent_linkage", LINKAGE), path]).unwrap();
    }

    #[test]
    fn texts_outside_of_the_locator_are_malformed() {
        let good = ParentLocator::new(Uuid::nil(), "a.vhdx").to_bytes();
        for (at, patch) in [
            (18, &[0xFF, 0xFF][..]),
            (20, &[0; 4]),
            (20, &[0xFF; 4]),
            (24, &[0, 0, 1, 0]),
            (28, &[3, 0]),
            (30, &[0xFE, 0xFF]),
        ] {
            let mut bytes = good.clone();
            bytes[at..at + patch.len()].copy_from_slice(patch);
            let error = ParentLocator::parse(&bytes).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Malformed, "{at}");
        }
        for len in 0..good.len() {
            ParentLocator::parse(&good[..len]).unwrap_err();
        }
    }

    #[test]
    fn a_key_that_is_there_twice_is_malformed() {
        let mut bytes = ParentLocator::new(Uuid::nil(), "a.vhdx").to_bytes();
        bytes.copy_within(20..32, 32);
        let error = ParentLocator::parse(&bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed);
    }

    #[test]
    fn another_type_of_locator_is_unsupported() {
        let mut bytes = ParentLocator::new(Uuid::nil(), "a.vhdx").to_bytes();
        bytes[0] ^= 1;
        let error = ParentLocator::parse(&bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
}
