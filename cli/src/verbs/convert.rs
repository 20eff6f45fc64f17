//! `convert`: a copy of a disk in another format.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use formats::options::{Backing, parse_size};
use formats::{DRIVERS, Error, Format, Image, LayerFile, OpenContext, Options, driver};
use serde::Serialize;
use transfer::output::file::{folder_of, free_space};
use transfer::same_storage;
use transfer::{Converted, CopyOptions, Losses, Place};

use crate::args;
use crate::failure::Failure;
use crate::work::Work;
use crate::{open, render, report};

/// Holes that people are shown one by one.
const HOLES_SHOWN: usize = 50;

/// Runs the verb.
pub fn run(arguments: &args::Convert) -> Result<ExitCode, Failure> {
    let to_stdout = arguments.target.as_os_str() == "-";
    if arguments.options.iter().any(|o| o == "help") {
        return list_options(arguments, to_stdout);
    }
    if to_stdout && arguments.output.json {
        return Err(
            Error::usage("--json", "and the disk cannot both go to standard output").into(),
        );
    }
    let target_format = target_format(arguments, to_stdout)?;
    let format_options = Options::new(driver(target_format).options(), &arguments.options)?
        .compressed(arguments.compress);
    let context = open::context(&arguments.reading.opening, arguments.reading.salvage)?;
    let below = below(arguments, &context)?;
    let format_options = format_options.over(below.as_ref().map(|(backing, _)| backing.clone()));
    let options = CopyOptions {
        sparse: sparse(arguments.sparse.as_deref())?,
        digests: arguments.digest.map(Into::into).into_iter().collect(),
        verify: arguments.verify,
        reproducible: reproducible(arguments)?,
        reflink: !arguments.no_reflink,
        recompress: arguments.recompress,
        below: below.map(|(_, image)| Arc::new(image)),
        provided: None,
    };
    let image = open::image(
        &arguments.source,
        arguments.source_format.as_deref(),
        &context,
    )?;
    open::check_size(&image, arguments.reading.max_size.as_deref())?;
    let jobs = arguments.reading.jobs;
    let work = if to_stdout {
        Work::into_pipe(jobs)?
    } else {
        Work::new(jobs)?
    };
    let work = work.salvaging(arguments.reading.salvage);
    if !to_stdout {
        warn_if_tight(&image, &arguments.target);
    }
    let started = Instant::now();
    let place = place(&arguments.target, to_stdout, arguments.force);
    let converted = work.watched(&arguments.output, |setting| {
        transfer::convert(
            &image,
            target_format,
            &format_options,
            place,
            &options,
            setting,
        )
    })?;
    let result = Outcome {
        arguments,
        image: &image,
        target_format,
        converted,
        losses: work.losses(),
        seconds: started.elapsed().as_secs_f64(),
    };
    result.say_notes();
    if arguments.output.json {
        report::json(&result.answer())?;
    } else if to_stdout {
        result.text().lines().for_each(report::line);
    } else {
        report::text(&result.text())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The image that the target is to stand on: how it is named, and itself.
fn below(
    arguments: &args::Convert,
    context: &OpenContext,
) -> Result<Option<(Backing, Image)>, Failure> {
    let Some(name) = &arguments.backing else {
        return Ok(None);
    };
    // What has a colon before any slash is taken for a protocol; a folder in front says that it is a name.
    let first = name.split('/').next();
    let name = match first.is_some_and(|part| part.contains(':')) {
        true => format!("./{name}"),
        false => name.clone(),
    };
    // As the target will find it.
    let path = folder_of(&arguments.target).join(&name);
    let present = OpenContext {
        snapshot: None,
        ..context.clone()
    };
    let image = open::image(&path, arguments.backing_format.as_deref(), &present)?;
    let mut storages = image.storages.iter();
    if storages.any(|storage| same_storage::overlap(&arguments.target, storage.path())) {
        return Err(
            Error::refused("target", "is the image that it is to stand on")
                .in_file(&arguments.target)
                .into(),
        );
    }
    if Path::new(&name)
        .components()
        .any(|part| part == Component::ParentDir)
    {
        report::warning(
            "the name of the image below goes through \"..\", which is never followed here when the overlay is read; put \
             both into one folder",
        );
    }
    let backing = image.tip().map(|tip| tip.as_backing(&name));
    Ok(backing.map(|backing| (backing, image)))
}

/// How large a sparse target becomes is known only at the end. What the source occupies is a good guess.
fn warn_if_tight(image: &Image, target: &Path) {
    let is_file = fs::metadata(target).map_or(true, |meta| meta.is_file());
    let Ok(free) = free_space(folder_of(target)) else {
        return;
    };
    let occupied = image.storages.iter().flat_map(|s| s.allocated()).sum();
    if is_file && free < occupied {
        report::warning(&format!(
            "the source occupies {}, and {} are free where the target goes: it may not fit",
            render::size(occupied),
            render::size(free)
        ));
    }
}

fn place(target: &Path, to_stdout: bool, force: bool) -> Place<'_> {
    if to_stdout {
        return Place::Stream(Box::new(std::io::stdout()));
    }
    let is_device = fs::metadata(target).is_ok_and(|meta| meta.file_type().is_block_device());
    if is_device {
        Place::Device(target)
    } else {
        Place::File {
            path: target,
            force,
        }
    }
}

fn target_format(arguments: &args::Convert, to_stdout: bool) -> Result<Format, Failure> {
    if let Some(format) = open::format(arguments.target_format.as_deref())? {
        return Ok(format);
    }
    if to_stdout {
        return Ok(Format::Raw);
    }
    formats::format_by_extension(&arguments.target).ok_or_else(|| {
        let known: Vec<_> = DRIVERS.iter().map(|d| d.format().name()).collect();
        Error::usage(
            "target format",
            "cannot be told from the name of the target",
        )
        .expected(format!("-O with one of {}", known.join(", ")))
        .in_file(&arguments.target)
        .into()
    })
}

/// The value of `-S`.
pub fn sparse(text: Option<&str>) -> Result<Option<u64>, Failure> {
    let Some(text) = text else {
        return Ok(None);
    };
    match parse_size(text) {
        Some(size) if size.is_multiple_of(512) && size <= transfer::segments::SEGMENT => {
            Ok(Some(size))
        }
        _ => Err(Error::usage("-S", "not a possible size")
            .found(format!("{text:?}"))
            .expected("0, or a multiple of 512 up to 2M")
            .into()),
    }
}

fn reproducible(arguments: &args::Convert) -> Result<Option<u64>, Failure> {
    let epoch = std::env::var_os("SOURCE_DATE_EPOCH");
    match epoch.map(|text| text.to_string_lossy().into_owned()) {
        Some(text) => text.parse().map(Some).map_err(|_| {
            Error::usage("SOURCE_DATE_EPOCH", "is not a number of seconds")
                .found(format!("{text:?}"))
                .into()
        }),
        None => Ok(arguments.reproducible.then_some(0)),
    }
}

fn list_options(arguments: &args::Convert, to_stdout: bool) -> Result<ExitCode, Failure> {
    let format = target_format(arguments, to_stdout)?;
    let mut text = format!("options of {format}:\n");
    for option in driver(format).options() {
        let key = format!("{}={}", option.key, option.values);
        text += &format!("  {key:<40} {} (default {})\n", option.help, option.default);
    }
    if driver(format).options().is_empty() {
        text = format!("{format} has no options\n");
    }
    report::text(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Lists what `--salvage` had to leave out.
pub fn say_losses(losses: &Losses) {
    if losses.count == 0 {
        return;
    }
    for hole in losses.holes.iter().take(HOLES_SHOWN) {
        report::warning(&format!(
            "lost {} bytes at {}: {}",
            hole.len, hole.offset, hole.reason
        ));
    }
    report::warning(&format!(
        "{} ranges, {} bytes, were not readable and are zeros in the result",
        losses.count, losses.bytes
    ));
}

/// What there is to tell.
struct Outcome<'a> {
    arguments: &'a args::Convert,
    image: &'a Image,
    target_format: Format,
    converted: Converted,
    losses: Losses,
    seconds: f64,
}

#[derive(Serialize)]
struct Answer {
    source: End,
    target: End,
    bytes: Bytes,
    seconds: f64,
    digest: Option<DigestAnswer>,
    verified: bool,
    reflinked: bool,
    notes: Vec<String>,
    lost: Vec<Lost>,
}

#[derive(Serialize)]
struct End {
    file: String,
    format: String,
    virtual_size: u64,
    file_size: u64,
}

#[derive(Serialize)]
struct Bytes {
    data: u64,
    zero: u64,
    /// What an overlay leaves to the image below.
    below: u64,
    lost: u64,
}

#[derive(Serialize)]
struct DigestAnswer {
    algorithm: String,
    digest: String,
}

#[derive(Serialize)]
struct Lost {
    offset: u64,
    length: u64,
    reason: String,
}

impl Outcome<'_> {
    fn say_notes(&self) {
        say_losses(&self.losses);
        let done = &self.converted;
        done.notes.iter().for_each(|note| report::note(note));
        if done.target_size > done.source_size {
            report::note(&format!(
                "{} bytes → {}: {} stores whole sectors, the rest is zeros",
                done.source_size, done.target_size, self.target_format
            ));
        }
        if done.left_on_device > 0 {
            report::note(&format!(
                "the device is {} bytes larger than the disk; what stands there was left alone",
                done.left_on_device
            ));
        }
        if self.arguments.verify && self.digest().is_none() {
            report::note(
                "no digest: hashing the zeros of this disk would take longer than all of its data; \
                 --digest blake3 insists",
            );
        }
    }

    /// Bytes that an overlay leaves to the image below.
    fn below(&self) -> u64 {
        let done = &self.converted;
        let told = done.data_bytes.saturating_add(done.zero_bytes);
        done.source_size.saturating_sub(told)
    }

    fn digest(&self) -> Option<(String, String)> {
        let asked = self.converted.digests.first();
        asked
            .map(|(algorithm, digest)| (algorithm.to_string(), digest.clone()))
            .or_else(|| {
                let digest = self.converted.verified_digest.clone()?;
                Some(("blake3".to_owned(), digest))
            })
    }

    fn text(&self) -> String {
        let done = &self.converted;
        let read = self.image.tip().map_or(0, LayerFile::file_size);
        let mut text = format!(
            "{} ({}, {}) → {} ({}, {})\n",
            self.arguments.source.display(),
            self.source_format(),
            render::size(read),
            self.arguments.target.display(),
            self.target_format,
            render::size(done.file_size),
        );
        text += &format!(
            "disk {}: data {}, zeros {}{}; {:.1} s, {}/s{}\n",
            render::size(done.source_size),
            render::size(done.data_bytes),
            render::size(done.zero_bytes),
            match self.below() {
                0 => String::new(),
                bytes => format!(", as below {}", render::size(bytes)),
            },
            self.seconds,
            render::size((done.source_size as f64 / self.seconds.max(0.001)) as u64),
            if done.reflinked { " (reflink)" } else { "" },
        );
        if let Some((algorithm, digest)) = self.digest() {
            text += &format!("{algorithm} {digest}\n");
        }
        if done.verified {
            text += "verified: the target was read back and holds the same\n";
        }
        text
    }

    fn source_format(&self) -> String {
        self.image
            .tip()
            .map_or(String::new(), |tip| tip.info.format.to_string())
    }

    fn answer(&self) -> Answer {
        let done = &self.converted;
        Answer {
            source: End {
                file: self.arguments.source.display().to_string(),
                format: self.source_format(),
                virtual_size: done.source_size,
                file_size: self.image.tip().map_or(0, |tip| tip.storage.len()),
            },
            target: End {
                file: self.arguments.target.display().to_string(),
                format: self.target_format.to_string(),
                virtual_size: done.target_size,
                file_size: done.file_size,
            },
            bytes: Bytes {
                data: done.data_bytes,
                zero: done.zero_bytes,
                below: self.below(),
                lost: self.losses.bytes,
            },
            seconds: self.seconds,
            digest: self
                .digest()
                .map(|(algorithm, digest)| DigestAnswer { algorithm, digest }),
            verified: done.verified,
            reflinked: done.reflinked,
            notes: done.notes.clone(),
            lost: self
                .losses
                .holes
                .iter()
                .map(|hole| Lost {
                    offset: hole.offset,
                    length: hole.len,
                    reason: hole.reason.clone(),
                })
                .collect(),
        }
    }
}
