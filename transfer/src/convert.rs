//! Converting an image: the pass over its content, and everything that makes the result whole, proved, and in place.

use std::ffi::OsString;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use formats::{
    BlockSource, BlockTarget, Error, Format, Identity, Image, Options, Preallocation, StorageRef,
    Window, driver,
};

use crate::digest::Algorithm;
use crate::error::Result;
use crate::identity;
use crate::output::file::already_there;
use crate::output::{DeviceOutput, FileOutput, FileSet, Nowhere, Output, StreamOutput};
use crate::overlay::Below;
use crate::packing::{How, Packing};
use crate::partitions::sector_notes;
use crate::pass::{self, Destination, Setting, Wanted};
use crate::reflink;
use crate::same_storage;
use crate::verify::{Expected, Written, verify};
use crate::zero::is_zero;

/// Unit in which zeros are looked for at least, when the user does not say: what file systems allocate.
pub const DEFAULT_SPARSE: u64 = 4096;

/// Inside the block of a target, zeros shorter than this are stored with the data around them: fewer, larger writes.
const SPARSE_INSIDE_BLOCK: u64 = 64 << 10;

/// Where the result goes.
pub enum Place<'a> {
    /// A new file, which replaces an existing one only if `force` is set.
    File {
        /// Its name.
        path: &'a Path,
        /// Whether it may replace a file.
        force: bool,
    },
    /// An existing block device.
    Device(&'a Path),
    /// Standard output, or whatever takes bytes in order.
    Stream(Box<dyn Write + Send + 'a>),
}

/// How an image is converted.
#[derive(Clone, Default)]
pub struct ConvertOptions {
    /// Unit in bytes in which zeros are looked for; 0 stores everything; `None` is [`DEFAULT_SPARSE`].
    pub sparse: Option<u64>,
    /// Digests of the guest content to compute on the way.
    pub digests: Vec<Algorithm>,
    /// Whether to read the target back and compare.
    pub verify: bool,
    /// Ids and times from the content and from this time (seconds since 1970), not random and not now.
    pub reproducible: Option<u64>,
    /// Whether a raw file may become a clone of its source on file systems that can.
    pub reflink: bool,
    /// Whether blocks that the source holds compressed are compressed again, also where the target could take them.
    pub recompress: bool,
    /// The image that the target stands on: only what differs from its disk is stored.
    pub below: Option<Arc<Image>>,
}

/// What was done.
#[derive(Debug, Default)]
pub struct Converted {
    /// Guest-visible size of the source in bytes.
    pub source_size: u64,
    /// Guest-visible size of the target in bytes: never less.
    pub target_size: u64,
    /// Length of the target file in bytes.
    pub file_size: u64,
    /// Guest bytes that hold data.
    pub data_bytes: u64,
    /// Guest bytes that are zero.
    pub zero_bytes: u64,
    /// The digests asked for.
    pub digests: Vec<(Algorithm, String)>,
    /// Whether the target was read back and found equal.
    pub verified: bool,
    /// The BLAKE3 of the guest content that verifying yields besides, unless there were too many zeros to hash.
    pub verified_digest: Option<String>,
    /// Whether the target is a clone that shares the source's blocks.
    pub reflinked: bool,
    /// What the user should know about the target.
    pub notes: Vec<String>,
    /// Size of the device behind the end of the disk, which was left alone.
    pub left_on_device: u64,
}

/// Converts `image` to `format` at `place`.
///
/// # Errors
/// What is wrong with the image, the target or the storage. Nothing is left behind at `place` then, unless it is a
/// device, whose front is cleared.
pub fn convert(
    image: &Image,
    format: Format,
    format_options: &Options,
    place: Place<'_>,
    options: &ConvertOptions,
    setting: &Setting<'_>,
) -> Result<Converted> {
    let file_name = match place {
        Place::File { path, .. } | Place::Device(path) => path,
        Place::Stream(_) => Path::new("-"),
    };
    let format_options = &format_options
        .clone()
        .for_sectors(image.source.sector_size());
    let target = driver(format).target(image.source.size(), format_options, file_name)?;
    let job = Job {
        image,
        format,
        options,
        setting,
    };
    match place {
        Place::File { path, force } => job.to_file(target, path, force),
        Place::Device(path) => job.to_device(target, path),
        Place::Stream(writer) => job.to_stream(target, writer),
    }
}

/// How large a target would become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// Bytes of all its files.
    pub file_size: u64,
    /// Whether it will be exactly that; otherwise it will not be more.
    pub exact: bool,
}

