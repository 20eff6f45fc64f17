//! The header of a member: ustar, GNU, and what came before them (POSIX.1-1988, "ustar Interchange Format"; GNU tar
//! manual, "Basic Tar Format").

use crate::error::{Error, Result};

/// Bytes of a header, and what everything is padded to.
pub const BLOCK: u64 = 512;

/// Offset and length of the size field.
const SIZE: std::ops::Range<usize> = 124..136;
/// Offset and length of the checksum field.
const CHECKSUM: std::ops::Range<usize> = 148..156;

/// Bytes of a name that has no prefix: all that every reader of packages understands.
pub const NAME_MAX: usize = 100;

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A plain file.
    File,
    /// A folder.
    Folder,
    /// The name of the next member, which is too long for a header (GNU).
    LongName,
    /// Attributes of the next member (pax).
    Attributes,
    /// Attributes of all that follow (pax).
    GlobalAttributes,
    /// Anything else, by its type flag.
    Other(u8),
}

/// A header, its checksum verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The name, as it is written.
    pub name: Vec<u8>,
    /// Bytes of data.
    pub len: u64,
    /// What it is.
    pub kind: Kind,
}

impl Header {
    /// The header in `bytes`; none when they are all zeros, which ends an archive.
    ///
    /// # Errors
    /// `Malformed` when the checksum is wrong or the size is no number.
    pub fn parse(bytes: &[u8; BLOCK as usize]) -> Result<Option<Header>> {
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let raw = tar::Header::from_byte_slice(bytes);
        let said = raw.cksum().ok().map(i64::from);
        let (unsigned, signed) = checksums(bytes);
        // Some programs of old summed signed bytes.
        if said != Some(unsigned) && said != Some(signed) {
            return Err(Error::malformed("tar header", "its checksum is wrong")
                .found(said.map_or("none".to_owned(), |sum| sum.to_string()))
                .expected(unsigned)
                .hint("this is no tar archive, or it is damaged"));
        }
        let len = match bytes[SIZE] {
            // Base 256: a negative number, or one of more than 64 bits.
            [first, a, b, c, ..] if first & 0x80 != 0 && (first, a, b, c) != (0x80, 0, 0, 0) => {
                None
            }
            _ => raw.entry_size().ok(),
        };
        let len = len.filter(|len| *len <= i64::MAX as u64).ok_or_else(|| {
            Error::malformed("tar header", "has an impossible size")
                .found(format!("{:?}", String::from_utf8_lossy(&bytes[SIZE])))
        })?;
        let name = raw.path_bytes().into_owned();
        let kind = match bytes[156] {
            b'0' | b'7' | 0 if name.ends_with(b"/") => Kind::Folder,
            b'0' | b'7' | 0 => Kind::File,
            b'5' => Kind::Folder,
            b'L' => Kind::LongName,
            b'x' | b'X' => Kind::Attributes,
            b'g' => Kind::GlobalAttributes,
            other => Kind::Other(other),
        };
        Ok(Some(Header { name, len, kind }))
    }

    /// The header of a plain file: ustar, and GNU's base 256 for sizes of 8 GiB and more, which every reader of packages
    /// takes. Owner and group are 0.
    ///
    /// # Errors
    /// `Limit` for names of more than 100 bytes.
    pub fn for_file(name: &str, len: u64, unix_time: u64) -> Result<[u8; BLOCK as usize]> {
        if name.len() > NAME_MAX {
            return Err(Error::limit("tar header", "the name is too long")
                .found(format!("{} bytes", name.len()))
                .expected(format!("at most {NAME_MAX}")));
        }
        let mut header = tar::Header::new_ustar();
        if let Some(field) = header.as_mut_bytes().get_mut(..name.len()) {
            field.copy_from_slice(name.as_bytes());
        }
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(unix_time);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(len);
        header.set_cksum();
        Ok(*header.as_bytes())
    }

    /// Bytes of data and what pads them.
    pub fn padded_len(&self) -> u64 {
        // A length that was parsed is at most 2^63 - 1.
        self.len.next_multiple_of(BLOCK)
    }
}

/// The sum of all bytes, the checksum's own taken for blanks: of unsigned bytes, and of signed ones.
fn checksums(bytes: &[u8; BLOCK as usize]) -> (i64, i64) {
    let counted = bytes.iter().enumerate().map(|(at, byte)| match at {
        at if CHECKSUM.contains(&at) => b' ',
        _ => *byte,
    });
    counted.fold((0, 0), |(unsigned, signed), byte| {
        (unsigned + i64::from(byte), signed + i64::from(byte as i8))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_parsed_also_above_8_gib() {
        for len in [0, 1, 0o77777777777, 0o100000000000, 1 << 50] {
            let bytes = Header::for_file("disk-1.vmdk", len, 1).unwrap();
            let header = Header::parse(&bytes).unwrap().unwrap();
            assert_eq!((header.len, header.kind), (len, Kind::File));
            assert_eq!(header.name, b"disk-1.vmdk");
            assert_eq!(bytes[124] == 0x80, len > 0o77777777777);
            assert_eq!(&bytes[257..265], b"ustar\x0000");
        }
        assert!(Header::for_file(&"x".repeat(101), 0, 0).is_err());
        assert_eq!(Header::parse(&[0; 512]).unwrap(), None);
    }

    #[test]
    fn wrong_checksums_and_sizes_are_malformed() {
        let good = Header::for_file("a", 5, 0).unwrap();
        for (at, byte) in [(0, b'b'), (124, b'9'), (148, b'x'), (500, 1)] {
            let mut bytes = good;
            bytes[at] = byte;
            let error = Header::parse(&bytes).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Malformed, "{at}");
        }
        for size in [*b"-0000000001\0", *b"zzzzzzzzzzz\0", [0xFF; 12]] {
            let mut bytes = good;
            bytes[SIZE].copy_from_slice(&size);
            let mut header = tar::Header::from_byte_slice(&bytes).clone();
            header.set_cksum();
            assert!(Header::parse(header.as_bytes()).is_err(), "{size:?}");
        }
    }
}
