//! Looking through an image for damage, without reading what carries no mark of being whole.

use std::sync::Arc;

use std::sync::atomic::Ordering;

use formats::{
    BlockSource, CheckReport, Driver, InPlace, Mapping, OpenContext, Repaired,
    Result as FormatResult, Run, StorageRef,
};

use crate::error::{Error, Result};
use crate::pass::{self, Setting, Wanted};
use crate::salvage::{Losses, Salvage};

/// Which compressed units are unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unpack {
    /// Those that carry a checksum.
    Checksummed,
    /// All of them.
    All,
}

/// Asks `source` for its whole map and unpacks what is compressed; what is plain is not read.
///
/// # Errors
/// `Interrupted`. Damage is no error, it is the answer.
pub fn check(
    source: &Arc<dyn BlockSource>,
    unpack: Unpack,
    setting: &Setting<'_>,
) -> Result<Losses> {
    let salvage = Salvage::default();
    let setting = Setting {
        salvage: Some(&salvage),
        ..*setting
    };
    let packed = PackedOnly(source.clone(), unpack);
    pass::run(&packed, &Wanted::default(), None, &setting)?;
    Ok(salvage.losses())
}

/// [`Driver::check`], stopped by the setting's `cancel`.
///
/// # Errors
/// `Interrupted`, and those of the driver.
pub fn check_structures(
    driver: &dyn Driver,
    storage: &StorageRef,
    context: &OpenContext,
    setting: &Setting<'_>,
) -> Result<CheckReport> {
    unless_cancelled(driver.check(storage, context, setting.cancel), setting)
}

/// [`Driver::repair`], stopped by the setting's `cancel`.
///
/// # Errors
/// `Interrupted`, and those of the driver.
pub fn repair(
    driver: &dyn Driver,
    storage: &StorageRef,
    out: &dyn InPlace,
    setting: &Setting<'_>,
) -> Result<Repaired> {
    unless_cancelled(driver.repair(storage, out, setting.cancel), setting)
}

fn unless_cancelled<T>(result: FormatResult<T>, setting: &Setting<'_>) -> Result<T> {
    result.map_err(|error| match setting.cancel.load(Ordering::Relaxed) {
        true => Error::Interrupted,
        false => error.into(),
    })
}

/// A disk of which only compressed units are read.
struct PackedOnly(Arc<dyn BlockSource>, Unpack);

impl BlockSource for PackedOnly {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn sector_size(&self) -> u32 {
        self.0.sector_size()
    }

    fn block_size(&self) -> u64 {
        self.0.block_size()
    }

    fn map(&self, offset: u64, limit: u64) -> FormatResult<Run> {
        let mut run = self.0.map(offset, limit)?;
        let is_read = match &run.mapping {
            Mapping::Packed { codec, .. } => self.1 == Unpack::All || codec.has_checksum(),
            Mapping::Stored { .. } => false,
            Mapping::Zero | Mapping::Absent => true,
        };
        if !is_read {
            run.mapping = Mapping::Zero;
        }
        Ok(run)
    }
}
