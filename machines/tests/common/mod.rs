//! What the tests of this crate share.
#![allow(dead_code)]

pub mod rewrite;
#[path = "../../../cli/tests/common/skip.rs"]
pub mod skip;

use std::fmt::Write as _;

use machines::Package;
use machines::machine::{Disk, DiskImage, Machine, Nic};

/// The facts of a package, a few lines a machine.
pub fn facts(package: &Package) -> String {
    let mut out = format!(
        "{} of {}, {} files\n",
        package.standard,
        package.producer.as_deref().unwrap_or("?"),
        package.files.len()
    );
    for machine in &package.machines {
        out += &machine_facts(machine);
    }
    out
}

fn said<T: std::fmt::Display>(value: &Option<T>) -> String {
    value.as_ref().map_or("-".to_owned(), T::to_string)
}

/// The facts of one machine.
pub fn machine_facts(machine: &Machine) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "machine {:?} cpus {} cores {} memory {} firmware {} hardware {} os {} {}",
        machine.name,
        said(&machine.cpus),
        said(&machine.cores_per_socket),
        said(&machine.memory.map(|m| m >> 20)),
        machine.firmware.map_or("-", |f| f.name()),
        said(&machine.hardware_version),
        said(&machine.guest_os.cim),
        said(&machine.guest_os.vmware),
    );
    for controller in &machine.controllers {
        let _ = writeln!(out, "  {} {}", controller.id, said(&controller.model));
    }
    machine.disks.iter().for_each(|d| out += &disk(d));
    for cd in &machine.cd_drives {
        let medium = cd.medium.as_ref().map(|m| m.href.to_string());
        let _ = writeln!(
            out,
            "  cd {}:{} {}",
            said(&cd.controller),
            said(&cd.unit),
            said(&medium)
        );
    }
    machine.nics.iter().for_each(|n| out += &nic(n));
    let others = [
        ("floppy", machine.floppies.len()),
        ("serial", machine.serial_ports.len()),
        ("parallel", machine.parallel_ports.len()),
        ("usb", machine.usb.len()),
        ("sound", usize::from(machine.sound.is_some())),
        ("products", machine.extra.products.len()),
        ("settings", machine.extra.settings.len()),
        ("sections", machine.extra.sections.len()),
        ("others", machine.extra.devices.len()),
    ];
    let others: Vec<String> = others
        .iter()
        .filter(|(_, n)| *n > 0)
        .map(|(what, n)| format!("{what} {n}"))
        .collect();
    if !others.is_empty() {
        let _ = writeln!(out, "  {}", others.join(", "));
    }
    out
}

fn disk(disk: &Disk) -> String {
    let image = image(&disk.image);
    format!(
        "  disk {}:{} {image}\n",
        said(&disk.controller),
        said(&disk.unit)
    )
}

fn image(disk: &DiskImage) -> String {
    let file = disk.file.as_ref().map(|f| f.href.to_string());
    let format = disk.format.as_ref().map(|f| format!("{f:?}"));
    let mut out = format!("{} {} {}", said(&disk.capacity), said(&format), said(&file));
    if let Some(parent) = &disk.parent {
        out += &format!(" over {}", image(parent));
    }
    out
}

fn nic(nic: &Nic) -> String {
    format!(
        "  nic {} on {} mac {} connected {}\n",
        said(&nic.model),
        said(&nic.network.as_ref().map(|n| format!("{n:?}"))),
        said(&nic.mac),
        said(&nic.connected)
    )
}

/// A machine that says something in every field that OVF, VMX and XVA share.
pub fn full_machine() -> Machine {
    let text = r#"
name = "web & <db>"
description = "first\nsecond"
uuid = "564d96af-e646-bd86-5c4d-654e7736ef31"
firmware = "efi"
secure_boot = true
cpus = 4
cores_per_socket = 2
memory = "4G"
hardware_version = "vmx-13"

[guest_os]
vmware = "windows9Server64Guest"
cim = 116
description = "Windows Server 2016"

[[controllers]]
id = "ide1"
[[controllers]]
id = "scsi0"
model = "lsilogicsas"

[[disks]]
name = "Hard Disk 1"
controller = "scsi0"
unit = 0
image.capacity = "20G"
image.file = { href = "web-disk1.vmdk" }
[[disks]]
name = "Hard Disk 2"
controller = "scsi0"
unit = 3
image.capacity = "1G"
image.file = { href = "web-disk2.vmdk" }

[[cd_drives]]
controller = "ide1"
unit = 0
connected = false

[[nics]]
network = "VM Network"
model = "vmxnet3"
mac = "00:0c:29:12:34:56"
connected = true
[[nics]]
network = "DMZ"
model = "e1000"
mac = "00:0c:29:12:34:57"
connected = true
"#;
    machines::toml_file::read(text.as_bytes()).expect("a machine")
}
