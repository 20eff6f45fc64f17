//! `--in-place`: a fixed VHD becomes dynamic within its own file, on a volume that has no room for both.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use formats::driver::Head;
use formats::vhd::in_place::{
    BLOCK_SIZE, Conversion, Resumed, Scan, Start, Used, check_holes, is_half_converted,
};
use formats::{
    Error, FileStorage, Format, Image, InPlaceFile, OpenContext, Options, Storage, driver,
};
use transfer::output::file::{folder_of, free_space};
use transfer::pass::{self, Destination, Wanted};
use transfer::verify::{Expected, verify};
use transfer::{Converted, Losses, Setting, identity};

use super::outcome::Outcome;
use super::replace::{real_name, refuse_losses, say_saved};
use super::{described, reproducible};
use crate::args;
use crate::changeable::refuse_children;
use crate::failure::Failure;
use crate::source::{Named, Source};
use crate::work::Work;
use crate::{open, render, report};

/// Unit in bytes in which zeros are looked for: a page of the file.
const PAGE: u64 = 4096;

/// Converts the VHD that `arguments` name, or goes on with one that is half converted.
///
/// # Errors
/// `Usage` for anything but a fixed VHD that is to be dynamic; `Refused` for what others stand on or have open. What was done
/// by then stays, and the same command goes on with it.
pub fn run(arguments: &args::Convert, context: &OpenContext) -> Result<ExitCode, Failure> {
    described::refuse(arguments)?;
    refuse_others(arguments)?;
    let path = real_name(arguments)?;
    let work = Work::new(arguments.reading.jobs)?;
    let started = Instant::now();
    let before = FileStorage::open(&path)?;
    let before = (before.len(), before.allocated()?);
    let job = Job {
        arguments,
        context,
        path: &path,
    };
    let done = work.watched(&arguments.output, |setting| job.run(setting))?;
    let image = formats::open(&path, Some(Format::Vhd), context)?;
    let mut source = Source::of_image(&path, image);
    source.file_size = done.old_len.unwrap_or(before.0);
    done.converted
        .notes
        .iter()
        .for_each(|note| report::note(note));
    say_saved(before.1, &path, None);
    let outcome = Outcome {
        arguments,
        source: &source,
        target: &path,
        target_format: Format::Vhd,
        converted: done.converted,
        losses: Losses::default(),
        seconds: started.elapsed().as_secs_f64(),
    };
    if arguments.output.json {
        report::json(&outcome.answer())?;
    } else {
        report::text(&outcome.text())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Fails when something else is asked for than a dynamic VHD.
fn refuse_others(arguments: &args::Convert) -> Result<(), Failure> {
    let refused = |what: String| {
        Err(Error::usage("--in-place", "only makes a fixed VHD dynamic")
            .found(what)
            .expected("-o subformat=dynamic, and no other option of the target")
            .hint("without --in-place any image is replaced, on a volume with room for both")
            .into())
    };
    for name in [&arguments.source_format, &arguments.target_format] {
        if !matches!(
            Named::parse(name.as_deref())?,
            None | Some(Named::Disk(Format::Vhd))
        ) {
            return refused(name.clone().unwrap_or_default());
        }
    }
    let options = Options::new(driver(Format::Vhd).options(), &arguments.options)?;
    let block_size = options.size("block_size", BLOCK_SIZE)?;
    if options.get("subformat") != Some("dynamic") || block_size != BLOCK_SIZE {
        return refused(format!("-o {}", arguments.options.join(",")));
    }
    let opening = &arguments.reading.opening;
    if opening.snapshot.is_some() || opening.sector_size == Some(4096) {
        return refused("what no VHD has".to_owned());
    }
    crate::source::refuse_choice(opening, &arguments.source)
}

/// What was done.
struct Done {
    /// Length of the fixed disk's file, if it is another one than before.
    old_len: Option<u64>,
    converted: Converted,
}

struct Job<'a> {
    arguments: &'a args::Convert,
    context: &'a OpenContext,
    path: &'a Path,
}

impl Job<'_> {
    fn run(&self, setting: &Setting<'_>) -> Result<Done, Failure> {
        let storage = FileStorage::open(self.path)?;
        if is_half_converted(&Head::read(&storage)?) {
            let file = Arc::new(InPlaceFile::open(&storage)?);
            let resumed = Conversion::resume(file).map_err(|e| e.in_file(self.path))?;
            if let Some(Resumed::Half(conversion)) = resumed {
                report::note("the file is half converted: going on");
                return self.finish(*conversion, setting);
            }
            // Whatever it is called.
            return self.begin(Some(Format::Vhd.name()), setting);
        }
        self.begin(self.arguments.source_format.as_deref(), setting)
    }

    fn begin(&self, format: Option<&str>, setting: &Setting<'_>) -> Result<Done, Failure> {
        let first = open::image(self.path, format, self.context)?;
        open::check_size(&first, self.arguments.reading.max_size.as_deref())?;
        let [tip] = &first.layers[..] else {
            return Err(not_fixed("a disk that stands on another one"));
        };
        match (tip.info.format, tip.info.subformat.as_str()) {
            (Format::Vhd, "fixed") => {}
            (Format::Vhd, "dynamic") => return already(&first, setting),
            (format, subformat) => return Err(not_fixed(&format!("{format}, {subformat}"))),
        }
        refuse_losses(tip, false)?;
        refuse_children(tip, self.context)?;
        // No file may be closed from here on: that would give up the lock.
        let file = Arc::new(InPlaceFile::open(tip.storage.as_ref())?);
        first.check_unchanged()?;
        check_holes(file.as_ref())?;
        // Looking for holes may have changed the time of the file.
        let image = formats::open(self.path, Some(Format::Vhd), self.context)?;
        let start = self.scan(&image, setting)?;
        image.check_unchanged()?;
        self.check_room(file.as_ref(), &start)?;
        let begun = Conversion::begin(file, &start);
        self.finish(begun.map_err(|e| e.in_file(self.path))?, setting)
    }

    /// Reads all of the disk once.
    fn scan(&self, image: &Image, setting: &Setting<'_>) -> Result<Start, Failure> {
        let size = image.source.size();
        let used = Used::new(size, BLOCK_SIZE);
        let wanted = Wanted {
            fingerprint: true,
            ..Wanted::default()
        };
        let listening = Destination {
            target: Box::new(Scan::new(size, BLOCK_SIZE, used.clone())),
            output: None,
            sparse: PAGE,
            packing: None,
            below: None,
            is_delta: false,
        };
        let found = pass::run(image.source.as_ref(), &wanted, Some(listening), setting)?;
        let said = reproducible(self.arguments)?;
        Ok(Start {
            used,
            block_size: BLOCK_SIZE,
            data_bytes: found.data_bytes,
            fingerprint: found.fingerprint.unwrap_or_default(),
            unix_time: said.unwrap_or_else(|| identity::random().unix_time),
        })
    }

    fn check_room(&self, file: &InPlaceFile, start: &Start) -> Result<(), Failure> {
        let needed = Conversion::room(file, start).map_err(|e| e.in_file(self.path))?;
        let free = free_space(folder_of(self.path))?;
        if free >= needed {
            return Ok(());
        }
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        Err(Error::io("look for room for tables and a few blocks", full)
            .found(format!("{free} bytes free"))
            .expected(format!("{needed} bytes ({})", render::size(needed)))
            .in_file(self.path)
            .into())
    }

    fn finish(
        &self,
        conversion: Conversion<InPlaceFile>,
        setting: &Setting<'_>,
    ) -> Result<Done, Failure> {
        let done = move_all(conversion, setting);
        if done.is_err() {
            report::note(
                "the file is half converted, and nothing of it is lost: the same command again goes on",
            );
        }
        done
    }
}

