//! The targets of `--for`: one row each, everything that differs between them.
//!
//! What each product takes and why stands in the sources of its row's figures: the importers of the products, and the reports of those
//! whose packages were refused. The controller of the source is kept wherever `buses` allows it: a Windows of the days of
//! IDE stops when its disk moves to another one.

use crate::machine::{Bus, Firmware};
use crate::manifest::Algorithm;

/// A target.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    /// The word after `--for`.
    pub name: &'static str,
    /// What it is, for people.
    pub title: &'static str,
    /// What it takes: a package, or disks only.
    pub container: Container,
    /// Format of the disks, and its subformat.
    pub disk: (DiskKind, &'static str),
    /// Disks are rounded up to whole multiples of this many bytes.
    pub size_multiple: u64,
    /// Digest of the manifest.
    pub manifest: Algorithm,
    /// `VirtualSystemType` that is written; a machine's own is kept up to `newest`.
    pub hardware: &'static str,
    /// The newest `vmx-NN` that the product opens; 0 where it does not care.
    pub newest: u32,
    /// Buses that disks may hang on; the first is for those that say none and those that may not stay.
    pub buses: &'static [Bus],
    /// SCSI chips that it knows; the first is the default.
    pub scsi: &'static [&'static str],
    /// Network adapters that it knows; the first is the default. Empty where any will do.
    pub nics: &'static [&'static str],
    /// Firmware that it takes over from a package.
    pub firmware: &'static [Firmware],
    /// What file and machine names may have.
    pub names: Names,
}

/// What a product takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Container {
    /// An OVA, or an OVF folder.
    Ovf,
    /// An XVA.
    Xva,
    /// Disks; the machine is made by hand or by a script.
    Disks,
}

/// Formats of disks that targets ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DiskKind {
    /// VMDK.
    Vmdk,
    /// VHD.
    Vhd,
    /// VHDX.
    Vhdx,
    /// qcow2.
    Qcow2,
    /// Plain bytes.
    Raw,
}

/// Which names are safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Names {
    /// Files `[A-Za-z0-9._-]+`; machines as they are.
    Files,
    /// Machines `[A-Za-z0-9.-]+` too, as host names are.
    Hosts,
}

const MIB: u64 = 1 << 20;
const ANY_SCSI: &[&str] = &["lsilogic", "lsilogicsas", "buslogic", "pvscsi"];
const ANY_NIC: &[&str] = &[
    "e1000", "e1000e", "vmxnet3", "vmxnet2", "vmxnet", "pcnet32", "sriov",
];
/// Not what the product can start, but what it takes from a package.
const BIOS: &[Firmware] = &[Firmware::Bios];
const BOTH: &[Firmware] = &[Firmware::Bios, Firmware::Efi];
const VMWARE_BUSES: &[Bus] = &[Bus::Scsi, Bus::Ide, Bus::Sata];
/// XenCenter looks for disks below these two only.
const XEN_BUSES: &[Bus] = &[Bus::Scsi, Bus::Ide];
const NEW_BUSES: &[Bus] = &[Bus::Scsi, Bus::Ide, Bus::Sata, Bus::Nvme];

/// What is written when nobody says for whom: what most products take.
pub const WIDEST: Profile = Profile {
    name: "",
    title: "what most products take",
    container: Container::Ovf,
    disk: (DiskKind::Vmdk, "streamOptimized"),
    size_multiple: MIB,
    manifest: Algorithm::Sha256,
    hardware: "vmx-10",
    newest: 13,
    buses: VMWARE_BUSES,
    scsi: ANY_SCSI,
    nics: ANY_NIC,
    firmware: BOTH,
    names: Names::Files,
};