/// Finds out how large `image` would be in `format`: reads it, as [`convert`] would, but stores and packs nothing. Files that
/// name each other are taken to be named like the source.
///
/// # Errors
/// As [`convert`].
pub fn measure(
    image: &Image,
    format: Format,
    format_options: &Options,
    sparse: Option<u64>,
    setting: &Setting<'_>,
) -> Result<Measured> {
    let tip = image.tip().map(|tip| tip.path.as_path());
    let file_name = tip.unwrap_or(Path::new("disk"));
    let format_options = &format_options
        .clone()
        .for_sectors(image.source.sector_size());
    let target = driver(format).target(image.source.size(), format_options, file_name)?;
    let options = ConvertOptions {
        sparse,
        ..ConvertOptions::default()
    };
    let job = Job {
        image,
        format,
        options: &options,
        setting,
    };
    let exact = target.packer().is_none();
    let done = job.copy_or_measure(target, &Nowhere, true)?;
    Ok(Measured {
        file_size: done.converted.file_size,
        exact,
    })
}

struct Job<'a> {
    image: &'a Image,
    format: Format,
    options: &'a ConvertOptions,
    setting: &'a Setting<'a>,
}

impl Job<'_> {
    fn to_file(&self, target: Box<dyn BlockTarget>, path: &Path, force: bool) -> Result<Converted> {
        let given = path;
        let real = self.check_name(given, force)?;
        let path = real.as_path();
        let further = target.further_parts();
        let is_link = std::fs::symlink_metadata(given).is_ok_and(|meta| meta.is_symlink());
        if is_link && !further.is_empty() {
            return Err(Error::refused(
                "target",
                "is a link: the files that belong together would stand in two folders",
            )
            .hint("name the file that the link leads to")
            .in_file(given)
            .into());
        }
        for name in &further {
            let beside = path.with_file_name(name);
            if beside == path {
                return Err(
                    Error::usage("target", "a file of it would have the name of another")
                        .found(format!("{name:?}, twice"))
                        .in_file(given)
                        .into(),
                );
            }
            self.refuse_own_source(&beside)?;
        }
        let output = FileSet::create(path, &further, force)?;
        self.check_space(target.as_ref(), &output, path)?;
        let mut done = match output.first() {
            Some(file) if self.can_reflink() && self.reflink(file) => {
                self.after_reflink(target, file)?
            }
            _ => self.copy(target, &output)?,
        };
        if self.options.verify {
            let further = output.read_back_further()?;
            self.verify(&output, further, &mut done, true)?;
        }
        output.commit(force)?;
        Ok(done.converted)
    }

    /// The name that the file will really have: of a link that is replaced, what it leads to.
    fn check_name(&self, path: &Path, force: bool) -> Result<PathBuf> {
        self.refuse_own_source(path)?;
        let refuse = |why| Err(Error::refused("target", why).in_file(path).into());
        if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            return refuse("is the name of a folder");
        }
        match std::fs::symlink_metadata(path) {
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(path.to_owned()),
            Err(e) => return Err(Error::io("look at the target", e).in_file(path).into()),
        }
        if !force {
            return Err(already_there(path).into());
        }
        match (path.canonicalize(), std::fs::metadata(path)) {
            (Ok(real), Ok(meta)) if meta.is_file() => Ok(real),
            (Ok(_), Ok(meta)) if meta.is_dir() => refuse("is a folder"),
            (Ok(_), Ok(_)) => refuse("is neither a plain file nor a block device"),
            _ => refuse("is a link that leads nowhere"),
        }
    }

    fn to_device(&self, target: Box<dyn BlockTarget>, path: &Path) -> Result<Converted> {
        if self.format != Format::Raw {
            return Err(Error::usage(
                "target device",
                format!("{} images are written to files only", self.format),
            )
            .hint("-O raw writes the disk itself to the device")
            .in_file(path)
            .into());
        }
        self.refuse_own_source(path)?;
        let output = DeviceOutput::open(path, target.size())?;
        output.begin()?;
        let left = output.len() - target.size();
        let mut done = self.copy(target, &output)?;
        output.commit()?;
        if self.options.verify {
            self.verify(&output, Vec::new(), &mut done, false)?;
        }
        done.converted.left_on_device = left;
        Ok(done.converted)
    }

    fn to_stream(
        &self,
        target: Box<dyn BlockTarget>,
        writer: Box<dyn Write + Send + '_>,
    ) -> Result<Converted> {
        let impossible = |why: String, hint: &'static str| {
            let error = Error::usage("standard output", why).hint(hint);
            Err(crate::Error::from(error.in_file(Path::new("-"))))
        };
        if !target.is_sequential() {
            return impossible(
                format!(
                    "a {} image of this kind cannot be written in one go",
                    self.format
                ),
                "write it to a file; raw, fixed VHD and streamOptimized VMDK can go to a pipe",
            );
        }
        if self.options.verify {
            return impossible(
                "cannot be read back".to_owned(),
                "leave out --verify; --digest tells what was sent",
            );
        }
        let output = StreamOutput::new(writer);
        Ok(self.copy(target, &output)?.converted)
    }

    /// The pass, and the tables after it.
    fn copy(&self, target: Box<dyn BlockTarget>, output: &dyn Output) -> Result<Done> {
        self.copy_or_measure(target, output, false)
    }

    fn copy_or_measure(
        &self,
        target: Box<dyn BlockTarget>,
        output: &dyn Output,
        measuring: bool,
    ) -> Result<Done> {
        let wanted = Wanted {
            digests: self.options.digests.clone(),
            affordable_digest: self.options.verify && self.options.digests.is_empty(),
            fingerprint: self.options.verify || self.options.reproducible.is_some(),
        };
        if target.packer().is_some() && self.options.sparse == Some(0) {
            return Err(
                Error::usage("-S 0", "this kind of image never stores zeros")
                    .hint("leave out -S")
                    .into(),
            );
        }
        let known = match output.is_stream() {
            true => self.write_head(target.as_ref(), output)?,
            false => None,
        };
        let (size, target_size) = (self.image.source.size(), target.size());
        let mut notes = target.notes();
        notes.extend(sector_notes(self.image.source.as_ref(), target.as_ref())?);
        let preallocation = target.preallocation();
        let sparse = match preallocation {
            Preallocation::Full => 0,
            _ => self.scan_unit(target.block_size()),
        };
        let packer = target.packer();
        let says_zeros = target.says_zeros();
        let below = self.options.below.as_ref();
        if let Some(below) = below {
            check_rest(below.source.as_ref(), size..target_size)?;
        }
        let below = below.map(|below| Window::new(below.source.clone(), size));
        let sparse = match below {
            // Whole blocks: what an allocated block does not hold is not looked for below it.
            Some(_) => target.block_size(),
            None => sparse,
        };
        let how = match (measuring, self.options.recompress) {
            (true, _) => How::Measuring,
            (_, true) => How::Anew,
            _ => How::Adopting,
        };
        let destination = Destination {
            target,
            output: (!measuring).then_some(output),
            sparse,
            packing: packer.map(|packer| Packing::new(packer, how)),
            below: below.as_ref().map(|source| Below { source, says_zeros }),
        };
        let mut outcome = pass::run(
            self.image.source.as_ref(),
            &wanted,
            Some(destination),
            self.setting,
        )?;
        self.image.check_unchanged()?;
        if let Some(below) = &self.options.below {
            below.check_unchanged()?;
        }
        let mut file_size = 0;
        if let Some(target) = outcome.target.take() {
            let identity = known.unwrap_or_else(|| self.identity(outcome.fingerprint));
            let head = target.head(&identity)?;
            file_size = target.finish(&identity, output)?.file_size;
            if let (Some(head), None) = (head, known) {
                output.write_at(&head, 0)?;
            }
        }
        if preallocation == Preallocation::Reserved {
            output.reserve()?;
        }
        output.sync()?;
        Ok(Done {
            fingerprint: outcome.fingerprint,
            converted: Converted {
                source_size: size,
                target_size,
                file_size,
                data_bytes: outcome.data_bytes,
                zero_bytes: outcome.zero_bytes,
                digests: outcome.digests,
                verified_digest: outcome.affordable_digest,
                notes,
                ..Converted::default()
            },
        })
    }

    /// Writes what stands at the front of a pipe, if the target has anything there, and answers the ids in it: they may
    /// have to be made from the content, in a pass of their own.
    fn write_head(
        &self,
        target: &dyn BlockTarget,
        output: &dyn Output,
    ) -> Result<Option<Identity>> {
        if target.head(&identity::random())?.is_none() {
            return Ok(None);
        }
        let identity = self.identity(self.early_fingerprint()?);
        if let Some(head) = target.head(&identity)? {
            output.write_at(&head, 0)?;
        }
        Ok(Some(identity))
    }

    /// Unit of the zero scan for a target that allocates in units of `block`.
    fn scan_unit(&self, block: u64) -> u64 {
        match self.options.sparse {
            Some(0) => 0,
            sparse => sparse
                .unwrap_or(DEFAULT_SPARSE)
                .max(block.min(SPARSE_INSIDE_BLOCK)),
        }
    }

    /// The fingerprint of the source, found in a pass of its own, if ids have to be made from it.
    fn early_fingerprint(&self) -> Result<Option<[u8; 32]>> {
        if self.options.reproducible.is_none() {
            return Ok(None);
        }
        let wanted = Wanted {
            fingerprint: true,
            ..Wanted::default()
        };
        let source = self.image.source.as_ref();
        Ok(pass::run(source, &wanted, None, self.setting)?.fingerprint)
    }

    fn identity(&self, fingerprint: Option<[u8; 32]>) -> Identity {
        match (self.options.reproducible, fingerprint) {
            (Some(unix_time), Some(fingerprint)) => {
                identity::of_content(fingerprint, self.image.source.size(), unix_time)
            }
            _ => identity::random(),
        }
    }

    /// A target of known size that certainly does not fit is refused before the first byte.
    fn check_space(&self, target: &dyn BlockTarget, output: &FileSet, path: &Path) -> Result<()> {
        let needed = match (target.exact_length(), self.options.sparse) {
            (Some(length), Some(0)) => length,
            _ => return Ok(()),
        };
        let Some(free) = output.first().map(FileOutput::free_space).transpose()? else {
            return Ok(());
        };
        if free >= needed {
            return Ok(());
        }
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        Err(Error::io("check for free space", full)
            .found(format!("{free} bytes free"))
            .expected(format!("{needed} bytes"))
            .in_file(path)
            .into())
    }

    fn refuse_own_source(&self, path: &Path) -> Result<()> {
        let below = self.options.below.iter().map(|below| &below.storages);
        let mut storages = below.chain([&self.image.storages]).flatten();
        if storages.any(|storage| same_storage::overlap(path, storage.path())) {
            return Err(Error::refused(
                "target",
                "is the source, or a file that the source or the target stands on",
            )
            .hint("write to another file or device")
            .in_file(path)
            .into());
        }
        Ok(())
    }

    /// Only a raw file to a raw file, whole and unscanned, is the same bytes.
    fn can_reflink(&self) -> bool {
        let raw = |format| format == Format::Raw;
        self.options.reflink
            && self.options.sparse.is_none()
            && raw(self.format)
            && self.image.layers.len() == 1
            && self.image.tip().is_some_and(|tip| raw(tip.info.format))
            && self.setting.salvage.is_none()
    }

    fn reflink(&self, output: &FileOutput) -> bool {
        let source = self.image.tip().and_then(|tip| tip.storage.whole_file());
        source.is_some_and(|source| reflink::clone_file(source, output.file()))
    }

    /// What a clone still owes: digests, and the counts.
    fn after_reflink(&self, target: Box<dyn BlockTarget>, output: &FileOutput) -> Result<Done> {
        let size = target.size();
        output.sync()?;
        let wanted = Wanted {
            digests: self.options.digests.clone(),
            affordable_digest: self.options.verify && self.options.digests.is_empty(),
            fingerprint: self.options.verify,
        };
        let source = self.image.source.as_ref();
        let asked = wanted.fingerprint || !wanted.digests.is_empty();
        let outcome = if asked {
            pass::run(source, &wanted, None, self.setting)?
        } else {
            crate::count::count(source, self.setting)?
        };
        self.image.check_unchanged()?;
        Ok(Done {
            fingerprint: outcome.fingerprint,
            converted: Converted {
                source_size: size,
                target_size: size,
                file_size: size,
                data_bytes: outcome.data_bytes,
                zero_bytes: outcome.zero_bytes,
                digests: outcome.digests,
                verified_digest: outcome.affordable_digest,
                reflinked: true,
                ..Converted::default()
            },
        })
    }

    /// Holds what was written against what was read.
    fn verify(
        &self,
        output: &dyn Output,
        further: Vec<(OsString, StorageRef)>,
        done: &mut Done,
        padded: bool,
    ) -> Result<()> {
        let written = Written {
            format: self.format,
            storage: output.read_back()?,
            further,
            below: self
                .options
                .below
                .as_ref()
                .map(|below| below.source.clone()),
        };
        let expected = Expected {
            size: self.image.source.size(),
            fingerprint: done.fingerprint,
            target_size: padded.then_some(done.converted.target_size),
        };
        verify(written, &expected, self.setting)?;
        done.converted.verified = true;
        Ok(())
    }
}

