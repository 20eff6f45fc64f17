//! Raw images: the bytes of the disk, one after the other, any number of them.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::driver::{Driver, Format, Head, Layer, LayerInfo, OpenContext};
use crate::error::{Error, Result};
use crate::in_place::Plan;
use crate::open::LayerFile;
use crate::options::{OptionSpec, Options};
use crate::source::{BlockSource, Mapping, Run};
use crate::storage::{StorageRef, WritableStorage};
use crate::target::{BlockTarget, Identity, Placement, Summary};

/// A raw image has no blocks of its own: this is the page that file systems allocate.
const BLOCK: u64 = 4096;

/// The sectors of a disk that does not say which it has.
const SECTOR: u32 = 512;

/// Raw disks.
pub struct RawDriver;

impl Driver for RawDriver {
    fn format(&self) -> Format {
        Format::Raw
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["raw", "img", "dd"]
    }

    fn recognises(&self, _head: &Head) -> bool {
        true
    }

    fn open(&self, storage: StorageRef, context: &OpenContext) -> Result<Layer> {
        let source = RawSource {
            sector_size: context.sector_size.unwrap_or(SECTOR),
            ..RawSource::new(storage)
        };
        Ok(Layer {
            source: Arc::new(source),
            info: LayerInfo::new(Format::Raw, "plain"),
            parent: None,
            storages: Vec::new(),
        })
    }

    fn resize(&self, layer: &LayerFile, size: u64) -> Result<Plan> {
        if layer.storage.is_device() {
            return Err(Error::refused("device", "has the size that it has")
                .found(format!("{} bytes", layer.storage.len()))
                .expected(format!("{size} bytes"))
                .hint("resize it with what made it (lvextend, drbdadm resize), then look at its partitions"));
        }
        let mut plan = Plan::new(size);
        plan.set_len(0, size);
        plan.sync();
        Ok(plan)
    }

    fn options(&self) -> &'static [OptionSpec] {
        &[]
    }

    fn target(
        &self,
        size: u64,
        options: &Options,
        _file_name: &Path,
    ) -> Result<Box<dyn BlockTarget>> {
        options.check_uncompressed("raw")?;
        options.check_alone("raw")?;
        Ok(Box::new(RawTarget { size }))
    }
}

/// A storage, or a part of one, that is the disk itself.
pub struct RawSource {
    storage: StorageRef,
    /// The part.
    range: Range<u64>,
    sector_size: u32,
}

impl RawSource {
    /// The disk whose bytes are those of `storage`.
    pub fn new(storage: StorageRef) -> RawSource {
        let all = 0..storage.len();
        RawSource::part(storage, all)
    }

    /// The disk whose bytes are those in `range` of `storage`.
    pub fn part(storage: StorageRef, range: Range<u64>) -> RawSource {
        RawSource {
            storage,
            range,
            sector_size: SECTOR,
        }
    }
}

impl BlockSource for RawSource {
    fn size(&self) -> u64 {
        self.range.end.saturating_sub(self.range.start)
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn block_size(&self) -> u64 {
        BLOCK
    }

    fn map(&self, offset: u64, limit: u64) -> Result<Run> {
        let mapping = Mapping::Stored {
            storage: self.storage.clone(),
            offset: self.range.start.saturating_add(offset),
        };
        Ok(Run::new(limit, mapping))
    }
}

struct RawTarget {
    size: u64,
}

impl BlockTarget for RawTarget {
    fn size(&self) -> u64 {
        self.size
    }

    fn block_size(&self) -> u64 {
        BLOCK
    }

    fn sector_size(&self) -> Option<u32> {
        None
    }

    fn is_sequential(&self) -> bool {
        true
    }

    fn exact_length(&self) -> Option<u64> {
        Some(self.size)
    }

    fn place(&mut self, guest_offset: u64, len: u64) -> Result<Placement> {
        Ok(Placement {
            offset: guest_offset,
            len,
        })
    }

    fn zero(&mut self, guest_offset: u64, len: u64) -> Result<Option<Range<u64>>> {
        Ok(Some(guest_offset..guest_offset + len))
    }

    fn finish(self: Box<Self>, _identity: &Identity, out: &dyn WritableStorage) -> Result<Summary> {
        out.set_len(self.size)?;
        Ok(Summary {
            file_size: self.size,
        })
    }
}
