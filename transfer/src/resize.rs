//! What is lost when a disk becomes smaller, and what its partition table has to say about another size.

use std::ops::Range;

use formats::reader::read_guest;
use formats::resize::first_data;
use formats::{BlockSource, Error, Result};

use crate::partitions::Partitions;
use crate::partitions::gpt::{Gpt, GptMove};

/// Fails when a disk is not to become as small as `size` bytes: without `shrink` never, with it when that loses something.
///
/// # Errors
/// As [`refuse_loss`].
pub fn check_shrinking(
    source: &dyn BlockSource,
    size: u64,
    shrink: bool,
    moves_gpt: bool,
) -> Result<()> {
    if size >= source.size() {
        return Ok(());
    }
    if shrink {
        return refuse_loss(source, size, moves_gpt);
    }
    Err(Error::refused("disk", "would become smaller")
        .found(format!("{size} bytes"))
        .expected(format!("at least {}", source.size()))
        .hint("--shrink allows it, if nothing lies behind the new end"))
}

/// What has to be written so that the GPT of a disk fits to `size` bytes; nothing where there is none, or it does.
///
/// # Errors
/// `Refused` when something is in its way; those of reading the disk.
pub fn gpt_move(source: &dyn BlockSource, size: u64) -> Result<Option<GptMove>> {
    let Some(gpt) = Partitions::read(source)?.gpt else {
        return Ok(None);
    };
    if gpt.fits(size) {
        return Ok(None);
    }
    let room = gpt.room(size);
    let end = room.end.min(source.size());
    for range in without(room.start.min(end)..end, gpt.copies()) {
        if let Some(at) = first_data(source, range)? {
            return Err(
                Error::refused("GPT", "something lies where its copy has to go")
                    .found(format!("data at byte {at}")),
            );
        }
    }
    let mut front = vec![0; gpt.sector().min(source.size()) as usize];
    read_guest(source, 0, &mut front)?;
    gpt.moved(&front, size).map(Some)
}

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
    let copies = partitions.gpt.as_ref().map_or(&[][..], Gpt::copies);
    let lost: Vec<&Range<u64>> = copies.iter().filter(|copy| copy.end > size).collect();
    if !moves_gpt {
        let told = lost
            .iter()
            .map(|Range { start, end }| format!("the copy of the GPT, bytes {start} to {end}"));
        there.extend(told);
    }
    let is_all = there.len() == lost.len();
    for range in without(size..source.size(), copies) {
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
    Err(match is_all && there.len() == lost.len() && !moves_gpt {
        true => error.hint("--fix-gpt moves the copy of the GPT"),
        false => error,
    })
}

/// The parts of `range` that are in none of `others`.
fn without(range: Range<u64>, others: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut parts = vec![range];
    for other in others {
        parts = parts
            .into_iter()
            .flat_map(|Range { start, end }| {
                [start..end.min(other.start), start.max(other.end)..end]
            })
            .filter(|part| !part.is_empty())
            .collect();
    }
    parts
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
