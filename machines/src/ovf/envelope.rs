//! The envelope: which sections stand where, and what all machines of a package share.

use std::collections::{BTreeSet, HashMap, HashSet};

use formats::{Error, Result};

use super::disk_section::Disks;
use super::names::{filled, is_ovf, is_required, name_in_1, standard};
use super::{WHAT, foreign, references, sections, system};
use crate::machine::{FileReference, Section};
use crate::package::{Collection, Package};
use crate::text::{clean_name, shown};
use crate::xml::Element;

/// What machines of a package share while it is read.
#[derive(Debug, Default)]
pub(super) struct Context {
    files: Vec<FileReference>,
    /// Where among them that with an id is.
    files_by_id: HashMap<String, usize>,
    pub disks: Disks,
    /// The deployment configuration that counts.
    pub configuration: Option<String>,
    /// Texts by `msgid`, in the first language there is.
    pub strings: HashMap<String, String>,
    pub used_disks: BTreeSet<String>,
    pub used_networks: BTreeSet<String>,
    /// Ids of the machines so far.
    pub machines: BTreeSet<String>,
    /// How many there are, also without an id.
    pub count: usize,
    violations: Vec<String>,
}

impl Context {
    /// The file with this id.
    pub fn file(&self, id: &str) -> Option<&FileReference> {
        let index = self.files_by_id.get(id)?;
        self.files.get(*index)
    }

    fn add_files(&mut self, files: Vec<FileReference>) {
        for file in files {
            let index = self.files.len();
            if let Some(id) = &file.id {
                self.files_by_id.entry(id.clone()).or_insert(index);
            }
            self.files.push(file);
        }
    }

    /// Something that the standard or ovftool does not allow, but that can be read.
    pub fn violation(&mut self, text: String) {
        if self.violations.len() < MAX_VIOLATIONS && !self.violations.contains(&text) {
            self.violations.push(text);
        }
    }

    /// The text of an element, or of the message that it names instead.
    pub fn text<'c>(&'c self, element: Element<'c>) -> &'c str {
        if !element.text().is_empty() {
            return element.text();
        }
        filled(element, "msgid")
            .and_then(|id| self.strings.get(id))
            .map_or("", |t| t)
    }
}

/// A descriptor that is wrong everywhere says so often enough.
const MAX_VIOLATIONS: usize = 1000;

/// Reads the envelope and everything in it.
pub(super) fn read(root: Element) -> Result<Package> {
    let standard = standard_of(root)?;
    let mut context = Context::default();
    let mut package = Package {
        standard: standard.to_owned(),
        ..Package::default()
    };
    shared(root, &mut context, &mut package)?;
    let mut has_content = false;
    for child in root.children().filter(is_ovf) {
        match name_in_1(child) {
            "VirtualSystem" => {
                has_content = true;
                let machine = system::read(child, &mut context)?;
                package.machines.push(machine);
            }
            "VirtualSystemCollection" => {
                has_content = true;
                collection(child, &mut context, &mut package)?;
            }
            _ => {}
        }
    }
    if !has_content {
        return Err(Error::malformed(WHAT, "no VirtualSystem in it"));
    }
    finish(root, context, package)
}

fn standard_of(root: Element) -> Result<&'static str> {
    let namespace = root.namespace();
    if root.name() != "Envelope" {
        return Err(Error::malformed(WHAT, "not a descriptor")
            .found(format!("<{}>", shown(root.name())))
            .expected("<Envelope>"));
    }
    let Some(standard) = standard(namespace) else {
        return Err(
            Error::unsupported(WHAT, "a version of OVF that nobody knows")
                .found(format!("{namespace:?}"))
                .expected("0.9, 1.x or 2.x"),
        );
    };
    // VMware's draft says its version; of the standards, few files do.
    let is_known = |version: &str| match standard {
        "OVF 0.9" => version == "0.9",
        _ => ["0.9", "1.", "2."]
            .iter()
            .any(|known| version.starts_with(known)),
    };
    if let Some(version) = filled(root, "version").filter(|v| !is_known(v)) {
        return Err(
            Error::unsupported(WHAT, "a version of OVF that nobody knows")
                .found(format!("{version:?}"))
                .expected("0.9, 1.x or 2.x"),
        );
    }
    Ok(standard)
}

