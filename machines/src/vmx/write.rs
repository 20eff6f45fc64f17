//! From a machine to a VMX that ESXi, Workstation and Fusion open.

use std::fmt::Display;

use formats::{Error, Result};

use super::Dictionary;
use crate::guest_os::vmx_of_vmware;
use crate::machine::{
    Bus, CdDrive, Controller, ControllerId, Disk, Machine, Nic, Setting, SettingFamily,
};
use crate::models;
use crate::placement;
use crate::text::shown;
use crate::written::{Written, drives_unsaid, listed};

/// The hardware version to write where the machine does not say one that is VMware's.
const DEFAULT_HARDWARE: u32 = 13;

/// Writes a VMX. Disks are named by the `href` of their file.
///
/// # Errors
/// `Malformed` for a disk without a file: a VMX cannot describe an empty disk that is not there.
pub fn write(machine: &Machine) -> Result<Written> {
    let mut written = Written::default();
    let mut vmx = Vmx {
        lines: Dictionary::default(),
    };
    vmx.general(machine);
    vmx.controllers(machine, &mut written)?;
    for (index, nic) in machine.nics.iter().enumerate() {
        vmx.nic(&format!("ethernet{index}"), nic, &mut written);
    }
    vmx.ports(machine);
    vmx.settings("", &machine.extra.settings, &mut written);
    lost(machine, &mut written);
    drives_unsaid(machine, &mut written);
    written.text = vmx.lines.to_text();
    Ok(written)
}

/// What a VMX has no words for.
fn lost(machine: &Machine, written: &mut Written) {
    let extra = &machine.extra;
    if !extra.products.is_empty() {
        written.note("product sections and their properties are left out: a VMX has none");
    }
    if !extra.eulas.is_empty() {
        written.note("licence texts are left out: a VMX has none");
    }
    let sections = extra.sections.iter().chain(&extra.hardware_sections);
    let names: Vec<&str> = sections.map(|s| s.name.as_str()).collect();
    if !names.is_empty() {
        written.note(format!("sections are left out: {}", listed(names)));
    }
    let devices: Vec<&str> = extra
        .devices
        .iter()
        .filter_map(|d| d.name.as_deref().or(d.subtype.as_deref()))
        .collect();
    if !devices.is_empty() {
        written.note(format!("devices are left out: {}", listed(devices)));
    }
}

/// The hardware version: `vmx-13` is 13.
pub(crate) fn hardware_number(version: Option<&str>) -> Option<u32> {
    version?
        .split([' ', ','])
        .find_map(|word| word.trim().strip_prefix("vmx-")?.parse().ok())
}

struct Vmx {
    lines: Dictionary,
}

impl Vmx {
    fn set(&mut self, key: impl AsRef<str>, value: impl Display) {
        self.lines.set(key.as_ref(), value.to_string());
    }

    fn general(&mut self, machine: &Machine) {
        let hardware = hardware_number(machine.hardware_version.as_deref());
        self.set(".encoding", "UTF-8");
        self.set("config.version", 8);
        self.set("virtualHW.version", hardware.unwrap_or(DEFAULT_HARDWARE));
        self.set("displayName", &machine.name);
        self.set(
            "guestOS",
            vmx_of_vmware(&machine.guest_os.vmware_or_other()),
        );
        if let Some(words) = &machine.guest_os.description {
            self.set("guestOSAltName", words);
        }
        if let Some(text) = &machine.description {
            self.set("annotation", text);
        }
        if let Some(uuid) = &machine.uuid {
            self.set("uuid.bios", spaced(uuid));
        }
        self.set("numvcpus", machine.cpus.unwrap_or(1));
        if let Some(cores) = machine.cores_per_socket {
            self.set("cpuid.coresPerSocket", cores);
        }
        if let Some(memory) = machine.memory {
            self.set("memSize", memory.div_ceil(1 << 20));
        }
        if let Some(firmware) = machine.firmware {
            self.set("firmware", firmware.name());
        }
        if let Some(secure) = machine.secure_boot {
            self.set("uefi.secureBoot.enabled", flag(secure));
        }
        let shares = [
            ("sched.cpu", machine.cpu_allocation, 1),
            ("sched.mem", machine.memory_allocation, 1 << 20),
        ];
        for (family, allocation, unit) in shares {
            let values = [
                ("min", allocation.reservation.map(|v| v / unit)),
                ("max", allocation.limit.map(|v| v / unit)),
                ("shares", allocation.weight),
            ];
            for (key, value) in values {
                if let Some(value) = value {
                    self.set(format!("{family}.{key}"), value);
                }
            }
        }
        self.bridges();
    }

