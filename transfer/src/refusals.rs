//! What a target must not be, looked at before the first byte.

use std::ops::Range;
use std::path::{Path, PathBuf};

use formats::{BlockSource, Error};

use crate::error::Result;
use crate::output::file::already_there;
use crate::same_storage::Sources;
use crate::zero::is_zero;

/// The name that the file will really have: of a link that is replaced, what it leads to.
///
/// # Errors
/// `Refused` for what exists and is not to be replaced, or is no plain file; `Io`.
pub fn check_name(path: &Path, force: bool) -> Result<PathBuf> {
    let refuse = |why| Err(Error::refused("target", why).in_file(path).into());
    if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return refuse("is the name of a folder");
    }
    match std::fs::symlink_metadata(path) {
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(path.to_owned()),
        Err(e) => return Err(Error::io("look at the target", e).in_file(path).into()),
    }
    if !force {
        return Err(already_there(path).into());
    }
    match (path.canonicalize(), std::fs::metadata(path)) {
        (Ok(real), Ok(meta)) if meta.is_file() => Ok(real),
        (Ok(_), Ok(meta)) if meta.is_dir() => refuse("is a folder"),
        (Ok(_), Ok(_)) => refuse("is neither a plain file nor a block device"),
        _ => refuse("is a link that leads nowhere"),
    }
}

/// Fails when writing to `path` would write to one of `sources`.
///
/// # Errors
/// `Refused`.
pub fn refuse_own_source(path: &Path, sources: &Sources) -> Result<()> {
    if sources.include(path) {
        return Err(Error::refused(
            "target",
            "is the source, or a file that the source or the target stands on",
        )
        .hint("write to another file or device")
        .in_file(path)
        .into());
    }
    Ok(())
}

/// Fails when the image below has data in `rest`: what a target's sector has behind the end of the disk, and should be
/// zeros, would be that data.
///
/// # Errors
/// `Refused`.
pub fn check_rest(below: &dyn BlockSource, rest: Range<u64>) -> Result<()> {
    let end = rest.end.min(below.size());
    let mut bytes = vec![0; end.saturating_sub(rest.start) as usize];
    formats::reader::read_guest(below, rest.start, &mut bytes)?;
    if is_zero(&bytes) {
        return Ok(());
    }
    Err(Error::refused(
        "overlay",
        "the disk ends inside a sector, and the image below has data in the rest of it",
    )
    .at(rest.start)
    .hint("make the source a whole number of sectors long, or write it without -B")
    .into())
}
