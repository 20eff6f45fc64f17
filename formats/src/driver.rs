//! What a format is to the rest of the house: a name, a way to recognise it, a reader, a writer.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use uuid::Uuid;

use crate::budget::Budget;
use crate::error::{Error, Result};
use crate::in_place::{InPlace, Plan};
use crate::luks::Passphrase;
use crate::open::LayerFile;
use crate::options::{OptionSpec, Options};
use crate::reference::ReferencePolicy;
use crate::slice_cache::SharedSlices;
use crate::source::BlockSource;
use crate::storage::{Storage, StorageRef};
use crate::target::BlockTarget;

/// A format that images are read from or written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Format {
    /// The bytes of the disk, one after the other.
    Raw,
    /// Microsoft Virtual Hard Disk (Virtual PC, Hyper-V, XenServer, Azure).
    Vhd,
    /// VMware Virtual Machine Disk, of every kind.
    Vmdk,
    /// QEMU Copy-On-Write, versions 2 and 3.
    Qcow2,
    /// Virtual Disk Image (VirtualBox, QEMU).
    Vdi,
    /// Microsoft Virtual Hard Disk, version 2 (Hyper-V since 2012).
    Vhdx,
}

impl Format {
    /// The name that `-f` and `-O` take.
    pub fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Vhd => "vhd",
            Format::Vhdx => "vhdx",
            Format::Vmdk => "vmdk",
            Format::Qcow2 => "qcow2",
            Format::Vdi => "vdi",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The first and the last bytes of a file: all that recognising a format may look at.
#[derive(Debug, Clone)]
pub struct Head {
    /// Up to the first 4096 bytes.
    pub first: Vec<u8>,
    /// Up to the last 512 bytes.
    pub last: Vec<u8>,
    /// Length of the file in bytes.
    pub len: u64,
}

impl Head {
    /// Reads what recognising needs.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn read(storage: &dyn Storage) -> Result<Head> {
        let len = storage.len();
        let mut first = vec![0; len.min(4096) as usize];
        storage.read_at(&mut first, 0)?;
        let mut last = vec![0; len.min(512) as usize];
        storage.read_at(&mut last, len - len.min(512))?;
        Ok(Head { first, last, len })
    }

    /// Whether `magic` stands at byte `offset` of the file, within its first 4096 bytes.
    pub fn has(&self, offset: usize, magic: &[u8]) -> bool {
        self.first.get(offset..offset + magic.len()) == Some(magic)
    }
}

/// What a driver may do beyond reading the file it was given.
#[derive(Debug, Clone, Default)]
pub struct OpenContext {
    /// Files named inside the image.
    pub references: ReferencePolicy,
    /// Read on where a copy of a damaged structure is left (a VHD without its footer).
    pub salvage: bool,
    /// What opens encrypted images; tried for each encrypted layer.
    pub passphrase: Option<Passphrase>,
    /// Open encrypted images also without a passphrase: what they say of themselves and their map can be had, their data
    /// cannot be read.
    pub locked: bool,
    /// Say also what takes time to find out and does not matter for reading: snapshots, what bitmaps hold.
    pub detailed: bool,
    /// Memory that all layers opened with this context share.
    pub budget: Budget,
    /// Parts of tables that all layers opened with this context keep in memory together.
    pub slices: SharedSlices,
    /// Logical sector size in bytes of raw disks, 512 or 4096, where somebody knows it: they do not say it themselves.
    pub sector_size: Option<u32>,
    /// The one layer of the chain to read, without what it stands on; `None`: all of them.
    pub layer: Option<LayerChoice>,
    /// The internal snapshot to read instead of the present state: of the image itself, not of what it stands on.
    pub snapshot: Option<String>,
}

/// One layer of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerChoice {
    /// Its place: 0 is the tip.
    Number(usize),
    /// The name of its file, or the path to it.
    Name(String),
}

impl fmt::Display for LayerChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LayerChoice::Number(number) => number.fmt(f),
            LayerChoice::Name(name) => write!(f, "{name:?}"),
        }
    }
}

/// One image file, opened: without its parents.
pub struct Layer {
    /// Its map.
    pub source: Arc<dyn BlockSource>,
    /// What it says about itself.
    pub info: LayerInfo,
    /// The file it stands on, if it is a delta.
    pub parent: Option<ParentReference>,
    /// Files besides the image itself that it reads from.
    pub storages: Vec<StorageRef>,
}

