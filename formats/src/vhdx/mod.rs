//! Microsoft's VHDX: fixed, dynamic and differencing, read and written.
//!
//! Little-endian, at most 64 TiB; log, regions and blocks each stand on a whole MiB, in any order.
//!
//! ```text
//!  0            64 KiB     128 KiB    192 KiB   256 KiB       1 MiB   2 MiB      3 MiB
//! ┌────────────┬──────────┬──────────┬─────────┬─────────────┬───────┬──────────┬───────┬─────────┬─────────┬───
//! │ identifier │ header 1 │ header 2 │ regions │ regions (2) │  log  │ metadata │  BAT  │ block 0 │ block 3 │ …
//! └────────────┴───┬──────┴──────────┴────┬────┴─────────────┴───▲───┴────▲─────┴─▲──┬──┴─────────┴─────▲───┴───
//!                  └──────────────────────┼──────────────────────┘        │       │  └──────────────────┘
//!                                         └───────────────────────────────┴───────┘
//! ```
//!
//! The order of reading: of both headers ([`header`]) one counts; it says where the log stands. What the log says is
//! laid over the file ([`log`]), and everything else is read from that: the region table, the metadata, the BAT. The
//! picture is what is written here; only what is left of the log has a fixed place.
//!
//! | state of a block | dynamic, fixed | differencing |
//! |---|---|---|
//! | not present | zero | absent: the parent's |
//! | undefined, zero, unmapped | zero | zero |
//! | fully present | stored | stored |
//! | partially present | malformed | by sector: stored or absent |
//!
//! | file | what it holds |
//! |---|---|
//! | `file_identifier`, `header`, `region_table`, `metadata_table`, `metadata`, `parent_locator`, `bat` | the structures |
//! | `guid`, `checksum` | what several of them have |
//! | `log` | entries, finding those that count, the file with them replayed |
//! | `layer`, `source`, `info` | opening, the map, what `info` shows |
//! | `check` | what reading does not show |
//! | `resize` | another size for a disk that is there |
//! | `new_image`, `bat_writer`, `target`, `target_fixed`, `target_differencing` | laying out a new image |
//!
//! The facts are those of [MS-VHDX], and of what QEMU and disk2vhd do where they differ from it.

pub mod bat;
mod bat_writer;
mod check;
mod checksum;
pub mod file_identifier;
mod guid;
pub mod header;
mod info;
mod layer;
pub mod log;
pub mod metadata;
pub mod metadata_table;
mod new_image;
pub mod parent_locator;
pub mod region_table;
mod resize;
pub mod source;
pub mod target;
pub mod target_differencing;
pub mod target_fixed;

#[cfg(test)]
mod tests;

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use self::new_image::NewImage;
use self::target::DynamicTarget;
use self::target_differencing::DifferencingTarget;
use self::target_fixed::FixedTarget;
use crate::driver::{CheckReport, Driver, Format, Head, Layer, OpenContext};
use crate::error::Result;
use crate::in_place::Plan;
use crate::open::LayerFile;
use crate::options::{OptionSpec, Options};
use crate::storage::StorageRef;
use crate::target::BlockTarget;

/// VHDX images.
pub struct VhdxDriver;

impl Driver for VhdxDriver {
    fn format(&self) -> Format {
        Format::Vhdx
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["vhdx", "avhdx"]
    }

    fn recognises(&self, head: &Head) -> bool {
        head.has(0, &file_identifier::SIGNATURE)
    }

    fn open(&self, storage: StorageRef, context: &OpenContext) -> Result<Layer> {
        layer::open(storage, context)
    }

    fn check(
        &self,
        storage: &StorageRef,
        context: &OpenContext,
        cancel: &AtomicBool,
    ) -> Result<CheckReport> {
        check::check(storage, context, cancel)
    }

    fn resize(&self, layer: &LayerFile, size: u64) -> Result<Plan> {
        resize::resize(&layer.storage, size)
    }

    fn allocate(&self, layer: &LayerFile, range: Range<u64>) -> Result<Plan> {
        resize::allocate(&layer.storage, range)
    }

    fn options(&self) -> &'static [OptionSpec] {
        new_image::OPTIONS
    }

    fn target(
        &self,
        size: u64,
        options: &Options,
        _file_name: &Path,
    ) -> Result<Box<dyn BlockTarget>> {
        let image = NewImage::new(size, options)?;
        Ok(if image.is_fixed {
            Box::new(FixedTarget::new(image))
        } else if image.layout.is_differencing {
            Box::new(DifferencingTarget::new(image))
        } else {
            Box::new(DynamicTarget::new(image))
        })
    }
}
