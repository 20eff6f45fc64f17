//! VMware Virtual Machine Disk: every kind that VMware products make, read; the usual ones, written.
//!
//! A VMDK is a text, the descriptor, and the extents that it names, one after the other. The descriptor is a file of its
//! own, or stands inside the only extent.
//!
//! ```text
//!  web.vmdk (descriptor)            web-s001.vmdk   hosted sparse: KDMV, grain directory, grain tables, grains
//!    RW 4192256 SPARSE ─────────────► web-s002.vmdk
//!    RW 2048 ZERO                     web-flat.vmdk   the bytes as they are
//!    RW 8192 FLAT … offset ─────────► web-delta.vmdk  COWD: the copy-on-write disks of ESX
//!    parentFileNameHint ──► parent    web-sesparse.vmdk  seSparse: those of newer ESXi
//!
//!  sparse extents, all kinds:   guest sector ─► directory entry ─► grain table entry ─► grain
//!
//!  monolithicSparse   ┌──────┬──────────┬─────────┬────────┬───────────────────────────────┐
//!                     │header│descriptor│ RGD+GTs │ GD+GTs │ grains                        │
//!                     └──────┴──────────┴─────────┴────────┴───────────────────────────────┘
//!  streamOptimized    ┌──────┬──────────┬───────────────────────────┬──────────┬──┬──────┬───┐
//!  (tables at the end)│header│descriptor│ marker+deflated grain, …  │ marker+GT│GD│footer│EOS│
//!                     └──────┴──────────┴───────────────────────────┴──────────┴──┴──────┴───┘
//! ```
//!
//! The facts are those of VMware's "Virtual Disk Format 5.0", and for COWD and seSparse of what QEMU, libvmdk and
//! dissect found out. A grain that SCSI UNMAP freed in a seSparse extent reads as zeros, as in QEMU.

mod allocate;
mod check;
mod cowd;
pub mod descriptor;
mod directory;
mod extent_line;
mod extents;
mod grains;
mod header;
mod hosted;
mod layer;
mod marker;
mod new_image;
mod rebuild;
mod resize;
mod resized_text;
mod sesparse;
mod sparse_layout;
mod target_extents;
mod target_stream;

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use self::new_image::{NewImage, OPTIONS, Subformat};
use self::target_extents::ExtentsTarget;
use self::target_stream::StreamTarget;
use crate::driver::{CheckReport, Driver, Format, Head, Layer, OpenContext};
use crate::error::Result;
use crate::in_place::Plan;
use crate::open::LayerFile;
use crate::options::{OptionSpec, Options};
use crate::storage::StorageRef;
use crate::target::BlockTarget;

/// Bytes of a sector, the unit of everything in a VMDK.
pub const SECTOR: u64 = 512;

/// Sectors that a disk, or an offset in a file, may have: 2^62 bytes, so that sums of two do not overflow.
pub const MAX_SECTORS: u64 = 1 << 53;

/// VMware disks.
pub struct VmdkDriver;

impl Driver for VmdkDriver {
    fn format(&self) -> Format {
        Format::Vmdk
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["vmdk"]
    }

    fn recognises(&self, head: &Head) -> bool {
        layer::Kind::of(&head.first).is_some()
    }

    fn open(&self, storage: StorageRef, context: &OpenContext) -> Result<Layer> {
        layer::open(&storage, context)
    }

    fn check(
        &self,
        storage: &StorageRef,
        context: &OpenContext,
        _cancel: &AtomicBool,
    ) -> Result<CheckReport> {
        Ok(check::check(storage, context)?.into())
    }

    fn resize(&self, layer: &LayerFile, size: u64) -> Result<Plan> {
        resize::resize(layer, size)
    }

    fn allocate(&self, layer: &LayerFile, range: Range<u64>) -> Result<Plan> {
        allocate::allocate(layer, range)
    }

    fn options(&self) -> &'static [OptionSpec] {
        OPTIONS
    }

    fn target(
        &self,
        size: u64,
        options: &Options,
        file_name: &Path,
    ) -> Result<Box<dyn BlockTarget>> {
        options.check_alone("vmdk")?;
        let image = NewImage::new(size, options, file_name)?;
        Ok(match image.subformat {
            Subformat::StreamOptimized => Box::new(StreamTarget::new(image)?),
            _ => Box::new(ExtentsTarget::new(image)?),
        })
    }
}
