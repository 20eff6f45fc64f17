//! What products add to OVF: `vmw:Config`, `vbox:Machine`, `xenovf:VirtualSystemOtherConfigurationData`, oVirt's elements.

use super::names::{GANETI, VBOX, XENOVF, is_ovf};
use crate::machine::{Firmware, Machine, Setting, SettingFamily};
use crate::package::Package;
use crate::text::mac;
use crate::xml::Element;

/// Who seems to have written the descriptor, by the hardware it asks for and the namespaces it uses.
pub(super) fn producer(root: Element, package: &Package) -> Option<&'static str> {
    let uses = |namespace: &str| root.children().any(|c| c.namespace() == namespace);
    if uses(GANETI) {
        return Some("Ganeti");
    }
    if root.namespace().ends_with('/') {
        return Some("oVirt");
    }
    let hardware = package
        .machines
        .iter()
        .find_map(|m| m.hardware_version.as_deref())
        .unwrap_or_default()
        .to_ascii_lowercase();
    [
        ("virtualbox", "VirtualBox"),
        ("vmx-", "VMware"),
        ("xen-", "XenCenter"),
        ("hvm-", "XenCenter"),
        ("dmtf:xen", "Xen"),
        ("ganeti", "Ganeti"),
        ("301", "Microsoft"),
    ]
    .iter()
    .find(|(mark, _)| hardware.contains(mark))
    .map(|(_, producer)| *producer)
}

/// XenCenter's keys of a hardware section.
pub(super) fn xen_settings(section: Element) -> Vec<Setting> {
    section
        .children()
        .filter(|c| {
            XENOVF.contains(&c.namespace()) && c.name() == "VirtualSystemOtherConfigurationData"
        })
        .filter_map(|c| {
            let (_, _, key) = c.attributes().find(|(_, local, _)| *local == "Name")?;
            Some(Setting {
                family: SettingFamily::Xen,
                key: key.to_owned(),
                value: c.child_text("Value").unwrap_or_default().to_owned(),
                required: false,
            })
        })
        .collect()
}

/// Facts that products put elsewhere: firmware, secure boot, the UUID, MACs.
pub(super) fn finish(element: Element, machine: &mut Machine) {
    let config = |machine: &Machine, key: &str| {
        machine
            .setting(SettingFamily::Config, key)
            .or_else(|| machine.setting(SettingFamily::Vmx, key))
            .map(str::to_owned)
    };
    machine.firmware = config(machine, "firmware").and_then(|f| Firmware::by_name(&f));
    machine.secure_boot = config(machine, "bootOptions.efiSecureBootEnabled")
        .or_else(|| config(machine, "uefi.secureBoot.enabled"))
        .map(|v| v.eq_ignore_ascii_case("true"));
    machine.uuid = config(machine, "uuid").and_then(|u| crate::text::uuid(&u));
    xen(machine);
    let virtualbox = element
        .children()
        .find(|c| c.namespace() == VBOX && c.name() == "Machine");
    if let Some(virtualbox) = virtualbox {
        vbox(virtualbox, machine);
    }
    ovirt(element, machine);
}

/// `key=value;…` of XenCenter.
fn xen(machine: &mut Machine) {
    let value = |map: Option<&str>, key: &str| {
        map?.split(';').find_map(|pair| {
            let (k, v) = pair.split_once('=')?;
            (k.trim() == key).then(|| v.trim().to_owned())
        })
    };
    let boot = machine.setting(SettingFamily::Xen, "HVM_boot_params");
    let firmware = value(boot, "firmware").and_then(|f| Firmware::by_name(&f));
    let platform = machine.setting(SettingFamily::Xen, "platform");
    let secure = value(platform, "secureboot");
    machine.firmware = machine.firmware.or(firmware);
    if let Some(secure) = secure.filter(|s| s != "auto") {
        machine.secure_boot.get_or_insert(secure == "true");
    }
}

/// VirtualBox's own description of the machine, for what its Items leave out.
fn vbox(element: Element, machine: &mut Machine) {
    let attribute = |e: Element, name: &str| e.attribute(VBOX, name).map(str::to_owned);
    machine.uuid = machine
        .uuid
        .take()
        .or_else(|| attribute(element, "uuid").and_then(|u| crate::text::uuid(&u)));
    let Some(hardware) = element.child("Hardware") else {
        return;
    };
    let firmware = hardware
        .child("Firmware")
        .and_then(|f| attribute(f, "type"));
    if let Some(firmware) = firmware {
        let is_efi = firmware.to_ascii_lowercase().starts_with("efi");
        let said = if is_efi {
            Firmware::Efi
        } else {
            Firmware::Bios
        };
        machine.firmware.get_or_insert(said);
    }
    let adapters = hardware
        .child("Network")
        .into_iter()
        .flat_map(|n| n.children())
        .filter(|a| a.name() == "Adapter" && attribute(*a, "enabled").as_deref() == Some("true"));
    for (nic, adapter) in machine.nics.iter_mut().zip(adapters) {
        if nic.mac.is_none() {
            nic.mac = attribute(adapter, "MACAddress").as_deref().and_then(mac);
        }
    }
}

/// Ganeti's section, for the MACs that its Items leave out.
pub(super) fn ganeti(root: Element, package: &mut Package) {
    let macs = root
        .children()
        .filter(|c| c.namespace() == GANETI)
        .filter_map(|c| c.child("Network"))
        .flat_map(|n| n.children())
        .map(|nic| nic.child_text("MACAddress").and_then(mac));
    let nics = package.machines.iter_mut().flat_map(|m| &mut m.nics);
    for (nic, mac) in nics.zip(macs) {
        nic.mac = nic.mac.take().or(mac);
    }
}

/// oVirt's plain elements of a machine.
fn ovirt(element: Element, machine: &mut Machine) {
    // 0 and 1 start a BIOS, 2 UEFI, 3 UEFI with secure boot; 4 leaves it to the cluster.
    let kind = element
        .children()
        .find(|c| is_ovf(c) && c.name() == "BiosType")
        .map(|c| c.text());
    match kind {
        Some("0" | "1") => machine.firmware = Some(Firmware::Bios),
        Some("2") => machine.firmware = Some(Firmware::Efi),
        Some("3") => {
            machine.firmware = Some(Firmware::Efi);
            machine.secure_boot = Some(true);
        }
        _ => {}
    }
}
