//! From an `ova.xml` to machines.

use std::collections::{BTreeMap, HashMap};

use formats::{Error, Result};

use super::objects::{Object, Objects};
use super::{ATTACHMENT, Appliance, Streamed, Value, Version, WHAT};
use crate::guest_os::Family;
use crate::machine::{
    CdDrive, Controller, ControllerId, Disk, DiskFormat, DiskImage, Firmware, GuestOs, Machine,
    Nic, Setting, SettingFamily,
};

use crate::package::{Network, Package};
use crate::text::{clean_name, decode_xml, mac, shown, uuid};
use crate::units::number;
use crate::xml::Document;

/// Largest size of a disk that is believed: XenServer's own limit is far below.
const MAX_SIZE: u64 = 1 << 60;

/// Machines of one export.
const MAX_MACHINES: usize = 1000;

/// Fields of a VM that are kept as settings, in XenCenter's words.
const KEPT: &[&str] = &[
    "HVM_boot_policy",
    "HVM_boot_params",
    "HVM_shadow_multiplier",
    "platform",
    "PV_args",
    "PV_bootloader",
    "PV_bootloader_args",
    "PV_kernel",
    "PV_legacy_args",
    "PV_ramdisk",
    "hardware_platform_version",
    "has_vendor_device",
    "other_config",
    "recommendations",
    "reference_label",
    "VCPUs_params",
    "domain_type",
];

/// Classes of devices that nobody else has.
const LEFT_OUT: &[(&str, &str)] = &[
    ("VGPU", "virtual GPU"),
    ("VTPM", "TPM"),
    ("PVS_proxy", "PVS cache"),
    ("VUSB", "USB device"),
];

/// Reads an `ova.xml`.
///
/// # Errors
/// `Malformed` for what is no export or contradicts itself, `Unsupported` for the exports of XenEnterprise 3, `Refused` and `Limit` as
/// for all XML.
pub fn read(bytes: &[u8]) -> Result<Appliance> {
    let document = Document::parse(decode_xml(bytes, WHAT)?, WHAT)?;
    let root = document.root();
    match root.name() {
        "value" => {}
        "appliance" => {
            return Err(Error::unsupported(
                WHAT,
                "an export in XenServer's first format",
            ));
        }
        other => {
            return Err(Error::malformed(WHAT, "not an export")
                .found(format!("<{}>", shown(other)))
                .expected("<value>"));
        }
    }
    let value = Value::read(root)?;
    let version = version(&value)?;
    let objects = value
        .get("objects")
        .ok_or_else(|| Error::malformed(WHAT, "no objects in it"))?;
    let objects = Objects::new(objects)?;
    let streamed = streamed(&objects)?;
    let package = package(&objects, &version)?;
    Ok(Appliance {
        version,
        package,
        streamed,
    })
}

fn version(value: &Value) -> Result<Version> {
    let said = value
        .get("version")
        .ok_or_else(|| Error::malformed(WHAT, "no version in it"))?;
    let text = |name: &str| said.get(name).map_or("", Value::text).to_owned();
    let count = |name: &'static str| match said.get(name).map(Value::text) {
        Some(words) if !words.is_empty() => number(words, name),
        _ => Ok(0),
    };
    Ok(Version {
        product: text("product_brand"),
        product_version: text("product_version"),
        xapi: (count("xapi_major")?, count("xapi_minor")?),
        export: count("export_vsn")?,
    })
}

/// The disks whose blocks follow: all that hang on a machine and are not in a library of ISOs, and suspended memory. In
/// byte-wise order of their references.
fn streamed(objects: &Objects) -> Result<Vec<Streamed>> {
    let mut found = BTreeMap::new();
    for vbd in objects.of_class("VBD").filter(|v| v.text("type") != "CD") {
        let Some(vdi) = vbd.reference("VDI").and_then(|r| objects.find("VDI", r)) else {
            continue;
        };
        let sr = objects.find("SR", vdi.text("SR"));
        if sr.is_none_or(|sr| sr.text("content_type") != "iso") {
            found.insert(vdi.reference, stream(vdi, false)?);
        }
    }
    for vdi in objects
        .of_class("VDI")
        .filter(|v| v.text("type") == "suspend")
    {
        found.insert(vdi.reference, stream(vdi, true)?);
    }
    Ok(found.into_values().collect())
}

