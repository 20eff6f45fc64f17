//! What is lost when a disk becomes smaller, and what its partition table has to say about another size.

use std::ops::Range;

use formats::resize::first_data;
use formats::{BlockSource, Error, Result};

use crate::partitions::Partitions;

/// Fails when something lies at or behind byte `size` of the disk: a partition, the end of a GPT, or anything that is not
/// zero. With `moves_gpt`, the copy of the GPT at the end is none of it.
///
/// # Errors
/// `Refused`, with all that is there; those of reading the disk.
pub fn refuse_loss(source: &dyn BlockSource, size: u64, moves_gpt: bool) -> Result<()> {
    let partitions = Partitions::read(source)?;
    let mut there: Vec<String> = partitions
        .all
        .iter()
        .filter(|partition| partition.bytes.end > size)
        .map(ToString::to_string)
        .collect();
    let backup = partitions.gpt.as_ref().map(|gpt| gpt.backup());
    let backup = backup.filter(|backup| backup.end > size);
    let mut free = vec![size..source.size()];
    if let Some(backup) = &backup {
        let start = backup.start.clamp(size, source.size());
        let end = backup.end.clamp(start, source.size());
        free = vec![size..start, end..source.size()];
        if !moves_gpt {
            let Range { start, end } = backup;
            there.push(format!("the copy of the GPT, bytes {start} to {end}"));
        }
    }
    for range in free {
        if let Some(at) = first_data(source, range)? {
            there.push(format!("data from byte {at} on"));
            break;
        }
    }
    if there.is_empty() {
        return Ok(());
    }
    let error = Error::refused("disk", "something lies behind the new end")
        .found(there.join("; "))
        .expected(format!("nothing behind byte {size}"));
    Err(match (backup, there.len()) {
        (Some(_), 1) if !moves_gpt => error.hint("--fix-gpt moves the copy of the GPT"),
        _ => error,
    })
}

/// What the user should know when a disk with a GPT has `size` bytes by now.
///
/// # Errors
/// Those of reading the disk.
pub fn gpt_note(source: &dyn BlockSource, size: u64) -> Result<Option<String>> {
    let gpt = Partitions::read(source)?.gpt;
    Ok(gpt.filter(|gpt| !gpt.fits(size)).map(|_| {
        "the copy of the GPT is not at the end of the disk: --fix-gpt moves it there, so do gdisk and parted in the guest"
            .to_owned()
    }))
}
