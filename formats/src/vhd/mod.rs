//! Microsoft Virtual Hard Disk: fixed, dynamic and differencing, read and written.
//!
//! Big-endian, in sectors of 512 bytes, at most 2040 GiB. The order of reading: the footer ([`find`]) says which kind
//! it is; the dynamic header where the BAT stands and how large blocks are; the BAT where each block stands; the bitmap
//! in front of a block which of its sectors were written.
//!
//! ```text
//!  fixed    ┌──────────────────────────────────────────────────┬────────┐
//!           │ the disk, byte for byte                          │ footer │
//!           └──────────────────────────────────────────────────┴────────┘
//!           0                                                size   size + 512
//!
//!  dynamic, ┌────────┬─────────┬─────┬──────────┬────────┬───────┬───────┬─────────┬────────┐
//!  differ-  │ footer │ dynamic │ BAT │ (parent  │ bitmap │ block │ bitmap│  block  │ footer │
//!  encing   │ (copy) │ header  │  │  │ locators)│        │   2   │       │    0    │        │
//!           └────────┴─────────┴──┼──┴──────────┴────────┴───────┴───────┴─────────┴────────┘
//!           0       512      1536 └─ sector of the bitmap ─▲
//! ```
//!
//! | a sector that was not written | dynamic | differencing |
//! |---|---|---|
//! | its block has no place | zero | absent: the parent's |
//! | its block has one, its bit is clear | zero | absent: the parent's |
//!
//! Written files follow the specification with two habits of XenServer's, which no reader minds: the data of a block
//! starts on a page of 4096 bytes, and the size is exact while the geometry is rounded down.
//!
//! The facts are those of Microsoft's "Virtual Hard Disk Image Format Specification", and of what libvhd, QEMU and
//! Virtual PC do where it says nothing.

mod allocate;
pub mod bat;
mod checksum;
pub mod dynamic_header;
pub mod find;
pub mod footer;
pub mod geometry;
pub mod in_place;
mod info;
pub mod locator;
mod new_blocks;
mod resize;
pub mod source;
pub mod target_differencing;
pub mod target_dynamic;
pub mod target_fixed;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

use self::bat::{Bat, BlockLayout};
use self::dynamic_header::DynamicHeader;
use self::footer::{DiskType, Footer, MAX_DISK_SIZE};
use self::locator::ParentLocator;
use self::new_blocks::BLOCK_SIZES;
use self::source::SparseSource;
use self::target_differencing::{DifferencingTarget, Parent};
use self::target_dynamic::DynamicTarget;
use self::target_fixed::FixedTarget;
use crate::driver::{
    Driver, Format, Head, ImageId, Layer, LayerInfo, OpenContext, ParentReference,
};
use crate::error::{Error, Result};
use crate::in_place::{Allocation, Ids, Plan};
use crate::open::LayerFile;
use crate::options::{OptionSpec, Options, bad_value};
use crate::raw::RawSource;
use crate::reference;
use crate::sector_bitmap::{BitOrder, SectorBitmaps};
use crate::source::Mapping;
use crate::storage::{SliceStorage, Storage, StorageRef};
use crate::target::BlockTarget;

const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        key: "subformat",
        values: "dynamic|fixed",
        default: "dynamic",
        help: "dynamic: only blocks with content take room; fixed: the whole disk does (Azure wants that)",
    },
    OptionSpec {
        key: "block_size",
        values: "64k to 2M, a power of two",
        default: "2M",
        help: "unit in which a dynamic disk takes room; Hyper-V expects 2M",
    },
];

/// Virtual Hard Disks.
pub struct VhdDriver;

impl Driver for VhdDriver {
    fn format(&self) -> Format {
        Format::Vhd
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["vhd", "avhd"]
    }

    fn recognises(&self, head: &Head) -> bool {
        find::recognises(head)
    }

    fn open(&self, storage: StorageRef, context: &OpenContext) -> Result<Layer> {
        let found = find::find(storage.as_ref(), context.salvage)?;
        match found.footer.disk_type {
            DiskType::Fixed => open_fixed(storage, found),
            _ => open_sparse(storage, found, context.salvage),
        }
    }

    fn resize(&self, layer: &LayerFile, size: u64, _ids: Ids) -> Result<Plan> {
        resize::resize(&layer.storage, size)
    }

    fn allocate(&self, layer: &LayerFile, wanted: &Allocation) -> Result<Plan> {
        allocate::allocate(&layer.storage, wanted)
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
        options.check_uncompressed("vhd")?;
        let size = disk_size(size)?;
        let kinds = [("dynamic", DiskType::Dynamic), ("fixed", DiskType::Fixed)];
        let fixed = options.choice("subformat", &kinds)? == DiskType::Fixed;
        let block_size = options.size("block_size", *BLOCK_SIZES.end())?;
        if let Some(text) = options.get("block_size") {
            if fixed {
                return Err(bad_value(
                    "block_size",
                    text,
                    "none: a fixed disk has no blocks",
                ));
            }
            if !block_size.is_power_of_two() || !BLOCK_SIZES.contains(&block_size) {
                return Err(bad_value(
                    "block_size",
                    text,
                    "a power of two from 64k to 2M",
                ));
            }
        }
        if let Some(backing) = options.backing() {
            if fixed {
                return Err(Error::usage("-B", "is not possible with subformat=fixed"));
            }
            let parent = Parent::new(backing)?;
            return Ok(Box::new(DifferencingTarget::new(size, block_size, parent)?));
        }
        Ok(if fixed {
            Box::new(FixedTarget::new(size))
        } else {
            Box::new(DynamicTarget::new(size, block_size)?)
        })
    }
}

