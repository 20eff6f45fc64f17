//! The command line, defined once: help, man page and completions are made from this.

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// Carries the disks of virtual machines from one hypervisor to another.
///
/// Reads and writes raw, VHD, VHDX, VMDK, qcow2 and VDI images, and OVA, OVF, XVA and VMX packages. Zeros are skipped, all cores are used, and the target
/// appears whole or not at all. Exit codes: 0 done; 1 different (compare) or damaged (check); 2 usage; 3 image malformed or unsupported; 4 I/O error;
/// 5 refused for safety; 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "diskferry", version, max_term_width = 110)]
pub struct Arguments {
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    Convert(Box<Convert>),
    Info(Info),
    Map(Map),
    Measure(Measure),
    Check(Check),
    Resize(Resize),
    Compare(Compare),
    Digest(Digest),
    /// Print the completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page (roff)
    Man,
}

impl Verb {
    /// Whether the result is wanted as JSON.
    pub fn json(&self) -> bool {
        match self {
            Verb::Convert(v) => v.output.json,
            Verb::Info(v) => v.json,
            Verb::Map(v) => v.json,
            Verb::Measure(v) => v.output.json,
            Verb::Check(v) => v.output.json,
            Verb::Resize(v) => v.json,
            Verb::Compare(v) => v.output.json,
            Verb::Digest(v) => v.output.json,
            Verb::Completions { .. } | Verb::Man => false,
        }
    }
}

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
    /// Write an overlay: only what differs from this image, which DST will name. A relative name starts at DST's folder
    #[arg(short = 'B', long, value_name = "IMAGE")]
    pub backing: Option<String>,
    /// Format of the image below; without it, what its content says
    #[arg(short = 'F', long, value_name = "FMT", requires = "backing")]
    pub backing_format: Option<String>,
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
    /// Replace DST if it exists
    #[arg(long)]
    pub force: bool,
    /// Put the new image in the place of SRC: written beside it, verified, swapped by name with its ids kept, the old one
    /// removed only then. Zeros are dropped on the way. Without -O and -o it is of the same kind as before. Images
    /// elsewhere that stand on SRC are not known: only those beside it are looked for
    #[arg(long, conflicts_with_all = ["force", "backing", "salvage", "size", "fix_gpt"])]
    pub replace: bool,
    /// With --replace: make a fixed VHD dynamic within its own file, where there is no room for both (-o subformat=dynamic).
    /// Needs tables, 4 KiB for each 2 MiB and a few blocks. If it is stopped, by whatever, the file is half converted and
    /// refused by every verb until the same command has run to its end
    #[arg(long, requires = "replace", conflicts_with_all = ["target", "keep_old", "profile", "compress", "sparse", "digest",
        "recompress", "no_reflink"])]
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

