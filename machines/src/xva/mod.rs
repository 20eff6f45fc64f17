//! XVA: the `ova.xml` in front of an export of XenServer and XCP-ng. The blocks behind it are not this crate's.
//!
//! A bare XML-RPC value: `version` says which xapi wrote it, `objects` holds the rows of xapi's database that belong to the
//! machine, each with its class, its reference (`Ref:3`) and its fields.
//!
//! ```text
//!   VM ◄── VBD ──► VDI ──► SR        a disk: the VBD says where it hangs, the VDI how large it is
//!      ◄── VIF ──► network           an adapter
//! ```
//!
//! | file | what it holds |
//! |---|---|
//! | `value.rs` | XML-RPC values |
//! | `objects.rs` | the rows by class and reference |
//! | `read.rs` | from rows to machines |
//! | `fields.rs`, `vm.rs`, `write.rs` | every field that xapi asks for, and back |

mod fields;
mod objects;
mod read;
#[cfg(test)]
mod tests;
mod value;
mod vm;
mod write;

pub use read::read;
pub use value::Value;
pub use write::{Exported, Vdi, write};

use crate::package::Package;

/// What an `ova.xml` is called in errors.
const WHAT: &str = "ova.xml";

/// The reference that stands for no object.
const NULL: &str = "OpaqueRef:NULL";

/// Key of a VBD's `other_config` under which the controller of the source is kept: `scsi0:1/lsilogic`.
const ATTACHMENT: &str = "diskferry-attachment";

/// An `ova.xml` that was read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Appliance {
    /// Who wrote it.
    pub version: Version,
    /// The machines. Their disks are named by the reference of their VDI (`image.id`).
    pub package: Package,
    /// The disks whose blocks follow, in the order in which they follow.
    pub streamed: Vec<Streamed>,
}

/// Who wrote an export.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Version {
    /// `XenServer`, `XCP-ng`.
    pub product: String,
    /// `8.2.1`.
    pub product_version: String,
    /// Version of the database; a host refuses what is newer than its own.
    pub xapi: (u64, u64),
    /// 2 where each block has its checksum behind it; less where a table at the end has them.
    pub export: u64,
}

/// A disk whose blocks are in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Streamed {
    /// Its reference: the folder of its blocks.
    pub reference: String,
    /// Size in bytes.
    pub virtual_size: u64,
    /// Whether it holds the memory of a suspended machine.
    pub is_suspend: bool,
}
