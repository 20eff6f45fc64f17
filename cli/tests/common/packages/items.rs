//! The `Item`s of a descriptor, in every dialect.

use super::descriptor::{Bus, Descriptor, Dialect, Machine};

/// All items of a machine.
pub fn items(descriptor: &Descriptor, machine: &Machine) -> String {
    let mut writer = Writer {
        dialect: descriptor.dialect,
        machine,
        text: String::new(),
        next: 1,
    };
    writer.processors();
    writer.disks();
    writer.nics();
    writer.text
}

struct Writer<'d> {
    dialect: Dialect,
    machine: &'d Machine,
    text: String,
    next: u32,
}

impl Writer<'_> {
    /// The next InstanceID, as the dialect writes them.
    fn id(&mut self) -> String {
        let number = self.next;
        self.next += 1;
        match self.dialect {
            Dialect::XenCenter => format!("{{8fde41a4-0000-0000-0000-{number:012}}}"),
            Dialect::Microsoft => format!("Microsoft:8FDE41A4\\{number}"),
            _ => number.to_string(),
        }
    }

    /// An item: fields in the order of their names, as the standard wants them.
    fn item(&mut self, fields: &[(&str, &str)]) {
        let kind = fields.iter().find(|(name, _)| *name == "ResourceType");
        let kind = kind.expect("a type").1;
        let (tag, prefix) = match (self.dialect, kind) {
            (Dialect::Ovf2, "17") => ("StorageItem", "sasd"),
            (Dialect::Ovf2, "10") => ("EthernetPortItem", "epasd"),
            _ => ("Item", "rasd"),
        };
        let mut fields: Vec<(&str, &str)> = fields.to_vec();
        if self.dialect == Dialect::Vmware09 || self.dialect == Dialect::OVirt {
            for (name, _) in &mut fields {
                *name = match *name {
                    "InstanceID" => "InstanceId",
                    "ElementName" => "Caption",
                    other => other,
                };
            }
        }
        fields.sort_by_key(|(name, _)| *name);
        let fields: String = fields
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| format!("<{prefix}:{name}>{value}</{prefix}:{name}>"))
            .collect();
        self.text += &format!("<{tag}>{fields}</{tag}>");
    }

    fn processors(&mut self) {
        let cpus = self.machine.cpus.to_string();
        let memory = self.machine.memory.to_string();
        let id = self.id();
        match self.dialect {
            Dialect::OVirt => self.item(&[
                ("ElementName", "CPU"),
                ("InstanceID", &id),
                ("ResourceType", "3"),
                ("cpu_per_socket", "1"),
                ("num_of_sockets", &cpus),
            ]),
            _ => self.item(&[
                ("ElementName", &format!("{cpus} virtual CPU(s)")),
                ("InstanceID", &id),
                ("ResourceType", "3"),
                ("VirtualQuantity", &cpus),
            ]),
        }
        let units = match self.dialect {
            Dialect::VirtualBox | Dialect::Vmware09 | Dialect::OVirt => "MegaBytes",
            _ => "byte * 2^20",
        };
        let id = self.id();
        self.item(&[
            ("AllocationUnits", units),
            ("ElementName", &format!("{memory} MB of memory")),
            ("InstanceID", &id),
            ("ResourceType", "4"),
            ("VirtualQuantity", &memory),
        ]);
    }

    fn controller(&mut self, number: usize) -> String {
        let id = self.id();
        let (kind, subtype) = match (self.machine.bus, self.dialect) {
            (Bus::Ide, Dialect::VirtualBox) => ("5", "PIIX4"),
            (Bus::Ide, _) => ("5", ""),
            (Bus::Sata, Dialect::VirtualBox) => ("20", "AHCI"),
            (Bus::Sata, _) => ("20", "vmware.sata.ahci"),
            (Bus::Scsi, _) => ("6", "lsilogic"),
        };
        self.item(&[
            ("Address", &number.to_string()),
            ("ElementName", &format!("Controller {number}")),
            ("InstanceID", &id),
            ("ResourceSubType", subtype),
            ("ResourceType", kind),
        ]);
        id
    }

    fn disks(&mut self) {
        // These two name no controllers.
        let has_controllers = !matches!(self.dialect, Dialect::XenCenter | Dialect::OVirt);
        let room = match self.machine.bus {
            Bus::Ide => 2,
            Bus::Scsi => 7,
            Bus::Sata => 30,
        };
        let mut parent = String::new();
        for (number, disk) in self.machine.disks.iter().enumerate() {
            if has_controllers && number % room == 0 {
                parent = self.controller(number / room);
            }
            let id = self.id();
            let (kind, name) = match self.dialect {
                Dialect::XenCenter => ("19", "Hard Disk Image".to_owned()),
                Dialect::Microsoft => ("21", "Hard Disk Image".to_owned()),
                _ => ("17", format!("Hard Disk {}", number + 1)),
            };
            let resource = match self.dialect {
                Dialect::VirtualBox | Dialect::Vmware09 => format!("/disk/{disk}"),
                Dialect::OVirt => format!("group/{disk}"),
                _ => format!("ovf:/disk/{disk}"),
            };
            let caption = match self.dialect {
                Dialect::XenCenter | Dialect::VirtualBox | Dialect::Microsoft => name.as_str(),
                _ => "",
            };
            let connection = match self.dialect {
                Dialect::XenCenter => format!("{disk},device={number}"),
                _ => String::new(),
            };
            self.item(&[
                ("AddressOnParent", &(number % room).to_string()),
                ("Caption", caption),
                ("Connection", &connection),
                ("ElementName", &name),
                ("HostResource", &resource),
                ("InstanceID", &id),
                ("Parent", &parent),
                ("ResourceType", kind),
            ]);
        }
    }

    fn nics(&mut self) {
        for (number, nic) in self.machine.nics.iter().enumerate() {
            let id = self.id();
            let mac = match self.dialect {
                Dialect::VirtualBox => nic.mac.replace(':', "").to_uppercase(),
                _ => nic.mac.clone(),
            };
            // A number of its own list; 4 is e1000.
            let (subtype, own) = match self.dialect {
                Dialect::OVirt => ("4", mac.as_str()),
                _ => (nic.model.as_str(), ""),
            };
            let address = if own.is_empty() { mac.as_str() } else { "" };
            self.item(&[
                ("Address", address),
                ("AddressOnParent", &(7 + number).to_string()),
                ("AutomaticAllocation", "true"),
                ("Connection", &nic.network),
                ("ElementName", &format!("Network adapter {}", number + 1)),
                ("InstanceID", &id),
                ("MACAddress", own),
                ("ResourceSubType", subtype),
                ("ResourceType", "10"),
            ]);
        }
    }
}
