//! A chain into a folder: every layer as an image of its own, each naming the next.

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::Instant;

use formats::{Error, Image, driver};
use packages::write::{DiskOut, Made};
use transfer::{ChainPlace, CopyOptions, LayerDone};

use super::disk::DiskJob;
use super::told::Told;
use super::{copy_options, is_folder};
use crate::failure::Failure;
use crate::work::Work;
use crate::{open, source};

/// Converts every layer of the chain that `job` names into its target folder, under the name that it has, with the
/// extension of the new format. All of them appear, or none.
///
/// # Errors
/// What is wrong with the chain or the folder.
pub fn run(job: &DiskJob<'_>) -> Result<ExitCode, Failure> {
    let arguments = job.arguments;
    let folder = arguments.target();
    let is_new = !folder.exists();
    if !is_new && !is_folder(folder) {
        return Err(Error::usage("--keep-chain", "goes to a folder")
            .in_file(folder)
            .into());
    }
    let mut source = source::disk(
        &arguments.source,
        arguments.source_format.as_deref(),
        &arguments.reading.opening,
        job.context,
    )?;
    if source.is_packaged {
        return Err(Error::usage("--keep-chain", "is for disks that are not in a package").into());
    }
    open::check_size(&source.image, arguments.reading.max_size.as_deref())?;
    let names = names(&source.image, job)?;
    let format_options = job.options()?;
    let work = Work::new(arguments.reading.jobs)?;
    let options = CopyOptions {
        provided: source.watch(work.cancel()),
        ..copy_options(arguments, job.context)?
    };
    if is_new {
        std::fs::create_dir(folder).map_err(|e| Error::io("create", e).in_file(folder))?;
    }
    let started = Instant::now();
    let place = ChainPlace {
        folder,
        names: &names,
        force: arguments.force,
    };
    let done = work.watched(&arguments.output, |setting| {
        transfer::convert_chain(
            &source.image,
            job.format,
            &format_options,
            &place,
            &options,
            setting,
        )
    });
    if done.is_err() && is_new {
        // Nothing else than what was made here: it is removed only if it is empty.
        let _ = std::fs::remove_dir(folder);
    }
    let told = Told {
        arguments,
        format: job.format.name(),
        target: folder,
        machines: Vec::new(),
        made: made(names, done?),
        losses: work.losses(),
        seconds: started.elapsed().as_secs_f64(),
    };
    told.tell(false)
}

/// What the new images are called: as the old ones, with another extension.
fn names(image: &Image, job: &DiskJob<'_>) -> Result<Vec<String>, Failure> {
    let extensions = driver(job.format).extensions();
    let extension = extensions.first().unwrap_or(&"img");
    let mut known = HashMap::new();
    let mut names = Vec::new();
    for layer in &image.layers {
        let stem = layer.path.file_stem().unwrap_or_default();
        let stem = stem.to_str().ok_or_else(|| {
            Error::refused("--keep-chain", "the name of a layer is no text")
                .hint("rename it")
                .in_file(&layer.path)
        })?;
        let name = format!("{stem}.{extension}");
        if let Some(other) = known.insert(name.clone(), &layer.path) {
            return Err(
                Error::refused("--keep-chain", "two layers would have the same name")
                    .found(format!("{} and {}", other.display(), layer.path.display()))
                    .expected(format!("one {name}"))
                    .hint("convert them one by one, with -B for the image below")
                    .into(),
            );
        }
        names.push(name);
    }
    Ok(names)
}

fn made(names: Vec<String>, layers: Vec<LayerDone>) -> Made {
    let mut made = Made::default();
    for (name, layer) in names.into_iter().zip(layers) {
        if layer.target_size > layer.source_size {
            made.notes.push(format!(
                "{name}: {} bytes → {}, the rest is zeros",
                layer.source_size, layer.target_size
            ));
        }
        made.notes.extend(layer.notes);
        made.file_size += layer.file_size;
        made.disks.push(DiskOut {
            name,
            source_size: layer.source_size,
            target_size: layer.target_size,
            stored: layer.file_size,
            data_bytes: layer.data_bytes,
            zero_bytes: layer.zero_bytes,
            digests: layer.digests,
            verified_digest: layer.verified_digest,
        });
    }
    made.notes.dedup();
    made
}
