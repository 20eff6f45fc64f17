//! A disk into an image, a device or a pipe.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path};
use std::sync::Arc;
use std::time::Instant;

use formats::options::Backing;
use formats::{Error, Format, Image, OpenContext, Options, Patched, Window, driver};
use machines::profiles::Profile;
use transfer::output::file::{folder_of, free_space};
use transfer::partitions::gpt::GptMove;
use transfer::resize::{check_shrinking, gpt_move, gpt_note};
use transfer::same_storage::Sources;
use transfer::{CopyOptions, Place};

use super::outcome::Outcome;
use packages::write::format_of;

use super::{copy_options, reproducible};
use crate::args;
use crate::failure::Failure;
use crate::source::Source;
use crate::work::Work;
use crate::{open, render, report};

/// How disks are converted: the same for all disks of a package.
pub struct DiskJob<'a> {
    /// What was asked for.
    pub arguments: &'a args::Convert,
    /// Format of the target.
    pub format: Format,
    /// Whom it is for.
    pub profile: Option<&'static Profile>,
    /// How images are opened.
    pub context: &'a OpenContext,
}

impl DiskJob<'_> {
    /// Converts `source` to the file, device or pipe called `target`.
    ///
    /// # Errors
    /// What is wrong with either.
    pub fn run<'a>(
        &'a self,
        source: &'a mut Source,
        target: &'a Path,
        work: &Work,
    ) -> Result<Outcome<'a>, Failure> {
        let arguments = self.arguments;
        let to_stdout = target.as_os_str() == "-";
        let below = below(arguments, target, self.context)?;
        let format_options = self.options()?;
        let format_options =
            format_options.over(below.as_ref().map(|(backing, _)| backing.clone()));
        open::check_size(&source.image, arguments.reading.max_size.as_deref())?;
        let is_resized = self.resize(source)?;
        let options = CopyOptions {
            reflink: !arguments.no_reflink && !is_resized,
            below: below.map(|(_, image)| Arc::new(image)),
            provided: source.watch(work.cancel()),
            ..copy_options(arguments, self.context)?
        };
        if !to_stdout {
            warn_if_tight(&source.image, target);
        }
        let started = Instant::now();
        let place = place(target, to_stdout, arguments.force);
        let source = &*source;
        let converted = work.watched(&arguments.output, |setting| {
            transfer::convert(
                &source.image,
                self.format,
                &format_options,
                place,
                &options,
                setting,
            )
        })?;
        Ok(Outcome {
            arguments,
            source,
            target,
            target_format: self.format,
            converted,
            losses: work.losses(),
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// The options of the target: what the user says, and for the rest what the profile wants.
    ///
    /// # Errors
    /// `Usage` for options that the format does not have.
    pub fn options(&self) -> Result<Options, Failure> {
        let mut pairs = self.arguments.options.clone();
        let says_kind = pairs.iter().any(|pairs| {
            pairs
                .split(',')
                .any(|pair| pair.trim().starts_with("subformat="))
        });
        if let Some(profile) = self
            .profile
            .filter(|_| !says_kind && !self.arguments.compress)
            && format_of(profile.disk.0) == self.format
            && !profile.disk.1.is_empty()
        {
            pairs.push(format!("subformat={}", profile.disk.1));
        }
        let options = Options::new(driver(self.format).options(), &pairs)?;
        Ok(options.compressed(self.arguments.compress))
    }

    /// Gives the disk the size that the user and the profile want, and answers whether that changes anything.
    fn resize(&self, source: &mut Source) -> Result<bool, Failure> {
        let arguments = self.arguments;
        let disk = source.image.source.clone();
        let size = disk.size();
        let asked = arguments.size.map_or(Ok(size), |asked| asked.of(size))?;
        let fixes = arguments.fix_gpt;
        check_shrinking(disk.as_ref(), asked, arguments.shrink, fixes)
            .map_err(|e| e.in_file(&source.path))?;
        let wanted = match self.profile {
            Some(profile) => profile
                .disk_size(asked)
                .ok_or_else(|| Error::limit("disk", "is too large").found(asked))?,
            None => asked,
        };
        if let Some(profile) = self.profile.filter(|_| wanted != asked) {
            report::note(&format!(
                "{asked} bytes → {wanted}: {} wants whole units of {}",
                profile.title,
                render::size(profile.size_multiple)
            ));
        }
        let moved = match fixes {
            true => gpt_move(disk.as_ref(), wanted)?,
            false => None,
        };
        if !fixes && asked != size {
            let note = gpt_note(disk.as_ref(), wanted)?;
            note.iter().for_each(|note| report::note(note));
        }
        if wanted == size && moved.is_none() {
            return Ok(false);
        }
        source.image.source = Arc::new(Window::new(disk, wanted));
        if let Some(moved) = moved {
            let GptMove {
                backup,
                primary,
                cleared,
            } = moved;
            // Of an old copy behind the new end nothing arrives.
            let zeros = cleared.into_iter().map(|old| {
                let len = old.end.min(wanted).saturating_sub(old.start);
                (old.start, vec![0; len as usize])
            });
            let zeros = zeros.filter(|(_, bytes)| !bytes.is_empty());
            let patches = zeros.chain(backup).chain(primary).collect();
            source.image.source = Arc::new(Patched::new(source.image.source.clone(), patches));
            report::note("the copy of the GPT was moved to the end of the disk");
        }
        Ok(true)
    }
}

/// The image that the target is to stand on: how it is named, and itself.
fn below(
    arguments: &args::Convert,
    target: &Path,
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
    let path = folder_of(target).join(&name);
    let present = OpenContext {
        snapshot: None,
        layer: None,
        ..context.clone()
    };
    let image = open::image(&path, arguments.backing_format.as_deref(), &present)?;
    let sources: Sources = image.storages.iter().map(|s| s.path()).collect();
    if sources.include(target) {
        return Err(
            Error::refused("target", "is the image that it is to stand on")
                .in_file(target)
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
    let mut backing = image.tip().map(|tip| tip.as_backing(&name));
    if let Some(backing) = backing
        .as_mut()
        .filter(|_| reproducible(arguments).is_ok_and(|time| time.is_some()))
    {
        backing.modified = None;
    }
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
