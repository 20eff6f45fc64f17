//! The checksum of a block: a member of its own behind it.

use std::fmt::Write;

use sha1::{Digest, Sha1};
use xxhash_rust::xxh64::xxh64;

use crate::tar::BLOCK;

/// How blocks are summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Checksum {
    /// SHA-1, 40 lower-case digits: what every version reads.
    Sha1,
    /// XXH64 with seed 0, 16 upper-case digits: what xapi writes since 2019.
    Xxhash,
}

impl Checksum {
    /// Both of them.
    pub const ALL: [Checksum; 2] = [Checksum::Sha1, Checksum::Xxhash];

    /// What the name of its member ends with, behind the name of the block.
    pub fn suffix(self) -> &'static str {
        match self {
            Checksum::Sha1 => ".checksum",
            Checksum::Xxhash => ".xxhash",
        }
    }

    /// Digits.
    pub fn digits(self) -> usize {
        match self {
            Checksum::Sha1 => 40,
            Checksum::Xxhash => 16,
        }
    }

    /// The checksum of `data`, as it is written.
    pub fn of(self, data: &[u8]) -> String {
        match self {
            Checksum::Sha1 => {
                let mut text = String::with_capacity(40);
                for byte in Sha1::digest(data) {
                    // Writing to a string does not fail.
                    let _ = write!(text, "{byte:02x}");
                }
                text
            }
            Checksum::Xxhash => format!("{:016X}", xxh64(data, 0)),
        }
    }

    /// Bytes from the start of a block's data, `len` of them, to the end of its checksum.
    pub fn unit_len(self, len: u64) -> u64 {
        len.next_multiple_of(BLOCK) + BLOCK + self.digits() as u64
    }

    /// Whether the checksum at the end of `unit`, a block of `len` bytes with what follows it, is that of the block.
    pub fn fits(self, unit: &[u8], len: usize) -> bool {
        let said = unit
            .len()
            .checked_sub(self.digits())
            .and_then(|at| unit.get(at..));
        let data = unit.get(..len);
        data.is_some_and(|data| said == Some(self.of(data).as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_written_as_xapi_writes_them() {
        assert_eq!(Checksum::Xxhash.of(b""), "EF46DB3751D8E999");
        assert_eq!(
            Checksum::Sha1.of(b""),
            "da39a3ee5e6b4b0d3255bfef95601890afd80709"
        );
    }
}
