//! The `ova.xml` of an XVA, as xapi writes it: a bare value of XML-RPC without a line break.

use super::xva::{Vm, Xva};

pub const NULL: &str = "OpaqueRef:NULL";

fn value(inner: &str) -> String {
    format!("<value>{inner}</value>")
}

pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn flag(is: bool) -> String {
    format!("<boolean>{}</boolean>", u8::from(is))
}

/// A struct of values that are written already.
fn map(members: &[(&str, String)]) -> String {
    let members = members
        .iter()
        .map(|(name, inner)| format!("<member><name>{name}</name>{}</member>", value(inner)));
    format!("<struct>{}</struct>", members.collect::<String>())
}

fn texts(members: &[(&str, &str)]) -> String {
    let members: Vec<(&str, String)> = members.iter().map(|(n, v)| (*n, escape(v))).collect();
    map(&members)
}

fn set(items: &[String]) -> String {
    let items: String = items.iter().map(|item| value(item)).collect();
    format!("<array><data>{items}</data></array>")
}

/// A row of the database.
fn object(class: &str, id: &str, fields: &[(&str, String)]) -> String {
    map(&[
        ("class", class.to_owned()),
        ("id", id.to_owned()),
        ("snapshot", map(fields)),
    ])
}

fn uuid(id: &str) -> String {
    let number: String = id
        .bytes()
        .filter(u8::is_ascii_digit)
        .map(char::from)
        .collect();
    format!("00000000-0000-4000-8000-{number:0>12}")
}

pub fn text(xva: &Xva) -> String {
    let version = texts(&[
        ("hostname", "xenserver"),
        ("date", "2026-01-01"),
        ("product_version", "8.2.1"),
        ("product_brand", "XenServer"),
        ("build_number", "0"),
        ("xapi_major", &xva.version.0.to_string()),
        ("xapi_minor", &xva.version.1.to_string()),
        ("export_vsn", &xva.export_version.to_string()),
    ]);
    let mut objects = vec![storage(xva)];
    for (index, vm) in xva.vms.iter().enumerate() {
        machine(xva, index, vm, &mut objects);
    }
    let root = map(&[("version", version), ("objects", set(&objects))]);
    format!("<?xml version=\"1.0\"?>{}", value(&root))
}

/// The one storage, `Ref:0`, in which all disks are.
fn storage(xva: &Xva) -> String {
    let vdis: Vec<String> = xva.disks().map(|disk| disk.id.clone()).collect();
    let none = || "0".to_owned();
    object(
        "SR",
        "Ref:0",
        &[
            ("uuid", uuid("0")),
            ("name_label", "Local storage".to_owned()),
            ("name_description", String::new()),
            ("VDIs", set(&vdis)),
            ("virtual_allocation", none()),
            ("physical_utilisation", none()),
            ("physical_size", none()),
            ("type", "ext".to_owned()),
            ("content_type", "user".to_owned()),
            ("shared", flag(false)),
            ("other_config", map(&[])),
            ("sm_config", map(&[])),
            ("default_vdi_visibility", flag(true)),
        ],
    )
}

/// The machine's rows. References of what is not a disk begin at `Ref:9000`.
fn machine(xva: &Xva, index: usize, vm: &Vm, objects: &mut Vec<String>) {
    let first = 9000 + index * 100;
    let id = format!("Ref:{first}");
    let mut vbds = Vec::new();
    for (number, disk) in vm.disks.iter().enumerate() {
        let vbd = format!("Ref:{}", first + 1 + number);
        objects.push(vbd_of(&vbd, &id, &disk.id, number, "Disk"));
        objects.push(vdi(xva, disk));
        vbds.push(vbd);
    }
    let cd = format!("Ref:{}", first + 40);
    objects.push(vbd_of(&cd, &id, NULL, 3, "CD"));
    vbds.push(cd);
    let mut vifs = Vec::new();
    for (number, mac) in vm.macs.iter().enumerate() {
        let vif = format!("Ref:{}", first + 50 + number);
        let network = format!("Ref:{}", first + 70 + number);
        objects.push(vif_of(&vif, &id, &network, number, mac));
        objects.push(network_of(&network, &format!("Network {number}"), number));
        vifs.push(vif);
    }
    objects.push(vm_of(&id, vm, &vbds, &vifs));
}

