//! Another size for an image where it stands.
//!
//! ```text
//!  Driver::resize ──► Plan ──► the files as they will be ──► opened like any image ──► what is new reads as zeros?
//!   (the format)                (Plan::outcome)                                         else: zeros first, or refused
//! ```
//!
//! The plan is made and looked at before anything is written. That nothing is lost by shrinking is for the caller to find
//! out, who knows what lies on a disk.

use std::ops::Range;
use std::sync::Arc;

use crate::driver::{Layer, OpenContext, driver};
use crate::error::{Error, Result};
use crate::in_place::{Allocation, Ids, Plan};
use crate::open::{Image, LayerFile};
use crate::reader::RunReader;
use crate::source::{BlockSource, Mapping, Run, mapped, run_at};
use crate::stack::Stack;
use crate::storage::StorageRef;
use crate::target::PART;

/// Bytes that are read in one go.
const PIECE: u64 = 1 << 20;

/// How `image` gets a disk of `size` bytes, or of the next larger size that it can have: [`Plan::size`] says which. Without
/// a step when it has that size already. The parts of the plan are [`parts`] of the image.
///
/// # Errors
/// `Limit` when the format cannot have the size, `Refused` when the image is not fit to be changed, `Unsupported`; what is
/// wrong with the image.
pub fn plan(image: &Image, size: u64, context: &OpenContext) -> Result<Plan> {
    plan_with(image, size, Ids::New, context)
}

/// As [`plan`], and says whether those who stand on the image still do afterwards.
///
/// # Errors
/// As [`plan`].
pub fn plan_with(image: &Image, size: u64, ids: Ids, context: &OpenContext) -> Result<Plan> {
    let Some(tip) = image.tip() else {
        return Err(Error::malformed("chain", "has no layer"));
    };
    planned(image, tip, (size, ids), context).map_err(|e| e.in_file(&tip.path))
}

/// The files of an image, in the order in which plans count them.
pub fn parts(layer: &LayerFile) -> Vec<StorageRef> {
    let further = layer.further.iter().cloned();
    std::iter::once(layer.storage.clone())
        .chain(further)
        .collect()
}

fn planned(
    image: &Image,
    tip: &LayerFile,
    (size, ids): (u64, Ids),
    context: &OpenContext,
) -> Result<Plan> {
    let old = tip.source.size();
    if size == old {
        return Ok(Plan::new(old));
    }
    let mut plan = driver(tip.info.format).resize(tip, size, ids)?;
    if plan.size < size {
        return Err(Error::limit("disk", "cannot have this size")
            .found(plan.size)
            .expected(size));
    }
    if plan.size == old {
        let mut nothing = Plan::new(old);
        nothing.notes = plan.notes;
        return Ok(nothing);
    }
    let after = outcome(tip, &plan, context)?;
    if after.source.size() != plan.size {
        return Err(Error::malformed("resize", "would lead to another size")
            .found(after.source.size())
            .expected(plan.size));
    }
    if plan.size > old {
        check_below(image, old..plan.size)?;
        blank(&mut plan, tip, after.source.as_ref(), old)?;
    }
    Ok(plan)
}

/// How all of `range` of the disk gets a place in the image that was named, where it has none. Its content stays.
///
/// # Errors
/// `Refused` for an image that stands on another one; as [`plan`].
pub fn allocate(image: &Image, range: Range<u64>) -> Result<Plan> {
    if let (Some(tip), true) = (image.tip(), image.layers.len() > 1) {
        return Err(Error::refused("image", "stands on another one").in_file(&tip.path));
    }
    let ranges = [range];
    allocate_all(image, &Allocation::new(&ranges, image.source.clone()))
}

/// How all that is `wanted` gets a place in the image that was named, whether it stands on another one or not.
///
/// # Errors
/// As [`plan`].
pub fn allocate_all(image: &Image, wanted: &Allocation) -> Result<Plan> {
    let Some(tip) = image.tip() else {
        return Err(Error::malformed("chain", "has no layer"));
    };
    let mut wanted = wanted.clone();
    wanted.is_delta = image.layers.len() > 1;
    let plan = driver(tip.info.format).allocate(tip, &wanted);
    plan.map_err(|e| e.in_file(&tip.path))
}

/// How `bytes` get to `offset` of the disk, all of which has a place in the image that was named.
///
/// # Errors
/// `Refused` where that place is not one to write to.
pub fn overwrite(tip: &LayerFile, plan: &mut Plan, offset: u64, bytes: &[u8]) -> Result<()> {
    each_place(tip, offset, bytes, |place, now| {
        plan.write(place, now);
        Ok(())
    })
}

/// Calls `visit` with every part of `bytes`, which go to `offset` of the disk, and its place in the files of the image: as
/// plans count.
///
/// # Errors
/// `Refused` where that place is not one to write to; those of `visit`.
pub fn each_place(
    tip: &LayerFile,
    offset: u64,
    bytes: &[u8],
    mut visit: impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut done = 0;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        let at = offset.saturating_add(done as u64);
        // Not through holes of the file: they have a place, too.
        let run = mapped(tip.source.as_ref(), at, rest.len() as u64)?;
        let place = place_of(tip, &run).ok_or_else(|| no_place(tip, at))?;
        let now = rest.get(..run.len as usize).unwrap_or(rest);
        visit(place, now)?;
        done += now.len();
    }
    Ok(())
}