/// Fails when the image below has data in `rest`: what a target's sector has behind the end of the disk, and should be
/// zeros, would be that data.
fn check_rest(below: &dyn BlockSource, rest: Range<u64>) -> Result<()> {
    let end = rest.end.min(below.size());
    let mut bytes = vec![0; end.saturating_sub(rest.start) as usize];
    formats::reader::read_guest(below, rest.start, &mut bytes)?;
    if is_zero(&bytes) {
        return Ok(());
    }
    Err(Error::refused(
        "overlay",
        "the disk ends inside a sector, and the image below has data in the rest of it",
    )
    .at(rest.start)
    .hint("make the source a whole number of sectors long, or write it without -B")
    .into())
}

/// A finished copy, not yet in place.
struct Done {
    converted: Converted,
    fingerprint: Option<[u8; 32]>,
}

/// Digests of the guest content of `source`.
///
/// # Errors
/// Those of the source; `Interrupted`.
pub fn digest(
    source: &Arc<dyn BlockSource>,
    algorithms: &[Algorithm],
    setting: &Setting<'_>,
) -> Result<Vec<(Algorithm, String)>> {
    let wanted = Wanted {
        digests: algorithms.to_vec(),
        ..Wanted::default()
    };
    Ok(pass::run(source.as_ref(), &wanted, None, setting)?.digests)
}
