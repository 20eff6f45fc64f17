//! The section of hardware: order, ids, controllers and what hangs on them, units, and names that importers look for.

use std::collections::{BTreeMap, BTreeSet};

use roxmltree::Node;

use super::{
    Checked, CheckedDisk, CheckedNic, Importer, OVF, RASD, VMW, VSSD, all, attribute, elements,
    named,
};

/// Subtypes that vSphere knows, by the number of the type.
const SUBTYPES: &[(u32, &[&str])] = &[
    (5, &[]),
    (6, &["lsilogic", "lsilogicsas", "buslogic", "VirtualSCSI"]),
    (
        10,
        &[
            "E1000",
            "E1000e",
            "VmxNet3",
            "Vmxnet",
            "PCNet32",
            "Vmxnet2",
            "SriovEthernetCard",
        ],
    ),
    (20, &["vmware.sata.ahci", "vmware.nvme.controller", "AHCI"]),
];
/// Devices that an importer may leave out: USB, floppy, others, video, sound.
const OPTIONAL: [u32; 5] = [1, 14, 23, 24, 35];

/// An `Item` and its fields.
struct Item<'a> {
    fields: BTreeMap<&'a str, &'a str>,
    required: bool,
}

impl<'a> Item<'a> {
    fn read(node: Node<'a, '_>) -> Item<'a> {
        let mut fields = BTreeMap::new();
        let mut order = Vec::new();
        let mut foreign = false;
        for child in elements(node) {
            let name = child.tag_name().name();
            if child.tag_name().namespace() != Some(RASD) {
                foreign = true;
                continue;
            }
            assert!(!foreign, "{name} behind elements of others");
            let twice = fields.insert(name, child.text().unwrap_or_default());
            assert_eq!(twice, None, "two {name} in one item");
            order.push(name);
        }
        assert!(order.is_sorted(), "the order of {order:?}");
        Item {
            fields,
            required: node.attribute((OVF, "required")) != Some("false"),
        }
    }

    fn find(&self, name: &str) -> Option<&'a str> {
        self.fields.get(name).copied()
    }

    fn get(&self, name: &str) -> &'a str {
        let value = self.find(name);
        value.unwrap_or_else(|| panic!("an item without {name}: {:?}", self.fields))
    }

    fn number(&self, name: &str) -> u64 {
        let text = self.get(name);
        text.parse()
            .unwrap_or_else(|_| panic!("{name} {text:?} is no number"))
    }

    fn kind(&self) -> u32 {
        self.number("ResourceType") as u32
    }
}

/// Checks the networks and the hardware. The `href` of each disk is the id of its disk.
pub fn check(envelope: Node, system: Node, importer: Importer) -> Checked {
    let hardware = named(system, "VirtualHardwareSection");
    let mut checked = Checked {
        name: named(system, "Name").text().unwrap_or_default().to_owned(),
        hardware: family(named(hardware, "System"), importer),
        ..Checked::default()
    };
    assert!(!checked.name.is_empty(), "a machine without a name");
    checked.firmware = settings(hardware);
    let items: Vec<Item> = all(hardware, "Item").map(Item::read).collect();
    let mut ids = BTreeSet::new();
    for item in &items {
        let id = item.get("InstanceID");
        assert!(ids.insert(id), "two items with the InstanceID {id}");
        if importer == Importer::Vsphere {
            item.number("InstanceID");
        }
        assert!(
            !item.get("ElementName").is_empty(),
            "an item without a name"
        );
        check_subtype(item);
        let is_optional = OPTIONAL.contains(&item.kind());
        assert!(
            !(is_optional && item.required),
            "{:?} is required",
            item.fields
        );
    }
    processors(&items, &mut checked);
    let networks = networks(envelope);
    for nic in items.iter().filter(|i| i.kind() == 10) {
        checked.nics.push(check_nic(nic, &networks));
    }
    check_disks(&items, importer, &mut checked);
    checked.cd_drives = items
        .iter()
        .filter(|i| [15, 16].contains(&i.kind()))
        .count();
    checked
}

/// Names of the networks; each has a description, which XenCenter fails without. A machine without adapters needs none.
fn networks(envelope: Node) -> Vec<String> {
    let sections: Vec<Node> = all(envelope, "NetworkSection").collect();
    assert!(
        sections.len() <= 1,
        "{} sections of networks",
        sections.len()
    );
    let networks = sections
        .into_iter()
        .flat_map(|section| all(section, "Network"));
    let networks = networks.map(|network| {
        named(network, "Description");
        attribute(network, "name").to_owned()
    });
    networks.collect()
}

fn family(system: Node, importer: Importer) -> String {
    let order: Vec<&str> = elements(system).map(|e| e.tag_name().name()).collect();
    assert!(order.is_sorted(), "the order of {order:?}");
    let value = |name: &'static str| {
        let found = elements(system).find(|e| e.has_tag_name((VSSD, name)));
        let found = found.unwrap_or_else(|| panic!("System without {name}"));
        found.text().unwrap_or_default().to_owned()
    };
    assert_eq!(value("ElementName"), "Virtual Hardware Family");
    assert_eq!(value("InstanceID"), "0");
    assert!(!value("VirtualSystemIdentifier").is_empty());
    let family = value("VirtualSystemType");
    match importer {
        Importer::Vsphere => {
            let version = family
                .strip_prefix("vmx-")
                .and_then(|v| v.parse::<u32>().ok());
            let known = version.is_some_and(|v| (4..=21).contains(&v));
            assert!(
                known && family.len() == 6,
                "Unsupported hardware family {family:?}"
            );
        }
        Importer::XenCenter => {
            let is_xen = ["hvm-3.0-", "xen-3.0-"]
                .iter()
                .any(|p| family.starts_with(p));
            assert!(is_xen, "VirtualSystemType {family:?}");
        }
    }
    family
}

