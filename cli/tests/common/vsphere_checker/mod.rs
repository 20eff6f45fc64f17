//! Judges a package as vSphere's importers do, and the pickier of the others: order and dialect of the archive, names, the
//! manifest to the letter, sizes, the order of elements, ids, controllers, and every sector of the disks. It panics with what
//! is wrong, and answers what the package describes.
//!
//! The rules are those that importers of products were seen to have; nothing of diskferry's own is used.

mod bag;
mod hardware;
mod references;
mod stream;

use std::path::Path;

use roxmltree::{Document, Node};

pub use bag::Bag;

pub const OVF: &str = "http://schemas.dmtf.org/ovf/envelope/1";
pub const RASD: &str =
    "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData";
pub const VSSD: &str =
    "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData";
pub const VMW: &str = "http://www.vmware.com/schema/ovf";

/// What a package is to be taken by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Importer {
    Vsphere,
    /// An OVF folder with VHDs.
    XenCenter,
}

/// What a package describes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    pub name: String,
    pub cpus: u64,
    /// Bytes.
    pub memory: u64,
    /// `bios` or `efi`, where it is said.
    pub firmware: Option<String>,
    /// `vmx-10`.
    pub hardware: String,
    /// In the order of the section of disks.
    pub disks: Vec<CheckedDisk>,
    pub nics: Vec<CheckedNic>,
    pub cd_drives: usize,
    /// Of the manifest.
    pub algorithm: Option<String>,
    pub signed: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckedDisk {
    pub href: String,
    /// Bytes.
    pub capacity: u64,
    /// `ide`, `scsi`, `sata` or `nvme`.
    pub bus: String,
    /// The chip, if it is said.
    pub model: Option<String>,
    pub controller: u64,
    pub unit: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckedNic {
    pub network: String,
    pub model: Option<String>,
    pub mac: Option<String>,
}

/// Judges an OVA, or the only descriptor in a folder with all that belongs to it.
pub fn check(package: &Path) -> Checked {
    check_for(package, Importer::Vsphere)
}

/// As [`check`], with the rules of another importer.
pub fn check_for(package: &Path, importer: Importer) -> Checked {
    let bag = Bag::open(package);
    let name = bag.check_names();
    let (algorithm, signed) = bag.check_manifest(&name);
    let text = bag.data(&format!("{name}.ovf"));
    let text = String::from_utf8(text).expect("a descriptor in UTF-8");
    assert!(!text.starts_with('\u{feff}'), "a byte order mark");
    let document = Document::parse(&text).expect("a descriptor");
    let envelope = document.root_element();
    check_envelope(envelope);
    let system = named(envelope, "VirtualSystem");
    check_system(system);
    let mut checked = hardware::check(envelope, system, importer);
    references::check(envelope, &bag, importer, &mut checked);
    (checked.algorithm, checked.signed) = (algorithm, signed);
    checked
}

/// Elements inside of `node`.
fn elements<'a, 'i>(node: Node<'a, 'i>) -> impl Iterator<Item = Node<'a, 'i>> {
    node.children().filter(Node::is_element)
}

/// Elements of OVF that are called `name`.
fn all<'a, 'i>(node: Node<'a, 'i>, name: &'static str) -> impl Iterator<Item = Node<'a, 'i>> {
    elements(node).filter(move |e| e.has_tag_name((OVF, name)))
}

/// The only such element.
fn named<'a, 'i>(node: Node<'a, 'i>, name: &'static str) -> Node<'a, 'i> {
    let mut found = all(node, name);
    let first = found.next();
    let first = first.unwrap_or_else(|| panic!("{} has no {name}", node.tag_name().name()));
    assert!(found.next().is_none(), "more than one {name}");
    first
}

/// Attribute of OVF, which must be there.
fn attribute<'a>(node: Node<'a, '_>, name: &str) -> &'a str {
    let value = node.attribute((OVF, name));
    value.unwrap_or_else(|| panic!("{} has no ovf:{name}", node.tag_name().name()))
}

fn check_envelope(envelope: Node) {
    assert!(envelope.has_tag_name((OVF, "Envelope")), "{envelope:?}");
    assert_eq!(
        envelope.default_namespace(),
        Some(OVF),
        "the default namespace"
    );
    let prefixed = &envelope.document().input_text()[envelope.range()];
    assert!(prefixed.starts_with("<Envelope"), "elements with a prefix");
    let order = |name: &str| match name {
        "References" => 0,
        "VirtualSystem" => 2,
        "Strings" => 3,
        "VirtualSystemCollection" => panic!("a collection: half of the importers take none"),
        _ => 1,
    };
    let names: Vec<&str> = elements(envelope).map(|e| e.tag_name().name()).collect();
    assert!(names.is_sorted_by_key(|name| order(name)), "{names:?}");
    assert_eq!(names.first(), Some(&"References"), "{names:?}");
    for section in elements(envelope).filter(|e| order(e.tag_name().name()) == 1) {
        check_section(section);
    }
    // Attributes of OVF are never written bare.
    for node in envelope
        .descendants()
        .filter(|n| n.tag_name().namespace() == Some(OVF))
    {
        let bare = node.attributes().find(|a| a.namespace().is_none());
        assert_eq!(bare.map(|a| a.name()), None, "{}", node.tag_name().name());
    }
}

/// Every section begins with a text for people.
fn check_section(section: Node) {
    let first = elements(section).next().map(|e| e.tag_name());
    let name = section.tag_name().name();
    let foreign = section.tag_name().namespace() != Some(OVF);
    if foreign {
        assert_eq!(
            section.attribute((OVF, "required")),
            Some("false"),
            "{name}"
        );
    }
    assert!(
        first.is_some_and(|tag| tag.name() == "Info"),
        "{name} has no Info"
    );
}

fn check_system(system: Node) {
    assert!(
        !attribute(system, "id").is_empty(),
        "VirtualSystem without an id"
    );
    let names: Vec<&str> = elements(system).map(|e| e.tag_name().name()).collect();
    assert_eq!(names[..2], ["Info", "Name"], "{names:?}");
    for section in elements(system).skip(2) {
        check_section(section);
    }
    let os = named(system, "OperatingSystemSection");
    attribute(os, "id")
        .parse::<u16>()
        .expect("the number of the system");
    let first = |name: &str| names.iter().position(|n| *n == name);
    assert!(
        first("OperatingSystemSection") < first("VirtualHardwareSection"),
        "{names:?}"
    );
}
