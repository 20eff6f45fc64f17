//! VirtualHardwareSection: System, Items, settings.

use std::collections::BTreeMap;

use super::xml_writer::Writer;
use super::{Ids, kept};
use crate::machine::{Bus, Controller, Firmware, Machine, OtherDevice, Setting, SettingFamily};
use crate::models;
use crate::ovf::hardware::resource;
use crate::placement::Plan;
use crate::written::{Written, drives_unsaid, listed};

/// Units of SCSI controllers below which adapters have their place on the bus.
const FIRST_NIC: usize = 7;

/// Points at a file with the variables of an EFI, which uploaders stumble over.
const NVRAM: &str = "nvram";

/// Whose hardware it is: that decides how devices are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    VMware,
    VirtualBox,
    Xen,
}

/// Writes the section.
pub(super) fn write(
    out: &mut Writer,
    machine: &Machine,
    plan: &Plan,
    ids: &Ids,
    written: &mut Written,
) {
    let version = machine.hardware_version.as_deref().unwrap_or_default();
    let dialect = match version {
        v if v.starts_with("virtualbox") => Dialect::VirtualBox,
        v if v.starts_with("hvm") || v.starts_with("xen") => Dialect::Xen,
        _ => Dialect::VMware,
    };
    let transports = machine.extra.transports.join(" ");
    let attributes = [("ovf:transport", transports.as_str())];
    let attributes = if transports.is_empty() {
        &[][..]
    } else {
        &attributes
    };
    out.open("VirtualHardwareSection", attributes);
    out.text("Info", "Virtual hardware");
    out.open("System", &[]);
    out.text("vssd:ElementName", "Virtual Hardware Family");
    out.text("vssd:InstanceID", "0");
    out.text("vssd:VirtualSystemIdentifier", &machine.name);
    out.text("vssd:VirtualSystemType", version);
    out.close("System");
    let mut items = Items {
        out,
        dialect,
        next: 1,
    };
    items.processors(machine);
    let controllers = items.controllers(plan);
    items.disks(machine, plan, &controllers, ids);
    items.discs(machine, plan, &controllers, ids, written);
    items.adapters(machine);
    match dialect {
        Dialect::Xen => left_out(machine, written),
        _ => items.others(machine),
    }
    drives_unsaid(machine, written);
    ports_unsaid(machine, written);
    settings(out, machine, dialect, written);
    for section in &machine.extra.hardware_sections {
        kept(out, &section.name, &section.xml, written);
    }
    out.close("VirtualHardwareSection");
}

/// Where ports lead is a thing of the host.
fn ports_unsaid(machine: &Machine, written: &mut Written) {
    let serial = machine.serial_ports.iter();
    let serial = serial.flat_map(|port| [port.backing.as_deref(), port.target.as_deref()]);
    let parallel = machine.parallel_ports.iter();
    let all = serial.chain(parallel.map(|port| port.backing.as_deref()));
    let named: Vec<&str> = all.flatten().collect();
    if !named.is_empty() {
        written.note(format!("where ports lead is left out: {}", listed(named)));
    }
}

/// Devices that XenServer does not have.
fn left_out(machine: &Machine, written: &mut Written) {
    let all = [
        (!machine.floppies.is_empty(), "floppy drives"),
        (!machine.serial_ports.is_empty(), "serial ports"),
        (!machine.parallel_ports.is_empty(), "parallel ports"),
        (!machine.usb.is_empty(), "USB controllers"),
        (machine.sound.is_some(), "the sound card"),
        (!machine.extra.devices.is_empty(), "other devices"),
    ];
    for (is, what) in all {
        if is {
            written.note(format!("{what} are left out: the target has none"));
        }
    }
}

/// Properties of an Item. A map, because CIM wants them by alphabet.
type Properties = BTreeMap<&'static str, String>;

struct Items<'w> {
    out: &'w mut Writer,
    dialect: Dialect,
    next: u32,
}

