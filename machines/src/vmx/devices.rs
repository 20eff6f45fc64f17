//! Devices of a VMX: `scsi0.virtualDev`, `scsi0:1.fileName`, `ethernet0.networkName`.

use formats::{Error, Result};

use super::Dictionary;
use super::read::Taken;
use crate::href::Href;
use crate::machine::{
    Bus, CdDrive, Controller, ControllerId, Disk, DiskFormat, DiskImage, FileReference, Floppy,
    Machine, Nic, ParallelPort, SerialPort, Setting, SettingFamily, Sound, UsbController,
};
use crate::models;

use crate::text::{clean_name, mac};

/// Controllers of each kind that VMware knows, and more.
const MAX_CONTROLLERS: u32 = 8;
/// Units of a controller: 64 on the newest.
const MAX_UNITS: u32 = 64;
/// Network adapters, ports and the like.
const MAX_DEVICES: u32 = 32;

/// Reads all devices that are present.
pub(super) fn read(
    dictionary: &Dictionary,
    machine: &mut Machine,
    taken: &mut Taken,
) -> Result<()> {
    for bus in [Bus::Ide, Bus::Scsi, Bus::Sata, Bus::Nvme] {
        for number in 0..MAX_CONTROLLERS {
            controller(dictionary, ControllerId::new(bus, number), machine, taken)?;
        }
    }
    for number in 0..MAX_DEVICES {
        nic(dictionary, &format!("ethernet{number}"), machine, taken)?;
        port(dictionary, number, machine, taken);
    }
    for (key, model) in [("usb", "uhci"), ("ehci", "ehci"), ("usb_xhci", "xhci")] {
        if dictionary.is_true(&format!("{key}.present")) {
            taken.take(dictionary, &format!("{key}.present"));
            machine.usb.push(UsbController {
                model: Some(model.to_owned()),
            });
        }
    }
    if dictionary.is_true("sound.present") {
        taken.take(dictionary, "sound.present");
        let model = taken.take(dictionary, "sound.virtualDev");
        machine.sound = Some(Sound {
            model: Some(model.unwrap_or("ensoniq1371").to_owned()),
        });
    }
    Ok(())
}

/// A controller and what is attached to it. IDE channels are there without saying so.
fn controller(
    dictionary: &Dictionary,
    id: ControllerId,
    machine: &mut Machine,
    taken: &mut Taken,
) -> Result<()> {
    let drives = machine.disks.len() + machine.cd_drives.len();
    for unit in 0..MAX_UNITS {
        drive(dictionary, id, unit, machine, taken)?;
    }
    let has_drives = machine.disks.len() + machine.cd_drives.len() > drives;
    let present = format!("{id}.present");
    if !has_drives && !dictionary.is_true(&present) {
        return Ok(());
    }
    taken.take(dictionary, &present);
    let model = taken.take(dictionary, &format!("{id}.virtualDev"));
    machine.controllers.push(Controller {
        id,
        model: model.and_then(|m| models::first_known(models::controllers(id.bus), m)),
        settings: settings(dictionary, &format!("{id}."), taken),
    });
    Ok(())
}

/// A disk or a CD drive.
fn drive(
    dictionary: &Dictionary,
    id: ControllerId,
    unit: u32,
    machine: &mut Machine,
    taken: &mut Taken,
) -> Result<()> {
    let name = format!("{id}:{unit}");
    let present = format!("{name}.present");
    if !dictionary.is_true(&present) {
        return Ok(());
    }
    taken.take(dictionary, &present);
    let kind = taken
        .take(dictionary, &format!("{name}.deviceType"))
        .unwrap_or_default()
        .to_ascii_lowercase();
    let file = taken.take(dictionary, &format!("{name}.fileName"));
    if kind.contains("cdrom") {
        cd(dictionary, (id, unit), kind, file, machine, taken);
        return Ok(());
    }
    if kind.contains("passthru") || kind.contains("rawdisk") {
        machine.note(format!(
            "{name} is a device of the host ({kind}) and is left out"
        ));
        return Ok(());
    }
    let Some(file) = file else {
        return Err(Error::malformed(name, "a disk without a file")
            .expected(format!("{id}:{unit}.fileName = \"…\"")));
    };
    let mode = dictionary
        .filled(&format!("{name}.mode"))
        .unwrap_or_default();
    if mode.to_ascii_lowercase().contains("nonpersistent") {
        machine.note(format!(
            "{name} forgets what is written to it when the machine stops: that is not carried over"
        ));
    }
    machine.disks.push(Disk {
        controller: Some(id),
        unit: Some(unit),
        image: DiskImage {
            format: Some(DiskFormat::Vmdk),
            file: Some(reference(file)),
            ..DiskImage::default()
        },
        settings: settings(dictionary, &format!("{name}."), taken),
        ..Disk::default()
    });
    Ok(())
}

