//! `convert`: a copy of a disk in another format, or of a machine in another package.
//!
//! | file | what it makes |
//! |---|---|
//! | `disk.rs` | an image, a device, a pipe |
//! | `chain.rs` | an image of each layer of a chain |
//! | `folder.rs` | an image of each disk of a machine |
//! | `package.rs` | a package |
//! | `described.rs` | the machine around a disk, from the command line |
//! | `signing.rs` | the key and the certificate, from the command line |
//! | `replace.rs` | an image in the place of the one that was read |
//! | `in_place.rs` | a dynamic VHD in the file of a fixed one |
//! | `made_from.rs` | the receipt of it, for deltas that come later |
//! | `outcome.rs`, `told.rs` | what is told at the end of one disk, and of several |

mod chain;
mod described;
mod disk;
mod folder;
mod in_place;
mod made_from;
mod outcome;
mod package;
mod replace;
mod signing;
mod told;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use formats::options::parse_size;
use formats::{DRIVERS, Error, FileStorage, Format, OpenContext, StorageRef, driver};
use machines::profiles::{self, Profile};
use packages::Kind;
use packages::packed::is_packed;
use packages::write::format_of;
use transfer::CopyOptions;
use transfer::same_storage::Sources;

use self::disk::DiskJob;
pub use self::outcome::say_losses;
use crate::args;
use crate::failure::Failure;
use crate::source::{Found, Named};
use crate::work::Work;
use crate::{open, report, source};

/// Runs the verb.
pub fn run(arguments: &args::Convert) -> Result<ExitCode, Failure> {
    let to_stdout = arguments.target().as_os_str() == "-";
    let profile = profile(arguments)?;
    if arguments.replace {
        let context = OpenContext {
            detailed: true,
            ..open::context(&arguments.reading.opening, false)?
        };
        return match arguments.in_place {
            true => in_place::run(arguments, &context),
            false => replace::run(arguments, profile, &context),
        };
    }
    let target = target(arguments, to_stdout, profile)?;
    if arguments.options.iter().any(|o| o == "help") {
        return list_options(target, profile);
    }
    if to_stdout && arguments.output.json {
        return Err(
            Error::usage("--json", "and the disk cannot both go to standard output").into(),
        );
    }
    let context = open::context(&arguments.reading.opening, arguments.reading.salvage)?;
    if arguments.keep_chain && !matches!(target, Named::Disk(_)) {
        return Err(Error::usage("--keep-chain", "is for disks, and this is a package").into());
    }
    let format = match target {
        Named::Disk(format) => format,
        Named::Package(Kind::Toml) => {
            return Err(Error::usage("-O toml", "is no package")
                .hint("info --toml prints the machine")
                .into());
        }
        Named::Package(kind) => {
            refuse_sizes(arguments, "a package")?;
            made_from::refuse(arguments, "a package")?;
            return package::run(arguments, kind, profile, &context);
        }
    };
    described::refuse(arguments)?;
    let job = DiskJob {
        arguments,
        format,
        profile,
        context: &context,
    };
    if arguments.keep_chain {
        return chain::run(&job);
    }
    if !to_stdout && is_folder(arguments.target()) {
        refuse_sizes(arguments, "a folder")?;
        made_from::refuse(arguments, "a folder")?;
        return folder::run(&job);
    }
    let mut source = source::disk(
        &arguments.source,
        arguments.source_format.as_deref(),
        &arguments.reading.opening,
        &context,
    )?;
    let jobs = arguments.reading.jobs;
    let work = if to_stdout {
        Work::into_pipe(jobs)?
    } else {
        Work::new(jobs)?
    };
    let work = work.salvaging(arguments.reading.salvage);
    if to_stdout {
        made_from::refuse(arguments, "standard output")?;
    }
    made_from::check(arguments)?;
    let outcome = job.run(&mut source, arguments.target(), &work)?;
    outcome.say_notes();
    made_from::write(&outcome, &context)?;
    if arguments.output.json {
        report::json(&outcome.answer())?;
    } else if to_stdout {
        outcome.text().lines().for_each(report::line);
    } else {
        report::text(&outcome.text())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Fails when a size is asked for, and more than one disk may be made.
fn refuse_sizes(arguments: &args::Convert, target: &str) -> Result<(), Failure> {
    let option = match (arguments.size, arguments.fix_gpt) {
        (Some(_), _) => "--size",
        (None, true) => "--fix-gpt",
        (None, false) => return Ok(()),
    };
    Err(Error::usage(
        option,
        format!("goes with a single disk, and the target is {target}"),
    )
    .hint("make a disk of another size first")
    .into())
}

/// Whether two names lead to the same file.
fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    real(one).is_some() && real(one) == real(other)
}

/// Whether a target is a folder, by its name or because it is one.
fn is_folder(target: &Path) -> bool {
    target.as_os_str().as_encoded_bytes().ends_with(b"/") || target.is_dir()
}

/// How every disk is copied.
fn copy_options(arguments: &args::Convert, context: &OpenContext) -> Result<CopyOptions, Failure> {
    Ok(CopyOptions {
        sources: sources(arguments, context)?,
        affordable_digest: arguments.receipt.is_some(),
        sparse: sparse(arguments.sparse.as_deref())?,
        digests: arguments.digest.map(Into::into).into_iter().collect(),
        verify: arguments.verify,
        reproducible: reproducible(arguments)?,
        recompress: arguments.recompress,
        ..CopyOptions::default()
    })
}

/// Every file that the arguments name or a package is made of, but the target.
fn sources(arguments: &args::Convert, context: &OpenContext) -> Result<Sources, Failure> {
    let said = &arguments.packaging;
    let key_file = &arguments.reading.opening.key_file;
    let named = [&said.machine, &said.sign, &said.cert, key_file];
    let named = named.into_iter().flatten().map(PathBuf::as_path);
    let mut sources: Sources = named.chain([arguments.source.as_path()]).collect();
    // Without --force nothing that is there is written to; and what is packed is one file, which takes long to look into.
    if !arguments.force {
        return Ok(sources);
    }
    let file: StorageRef = Arc::new(FileStorage::open(&arguments.source)?);
    if !is_packed(&file)? {
        let found = Found::open(&arguments.source, arguments.source_format.as_deref())?;
        let in_a_folder = matches!(found.kind, Some(Kind::Ovf | Kind::Vmx | Kind::Toml));
        if let (true, Some(opened)) = (in_a_folder, found.package(context)?) {
            sources.extend(opened.own_files(context).iter().map(PathBuf::as_path));
        }
    }
    Ok(sources)
}

/// The row of `--for`.
fn profile(arguments: &args::Convert) -> Result<Option<&'static Profile>, Failure> {
    let Some(name) = &arguments.profile else {
        return Ok(None);
    };
    profiles::by_name(name).map(Some).ok_or_else(|| {
        let known: Vec<&str> = profiles::PROFILES.iter().map(|p| p.name).collect();
        Error::usage("--for", "no such product is known")
            .found(format!("{name:?}"))
            .expected(format!("one of {}", known.join(", ")))
            .into()
    })
}