/// Why nothing can be written to byte `at` of the disk.
pub fn no_place(tip: &LayerFile, at: u64) -> Error {
    Error::refused("disk", "has no place there that can be written to")
        .found(format!("byte {at} of the disk"))
        .hint("convert the image to a kind that can be written to")
        .in_file(&tip.path)
}

/// Where in the files of an image a run stands, if it is stored as it is in one of them: as plans count.
pub fn place_of(tip: &LayerFile, run: &Run) -> Option<u64> {
    let Mapping::Stored { storage, offset } = &run.mapping else {
        return None;
    };
    let end = offset.checked_add(run.len)?;
    let files = parts(tip);
    let mut numbers = (0..).zip(&files);
    let (part, _) = numbers.find(|(_, file)| {
        file.path() == storage.path() && !storage.is_encrypted() && end <= file.len()
    })?;
    Some(part * PART + offset)
}

/// The image as it will be, without its parents.
fn outcome(tip: &LayerFile, plan: &Plan, context: &OpenContext) -> Result<Layer> {
    let files = parts(tip);
    let after: Vec<StorageRef> = plan
        .outcome(&files)?
        .into_iter()
        .map(|file| Arc::new(file) as StorageRef)
        .collect();
    let mut both = files.iter().zip(&after);
    if let Some((device, after)) = both.find(|(b, a)| b.is_device() && a.len() != b.len()) {
        return Err(Error::refused("device", "has the size that it has")
            .found(format!("{} bytes", device.len()))
            .expected(format!("{} bytes", after.len()))
            .in_file(device.path()));
    }
    let Some(first) = after.first().cloned() else {
        return Err(Error::malformed("image", "has no file"));
    };
    let context = OpenContext {
        references: context
            .references
            .clone()
            .replacing(files.into_iter().zip(after).collect()),
        ..context.clone()
    };
    driver(tip.info.format).open(first, &context)
}

/// Fails when an image below this one would show through where this one is new.
fn check_below(image: &Image, new: Range<u64>) -> Result<()> {
    let mut below = image.layers.iter().skip(1).map(|layer| &layer.source);
    let Some(nearest) = below.next() else {
        return Ok(());
    };
    let below = Stack::new(nearest.clone(), below.cloned().collect());
    let end = new.end.min(below.size());
    if let Some(at) = first_data(&below, new.start..end)? {
        let name = image.layers.get(1).map(|layer| layer.path.as_path());
        return Err(Error::refused(
            "chain",
            "the image below is larger, and what it holds there would appear",
        )
        .at(at)
        .found(format!("data at byte {at} of the disk"))
        .hint("convert --size makes a copy of another size")
        .in_file(name.unwrap_or(std::path::Path::new(""))));
    }
    Ok(())
}

/// The first byte of `range` at which `source` holds something else than zeros.
///
/// # Errors
/// Those of reading it.
pub fn first_data(source: &dyn BlockSource, range: Range<u64>) -> Result<Option<u64>> {
    let mut found = None;
    each_data(source, range, |at, _, bytes| {
        let first = bytes.iter().position(|byte| *byte != 0).unwrap_or(0);
        found = Some(at + first as u64);
        Ok(false)
    })?;
    Ok(found)
}

/// Calls `visit` with each piece of `range` that is not all zeros, until it answers `false`: where it is, how it is stored
/// and what it holds.
fn each_data(
    source: &dyn BlockSource,
    range: Range<u64>,
    mut visit: impl FnMut(u64, &Run, &[u8]) -> Result<bool>,
) -> Result<()> {
    let mut reader = RunReader::new();
    let mut buffer = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let mut run = run_at(source, at, range.end - at)?;
        if run.mapping.reads_zero() {
            at += run.len;
            continue;
        }
        run.len = run.len.min(PIECE);
        buffer.resize(run.len as usize, 0);
        reader.read(&run, &mut buffer)?;
        if buffer.iter().any(|byte| *byte != 0) && !visit(at, &run, &buffer)? {
            return Ok(());
        }
        at += run.len;
    }
    Ok(())
}

/// Lets the plan begin with zeros where `after`, the image as it will be, holds something behind `old`: nobody could see it
/// so far.
fn blank(plan: &mut Plan, tip: &LayerFile, after: &dyn BlockSource, old: u64) -> Result<()> {
    let mut zeros = Plan::default();
    each_data(after, old..after.size(), |at, run, _| {
        let refused = || {
            Error::refused(
                "disk",
                "what stands behind its end is not zeros, and cannot be cleared",
            )
            .at(at)
            .hint("convert --size makes a copy of another size")
        };
        let place = place_of(tip, run).filter(|_| !plan.is_shared);
        zeros.zero(place.ok_or_else(refused)?, run.len);
        Ok(true)
    })?;
    if !zeros.is_empty() {
        plan.begin_with(zeros);
    }
    Ok(())
}