/// All targets.
pub const PROFILES: &[Profile] = &[
    Profile {
        name: "esxi-5",
        title: "VMware ESXi 5.x, vCenter 5.x",
        manifest: Algorithm::Sha1,
        hardware: "vmx-08",
        newest: 10,
        buses: &[Bus::Scsi, Bus::Ide],
        ..WIDEST
    },
    Profile {
        name: "esxi-6.7",
        title: "VMware ESXi 6.x",
        hardware: "vmx-10",
        newest: 14,
        buses: NEW_BUSES,
        ..WIDEST
    },
    Profile {
        name: "esxi-7",
        title: "VMware ESXi 7",
        hardware: "vmx-13",
        newest: 19,
        buses: NEW_BUSES,
        ..WIDEST
    },
    Profile {
        name: "esxi-8",
        title: "VMware ESXi 8",
        hardware: "vmx-13",
        newest: 21,
        buses: NEW_BUSES,
        ..WIDEST
    },
    Profile {
        name: "vsphere",
        title: "vSphere Client and Content Library, 6.7 and newer",
        hardware: "vmx-10",
        newest: 14,
        buses: NEW_BUSES,
        ..WIDEST
    },
    Profile {
        name: "xenserver",
        title: "Citrix XenServer 6.5 and newer",
        buses: XEN_BUSES,
        container: Container::Xva,
        disk: (DiskKind::Vhd, "dynamic"),
        hardware: "hvm-3.0-unknown",
        newest: 0,
        ..WIDEST
    },
    Profile {
        name: "xcp-ng",
        title: "XCP-ng",
        buses: XEN_BUSES,
        container: Container::Xva,
        disk: (DiskKind::Vhd, "dynamic"),
        hardware: "hvm-3.0-unknown",
        newest: 0,
        ..WIDEST
    },
    Profile {
        name: "hyper-v",
        title: "Microsoft Hyper-V",
        container: Container::Disks,
        disk: (DiskKind::Vhdx, "dynamic"),
        buses: &[Bus::Scsi, Bus::Ide],
        scsi: &[],
        nics: &[],
        newest: 0,
        ..WIDEST
    },
    Profile {
        name: "azure",
        title: "Microsoft Azure",
        container: Container::Disks,
        disk: (DiskKind::Vhd, "fixed"),
        buses: &[Bus::Scsi],
        scsi: &[],
        nics: &[],
        newest: 0,
        ..WIDEST
    },
    Profile {
        name: "virtualbox",
        title: "Oracle VirtualBox",
        hardware: "virtualbox-2.2",
        newest: 0,
        buses: &[Bus::Sata, Bus::Ide, Bus::Scsi],
        scsi: &["lsilogic", "buslogic", "lsilogicsas"],
        nics: &["e1000", "pcnet32", "virtio"],
        firmware: BIOS,
        ..WIDEST
    },
    Profile {
        name: "proxmox",
        title: "Proxmox VE",
        hardware: "vmx-10",
        newest: 0,
        buses: &[Bus::Scsi, Bus::Sata, Bus::Ide],
        nics: &["e1000", "e1000e", "vmxnet3"],
        names: Names::Hosts,
        ..WIDEST
    },
    Profile {
        name: "ganeti",
        title: "Ganeti",
        firmware: BIOS,
        manifest: Algorithm::Sha1,
        hardware: "vmx-10",
        newest: 0,
        nics: &[],
        names: Names::Hosts,
        ..WIDEST
    },
    Profile {
        name: "nutanix",
        title: "Nutanix AHV",
        hardware: "vmx-10",
        newest: 13,
        buses: &[Bus::Scsi, Bus::Sata],
        scsi: &["lsilogic", "pvscsi", "lsilogicsas", "buslogic"],
        ..WIDEST
    },
    Profile {
        name: "kvm",
        title: "KVM: libvirt, oVirt, OpenStack",
        container: Container::Disks,
        disk: (DiskKind::Qcow2, ""),
        buses: &[Bus::Virtio, Bus::Scsi, Bus::Sata, Bus::Ide],
        nics: &[],
        newest: 0,
        ..WIDEST
    },
];

/// The profile of this name.
pub fn by_name(name: &str) -> Option<&'static Profile> {
    PROFILES.iter().find(|p| p.name == name)
}

impl Profile {
    /// A file name that is safe for it, made from any text: `[A-Za-z0-9._-]`, not beginning with a dot, at most 80 bytes.
    pub fn file_name(&self, text: &str) -> String {
        safe(text, "._-")
    }

    /// What a machine is called there.
    pub fn machine_name(&self, name: &str) -> String {
        match self.names {
            Names::Files => name.to_owned(),
            Names::Hosts => safe(name, ".-"),
        }
    }

    /// Bytes of a disk of `size` bytes there.
    pub fn disk_size(&self, size: u64) -> Option<u64> {
        size.max(1).checked_next_multiple_of(self.size_multiple)
    }
}

/// `text` with what is neither an ASCII letter or digit nor one of `others` replaced by a hyphen.
fn safe(text: &str, others: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        let is_safe = c.is_ascii_alphanumeric() || others.contains(c);
        let c = if is_safe { c } else { '-' };
        // No rows of replacements.
        if !(c == '-' && out.ends_with('-')) {
            out.push(c);
        }
        if out.len() >= 80 {
            break;
        }
    }
    let trimmed = out.trim_matches(['-', '.']);
    if trimmed.is_empty() {
        "machine"
    } else {
        trimmed
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_has_a_name_and_a_default_of_its_own() {
        for profile in PROFILES {
            assert_eq!(by_name(profile.name).unwrap().title, profile.title);
            assert!(!profile.buses.is_empty(), "{}", profile.name);
        }
        assert!(by_name("esxi-9").is_none());
    }

    #[test]
    fn names_lose_what_importers_choke_on() {
        let file = |text: &str| WIDEST.file_name(text);
        assert_eq!(file("My VM (1) [new]"), "My-VM-1-new");
        assert_eq!(file("../../etc/passwd"), "etc-passwd");
        assert_eq!(file("ü*?"), "machine");
        assert_eq!(file(&"x".repeat(300)).len(), 80);
        assert_eq!(by_name("proxmox").unwrap().machine_name("a_b c"), "a-b-c");
    }

    #[test]
    fn sizes_are_rounded_up_never_down() {
        assert_eq!(WIDEST.disk_size(1), Some(1 << 20));
        assert_eq!(WIDEST.disk_size(1 << 20), Some(1 << 20));
        assert_eq!(WIDEST.disk_size(u64::MAX), None);
    }
}
