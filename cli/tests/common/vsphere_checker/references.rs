//! Files and disks of a descriptor against what is in the package.

use std::collections::BTreeSet;

use roxmltree::Node;

use super::{Bag, Checked, Importer, all, attribute, named, stream};

const STREAM_URI: &str =
    "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized";
const VHD_URI: &str = "http://www.microsoft.com/technet/virtualserver/downloads/vhdspec.mspx";

/// Checks the references and the section of disks, and completes the disks of `checked`, whose `href` is the id of a disk so far.
pub fn check(envelope: Node, bag: &Bag, importer: Importer, checked: &mut Checked) {
    let files = check_files(envelope, bag);
    let disks: Vec<Node> = match all(envelope, "DiskSection").next() {
        Some(section) => all(section, "Disk").collect(),
        None => Vec::new(),
    };
    let mut used = Vec::new();
    let mut ids = BTreeSet::new();
    for disk in &disks {
        let id = attribute(*disk, "diskId");
        assert!(ids.insert(id), "two disks with the id {id}");
        let attached = checked.disks.iter().filter(|d| d.href == id).count();
        assert_eq!(attached, 1, "disk {id} is attached {attached} times");
        if let Some(file) = disk.attribute((super::OVF, "fileRef")) {
            let place = files.iter().position(|(id, _)| id == file);
            used.push(place.unwrap_or_else(|| panic!("disk {id} in the file {file}")));
        }
        assert_eq!(disk.attribute((super::OVF, "parentRef")), None, "{id}");
    }
    assert!(
        used.is_sorted_by(|a, b| a < b),
        "disks in the order of their files"
    );
    for disk in &mut checked.disks {
        let entry = disks.iter().find(|d| attribute(**d, "diskId") == disk.href);
        let entry = *entry.unwrap_or_else(|| panic!("no disk {}", disk.href));
        disk.capacity = capacity(entry);
        disk.href.clear();
        let Some(file) = entry.attribute((super::OVF, "fileRef")) else {
            continue;
        };
        let file = files.iter().find(|(id, _)| id == file);
        disk.href = file.expect("a file").1.clone();
        let format = attribute(entry, "format");
        match importer {
            Importer::Vsphere => {
                assert_eq!(format, STREAM_URI, "{}", disk.href);
                stream::check(bag, disk);
            }
            Importer::XenCenter => {
                assert_eq!(format, VHD_URI, "{}", disk.href);
                check_vhd(bag, &disk.href, disk.capacity);
            }
        }
    }
    of_one_width(ids.into_iter());
    of_one_width(files.iter().map(|(id, _)| id.as_str()));
}

/// Importers look for ids in pieces of text: none may begin another.
fn of_one_width<'a>(ids: impl Iterator<Item = &'a str>) {
    let ids: Vec<&str> = ids.collect();
    let is_one = ids.iter().all(|id| id.len() == ids[0].len());
    assert!(is_one, "ids of several widths: {ids:?}");
}

/// Ids and names of the files, in their order.
fn check_files(envelope: Node, bag: &Bag) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    let mut order = Vec::new();
    for file in all(named(envelope, "References"), "File") {
        let (id, href) = (attribute(file, "id"), attribute(file, "href"));
        assert!(!order.contains(&href), "two files with the name {href}");
        let size = attribute(file, "size").parse().expect("a size");
        assert_eq!(bag.size(href), Some(size), "size of {href}");
        for name in ["compression", "chunkSize"] {
            assert_eq!(file.attribute((super::OVF, name)), None, "{href}: {name}");
        }
        assert!(!href.ends_with(".nvram"), "uploaders fail at {href}");
        order.push(href);
        assert!(
            found.iter().all(|f| f.0 != id),
            "two files with the id {id}"
        );
        found.push((id.to_owned(), href.to_owned()));
    }
    let mut members = bag.names();
    members.retain(|name| {
        ![".ovf", ".mf", ".cert"]
            .iter()
            .any(|kind| name.ends_with(kind))
    });
    if let Bag::Folder(..) = bag {
        order.sort_unstable();
    }
    assert_eq!(members, order, "members in the order of the references");
    found
}

/// Bytes of a disk, in one of the spellings that everybody reads.
fn capacity(disk: Node) -> u64 {
    let number: u64 = attribute(disk, "capacity").parse().expect("a capacity");
    let unit = match disk.attribute((super::OVF, "capacityAllocationUnits")) {
        None => 0,
        Some("byte * 2^20") => 20,
        Some("byte * 2^30") => 30,
        Some(other) => panic!("capacityAllocationUnits {other:?}"),
    };
    let capacity = number << unit;
    if capacity.is_multiple_of(1 << 20) {
        assert_ne!(unit, 0, "whole MiB are said in MiB");
    }
    if let Some(populated) = disk.attribute((super::OVF, "populatedSize")) {
        let populated: u64 = populated.parse().expect("a size");
        assert!(populated <= capacity, "populatedSize {populated}");
    }
    capacity
}

/// The footer of a VHD says what the descriptor does.
fn check_vhd(bag: &Bag, name: &str, capacity: u64) {
    let len = bag.size(name).expect("a size");
    let footer = bag.read(name, len - 512, 512);
    assert_eq!(&footer[..8], b"conectix", "{name}");
    let size = u64::from_be_bytes(footer[48..56].try_into().expect("eight bytes"));
    assert_eq!(size, capacity, "{name}: capacity");
}