/// What is to be made: what the user says, what the name of the target says, what the profile says.
fn target(
    arguments: &args::Convert,
    to_stdout: bool,
    profile: Option<&Profile>,
) -> Result<Named, Failure> {
    if let Some(named) = Named::parse(arguments.target_format.as_deref())? {
        return Ok(named);
    }
    if to_stdout {
        return Ok(Named::Disk(Format::Raw));
    }
    let target = arguments.target();
    if let Some(profile) = profile.filter(|_| is_folder(target)) {
        return Ok(Named::Disk(format_of(profile.disk.0)));
    }
    if let Some(kind) = Kind::by_extension(target) {
        return Ok(Named::Package(kind));
    }
    let format = formats::format_by_extension(target).map(Named::Disk);
    format.ok_or_else(|| {
        let disks = DRIVERS.iter().map(|d| d.format().name());
        let known: Vec<_> = disks.chain(Kind::WRITTEN.map(Kind::name)).collect();
        Error::usage(
            "target format",
            "cannot be told from the name of the target",
        )
        .expected(format!("-O with one of {}", known.join(", ")))
        .in_file(target)
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

fn list_options(target: Named, profile: Option<&Profile>) -> Result<ExitCode, Failure> {
    let format = match (target, profile) {
        (Named::Disk(format), _) => format,
        (Named::Package(_), Some(profile)) => format_of(profile.disk.0),
        (Named::Package(_), None) => format_of(profiles::WIDEST.disk.0),
    };
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
