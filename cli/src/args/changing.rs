//! Arguments of the verbs that change an image where it stands.

use std::path::PathBuf;

use clap::Args;

use super::convert::size;
use super::{Opening, Output};

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

/// Write what a delta defines onto a copy of its parent.
///
/// The base of a chain is converted while the machine runs on a checkpoint; afterwards, with the machine off, only the delta
/// (AVHD, AVHDX, VMDK or VHD delta, qcow2 overlay) follows. COPY may be an image of any format that stands alone, or a block
/// device. Only what the delta defines is written. COPY has to be known as a copy of the delta's parent: by its receipt
/// ("convert --receipt"), by comparing it with --parent, or with --trust.
///
/// What is interrupted is finished by running it again; until then no other verb takes COPY.
#[derive(Debug, Args)]
pub struct Apply {
    /// The delta
    pub child: PathBuf,
    /// The copy of what the delta stands on
    pub copy: PathBuf,
    /// Format of the delta; without it, what its content says
    #[arg(short = 'f', long, value_name = "FMT")]
    pub source_format: Option<String>,
    /// Format of the copy; without it, what its content says
    #[arg(short = 'F', long, value_name = "FMT")]
    pub copy_format: Option<String>,
    /// The receipt of the copy; without it, COPY.receipt.json
    #[arg(long, value_name = "FILE")]
    pub receipt: Option<PathBuf>,
    /// The image that the delta stands on: it is compared with the copy first, all of it
    #[arg(long, value_name = "IMAGE", conflicts_with = "trust")]
    pub parent: Option<PathBuf>,
    /// Take the copy for one of the delta's parent, whatever is known of it
    #[arg(long)]
    pub trust: bool,
    /// Only say how many bytes would be written
    #[arg(long)]
    pub dry_run: bool,
    /// Read back what was written and compare it with the delta
    #[arg(long)]
    pub verify: bool,
    #[command(flatten)]
    pub opening: Opening,
    #[command(flatten)]
    pub output: Output,
}

/// Write a delta into its own parent, as when a checkpoint is deleted.
///
/// The parent is the image that CHILD names. All that CHILD defines is written into it, with the size that CHILD has; until
/// the end the chain shows the same disk at any moment, so that what is interrupted is finished by running it again. CHILD
/// stays unless --remove is said; it still shows the same disk then.
#[derive(Debug, Args)]
pub struct Merge {
    /// The delta
    pub child: PathBuf,
    /// Its format; without it, what its content says
    #[arg(short = 'f', long, value_name = "FMT")]
    pub source_format: Option<String>,
    /// Remove the delta when all of it is in its parent
    #[arg(long)]
    pub remove: bool,
    /// Only say how many bytes would be written
    #[arg(long)]
    pub dry_run: bool,
    /// Read back what was written and compare it with the delta
    #[arg(long)]
    pub verify: bool,
    #[command(flatten)]
    pub opening: Opening,
    #[command(flatten)]
    pub output: Output,
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

pub fn new_size(text: &str) -> Result<NewSize, String> {
    let parsed = match text.strip_prefix('+') {
        Some(more) => formats::options::parse_size(more).map(NewSize::More),
        None => size(text).ok().map(NewSize::To),
    };
    parsed.ok_or_else(|| "a size like 20G, or +10G for so much more".to_owned())
}
