//! The map of a disk in an XVA.

use std::sync::Arc;

use super::index::Disk;
use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::source::{BlockSource, Mapping, Run};
use crate::storage::StorageRef;

/// A disk in blocks that are summed one by one.
#[derive(Debug)]
pub struct XvaSource {
    storage: StorageRef,
    disk: Arc<Disk>,
    size: u64,
}

impl XvaSource {
    /// The disk of `size` bytes (its VDI's `virtual_size`) whose blocks stand in `storage`.
    ///
    /// # Errors
    /// `Malformed` when the first or the last block is missing, or blocks go beyond the disk.
    pub fn new(storage: StorageRef, disk: Arc<Disk>, size: u64) -> Result<XvaSource> {
        let wrong = |what: &'static str| {
            Error::malformed("XVA disk", what)
                .found(format!(
                    "{}: blocks up to byte {}",
                    disk.reference, disk.end
                ))
                .expected(format!("a disk of {size} bytes"))
                .in_file(storage.path())
        };
        if disk.end > size {
            return Err(wrong("has blocks beyond its end"));
        }
        if size > 0 && !disk.has_first {
            return Err(
                wrong("its first block is missing").hint("the export is not whole: make it again")
            );
        }
        if disk.end < size {
            return Err(
                wrong("its last block is missing").hint("the export was cut off: make it again")
            );
        }
        Ok(XvaSource {
            storage,
            disk,
            size,
        })
    }
}

impl BlockSource for XvaSource {
    fn size(&self) -> u64 {
        self.size
    }

    fn block_size(&self) -> u64 {
        super::BLOCK
    }

    fn map(&self, offset: u64, limit: u64) -> Result<Run> {
        let next = self.disk.stretches.partition_point(|s| s.end() <= offset);
        let Some(stretch) = self.disk.stretches.get(next) else {
            return Ok(Run::new(limit, Mapping::Zero));
        };
        if offset < stretch.guest {
            return Ok(Run::new(limit.min(stretch.guest - offset), Mapping::Zero));
        }
        let within = offset - stretch.guest;
        let (block, skip) = (within / stretch.len, within % stretch.len);
        let at = stretch.file + block * stretch.stride;
        let left = stretch.len - skip;
        let mapping = match stretch.checksum {
            // A block has at most 2 MiB.
            Some(checksum) => Mapping::Packed {
                storage: self.storage.clone(),
                offset: at,
                len: checksum.unit_len(stretch.len) as u32,
                codec: Codec::Summed(checksum),
                unit: stretch.len as u32,
                least: stretch.len as u32,
                skip: skip as u32,
            },
            None => Mapping::Stored {
                storage: self.storage.clone(),
                offset: at + skip,
            },
        };
        Ok(Run::new(limit.min(left), mapping))
    }
}
