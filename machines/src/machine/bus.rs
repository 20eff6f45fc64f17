//! What a disk hangs on: `ide0`, `scsi1`, `sata0`.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The kind of a disk controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bus {
    /// Parallel ATA: one controller is one channel with units 0 and 1.
    Ide,
    /// SCSI: units 0 to 15, of which 7 is the controller (up to 63 on newer ones).
    Scsi,
    /// AHCI: units 0 to 29.
    Sata,
    /// NVMe: units 0 to 14.
    Nvme,
    /// virtio-blk: each disk is a device of its own.
    Virtio,
    /// Xen's paravirtual block devices.
    Xen,
}

impl Bus {
    /// All of them.
    pub const ALL: [Bus; 6] = [
        Bus::Ide,
        Bus::Scsi,
        Bus::Sata,
        Bus::Nvme,
        Bus::Virtio,
        Bus::Xen,
    ];

    /// `ide`, `scsi`, `sata`, `nvme`, `virtio`, `xen`.
    pub fn name(self) -> &'static str {
        match self {
            Bus::Ide => "ide",
            Bus::Scsi => "scsi",
            Bus::Sata => "sata",
            Bus::Nvme => "nvme",
            Bus::Virtio => "virtio",
            Bus::Xen => "xen",
        }
    }

    /// How many units a controller has for disks; number 7 of SCSI is not one of them.
    pub fn units(self) -> u32 {
        match self {
            Bus::Ide => 2,
            Bus::Scsi => 16,
            Bus::Sata => 30,
            Bus::Nvme => 15,
            Bus::Virtio | Bus::Xen => 256,
        }
    }

    /// The `n`-th unit that can hold a disk, over as many controllers as it takes: the controller's number and the unit.
    pub fn slot(self, n: u32) -> (u32, u32) {
        match self {
            // Unit 7 is the controller itself.
            Bus::Scsi => {
                let unit = n % 15;
                (n / 15, if unit >= 7 { unit + 1 } else { unit })
            }
            _ => (n / self.units(), n % self.units()),
        }
    }
}

/// A controller of a machine: its bus and its number on it. Written `scsi0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ControllerId {
    /// The kind.
    pub bus: Bus,
    /// Number among the controllers of that kind, from 0.
    pub number: u32,
}

impl ControllerId {
    /// The controller `number` of `bus`.
    pub fn new(bus: Bus, number: u32) -> ControllerId {
        ControllerId { bus, number }
    }
}

impl fmt::Display for ControllerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.bus.name(), self.number)
    }
}

impl FromStr for ControllerId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Bus::ALL
            .iter()
            .find_map(|bus| {
                let number = text.strip_prefix(bus.name())?;
                let is_number = number.bytes().all(|b| b.is_ascii_digit());
                let number = is_number.then(|| number.parse().ok()).flatten()?;
                Some(ControllerId::new(*bus, number))
            })
            .ok_or_else(|| format!("{text:?} is no controller; they are written scsi0, sata1"))
    }
}

impl Serialize for ControllerId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ControllerId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_words_and_numbers() {
        for text in ["ide0", "scsi3", "sata0", "nvme1", "virtio0"] {
            assert_eq!(text.parse::<ControllerId>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "scsi",
            "scsi-1",
            "scsi+1",
            "0",
            "usb0",
            "scsi99999999999",
        ] {
            assert!(bad.parse::<ControllerId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn no_disk_gets_the_unit_of_the_controller() {
        assert_eq!(Bus::Scsi.slot(6), (0, 6));
        assert_eq!(Bus::Scsi.slot(7), (0, 8));
        assert_eq!(Bus::Scsi.slot(14), (0, 15));
        assert_eq!(Bus::Scsi.slot(15), (1, 0));
        assert_eq!(Bus::Ide.slot(2), (1, 0));
    }
}
