//! Encryption with LUKS: where its header stands, and what the data clusters decrypt to (qcow2 spec, "Full disk encryption
//! header pointer").
//!
//! Only data clusters are encrypted, each sector with its number in the file that holds it: the image, or its external
//! data file. Tables are not, and neither are compressed clusters, which QEMU writes and reads as they are.

use std::sync::Arc;

use super::extensions::Extensions;
use super::header::Header;
use crate::driver::{Detail, OpenContext};
use crate::error::{Error, Result};
use crate::luks::{self, DecryptingStorage, LockedStorage};
use crate::storage::{Storage, StorageRef};

/// The LUKS header of an image.
pub struct Encryption {
    /// File offset of the LUKS header, a multiple of the cluster size.
    pub offset: u64,
    /// Bytes of the LUKS header with its key material, inside the file.
    pub length: u64,
    luks: luks::Header,
}

impl Encryption {
    /// Reads the LUKS header of an encrypted image.
    ///
    /// # Errors
    /// `Unsupported` when the image is encrypted and `context` has no passphrase, `Malformed` or `Truncated` for a header
    /// that is damaged, not there, or there for no reason.
    pub fn read(
        image: &dyn Storage,
        header: &Header,
        extensions: &Extensions,
        context: &OpenContext,
    ) -> Result<Option<Encryption>> {
        if header.encrypted && context.passphrase.is_none() && !context.locked {
            return Err(Error::unsupported(
                "header",
                "LUKS encryption is not readable without its key",
            )
            .at(32)
            .found("encryption method 2")
            .hint("--key-file FILE takes the passphrase"));
        }
        let (offset, length) = match (header.encrypted, extensions.encryption) {
            (false, None) => return Ok(None),
            (true, Some(place)) => place,
            (true, None) => {
                return Err(Error::malformed(
                    "header",
                    "is encrypted, but names no LUKS header",
                ));
            }
            (false, Some((offset, _))) => {
                return Err(Error::malformed(
                    "header",
                    "is not encrypted, but names a LUKS header",
                )
                .found(format!("a pointer to offset {offset}")));
            }
        };
        if !offset.is_multiple_of(header.cluster_size()) {
            return Err(
                Error::malformed("LUKS header", "does not start with a cluster")
                    .at(offset)
                    .expected(format!("a multiple of {}", header.cluster_size())),
            );
        }
        if offset
            .checked_add(length)
            .is_none_or(|end| end > image.len())
        {
            return Err(
                Error::truncated("LUKS header", "does not fit into the file")
                    .at(offset)
                    .found(format!("{length} bytes, in a file of {}", image.len())),
            );
        }
        Ok(Some(Encryption {
            offset,
            length,
            luks: luks::Header::read(image, offset, length)?,
        }))
    }

    /// What `data`, the file that holds the clusters, decrypts to.
    ///
    /// # Errors
    /// Those of [`luks::unlock`].
    pub fn open(
        &self,
        image: &dyn Storage,
        data: StorageRef,
        context: &OpenContext,
    ) -> Result<StorageRef> {
        let Some(passphrase) = &context.passphrase else {
            return Ok(Arc::new(LockedStorage::new(data)));
        };
        let cipher = luks::unlock(&self.luks, image, self.offset, passphrase)?;
        Ok(Arc::new(DecryptingStorage::new(data, cipher)))
    }

    /// What it says about itself.
    pub fn details(&self) -> Vec<(&'static str, Detail)> {
        let text = |text: &str| Detail::Text(text.to_owned());
        vec![
            ("encryption", text("luks")),
            ("cipher", text(&self.luks.cipher)),
            ("cipher_mode", text(&self.luks.mode)),
            (
                "key_bits",
                Detail::Number(u64::from(self.luks.key_bytes) * 8),
            ),
            ("hash", text(&self.luks.hash)),
            (
                "key_slots_used",
                Detail::Number(self.luks.slots.len() as u64),
            ),
        ]
    }
}
