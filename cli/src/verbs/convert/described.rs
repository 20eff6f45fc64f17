//! The machine around a disk: what the command line says of it.

use std::path::Path;

use formats::{Error, FileStorage, Storage};
use machines::Machine;
use machines::machine::{Disk, Nic};
use machines::text::{check_characters, shown};
use machines::toml_file;

use crate::args;
use crate::failure::Failure;
use crate::report;

/// Longest description in bytes.
const DESCRIPTION_MAX: u64 = 16 << 20;

/// Fails when a machine is described, and none is made.
///
/// # Errors
/// `Usage`.
pub fn refuse(arguments: &args::Convert) -> Result<(), Failure> {
    let said = &arguments.packaging;
    let options = [
        ("--machine", said.machine.is_some()),
        ("--name", said.name.is_some()),
        ("--cpus", said.cpus.is_some()),
        ("--memory", said.memory.is_some()),
        ("--firmware", said.firmware.is_some()),
        ("--nic", !said.nic.is_empty()),
        ("--manifest", said.manifest.is_some()),
        ("--sign", said.sign.is_some()),
        ("--checksum", said.checksum.is_some()),
    ];
    match options.into_iter().find(|(_, is_said)| *is_said) {
        None => Ok(()),
        Some((option, _)) => Err(Error::usage(
            option,
            "is about packages, and the target is a disk",
        )
        .hint("-O ova, ovf, xva or vmx makes a package")
        .into()),
    }
}

/// A machine around the disk in the file at `path`: the one of `--machine`, or one that has only a name.
///
/// # Errors
/// What is wrong with the description; `Usage` when it has several disks.
pub fn around(arguments: &args::Convert, path: &Path) -> Result<Machine, Failure> {
    let mut machine = match &arguments.packaging.machine {
        Some(file) => read(file)?,
        None => Machine {
            name: path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            ..Machine::default()
        },
    };
    match machine.disks.len() {
        0 => machine.disks.push(Disk::default()),
        1 => {}
        count => {
            return Err(Error::usage("--machine", "describes several disks")
                .found(count)
                .expected("one: SRC is that disk")
                .hint("name the files in the description, and convert the description itself")
                .into());
        }
    }
    for drive in &mut machine.cd_drives {
        if let Some(disc) = drive.medium.take() {
            report::note(&format!(
                "the disc {} is left out",
                disc.href.as_str().escape_debug()
            ));
        }
    }
    Ok(machine)
}

/// The machine that the file at `path` describes.
///
/// # Errors
/// What is wrong with it.
pub fn read(path: &Path) -> Result<Machine, Failure> {
    let file = FileStorage::open(path)?;
    if file.len() > DESCRIPTION_MAX {
        return Err(Error::limit("--machine", "the description is too long")
            .in_file(path)
            .into());
    }
    let mut bytes = vec![0; file.len() as usize];
    file.read_at(&mut bytes, 0)?;
    Ok(toml_file::read(&bytes).map_err(|e| e.in_file(path))?)
}

/// Changes what the command line says otherwise.
///
/// # Errors
/// `Usage` for a name that machines cannot have.
pub fn change(arguments: &args::Convert, machine: &mut Machine) -> Result<(), Failure> {
    let said = &arguments.packaging;
    if let Some(name) = &said.name {
        let is_name = !name.trim().is_empty() && check_characters(name, "name").is_ok();
        if !is_name {
            return Err(Error::usage("--name", "not a name that machines can have")
                .found(shown(name))
                .into());
        }
        machine.name.clone_from(name);
        machine.id = None;
    }
    if said.cpus.is_some() {
        machine.cpus = said.cpus;
        machine.cores_per_socket = None;
    }
    machine.memory = said.memory.or(machine.memory);
    machine.firmware = said.firmware.or(machine.firmware);
    if !said.nic.is_empty() {
        let nics = said.nic.iter().map(|network| Nic {
            network: Some(network.clone()),
            connected: Some(true),
            ..Nic::default()
        });
        machine.nics = nics.collect();
    }
    Ok(())
}
