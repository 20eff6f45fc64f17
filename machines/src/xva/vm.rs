//! Fields of a VM and its drives that are made from a machine: places, platform, boot, what is kept.

use super::{ATTACHMENT, Value};
use crate::guest_os::Family;
use crate::machine::{Firmware, Machine, SettingFamily};

/// Where XenServer puts the CD drive, so that the BIOS sees it.
pub(super) const CD_PLACE: u32 = 3;

/// The number of each disk: what an XVA said before, else the order of disks.
pub(super) fn places(machine: &Machine) -> Vec<u32> {
    let said: Vec<Option<u32>> = machine.disks.iter().map(|d| d.unit).collect();
    let is_xva = machine.disks.iter().all(|d| d.controller.is_none());
    let mut sorted = said.clone();
    sorted.sort_unstable();
    sorted.dedup();
    let are_distinct = sorted.len() == said.len() && !sorted.contains(&None);
    if is_xva && are_distinct && sorted.iter().flatten().all(|unit| *unit < 255) {
        return said.into_iter().flatten().collect();
    }
    // The CD drive keeps its place.
    let has_cd = !machine.cd_drives.is_empty();
    (0..)
        .filter(|p| !has_cd || *p != CD_PLACE)
        .take(said.len())
        .collect()
}

/// `xvda` for 0 and so on; past the alphabet nobody names them.
pub(super) fn device(place: u32) -> String {
    match u8::try_from(place) {
        Ok(place) if place < 26 => format!("xvd{}", (b'a' + place) as char),
        _ => String::new(),
    }
}

/// Where the disk hung before, so that the way back is known.
pub(super) fn attachment(machine: &Machine, number: usize) -> Value {
    let mut map = Vec::new();
    if let Some(disk) = machine.disks.get(number)
        && let (Some(id), Some(unit)) = (disk.controller, disk.unit)
    {
        let model = machine.controller(id).and_then(|c| c.model.as_deref());
        let model = model.map(|m| format!("/{m}")).unwrap_or_default();
        map.push((ATTACHMENT.to_owned(), format!("{id}:{unit}{model}").into()));
    }
    Value::Struct(map)
}

/// What XenCenter's words for a map say: `key=value;…`.
fn joined(machine: &Machine, key: &str) -> Vec<(String, Value)> {
    let text = machine.setting(SettingFamily::Xen, key).unwrap_or_default();
    text.split(';')
        .filter_map(|pair| pair.split_once('='))
        .map(|(k, v)| (k.trim().to_owned(), v.trim().into()))
        .collect()
}

fn set(map: &mut Vec<(String, Value)>, key: &str, value: &str) {
    match map.iter_mut().find(|(k, _)| k == key) {
        Some(pair) => pair.1 = value.into(),
        None => map.push((key.to_owned(), value.into())),
    }
}

/// `platform`: what the virtual hardware offers.
pub(super) fn platform(machine: &Machine) -> Value {
    let is_efi = machine.firmware == Some(Firmware::Efi);
    let mut map = joined(machine, "platform");
    let is_windows = machine.guest_os.family() == Family::Windows;
    let defaults = [
        ("nx", "true"),
        ("acpi", "1"),
        ("apic", "true"),
        ("pae", "true"),
        ("viridian", if is_windows { "true" } else { "false" }),
    ];
    for (key, value) in defaults {
        if !map.iter().any(|(k, _)| k == key) {
            set(&mut map, key, value);
        }
    }
    let model = if is_efi {
        "qemu-upstream-uefi"
    } else {
        "qemu-upstream-compat"
    };
    set(&mut map, "device-model", model);
    if let Some(secure) = machine.secure_boot {
        set(
            &mut map,
            "secureboot",
            if secure { "true" } else { "false" },
        );
    }
    if let Some(cores) = machine.cores_per_socket {
        set(&mut map, "cores-per-socket", &cores.to_string());
    }
    Value::Struct(map)
}

/// `other_config`: where it came from, and the words of others for its operating system.
pub(super) fn other_config(machine: &Machine) -> Value {
    let mut map = joined(machine, "other_config");
    if !map.iter().any(|(k, _)| k == "base_template_name") {
        set(&mut map, "base_template_name", "Other install media");
    }
    let os = &machine.guest_os;
    let said = [
        ("diskferry-os-type", os.vmware.clone()),
        ("diskferry-os-cim", os.cim.map(|c| c.to_string())),
        ("diskferry-os", os.description.clone()),
    ];
    for (key, value) in said {
        if let Some(value) = value {
            set(&mut map, key, &value);
        }
    }
    Value::Struct(map)
}

/// Firmware, boot order, and whether it is a paravirtual guest.
pub(super) fn boot(machine: &Machine) -> Vec<(&'static str, Value)> {
    let mut params = joined(machine, "HVM_boot_params");
    let firmware = match machine.firmware {
        Some(Firmware::Efi) => "uefi",
        _ => "bios",
    };
    set(&mut params, "firmware", firmware);
    if !params.iter().any(|(k, _)| k == "order") {
        set(&mut params, "order", "cdn");
    }
    // A machine that boots from its own kernel stays one; XenCenter says so by the type of the hardware.
    let domain = machine.setting(SettingFamily::Xen, "domain_type");
    let hardware = machine.hardware_version.as_deref().unwrap_or_default();
    let is_pv = domain == Some("pv") || domain.is_none() && hardware.starts_with("xen-");
    let policy = if is_pv { "" } else { "BIOS order" };
    let domain = if is_pv { "pv" } else { "hvm" };
    vec![
        ("HVM_boot_params", Value::Struct(params)),
        ("HVM_boot_policy", policy.into()),
        ("domain_type", domain.into()),
    ]
}

/// Fields that are kept as they were.
pub(super) fn kept(machine: &Machine) -> Vec<(&'static str, Value)> {
    let texts = [
        "PV_args",
        "PV_bootloader",
        "PV_bootloader_args",
        "PV_kernel",
        "PV_legacy_args",
        "PV_ramdisk",
        "recommendations",
        "reference_label",
        "HVM_shadow_multiplier",
        "hardware_platform_version",
    ];
    let mut said: Vec<(&'static str, Value)> = texts
        .into_iter()
        .filter_map(|key| Some((key, machine.setting(SettingFamily::Xen, key)?.into())))
        .collect();
    if machine.setting(SettingFamily::Xen, "has_vendor_device") == Some("true") {
        said.push(("has_vendor_device", true.into()));
    }
    said.push((
        "VCPUs_params",
        Value::Struct(joined(machine, "VCPUs_params")),
    ));
    said
}
