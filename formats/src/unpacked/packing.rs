//! What a whole file is packed with: told by its first bytes.

use std::fmt;

use crate::error::Result;
use crate::storage::Storage;

/// Skippable frames of zstd that may stand in front of the first one with content.
const SKIPPABLE_MAX: u32 = 16;

/// What a file is packed with, from its first byte to its last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Packing {
    /// One or several gzip members (RFC 1952).
    Gzip,
    /// One or several Zstandard frames (RFC 8878), skippable ones among them.
    Zstd,
    /// One or several bzip2 streams.
    Bzip2,
}

impl Packing {
    /// What `storage` is packed with, by its magic; `None` when it has none of them.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn of(storage: &dyn Storage) -> Result<Option<Packing>> {
        let mut offset = 0;
        for _ in 0..=SKIPPABLE_MAX {
            let head = head(storage, offset)?;
            if !is_skippable(&head) {
                let found = Self::by_magic(&head);
                return Ok(found.filter(|packing| offset == 0 || *packing == Packing::Zstd));
            }
            // RFC 8878, 3.1.2: the magic and the length stand in front of what is skipped.
            let [_, _, _, _, len @ ..] = head;
            offset += 8 + u64::from(u32::from_le_bytes(len));
        }
        Ok(None)
    }

    /// The packing of a stream that begins with `head`.
    pub(super) fn by_magic(head: &[u8; 8]) -> Option<Packing> {
        match head {
            [0x1f, 0x8b, 8, ..] => Some(Packing::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Packing::Zstd),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some(Packing::Bzip2),
            _ if is_skippable(head) => Some(Packing::Zstd),
            _ => None,
        }
    }
}

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Packing::Gzip => "gzip",
            Packing::Zstd => "zstd",
            Packing::Bzip2 => "bzip2",
        })
    }
}

fn is_skippable(head: &[u8; 8]) -> bool {
    matches!(head, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// The bytes at `offset`, with zeros past the end.
pub(super) fn head(storage: &dyn Storage, offset: u64) -> Result<[u8; 8]> {
    let mut head = [0; 8];
    let there = storage.len().saturating_sub(offset).min(8);
    if there > 0 {
        storage.read_at(&mut head[..there as usize], offset)?;
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    fn of(bytes: &[u8]) -> Option<Packing> {
        Packing::of(&MemoryStorage::new(bytes.to_vec())).unwrap()
    }

    #[test]
    fn the_magic_tells_what_a_file_is_packed_with() {
        assert_eq!(of(b"\x1f\x8b\x08\0"), Some(Packing::Gzip));
        assert_eq!(of(b"\x28\xb5\x2f\xfd"), Some(Packing::Zstd));
        assert_eq!(of(b"BZh9"), Some(Packing::Bzip2));
        for other in [b"".as_slice(), b"\x1f\x8b", b"BZh0", b"KDMV", &[0; 100]] {
            assert_eq!(of(other), None, "{other:?}");
        }
    }

    #[test]
    fn skippable_frames_count_only_in_front_of_others() {
        let skippable = |n: u8| [&[n, 0x2a, 0x4d, 0x18, 3, 0, 0, 0], &b"abc"[..]].concat();
        let both = [skippable(0x50), skippable(0x5f)].concat();
        let zstd = [both.as_slice(), b"\x28\xb5\x2f\xfd"].concat();
        assert_eq!(of(&zstd), Some(Packing::Zstd));
        assert_eq!(of(&both), None);
        assert_eq!(of(&[both.as_slice(), b"\x1f\x8b\x08\0"].concat()), None);
        assert_eq!(of(&[0x50, 0x2a, 0x4d, 0x18, 255, 255, 255, 255]), None);
        assert_eq!(of(&[0x50, 0x2a, 0x4d, 0x18]), None);
        let many = skippable(0x51).repeat(1000);
        assert_eq!(of(&[many.as_slice(), b"\x28\xb5\x2f\xfd"].concat()), None);
    }
}
