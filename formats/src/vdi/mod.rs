//! VirtualBox's Virtual Disk Image: dynamic, fixed, undo and differencing, read; dynamic and fixed, written.
//!
//! Little-endian. The order of reading: the header ([`header`]) says which kind it is and where the rest stands; the block
//! map ([`block_map`]) at which place of the file each block of the disk stands.
//!
//! ```text
//!  ┌────────┬───────────┬───────┬─────────┬───────┬─────────┬─────
//!  │ header │ block map │ extra │ block 0 │ extra │ block 1 │ …      numbered as they stand in the file
//!  └────────┴─────┼─────┴───────┴─────────┴───────┴─────────┴─────
//!  0              │             ▲ data offset + number × (extra + block size) + extra
//!                 └─ number of the block ─┘
//! ```
//!
//! | an entry of the block map | dynamic, fixed | undo, differencing |
//! |---|---|---|
//! | 0xFFFFFFFF: never written | zero | absent: the parent's |
//! | 0xFFFFFFFE: given back | zero | zero |
//! | a number below the count of allocated blocks | that block | that block |
//!
//! A child knows its parent by its id alone: it is looked for among the `.vdi` files in the child's folder and in those
//! that the user allows.
//!
//! What is written is laid out as by VirtualBox, in blocks of 1 MiB: QEMU takes no others. Holes are "never written", as
//! VirtualBox has them: nobody gave them back. The size is a multiple of 512, since VirtualBox cuts what is left over.
//!
//! The facts are those of VirtualBox (`VDICore.h`, `VDI.cpp`) and QEMU (`block/vdi.c`).

mod allocate;
pub mod block_map;
mod check;
pub mod header;
mod layer;
mod resize;
pub mod source;
pub mod target;

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use self::header::{ImageType, SECTOR, SIGNATURE, SIGNATURE_OFFSET};
use crate::driver::{CheckReport, Driver, Format, Head, Layer, LayerInfo, OpenContext};
use crate::error::Result;
use crate::in_place::Plan;
use crate::open::LayerFile;
use crate::options::{OptionSpec, Options};
use crate::storage::StorageRef;
use crate::target::BlockTarget;

const OPTIONS: &[OptionSpec] = &[OptionSpec {
    key: "subformat",
    values: "dynamic|fixed",
    default: "dynamic",
    help: "dynamic: only blocks with content take room; fixed: the whole disk does",
}];

/// VirtualBox's disk images.
pub struct VdiDriver;

impl Driver for VdiDriver {
    fn format(&self) -> Format {
        Format::Vdi
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["vdi"]
    }

    fn recognises(&self, head: &Head) -> bool {
        head.has(SIGNATURE_OFFSET, &SIGNATURE)
    }

    fn open(&self, storage: StorageRef, context: &OpenContext) -> Result<Layer> {
        layer::open(storage, context)
    }

    fn parent_doubt(&self, child: &LayerInfo, parent: &LayerInfo) -> Option<String> {
        layer::parent_doubt(child, parent)
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
        allocate::allocate(&layer.storage, range)
    }

    fn options(&self) -> &'static [OptionSpec] {
        OPTIONS
    }

    fn target(
        &self,
        size: u64,
        options: &Options,
        _file_name: &Path,
    ) -> Result<Box<dyn BlockTarget>> {
        options.check_uncompressed("vdi")?;
        options.check_alone("vdi")?;
        let kinds = [
            ("dynamic", ImageType::Dynamic),
            ("fixed", ImageType::Static),
        ];
        let image_type = options.choice("subformat", &kinds)?;
        // A size that cannot be rounded up is over every limit.
        target::new(
            size.checked_next_multiple_of(SECTOR).unwrap_or(size),
            image_type,
        )
    }
}