/// A CD drive of this kind, with what is in it.
fn cd(
    dictionary: &Dictionary,
    (id, unit): (ControllerId, u32),
    kind: String,
    file: Option<&str>,
    machine: &mut Machine,
    taken: &mut Taken,
) {
    let connected = format!("{id}:{unit}.startConnected");
    taken.take(dictionary, &connected);
    machine.cd_drives.push(CdDrive {
        controller: Some(id),
        unit: Some(unit),
        medium: file.filter(|_| kind == "cdrom-image").map(reference),
        backing: Some(kind),
        connected: dictionary.flag(&connected),
        settings: settings(dictionary, &format!("{id}:{unit}."), taken),
    });
}

fn reference(file: &str) -> FileReference {
    FileReference {
        href: Href::new(file),
        ..FileReference::default()
    }
}

fn nic(
    dictionary: &Dictionary,
    name: &str,
    machine: &mut Machine,
    taken: &mut Taken,
) -> Result<()> {
    let key = |what: &str| format!("{name}.{what}");
    if !dictionary.is_true(&key("present")) {
        return Ok(());
    }
    taken.take(dictionary, &key("present"));
    let model = taken.take(dictionary, &key("virtualDev"));
    let network = taken
        .take(dictionary, &key("networkName"))
        .or_else(|| taken.take(dictionary, &key("connectionType")));
    let written = taken.take(dictionary, &key("address"));
    let made = taken.take(dictionary, &key("generatedAddress"));
    let _ = taken.take(dictionary, &key("addressType"));
    let _ = taken.take(dictionary, &key("startConnected"));
    machine.nics.push(Nic {
        network: match network {
            Some(network) => Some(clean_name(network, "network name")?),
            None => None,
        },
        model: model.and_then(|m| models::first_known(models::NICS, m)),
        mac: written.or(made).and_then(mac),
        connected: Some(dictionary.flag(&key("startConnected")).unwrap_or(true)),
        settings: settings(dictionary, &format!("{name}."), taken),
    });
    Ok(())
}

/// Serial and parallel ports and floppy drives of this number.
fn port(dictionary: &Dictionary, number: u32, machine: &mut Machine, taken: &mut Taken) {
    let mut present = |name: &str| {
        let key = format!("{name}{number}.present");
        let is = dictionary.is_true(&key);
        if is {
            taken.take(dictionary, &key);
        }
        is
    };
    let (serial, parallel) = (present("serial"), present("parallel"));
    // Two floppy drives are there unless the file says otherwise; nobody misses them.
    let floppy = present("floppy");
    let mut take = |key: String| taken.take(dictionary, &key).map(str::to_owned);
    if serial {
        machine.serial_ports.push(SerialPort {
            backing: take(format!("serial{number}.fileType")),
            target: take(format!("serial{number}.fileName")),
        });
    }
    if parallel {
        machine.parallel_ports.push(ParallelPort {
            backing: take(format!("parallel{number}.fileType")),
        });
    }
    if floppy {
        let kind = take(format!("floppy{number}.fileType"));
        let file = take(format!("floppy{number}.fileName"));
        machine.floppies.push(Floppy {
            medium: file
                .filter(|_| kind.as_deref() == Some("file"))
                .map(|f| reference(&f)),
            backing: kind,
            connected: dictionary.flag(&format!("floppy{number}.startConnected")),
        });
        take(format!("floppy{number}.startConnected"));
    }
}

/// What is left of the keys of a device, without its name, so that they can follow it to another one.
fn settings(dictionary: &Dictionary, prefix: &str, taken: &mut Taken) -> Vec<Setting> {
    let mut found = Vec::new();
    for (key, value) in dictionary.below(prefix) {
        let full = format!("{prefix}{key}");
        // Empty ones are what a snapshot left behind.
        if !taken.has(&full) && taken.take(dictionary, &full).is_some() {
            found.push(Setting {
                family: SettingFamily::Vmx,
                key: key.to_owned(),
                value: value.to_owned(),
                required: false,
            });
        }
    }
    found
}
