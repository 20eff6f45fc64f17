//! `--receipt`: what the target was made from, written down, so that deltas can be applied to it.

use std::path::Path;

use formats::{Error, OpenContext};

use super::is_same;
use super::outcome::Outcome;
use crate::args;
use crate::failure::Failure;
use crate::receipt::{self, Origin, Receipt};

/// Fails when a receipt is asked for something that no delta can be applied to.
pub(super) fn refuse(arguments: &args::Convert, target: &str) -> Result<(), Failure> {
    match arguments.receipt {
        None => Ok(()),
        Some(_) => Err(Error::usage(
            "--receipt",
            format!("is for disks that deltas are applied to, and the target is {target}"),
        )
        .into()),
    }
}

/// Fails when the receipt cannot get the name that it is to have: before the disk is copied.
pub(super) fn check(arguments: &args::Convert) -> Result<(), Failure> {
    let Some(named) = &arguments.receipt else {
        return Ok(());
    };
    let target = arguments.target();
    if named.is_none() && target.exists() && !target.is_file() {
        return Err(Error::usage("--receipt", "of a device needs a place")
            .expected("--receipt=FILE")
            .into());
    }
    let path = named.clone().unwrap_or_else(|| receipt::beside(target));
    receipt::refuse_other_file(&path)?;
    let is = |other: &Path| path == other || is_same(&path, other);
    if is(target) || is(&arguments.source) {
        return Err(Error::usage("--receipt", "names the source or the target").into());
    }
    Ok(())
}

/// Writes down what the target was made from, if that is wanted. What an old receipt says of it is not true any more.
pub(super) fn write(outcome: &Outcome<'_>, context: &OpenContext) -> Result<(), Failure> {
    let target = outcome.target;
    let beside = receipt::beside(target);
    let named = outcome.arguments.receipt.as_ref();
    let path = named.map(|named| named.clone().unwrap_or_else(|| beside.clone()));
    if path.as_ref() != Some(&beside) && receipt::read(&beside).is_ok_and(|old| old.is_some()) {
        let failed = |e| Error::io("remove the old receipt", e).in_file(&beside);
        std::fs::remove_file(&beside).map_err(failed)?;
    }
    let Some(path) = path else {
        return Ok(());
    };
    let image = formats::open(target, Some(outcome.target_format), context)?;
    let Some(made) = image.tip() else {
        return Ok(());
    };
    let copy = receipt::Copy::of(made)?;
    let source = &outcome.source;
    let digest = outcome.digest_text();
    let origin = match source.image.tip().filter(|_| !source.is_packaged) {
        Some(tip) => Origin::of(tip, outcome.converted.source_size, digest),
        None => Origin {
            file: source.path.clone(),
            format: source.format.clone(),
            identity: None,
            size: outcome.converted.source_size,
            length: source.file_size,
            modified_ns: None,
            digest,
        },
    };
    Receipt::new(origin, copy).write(&path)
}