fn stream(vdi: &Object, is_suspend: bool) -> Result<Streamed> {
    Ok(Streamed {
        reference: vdi.reference.to_owned(),
        virtual_size: size(vdi)?,
        is_suspend,
    })
}

fn size(vdi: &Object) -> Result<u64> {
    let size = vdi.number("virtual_size")?.ok_or_else(|| {
        Error::malformed(format!("VDI {}", shown(vdi.reference)), "no virtual_size")
    })?;
    if size > MAX_SIZE {
        return Err(Error::limit(
            format!("VDI {}", shown(vdi.reference)),
            "larger than any disk",
        )
        .found(size)
        .expected(format!("at most {MAX_SIZE}")));
    }
    Ok(size)
}

fn package(objects: &Objects, version: &Version) -> Result<Package> {
    let mut package = Package {
        standard: "XVA".to_owned(),
        producer: Some(version.product.clone()).filter(|p| !p.is_empty()),
        ..Package::default()
    };
    for network in objects.of_class("network") {
        package.networks.push(Network {
            name: clean_name(network.text("name_label"), "name of a network")?,
            description: network.filled("name_description").map(str::to_owned),
        });
    }
    let drives = objects.by_machine("VBD");
    let adapters = objects.by_machine("VIF");
    let left_out = left_out(objects);
    for vm in objects.of_class("VM") {
        let name = shown(vm.text("name_label"));
        if vm.is_true("is_a_snapshot") {
            package
                .notes
                .push(format!("snapshot \"{name}\" is left out"));
            continue;
        }
        if vm.is_true("is_control_domain") {
            package.notes.push(format!(
                "\"{name}\" is the host's own domain and is left out"
            ));
            continue;
        }
        if package.machines.len() >= MAX_MACHINES {
            return Err(
                Error::limit(WHAT, "too many machines").expected(format!("at most {MAX_MACHINES}"))
            );
        }
        let drives = drives.get(vm.reference).map_or(&[][..], |d| d);
        let adapters = adapters.get(vm.reference).map_or(&[][..], |a| a);
        let mut machine = machine(vm, drives, adapters, objects, &mut package.violations)?;
        for words in left_out.get(vm.reference).into_iter().flatten() {
            machine.note(format!("a {words} is left out"));
        }
        package.machines.push(machine);
    }
    if package.machines.is_empty() {
        return Err(Error::malformed(WHAT, "no machine in it"));
    }
    Ok(package)
}

fn machine(
    vm: &Object,
    drives: &[&Object],
    adapters: &[&Object],
    objects: &Objects,
    violations: &mut Vec<String>,
) -> Result<Machine> {
    let mut machine = Machine {
        name: clean_name(
            vm.filled("name_label").unwrap_or("machine"),
            "name of a machine",
        )?,
        description: vm.filled("name_description").map(str::to_owned),
        uuid: vm.filled("uuid").and_then(uuid),
        firmware: Some(firmware(vm)),
        secure_boot: vm
            .in_map("platform", "secureboot")
            .filter(|s| *s != "auto")
            .map(|s| s == "true"),
        cpus: cpus(vm, "VCPUs_max")?,
        cores_per_socket: vm
            .in_map("platform", "cores-per-socket")
            .and_then(|c| c.parse().ok())
            .and_then(Machine::cpu_count),
        memory: vm.number("memory_static_max")?.filter(|m| *m > 0),
        guest_os: guest_os(vm, objects),
        ..Machine::default()
    };
    kept(vm, &mut machine);
    for drive in by_place(drives, "userdevice") {
        self::drive(drive, objects, &mut machine, violations)?;
    }
    for adapter in by_place(adapters, "device") {
        machine.nics.push(nic(adapter, objects)?);
    }
    notes(vm, &mut machine)?;
    Ok(machine)
}

fn cpus(vm: &Object, field: &'static str) -> Result<Option<u32>> {
    match vm.number(field)? {
        None | Some(0) => Ok(None),
        Some(count) => Machine::cpu_count(count)
            .map(Some)
            .ok_or_else(|| Error::malformed(field, "too many CPUs").found(count)),
    }
}

