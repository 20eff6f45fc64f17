//! Files whose sectors are encrypted.

use std::fmt;
use std::path::Path;

use super::cipher::SectorCipher;
use super::header::SECTOR;
use crate::error::{Error, Result};
use crate::storage::{Storage, StorageRef, check_range};

/// A storage whose sectors of 512 bytes are decrypted when they are read. Offsets are those of the file; the number of a
/// sector is its offset over 512.
pub struct DecryptingStorage {
    inner: StorageRef,
    cipher: Box<dyn SectorCipher>,
}

impl DecryptingStorage {
    /// What `cipher` makes of `inner`.
    pub fn new(inner: StorageRef, cipher: Box<dyn SectorCipher>) -> DecryptingStorage {
        DecryptingStorage { inner, cipher }
    }

    /// Fills `out`, which lies inside the sector at `offset - skip`, from `skip` bytes into it on.
    fn read_part(&self, out: &mut [u8], offset: u64, skip: u64) -> Result<()> {
        let mut sector = [0; SECTOR as usize];
        let start = offset - skip;
        self.inner.read_at(&mut sector, start)?;
        self.cipher.decrypt(&mut sector, start / SECTOR);
        let part = sector.iter().skip(skip as usize);
        out.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
        Ok(())
    }
}

impl Storage for DecryptingStorage {
    /// A sector that is not there in full cannot be decrypted: it does not count.
    fn len(&self) -> u64 {
        self.inner.len() / SECTOR * SECTOR
    }

    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.path(), self.len(), offset, buf.len())?;
        let skip = offset % SECTOR;
        let until_sector = (SECTOR - skip) % SECTOR;
        let head = until_sector.min(buf.len() as u64) as usize;
        let (first, rest) = buf.split_at_mut(head);
        if !first.is_empty() {
            self.read_part(first, offset, skip)?;
        }
        let offset = offset + head as u64;
        let whole = rest.len() / SECTOR as usize * SECTOR as usize;
        let (sectors, last) = rest.split_at_mut(whole);
        if !sectors.is_empty() {
            self.inner.read_at(sectors, offset)?;
            self.cipher.decrypt(sectors, offset / SECTOR);
        }
        if !last.is_empty() {
            self.read_part(last, offset + whole as u64, 0)?;
        }
        Ok(())
    }

    // `extent` and `whole_file` stay as they are: a hole of the file is ciphertext, too, and the file is not the disk.

    fn allocated(&self) -> Result<u64> {
        self.inner.allocated()
    }

    fn check_unchanged(&self) -> Result<()> {
        self.inner.check_unchanged()
    }

    fn file_id(&self) -> Option<(u64, u64)> {
        self.inner.file_id()
    }

    fn is_device(&self) -> bool {
        self.inner.is_device()
    }

    fn is_encrypted(&self) -> bool {
        true
    }
}

impl fmt::Debug for DecryptingStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DecryptingStorage")
            .field(&self.inner)
            .finish()
    }
}

/// A storage whose content nobody can read: the passphrase is missing.
#[derive(Debug)]
pub struct LockedStorage(StorageRef);

impl LockedStorage {
    /// `inner`, without a key.
    pub fn new(inner: StorageRef) -> LockedStorage {
        LockedStorage(inner)
    }
}

impl Storage for LockedStorage {
    fn len(&self) -> u64 {
        self.0.len() / SECTOR * SECTOR
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn read_at(&self, _buf: &mut [u8], offset: u64) -> Result<()> {
        Err(
            Error::unsupported("data", "is encrypted, and no key was given")
                .at(offset)
                .hint("--key-file FILE takes the passphrase")
                .in_file(self.path()),
        )
    }

    fn allocated(&self) -> Result<u64> {
        self.0.allocated()
    }

    fn check_unchanged(&self) -> Result<()> {
        self.0.check_unchanged()
    }

    fn file_id(&self) -> Option<(u64, u64)> {
        self.0.file_id()
    }

    fn is_device(&self) -> bool {
        self.0.is_device()
    }

    fn is_encrypted(&self) -> bool {
        true
    }
}