    /// The PCI bridges that devices are plugged into.
    fn bridges(&mut self) {
        self.set("pciBridge0.present", "TRUE");
        for number in 4..8 {
            self.set(format!("pciBridge{number}.present"), "TRUE");
            self.set(format!("pciBridge{number}.virtualDev"), "pcieRootPort");
            self.set(format!("pciBridge{number}.functions"), 8);
        }
    }

    fn controllers(&mut self, machine: &Machine, written: &mut Written) -> Result<()> {
        let plan = placement::plan(machine, Bus::Scsi);
        for note in &plan.notes {
            written.note(note.clone());
        }
        let is_unused = |c: &&Controller| plan.controllers.iter().all(|p| p.id != c.id);
        let unused = machine.controllers.iter().filter(is_unused);
        let unused = unused.filter(|c| matches!(c.id.bus, Bus::Scsi | Bus::Sata | Bus::Nvme));
        for controller in plan.controllers.iter().chain(unused) {
            let id = controller.id;
            // IDE channels are always there.
            if id.bus != Bus::Ide {
                self.set(format!("{id}.present"), "TRUE");
            }
            let model = controller.model.as_deref().or(match id.bus {
                Bus::Scsi => Some("lsilogic"),
                _ => None,
            });
            let chip = model.and_then(|m| models::by_name(models::controllers(id.bus), m));
            match (chip, model) {
                (Some(chip), _) if !chip.vmx.is_empty() && id.bus == Bus::Scsi => {
                    self.set(format!("{id}.virtualDev"), chip.vmx);
                }
                (None, Some(model)) => {
                    let model = shown(model);
                    written.note(format!("{id}: VMware has no controller \"{model}\""));
                }
                _ => {}
            }
            self.settings(&format!("{id}."), &controller.settings, written);
        }
        for (disk, (id, unit)) in machine.disks.iter().zip(&plan.disks) {
            self.disk(*id, *unit, disk, written)?;
        }
        for (drive, (id, unit)) in machine.cd_drives.iter().zip(&plan.cd_drives) {
            self.cd(*id, *unit, drive, written);
        }
        Ok(())
    }

    fn disk(
        &mut self,
        id: ControllerId,
        unit: u32,
        disk: &Disk,
        written: &mut Written,
    ) -> Result<()> {
        let name = format!("{id}:{unit}");
        let file = disk.image.file.as_ref();
        let file = file
            .filter(|f| !f.href.as_str().trim().is_empty())
            .ok_or_else(|| {
                Error::malformed(
                    format!("disk {name}"),
                    "no file: a VMX names the file of each disk",
                )
            })?;
        let kind = match id.bus {
            Bus::Ide => "ata-hardDisk",
            Bus::Sata => "sata-hardDisk",
            Bus::Nvme => "nvme-hardDisk",
            _ => "scsi-hardDisk",
        };
        self.set(format!("{name}.present"), "TRUE");
        self.set(format!("{name}.deviceType"), kind);
        self.set(format!("{name}.fileName"), file.href.as_str());
        self.settings(&format!("{name}."), &disk.settings, written);
        Ok(())
    }

    fn cd(&mut self, id: ControllerId, unit: u32, drive: &CdDrive, written: &mut Written) {
        let name = format!("{id}:{unit}");
        self.set(format!("{name}.present"), "TRUE");
        match &drive.medium {
            Some(medium) => {
                self.set(format!("{name}.deviceType"), "cdrom-image");
                self.set(format!("{name}.fileName"), medium.href.as_str());
            }
            None => {
                self.set(format!("{name}.deviceType"), "atapi-cdrom");
                self.set(format!("{name}.clientDevice"), "TRUE");
            }
        }
        let connected = drive.connected.unwrap_or(drive.medium.is_some());
        self.set(format!("{name}.startConnected"), flag(connected));
        self.settings(&format!("{name}."), &drive.settings, written);
    }

    fn nic(&mut self, name: &str, nic: &Nic, written: &mut Written) {
        self.set(format!("{name}.present"), "TRUE");
        if let Some(model) = &nic.model {
            match models::by_name(models::NICS, model).filter(|m| !m.vmx.is_empty()) {
                Some(chip) => self.set(format!("{name}.virtualDev"), chip.vmx),
                None => {
                    self.set(format!("{name}.virtualDev"), "e1000");
                    let model = shown(model);
                    written.note(format!(
                        "{name}: VMware has no adapter \"{model}\"; it becomes e1000"
                    ));
                }
            }
        }
        match nic.network.as_deref() {
            Some(kind @ ("bridged" | "nat" | "hostonly")) => {
                self.set(format!("{name}.connectionType"), kind);
            }
            Some(network) => self.set(format!("{name}.networkName"), network),
            None => {}
        }
        match &nic.mac {
            Some(mac) => {
                self.set(format!("{name}.addressType"), "static");
                self.set(format!("{name}.address"), mac);
            }
            None => self.set(format!("{name}.addressType"), "generated"),
        }
        self.set(
            format!("{name}.startConnected"),
            flag(nic.connected.unwrap_or(true)),
        );
        self.settings(&format!("{name}."), &nic.settings, written);
    }

