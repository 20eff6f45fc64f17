//! One virtual machine, whoever described it.
//!
//! Facts that no description agrees on how to say have one field here; what only one of them can say is kept for a round
//! trip in [`Extra`], and what could not be taken over is told in `notes`, item by item.

mod bus;
mod devices;
mod disk;
mod size;

use serde::{Deserialize, Serialize};

pub use bus::{Bus, ControllerId};
pub use devices::{
    CdDrive, Controller, Floppy, Nic, OtherDevice, ParallelPort, SerialPort, Sound, UsbController,
};
pub use disk::{Compression, Disk, DiskFormat, DiskImage, FileReference};

/// More CPUs than any hypervisor knows.
pub const MAX_CPUS: u32 = 65_536;

/// Notes that are kept of a machine.
const MAX_NOTES: usize = 1000;

/// A virtual machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Machine {
    /// What people call it. Never empty in a machine that was read.
    pub name: String,
    /// What its package calls it (`VirtualSystem ovf:id`), where that is something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// A text for people, of any length and with line breaks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The BIOS UUID, in lower case with hyphens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// BIOS or EFI, where it is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<Firmware>,
    /// Whether the firmware only starts what is signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secure_boot: Option<bool>,
    /// Virtual CPUs, all cores counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// How many of them make a socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cores_per_socket: Option<u32>,
    /// Memory in bytes.
    #[serde(skip_serializing_if = "Option::is_none", with = "size::option")]
    pub memory: Option<u64>,
    /// The virtual hardware it was made for: `vmx-13`, `virtualbox-2.2`, `hvm-3.0-unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hardware_version: Option<String>,
    /// The operating system inside.
    #[serde(skip_serializing_if = "GuestOs::is_unknown")]
    pub guest_os: GuestOs,
    /// Shares of the host's CPUs.
    #[serde(skip_serializing_if = "Allocation::is_default")]
    pub cpu_allocation: Allocation,
    /// Shares of the host's memory.
    #[serde(skip_serializing_if = "Allocation::is_default")]
    pub memory_allocation: Allocation,
    /// What disks and drives are attached to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub controllers: Vec<Controller>,
    /// Disks, in the order in which the guest meets them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<Disk>,
    /// CD and DVD drives.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cd_drives: Vec<CdDrive>,
    /// Floppy drives.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub floppies: Vec<Floppy>,
    /// Network adapters, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nics: Vec<Nic>,
    /// Serial ports, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub serial_ports: Vec<SerialPort>,
    /// Parallel ports, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parallel_ports: Vec<ParallelPort>,
    /// USB controllers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub usb: Vec<UsbController>,
    /// The sound card.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sound: Option<Sound>,
    /// Kept for a round trip.
    #[serde(skip_serializing_if = "Extra::is_empty")]
    pub extra: Extra,
    /// What the description said and this machine does not, one sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// What starts the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// PC BIOS.
    Bios,
    /// UEFI.
    #[serde(alias = "uefi")]
    Efi,
}

impl Firmware {
    /// `bios` or `efi`.
    pub fn name(self) -> &'static str {
        match self {
            Firmware::Bios => "bios",
            Firmware::Efi => "efi",
        }
    }

    /// The firmware of this name in any case; `uefi` is `efi`.
    pub fn by_name(name: &str) -> Option<Firmware> {
        match name.trim().to_ascii_lowercase().as_str() {
            "bios" => Some(Firmware::Bios),
            "efi" | "uefi" => Some(Firmware::Efi),
            _ => None,
        }
    }
}

/// The operating system, in the words of those who name it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GuestOs {
    /// Number of CIM_OperatingSystem.OSType.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cim: Option<u16>,
    /// VMware's `osType`: `ubuntu64Guest`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vmware: Option<String>,
    /// Version, where it is said apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Words for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

impl GuestOs {
    /// Whether nothing is said.
    pub fn is_unknown(&self) -> bool {
        *self == GuestOs::default()
    }
}

