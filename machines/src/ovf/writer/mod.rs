//! From a machine to an OVF 1.x descriptor that the products of a profile take.
//!
//! The order of elements is that of DMTF's schema (DSP8023 1.1.1): References, sections, one VirtualSystem; in it Info, Name, sections;
//! in an Item the properties of CIM by alphabet, and what VMware adds behind them.

mod adapt;
mod hardware;
mod xml_writer;

use formats::{Error, Result};

use self::adapt::adapted;
use self::xml_writer::Writer;
use super::names::{OVF_1, VMW, XSI};
use crate::machine::{DiskFormat, Machine};
use crate::package::Network;
use crate::placement::Plan;
use crate::profiles::Profile;
use crate::units::spelled;
use crate::written::Written;
use crate::xml::Document;

const RASD: &str =
    "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData";
const VSSD: &str = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData";

/// A disk or a disc that goes into the package.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Member {
    /// Its file name in the package.
    pub name: String,
    /// Its length in bytes, as it is stored.
    pub size: u64,
    /// Bytes of a disk that are not zeros, where they were counted.
    pub populated: Option<u64>,
}

/// What a descriptor is made of, besides the machine.
#[derive(Debug, Clone)]
pub struct Contents<'c> {
    /// The file of each disk of the machine, in order; `None` for one that stays empty.
    pub disks: &'c [Option<Member>],
    /// The file of the disc in each CD drive, in order.
    pub discs: &'c [Option<Member>],
    /// Descriptions of networks, where there are any.
    pub networks: &'c [Network],
    /// What the disks are, as it is told.
    pub format: DiskFormat,
}

/// Writes the descriptor of a package with one machine.
///
/// The machine is changed where `profile` does not take it as it is, and each change is a note. Capacities are what the machine
/// says: put what the images say there first.
///
/// # Errors
/// `Malformed` for a disk without a capacity and names that are not safe, `Usage` if `contents` is not of this machine.
pub fn write(machine: &Machine, contents: &Contents, profile: &Profile) -> Result<Written> {
    if contents.disks.len() != machine.disks.len()
        || contents.discs.len() != machine.cd_drives.len()
    {
        return Err(Error::usage(
            "OVF descriptor",
            "not as many members as the machine has drives",
        ));
    }
    check_names(contents)?;
    let mut written = Written::default();
    let (machine, plan) = adapted(machine, profile, &mut written);
    let ids = Ids::new(contents);
    let mut out = Writer::new();
    out.open(
        "Envelope",
        &[
            ("xmlns", OVF_1),
            ("xmlns:ovf", OVF_1),
            ("xmlns:rasd", RASD),
            ("xmlns:vmw", VMW),
            ("xmlns:vssd", VSSD),
            ("xmlns:xsi", XSI),
        ],
    );
    references(&mut out, contents, &ids);
    disk_section(&mut out, &machine, contents, &ids)?;
    network_section(&mut out, &machine, contents);
    virtual_system(&mut out, &machine, &plan, &ids, &mut written);
    out.close("Envelope");
    written.text = out.finish();
    Ok(written)
}

/// Ids of files and disks. Of one width: XenCenter looks for them as parts of a text, and would take `disk1` for `disk10`.
struct Ids {
    width: usize,
    /// Numbers of the files of disks and discs, from 1.
    disks: Vec<Option<usize>>,
    discs: Vec<Option<usize>>,
}

impl Ids {
    fn new(contents: &Contents) -> Ids {
        let mut next = 0;
        let mut number = |member: &Option<Member>| {
            member.as_ref().map(|_| {
                next += 1;
                next
            })
        };
        let disks: Vec<_> = contents.disks.iter().map(&mut number).collect();
        let discs: Vec<_> = contents.discs.iter().map(&mut number).collect();
        let most = contents.disks.len().max(next);
        Ids {
            width: most.to_string().len(),
            disks,
            discs,
        }
    }

    fn file(&self, number: usize) -> String {
        format!("file{number:0width$}", width = self.width)
    }

    fn disk(&self, index: usize) -> String {
        format!("vmdisk{:0width$}", index + 1, width = self.width)
    }

    fn disk_file(&self, index: usize) -> Option<String> {
        self.disks
            .get(index)
            .copied()
            .flatten()
            .map(|n| self.file(n))
    }

    fn disc_file(&self, index: usize) -> Option<String> {
        self.discs
            .get(index)
            .copied()
            .flatten()
            .map(|n| self.file(n))
    }
}

/// Names that some importer takes for something else.
fn check_names(contents: &Contents) -> Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    for member in contents.disks.iter().chain(contents.discs).flatten() {
        let is_safe = !member.name.starts_with('.')
            && !member.name.is_empty()
            && member.name.len() <= 100
            && member
                .name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-+".contains(&b));
        if !is_safe || !seen.insert(&member.name) {
            return Err(
                Error::malformed("file name", "not a name for a member of a package")
                    .found(format!("{:?}", member.name))
                    .expected("letters, digits, . _ - +, each name once"),
            );
        }
    }
    Ok(())
}

fn references(out: &mut Writer, contents: &Contents, ids: &Ids) {
    out.open("References", &[]);
    let numbers = ids.disks.iter().chain(&ids.discs);
    let members = contents.disks.iter().chain(contents.discs);
    for (number, member) in numbers.zip(members) {
        if let (Some(number), Some(member)) = (number, member) {
            let attributes = [
                ("ovf:href", member.name.clone()),
                ("ovf:id", ids.file(*number)),
                ("ovf:size", member.size.to_string()),
            ];
            out.empty("File", &attributes);
        }
    }
    out.close("References");
}

