//! The command line, defined once: help, man page and completions are made from this.

mod changing;
mod convert;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use formats::LayerChoice;

pub use changing::{Apply, Merge, Resize};
pub use convert::{BlockChecksum, Convert, Manifest};

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
    Apply(Apply),
    Merge(Merge),
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
            Verb::Apply(v) => v.output.json,
            Verb::Merge(v) => v.output.json,
            Verb::Compare(v) => v.output.json,
            Verb::Digest(v) => v.output.json,
            Verb::Completions { .. } | Verb::Man => false,
        }
    }
}

/// Show what an image is, or a package and the machines in it.
#[derive(Debug, Args)]
pub struct Info {
    /// The image
    pub image: PathBuf,
    /// Its format: raw, vhd, vhdx, vmdk, qcow2 or vdi; without it, what the content says
    #[arg(short = 'f', long, value_name = "FMT")]
    pub source_format: Option<String>,
    /// Show every layer of its chain from the tip to the base: ids, sizes, and how much each holds itself
    #[arg(long, conflicts_with = "layer")]
    pub chain: bool,
    #[command(flatten)]
    pub opening: Opening,
    /// Print the machine in a package as TOML, for "convert --machine"
    #[arg(long, conflicts_with_all = ["json", "chain"])]
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
    /// Read this one layer of a chain, as "info --chain" numbers them (0 is the tip, whose parent need not be there), or
    /// the one in the file of this name; what it does not define reads as zeros
    #[arg(long, value_name = "N|NAME", value_parser = layer, conflicts_with = "snapshot")]
    pub layer: Option<LayerChoice>,
}

fn layer(text: &str) -> Result<LayerChoice, String> {
    Ok(match text.parse() {
        Ok(number) => LayerChoice::Number(number),
        Err(_) => LayerChoice::Name(text.to_owned()),
    })
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
