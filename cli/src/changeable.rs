//! Whether an image may be changed where it stands.

use formats::children::children_beside;
use formats::{Error, Image, LayerFile, OpenContext, driver};

use crate::failure::Failure;
use crate::work::Work;

/// The layer that was named.
pub fn tip(image: &Image) -> Result<&LayerFile, Failure> {
    let tip = image.tip();
    Ok(tip.ok_or_else(|| Error::malformed("chain", "has no layer"))?)
}

/// A parent that changes is no parent any more, for most programs; and a part of an image says nothing of its size.
pub fn refuse_children(tip: &LayerFile, context: &OpenContext) -> Result<(), Failure> {
    if tip.storage.is_device() {
        return Ok(());
    }
    let children = children_beside(tip, context)?;
    let Some(child) = children.first() else {
        return Ok(());
    };
    let (why, advice) = match child.is_whole {
        true => ("is a part of another image", "change that one"),
        false => (
            "another image stands on it",
            "change the one on top, or merge or remove it first",
        ),
    };
    Err(Error::refused("image", why)
        .found(child.path.display())
        .hint(advice)
        .in_file(&tip.path)
        .into())
}

/// What is damaged is not changed: nobody knows what else is wrong.
pub fn refuse_damage(tip: &LayerFile, context: &OpenContext) -> Result<(), Failure> {
    let work = Work::new(None)?;
    let setting = work.setting();
    let driver = driver(tip.info.format);
    let report = transfer::check_structures(driver, &tip.storage, context, &setting)?;
    let damaged = |found: &str| {
        Err(Error::refused("image", "is damaged")
            .found(found)
            .hint("\"diskferry check\" tells all of it")
            .in_file(&tip.path)
            .into())
    };
    if let Some(damage) = report.findings.iter().find(|finding| finding.is_damage) {
        return damaged(&damage.message);
    }
    if report.is_map_sound {
        return Ok(());
    }
    // What stands behind the end of a file that was cut off must not become what is added to it.
    match transfer::count::count(tip.source.as_ref(), &setting) {
        Err(transfer::Error::Image(error)) => damaged(&error.to_string()),
        other => Ok(other.map(|_| ())?),
    }
}
