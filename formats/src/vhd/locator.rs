//! Parent locators: eight places for the name of the parent, each for another platform.

use zerocopy::byteorder::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::storage::Storage;
use crate::utf16;

/// Longest name that is read, in bytes: Windows stops at 32767 UTF-16 units.
const MAX_NAME: u32 = 64 << 10;

/// A parent locator as it stands on disk.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawLocator {
    code: [u8; 4],
    data_space: U32,
    data_length: U32,
    reserved: U32,
    data_offset: U64,
}

/// Where a name of the parent stands. Nothing in it is checked before the name is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ParentLocator {
    /// Platform: `W2ru` (relative Windows path), `W2ku` (absolute one), `MacX` (file URL); zeros for none.
    pub code: [u8; 4],
    /// Room for the name: in sectors by the specification, in bytes by everybody's practice.
    pub data_space: u32,
    /// Length of the name in bytes.
    pub data_length: u32,
    /// Byte offset of the name in the file.
    pub data_offset: u64,
}

impl From<RawLocator> for ParentLocator {
    fn from(raw: RawLocator) -> ParentLocator {
        ParentLocator {
            code: raw.code,
            data_space: raw.data_space.get(),
            data_length: raw.data_length.get(),
            data_offset: raw.data_offset.get(),
        }
    }
}

impl From<ParentLocator> for RawLocator {
    fn from(locator: ParentLocator) -> RawLocator {
        RawLocator {
            code: locator.code,
            data_space: U32::new(locator.data_space),
            data_length: U32::new(locator.data_length),
            reserved: U32::ZERO,
            data_offset: U64::new(locator.data_offset),
        }
    }
}

impl ParentLocator {
    /// The path it holds, with `/` between folders; `None` for a platform that is not known, a name that does not lie
    /// inside its room and the file, or one that is no text.
    pub fn path(&self, storage: &dyn Storage) -> Option<String> {
        let decode: fn(&[u8]) -> Option<String> = match &self.code {
            b"W2ru" | b"W2ku" => {
                |bytes| utf16::decode(bytes, u16::from_le_bytes).map(utf16::windows_path)
            }
            b"MacX" => file_url,
            _ => return None,
        };
        // "Data space" counts sectors in the specification and bytes in Microsoft's files.
        let room = match self.data_space {
            sectors @ 0..512 => sectors * 512,
            bytes => bytes,
        };
        if self.data_length == 0 || self.data_length > room || self.data_length > MAX_NAME {
            return None;
        }
        let mut bytes = vec![0; self.data_length as usize];
        storage.read_at(&mut bytes, self.data_offset).ok()?;
        decode(&bytes)
    }
}

/// The path in the "parent unicode name" of the dynamic header: UTF-16BE, padded with NUL.
pub(super) fn parent_name_path(name: &[u8; 512]) -> Option<String> {
    utf16::decode(name, u16::from_be_bytes).map(utf16::windows_path)
}

/// The path in a `file://` URL. XenServer writes `file://./name` for a file beside the child.
fn file_url(bytes: &[u8]) -> Option<String> {
    let url = bytes.split(|b| *b == 0).next()?;
    let path = url.strip_prefix(b"file://").unwrap_or(url);
    let path = match path.strip_prefix(b"localhost") {
        Some(absolute) if absolute.starts_with(b"/") => absolute,
        _ => path,
    };
    String::from_utf8(percent_decoded(path))
        .ok()
        .filter(|path| !path.is_empty())
}

fn percent_decoded(mut text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    while let Some((first, rest)) = text.split_first() {
        let escaped = match (first, rest) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)),
            _ => None,
        };
        match (escaped, rest) {
            (Some((high, low)), [_, _, after @ ..]) => {
                decoded.push(high << 4 | low);
                text = after;
            }
            _ => {
                decoded.push(*first);
                text = rest;
            }
        }
    }
    decoded
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    fn path_of(code: &[u8; 4], data: &[u8], data_space: u32) -> Option<String> {
        let storage = MemoryStorage::new([&[0xEE; 512], data].concat());
        ParentLocator {
            code: *code,
            data_space,
            data_length: data.len() as u32,
            data_offset: 512,
        }
        .path(&storage)
    }

    #[test]
    fn windows_names_are_little_endian_with_backslashes() {
        let relative = utf16::encode_le(".\\sub\\båse.vhd");
        assert_eq!(path_of(b"W2ru", &relative, 512).unwrap(), "./sub/båse.vhd");
        assert_eq!(
            path_of(b"W2ku", &utf16::encode_le("C:\\a.vhd\0\0"), 512).unwrap(),
            "C:/a.vhd"
        );
    }

    #[test]
    fn room_is_in_sectors_or_bytes() {
        let name = utf16::encode_le("a.vhd");
        assert!(path_of(b"W2ru", &name, 1).is_some());
        assert!(path_of(b"W2ru", &name, 4096).is_some());
        assert_eq!(path_of(b"W2ru", &name, 0), None);
    }

    #[test]
    fn a_file_url_is_decoded() {
        let path = |url: &str| path_of(b"MacX", url.as_bytes(), 512).unwrap();
        assert_eq!(path("file://./a%20b.vhd"), "./a b.vhd");
        assert_eq!(path("file:///dir/%C3%A5.vhd"), "/dir/å.vhd");
        assert_eq!(path("file://localhost/dir/a.vhd"), "/dir/a.vhd");
        assert_eq!(path("50%.vhd%4"), "50%.vhd%4");
        assert_eq!(path_of(b"MacX", b"file://%ff", 512), None);
    }

    #[test]
    fn a_locator_that_cannot_be_read_is_skipped() {
        // A lone surrogate, half a unit, an unknown platform, nothing.
        assert_eq!(path_of(b"W2ru", &[0x00, 0xD8], 512), None);
        assert_eq!(path_of(b"W2ru", &[b'a', 0, b'b'], 512), None);
        assert_eq!(path_of(b"Wi2r", b"a.vhd", 512), None);
        assert_eq!(path_of(b"W2ru", b"", 512), None);
        assert_eq!(path_of(b"W2ru", &[0, 0], 512), None);
        let storage = MemoryStorage::new(vec![0; 512]);
        for data_offset in [510, 512, u64::MAX] {
            let locator = ParentLocator {
                code: *b"W2ru",
                data_space: 512,
                data_length: 4,
                data_offset,
            };
            assert_eq!(locator.path(&storage), None);
        }
    }

    #[test]
    fn the_parent_name_is_big_endian() {
        let mut name = [0; 512];
        name[..10].copy_from_slice(b"\0b\0.\0v\0h\0d");
        assert_eq!(parent_name_path(&name).unwrap(), "b.vhd");
        assert_eq!(parent_name_path(&[0; 512]), None);
    }
}
