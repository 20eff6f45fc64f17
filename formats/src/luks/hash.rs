//! The hashes that LUKS headers name.

use pbkdf2::pbkdf2_hmac;
use ripemd::Ripemd160;
use sha1::Sha1;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

use crate::error::{Error, Result};

/// A hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    /// SHA-1: cryptsetup's default until 2016.
    Sha1,
    /// SHA-224.
    Sha224,
    /// SHA-256: the default of QEMU and cryptsetup.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
    /// RIPEMD-160.
    Ripemd160,
}

/// Hashes by the names that headers have for them.
const NAMES: [(&str, Hash); 6] = [
    ("sha1", Hash::Sha1),
    ("sha224", Hash::Sha224),
    ("sha256", Hash::Sha256),
    ("sha384", Hash::Sha384),
    ("sha512", Hash::Sha512),
    ("ripemd160", Hash::Ripemd160),
];

impl Hash {
    /// The hash that a header calls `name`.
    ///
    /// # Errors
    /// `Unsupported` when it is none of those known here.
    pub fn by_name(name: &str) -> Result<Hash> {
        let known = NAMES.iter().find(|(known, _)| *known == name);
        known.map(|(_, hash)| *hash).ok_or_else(|| {
            Error::unsupported("LUKS header", "the hash is not supported")
                .found(format!("{name:?}"))
                .expected(NAMES.map(|(name, _)| name).join(", "))
        })
    }

    /// Bytes of its digests.
    pub fn len(self) -> usize {
        match self {
            Hash::Sha1 | Hash::Ripemd160 => 20,
            Hash::Sha224 => 28,
            Hash::Sha256 => 32,
            Hash::Sha384 => 48,
            Hash::Sha512 => 64,
        }
    }

    /// The digest of `parts`, one after the other.
    pub fn digest(self, parts: &[&[u8]]) -> Vec<u8> {
        fn of<D: Digest>(parts: &[&[u8]]) -> Vec<u8> {
            let mut digest = D::new();
            for part in parts {
                digest.update(part);
            }
            digest.finalize().to_vec()
        }
        match self {
            Hash::Sha1 => of::<Sha1>(parts),
            Hash::Sha224 => of::<Sha224>(parts),
            Hash::Sha256 => of::<Sha256>(parts),
            Hash::Sha384 => of::<Sha384>(parts),
            Hash::Sha512 => of::<Sha512>(parts),
            Hash::Ripemd160 => of::<Ripemd160>(parts),
        }
    }

    /// Fills `out` with what PBKDF2 (RFC 8018) with HMAC makes of `password` and `salt`.
    pub fn pbkdf2(self, password: &[u8], salt: &[u8], iterations: u32, out: &mut [u8]) {
        match self {
            Hash::Sha1 => pbkdf2_hmac::<Sha1>(password, salt, iterations, out),
            Hash::Sha224 => pbkdf2_hmac::<Sha224>(password, salt, iterations, out),
            Hash::Sha256 => pbkdf2_hmac::<Sha256>(password, salt, iterations, out),
            Hash::Sha384 => pbkdf2_hmac::<Sha384>(password, salt, iterations, out),
            Hash::Sha512 => pbkdf2_hmac::<Sha512>(password, salt, iterations, out),
            Hash::Ripemd160 => pbkdf2_hmac::<Ripemd160>(password, salt, iterations, out),
        }
    }

    /// How often [`Hash::pbkdf2`] hashes for `len` bytes: each block of output takes all iterations.
    pub fn pbkdf2_work(self, iterations: u32, len: usize) -> u64 {
        u64::from(iterations).saturating_mul(len.div_ceil(self.len()) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_as_long_as_they_say() {
        for (name, hash) in NAMES {
            assert_eq!(hash.digest(&[b"a", b"bc"]).len(), hash.len(), "{name}");
            assert_eq!(hash.digest(&[b"a", b"bc"]), hash.digest(&[b"abc"]));
            assert_eq!(Hash::by_name(name).unwrap(), hash);
        }
        let unknown = Hash::by_name("whirlpool").unwrap_err();
        assert!(unknown.to_string().contains("whirlpool"), "{unknown}");
    }

    #[test]
    fn every_block_of_output_costs_all_iterations() {
        assert_eq!(Hash::Sha256.pbkdf2_work(1000, 32), 1000);
        assert_eq!(Hash::Sha256.pbkdf2_work(1000, 64), 2000);
        assert_eq!(
            Hash::Sha1.pbkdf2_work(u32::MAX, 64),
            4 * u64::from(u32::MAX)
        );
    }
}
