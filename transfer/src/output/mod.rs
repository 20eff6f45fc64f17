//! Where a copy is stored: a new file that appears whole or not at all, a block device, or a pipe.
//!
//! | module | what it stores to |
//! |---|---|
//! | [`file`](mod@file) | a file without a name until it is complete; direct I/O where the file system takes it |
//! | [`set`] | several files that belong together |
//! | [`nowhere`] | nothing: for measuring |
//! | [`device`] | a block device, checked for size before the first byte |
//! | [`part`] | a part of another output: a member of an archive |
//! | [`stream`] | standard output, for targets that are written in ascending order |
//! | `direct` | the choice between direct and buffered writes, write by write |

pub mod device;
mod direct;
pub mod file;
pub mod nowhere;
pub mod part;
pub mod set;
pub mod stream;

use std::io::IoSlice;
use std::ops::Range;

use formats::{Result, StorageRef, WritableStorage};

pub use device::DeviceOutput;
pub use file::FileOutput;
pub use nowhere::Nowhere;
pub use part::{OrderedPart, Part};
pub use set::FileSet;
pub use stream::StreamOutput;

/// A place that a target's blocks and tables are stored in.
pub trait Output: WritableStorage {
    /// Stores `pieces`, one after the other, from `offset` on. Called from many threads, never twice for one place.
    ///
    /// # Errors
    /// `Io` with the offset.
    fn write_pieces(&self, pieces: &[IoSlice<'_>], offset: u64) -> Result<()>;

    /// Makes `range` read as zeros.
    ///
    /// # Errors
    /// `Io` with the offset.
    fn zero_range(&self, range: Range<u64>) -> Result<()>;

    /// Whether bytes must come in ascending order, because they leave at once.
    fn is_stream(&self) -> bool {
        false
    }

    /// Keeps room for all of it that nothing was written to.
    ///
    /// # Errors
    /// `Io` when there is not enough.
    fn reserve(&self) -> Result<()> {
        Ok(())
    }

    /// Waits until everything is on stable storage.
    ///
    /// # Errors
    /// `Io` when the storage failed to keep it.
    fn sync(&self) -> Result<()>;

    /// What has been written, for reading it back from storage rather than from the cache.
    ///
    /// # Errors
    /// `Io`, and `Refused` for a stream, which cannot be read back.
    fn read_back(&self) -> Result<StorageRef>;

    /// As [`Output::read_back`], for what stands at `offset`: the storage that holds it, and the offset in there.
    ///
    /// # Errors
    /// As [`Output::read_back`].
    fn read_back_at(&self, offset: u64) -> Result<(StorageRef, u64)> {
        Ok((self.read_back()?, offset))
    }
}