fn firmware(vm: &Object) -> Firmware {
    vm.in_map("HVM_boot_params", "firmware")
        .and_then(Firmware::by_name)
        .unwrap_or(Firmware::Bios)
}

/// What the tools in the guest said, else what template it was made from.
fn guest_os(vm: &Object, objects: &Objects) -> GuestOs {
    let metrics = objects.find("VM_guest_metrics", vm.text("guest_metrics"));
    let said = metrics.and_then(|m| m.in_map("os_version", "name"));
    let template = vm
        .in_map("other_config", "base_template_name")
        .filter(|t| !t.eq_ignore_ascii_case("other install media"));
    let vmware = vm.in_map("other_config", "diskferry-os-type");
    let cim = vm.in_map("other_config", "diskferry-os-cim");
    GuestOs {
        vmware: vmware.map(str::to_owned),
        cim: cim.and_then(|c| c.parse().ok()),
        version: None,
        description: vm
            .in_map("other_config", "diskferry-os")
            .or(said)
            .or(template)
            .map(|words| words.split('|').next().unwrap_or(words).to_owned()),
    }
}

/// Fields for a round trip; maps as `key=value;…`, which is how XenCenter writes them into an OVF. What every machine has, and what
/// the machine says itself, is not kept.
fn kept(vm: &Object, machine: &mut Machine) {
    let is_windows = machine.guest_os.family() == Family::Windows;
    for field in KEPT {
        let value = match vm.get(field) {
            Some(map @ Value::Struct(_)) => map
                .pairs()
                .filter(|(k, v)| !k.contains(['=', ';']) && !v.contains(';'))
                .filter(|(k, v)| !is_usual(field, k, v, is_windows))
                .map(|(k, v)| format!("{k}={v}"))
                .collect::<Vec<_>>()
                .join(";"),
            Some(Value::Boolean(value)) => value.to_string(),
            Some(value) => value.text().to_owned(),
            None => continue,
        };
        if !value.is_empty() && !USUAL.contains(&(field, value.as_str())) {
            machine.extra.settings.push(Setting {
                family: SettingFamily::Xen,
                key: (*field).to_owned(),
                value,
                required: false,
            });
        }
    }
}

/// Values that say nothing.
const USUAL: &[(&str, &str)] = &[
    ("HVM_boot_policy", "BIOS order"),
    ("HVM_shadow_multiplier", "1"),
    ("HVM_shadow_multiplier", "1.000"),
    ("hardware_platform_version", "0"),
    ("has_vendor_device", "false"),
    ("reference_label", "other-install-media"),
    ("domain_type", "hvm"),
];

/// Whether a key of a map says nothing, or what the machine says in a field of its own.
fn is_usual(field: &str, key: &str, value: &str, is_windows: bool) -> bool {
    match field {
        "platform" => match key {
            "device-model" | "secureboot" | "cores-per-socket" | "timeoffset" => true,
            "nx" | "acpi" | "apic" | "pae" | "hpet" => matches!(value, "true" | "1"),
            "viridian" => (value == "true") == is_windows,
            _ => false,
        },
        "HVM_boot_params" => key == "firmware" || key == "order" && value == "cdn",
        "other_config" => match key {
            "base_template_name" => value.eq_ignore_ascii_case("other install media"),
            "mac_seed" | "install-methods" | "import_task" => true,
            _ => key.starts_with("diskferry-"),
        },
        _ => false,
    }
}

/// Rows in the order of a field that is mostly a number.
fn by_place<'o, 'v>(rows: &[&'o Object<'v>], field: &str) -> Vec<&'o Object<'v>> {
    let mut rows = rows.to_vec();
    rows.sort_by_key(|r| r.text(field).trim().parse::<u32>().unwrap_or(u32::MAX));
    rows
}

