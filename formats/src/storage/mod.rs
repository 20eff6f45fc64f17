//! Where the bytes of an image stand: a file, a block device, a slice of either, or memory.

mod file;
mod memory;
mod slice;

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

pub use self::file::FileStorage;
pub use self::memory::{MemoryStorage, MemoryTarget};
pub use self::slice::SliceStorage;
use crate::error::{Error, Result};

/// A storage that several sources and threads read at once.
pub type StorageRef = Arc<dyn Storage>;

/// Read-only random access to the bytes of an image.
///
/// Implementations never panic, whatever the offsets, and are read from many threads.
pub trait Storage: Send + Sync + fmt::Debug {
    /// Length in bytes.
    fn len(&self) -> u64;

    /// Whether it holds no byte at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The file it is, for messages.
    fn path(&self) -> &Path;

    /// Fills `buf` from `offset` on. Past the end is [`crate::ErrorKind::Truncated`], never a short read.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()>;

    /// What the file system knows about the range from `offset`, at most `limit` bytes: its length and whether it may
    /// hold data. `false` is a promise of zeros; `true` promises nothing. The length is at least 1 and at most `limit`.
    fn extent(&self, offset: u64, limit: u64) -> Result<(u64, bool)> {
        let _ = offset;
        Ok((limit, true))
    }

    /// Bytes that the file system has allocated for it.
    fn allocated(&self) -> Result<u64> {
        Ok(self.len())
    }

    /// Fails when the file behind it is no longer what it was when it was opened.
    fn check_unchanged(&self) -> Result<()> {
        Ok(())
    }

    /// Device and inode: the same file has the same identity, whatever its name.
    fn file_id(&self) -> Option<(u64, u64)> {
        None
    }

    /// The file behind it, when the storage is the whole of a plain file (for reflinks).
    fn whole_file(&self) -> Option<&File> {
        None
    }

    /// Whether it is a block device.
    fn is_device(&self) -> bool {
        false
    }

    /// Whether what is read is not what stands in the file at that offset, but what it decrypts to.
    fn is_encrypted(&self) -> bool {
        false
    }
}

/// The bytes `[offset, offset + N)` of `storage`, as an array.
pub fn read_array<const N: usize>(storage: &dyn Storage, offset: u64) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    storage.read_at(&mut bytes, offset)?;
    Ok(bytes)
}

fn past_the_end(path: &Path, offset: u64, wanted: u64, len: u64) -> Error {
    Error::truncated("file", "ends too early")
        .at(offset)
        .found(format!("{len} bytes"))
        .expected(format!(
            "at least {} bytes",
            u128::from(offset) + u128::from(wanted)
        ))
        .in_file(path)
}

pub(crate) fn check_range(path: &Path, len: u64, offset: u64, wanted: usize) -> Result<()> {
    match offset.checked_add(wanted as u64) {
        Some(end) if end <= len => Ok(()),
        _ => Err(past_the_end(path, offset, wanted as u64, len)),
    }
}

/// What a target's tables are written to, and its blocks.
///
/// Bytes that were never written read as zeros, up to the length.
pub trait WritableStorage: Send + Sync {
    /// Writes all of `bytes` at `offset`, making the storage longer where needed.
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()>;

    /// Makes the storage exactly `len` bytes long.
    fn set_len(&self, len: u64) -> Result<()>;
}