impl Items<'_> {
    /// Writes an Item, and answers its InstanceID. One that is not required may be dropped by who does not know it.
    fn item(
        &mut self,
        kind: u16,
        name: &str,
        required: bool,
        mut properties: Properties,
        extra: &[(&'static str, String)],
        settings: &[Setting],
    ) -> String {
        let instance = self.next.to_string();
        self.next += 1;
        properties.insert("InstanceID", instance.clone());
        properties.insert("ElementName", name.to_owned());
        properties.insert("ResourceType", kind.to_string());
        let attributes = [("ovf:required", "false")];
        let attributes = if required { &[][..] } else { &attributes };
        self.out.open("Item", attributes);
        for (property, value) in &properties {
            self.out.text(&format!("rasd:{property}"), value);
        }
        for (property, value) in extra {
            let attributes = [("ovf:required", "false")];
            self.out
                .text_with(&format!("vmw:{property}"), &attributes, value);
        }
        if self.dialect == Dialect::VMware {
            let own = settings
                .iter()
                .filter(|s| s.family == SettingFamily::Config);
            own.for_each(|s| setting(self.out, "vmw:Config", s));
        }
        self.out.close("Item");
        instance
    }

    fn processors(&mut self, machine: &Machine) {
        let cpus = machine.cpus.unwrap_or(1);
        let mut properties = Properties::from([
            ("AllocationUnits", "hertz * 10^6".to_owned()),
            ("Description", "Number of virtual CPUs".to_owned()),
            ("VirtualQuantity", cpus.to_string()),
        ]);
        shares(&mut properties, &machine.cpu_allocation, 1);
        let cores = machine
            .cores_per_socket
            .map(|c| ("CoresPerSocket", c.to_string()));
        let cores: Vec<_> = cores.into_iter().collect();
        let name = format!("{cpus} virtual CPU(s)");
        self.item(resource::CPU, &name, true, properties, &cores, &[]);

        let mib = machine.memory.unwrap_or(1 << 30).div_ceil(1 << 20);
        let mut properties = Properties::from([
            ("AllocationUnits", "byte * 2^20".to_owned()),
            ("Description", "Memory size".to_owned()),
            ("VirtualQuantity", mib.to_string()),
        ]);
        shares(&mut properties, &machine.memory_allocation, 1 << 20);
        let name = format!("{mib} MB of memory");
        self.item(resource::MEMORY, &name, true, properties, &[], &[]);
    }

    /// Writes the controllers, and answers the InstanceID of each.
    fn controllers(&mut self, plan: &Plan) -> Vec<(String, String)> {
        let mut instances = Vec::new();
        for controller in &plan.controllers {
            let id = controller.id;
            let (kind, title) = match id.bus {
                Bus::Ide => (resource::IDE, "IDE Controller"),
                Bus::Sata => (resource::OTHER_STORAGE, "SATA Controller"),
                Bus::Nvme => (resource::OTHER_STORAGE, "NVMe Controller"),
                _ => (resource::SCSI, "SCSI Controller"),
            };
            let mut properties = Properties::from([
                ("Address", id.number.to_string()),
                ("Description", title.to_owned()),
            ]);
            if let Some(subtype) = self.subtype(controller) {
                properties.insert("ResourceSubType", subtype);
            }
            let name = format!("{title} {}", id.number);
            let instance = self.item(kind, &name, true, properties, &[], &controller.settings);
            instances.push((id.to_string(), instance));
        }
        instances
    }

    /// vSphere refuses an IDE controller that has a subtype, and VirtualBox one that has none.
    fn subtype(&self, controller: &Controller) -> Option<String> {
        let chips = models::controllers(controller.id.bus);
        let known = controller
            .model
            .as_deref()
            .and_then(|m| models::by_name(chips, m));
        match (controller.id.bus, self.dialect) {
            (Bus::Ide, Dialect::VirtualBox) => Some(known.map_or("PIIX4", |m| m.ovf).to_owned()),
            (Bus::Ide, _) => None,
            (Bus::Sata, Dialect::VirtualBox) => Some("AHCI".to_owned()),
            (Bus::Sata, _) => Some("vmware.sata.ahci".to_owned()),
            (Bus::Nvme, _) => Some("vmware.nvme.controller".to_owned()),
            _ => Some(known.map_or("lsilogic", |m| m.ovf).to_owned()),
        }
    }

    fn disks(
        &mut self,
        machine: &Machine,
        plan: &Plan,
        controllers: &[(String, String)],
        ids: &Ids,
    ) {
        for (index, (disk, (id, unit))) in machine.disks.iter().zip(&plan.disks).enumerate() {
            let mut properties = Properties::from([
                ("AddressOnParent", unit.to_string()),
                ("HostResource", format!("ovf:/disk/{}", ids.disk(index))),
            ]);
            parent(&mut properties, &id.to_string(), controllers);
            // XenCenter tells disks from other things by these words.
            let name = format!("Hard Disk {}", index + 1);
            self.item(resource::DISK, &name, true, properties, &[], &disk.settings);
        }
    }

    fn discs(
        &mut self,
        machine: &Machine,
        plan: &Plan,
        controllers: &[(String, String)],
        ids: &Ids,
        written: &mut Written,
    ) {
        for (index, (drive, (id, unit))) in
            machine.cd_drives.iter().zip(&plan.cd_drives).enumerate()
        {
            let file = ids.disc_file(index);
            if file.is_none() && drive.medium.is_some() {
                written.note(format!("the disc in CD drive {} is left out", index + 1));
            }
            let connected =
                file.is_some() || drive.medium.is_none() && drive.connected == Some(true);
            let mut properties = Properties::from([
                ("AddressOnParent", unit.to_string()),
                ("AutomaticAllocation", connected.to_string()),
            ]);
            parent(&mut properties, &id.to_string(), controllers);
            let backing = drive
                .backing
                .as_deref()
                .filter(|b| b.starts_with("vmware.cdrom."));
            let backing = match &file {
                Some(_) => "vmware.cdrom.iso",
                None => backing
                    .filter(|b| *b != "vmware.cdrom.iso")
                    .unwrap_or("vmware.cdrom.remotepassthrough"),
            };
            if self.dialect == Dialect::VMware {
                properties.insert("ResourceSubType", backing.to_owned());
            }
            properties.extend(file.map(|f| ("HostResource", format!("ovf:/file/{f}"))));
            let name = format!("CD/DVD Drive {}", index + 1);
            self.item(resource::CD, &name, false, properties, &[], &drive.settings);
        }
    }

    fn adapters(&mut self, machine: &Machine) {
        for (index, nic) in machine.nics.iter().enumerate() {
            let network = nic.network.clone().unwrap_or_default();
            let connected = nic.connected.unwrap_or(true);
            let mut properties = Properties::from([
                ("AddressOnParent", (FIRST_NIC + index).to_string()),
                ("AutomaticAllocation", connected.to_string()),
                ("Connection", network.clone()),
                ("Description", format!("Network adapter on \"{network}\"")),
            ]);
            properties.extend(nic.mac.clone().map(|mac| ("Address", mac)));
            let model = nic.model.as_deref();
            let chip = model.and_then(|m| models::by_name(models::NICS, m));
            let subtype = chip.map(|c| c.ovf).or(model);
            properties.extend(subtype.map(|s| ("ResourceSubType", s.to_owned())));
            let name = format!("Network Adapter {}", index + 1);
            self.item(
                resource::ETHERNET,
                &name,
                true,
                properties,
                &[],
                &nic.settings,
            );
        }
    }

    /// Devices that an importer may drop.
    fn others(&mut self, machine: &Machine) {
        let is_vmware = self.dialect == Dialect::VMware;
        for (index, floppy) in machine.floppies.iter().enumerate() {
            let mut properties = Properties::from([
                ("AddressOnParent", index.to_string()),
                ("AutomaticAllocation", "false".to_owned()),
            ]);
            let backing = floppy
                .backing
                .clone()
                .filter(|b| b.starts_with("vmware.floppy."));
            properties.extend(
                backing
                    .filter(|_| is_vmware)
                    .map(|b| ("ResourceSubType", b)),
            );
            let name = format!("Floppy Drive {}", index + 1);
            self.item(resource::FLOPPY, &name, false, properties, &[], &[]);
        }
        let ports = [
            (resource::SERIAL, "Serial Port", machine.serial_ports.len()),
            (
                resource::PARALLEL,
                "Parallel Port",
                machine.parallel_ports.len(),
            ),
        ];
        for (kind, title, count) in ports {
            for index in 0..count {
                let properties = Properties::from([
                    ("Address", index.to_string()),
                    ("AutomaticAllocation", "false".to_owned()),
                ]);
                let name = format!("{title} {}", index + 1);
                self.item(kind, &name, false, properties, &[], &[]);
            }
        }
        for (index, usb) in machine.usb.iter().enumerate() {
            let mut properties = Properties::from([("Address", index.to_string())]);
            let model = usb.model.as_deref().filter(|_| is_vmware);
            properties.extend(model.map(|m| ("ResourceSubType", format!("vmware.usb.{m}"))));
            let name = format!("USB Controller {}", index + 1);
            self.item(resource::USB, &name, false, properties, &[], &[]);
        }
        if let Some(sound) = &machine.sound {
            let model = sound.model.as_deref().unwrap_or("ensoniq1371");
            let (kind, subtype) = match is_vmware {
                true => (resource::OTHER, format!("vmware.soundcard.{model}")),
                false => (resource::SOUND, model.to_owned()),
            };
            let properties = Properties::from([
                ("AutomaticAllocation", "false".to_owned()),
                ("ResourceSubType", subtype),
            ]);
            self.item(kind, "Sound Card", false, properties, &[], &[]);
        }
        for device in machine.extra.devices.iter().filter(|_| is_vmware) {
            self.other(device);
        }
    }

    fn other(&mut self, device: &OtherDevice) {
        let subtype = device.subtype.clone().map(|s| ("ResourceSubType", s));
        let properties: Properties = subtype.into_iter().collect();
        let name = device.name.as_deref().unwrap_or("Device");
        let kind = device.resource_type;
        self.item(
            kind,
            name,
            device.required,
            properties,
            &[],
            &device.settings,
        );
    }
}

fn parent(properties: &mut Properties, id: &str, controllers: &[(String, String)]) {
    let instance = controllers.iter().find(|(known, _)| known == id);
    properties.extend(instance.map(|(_, instance)| ("Parent", instance.clone())));
}

fn shares(properties: &mut Properties, allocation: &crate::machine::Allocation, unit: u64) {
    let values = [
        ("Reservation", allocation.reservation.map(|v| v / unit)),
        ("Limit", allocation.limit.map(|v| v / unit)),
        ("Weight", allocation.weight),
    ];
    for (property, value) in values {
        properties.extend(value.map(|v| (property, v.to_string())));
    }
}

/// A setting of VMware's. Never required: importers refuse what they must know and do not.
fn setting(out: &mut Writer, element: &str, setting: &Setting) {
    let attributes = [
        ("ovf:required", "false".to_owned()),
        ("vmw:key", setting.key.clone()),
        ("vmw:value", setting.value.clone()),
    ];
    out.empty(element, &attributes);
}

/// What is about the whole machine, behind all Items.
fn settings(out: &mut Writer, machine: &Machine, dialect: Dialect, written: &mut Written) {
    let mut own = Vec::new();
    let mut push = |key: &str, value: String| {
        own.push(Setting {
            key: key.to_owned(),
            value,
            ..Setting::default()
        });
    };
    if let Some(firmware) = machine.firmware {
        push("firmware", firmware.name().to_owned());
    }
    let is_efi = machine.firmware == Some(Firmware::Efi);
    if let Some(secure) = machine.secure_boot.filter(|_| is_efi) {
        push("bootOptions.efiSecureBootEnabled", secure.to_string());
    }
    if let Some(uuid) = &machine.uuid {
        push("uuid", uuid.clone());
    }
    own.iter().for_each(|s| setting(out, "vmw:Config", s));
    let is_own = |s: &&Setting| s.is_fact() || s.key.eq_ignore_ascii_case(NVRAM);
    let all = || machine.extra.settings.iter().filter(|s| !is_own(s));
    if dialect == Dialect::VMware {
        for (family, element) in [
            (SettingFamily::Config, "vmw:Config"),
            (SettingFamily::Vmx, "vmw:ExtraConfig"),
        ] {
            all()
                .filter(|s| s.family == family)
                .for_each(|s| setting(out, element, s));
        }
    }
    if dialect == Dialect::Xen {
        xen(out, machine);
    }
    let is_strange = |s: &&Setting| (s.family == SettingFamily::Xen) != (dialect == Dialect::Xen);
    let strange = |s: &&Setting| is_strange(s) || dialect == Dialect::VirtualBox;
    let keys: Vec<&str> = all().filter(strange).map(|s| s.key.as_str()).collect();
    if !keys.is_empty() {
        written.note(format!("settings are left out: {}", listed(keys)));
    }
}

/// XenCenter's keys.
fn xen(out: &mut Writer, machine: &Machine) {
    let kept = machine
        .extra
        .settings
        .iter()
        .filter(|s| s.family == SettingFamily::Xen);
    let mut all: Vec<(String, String)> = kept.map(|s| (s.key.clone(), s.value.clone())).collect();
    if !all.iter().any(|(key, _)| key == "HVM_boot_policy") {
        all.push(("HVM_boot_policy".to_owned(), "BIOS order".to_owned()));
    }
    if !all.iter().any(|(key, _)| key == "HVM_boot_params") {
        let firmware = match machine.firmware {
            Some(Firmware::Efi) => ";firmware=uefi",
            _ => "",
        };
        all.push(("HVM_boot_params".to_owned(), format!("order=dc{firmware}")));
    }
    for (index, (key, value)) in all.iter().enumerate() {
        let id = index.to_string();
        let attributes = [
            ("xmlns:xenovf", crate::ovf::names::XENOVF[0]),
            ("id", id.as_str()),
            ("Name", key.as_str()),
        ];
        out.open("xenovf:VirtualSystemOtherConfigurationData", &attributes);
        out.text("xenovf:Info", "A setting of XenServer");
        out.text("xenovf:Value", value);
        out.close("xenovf:VirtualSystemOtherConfigurationData");
    }
}
