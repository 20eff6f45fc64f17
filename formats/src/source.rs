//! The reading side of a format: where the bytes of a guest range stand.

use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::storage::StorageRef;

/// A virtual disk as its guest sees it.
///
/// Implementations translate; they do not move bytes, open threads or look into guest data. They are called from many
/// threads at once, keep their memory bounded whatever the image claims, and must not panic for any offset.
pub trait BlockSource: Send + Sync {
    /// Guest-visible size in bytes: exact, any value.
    fn size(&self) -> u64;

    /// Logical sector size in bytes: 512 or 4096.
    fn sector_size(&self) -> u32 {
        512
    }

    /// Unit in which the image allocates, in bytes.
    fn block_size(&self) -> u64;

    /// What stands at `offset`, for at most `limit` bytes. Reads tables, never guest data.
    ///
    /// `offset < size()`, `limit > 0` and `offset + limit <= size()` hold: callers go through [`run_at`]. The run is
    /// not empty and no longer than `limit`; neighbours of the same kind are joined where that costs nothing, so that a
    /// huge hole is one run.
    ///
    /// # Errors
    /// A table entry that cannot be true: past the end of the file, misaligned, reserved bits set.
    fn map(&self, offset: u64, limit: u64) -> Result<Run>;
}

/// A guest range of one kind.
#[derive(Debug, Clone)]
pub struct Run {
    /// Length in bytes, at least 1.
    pub len: u64,
    /// What stands there.
    pub mapping: Mapping,
}

impl Run {
    /// A run of `len` bytes.
    pub fn new(len: u64, mapping: Mapping) -> Run {
        Run { len, mapping }
    }
}

/// Where the bytes of a run stand.
#[derive(Debug, Clone)]
pub enum Mapping {
    /// This layer does not say: its parent does; without one, zeros.
    Absent,
    /// Zeros, whatever a parent says.
    Zero,
    /// The bytes stand as they are in `storage` at `offset`.
    Stored {
        /// Where they stand.
        storage: StorageRef,
        /// Byte offset of the run's first byte.
        offset: u64,
    },
    /// The bytes are inside one compressed unit: `skip` bytes into what `codec` makes of it.
    Packed {
        /// Where the unit stands.
        storage: StorageRef,
        /// Byte offset of its first byte.
        offset: u64,
        /// Length of the packed unit in bytes. It may be an upper bound: the codec stops at the end of its stream.
        len: u32,
        /// What it is packed with.
        codec: Codec,
        /// Bytes of one cluster or grain: unpacking yields no more.
        unit: u32,
        /// Bytes that unpacking must yield at least: `unit`, but for a last grain that may stop where the disk does.
        least: u32,
        /// Bytes of the unpacked unit before the run's first byte.
        skip: u32,
    },
}

impl Mapping {
    /// Whether the guest reads zeros there (when no parent stands below).
    pub fn reads_zero(&self) -> bool {
        matches!(self, Mapping::Absent | Mapping::Zero)
    }
}

/// The run of `source` at `offset`: [`BlockSource::map`] with its contract enforced on both sides.
///
/// # Errors
/// Those of `map`, and `Malformed` when a source breaks its contract.
pub fn run_at(source: &dyn BlockSource, offset: u64, limit: u64) -> Result<Run> {
    let left = source.size().saturating_sub(offset);
    let limit = limit.min(left);
    if limit == 0 {
        return Err(Error::malformed("map", "asked past the end of the disk")
            .at(offset)
            .expected(format!("an offset below {}", source.size())));
    }
    let run = source.map(offset, limit)?;
    if run.len == 0 || run.len > limit {
        return Err(
            Error::malformed("map", "the source answered with an impossible run")
                .at(offset)
                .found(run.len)
                .expected(format!("1 to {limit} bytes")),
        );
    }
    Ok(run)
}
