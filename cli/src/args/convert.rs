//! Arguments of `convert`.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::changing::{NewSize, new_size};
use super::{DigestAlgorithm, Output, Reading};

/// Make a copy of a disk in another format, or of a machine in another package.
///
/// The copy is written beside its name and put in place when it is complete and on stable storage. DST may be a block
/// device (-O raw), or - for standard output (raw, fixed VHD, streamOptimized VMDK, OVA, XVA). Of a package, the one disk
/// (or --disk N) is converted; a folder as DST takes all of them.
#[derive(Debug, Args)]
pub struct Convert {
    /// The image or package to read
    pub source: PathBuf,
    /// The image or package to make; none with --replace
    #[arg(required_unless_present = "replace", conflicts_with = "replace")]
    target: Option<PathBuf>,
    /// Format of SRC: raw, vhd, vhdx, vmdk, qcow2, vdi, ova, ovf, xva, vmx or toml; without it, what the content says
    #[arg(short = 'f', long, value_name = "FMT")]
    pub source_format: Option<String>,
    /// Format of DST, also ova, ovf, xva or vmx; without it, what its extension says
    #[arg(short = 'O', long, value_name = "FMT")]
    pub target_format: Option<String>,
    /// Options of the target format, or of the disks in a package; "-o help" lists them
    #[arg(short = 'o', long = "options", value_name = "KEY=VALUE,…")]
    pub options: Vec<String>,
    /// Make what this product takes: esxi-5, esxi-6.7, esxi-7, esxi-8, vsphere, xenserver, xcp-ng, hyper-v, azure,
    /// virtualbox, proxmox, ganeti, nutanix or kvm
    #[arg(long = "for", value_name = "PRODUCT")]
    pub profile: Option<String>,
    /// Compress: qcow2 clusters, or a VMDK as streamOptimized
    #[arg(short = 'c', long)]
    pub compress: bool,
    /// Write an overlay (qcow2, VHD, VHDX): only what differs from this image, which DST will name. A relative name starts
    /// at DST's folder
    #[arg(short = 'B', long, value_name = "IMAGE")]
    pub backing: Option<String>,
    /// Format of the image below; without it, what its content says
    #[arg(short = 'F', long, value_name = "FMT", requires = "backing")]
    pub backing_format: Option<String>,
    /// Convert every layer of a chain into the folder DST, each as an overlay of the next (qcow2, VHD or VHDX). They keep
    /// their names, with another extension; what a layer does not define is not read
    #[arg(long, conflicts_with_all = ["replace", "backing", "profile", "salvage", "layer", "size", "fix_gpt", "receipt"])]
    pub keep_chain: bool,
    /// Zeros of at least this size are not stored; 0 stores everything
    #[arg(short = 'S', long, value_name = "SIZE")]
    pub sparse: Option<String>,
    /// Make the disk this large (20G), or larger by so much (+10G): what is added reads as zeros
    #[arg(long, value_name = "SIZE", value_parser = new_size)]
    pub size: Option<NewSize>,
    /// With --size: let the disk become smaller, if nothing lies behind the new end
    #[arg(long, requires = "size")]
    pub shrink: bool,
    /// Move the copy of a GPT to where the disk ends by now
    #[arg(long)]
    pub fix_gpt: bool,
    /// Read the target back and compare it with what was read; prints the BLAKE3 of the guest content
    #[arg(long)]
    pub verify: bool,
    /// Compute a digest of the guest content on the way
    #[arg(long, value_name = "ALG")]
    pub digest: Option<DigestAlgorithm>,
    /// Write down what DST was made from, so that "apply" can bring a delta on SRC after it: into DST.receipt.json, or into
    /// this file
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, conflicts_with_all = ["replace", "backing", "size", "salvage", "layer", "snapshot"])]
    pub receipt: Option<Option<PathBuf>>,
    /// Replace DST if it exists
    #[arg(long)]
    pub force: bool,
    /// Put the new image in the place of SRC: written beside it, verified, swapped by name with its ids kept, the old one
    /// removed only then. Zeros are dropped on the way. Without -O and -o it is of the same kind as before. Images
    /// elsewhere that stand on SRC are not known: only those beside it are looked for
    #[arg(long, conflicts_with_all = ["force", "backing", "salvage", "size", "fix_gpt", "layer"])]
    pub replace: bool,
    /// With --replace: make a fixed VHD dynamic within its own file, where there is no room for both (-o subformat=dynamic).
    /// Needs tables, 4 KiB for each 2 MiB and a few blocks. If it is stopped, by whatever, the file is half converted and
    /// refused by every verb until the same command has run to its end
    #[arg(long, requires = "replace", conflicts_with_all = ["target", "keep_old", "profile", "compress", "sparse", "digest",
        "recompress", "no_reflink", "layer", "keep_chain"])]
    pub in_place: bool,
    /// Keep the old image as SRC.old
    #[arg(long, requires = "replace")]
    pub keep_old: bool,
    /// Make ids and times from the content (or SOURCE_DATE_EPOCH): same disk, same bytes
    #[arg(long)]
    pub reproducible: bool,
    /// Copy the bytes also where the file system could share them
    #[arg(long)]
    pub no_reflink: bool,
    /// Compress again what the source holds compressed already, rather than pass it through
    #[arg(long)]
    pub recompress: bool,
    #[command(flatten)]
    pub packaging: Packaging,
    #[command(flatten)]
    pub reading: Reading,
    #[command(flatten)]
    pub output: Output,
}

