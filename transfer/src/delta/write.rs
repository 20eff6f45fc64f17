//! A delta into an image that is there.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Builder;

use formats::in_place::file_at;
use formats::reader::read_guest;
use formats::resize::{allocate_all, each_place, no_place, place_of};
use formats::source::run_at;
use formats::target::PART;
use formats::{Allocation, BlockSource, Ids, Image, Plan, Run, RunReader};

use super::{Amount, Changing, Piece, Pieces};
use crate::error::{Error, Result};
use crate::pass::Setting;

/// Bytes that are copied in one go.
const BUFFER: u64 = 1 << 20;

/// Threads that copy: reading waits for one storage, writing for the other.
const WORKERS: usize = 4;

/// Pieces that get their places together.
const PIECES: usize = 1 << 14;

/// Bytes that get their places together.
const BYTES: u64 = 256 << 20;

/// Writes what `delta` defines into `image`, which is at least as large. What is interrupted is finished by being done
/// again. `ids` says whether others may go on taking the image for what it was.
///
/// # Errors
/// Those of the delta and of the image; `Refused` where the image has no place that can be written to; `Interrupted`.
pub fn write(
    delta: &dyn BlockSource,
    image: &mut Changing<'_>,
    ids: Ids,
    setting: &Setting<'_>,
) -> Result<Amount> {
    let end = image.image().source.size();
    let mut pieces = Pieces::new(delta, end);
    let mut ids = ids;
    let mut written = Amount::default();
    setting.progress.begin(delta.size().min(end));
    loop {
        let (batch, is_last) = batch(&mut pieces)?;
        batch.iter().for_each(|piece| written.add(piece));
        stop(setting)?;
        write_batch(&batch, image, ids, setting)?;
        ids = Ids::Kept;
        if let Some(last) = batch.last() {
            let data = written.data.saturating_sub(setting.progress.data());
            let done = setting.progress.done();
            setting
                .progress
                .add(last.range().end.saturating_sub(done), data);
        }
        if is_last {
            break;
        }
    }
    image.sync()?;
    Ok(written)
}

/// Fails when `image`, as it is, cannot take all that `delta` defines. Nothing is written. What lies behind the end of the
/// image is not looked at: it gets its room first.
///
/// # Errors
/// As [`write()`].
pub fn check(delta: &dyn BlockSource, image: &Image, ids: Ids) -> Result<()> {
    let mut pieces = Pieces::new(delta, image.source.size());
    loop {
        let (batch, is_last) = batch(&mut pieces)?;
        plan(&batch, image, ids)?;
        if is_last {
            return Ok(());
        }
    }
}

/// Reads back what `delta` defines from `image`, and fails where it is something else.
///
/// # Errors
/// `VerifyFailed`; those of reading both; `Interrupted`.
pub fn verify(
    delta: &dyn BlockSource,
    image: &dyn BlockSource,
    setting: &Setting<'_>,
) -> Result<()> {
    let (mut wanted, mut found) = (Vec::new(), Vec::new());
    let mut reader = RunReader::new();
    for piece in Pieces::new(delta, image.size()) {
        let piece = piece?;
        for (at, part) in parts(&piece) {
            setting.progress.add(part.len, part.len);
            stop(setting)?;
            read(&mut reader, &part, &mut wanted)?;
            found.resize(wanted.len(), 0);
            read_guest(image, at, &mut found)?;
            if wanted != found {
                return Err(Error::VerifyFailed);
            }
        }
    }
    Ok(())
}

fn stop(setting: &Setting<'_>) -> Result<()> {
    match setting.cancel.load(Ordering::Relaxed) {
        true => Err(Error::Interrupted),
        false => Ok(()),
    }
}

/// The next pieces, and whether they are the last.
fn batch(pieces: &mut Pieces<'_>) -> Result<(Vec<Piece>, bool)> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    while batch.len() < PIECES && bytes < BYTES {
        let Some(piece) = pieces.next().transpose()? else {
            return Ok((batch, true));
        };
        bytes += piece.run.len;
        batch.push(piece);
    }
    Ok((batch, false))
}

