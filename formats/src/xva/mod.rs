//! The blocks of the disks in an XVA, the export of XenServer and XCP-ng: what follows `ova.xml` in the archive.
//!
//! ```text
//!  ┌─────────┬──────────────┬───────────────────────┬──────────────┬───────────────────────┬───
//!  │ ova.xml │ Ref:3/       │ Ref:3/                │ Ref:3/       │ Ref:3/                │ …   members of a tar
//!  │         │ 00000000     │ 00000000.checksum     │ 00000007     │ 00000007.checksum     │
//!  └─────────┴──────────────┴───────────────────────┴──────────────┴───────────────────────┴───
//!              1 MiB          SHA-1 in hexadecimal    blocks 1 to 6 are zeros
//! ```
//!
//! Each block is followed by its checksum, SHA-1 or XXH64. Blocks of zeros are left out, but never the first one nor the
//! last one. An empty block is a sign of life that an export gives when it has nothing to send for some seconds; it
//! takes a number, but no place on the disk.
//!
//! The facts are those of xapi (`stream_vdi.ml`).
//!
//! | module | what it holds |
//! |---|---|
//! | [`checksum`] | the two checksums |
//! | [`index`] | where the blocks of each disk stand |
//! | [`source`] | the map of a disk |
//! | [`target`] | a disk as blocks |

pub mod checksum;
pub mod index;
pub mod source;
pub mod target;

pub use checksum::Checksum;
pub use index::{Disk, Index, check_disks};
pub use source::XvaSource;
pub use target::XvaTarget;

/// Bytes of a block.
pub const BLOCK: u64 = 1 << 20;

/// The member that comes first.
pub const DESCRIPTION: &str = "ova.xml";
