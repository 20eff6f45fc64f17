//! What a virtual machine is: descriptions in, descriptions out.
//!
//! Every hypervisor describes the same few facts in a text of its own. Here each of them is read into one neutral
//! [`machine::Machine`], and written from it. Nothing here opens a file, unpacks an archive or moves a byte of a disk: who calls brings
//! the text, and learns which files it names.
//!
//! ```text
//!   .ovf  ─────────────┐                                  ┌── OVF 1.x
//!   .vmx  ─────────────┤                                  ├── .vmx
//!   ova.xml ───────────┼──► Package { Machine…, files } ──┼── ova.xml
//!   .toml ─────────────┘            notes, violations     └── .toml
//! ```
//!
//! **Descriptions are hostile.** Texts have caps on size, depth and number; XML has no DTD and no entities; numbers are
//! checked; a file name is a [`href::Href`], which only gives out what stays beside the description.
//!
//! **Nothing is lost in silence.** What a machine has no field for is kept in [`machine::Extra`] for whoever understands it, and
//! what cannot be said is told in `notes`.
//!
//! | module | what it holds |
//! |---|---|
//! | [`machine`], [`package`] | the neutral description; several of them with their files |
//! | [`ovf`] | OVF 0.9, 1.x and 2.x read, 1.x written |
//! | [`vmx`] | VMX files |
//! | [`xva`] | the `ova.xml` of XVA exports |
//! | [`toml_file`] | machines written by hand |
//! | [`manifest`], [`certificate`] | digests of a package's files, and the signature over them |
//! | [`profiles`] | the targets of `--for`, one row each |
//! | [`models`], [`guest_os`] | chips and operating systems, and how everybody spells them |
//! | [`placement`] | where each disk hangs |
//! | [`href`], [`units`], [`text`] | file names, sizes and encodings as descriptions write them |
//! | [`xml`] | a tree of elements that is safe to make of anything |

pub mod certificate;
pub mod guest_os;
pub mod href;
pub mod machine;
pub mod manifest;
pub mod models;
pub mod ovf;
pub mod package;
pub mod placement;
pub mod profiles;
pub mod text;
pub mod toml_file;
pub mod units;
pub mod vmx;
mod written;
pub mod xml;
pub mod xva;

pub use formats::{Error, ErrorKind, Result};
pub use machine::Machine;
pub use package::Package;
pub use written::Written;