fn write_batch(
    batch: &[Piece],
    image: &mut Changing<'_>,
    ids: Ids,
    setting: &Setting<'_>,
) -> Result<()> {
    let plan = plan(batch, image.image(), ids)?;
    image.carry_out(&plan)?;
    for piece in batch.iter().filter(|piece| piece.is_zero()) {
        stop(setting)?;
        zero(image, &piece.range())?;
    }
    write_data(batch, image, setting)
}

/// Writes the data of `batch`, which has its places by now: in any order, nothing of it stands on the rest.
fn write_data(batch: &[Piece], image: &Changing<'_>, setting: &Setting<'_>) -> Result<()> {
    let data = batch.iter().filter(|piece| !piece.is_zero());
    let left = Mutex::new(data.flat_map(parts));
    let failed = AtomicBool::new(false);
    let (tip, out) = (image.layer()?, image.out());
    let copy = || -> Result<()> {
        let mut reader = RunReader::new();
        let mut buffer = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            stop(setting)?;
            let next = left.lock().unwrap_or_else(|e| e.into_inner()).next();
            let Some((at, part)) = next else { break };
            read(&mut reader, &part, &mut buffer)?;
            each_place(tip, at, &buffer, |place, now| {
                file_at(&out, place / PART)?.write_at(now, place % PART)
            })?;
        }
        Ok(())
    };
    let work = || copy().inspect_err(|_| failed.store(true, Ordering::Relaxed));
    std::thread::scope(|scope| {
        // Where the machine allows no more threads, those that there are do the work.
        let others: Vec<_> = (1..setting.threads.min(WORKERS))
            .map_while(|_| Builder::new().spawn_scoped(scope, work).ok())
            .collect();
        let own = work();
        let ended = others.into_iter().map(|other| match other.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        ended.fold(own, Result::and)
    })
}

/// How everything in `batch` gets a place.
fn plan(batch: &[Piece], image: &Image, ids: Ids) -> Result<Plan> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for piece in batch {
        match piece.is_zero() {
            true => unlike_zero(image, &piece.range(), &mut ranges)?,
            false => join(&mut ranges, piece.range()),
        }
    }
    if ranges.is_empty() && ids == Ids::Kept {
        return Ok(Plan::default());
    }
    let mut wanted = Allocation::new(&ranges, image.source.clone());
    wanted.is_given_up = true;
    wanted.ids = ids;
    Ok(allocate_all(image, &wanted)?)
}

/// Writes zeros where the image holds anything else.
fn zero(image: &Changing<'_>, range: &Range<u64>) -> Result<()> {
    let (tip, out) = (image.layer()?, image.out());
    let mut at = range.start;
    while at < range.end {
        let run = run_at(image.image().source.as_ref(), at, range.end - at)?;
        if !run.mapping.reads_zero() {
            let place = place_of(tip, &run).ok_or_else(|| no_place(tip, at))?;
            file_at(&out, place / PART)?.zero_at(place % PART, run.len)?;
        }
        at += run.len;
    }
    Ok(())
}

/// Adds what of `range` the image does not know to be zeros.
fn unlike_zero(image: &Image, range: &Range<u64>, ranges: &mut Vec<Range<u64>>) -> Result<()> {
    let mut at = range.start;
    while at < range.end {
        let run = run_at(image.source.as_ref(), at, range.end - at)?;
        if !run.mapping.reads_zero() {
            join(ranges, at..at + run.len);
        }
        at += run.len;
    }
    Ok(())
}

/// Adds a range behind all others.
fn join(ranges: &mut Vec<Range<u64>>, range: Range<u64>) {
    match ranges.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => ranges.push(range),
    }
}

/// The parts of a piece that fit a buffer, by their guest offsets.
fn parts(piece: &Piece) -> impl Iterator<Item = (u64, Run)> {
    let (offset, len) = (piece.offset, piece.run.len);
    let starts = (0..len).step_by(BUFFER as usize);
    starts.map(move |at| {
        let part = piece.run.part(at, (len - at).min(BUFFER));
        (offset + at, part)
    })
}

fn read(reader: &mut RunReader, run: &Run, buffer: &mut Vec<u8>) -> Result<()> {
    buffer.resize(run.len as usize, 0);
    Ok(reader.read(run, buffer)?)
}