impl Convert {
    /// The image or package to make; nothing with `--replace`.
    pub fn target(&self) -> &Path {
        self.target.as_deref().unwrap_or(Path::new(""))
    }
}

/// How a package is made.
#[derive(Debug, Args)]
#[command(next_help_heading = "Packages")]
pub struct Packaging {
    /// Take the machine from this TOML file; "info --toml" prints one
    #[arg(long, value_name = "FILE.toml")]
    pub machine: Option<PathBuf>,
    /// Call the machine this
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Give it so many CPUs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub cpus: Option<u32>,
    /// Give it so much memory
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub memory: Option<u64>,
    /// Start it with this firmware: bios or efi
    #[arg(long, value_name = "FIRMWARE", value_parser = firmware)]
    pub firmware: Option<machines::machine::Firmware>,
    /// Give it an adapter in this network (may be repeated; these replace the ones it has)
    #[arg(long, value_name = "NETWORK")]
    pub nic: Vec<String>,
    /// Digest of an OVF package's manifest: sha1, sha256 (default), sha512, or none for no manifest
    #[arg(long, value_name = "ALG", value_parser = manifest)]
    pub manifest: Option<Manifest>,
    /// Sign the manifest with this key (PEM, not encrypted)
    #[arg(long, value_name = "KEY.pem", requires = "cert")]
    pub sign: Option<PathBuf>,
    /// The certificate of the key, and those of its issuers (PEM)
    #[arg(long, value_name = "CERT.pem", requires = "sign")]
    pub cert: Option<PathBuf>,
    /// Checksums of an XVA: sha1, which every version reads (default), or xxhash
    #[arg(long, value_name = "ALG")]
    pub checksum: Option<BlockChecksum>,
}

/// Digest of a manifest.
#[derive(Debug, Clone, Copy)]
pub enum Manifest {
    /// There is none.
    None,
    /// Of this algorithm.
    Digest(machines::manifest::Algorithm),
}

/// Checksums of blocks by their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BlockChecksum {
    /// SHA-1
    Sha1,
    /// XXH64
    Xxhash,
}

pub fn size(text: &str) -> Result<u64, String> {
    let size = formats::options::parse_size(text).filter(|size| *size > 0);
    size.ok_or_else(|| "a size like 4G".to_owned())
}

fn firmware(text: &str) -> Result<machines::machine::Firmware, String> {
    machines::machine::Firmware::by_name(text).ok_or_else(|| "bios or efi".to_owned())
}

fn manifest(text: &str) -> Result<Manifest, String> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(Manifest::None);
    }
    let algorithm = machines::manifest::Algorithm::by_name(text);
    let algorithm = algorithm.ok_or_else(|| "sha1, sha256, sha512 or none".to_owned())?;
    Ok(Manifest::Digest(algorithm))
}
