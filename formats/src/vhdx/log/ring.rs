//! The log as a ring of sectors: what goes past its end goes on at its start.

use crate::error::{Error, Result};
use crate::storage::{StorageRef, read_array};

/// Bytes of a sector of the log, which has nothing to do with those of the disk.
pub const SECTOR: u64 = 4096;

/// The bytes of a sector.
pub type Sector = [u8; SECTOR as usize];

/// The log of a file.
#[derive(Debug)]
pub struct Ring {
    storage: StorageRef,
    offset: u64,
    len: u64,
}

impl Ring {
    /// The log of `len` bytes, a multiple of 1 MiB and not 0, at byte `offset` of `storage`.
    ///
    /// # Errors
    /// `Truncated` when it is not inside the file.
    pub fn new(storage: StorageRef, offset: u64, len: u64) -> Result<Ring> {
        match offset.checked_add(len) {
            Some(end) if end <= storage.len() && len > 0 => Ok(Ring {
                storage,
                offset,
                len,
            }),
            _ => Err(Error::truncated("log", "does not fit into the file")
                .at(offset)
                .found(format!("{len} bytes in a file of {} bytes", storage.len()))
                .hint("the file is cut off")),
        }
    }

    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.len
    }

    /// The file it is in.
    pub fn storage(&self) -> &StorageRef {
        &self.storage
    }

    /// The place in the ring of what is `at` bytes from its start, any number of times around.
    pub fn wrapped(&self, at: u64) -> u64 {
        at % self.len
    }

    /// Byte offset in the file of what is `at` bytes from the start of the ring.
    pub fn file_offset(&self, at: u64) -> u64 {
        self.offset + self.wrapped(at)
    }

    /// The sector `at` bytes from the start of the ring.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn sector(&self, at: u64) -> Result<Sector> {
        read_array(self.storage.as_ref(), self.file_offset(at))
    }

    /// Bytes from `at` on, up to the end of the ring, that the file system knows to be zeros.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn hole(&self, at: u64) -> Result<u64> {
        let (len, is_data) = self.storage.extent(self.file_offset(at), self.len - at)?;
        Ok(if is_data { 0 } else { len })
    }
}
