//! Packages built by hand, without anything of diskferry's own: OVAs, OVF folders and XVAs as others write them.

pub mod descriptor;
pub mod disks;
mod items;
pub mod ova;
pub mod ova_xml;
pub mod refusal;
pub mod tarball;
pub mod xva;

// Each test file uses a part of this.
#[allow(unused_imports)]
pub use descriptor::{Bus, Dialect};
#[allow(unused_imports)]
pub use ova::{Algorithm, Grammar, Package, gzip, hex, tar_of, zstd};
#[allow(unused_imports)]
pub use tarball::{Archive, Header, Tar};
#[allow(unused_imports)]
pub use xva::{Sum, Xva};

/// Name and content of a file.
pub type Member = (String, Vec<u8>);
pub type Members = Vec<Member>;

/// SHA-256 of a disk's content.
pub fn sha256(bytes: &[u8]) -> String {
    Algorithm::Sha256.hex(bytes)
}
/// Contents of two disks.
pub fn contents() -> Vec<Vec<u8>> {
    vec![disks::content(1, 9), disks::content(5, 3)]
}