/// How images are told apart by their children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageId {
    /// VHD, VHDX and VDI.
    Uuid(Uuid),
    /// The content id of a VMDK, which changes whenever its content does.
    Cid(u32),
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImageId::Uuid(id) => id.fmt(f),
            ImageId::Cid(id) => write!(f, "{id:08x}"),
        }
    }
}

/// What an image file says about itself.
#[derive(Debug, Clone)]
pub struct LayerInfo {
    /// Its format.
    pub format: Format,
    /// The variant of the format ("dynamic", "v3").
    pub subformat: String,
    /// The id that a child refers to.
    pub identity: Option<ImageId>,
    /// The id of the disk that all files of its chain have (VHDX).
    pub disk_id: Option<Uuid>,
    /// What else is worth knowing, in the field's words: name and value.
    pub details: Vec<(&'static str, Detail)>,
    /// What a user should hear about.
    pub warnings: Vec<String>,
}

impl LayerInfo {
    /// Nothing but the format.
    pub fn new(format: Format, subformat: impl Into<String>) -> LayerInfo {
        LayerInfo {
            format,
            subformat: subformat.into(),
            identity: None,
            disk_id: None,
            details: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

/// A value of [`LayerInfo::details`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detail {
    /// Words.
    Text(String),
    /// A number.
    Number(u64),
    /// Yes or no.
    Flag(bool),
    /// Words, line by line.
    List(Vec<String>),
    /// Several things of one sort, each with the same names.
    Records(Vec<Vec<(&'static str, Detail)>>),
}

/// Something that checking an image brought up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Whether the image is damaged, or only unusual.
    pub is_damage: bool,
    /// Whether [`Driver::repair`] can put it right, if nothing else is wrong.
    pub is_repairable: bool,
    /// What it is.
    pub message: String,
}

impl Finding {
    /// The image contradicts itself or its format.
    pub fn damage(message: String) -> Finding {
        Finding {
            is_damage: true,
            is_repairable: false,
            message,
        }
    }

    /// The image is right, but some product may not take it.
    pub fn oddity(message: String) -> Finding {
        Finding {
            is_damage: false,
            is_repairable: false,
            message,
        }
    }
}

/// What checking an image brought up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// What is wrong or odd, worst first.
    pub findings: Vec<Finding>,
    /// What was counted on the way, in the field's words.
    pub counts: Vec<(&'static str, u64)>,
    /// The first file offsets of each sort of finding.
    pub places: Vec<(&'static str, Vec<u64>)>,
    /// Whether it is known that all of the disk can be mapped: asking for the map would tell nothing new.
    pub is_map_sound: bool,
}

impl From<Vec<Finding>> for CheckReport {
    fn from(findings: Vec<Finding>) -> CheckReport {
        CheckReport {
            findings,
            ..CheckReport::default()
        }
    }
}

/// What repairing an image changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repaired {
    /// How many findings of each sort are put right.
    pub fixed: Vec<(&'static str, u64)>,
}

/// How a delta names the image it stands on.
#[derive(Debug, Clone)]
pub struct ParentReference {
    /// Names to try, best first, as the image writes them (with `/` between folders). None: the parent is looked for by
    /// its format and its identity.
    pub names: Vec<String>,
    /// What holds the names, for messages ("parent locator").
    pub structure: &'static str,
    /// The parent's format, where the image says it.
    pub format: Option<Format>,
    /// The identities of which the parent must have one; none: any file will do.
    pub identities: Vec<ImageId>,
    /// The logical sector size in bytes that the parent must have, where the format has several.
    pub sector_size: Option<u32>,
    /// When the parent was last written to by what the child knows, in seconds since 1970.
    pub modified: Option<u64>,
}

/// One format: a line in [`DRIVERS`].
pub trait Driver: Sync {
    /// The format.
    fn format(&self) -> Format;

    /// File name extensions, lower case, the usual one first.
    fn extensions(&self) -> &'static [&'static str];

    /// Whether the file carries the format's magic.
    fn recognises(&self, head: &Head) -> bool;

    /// Opens the image in `storage`, without its parents.
    ///
    /// # Errors
    /// Whatever the image has wrong that can be seen without reading all of its tables.
    fn open(&self, storage: StorageRef, context: &OpenContext) -> Result<Layer>;

    /// What a user should hear about `parent`, on which the image `child` of this format stands: that it may have changed
    /// since.
    fn parent_doubt(&self, _child: &LayerInfo, _parent: &LayerInfo) -> Option<String> {
        None
    }

    /// Looks at what reading the disk does not show: copies of tables against each other, what nothing refers to. Stops
    /// with an error soon after `cancel` is set.
    ///
    /// # Errors
    /// What keeps it from looking.
    fn check(
        &self,
        _storage: &StorageRef,
        _context: &OpenContext,
        _cancel: &AtomicBool,
    ) -> Result<CheckReport> {
        Ok(CheckReport::default())
    }

    /// Puts right what [`Driver::check`] calls repairable, by writing to `out`, the file that `storage` reads. A crash in
    /// between leaves the image no worse than it was.
    ///
    /// # Errors
    /// `Refused` when something else is wrong with the image: nothing is written then. `Unsupported` where nothing can be
    /// repaired.
    fn repair(
        &self,
        _storage: &StorageRef,
        _out: &dyn InPlace,
        _cancel: &AtomicBool,
    ) -> Result<Repaired> {
        Err(Error::unsupported(
            "repair",
            format!("images in the format {} cannot be repaired", self.format()),
        ))
    }

    /// How the image in `layer` gets `size` bytes, or the next larger size that it can have. Whether anything is lost by
    /// that, and that what is added reads as zeros, is the business of [`crate::resize`]. A crash at any point leaves an
    /// image that opens, with the old size or the new one, and with the content that it had.
    ///
    /// # Errors
    /// `Limit` for a size that the format cannot have, `Refused` when the image is not fit to be changed, `Unsupported`
    /// for kinds of images that have to be converted.
    fn resize(&self, _layer: &LayerFile, _size: u64) -> Result<Plan> {
        Err(Error::unsupported(
            "resize",
            format!("images in the format {} cannot be resized", self.format()),
        )
        .hint("convert --size makes a copy of another size"))
    }

    /// Gives a place in the image to all of `range` of the disk that has none, so that it can be overwritten there. What
    /// the disk holds stays the same. The image stands on no other one.
    ///
    /// # Errors
    /// As [`Driver::resize`].
    fn allocate(&self, layer: &LayerFile, _range: Range<u64>) -> Result<Plan> {
        Ok(Plan::new(layer.source.size()))
    }

    /// Calls `visit` with the ranges of the disk that the dirty bitmap called `bitmap` says were written.
    ///
    /// # Errors
    /// `Usage` when there is no such bitmap, `Refused` when it is not to be trusted.
    fn dirty_ranges(
        &self,
        _storage: &StorageRef,
        _bitmap: &str,
        _visit: &mut dyn FnMut(Range<u64>),
    ) -> Result<()> {
        let format = self.format();
        Err(Error::usage(
            "--bitmap",
            format!("{format} images have no dirty bitmaps"),
        ))
    }

    /// The options that writing takes.
    fn options(&self) -> &'static [OptionSpec];

    /// The layout of a new image for a disk of `size` bytes, in a file called `file_name`: images of several files name
    /// each other.
    ///
    /// # Errors
    /// `Limit` when the format cannot hold it, `Usage` for impossible options.
    fn target(
        &self,
        size: u64,
        options: &Options,
        file_name: &Path,
    ) -> Result<Box<dyn BlockTarget>>;
}

/// The registry: what is supported.
pub const DRIVERS: &[&dyn Driver] = &[
    &crate::qcow2::Qcow2Driver,
    &crate::vdi::VdiDriver,
    &crate::vhd::VhdDriver,
    &crate::vhdx::VhdxDriver,
    &crate::vmdk::VmdkDriver,
    // Last: it takes everything that nobody else recognises.
    &crate::raw::RawDriver,
];

/// The driver of a format.
pub fn driver(format: Format) -> &'static dyn Driver {
    DRIVERS
        .iter()
        .copied()
        .find(|d| d.format() == format)
        .unwrap_or(&crate::raw::RawDriver)
}

/// The format that `-f` or `-O` call `name`; `vpc` is QEMU's word for `vhd`.
///
/// # Errors
/// `Usage` when there is none.
pub fn format_by_name(name: &str) -> Result<Format> {
    let wanted = match name {
        "vpc" => "vhd",
        other => other,
    };
    DRIVERS
        .iter()
        .map(|d| d.format())
        .find(|f| f.name() == wanted)
        .ok_or_else(|| {
            let known: Vec<_> = DRIVERS.iter().map(|d| d.format().name()).collect();
            Error::usage("format", "is not supported")
                .found(format!("{name:?}"))
                .expected(known.join(", "))
        })
}
