//! Another size for an image where it stands.
//!
//! The size and the places of the L1 and the refcount table stand in one sector of the header: they change together. What
//! does not fit any more is made anew behind the end of the file before; what is not used any more is freed afterwards. In
//! between, a crash loses space and nothing else.
//!
//! ```text
//!   1. new L1 table, new refcount blocks and table     nobody knows of them
//!   2. refcounts of all that, in the blocks there are  leaks
//!   3. header                                          old or new
//!   4. refcounts of what is free now                   leaks before
//! ```

use super::extensions::Extensions;
use super::features::{BITMAPS, CORRUPT, DIRTY, RAW_EXTERNAL};
use super::header::{FULL_LENGTH, Header};
use super::new_clusters::NewClusters;
use super::snapshots;
use crate::error::{Error, Result};
use crate::in_place::Plan;
use crate::open::LayerFile;
use crate::raw::RawSource;
use crate::resize::first_data;
use crate::storage::{Storage, StorageRef};

/// Bytes of the header that change: from the size to the number of refcount table clusters.
const CHANGED: std::ops::Range<usize> = 24..60;

/// How the image in `layer` gets `size` bytes, rounded up to sectors.
///
/// # Errors
/// `Limit` for an L1 table of more than 32 MiB; `Refused` for an image that is damaged, or has bitmaps, or snapshots that
/// do not say their size.
pub fn resize(layer: &LayerFile, size: u64) -> Result<Plan> {
    let storage = &layer.storage;
    let mut first = vec![0; storage.len().min(FULL_LENGTH as u64) as usize];
    storage.read_at(&mut first, 0)?;
    let header = Header::parse(&first)?;
    let extensions = Extensions::read(storage.as_ref(), &header)?;
    refuse(storage.as_ref(), &header, &extensions)?;
    // QEMU counts in sectors.
    let Some(size) = size.checked_next_multiple_of(512) else {
        return Err(Error::limit("disk", "would be larger than any disk").found(size));
    };
    let mut plan = Plan::new(size);
    plan.is_shared = header.snapshots > 0;
    let mut new = Header {
        size,
        ..header.clone()
    };
    if header.autoclear & RAW_EXTERNAL != 0 {
        set_data_len(&mut plan, layer, header.size, size)?;
    }
    let needed = new.l1_entries_needed();
    let Some(entries) = u32::try_from(needed)
        .ok()
        .filter(|entries| *entries > new.l1_entries)
    else {
        new.check_tables()?;
        write_header(&mut plan, &new);
        return Ok(plan);
    };
    new.l1_entries = entries;
    new.check_tables()?;
    with_larger_l1(&mut plan, storage, &header, new)?;
    Ok(plan)
}

fn refuse(storage: &dyn Storage, header: &Header, extensions: &Extensions) -> Result<()> {
    let refused = |why: &'static str| Error::refused("image", why);
    if header.has(DIRTY) || header.has(CORRUPT) {
        return Err(refused("is marked as dirty or corrupt")
            .hint("\"qemu-img check -r all\" looks after it"));
    }
    if header.autoclear & !(BITMAPS | RAW_EXTERNAL) != 0 {
        return Err(refused("has features that are not known here")
            .found(format!("autoclear features {:#x}", header.autoclear)));
    }
    if extensions.bitmaps.is_some() {
        return Err(refused("has dirty bitmaps, which are made for its size")
            .hint("remove them with \"qemu-img bitmap --remove\""));
    }
    if header.snapshots == 0 {
        return Ok(());
    }
    let snapshots = snapshots::all(storage, header)?;
    if header.version < 3 || snapshots.iter().any(|s| s.disk_size.is_none()) {
        return Err(
            refused("has snapshots that do not say the size of their disk").hint(
                "delete them, or make it a version 3 image with \"qemu-img amend -o compat=1.1\"",
            ),
        );
    }
    Ok(())
}

/// A raw data file is the disk: it has its length.
fn set_data_len(plan: &mut Plan, layer: &LayerFile, old: u64, size: u64) -> Result<()> {
    let Some(data) = layer.further.first() else {
        return Ok(());
    };
    let end = data.len().min(size);
    let hidden = match end > old {
        true => first_data(&RawSource::new(data.clone()), old..end)?,
        false => None,
    };
    if let Some(at) = hidden {
        return Err(
            Error::refused("data file", "holds something behind the end of the disk")
                .at(at)
                .in_file(data.path()),
        );
    }
    if size > data.len() {
        plan.set_len(1, size);
        plan.sync();
    }
    Ok(())
}

pub(super) fn write_header(plan: &mut Plan, header: &Header) {
    let bytes = header.to_bytes();
    let changed = bytes.get(CHANGED).unwrap_or_default();
    plan.sync();
    plan.write(CHANGED.start as u64, changed);
    plan.sync();
}

fn with_larger_l1(
    plan: &mut Plan,
    storage: &StorageRef,
    header: &Header,
    mut new: Header,
) -> Result<()> {
    let cluster_size = header.cluster_size();
    // At most 32 MiB: it was checked.
    let mut l1 = vec![0; header.l1_entries as usize * 8];
    storage.read_at(&mut l1, header.l1_offset)?;
    l1.resize(
        (u64::from(new.l1_entries) * 8).next_multiple_of(cluster_size) as usize,
        0,
    );
    let mut clusters = NewClusters::new(storage, header)?;
    new.l1_offset = clusters.take(l1.len() as u64 / cluster_size)? * cluster_size;
    let table = clusters.count_all()?;
    plan.write(new.l1_offset, l1);
    clusters.write_new(plan);
    plan.sync();
    clusters.write_counts(plan)?;
    if let Some((offset, count)) = table {
        new.refcount_table_offset = offset;
        new.refcount_table_clusters = count;
        new.check_tables()?;
    }
    write_header(plan, &new);
    let l1_clusters = (u64::from(header.l1_entries) * 8).div_ceil(cluster_size);
    clusters.free(plan, header.l1_offset / cluster_size, l1_clusters)?;
    if table.is_some() {
        let at = header.refcount_table_offset / cluster_size;
        clusters.free(plan, at, header.refcount_table_clusters.into())?;
    }
    plan.sync();
    Ok(())
}
