//! Writing packages: the description, and the disks in one pass.
//!
//! | file | what it writes |
//! |---|---|
//! | `xva.rs` | an export of XenServer: description first, then the blocks of each disk |
//! | `ova.rs` | an archive: room is kept in front for what is known only at the end |
//! | `folder.rs` | a folder: files that appear together |
//! | `adapter.rs` | what disks hang on, as VMDK descriptors say it |
//! | `images.rs` | the disks alone, in a folder |
//! | `texts.rs` | descriptor, manifest and certificate |
//! | `member.rs` | one disk or disc as a file of a package |

mod adapter;
mod folder;
mod images;
mod member;
mod ova;
mod texts;
mod xva;

use formats::xva::Checksum;
use formats::{Image, StorageRef};
use machines::Machine;
use machines::manifest::Algorithm;
use machines::package::Network;
use machines::profiles::Profile;
use transfer::digest::Algorithm as DigestAlgorithm;
use transfer::same_storage::Sources;
use transfer::{Condition, CopyOptions};

use crate::integrity::Pending;

pub use adapter::adapter;
pub use folder::{ovf, vmx};
pub use images::images;
pub use member::format_of;
pub use ova::ova;
pub use xva::xva;

/// A machine with its disks.
pub struct Input {
    /// The machine. Capacities of its disks are those of the images.
    pub machine: Machine,
    /// Networks that are described.
    pub networks: Vec<Network>,
    /// Its disks, in order.
    pub disks: Vec<DiskIn>,
    /// The disc in each of its CD drives, in order.
    pub discs: Vec<Option<DiscIn>>,
}

/// A disk of a machine.
pub struct DiskIn {
    /// Its content.
    pub image: Image,
    /// Whether nothing was ever written to it, so that it needs no file.
    pub is_blank: bool,
    /// What it hangs on, in the words of VMDK descriptors, where somebody cares.
    pub adapter: Option<&'static str>,
    /// Digests that its files should have.
    pub pending: Vec<Pending>,
}

/// A disc in a drive.
pub struct DiscIn {
    /// Its content.
    pub storage: StorageRef,
    /// Digests that it should have.
    pub pending: Vec<Pending>,
}

impl Input {
    /// What is read for it: none of it may be written to.
    fn sources(&self, options: &WriteOptions<'_>) -> Sources {
        let mut sources = options.copy.sources.clone();
        self.disks.iter().for_each(|disk| disk.add_to(&mut sources));
        let discs = self.discs.iter().flatten();
        sources.extend(discs.map(|disc| disc.storage.path()));
        sources
    }
}

impl DiskIn {
    fn add_to(&self, sources: &mut Sources) {
        sources.extend(self.image.storages.iter().map(|storage| storage.path()));
    }
}

/// How a package is written.
pub struct WriteOptions<'a> {
    /// Whom it is for.
    pub profile: &'static Profile,
    /// How disks are copied.
    pub copy: CopyOptions,
    /// Options of the disks' format: `key=value`.
    pub disk_options: Vec<String>,
    /// The subformat of images in a folder, where the options do not say it.
    pub subformat: &'static str,
    /// Whether images in a folder are compressed.
    pub compress: bool,
    /// Unit in bytes that disks are rounded up to.
    pub size_multiple: u64,
    /// Digest of the manifest; without one there is no manifest.
    pub manifest: Option<Algorithm>,
    /// Who signs it.
    pub signing: Option<Signing>,
    /// Checksum of the blocks of an XVA.
    pub checksum: Checksum,
    /// Time of all files, in seconds since 1970.
    pub unix_time: u64,
    /// What ids are made from where they are not made from the content of a disk.
    pub seed: Vec<u8>,
    /// Starts to compute digests, and answers the condition that they are right.
    pub watch: &'a dyn Fn(Vec<Pending>) -> Option<Condition>,
}

/// A key and its certificate.
pub struct Signing {
    /// The key, in PEM.
    pub key: String,
    /// The certificate, and those of its issuers, in PEM.
    pub certificate: String,
}

/// A package that was written.
#[derive(Debug, Default)]
pub struct Made {
    /// What could not be carried over, and what was changed.
    pub notes: Vec<String>,
    /// Bytes of all files.
    pub file_size: u64,
    /// The disks, in order.
    pub disks: Vec<DiskOut>,
}

/// A disk that was written.
#[derive(Debug)]
pub struct DiskOut {
    /// The file or the folder of its blocks.
    pub name: String,
    /// Guest-visible size of the source in bytes.
    pub source_size: u64,
    /// Guest-visible size in the package, in bytes.
    pub target_size: u64,
    /// Bytes that it takes in the package.
    pub stored: u64,
    /// Guest bytes that hold data.
    pub data_bytes: u64,
    /// Guest bytes that are zero.
    pub zero_bytes: u64,
    /// The digests asked for.
    pub digests: Vec<(DigestAlgorithm, String)>,
    /// The BLAKE3 that verifying yields besides.
    pub verified_digest: Option<String>,
}

impl DiskOut {
    fn new(name: String, source_size: u64, copied: transfer::Copied, stored: u64) -> DiskOut {
        DiskOut {
            name,
            source_size,
            target_size: copied.target_size,
            stored,
            data_bytes: copied.outcome.data_bytes,
            zero_bytes: copied.outcome.zero_bytes,
            digests: copied.outcome.digests,
            verified_digest: copied.outcome.affordable_digest,
        }
    }
}
