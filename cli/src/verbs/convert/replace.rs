//! `--replace`: the new image takes the place of the one that was read, once it is proved to hold the same.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use formats::open::open_storage;
use formats::{
    Detail, Error, Format, Identity, Image, ImageId, InPlaceFile, LayerFile, OpenContext, Options,
    driver,
};
use machines::profiles::Profile;
use transfer::output::file::{folder_of, free_space};
use transfer::{CopyOptions, Place, identity, measure};

use super::outcome::Outcome;
use super::{copy_options, described};
use crate::args;
use crate::changeable::refuse_children;
use crate::failure::Failure;
use crate::source::{Found, Named, Source};
use crate::work::Work;
use crate::{open, render, report};

/// What is added to the room that the source takes, for tables: bytes.
const MORE_ROOM: u64 = 64 << 20;

/// Replaces the image that `arguments` name.
///
/// # Errors
/// `Refused` for what others stand on or have open, and for what the new image could not say; everything is as it was then.
pub fn run(
    arguments: &args::Convert,
    profile: Option<&'static Profile>,
    context: &OpenContext,
) -> Result<ExitCode, Failure> {
    described::refuse(arguments)?;
    let path = real_name(arguments)?;
    let found = Found::open(&path, arguments.source_format.as_deref())?;
    if found.kind.is_some() || found.file.file_id() != found.outermost.file_id() {
        return Err(Error::usage("--replace", "is for disk images")
            .hint("convert SRC DST --force makes a package anew")
            .in_file(&path)
            .into());
    }
    let image = open::said(open_storage(found.file, found.format, context)?)?;
    open::check_size(&image, arguments.reading.max_size.as_deref())?;
    let [tip] = &image.layers[..] else {
        return Err(
            Error::refused("--replace", "the image stands on another one")
                .hint("convert it under a new name, which makes one image of the chain")
                .in_file(&path)
                .into(),
        );
    };
    let format = match Named::parse(arguments.target_format.as_deref())? {
        Some(Named::Disk(format)) => format,
        Some(Named::Package(_)) => {
            return Err(Error::usage("--replace", "an image is replaced by an image").into());
        }
        None => tip.info.format,
    };
    refuse_losses(tip, arguments.reading.salvage)?;
    refuse_children(tip, context)?;
    // Until the end: nobody shall write to what is about to go.
    let _locks = locks(tip)?;
    let mut pairs = arguments.options.clone();
    pairs.extend(kept_options(tip, format, &pairs, profile));
    let options = Options::new(driver(format).options(), &pairs)?
        .compressed(arguments.compress)
        .keeping(tip.info.identity, tip.info.disk_id);
    let copy = CopyOptions {
        verify: true,
        identity: same_identity(tip),
        ..copy_options(arguments, context)?
    };
    let kept = arguments.keep_old.then(|| old_name(&path));
    let work = Work::new(arguments.reading.jobs)?.salvaging(arguments.reading.salvage);
    let started = Instant::now();
    let before = tip.allocated()?;
    let converted = work.watched(&arguments.output, |setting| {
        check_room(&image, format, &options, &copy, &path, setting)?;
        let place = Place::Replacement {
            path: &path,
            kept: kept.as_deref(),
        };
        transfer::convert(&image, format, &options, place, &copy, setting)
    })?;
    let source = Source::of_image(&path, image);
    let outcome = Outcome {
        arguments,
        source: &source,
        target: &path,
        target_format: format,
        converted,
        losses: work.losses(),
        seconds: started.elapsed().as_secs_f64(),
    };
    outcome.say_notes();
    say_saved(before, &path, kept.as_deref());
    if arguments.output.json {
        report::json(&outcome.answer())?;
    } else {
        report::text(&outcome.text())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The file that is replaced: of a link, what it leads to.
pub(super) fn real_name(arguments: &args::Convert) -> Result<PathBuf, Failure> {
    if arguments.backing.is_some() {
        return Err(Error::usage("-B", "does not go with --replace").into());
    }
    let path = arguments
        .source
        .canonicalize()
        .map_err(|e| Error::io("open", e).in_file(&arguments.source))?;
    if !path.is_file() {
        return Err(
            Error::refused("--replace", "only plain files can be replaced")
                .in_file(&path)
                .into(),
        );
    }
    Ok(path)
}

fn old_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".old");
    name.into()
}

/// Fails when the image holds what a new one would not: it would be lost with the old one.
pub(super) fn refuse_losses(tip: &LayerFile, salvage: bool) -> Result<(), Failure> {
    let refuse = |what: &str| {
        Err(Error::refused("--replace", format!("{what} would be lost"))
            .hint("convert it under a new name, and decide then what becomes of the old one")
            .in_file(&tip.path)
            .into())
    };
    if salvage {
        return Err(Error::usage(
            "--salvage",
            "does not go with --replace: what cannot be read would be lost",
        )
        .into());
    }
    for (name, detail) in &tip.info.details {
        let is_there = match detail {
            Detail::Records(records) => !records.is_empty(),
            Detail::List(lines) => !lines.is_empty(),
            Detail::Text(_) => true,
            Detail::Flag(flag) => *flag,
            Detail::Number(number) => *number > 0,
        };
        match *name {
            "snapshots" if is_there => return refuse("its snapshots"),
            "bitmaps" | "bitmaps_stale" if is_there => return refuse("its bitmaps"),
            "encryption" if is_there => return refuse("its encryption"),
            "data_file" if is_there => return refuse("its external data file"),
            "saved_state" if is_there => return refuse("its saved state"),
            _ => {}
        }
    }
    Ok(())
}

