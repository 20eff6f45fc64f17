//! All disks of a machine, or those that were picked, into a folder.

use std::path::PathBuf;
use std::process::ExitCode;

use formats::{Error, driver};
use machines::profiles::WIDEST;
use packages::Opened;
use serde::Serialize;

use super::disk::DiskJob;
use super::outcome::Answer;
use crate::failure::Failure;
use crate::work::Work;
use crate::{report, source};

#[derive(Serialize)]
struct Folder {
    source: String,
    target: String,
    disks: Vec<Answer>,
}

/// Converts the disks of the package that `job` names into its target folder, one file each: `NAME-disk1.qcow2`.
///
/// # Errors
/// What is wrong with the package or the folder; what was put in place before stays.
pub fn run(job: &DiskJob<'_>) -> Result<ExitCode, Failure> {
    let arguments = job.arguments;
    let opening = &arguments.reading.opening;
    let format = arguments.source_format.as_deref();
    let opened = source::package(&arguments.source, format, job.context)?;
    let opened = opened.ok_or_else(|| {
        Error::refused("target", "is a folder")
            .hint("name the file; only the disks of packages go to a folder")
            .in_file(&arguments.target)
    })?;
    if arguments.backing.is_some() {
        return Err(
            Error::usage("-B", "goes with a single disk: name a file as the target").into(),
        );
    }
    let choice = source::choice(opening);
    let machine = choice.machine(&opened)?;
    let disks = choice.disks(&opened, machine)?;
    source::say_package(&opened);
    source::judge_package(&opened, job.context.salvage)?;
    if disks.is_empty() {
        return Err(Error::malformed("package", "the machine has no disk")
            .in_file(opened.path())
            .into());
    }
    let made = !arguments.target.exists();
    if made {
        std::fs::create_dir(&arguments.target)
            .map_err(|e| Error::io("create", e).in_file(&arguments.target))?;
    }
    let work = Work::new(arguments.reading.jobs)?.salvaging(job.context.salvage);
    let mut answers = Vec::new();
    for disk in disks {
        let target = file_name(job, &opened, machine, disk);
        let work = work.again();
        let converted = source::disk_of(&opened, machine, disk, job.context)
            .and_then(|mut source| report_one(job, &mut source, target, &work));
        match converted {
            Ok(answer) => answers.push(answer),
            Err(failure) => {
                if made {
                    // Nothing else than what was made here: it is removed only if it is empty.
                    let _ = std::fs::remove_dir(&arguments.target);
                }
                return Err(failure);
            }
        }
    }
    if arguments.output.json {
        report::json(&Folder {
            source: arguments.source.display().to_string(),
            target: arguments.target.display().to_string(),
            disks: answers,
        })?;
    }
    Ok(ExitCode::SUCCESS)
}

fn report_one(
    job: &DiskJob<'_>,
    source: &mut source::Source,
    target: PathBuf,
    work: &Work,
) -> Result<Answer, Failure> {
    let outcome = job.run(source, &target, work)?;
    outcome.say_notes();
    if !job.arguments.output.json {
        report::text(&outcome.text())?;
    }
    Ok(outcome.answer())
}

fn file_name(job: &DiskJob<'_>, opened: &Opened, machine: usize, disk: usize) -> PathBuf {
    let machine = opened.package.machines.get(machine);
    let name = job
        .profile
        .unwrap_or(&WIDEST)
        .file_name(machine.map_or("", |m| &m.name));
    let extensions = driver(job.format).extensions();
    let extension = extensions.first().unwrap_or(&"img");
    let name = format!("{name}-disk{}.{extension}", disk + 1);
    job.arguments.target.join(name)
}