/// The URI of a format, if importers know one.
fn uri(format: &DiskFormat) -> Result<&str> {
    Ok(match format {
        DiskFormat::VmdkStream => {
            "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
        }
        DiskFormat::Vmdk => {
            "http://www.vmware.com/interfaces/specifications/vmdk.html#monolithicSparse"
        }
        DiskFormat::Vhd => "http://www.microsoft.com/technet/virtualserver/downloads/vhdspec.mspx",
        DiskFormat::Qcow2 => "http://www.gnome.org/~markmc/qcow-image-format.html",
        DiskFormat::Raw => "http://en.wikipedia.org/wiki/Byte",
        DiskFormat::Iso => "http://www.ecma-international.org/publications/standards/Ecma-119.htm",
        DiskFormat::Other(uri) => uri,
        DiskFormat::Vhdx | DiskFormat::Vdi => {
            return Err(Error::unsupported(
                "OVF descriptor",
                "no importer takes disks of this format",
            )
            .found(format!("{format:?}")));
        }
    })
}

fn disk_section(out: &mut Writer, machine: &Machine, contents: &Contents, ids: &Ids) -> Result<()> {
    if machine.disks.is_empty() {
        return Ok(());
    }
    out.open("DiskSection", &[]);
    out.text("Info", "Virtual disks");
    for (index, (disk, member)) in machine.disks.iter().zip(contents.disks).enumerate() {
        let capacity = disk.image.capacity.ok_or_else(|| {
            Error::malformed(format!("disk {}", index + 1), "its size is not known")
        })?;
        let (count, unit) = spelled(capacity);
        let mut attributes = vec![("ovf:capacity", count.to_string())];
        attributes.extend(unit.map(|u| ("ovf:capacityAllocationUnits", u.to_owned())));
        attributes.push(("ovf:diskId", ids.disk(index)));
        attributes.extend(ids.disk_file(index).map(|id| ("ovf:fileRef", id)));
        attributes.push(("ovf:format", uri(&contents.format)?.to_owned()));
        let populated = member.as_ref().and_then(|m| m.populated);
        attributes.extend(populated.map(|p| ("ovf:populatedSize", p.min(capacity).to_string())));
        out.empty("Disk", &attributes);
    }
    out.close("DiskSection");
    Ok(())
}

/// Always with a description each: XenCenter and Xen Orchestra stumble over networks without.
fn network_section(out: &mut Writer, machine: &Machine, contents: &Contents) {
    let mut names: Vec<&str> = Vec::new();
    for name in machine.nics.iter().filter_map(|n| n.network.as_deref()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    if names.is_empty() {
        return;
    }
    out.open("NetworkSection", &[]);
    out.text("Info", "Networks");
    for name in names {
        let known = contents.networks.iter().find(|n| n.name == name);
        let description = known.and_then(|n| n.description.clone());
        out.open("Network", &[("ovf:name", name)]);
        out.text(
            "Description",
            &description.unwrap_or_else(|| format!("The {name} network")),
        );
        out.close("Network");
    }
    out.close("NetworkSection");
}

fn virtual_system(
    out: &mut Writer,
    machine: &Machine,
    plan: &Plan,
    ids: &Ids,
    written: &mut Written,
) {
    let id = machine.id.as_deref().unwrap_or(&machine.name);
    out.open("VirtualSystem", &[("ovf:id", id)]);
    out.text("Info", "A virtual machine");
    out.text("Name", &machine.name);
    operating_system(out, machine);
    hardware::write(out, machine, plan, ids, written);
    if let Some(description) = &machine.description {
        out.open("AnnotationSection", &[]);
        out.text("Info", "A description");
        out.text("Annotation", description);
        out.close("AnnotationSection");
    }
    for eula in &machine.extra.eulas {
        out.open("EulaSection", &[]);
        out.text("Info", "A licence");
        out.text("License", eula);
        out.close("EulaSection");
    }
    let products = machine.extra.products.iter();
    let products = products.map(|p| (p.name.as_deref().unwrap_or("ProductSection"), &p.xml));
    let sections = machine
        .extra
        .sections
        .iter()
        .map(|s| (s.name.as_str(), &s.xml));
    for (name, xml) in products.chain(sections) {
        kept(out, name, xml, written);
    }
    out.close("VirtualSystem");
}

fn operating_system(out: &mut Writer, machine: &Machine) {
    let os = &machine.guest_os;
    let mut attributes = vec![("ovf:id", os.cim_or_other().to_string())];
    attributes.extend(os.version.clone().map(|v| ("ovf:version", v)));
    attributes.push(("vmw:osType", os.vmware_or_other()));
    out.open_owned("OperatingSystemSection", &attributes);
    out.text("Info", "The operating system");
    out.text("Description", &os.describe());
    out.close("OperatingSystemSection");
}

/// Puts a section in as it was written, if it is one element of OVF 1.x or of somebody else's.
fn kept(out: &mut Writer, name: &str, xml: &str, written: &mut Written) {
    match Document::parse(xml.to_owned(), name) {
        Ok(document) if is_welcome(&document) => out.raw(xml),
        _ => written.note(format!(
            "section \"{}\" is left out: it is not of OVF 1.x",
            crate::text::shown(name)
        )),
    }
}

fn is_welcome(document: &Document) -> bool {
    let namespace = document.root().namespace();
    let is_other_version = super::names::standard(namespace).is_some() && namespace != OVF_1;
    !namespace.is_empty() && !is_other_version && document.undeclared_prefixes().is_empty()
}

#[cfg(test)]
mod tests;
