//! All disks of a machine, or those that were picked, into a folder.

use std::process::ExitCode;
use std::time::Instant;

use formats::xva::Checksum;
use formats::{Error, driver};
use machines::profiles::WIDEST;
use packages::write::{self, DiskIn, WriteOptions, format_of};

use super::copy_options;
use super::disk::DiskJob;
use super::told::Told;
use crate::failure::Failure;
use crate::work::Work;
use crate::{open, source};

/// Converts the disks of the package that `job` names into its target folder, one image each: `NAME-disk1.qcow2`. All of
/// them appear, or none.
///
/// # Errors
/// What is wrong with the package or the folder.
pub fn run(job: &DiskJob<'_>) -> Result<ExitCode, Failure> {
    let arguments = job.arguments;
    let format = arguments.source_format.as_deref();
    let opened = source::package(&arguments.source, format, job.context)?;
    let opened = opened.ok_or_else(|| {
        Error::refused("target", "is a folder")
            .hint("name the file; only the disks of packages go to a folder")
            .in_file(arguments.target())
    })?;
    if arguments.backing.is_some() {
        return Err(
            Error::usage("-B", "goes with a single disk: name a file as the target").into(),
        );
    }
    let choice = source::choice(&arguments.reading.opening);
    let machine = choice.machine(&opened)?;
    let chosen = choice.disks(&opened, machine)?;
    source::say_package(&opened);
    source::judge_package(&opened, job.context.salvage)?;
    let name = opened.package.machines.get(machine).map(|m| m.name.clone());
    let name = name.unwrap_or_default();
    let base = job.profile.unwrap_or(&WIDEST).file_name(&name);
    let extensions = driver(job.format).extensions();
    let extension = extensions.first().unwrap_or(&"img");
    let (mut disks, mut names) = (Vec::new(), Vec::new());
    for disk in chosen {
        let mut found = source::disk_of(&opened, machine, disk, job.context)?;
        open::check_size(&found.image, arguments.reading.max_size.as_deref())?;
        names.push(format!("{base}-disk{}.{extension}", disk + 1));
        disks.push(DiskIn {
            pending: found.take_pending(),
            image: found.image,
            is_blank: false,
            adapter: None,
        });
    }
    let work = Work::new(arguments.reading.jobs)?.salvaging(job.context.salvage);
    let watch = |pending| source::watch(pending, work.cancel(), job.context.salvage);
    let profile = job.profile.filter(|p| format_of(p.disk.0) == job.format);
    let options = WriteOptions {
        profile: job.profile.unwrap_or(&WIDEST),
        copy: copy_options(arguments, job.context)?,
        disk_options: arguments.options.clone(),
        subformat: profile.map_or("", |p| p.disk.1),
        compress: arguments.compress,
        size_multiple: job.profile.map_or(1, |p| p.size_multiple),
        manifest: None,
        signing: None,
        checksum: Checksum::Sha1,
        unix_time: 0,
        seed: Vec::new(),
        watch: &watch,
    };
    let made_folder = !arguments.target().exists();
    if made_folder {
        std::fs::create_dir(arguments.target())
            .map_err(|e| Error::io("create", e).in_file(arguments.target()))?;
    }
    let (folder, force) = (arguments.target(), arguments.force);
    let started = Instant::now();
    let made = work.watched(&arguments.output, |setting| {
        write::images(disks, folder, names, job.format, force, &options, setting)
    });
    if made.is_err() && made_folder {
        // Nothing else than what was made here: it is removed only if it is empty.
        let _ = std::fs::remove_dir(folder);
    }
    let told = Told {
        arguments,
        format: job.format.name(),
        target: folder,
        machines: vec![name],
        made: made?,
        losses: work.losses(),
        seconds: started.elapsed().as_secs_f64(),
    };
    told.tell(false)
}
