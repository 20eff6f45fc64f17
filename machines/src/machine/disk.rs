//! Disks: where they are attached, how large they are, which file holds them.

use serde::{Deserialize, Serialize};

use super::{ControllerId, Setting, size};
use crate::href::Href;

/// A disk of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Disk {
    /// What people call it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it is attached to, where it is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller: Option<ControllerId>,
    /// Where on the controller; without one, the place in the order of disks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<u32>,
    /// Whether the machine starts from it, where it is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bootable: Option<bool>,
    /// Whether the guest may not write to it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// The image.
    pub image: DiskImage,
    /// Settings of this device.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<Setting>,
}

/// What a description says of a disk image. The image itself knows better.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiskImage {
    /// What its package calls it (`diskId`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Size that the guest sees, in bytes, where it is said.
    #[serde(skip_serializing_if = "Option::is_none", with = "size::option")]
    pub capacity: Option<u64>,
    /// Bytes of it that were ever written, where it is said.
    #[serde(skip_serializing_if = "Option::is_none", with = "size::option")]
    pub populated: Option<u64>,
    /// The format that the description names: a hint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<DiskFormat>,
    /// The file; without one the disk is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<FileReference>,
    /// The image below, of which this one holds the difference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<Box<DiskImage>>,
}

/// The format of a disk, as descriptions name it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskFormat {
    /// VMDK packed for transport.
    VmdkStream,
    /// Any other VMDK.
    Vmdk,
    /// VHD.
    Vhd,
    /// VHDX.
    Vhdx,
    /// qcow, version 2 or 3.
    Qcow2,
    /// VirtualBox's own.
    Vdi,
    /// Plain bytes.
    Raw,
    /// A CD image.
    Iso,
    /// Something else, by its URI.
    Other(String),
}

/// A file of a package.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FileReference {
    /// What its package calls it (`File ovf:id`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Where it is.
    pub href: Href,
    /// Its length in bytes as it is stored, where it is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// How the whole file is packed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    /// It is stored in parts of this many bytes, named `href.000000000` and so on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk_size: Option<u64>,
}

/// How a whole file of a package is packed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// gzip.
    Gzip,
    /// bzip2.
    Bzip2,
    /// Something else, by its name.
    Other(String),
}
