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
    /// huge hole is one run. Holes of the file need not be looked for: [`run_at`] does that.
    ///
    /// # Errors
    /// A table entry that cannot be true: past the end of the file, misaligned, reserved bits set. They say file and
    /// offset.
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

    /// `len` bytes of it, from byte `by` on: no more than there are.
    pub fn part(&self, by: u64, len: u64) -> Run {
        let mut mapping = self.mapping.clone();
        match &mut mapping {
            Mapping::Stored { offset, .. } => *offset = offset.saturating_add(by),
            // A unit is no longer than 32 bits say.
            Mapping::Packed { skip, .. } => *skip = skip.saturating_add(by as u32),
            Mapping::Absent | Mapping::Zero => {}
        }
        Run::new(len, mapping)
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

/// The run of `source` at `offset`: [`BlockSource::map`] with its contract enforced on both sides. What is a hole of the
/// file is zeros, and need not be read.
///
/// # Errors
/// Those of `map` and of the storage, and `Malformed` when a source breaks its contract.
pub fn run_at(source: &dyn BlockSource, offset: u64, limit: u64) -> Result<Run> {
    let first = mapped(source, offset, limit.min(FIRST_LOOK))?;
    let goes_on = first.len == FIRST_LOOK && limit > FIRST_LOOK;
    let Mapping::Stored {
        storage,
        offset: at,
    } = &first.mapping
    else {
        return if goes_on {
            mapped(source, offset, limit)
        } else {
            Ok(first)
        };
    };
    // Behind its end a file has neither data nor holes: reading says so.
    let there = storage.len().saturating_sub(*at);
    if there < first.len {
        return Ok(first);
    }
    // Storages that decrypt have no holes: what the file system reads there as zeros is none when it is decrypted.
    let asked = if goes_on { limit.min(there) } else { first.len };
    let (len, is_data) = storage.extent(*at, asked)?;
    let len = len.clamp(1, asked);
    let run = match len <= first.len {
        true => Run { len, ..first },
        false => mapped(source, offset, len)?,
    };
    Ok(match is_data {
        true => run,
        false => Run::new(run.len, Mapping::Zero),
    })
}

/// Bytes that are mapped before the file is asked for holes: joining goes no further than its answer, however many
/// holes there are.
const FIRST_LOOK: u64 = 2 << 20;

/// [`run_at`] without asking files for holes: for disks that are made of others, so that it is asked once and not by
/// every disk on the way, and for writing, which holes are no bar to.
///
/// # Errors
/// As [`run_at`].
pub(crate) fn mapped(source: &dyn BlockSource, offset: u64, limit: u64) -> Result<Run> {
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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::raw::RawSource;
    use crate::stack::{Stack, Window, Zeros};
    use crate::storage::Storage;

    /// A file of 64 KiB with data from byte 4096 to byte 8192.
    #[derive(Debug)]
    struct Holey;

    impl Storage for Holey {
        fn len(&self) -> u64 {
            65536
        }
        fn path(&self) -> &Path {
            Path::new("holey")
        }
        fn read_at(&self, buf: &mut [u8], _offset: u64) -> Result<()> {
            buf.fill(1);
            Ok(())
        }
        fn extent(&self, offset: u64, limit: u64) -> Result<(u64, bool)> {
            Ok(match offset / 4096 {
                0 => (limit.min(4096 - offset), false),
                1 => (limit.min(8192 - offset), true),
                _ => (limit, false),
            })
        }
    }

    fn runs(source: &dyn BlockSource) -> Vec<(u64, Option<u64>)> {
        let (mut at, mut all) = (0, Vec::new());
        while at < source.size() {
            let run = run_at(source, at, u64::MAX).unwrap();
            at += run.len;
            all.push(match run.mapping {
                Mapping::Stored { offset, .. } => (run.len, Some(offset)),
                _ => (run.len, None),
            });
        }
        all
    }

    #[test]
    fn holes_of_the_file_are_zeros_however_disks_are_put_together() {
        let disk: Arc<dyn BlockSource> = Arc::new(RawSource::new(Arc::new(Holey)));
        let expected = [(4096, None), (4096, Some(4096)), (57344, None)];
        assert_eq!(runs(disk.as_ref()), expected);
        assert_eq!(runs(&Window::new(disk.clone(), 65536)), expected);
        // A hole hides what is below it.
        let below: Arc<dyn BlockSource> = Arc::new(Zeros(65536));
        assert_eq!(runs(&Stack::new(disk, vec![below])), expected);
        let part = RawSource::part(Arc::new(Holey), 6144..10240);
        assert_eq!(runs(&part), [(2048, Some(6144)), (2048, None)]);
    }

    /// A disk that counts how much of it is mapped, over a file of 4 GiB with data and holes by turns.
    struct Costly(StorageRef, std::sync::atomic::AtomicU64);

    #[derive(Debug)]
    struct Turns;

    impl Storage for Turns {
        fn len(&self) -> u64 {
            4 << 30
        }
        fn path(&self) -> &Path {
            Path::new("turns")
        }
        fn read_at(&self, _buf: &mut [u8], _offset: u64) -> Result<()> {
            Ok(())
        }
        fn extent(&self, offset: u64, limit: u64) -> Result<(u64, bool)> {
            let turn = 4 << 20;
            let len = limit.min(turn - offset % turn);
            Ok((len, (offset / turn).is_multiple_of(2)))
        }
    }

    impl BlockSource for Costly {
        fn size(&self) -> u64 {
            self.0.len()
        }
        fn block_size(&self) -> u64 {
            4096
        }
        fn map(&self, offset: u64, limit: u64) -> Result<Run> {
            let order = std::sync::atomic::Ordering::Relaxed;
            self.1.fetch_add(limit, order);
            let storage = self.0.clone();
            Ok(Run::new(limit, Mapping::Stored { storage, offset }))
        }
    }

    #[test]
    fn a_file_of_many_holes_is_not_mapped_to_its_end_for_each() {
        let disk = Costly(Arc::new(Turns), 0.into());
        let runs = runs(&disk);
        assert_eq!(runs.len(), 1024);
        assert_eq!(runs[..2], [(4 << 20, Some(0)), (4 << 20, None)]);
        assert!(disk.1.into_inner() <= 2 * disk.0.len());
    }

    #[test]
    fn behind_the_end_of_the_file_there_is_no_hole() {
        let part = RawSource::part(Arc::new(Holey), 61440..69632);
        assert_eq!(runs(&part), [(8192, Some(61440))]);
    }
}