fn move_all(
    mut conversion: Conversion<InPlaceFile>,
    setting: &Setting<'_>,
) -> Result<Done, Failure> {
    let (total, mut moved) = conversion.progress();
    setting.progress.begin(total);
    setting.progress.add(moved, moved);
    loop {
        if setting.cancel.load(Ordering::Relaxed) {
            return Err(transfer::Error::Interrupted.into());
        }
        if !conversion.step()? {
            break;
        }
        let (_, now) = conversion.progress();
        setting.progress.add(now - moved, now - moved);
        moved = now;
    }
    conversion.write_tables()?;
    let disk = conversion.disk()?;
    let size = conversion.size();
    let expected = Expected {
        size,
        fingerprint: Some(conversion.fingerprint()),
        target_size: Some(size),
    };
    verify(disk.source, &expected, setting)?;
    let data_bytes = conversion.data_bytes().min(size);
    let done = Done {
        old_len: Some(conversion.old_len()),
        converted: Converted {
            source_size: size,
            target_size: size,
            file_size: conversion.file_len(),
            data_bytes,
            zero_bytes: size - data_bytes,
            digests: Vec::new(),
            verified: true,
            verified_digest: None,
            reflinked: false,
            notes: formats::vhd::geometry::notes(size),
            left_on_device: 0,
        },
    };
    conversion.finish()?;
    Ok(done)
}

/// Nothing is done to a disk that is dynamic: the last step may have been taken before somebody was told.
fn already(image: &Image, setting: &Setting<'_>) -> Result<Done, Failure> {
    let disk = image.source.as_ref();
    let found = pass::run(disk, &Wanted::default(), None, setting)?;
    Ok(Done {
        old_len: None,
        converted: Converted {
            source_size: disk.size(),
            target_size: disk.size(),
            file_size: image.tip().map_or(0, |tip| tip.file_size()),
            data_bytes: found.data_bytes,
            zero_bytes: found.zero_bytes,
            digests: Vec::new(),
            verified: false,
            verified_digest: None,
            reflinked: false,
            notes: vec![
                "the disk is dynamic already: nothing was done (without --in-place, --replace drops its zeros)"
                    .to_owned(),
            ],
            left_on_device: 0,
        },
    })
}

fn not_fixed(found: &str) -> Failure {
    Error::usage("--in-place", "only makes a fixed VHD dynamic")
        .found(found)
        .expected("a fixed VHD")
        .hint("without --in-place any image is replaced, on a volume with room for both")
        .into()
}
