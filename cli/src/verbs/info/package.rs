//! `info` of a package: the machines in it, and what their disks are.

use std::io::IsTerminal;
use std::process::ExitCode;

use formats::OpenContext;
use machines::certificate::Signer;
use machines::machine::{Disk, Machine};
use machines::toml_file;
use packages::{Kind, Opened};
use serde::Serialize;

use super::{both, line};
use crate::args;
use crate::failure::Failure;
use crate::source::{self, Found};
use crate::{open, render, report};

/// What is told of what a description does not say.
const NOT_SAID: &str = "not said";

/// Lines of a description that people are shown.
const LINES_SHOWN: usize = 12;

#[derive(Serialize)]
struct Answer<'a> {
    file: String,
    format: &'static str,
    standard: &'a str,
    producer: Option<&'a str>,
    file_size: u64,
    manifest: Option<Manifest>,
    signer: Option<SignerAnswer<'a>>,
    machines: Vec<MachineAnswer<'a>>,
    /// What the description has of networks and files besides.
    package: PackageAnswer<'a>,
    warnings: Vec<String>,
    notes: Vec<String>,
    violations: &'a [String],
}

#[derive(Serialize)]
struct Manifest {
    name: String,
    algorithms: Vec<&'static str>,
    files: usize,
}

#[derive(Serialize)]
struct SignerAnswer<'a> {
    subject: &'a str,
    issuer: &'a str,
    not_before: &'a str,
    not_after: &'a str,
    key: &'a str,
    /// What the certificates prove of the subject: `self-signed`, `chain`, `issuer-missing`, `unsupported`.
    standing: &'static str,
    /// Certificates of its issuers that are in the package.
    issuers: usize,
}

#[derive(Serialize)]
struct PackageAnswer<'a> {
    collection: &'a Option<machines::package::Collection>,
    networks: &'a [machines::package::Network],
    files: &'a [machines::machine::FileReference],
    sections: &'a [machines::machine::Section],
}

#[derive(Serialize)]
struct MachineAnswer<'a> {
    #[serde(flatten)]
    machine: &'a Machine,
    /// What the images of the disks say, in the order of `disks`.
    images: Vec<ImageAnswer>,
}

#[derive(Serialize)]
struct ImageAnswer {
    file: Option<String>,
    format: Option<String>,
    virtual_size: Option<u64>,
    stored: Option<u64>,
    /// Why the image cannot be read.
    error: Option<String>,
}

