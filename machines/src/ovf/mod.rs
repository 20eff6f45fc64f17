//! OVF descriptors: DSP0243 in its versions 0.9, 1.x and 2.x, in the dialect of every product.
//!
//! ```text
//! Envelope ─ References        which files there are                          references.rs
//!          ─ DiskSection       disks: size, format, file, parent              disk_section.rs
//!          ─ NetworkSection    names of networks                              sections.rs
//!          ─ VirtualSystem     one machine                                    system.rs
//!              ─ VirtualHardwareSection: System, Item…                        item.rs → hardware.rs, drives.rs
//!              ─ OperatingSystemSection, ProductSection, AnnotationSection …  sections.rs
//!              ─ what products add: vmw:Config, vbox:Machine, xenovf:…        foreign.rs
//! ```
//!
//! Reading is generous: a descriptor that can be understood is read, and where it is not what DSP0243 and ovftool ask for
//! goes to [`Package::violations`]. What is ambiguous about disks is an error.

mod disk_section;
mod drives;
mod envelope;
mod foreign;
mod formats_uri;
mod hardware;
mod item;
mod names;
mod references;
mod sections;
mod system;
#[cfg(test)]
mod tests;
mod writer;

use formats::Result;

pub use writer::{Contents, Member, write};

use crate::package::Package;
use crate::text::{decode_xml, shown};
use crate::xml::Document;

/// What a descriptor is called in errors.
const WHAT: &str = "OVF descriptor";

/// Reads a descriptor.
///
/// # Errors
/// `Malformed` for what is not well-formed or contradicts itself, `Unsupported` for versions and encodings that are not
/// known, `Refused` for DTDs and entities, `Limit` above 16 MiB, 64 levels and the other caps.
pub fn read(bytes: &[u8]) -> Result<Package> {
    let document = Document::parse(decode_xml(bytes, WHAT)?, WHAT)?;
    let mut package = envelope::read(document.root())?;
    for prefix in document.undeclared_prefixes() {
        let told = format!("the prefix \"{}\" is declared nowhere", shown(prefix));
        package.violations.push(told);
    }
    Ok(package)
}