fn vm_of(id: &str, vm: &Vm, vbds: &[String], vifs: &[String]) -> String {
    let memory = (vm.memory << 20).to_string();
    let cpus = vm.cpus.to_string();
    let null = || NULL.to_owned();
    let model = match vm.firmware {
        "uefi" => "qemu-upstream-uefi",
        _ => "qemu-upstream-compat",
    };
    let mut fields = vec![
        ("uuid", uuid(id)),
        ("name_label", escape(&vm.name)),
        ("name_description", String::new()),
        ("power_state", "Halted".to_owned()),
        ("user_version", "1".to_owned()),
        ("is_a_template", flag(false)),
        ("is_a_snapshot", flag(false)),
        ("suspend_VDI", null()),
        ("resident_on", null()),
        ("affinity", null()),
        ("memory_static_max", memory.clone()),
        ("memory_dynamic_max", memory.clone()),
        ("memory_dynamic_min", memory.clone()),
        ("memory_static_min", memory),
        ("VCPUs_params", map(&[])),
        ("VCPUs_max", cpus.clone()),
        ("VCPUs_at_startup", cpus),
        ("actions_after_shutdown", "destroy".to_owned()),
        ("actions_after_reboot", "restart".to_owned()),
        ("actions_after_crash", "restart".to_owned()),
        ("VIFs", set(vifs)),
        ("VBDs", set(vbds)),
    ];
    for name in [
        "PV_bootloader",
        "PV_kernel",
        "PV_ramdisk",
        "PV_args",
        "PV_bootloader_args",
        "PV_legacy_args",
        "PCI_bus",
        "domarch",
        "recommendations",
    ] {
        fields.push((name, String::new()));
    }
    let boot = [("firmware", vm.firmware), ("order", "cdn")];
    let platform = [
        ("acpi", "1"),
        ("apic", "true"),
        ("device-model", model),
        ("nx", "true"),
        ("pae", "true"),
    ];
    let config = [("base_template_name", "Other install media")];
    fields.extend([
        ("HVM_boot_policy", "BIOS order".to_owned()),
        ("HVM_boot_params", texts(&boot)),
        ("HVM_shadow_multiplier", "1.".to_owned()),
        ("platform", texts(&platform)),
        ("other_config", texts(&config)),
        ("domid", "-1".to_owned()),
        ("is_control_domain", flag(false)),
        ("metrics", null()),
        ("guest_metrics", null()),
        (
            "snapshot_time",
            "<dateTime.iso8601>19700101T00:00:00Z</dateTime.iso8601>".to_owned(),
        ),
        ("domain_type", "hvm".to_owned()),
        ("hardware_platform_version", "0".to_owned()),
        ("has_vendor_device", flag(false)),
        ("NVRAM", map(&[])),
    ]);
    object("VM", id, &fields)
}

fn vbd_of(id: &str, vm: &str, vdi: &str, number: usize, kind: &str) -> String {
    let letter = char::from(b'a' + number as u8);
    object(
        "VBD",
        id,
        &[
            ("uuid", uuid(id)),
            ("VM", vm.to_owned()),
            ("VDI", vdi.to_owned()),
            ("device", format!("xvd{letter}")),
            ("userdevice", number.to_string()),
            ("bootable", flag(number == 0)),
            ("mode", if kind == "CD" { "RO" } else { "RW" }.to_owned()),
            ("type", kind.to_owned()),
            ("unpluggable", flag(true)),
            ("empty", flag(vdi == NULL)),
            ("storage_lock", flag(false)),
            ("other_config", map(&[])),
            ("currently_attached", flag(false)),
            ("status_code", "0".to_owned()),
            ("status_detail", String::new()),
            ("runtime_properties", map(&[])),
            ("qos_algorithm_type", String::new()),
            ("qos_algorithm_params", map(&[])),
        ],
    )
}

fn vdi(xva: &Xva, disk: &super::xva::Disk) -> String {
    let size = disk.virtual_size.to_string();
    let sr = if xva.with_storage { "Ref:0" } else { "Ref:77" };
    object(
        "VDI",
        &disk.id,
        &[
            ("uuid", uuid(&disk.id)),
            ("name_label", escape(&disk.name)),
            ("name_description", String::new()),
            ("SR", sr.to_owned()),
            ("VBDs", set(&[])),
            ("virtual_size", size.clone()),
            ("physical_utilisation", size),
            ("type", "user".to_owned()),
            ("sharable", flag(false)),
            ("read_only", flag(false)),
            ("other_config", map(&[])),
            ("storage_lock", flag(false)),
            ("location", uuid(&disk.id)),
            ("managed", flag(true)),
            ("missing", flag(false)),
            ("parent", NULL.to_owned()),
            ("sm_config", map(&[])),
        ],
    )
}

fn vif_of(id: &str, vm: &str, network: &str, number: usize, mac: &str) -> String {
    object(
        "VIF",
        id,
        &[
            ("uuid", uuid(id)),
            ("device", number.to_string()),
            ("network", network.to_owned()),
            ("VM", vm.to_owned()),
            ("MAC", mac.to_owned()),
            ("MTU", "1500".to_owned()),
            ("other_config", map(&[])),
            ("currently_attached", flag(false)),
            ("status_code", "0".to_owned()),
            ("status_detail", String::new()),
            ("runtime_properties", map(&[])),
            ("qos_algorithm_type", String::new()),
            ("qos_algorithm_params", map(&[])),
        ],
    )
}

fn network_of(id: &str, name: &str, number: usize) -> String {
    object(
        "network",
        id,
        &[
            ("uuid", uuid(id)),
            ("name_label", name.to_owned()),
            ("name_description", String::new()),
            ("VIFs", set(&[])),
            ("MTU", "1500".to_owned()),
            ("other_config", map(&[])),
            ("bridge", format!("xenbr{number}")),
        ],
    )
}