/// Prints what the package in `found` is.
///
/// # Errors
/// What is wrong with its description; disks that cannot be read are told.
pub fn run(
    arguments: &args::Info,
    found: &Found,
    kind: Kind,
    context: &OpenContext,
) -> Result<ExitCode, Failure> {
    // A description that is not the one of the manifest is worth looking at, with a warning.
    let generous = OpenContext {
        salvage: true,
        ..context.clone()
    };
    let Some(opened) = found.package(&generous)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let choice = source::choice(&arguments.opening);
    if arguments.toml {
        let machine = choice.machine(&opened)?;
        let machine = opened.package.machines.get(machine);
        let text = machine.map(toml_file::write).transpose()?;
        let text = text.unwrap_or_default();
        match std::io::stdout().is_terminal() {
            true => report::text(&text)?,
            false => report::raw(&text)?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    let chosen = choice.machines(&opened)?;
    let mut warnings = opened.warnings.clone();
    warnings.extend(opened.seal.damage.iter().cloned());
    let mut machines = Vec::new();
    for index in chosen {
        let Some(machine) = opened.package.machines.get(index) else {
            continue;
        };
        let disks = 0..machine.disks.len();
        let images = disks.map(|disk| image(&opened, index, disk, context, &mut warnings));
        machines.push(MachineAnswer {
            machine,
            images: images.collect(),
        });
    }
    if opened.seal.manifest.is_none() && matches!(kind, Kind::Ova | Kind::Ovf) {
        warnings.push("there is no manifest: nothing vouches for the files".to_owned());
    }
    let answer = Answer {
        file: arguments.image.display().to_string(),
        format: kind.name(),
        standard: &opened.package.standard,
        producer: opened.package.producer.as_deref(),
        file_size: opened.outermost.len(),
        manifest: manifest(&opened),
        signer: opened.seal.signer.as_ref().map(signer),
        machines,
        package: PackageAnswer {
            collection: &opened.package.collection,
            networks: &opened.package.networks,
            files: &opened.package.files,
            sections: &opened.package.sections,
        },
        warnings,
        notes: opened.package.notes.clone(),
        violations: &opened.package.violations,
    };
    if arguments.json {
        report::json(&answer)?;
    } else {
        report::text(&text(&answer, &opened))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn manifest(opened: &Opened) -> Option<Manifest> {
    let (name, manifest) = opened.seal.manifest.as_ref()?;
    let mut algorithms: Vec<&str> = manifest
        .entries
        .iter()
        .map(|e| e.algorithm.name())
        .collect();
    algorithms.sort_unstable();
    algorithms.dedup();
    Some(Manifest {
        name: name.clone(),
        algorithms,
        files: manifest.entries.len(),
    })
}

fn signer(signer: &Signer) -> SignerAnswer<'_> {
    SignerAnswer {
        subject: &signer.subject,
        issuer: &signer.issuer,
        not_before: &signer.not_before,
        not_after: &signer.not_after,
        key: &signer.key,
        standing: signer.standing.name(),
        issuers: signer.issuers,
    }
}

fn image(
    opened: &Opened,
    machine: usize,
    disk: usize,
    context: &OpenContext,
    warnings: &mut Vec<String>,
) -> ImageAnswer {
    let found = opened.disk(machine, disk, context).map_err(Failure::from);
    let is_whole = |disk: &packages::PackageDisk| open::refuse_half_applied(&disk.image);
    match found.and_then(|disk| is_whole(&disk).map(|()| disk)) {
        Ok(found) => {
            warnings.extend(found.warnings.iter().cloned());
            let own = found
                .path
                .strip_prefix(opened.path())
                .unwrap_or(&found.path);
            ImageAnswer {
                file: (!found.is_blank).then(|| own.display().to_string()),
                format: Some(match found.image.tip() {
                    Some(tip) => format!("{} ({})", tip.info.format, tip.info.subformat),
                    None => found.format,
                }),
                virtual_size: Some(found.image.source.size()),
                stored: Some(found.file_size),
                error: None,
            }
        }
        Err(error) => ImageAnswer {
            file: None,
            format: None,
            virtual_size: None,
            stored: None,
            error: Some(error.0.to_string()),
        },
    }
}

fn text(answer: &Answer<'_>, opened: &Opened) -> String {
    let mut text = line("file", &answer.file);
    let producer = answer
        .producer
        .map_or(String::new(), |p| format!(", by {p}"));
    let format = format!("{} ({}{producer})", answer.format, answer.standard);
    text += &line("format", &format);
    text += &line("file size", &both(answer.file_size));
    if let Some(manifest) = &answer.manifest {
        let algorithms = manifest.algorithms.join(", ");
        let files = manifest.files;
        let shown = match files {
            0 => format!("{} (says nothing of any file)", manifest.name),
            1 => format!("{} ({algorithms}, 1 file)", manifest.name),
            _ => format!("{} ({algorithms}, {files} files)", manifest.name),
        };
        text += &line("manifest", &shown);
    }
    if let Some(signer) = &opened.seal.signer {
        let shown = format!(
            "{}, says {}; {} to {}; {}; {}",
            signer.subject,
            signer.issuer,
            signer.not_before,
            signer.not_after,
            signer.key,
            signer.standing.describe()
        );
        text += &line("signed by", &shown);
    }
    for machine in &answer.machines {
        text += "\n";
        text += &machine_text(machine);
    }
    text += "\n";
    let notes = opened.package.notes.iter();
    let machines = answer.machines.iter().flat_map(|m| &m.machine.notes);
    for note in notes.chain(machines) {
        text += &line("note", note);
    }
    for violation in answer.violations {
        text += &line("not as it should be", violation);
    }
    for warning in &answer.warnings {
        text += &line("warning", warning);
    }
    text
}

fn machine_text(answer: &MachineAnswer<'_>) -> String {
    let machine = answer.machine;
    let mut text = line("machine", &machine.name);
    let mut tell = |name: &str, value: &str| text += &line(name, value);
    let description = machine.description.as_deref().unwrap_or_default();
    for (index, part) in description.lines().take(LINES_SHOWN).enumerate() {
        tell(if index == 0 { "description" } else { "" }, part);
    }
    let guest = &machine.guest_os;
    if let Some(guest) = guest.description.as_ref().or(guest.vmware.as_ref()) {
        tell("guest", guest);
    }
    let cores = machine.cores_per_socket.filter(|cores| *cores > 1);
    let cores = cores.map_or(String::new(), |cores| format!(" ({cores} a socket)"));
    let cpus = machine.cpus.map_or(NOT_SAID.to_owned(), |n| n.to_string());
    tell("cpus", &(cpus + &cores));
    let memory = machine.memory.map(render::size);
    tell("memory", memory.as_deref().unwrap_or(NOT_SAID));
    if let Some(firmware) = machine.firmware {
        let is_secure = machine.secure_boot == Some(true);
        let secure = if is_secure { ", secure boot" } else { "" };
        tell("firmware", &format!("{}{secure}", firmware.name()));
    }
    if let Some(version) = &machine.hardware_version {
        tell("hardware", version);
    }
    for (index, (disk, image)) in machine.disks.iter().zip(&answer.images).enumerate() {
        let name = format!("disk {}", index + 1);
        tell(&name, &disk_text(disk, image, machine));
    }
    for drive in &machine.cd_drives {
        let medium = drive.medium.as_ref().map(|medium| medium.href.as_str());
        tell("cd drive", medium.unwrap_or("empty"));
    }
    for nic in &machine.nics {
        let parts = [&nic.network, &nic.model, &nic.mac].into_iter().flatten();
        let parts: Vec<&str> = parts.map(String::as_str).collect();
        tell("adapter", &parts.join(", "));
    }
    text
}

fn disk_text(disk: &Disk, image: &ImageAnswer, machine: &Machine) -> String {
    let controller = disk.controller.map(|id| {
        let model = machine.controller(id).and_then(|c| c.model.as_deref());
        let model = model.map_or(String::new(), |model| format!(" ({model})"));
        let unit = disk.unit.map_or(String::new(), |unit| format!(":{unit}"));
        format!("{id}{unit}{model}")
    });
    let place = controller.map_or(String::new(), |place| format!(", {place}"));
    match image {
        ImageAnswer {
            error: Some(error), ..
        } => format!("cannot be read: {error}"),
        ImageAnswer {
            virtual_size,
            stored,
            format,
            file,
            ..
        } => {
            let size = render::size(virtual_size.unwrap_or_default());
            let format = format.as_deref().unwrap_or_default();
            let file = file
                .as_deref()
                .map_or(String::new(), |file| format!(" {file}"));
            let stored = render::size(stored.unwrap_or_default());
            format!("{size}{place};{file} {format}, {stored} stored")
        }
    }
}