fn drive(
    vbd: &Object,
    objects: &Objects,
    machine: &mut Machine,
    violations: &mut Vec<String>,
) -> Result<()> {
    let unit = vbd.filled("userdevice").and_then(|u| u.parse().ok());
    let vdi = vbd.reference("VDI").and_then(|r| objects.find("VDI", r));
    if vbd.text("type") == "CD" {
        let disc = vdi
            .map(|v| shown(v.text("name_label")))
            .filter(|n| !n.is_empty());
        if let Some(disc) = disc {
            machine.note(format!(
                "the disc \"{disc}\" in the CD drive is not in the file"
            ));
        }
        machine.cd_drives.push(CdDrive {
            unit,
            ..CdDrive::default()
        });
        return Ok(());
    }
    let Some(vdi) = vdi else {
        let place = shown(vbd.text("userdevice"));
        machine.note(format!("the disk at place {place} is not in the file"));
        violations.push(format!(
            "VBD {} names a VDI that is not there",
            shown(vbd.reference)
        ));
        return Ok(());
    };
    if objects.find("SR", vdi.text("SR")).is_none() {
        violations.push(format!(
            "VDI {} names an SR that is not there: xapi refuses that",
            shown(vdi.reference)
        ));
    }
    let mut disk = Disk {
        name: vdi.filled("name_label").map(str::to_owned),
        unit,
        bootable: Some(vbd.is_true("bootable")),
        read_only: vbd.text("mode") == "RO",
        image: DiskImage {
            id: Some(vdi.reference.to_owned()),
            capacity: Some(size(vdi)?),
            format: Some(DiskFormat::Raw),
            ..DiskImage::default()
        },
        ..Disk::default()
    };
    if let Some((id, unit, model)) = vbd.in_map("other_config", ATTACHMENT).and_then(attachment) {
        disk.controller = Some(id);
        disk.unit = Some(unit);
        if machine.controller(id).is_none() {
            machine.controllers.push(Controller::new(id, model));
        }
    }
    machine.disks.push(disk);
    Ok(())
}

/// `scsi0:1/lsilogic`.
fn attachment(text: &str) -> Option<(ControllerId, u32, Option<&str>)> {
    let (place, model) = match text.split_once('/') {
        Some((place, model)) => (place, Some(model)),
        None => (text, None),
    };
    let (id, unit) = place.split_once(':')?;
    Some((id.parse().ok()?, unit.parse().ok()?, model))
}

fn nic(vif: &Object, objects: &Objects) -> Result<Nic> {
    let network = objects.find("network", vif.text("network"));
    let name = network.and_then(|n| n.filled("name_label"));
    Ok(Nic {
        network: match name {
            Some(name) => Some(clean_name(name, "name of a network")?),
            None => None,
        },
        model: vif
            .in_map("other_config", "diskferry-model")
            .map(str::to_owned),
        mac: mac(vif.text("MAC")),
        ..Nic::default()
    })
}

/// What of the machine is not taken over.
fn notes(vm: &Object, machine: &mut Machine) -> Result<()> {
    let kind = vm.text("domain_type");
    let is_pv = kind.starts_with("pv") || kind.is_empty() && vm.text("HVM_boot_policy").is_empty();
    if is_pv && kind != "pvh" {
        machine.note(
            "a paravirtual guest: it has no boot loader for a BIOS, and starts elsewhere only after one is installed",
        );
    }
    if let (Some(startup), Some(max)) = (cpus(vm, "VCPUs_at_startup")?, machine.cpus)
        && startup != max
    {
        machine.note(format!("starts with {startup} of its {max} CPUs"));
    }
    let least = vm.number("memory_dynamic_min")?;
    if least.is_some_and(|least| Some(least) < machine.memory) {
        let least = least.unwrap_or(0) >> 20;
        machine.note(format!("may be given less memory, down to {least} MiB"));
    }
    if vm.text("power_state").eq_ignore_ascii_case("suspended") {
        machine.note("the machine is suspended: its memory is left out, it will start anew");
    }
    Ok(())
}

/// For each machine what it has of devices that nobody else has.
fn left_out<'v>(objects: &Objects<'v>) -> HashMap<&'v str, Vec<&'static str>> {
    let mut found: HashMap<&str, Vec<&str>> = HashMap::new();
    for (class, words) in LEFT_OUT {
        for machine in objects.by_machine(class).into_keys() {
            found.entry(machine).or_default().push(words);
        }
    }
    found
}