/// Order of the section, and the firmware if it is said.
fn settings(hardware: Node) -> Option<String> {
    let order = |node: Node| match node.tag_name().name() {
        "Info" => 0,
        "System" => 1,
        "Item" => 2,
        other => {
            assert_ne!(node.tag_name().namespace(), Some(OVF), "{other}");
            3
        }
    };
    let orders: Vec<u32> = elements(hardware).map(order).collect();
    assert!(orders.is_sorted(), "the order of the section of hardware");
    let mut firmware = None;
    for setting in elements(hardware).filter(|e| e.tag_name().namespace() == Some(VMW)) {
        assert_eq!(
            setting.attribute((OVF, "required")),
            Some("false"),
            "{setting:?}"
        );
        if setting.attribute((VMW, "key")) == Some("firmware") {
            let value = setting.attribute((VMW, "value")).expect("a value");
            assert!(["bios", "efi"].contains(&value), "firmware {value}");
            firmware = Some(value.to_owned());
        }
    }
    firmware
}

fn check_subtype(item: &Item) {
    let Some(subtype) = item.find("ResourceSubType") else {
        return;
    };
    let known = SUBTYPES.iter().find(|(kind, _)| *kind == item.kind());
    if let Some((kind, known)) = known {
        assert!(
            known.contains(&subtype),
            "VALUE_ILLEGAL: Value '{subtype}' of type {kind}"
        );
    }
}

fn processors(items: &[Item], checked: &mut Checked) {
    let only = |kind: u32| {
        let found: Vec<&Item> = items.iter().filter(|i| i.kind() == kind).collect();
        assert_eq!(found.len(), 1, "items of type {kind}");
        found[0].fields.clone()
    };
    let number = |fields: &BTreeMap<&str, &str>| -> u64 {
        let text = fields.get("VirtualQuantity").expect("a quantity");
        text.parse().expect("a number")
    };
    checked.cpus = number(&only(3));
    let memory = only(4);
    // Half of the readers take any number for MiB, the others want to be told.
    assert_eq!(memory.get("AllocationUnits"), Some(&"byte * 2^20"));
    checked.memory = number(&memory) << 20;
    assert!(checked.cpus > 0 && checked.memory > 0);
}

fn check_nic(nic: &Item, networks: &[String]) -> CheckedNic {
    let network = nic.get("Connection");
    assert!(
        networks.iter().any(|n| n == network),
        "the network {network} is not described"
    );
    // Xen Orchestra leaves out adapters that do not say so.
    assert_eq!(nic.get("AutomaticAllocation"), "true");
    let mac = nic.find("Address").map(str::to_lowercase);
    if let Some(mac) = &mac {
        let bytes = mac
            .split(':')
            .map(|b| b.len() == 2 && u8::from_str_radix(b, 16).is_ok());
        assert!(
            bytes.clone().count() == 6 && bytes.clone().all(|is| is),
            "MAC {mac}"
        );
    }
    CheckedNic {
        network: network.to_owned(),
        model: nic.find("ResourceSubType").map(str::to_owned),
        mac,
    }
}

fn check_disks(items: &[Item], importer: Importer, checked: &mut Checked) {
    let is_controller = |item: &&Item| [5, 6, 20].contains(&item.kind());
    let mut places = BTreeSet::new();
    let mut parents = BTreeSet::new();
    for item in items
        .iter()
        .filter(|i| [15, 16, 17, 19].contains(&i.kind()))
    {
        let is_disk = [17, 19].contains(&item.kind());
        let Some(parent) = item.find("Parent") else {
            let xen = importer == Importer::XenCenter;
            assert!(xen || !is_disk, "a disk without a Parent");
            continue;
        };
        let controller = items
            .iter()
            .filter(is_controller)
            .find(|c| c.get("InstanceID") == parent);
        let controller = controller.unwrap_or_else(|| {
            panic!("Value '{parent}' of Parent element does not refer to a ref of type DiskControllerReference")
        });
        parents.insert(parent);
        let unit = item.number("AddressOnParent");
        assert!(
            places.insert((parent, unit)),
            "two devices at {unit} of {parent}"
        );
        let (bus, units) = bus(controller);
        assert!(unit < units, "unit {unit} of {bus}");
        assert!(!(bus == "scsi" && unit == 7), "unit 7 is the controller");
        if is_disk {
            let model = controller.find("ResourceSubType").map(str::to_owned);
            checked.disks.push(CheckedDisk {
                href: disk_id(item).to_owned(),
                capacity: 0,
                bus: bus.to_owned(),
                model,
                controller: controller
                    .find("Address")
                    .map_or(0, |a| a.parse().expect("an address")),
                unit,
            });
            // What XenCenter knows a disk by.
            assert!(item.get("ElementName").to_lowercase().contains("hard disk"));
        }
    }
    for controller in items.iter().filter(is_controller) {
        let id = controller.get("InstanceID");
        assert!(parents.contains(id), "nothing hangs on controller {id}");
    }
}

fn bus(controller: &Item) -> (&'static str, u64) {
    match (controller.kind(), controller.find("ResourceSubType")) {
        (5, _) => ("ide", 2),
        (6, _) => ("scsi", 16),
        (_, Some("vmware.nvme.controller")) => ("nvme", 15),
        _ => ("sata", 30),
    }
}

fn disk_id<'a>(item: &Item<'a>) -> &'a str {
    let resource = item.get("HostResource");
    let id = resource.strip_prefix("ovf:/disk/");
    id.unwrap_or_else(|| panic!("HostResource {resource}"))
}
