//! Files that are changed where they stand: what is written to them, and in which order.
//!
//! A change is a [`Plan`] first: steps as data, made without touching a file. What the files will say is known before
//! anything is written ([`Plan::outcome`]), and every state in which a crash can leave them can be looked at
//! ([`crash`]).
//!
//! | file | what it is |
//! |---|---|
//! | `file.rs` | a file that is open for writing, and locked |
//! | `plan.rs` | steps, and carrying them out |
//! | `planned.rs` | a file as it will be |
//! | `allocation.rs` | what an image is asked to give places to |
//! | `crash.rs` | files in memory that remember what a crash would leave, for tests |

mod allocation;
pub mod crash;
mod file;
mod plan;
mod planned;

pub use allocation::{Allocation, Guest, Ids};
pub use file::InPlaceFile;
pub use plan::{Plan, Step, file_at};

use std::sync::Arc;

use crate::error::{Error, Result};

/// Bytes that are copied or zeroed in one go.
const PIECE: u64 = 1 << 20;

/// What is changed where it stands.
pub trait InPlace: Send + Sync {
    /// Writes all of `bytes` at `offset`, making the file longer where needed.
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()>;

    /// Writes `len` zeros at `offset`, inside the file.
    fn zero_at(&self, offset: u64, len: u64) -> Result<()> {
        fill(self, offset, len, 0)
    }

    /// Makes the file exactly `len` bytes long; what is added reads as zeros.
    fn set_len(&self, len: u64) -> Result<()>;

    /// Puts a file with this content in the place of the file, by its name: the old or the new one is there, whatever
    /// happens. Nothing may be written to it afterwards.
    fn replace(&self, bytes: &[u8]) -> Result<()>;

    /// Returns when everything written so far is on stable storage.
    fn sync(&self) -> Result<()>;

    /// Gives the room of `len` bytes at `offset` back to the file system: they read as zeros afterwards. The length of the
    /// file stays; behind its end nothing happens.
    ///
    /// # Errors
    /// `Unsupported` where the file system cannot.
    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        Err(no_punching().at(offset).found(format!("{len} bytes")))
    }

    /// Lets these bytes, which are synced, be read from the storage next time, and not from memory, where that can be had.
    fn drop_cached(&self, _offset: u64, _len: u64) {}
}

/// Why nothing can be given back.
fn no_punching() -> Error {
    Error::unsupported("file system", "cannot make holes in a file")
        .hint("convert it to a volume of another file system")
}

/// Writes `len` bytes that are all `byte`.
fn fill(out: &(impl InPlace + ?Sized), offset: u64, len: u64, byte: u8) -> Result<()> {
    let filled = vec![byte; len.min(PIECE) as usize];
    pieces(len, |at, count| {
        let piece = filled.get(..count as usize).unwrap_or(&filled);
        out.write_at(piece, offset.saturating_add(at))
    })
}

/// Calls `each` with the parts of `len` bytes that are done in one go.
fn pieces(len: u64, mut each: impl FnMut(u64, u64) -> Result<()>) -> Result<()> {
    let mut at = 0;
    while at < len {
        let count = (len - at).min(PIECE);
        each(at, count)?;
        at += count;
    }
    Ok(())
}

impl<T: InPlace + ?Sized> InPlace for Arc<T> {
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        (**self).write_at(bytes, offset)
    }

    fn zero_at(&self, offset: u64, len: u64) -> Result<()> {
        (**self).zero_at(offset, len)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        (**self).set_len(len)
    }

    fn replace(&self, bytes: &[u8]) -> Result<()> {
        (**self).replace(bytes)
    }

    fn sync(&self) -> Result<()> {
        (**self).sync()
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        (**self).punch(offset, len)
    }

    fn drop_cached(&self, offset: u64, len: u64) {
        (**self).drop_cached(offset, len);
    }
}