/// What is about the whole package: files, disks, networks, configurations, texts.
fn shared(root: Element, context: &mut Context, package: &mut Package) -> Result<()> {
    for child in root.children().filter(is_ovf) {
        if child.name() == "References" {
            let files = references::read(child, &mut context.violations)?;
            context.add_files(files);
        }
        if child.name() == "Strings" && context.strings.is_empty() {
            context.strings = sections::strings(child);
        }
    }
    let properties = sections::property_values(root);
    let property = |key: &str| properties.get(key).cloned();
    for child in root.children() {
        let name = name_in_1(child);
        if is_section(child) {
            check_info(child, context);
        }
        match name {
            "DiskSection" if is_ovf(&child) => {
                let mut disks = std::mem::take(&mut context.disks);
                disks.read(child, &context.files, &property, &mut context.violations)?;
                context.disks = disks;
            }
            "NetworkSection" if is_ovf(&child) => {
                let networks = sections::networks(child, context)?;
                package.networks.extend(networks);
            }
            "DeploymentOptionSection" if is_ovf(&child) => {
                context.configuration = sections::chosen_configuration(child, &mut package.notes);
                package.sections.push(kept(child)?);
            }
            "VirtualHardwareSection" | "OperatingSystemSection" if is_ovf(&child) => {
                context.violation(format!("{name} stands outside of a VirtualSystem"));
                package.sections.push(kept(child)?);
            }
            "References" | "VirtualSystem" | "VirtualSystemCollection" => {}
            _ => package.sections.push(kept(child)?),
        }
    }
    Ok(())
}

fn is_section(element: Element) -> bool {
    name_in_1(element).ends_with("Section") && is_ovf(&element)
}

/// Every section and content begins with an `Info`.
pub(super) fn check_info(element: Element, context: &mut Context) {
    let has_info = element.children().any(|c| is_ovf(&c) && c.name() == "Info");
    if !has_info {
        let name = shown(name_in_1(element));
        context.violation(format!("{name} in line {} has no Info", element.line()));
    }
}

/// An element as it was written.
pub(super) fn kept(element: Element) -> Result<Section> {
    Ok(Section {
        name: name_in_1(element).to_owned(),
        required: is_required(element),
        xml: element.fragment()?,
    })
}

/// A collection: its machines, those of collections inside, and what is said of it.
fn collection(element: Element, context: &mut Context, package: &mut Package) -> Result<()> {
    check_info(element, context);
    let id = filled(element, "id").unwrap_or_default();
    if id.is_empty() {
        context.violation("VirtualSystemCollection has no id".to_owned());
    }
    let mut own = Collection {
        id: clean_name(id, "id of a collection")?,
        name: match element.child_text("Name") {
            Some(name) => Some(clean_name(name, "name of a collection")?),
            None => None,
        },
        sections: Vec::new(),
    };
    for child in element.children() {
        match name_in_1(child) {
            "VirtualSystem" if is_ovf(&child) => {
                let machine = system::read(child, context)?;
                package.machines.push(machine);
            }
            "VirtualSystemCollection" if is_ovf(&child) => {
                package.notes.push(format!(
                    "collection \"{}\" is inside of another: its machines are listed with the others",
                    shown(filled(child, "id").unwrap_or_default())
                ));
                collection(child, context, package)?;
            }
            "Info" | "Name" => {}
            _ => {
                if is_section(child) {
                    check_info(child, context);
                }
                own.sections.push(kept(child)?);
            }
        }
    }
    // Of collections in collections, the outermost counts.
    package.collection = Some(own);
    Ok(())
}

/// What can only be told when everything was read.
fn finish(root: Element, mut context: Context, mut package: Package) -> Result<Package> {
    let networks: HashSet<&str> = package.networks.iter().map(|n| n.name.as_str()).collect();
    for name in std::mem::take(&mut context.used_networks) {
        if !networks.contains(name.as_str()) {
            let name = shown(&name);
            context.violation(format!("network \"{name}\" is not in the NetworkSection"));
        }
    }
    let parents: BTreeSet<&str> = parents(&package);
    let unused: Vec<&str> = context
        .disks
        .ids()
        .filter(|id| !context.used_disks.contains(*id) && !parents.contains(id))
        .collect();
    for id in unused {
        package
            .notes
            .push(format!("disk \"{}\" belongs to no machine", shown(id)));
    }
    foreign::ganeti(root, &mut package);
    package.producer = foreign::producer(root, &package).map(str::to_owned);
    package.files = context.files;
    package.violations = context.violations;
    Ok(package)
}

/// Ids of disks that others stand on.
fn parents(package: &Package) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    for disk in package.machines.iter().flat_map(|m| &m.disks) {
        let mut next = disk.image.parent.as_deref();
        while let Some(image) = next {
            found.extend(image.id.as_deref());
            next = image.parent.as_deref();
        }
    }
    found
}
