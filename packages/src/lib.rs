//! Packages of virtual machines: from an archive or a folder to machines and disks, and back.
//!
//! `machines` knows the descriptions, `formats` the images, `transfer` moves the bytes. Here they meet: which file of a
//! package holds which disk, whether its digest is right, and in which order everything is written.
//!
//! ```text
//!   web.ova ── files ──► description ──► machines ─┐                        ┌─► ova.xml, blocks   (XVA)
//!   web.xva     │           │ seal                 ├─► Plan ── transfer ──►─┼─► .ovf, .mf, disks  (OVA, OVF)
//!   web.vmx     └─────────► disks: BlockSources ───┘                        └─► disks
//! ```
//!
//! Nothing is unpacked to disk: members of an archive are read where they stand. Digests of the manifest are computed
//! while the disks are converted, and nothing appears that they do not vouch for.
//!
//! | module | what it does |
//! |---|---|
//! | [`kind`] | what sort of package a file is |
//! | [`files`] | the files of a package by their names |
//! | [`opened`], [`disks`], [`choice`] | a package that was opened; the disks in it; picking machines and disks |
//! | [`packed`] | files that are packed as a whole |
//! | [`seal`], [`integrity`] | manifest and certificate; digests beside the conversion |
//! | [`mod@write`] | packages that are written |

pub mod choice;
pub mod disks;
pub mod files;
pub mod integrity;
pub mod kind;
pub mod opened;
pub mod packed;
pub mod seal;
pub mod write;

use formats::{Error, Result, StorageRef};

pub use choice::Choice;
pub use disks::PackageDisk;
pub use kind::{Kind, recognise};
pub use opened::{Opened, open};

/// Longest description, in bytes.
const TEXT_MAX: u64 = 16 << 20;

/// All of a small file.
fn read_text(storage: &StorageRef) -> Result<Vec<u8>> {
    read_at_most(storage, TEXT_MAX, "description")
}

/// All of a file of at most `max` bytes, which is a `what`.
fn read_at_most(storage: &StorageRef, max: u64, what: &'static str) -> Result<Vec<u8>> {
    if storage.len() > max {
        return Err(Error::limit(what, "is too long")
            .found(format!("{} bytes", storage.len()))
            .expected(format!("at most {max}"))
            .in_file(storage.path()));
    }
    let mut bytes = vec![0; storage.len() as usize];
    storage.read_at(&mut bytes, 0)?;
    Ok(bytes)
}
