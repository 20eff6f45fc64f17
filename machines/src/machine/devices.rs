//! Devices that are not disks.

use serde::{Deserialize, Serialize};

use super::{ControllerId, FileReference, Setting};

/// Something that disks and drives are attached to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Controller {
    /// Bus and number.
    pub id: ControllerId,
    /// The chip, in the words of [`crate::models`]: `lsilogic`, `pvscsi`, `ahci`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Settings of this device.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<Setting>,
}

impl Controller {
    /// A controller without settings.
    pub fn new(id: ControllerId, model: Option<&str>) -> Controller {
        Controller {
            id,
            model: model.map(str::to_owned),
            settings: Vec::new(),
        }
    }
}

/// A CD or DVD drive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CdDrive {
    /// What it is attached to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller: Option<ControllerId>,
    /// Where on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<u32>,
    /// The disc inside, if it is a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub medium: Option<FileReference>,
    /// What is behind it, in VMware's words: `vmware.cdrom.remotepassthrough`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing: Option<String>,
    /// Whether it is connected when the machine starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connected: Option<bool>,
    /// Settings of this device.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<Setting>,
}

/// A floppy drive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Floppy {
    /// The disk inside, if it is a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub medium: Option<FileReference>,
    /// What is behind it, in VMware's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing: Option<String>,
    /// Whether it is connected when the machine starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connected: Option<bool>,
}

/// A network adapter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Nic {
    /// The network it is plugged into, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// The chip, in the words of [`crate::models`]: `e1000`, `vmxnet3`, `virtio`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// `00:0c:29:12:34:56`, in lower case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Whether it is connected when the machine starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connected: Option<bool>,
    /// Settings of this device.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<Setting>,
}

/// A serial port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SerialPort {
    /// What is behind it: `file`, `pipe`, `device`, `network`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing: Option<String>,
    /// The file, pipe or address on the host. Never opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// A parallel port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ParallelPort {
    /// What is behind it: `file`, `device`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing: Option<String>,
}

/// A USB controller.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UsbController {
    /// `uhci`, `ehci`, `xhci`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// A sound card.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sound {
    /// `sb16`, `ensoniq1371`, `hdaudio`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// A device without a place of its own in a machine, kept for a round trip.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OtherDevice {
    /// Number of CIM_ResourceAllocationSettingData.ResourceType.
    pub resource_type: u16,
    /// Which of that type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subtype: Option<String>,
    /// What people call it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether an importer that does not know it must refuse.
    pub required: bool,
    /// Settings of this device.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<Setting>,
}