/// What a machine is promised of its host, in the unit of the resource: MHz, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Allocation {
    /// At least so much.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reservation: Option<u64>,
    /// At most so much.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Shares when there is not enough for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u64>,
}

impl Allocation {
    /// Whether nothing is said.
    pub fn is_default(&self) -> bool {
        *self == Allocation::default()
    }
}

/// What one product says and others do not know.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Extra {
    /// Settings of the machine: `vmw:Config`, `vmw:ExtraConfig`, lines of a VMX, `other_config` of XenServer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<Setting>,
    /// How an OVF environment reaches the guest: `iso`, `com.vmware.guestInfo`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub transports: Vec<String>,
    /// Product sections: what is installed, and its properties.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub products: Vec<Product>,
    /// Licences to agree to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub eulas: Vec<String>,
    /// Other sections of the machine.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sections: Vec<Section>,
    /// Foreign elements of the hardware section.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hardware_sections: Vec<Section>,
    /// Devices without a place of their own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<OtherDevice>,
}

impl Extra {
    /// Whether there is nothing to keep.
    pub fn is_empty(&self) -> bool {
        *self == Extra::default()
    }
}

/// A key and its value, of whoever understands it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Setting {
    /// Whose it is.
    pub family: SettingFamily,
    /// The key, as it was written.
    pub key: String,
    /// The value, as it was written.
    pub value: String,
    /// Whether an importer that does not know it must refuse.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
}

/// Settings of VMware that say what a machine has a field for.
const FACTS: &[&str] = &[
    "firmware",
    "bootOptions.efiSecureBootEnabled",
    "uefi.secureBoot.enabled",
    "uuid",
];

impl Setting {
    /// Whether a machine has a field for what it says.
    pub fn is_fact(&self) -> bool {
        let is_such = |key: &&str| key.eq_ignore_ascii_case(&self.key);
        self.family != SettingFamily::Xen && FACTS.iter().any(is_such)
    }
}

/// Whose key a [`Setting`] is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SettingFamily {
    /// `vmw:Config` of an OVF: a property of vSphere's API.
    #[default]
    Config,
    /// `vmw:ExtraConfig` of an OVF and lines of a VMX: the same keys.
    Vmx,
    /// `xenovf:VirtualSystemOtherConfigurationData` and fields of a VM in an XVA.
    Xen,
}

/// A product section: what a publisher says of the software inside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Product {
    /// Name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Who made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// Short version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Properties that the guest is given: key (with class and instance), type and value.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub properties: Vec<Property>,
    /// The section as it was written.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub xml: String,
}

/// A property of a [`Product`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Property {
    /// `class.key.instance`, as the guest sees it.
    pub key: String,
    /// Type of the value.
    #[serde(rename = "type")]
    pub kind: String,
    /// The value, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// A section that is not understood, kept as it was written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Section {
    /// Its local name.
    pub name: String,
    /// Whether an importer that does not know it must refuse.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    /// The element, with all prefixes declared.
    pub xml: String,
}

impl Machine {
    /// A number of CPUs, or of cores a socket, if there can be so many.
    pub fn cpu_count(number: u64) -> Option<u32> {
        u32::try_from(number)
            .ok()
            .filter(|n| (1..=MAX_CPUS).contains(n))
    }

    /// The controller with this id.
    pub fn controller(&self, id: ControllerId) -> Option<&Controller> {
        self.controllers.iter().find(|c| c.id == id)
    }

    /// The value of a setting of `family`; the key in any case.
    pub fn setting(&self, family: SettingFamily, key: &str) -> Option<&str> {
        self.extra
            .settings
            .iter()
            .find(|s| s.family == family && s.key.eq_ignore_ascii_case(key))
            .map(|s| s.value.as_str())
    }

    /// Adds a note once, unless there are so many that nobody reads them.
    pub fn note(&mut self, note: impl Into<String>) {
        let note = match self.notes.len() {
            ..MAX_NOTES => note.into(),
            _ => "there is more to tell of this machine than is told here".to_owned(),
        };
        if self.notes.len() <= MAX_NOTES && !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}