fn size(text: &str) -> Result<u64, String> {
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

/// Show what an image is, or a package and the machines in it.
#[derive(Debug, Args)]
pub struct Info {
    /// The image
    pub image: PathBuf,
    /// Its format: raw, vhd, vhdx, vmdk, qcow2 or vdi; without it, what the content says
    #[arg(short = 'f', long, value_name = "FMT")]
    pub source_format: Option<String>,
    #[command(flatten)]
    pub opening: Opening,
    /// Print the machine in a package as TOML, for "convert --machine"
    #[arg(long, conflicts_with = "json")]
    pub toml: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Show the runs of an image.
#[derive(Debug, Args)]
pub struct Map {
    /// The image
    pub image: PathBuf,
    /// Its format: raw, vhd, vhdx, vmdk, qcow2 or vdi; without it, what the content says
    #[arg(short = 'f', long, value_name = "FMT")]
    pub source_format: Option<String>,
    /// Print the ranges that this dirty bitmap of a qcow2 image says were written
    #[arg(long, value_name = "NAME", conflicts_with_all = ["picture", "snapshot"])]
    pub bitmap: Option<String>,
    /// Draw the map into this SVG file as well
    #[arg(long, value_name = "FILE.svg")]
    pub picture: Option<PathBuf>,
    #[command(flatten)]
    pub opening: Opening,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Tell how large the file of a conversion would be.
///
/// The source is read as a conversion would read it, nothing is written. The size is exact; of a compressed target it is the
/// most that it can become. A target of several files is taken to be named like the source.
#[derive(Debug, Args)]
pub struct Measure {
    /// The image to read
    pub source: PathBuf,
    /// Its format; without it, what the content says
    #[arg(short = 'f', long, value_name = "FMT")]
    pub source_format: Option<String>,
    /// Format of the target
    #[arg(short = 'O', long, value_name = "FMT")]
    pub target_format: String,
    /// Options of the target format; "convert -o help" lists them
    #[arg(short = 'o', long = "options", value_name = "KEY=VALUE,…")]
    pub options: Vec<String>,
    /// The target is compressed
    #[arg(short = 'c', long)]
    pub compress: bool,
    /// Zeros of at least this size are not stored; 0 stores everything
    #[arg(short = 'S', long, value_name = "SIZE")]
    pub sparse: Option<String>,
    #[command(flatten)]
    pub opening: Opening,
    /// Threads
    #[arg(short = 'j', long = "jobs", value_name = "N")]
    pub jobs: Option<usize>,
    #[command(flatten)]
    pub output: Output,
}

/// Look for damage in an image or a package.
///
/// Tables that contradict each other or lead nowhere, refcounts that do not count what is used, compressed blocks whose
/// checksum is wrong. Plain data is not read; it carries no mark of being whole. What a delta stands on is not looked
/// at.
///
/// Exit code 1 means damaged. Clusters of a qcow2 that are counted but not used (leaks) lose space and nothing else:
/// they are warned of, and the exit code is 0. So it is with refcounts that are wrong in an image that is marked as
/// dirty. Nothing is written without --repair.
#[derive(Debug, Args)]
pub struct Check {
    /// The image
    pub image: PathBuf,
    /// Its format; without it, what the content says
    #[arg(short = 'f', long, value_name = "FMT")]
    pub source_format: Option<String>,
    /// Unpack also what carries no checksum: compressed clusters of qcow2
    #[arg(long)]
    pub unpack: bool,
    /// Write to the image to free leaked clusters and set wrong COPIED flags (qcow2); not if anything else is wrong or
    /// another program has it open
    #[arg(long)]
    pub repair: bool,
    #[command(flatten)]
    pub opening: Opening,
    /// Threads
    #[arg(short = 'j', long = "jobs", value_name = "N")]
    pub jobs: Option<usize>,
    #[command(flatten)]
    pub output: Output,
}

/// Change the size of a disk where it stands.
///
/// What is added reads as zeros. With --shrink a disk becomes smaller, if nothing lies behind the new end: no partition, no
/// end of a GPT, nothing but zeros. A crash at any point leaves the old size or the new one, and all of the content.
///
/// Raw, VHD, VHDX, qcow2, VDI; VMDKs that are monolithicFlat, monolithicSparse or vmfs. A block device has the size that it
/// has; with +0 and --fix-gpt its GPT follows. The image must not be in use. It is refused while another image stands on it
/// (a checkpoint, an overlay, a linked clone) or it is an extent of one; only the images in its own folder are looked at.
/// Room inside dynamic images is not given back; "convert --replace" does that.
#[derive(Debug, Args)]
pub struct Resize {
    /// The image
    pub image: PathBuf,
    /// The new size (20G), or what is added to the old one (+10G)
    #[arg(value_parser = new_size)]
    pub size: NewSize,
    /// Its format: raw, vhd, vhdx, vmdk, qcow2 or vdi; without it, what the content says
    #[arg(short = 'f', long, value_name = "FMT")]
    pub source_format: Option<String>,
    /// Let the disk become smaller, if nothing lies behind the new end
    #[arg(long)]
    pub shrink: bool,
    /// Move the copy of a GPT to the new end; +0 as size does nothing else
    #[arg(long)]
    pub fix_gpt: bool,
    #[command(flatten)]
    pub opening: Opening,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// A size to go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewSize {
    /// This one.
    To(u64),
    /// So much more.
    More(u64),
}

impl NewSize {
    /// The size that a disk of `old` bytes gets.
    ///
    /// # Errors
    /// `Limit` when that is no size.
    pub fn of(self, old: u64) -> Result<u64, formats::Error> {
        let size = match self {
            NewSize::To(size) => Some(size),
            NewSize::More(more) => old.checked_add(more),
        };
        size.ok_or_else(|| {
            formats::Error::limit("disk", "would be larger than any disk").found(old)
        })
    }
}

fn new_size(text: &str) -> Result<NewSize, String> {
    let parsed = match text.strip_prefix('+') {
        Some(more) => formats::options::parse_size(more).map(NewSize::More),
        None => size(text).ok().map(NewSize::To),
    };
    parsed.ok_or_else(|| "a size like 20G, or +10G for so much more".to_owned())
}

/// Tell whether two images hold the same disk.
///
/// Prints the first ranges that differ, in sectors of 512 bytes. A longer disk that goes on with zeros is the same, and
/// reported, unless -s is given.
#[derive(Debug, Args)]
pub struct Compare {
    /// One image
    pub first: PathBuf,
    /// The other
    pub second: PathBuf,
    /// Format of the first image
    #[arg(short = 'f', long, value_name = "FMT")]
    pub first_format: Option<String>,
    /// Format of the second image
    #[arg(short = 'F', long, value_name = "FMT")]
    pub second_format: Option<String>,
    /// Take different sizes as a difference
    #[arg(short = 's', long)]
    pub strict: bool,
    /// Stop at the first difference and print nothing
    #[arg(short = 'q', long)]
    pub quiet: bool,
    #[command(flatten)]
    pub opening: Opening,
    /// Threads
    #[arg(short = 'j', long = "jobs", value_name = "N")]
    pub jobs: Option<usize>,
    #[command(flatten)]
    pub output: Output,
}

/// Print a digest of the guest content.
#[derive(Debug, Args)]
pub struct Digest {
    /// The image
    pub image: PathBuf,
    /// Its format: raw, vhd, vhdx, vmdk, qcow2 or vdi; without it, what the content says
    #[arg(short = 'f', long, value_name = "FMT")]
    pub source_format: Option<String>,
    /// The algorithm
    #[arg(short = 'a', long, value_name = "ALG", default_value = "blake3")]
    pub algorithm: DigestAlgorithm,
    #[command(flatten)]
    pub reading: Reading,
    #[command(flatten)]
    pub output: Output,
}

/// How a source is read.
#[derive(Debug, Args)]
pub struct Reading {
    /// Threads; without it, eight for each core, at most 16
    #[arg(short = 'j', long = "jobs", value_name = "N")]
    pub jobs: Option<usize>,
    /// Read on with zeros where the image is damaged, and list every hole
    #[arg(long)]
    pub salvage: bool,
    /// Refuse a disk larger than this: a small hostile image can claim to be huge
    #[arg(long, value_name = "SIZE")]
    pub max_size: Option<String>,
    #[command(flatten)]
    pub opening: Opening,
}

/// What opening an image takes besides its name.
#[derive(Debug, Args)]
pub struct Opening {
    /// File whose bytes are the passphrase of encrypted images (qcow2 with LUKS). If it ends with a line feed and does not
    /// fit, it is tried without
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Follow names inside the image also to plain files below this folder (may be repeated)
    #[arg(long, value_name = "DIR")]
    pub allow_references: Vec<PathBuf>,
    /// Size of the logical sectors of a raw disk, which does not say it itself: 512 (default) or 4096 bytes
    #[arg(long, value_name = "BYTES", value_parser = sector_size)]
    pub sector_size: Option<u32>,
    /// Which machine of a package that has several: its name, or its number from 1
    #[arg(long, value_name = "NAME|N")]
    pub vm: Option<String>,
    /// Which disk of a package that has several: its number from 1, its name or its file
    #[arg(long, value_name = "N|NAME")]
    pub disk: Option<String>,
    /// Read this internal snapshot of a qcow2 image (its name or id) instead of the present state
    #[arg(long, value_name = "NAME|ID")]
    pub snapshot: Option<String>,
}

fn sector_size(text: &str) -> Result<u32, String> {
    match formats::options::parse_size(text) {
        Some(512) => Ok(512),
        Some(4096) => Ok(4096),
        _ => Err("512 or 4096".to_owned()),
    }
}

/// What is printed meanwhile and at the end.
#[derive(Debug, Args)]
pub struct Output {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Show how far it is: a bar on a terminal, or JSON lines on standard error
    #[arg(long, value_name = "HOW", default_value = "auto")]
    pub progress: ProgressStyle,
    /// Show a bar, as qemu-img calls it
    #[arg(short = 'p', hide = true)]
    pub bar: bool,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProgressStyle {
    /// A bar if standard error is a terminal
    Auto,
    /// A bar
    Bar,
    /// JSON lines on standard error
    Json,
    /// Nothing
    None,
}

/// Digest algorithms by their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DigestAlgorithm {
    /// As b3sum
    Blake3,
    /// As sha256sum
    Sha256,
    /// As sha1sum
    Sha1,
    /// As md5sum
    Md5,
}

impl From<DigestAlgorithm> for transfer::Algorithm {
    fn from(value: DigestAlgorithm) -> Self {
        match value {
            DigestAlgorithm::Blake3 => transfer::Algorithm::Blake3,
            DigestAlgorithm::Sha256 => transfer::Algorithm::Sha256,
            DigestAlgorithm::Sha1 => transfer::Algorithm::Sha1,
            DigestAlgorithm::Md5 => transfer::Algorithm::Md5,
        }
    }
}