fn locks(tip: &LayerFile) -> Result<Vec<InPlaceFile>, Failure> {
    let storages = std::iter::once(&tip.storage).chain(&tip.further);
    let locks = storages.map(|storage| InPlaceFile::open(storage.as_ref()));
    Ok(locks.collect::<Result<_, _>>()?)
}

/// Options that the old image had, and the user says nothing of: the new one is to be like it.
fn kept_options(
    tip: &LayerFile,
    format: Format,
    said: &[String],
    profile: Option<&Profile>,
) -> Vec<String> {
    if tip.info.format != format || profile.is_some() {
        return Vec::new();
    }
    let said: Vec<&str> = said
        .iter()
        .flat_map(|pairs| pairs.split(','))
        .filter_map(|pair| pair.split_once('=').map(|(key, _)| key.trim()))
        .collect();
    let detail = |wanted: &str| {
        let found = tip.info.details.iter().find(|(name, _)| *name == wanted);
        found.map(|(_, detail)| match detail {
            Detail::Text(text) => text.clone(),
            Detail::Number(number) => number.to_string(),
            Detail::Flag(true) => "on".to_owned(),
            Detail::Flag(false) => "off".to_owned(),
            Detail::List(_) | Detail::Records(_) => String::new(),
        })
    };
    let is_fixed = tip.info.subformat == "fixed";
    let mut kept: Vec<(&str, Option<String>)> = Vec::new();
    match format {
        Format::Vhd | Format::Vhdx | Format::Vdi => {
            kept.push(("subformat", Some(tip.info.subformat.clone())));
        }
        Format::Vmdk => {
            kept.push(("subformat", detail("create_type")));
            kept.push(("adapter_type", detail("adapter_type")));
            kept.push(("hwversion", detail("hardware_version")));
        }
        Format::Qcow2 => {
            for key in [
                "compat",
                "cluster_size",
                "refcount_bits",
                "lazy_refcounts",
                "extended_l2",
            ] {
                kept.push((key, detail(key)));
            }
        }
        Format::Raw => {}
    }
    let will_be_fixed = is_fixed && !said.contains(&"subformat");
    if matches!(format, Format::Vhd | Format::Vhdx) && !will_be_fixed && !is_fixed {
        kept.push(("block_size", Some(tip.source.block_size().to_string())));
    }
    let known = driver(format).options();
    kept.into_iter()
        .filter(|(key, _)| !said.contains(key) && known.iter().any(|option| option.key == *key))
        .filter_map(|(key, value)| Some(format!("{key}={}", value?)))
        .collect()
}

/// The ids of the old image, so that what refers to it still fits.
fn same_identity(tip: &LayerFile) -> Option<Identity> {
    let mut same = identity::random();
    match tip.info.identity? {
        ImageId::Uuid(id) => same.id = id.into_bytes(),
        ImageId::Cid(cid) => {
            if let Some(last) = same.id.last_chunk_mut::<4>() {
                *last = cid.to_be_bytes();
            }
        }
    }
    Some(same)
}

/// Fails when the new image does not fit beside the old one.
fn check_room(
    image: &Image,
    format: Format,
    options: &Options,
    copy: &CopyOptions,
    path: &Path,
    setting: &transfer::Setting<'_>,
) -> transfer::Result<()> {
    let free = free_space(folder_of(path))?;
    let occupied: u64 = image.storages.iter().flat_map(|s| s.allocated()).sum();
    if free
        >= occupied
            .saturating_add(occupied / 32)
            .saturating_add(MORE_ROOM)
    {
        return Ok(());
    }
    let needed = measure(image, format, options, copy.sparse, setting)?;
    // Of a file with holes only what is stored takes room.
    let most = needed.file_size.min(occupied.saturating_add(MORE_ROOM));
    if free >= most {
        return Ok(());
    }
    let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
    Err(Error::io("look for room beside the old image", full)
        .found(format!("{free} bytes free"))
        .expected(format!("{most} bytes"))
        .hint("make room, or convert it to another file system")
        .in_file(path)
        .into())
}

/// Says what room was won.
pub(super) fn say_saved(before: u64, path: &Path, kept: Option<&Path>) {
    use std::os::unix::fs::MetadataExt;
    let after = std::fs::metadata(path).map_or(0, |meta| meta.blocks().saturating_mul(512));
    if let Some(kept) = kept {
        report::note(&format!("the old image is {}", kept.display()));
    }
    report::note(&match before.checked_sub(after) {
        Some(saved) if saved > 0 => format!(
            "{} on the storage → {}: {} saved",
            render::size(before),
            render::size(after),
            render::size(saved)
        ),
        _ => format!(
            "{} on the storage → {}",
            render::size(before),
            render::size(after)
        ),
    });
}
