//! What `apply` and `merge` have in common: the delta, and the size that it gives to what it is written into.

use std::path::Path;

use formats::open::open_storage_alone;
use formats::resize::plan_with;
use formats::{Error, Ids, InPlaceFile, LayerFile, OpenContext, ParentReference, Storage};
use serde::Serialize;
use transfer::delta::{Amount, Changing};

use crate::args;
use crate::failure::Failure;
use crate::source::Found;
use crate::{render, report};

/// How much a delta defines, for programs.
#[derive(Serialize)]
pub struct Bytes {
    data: u64,
    zero: u64,
}

impl From<Amount> for Bytes {
    fn from(amount: Amount) -> Bytes {
        Bytes {
            data: amount.data,
            zero: amount.zero,
        }
    }
}

impl Bytes {
    /// The same in words.
    pub fn text(&self) -> String {
        let (data, zero) = (render::size(self.data), render::size(self.zero));
        format!("{data} of data and {zero} of zeros")
    }

    /// What a dry run answers.
    pub fn planned(&self) -> String {
        format!(
            "would write {} ({} bytes)",
            self.text(),
            self.data + self.zero
        )
    }
}

/// Fails when something else than the present state of a whole image is asked for.
///
/// # Errors
/// `Usage`.
pub fn refuse_parts(opening: &args::Opening) -> Result<(), Failure> {
    let option = match (&opening.snapshot, &opening.layer) {
        (Some(_), _) => "--snapshot",
        (None, Some(_)) => "--layer",
        (None, None) => return Ok(()),
    };
    Err(Error::usage(
        option,
        "is for reading: what is written to is the image as it is",
    )
    .into())
}

/// The delta in the file at `path`, alone, and what it says of the image that it stands on.
///
/// # Errors
/// What is wrong with the file; `Usage` for what is no delta; `Refused` for one that is in use.
pub fn open_delta(
    path: &Path,
    format: Option<&str>,
    context: &OpenContext,
) -> Result<(LayerFile, ParentReference), Failure> {
    let found = Found::open(path, format)?;
    if found.kind.is_some() {
        return Err(Error::usage("CHILD", "is a package, not a delta")
            .in_file(path)
            .into());
    }
    let (layer, parent) = open_storage_alone(found.file, found.format, context)?;
    let Some(parent) = parent else {
        return Err(
            Error::usage("CHILD", "is no delta: it stands on no other image")
                .found(format!("{} {}", layer.info.format, layer.info.subformat))
                .in_file(path)
                .into(),
        );
    };
    for warning in &layer.info.warnings {
        report::warning(&format!("{}: {warning}", path.display()));
    }
    refuse_use(layer.storage.as_ref())?;
    Ok((layer, parent))
}

/// Fails when another program writes to a file that is only read here. Who may not write to it cannot find out.
fn refuse_use(storage: &dyn Storage) -> Result<(), Failure> {
    match InPlaceFile::open(storage) {
        Err(error) if error.kind() == formats::ErrorKind::Refused => Err(error.into()),
        _ => Ok(()),
    }
}

/// Makes `image` as large as the delta, if it is smaller: before anything is written.
///
/// # Errors
/// Those of resizing.
pub fn grow(
    image: &mut Changing<'_>,
    size: u64,
    ids: Ids,
    context: &OpenContext,
) -> Result<(), Failure> {
    match image.image().source.size() < size {
        true => resize(image, size, ids, context),
        false => Ok(()),
    }
}

/// Makes `image` as small as the delta, if it is larger: after everything is written.
///
/// # Errors
/// Those of resizing.
pub fn shrink(
    image: &mut Changing<'_>,
    size: u64,
    ids: Ids,
    context: &OpenContext,
) -> Result<(), Failure> {
    match image.image().source.size() > size {
        true => resize(image, size, ids, context),
        false => Ok(()),
    }
}

/// A device keeps the size that it has.
fn resize(
    image: &mut Changing<'_>,
    size: u64,
    ids: Ids,
    context: &OpenContext,
) -> Result<(), Failure> {
    if image.layer()?.storage.is_device() {
        return Ok(());
    }
    let now = image.image().source.size();
    let plan = plan_with(image.image(), size, ids, context)?;
    if plan.size < now {
        report::note(&format!(
            "the disk becomes smaller, {now} → {size} bytes: what lies behind its new end the guest of the delta did not see"
        ));
    }
    Ok(image.carry_out(&plan)?)
}