/// The size that a disk of `size` bytes has in a VHD: whole sectors.
fn disk_size(size: u64) -> Result<u64> {
    match size.checked_next_multiple_of(512) {
        Some(0) => Err(
            Error::unsupported("disk", "a VHD cannot hold a disk of no size")
                .found("0 bytes")
                .expected("at least 1 byte"),
        ),
        Some(rounded) if rounded <= MAX_DISK_SIZE => Ok(rounded),
        _ => Err(Error::limit("disk", "is too large for a VHD")
            .found(format!("{size} bytes"))
            .expected(format!("at most {MAX_DISK_SIZE} bytes (2040 GiB)"))),
    }
}

fn open_fixed(storage: StorageRef, found: find::Found) -> Result<Layer> {
    let size = found.footer.current_size;
    let mut info = info::footer_info(&found.footer, found.warnings);
    if size > found.data_end {
        return Err(
            Error::truncated("fixed disk", "the file is shorter than its disk")
                .found(format!("{} bytes before the footer", found.data_end))
                .expected(format!("{size} bytes"))
                .hint("the file is damaged, or only its end; find the whole one"),
        );
    }
    if size < found.data_end {
        info.warnings.push(format!(
            "{} bytes between the end of the disk and the footer belong to nobody and are not read",
            found.data_end - size
        ));
    }
    let disk = SliceStorage::new(storage, 0, size)?;
    Ok(Layer {
        source: Arc::new(RawSource::new(Arc::new(disk))),
        info,
        parent: None,
        storages: Vec::new(),
    })
}

fn open_sparse(storage: StorageRef, mut found: find::Found, salvage: bool) -> Result<Layer> {
    let footer = &found.footer;
    let header = DynamicHeader::read(
        storage.as_ref(),
        footer.data_offset,
        salvage,
        &mut found.warnings,
    )?;
    let layout = BlockLayout::new(footer, &header, found.data_end)?;
    let bitmaps = SectorBitmaps::new(storage.clone(), layout.bitmap_len, bit_order(footer));
    let bat = Bat::open(storage.clone(), layout, salvage, &mut found.warnings)?;
    let mut info = info::footer_info(footer, std::mem::take(&mut found.warnings));
    info::add_header(&mut info, &header, &bat);
    let (parent, unwritten) = match footer.disk_type {
        DiskType::Differencing => {
            let parent = parent_reference(storage.as_ref(), &header, &mut info)?;
            (Some(parent), Mapping::Absent)
        }
        _ => {
            if header.mentions_parent() {
                info.warnings.push(
                    "the dynamic header names a parent, but the disk is not differencing: it was not looked at"
                        .to_owned(),
                );
            }
            (None, Mapping::Zero)
        }
    };
    Ok(Layer {
        source: Arc::new(SparseSource::new(storage, bat, bitmaps, unwritten)),
        info,
        parent,
        storages: Vec::new(),
    })
}

/// Whether version 0.1 of XenServer's `tap` made it.
fn is_old_tap(footer: &Footer) -> bool {
    footer.creator_application == *b"tap\0" && footer.creator_version == 1
}

/// Version 0.1 of XenServer's `tap` wrote its bitmaps in the byte order of the machine.
fn bit_order(footer: &Footer) -> BitOrder {
    if is_old_tap(footer) {
        BitOrder::LowestFirst
    } else {
        BitOrder::HighestFirst
    }
}

/// The parent of a differencing disk: relative Windows names first, then the other locators in their order, then the
/// name in the header.
fn parent_reference(
    storage: &dyn Storage,
    header: &DynamicHeader,
    info: &mut LayerInfo,
) -> Result<ParentReference> {
    let relative_first = [true, false].into_iter().flat_map(|relative| {
        let of_kind = move |l: &&ParentLocator| (l.code == *b"W2ru") == relative;
        header.locators.iter().filter(of_kind)
    });
    let paths = relative_first
        .filter_map(|locator| locator.path(storage))
        .chain(locator::parent_name_path(&header.parent_name));
    let mut names = Vec::new();
    for name in paths.flat_map(|path| reference::candidates(&path)) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    if names.is_empty() {
        return Err(Error::malformed(
            "parent locator",
            "the disk is differencing, but names no parent that can be read",
        ));
    }
    // XenServer's mark for a parent that is a raw disk, which has no id to check.
    let raw = header.parent_id == [0; 16];
    if raw {
        info.warnings.push(
            "the parent has no id: it was taken for a raw disk, and nothing says that it is the right one"
                .to_owned(),
        );
    }
    Ok(ParentReference {
        names,
        structure: "parent locator",
        format: Some(if raw { Format::Raw } else { Format::Vhd }),
        identities: match raw {
            true => Vec::new(),
            false => vec![ImageId::Uuid(Uuid::from_bytes(header.parent_id))],
        },
        sector_size: None,
        modified: (header.parent_timestamp != 0)
            .then(|| footer::unix_time(header.parent_timestamp)),
    })
}
