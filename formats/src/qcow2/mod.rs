//! qcow2, QEMU's copy-on-write images, versions 2 and 3 ("compat 0.10" and "1.1").
//!
//! ```text
//!  cluster 0          1             2            3         4       5         …      n-2         n-1
//! ┌─────────────────┬─────────────┬────────────┬─────────┬───────┬─────────┬─────┬───────────┬────────────────┐
//! │ header          │ L1 table    │ L2 table   │ data    │ data  │ L2      │ …   │ refcount  │ refcount table │
//! │ extensions      │ 8 bytes per │ 8 or 16    │         │       │         │     │ blocks    │ 8 bytes per    │
//! │ backing name    │ L2 table    │ per cluster│         │       │         │     │ 2 per     │ refcount block │
//! └─────────────────┴──────┬──────┴─▲───┬──────┴──▲──────┴───────┴─────────┴─────┴─cluster───┴────────────────┘
//!                          └────────┘   └─────────┘
//!                          guest offset → L1 entry → L2 entry → cluster
//! ```
//!
//! Only the header has a fixed place; the picture is what [`target`] writes. Everything is big-endian, and every table
//! starts with a cluster. An L2 entry is *standard* (a whole cluster, nothing, or zeros), *compressed* (a byte range
//! that unpacks to a cluster) or, in images with extended L2, says it for each of 32 *subclusters*. Data clusters may
//! stand in another file, the *external data file*.
//!
//! | file | what it holds |
//! |---|---|
//! | `header`, `features`, `extensions` | cluster 0, structure by structure |
//! | `encryption` | the way to the LUKS header, and the decrypted clusters |
//! | `l1`, `l2` | what the entries of the two tables mean |
//! | `refcount` | how often a cluster is used: looked up, and written |
//! | `snapshots`, `bitmaps` | the lists of internal snapshots and of persistent bitmaps |
//! | `source` | from tables to runs |
//! | `snapshots`, `bitmaps` | older states of the disk; what was written since |
//! | `layer` | opening: from the structures to a [`Layer`] |
//! | `new_image` | the options of a new image |
//! | `check` | every use of every cluster against the refcounts; repairing them |
//! | `resize`, `allocate`, `new_clusters` | another size for an image that is there; clusters behind its end |
//! | `target`, `packed_space`, `packer` | laying out a new image; compressed clusters |
//!
//! Sources: QEMU's `docs/interop/qcow2.rst` ("qcow2 spec" in comments). Of encrypted images only those
//! with LUKS are read. Internal snapshots are read on request, and refcounts are looked at only to tell shared clusters
//! from damage.

mod allocate;
mod bitmaps;
mod check;
mod encryption;
mod extensions;
mod features;
mod header;
mod l1;
mod l2;
mod layer;
mod new_clusters;
mod new_image;
mod packed_space;
mod packer;
mod refcount;
mod resize;
mod snapshots;
mod source;
pub mod target;

#[cfg(test)]
mod tests;

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use crate::driver::{CheckReport, Driver, Format, Head, Layer, OpenContext, Repaired};
use crate::error::Result;
use crate::in_place::{InPlace, Plan};
use crate::open::LayerFile;
use crate::options::{OptionSpec, Options};
use crate::storage::StorageRef;
use crate::target::BlockTarget;

/// qcow2 images.
pub struct Qcow2Driver;

impl Driver for Qcow2Driver {
    fn format(&self) -> Format {
        Format::Qcow2
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["qcow2", "qcow"]
    }

    fn recognises(&self, head: &Head) -> bool {
        header::recognises(&head.first)
    }

    fn open(&self, storage: StorageRef, context: &OpenContext) -> Result<Layer> {
        layer::open(storage, context)
    }

    fn dirty_ranges(
        &self,
        storage: &StorageRef,
        bitmap: &str,
        visit: &mut dyn FnMut(Range<u64>),
    ) -> Result<()> {
        layer::dirty_ranges(storage, bitmap, visit)
    }

    fn check(
        &self,
        storage: &StorageRef,
        _context: &OpenContext,
        cancel: &AtomicBool,
    ) -> Result<CheckReport> {
        check::check(storage, cancel)
    }

    fn repair(
        &self,
        storage: &StorageRef,
        out: &dyn InPlace,
        cancel: &AtomicBool,
    ) -> Result<Repaired> {
        check::repair(storage, out, cancel)
    }

    fn resize(&self, layer: &LayerFile, size: u64) -> Result<Plan> {
        resize::resize(layer, size)
    }

    fn allocate(&self, layer: &LayerFile, range: Range<u64>) -> Result<Plan> {
        allocate::allocate(&layer.storage, range)
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
        Ok(Box::new(target::QcowTarget::new(size, options)?))
    }
}