    fn ports(&mut self, machine: &Machine) {
        for (number, port) in machine.serial_ports.iter().enumerate() {
            self.set(format!("serial{number}.present"), "TRUE");
            if let Some(kind) = &port.backing {
                self.set(format!("serial{number}.fileType"), kind);
            }
            if let Some(target) = &port.target {
                self.set(format!("serial{number}.fileName"), target);
            }
        }
        for (number, port) in machine.parallel_ports.iter().enumerate() {
            self.set(format!("parallel{number}.present"), "TRUE");
            if let Some(kind) = &port.backing {
                self.set(format!("parallel{number}.fileType"), kind);
            }
        }
        for usb in &machine.usb {
            let key = match usb.model.as_deref() {
                Some("xhci") => "usb_xhci",
                Some("ehci") => "ehci",
                _ => "usb",
            };
            self.set(format!("{key}.present"), "TRUE");
        }
        if let Some(sound) = &machine.sound {
            self.set("sound.present", "TRUE");
            if let Some(model) = &sound.model {
                self.set("sound.virtualDev", model);
            }
        }
        self.floppies(machine);
    }

    fn floppies(&mut self, machine: &Machine) {
        for (number, floppy) in machine.floppies.iter().enumerate() {
            let name = format!("floppy{number}");
            self.set(format!("{name}.present"), "TRUE");
            self.set(format!("{name}.clientDevice"), "TRUE");
            self.set(
                format!("{name}.startConnected"),
                flag(floppy.connected.unwrap_or(false)),
            );
        }
        if machine.floppies.is_empty() {
            self.set("floppy0.present", "FALSE");
        }
    }

    /// Keys of VMware's own, unless something else was said under the same key; others are told.
    fn settings(&mut self, prefix: &str, settings: &[Setting], written: &mut Written) {
        let mut unsafe_keys = Vec::new();
        for setting in settings.iter().filter(|s| s.family == SettingFamily::Vmx) {
            let key = format!("{prefix}{}", setting.key);
            if !is_harmless(&setting.key) {
                unsafe_keys.push(setting.key.as_str());
            } else if self.lines.get(&key).is_none() {
                self.set(key, &setting.value);
            }
        }
        if !unsafe_keys.is_empty() {
            written.note(format!(
                "settings that name files or devices of a host are left out: {}",
                listed(unsafe_keys)
            ));
        }
        let strange = settings.iter().filter(|s| s.family != SettingFamily::Vmx);
        let strange: Vec<&str> = strange.map(|s| s.key.as_str()).collect();
        if !strange.is_empty() && prefix.is_empty() {
            written.note(format!("settings are left out: {}", listed(strange)));
        }
    }
}

/// Whether a setting may be taken over from wherever it comes: a key, and none that names a file or a device of the host.
fn is_harmless(key: &str) -> bool {
    const NAMES: &[&str] = &[
        "filename",
        "devicename",
        "rawdevice",
        "workingdir",
        "swap.dir",
        "log.file",
        "nvram",
        "vmstate",
        "configfile",
    ];
    let is_key = |c: char| c.is_ascii_alphanumeric() || "._:-".contains(c);
    let lower = key.to_ascii_lowercase();
    !key.is_empty() && key.chars().all(is_key) && !NAMES.iter().any(|name| lower.contains(name))
}

fn flag(value: bool) -> &'static str {
    if value { "TRUE" } else { "FALSE" }
}

/// `564d96af-e646-bd86-5c4d-654e7736ef31` as VMware writes it: `56 4d 96 af e6 46 bd 86-5c 4d 65 4e 77 36 ef 31`.
fn spaced(uuid: &str) -> String {
    let digits: Vec<char> = uuid.chars().filter(char::is_ascii_hexdigit).collect();
    let pairs: Vec<String> = digits.chunks(2).map(|pair| pair.iter().collect()).collect();
    let half = |range: std::ops::Range<usize>| pairs.get(range).unwrap_or_default().join(" ");
    format!("{}-{}", half(0..8), half(8..16))
}
