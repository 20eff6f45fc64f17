//! Converting an image: what it may be written to, the copy, and everything that makes the result proved and in place.

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use formats::{BlockSource, BlockTarget, Error, Format, Image, Options, StorageRef, driver};

use crate::copy::{Copied, Copy, CopyOptions};
use crate::digest::Algorithm;
use crate::error::Result;
use crate::output::file::already_there;
use crate::output::{DeviceOutput, FileOutput, FileSet, Output, StreamOutput};
use crate::pass::{self, Setting, Wanted};
use crate::reflink;
use crate::refusals::{check_name, refuse_own_source};
use crate::verify::{Expected, Written, verify};

/// Where the result goes.
pub enum Place<'a> {
    /// A new file, which replaces an existing one only if `force` is set.
    File {
        /// Its name.
        path: &'a Path,
        /// Whether it may replace a file.
        force: bool,
    },
    /// The file that is read: the new image gets its name once it is proved to hold the same.
    Replacement {
        /// Its name.
        path: &'a Path,
        /// What the old file is called from then on; without a name it is removed.
        kept: Option<&'a Path>,
    },
    /// An existing block device.
    Device(&'a Path),
    /// Standard output, or whatever takes bytes in order.
    Stream(Box<dyn Write + Send + 'a>),
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
    options: &CopyOptions,
    setting: &Setting<'_>,
) -> Result<Converted> {
    let file_name = match place {
        Place::File { path, .. } | Place::Replacement { path, .. } | Place::Device(path) => path,
        Place::Stream(_) => Path::new("-"),
    };
    let format_options = &format_options
        .clone()
        .for_sectors(image.source.sector_size());
    let target = driver(format).target(image.source.size(), format_options, file_name)?;
    let job = Job {
        copy: Copy {
            image,
            options,
            setting,
        },
        format,
    };
    match place {
        Place::File { path, force } => job.to_file(target, path, force),
        Place::Replacement { path, kept } => job.to_replacement(target, path, kept),
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
    let options = CopyOptions {
        sparse,
        ..CopyOptions::default()
    };
    let copy = Copy {
        image,
        options: &options,
        setting,
    };
    let exact = target.packer().is_none();
    Ok(Measured {
        file_size: copy.measure(target)?.file_size,
        exact,
    })
}

struct Job<'a> {
    copy: Copy<'a>,
    format: Format,
}

impl Job<'_> {
    fn to_file(&self, target: Box<dyn BlockTarget>, path: &Path, force: bool) -> Result<Converted> {
        let given = path;
        let sources = self.copy.sources();
        refuse_own_source(given, &sources)?;
        let real = check_name(given, force)?;
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
            refuse_own_source(&beside, &sources)?;
        }
        let output = FileSet::create(path, &further, force)?;
        self.check_space(target.as_ref(), &output, path)?;
        let (done, reflinked) = match output.first() {
            Some(file) if self.can_reflink() && self.reflink(file) => {
                (self.after_reflink(target, file)?, true)
            }
            _ => (self.copy.run(target, &output)?, false),
        };
        if self.copy.options.verify {
            let further = output.read_back_further()?;
            self.verify(&output, further, &done, true)?;
        }
        output.commit(force)?;
        Ok(Converted {
            reflinked,
            ..self.converted(done)
        })
    }

    /// Writes beside the source, and swaps the two at the very end.
    fn to_replacement(
        &self,
        target: Box<dyn BlockTarget>,
        path: &Path,
        kept: Option<&Path>,
    ) -> Result<Converted> {
        let tip = self.copy.image.tip();
        let own: Vec<&Path> = tip.map_or(Vec::new(), |tip| {
            tip.further.iter().map(|storage| storage.path()).collect()
        });
        let further = target.further_parts();
        for name in &further {
            let beside = path.with_file_name(name);
            if !own.contains(&&*beside) && std::fs::symlink_metadata(&beside).is_ok() {
                return Err(already_there(&beside).into());
            }
        }
        if kept.is_some() && !(own.is_empty() && further.is_empty()) {
            return Err(Error::usage("--keep-old", "is for images of one file")
                .in_file(path)
                .into());
        }
        let output = FileSet::create(path, &further, true)?;
        let done = self.copy.run(target, &output)?;
        let new_files = output.read_back_further()?;
        self.verify(&output, new_files, &done, true)?;
        // Verifying took its time.
        self.copy.check_source()?;
        if let Some(kept) = kept {
            keep(path, kept)?;
        }
        output.commit(true).inspect_err(|_| {
            if let Some(kept) = kept {
                let _ = std::fs::remove_file(kept);
            }
        })?;
        let is_new = |old: &Path| further.iter().any(|name| path.with_file_name(name) == *old);
        for old in own.into_iter().filter(|old| !is_new(old)) {
            // Nothing refers to it any more.
            let _ = std::fs::remove_file(old);
        }
        Ok(self.converted(done))
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
        refuse_own_source(path, &self.copy.sources())?;
        let output = DeviceOutput::open(path, target.size())?;
        output.begin()?;
        let left = output.len() - target.size();
        let done = self.copy.run(target, &output)?;
        output.commit()?;
        if self.copy.options.verify {
            self.verify(&output, Vec::new(), &done, false)?;
        }
        Ok(Converted {
            left_on_device: left,
            ..self.converted(done)
        })
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
        if self.copy.options.verify {
            return impossible(
                "cannot be read back".to_owned(),
                "leave out --verify; --digest tells what was sent",
            );
        }
        let output = StreamOutput::new(writer);
        Ok(self.converted(self.copy.run(target, &output)?))
    }

    fn converted(&self, done: Copied) -> Converted {
        Converted {
            source_size: self.copy.image.source.size(),
            target_size: done.target_size,
            file_size: done.file_size,
            data_bytes: done.outcome.data_bytes,
            zero_bytes: done.outcome.zero_bytes,
            digests: done.outcome.digests,
            verified: self.copy.options.verify,
            verified_digest: done.outcome.affordable_digest,
            notes: done.notes,
            ..Converted::default()
        }
    }

    /// A target of known size that certainly does not fit is refused before the first byte.
    fn check_space(&self, target: &dyn BlockTarget, output: &FileSet, path: &Path) -> Result<()> {
        let needed = match (target.exact_length(), self.copy.options.sparse) {
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

    /// Only a raw file to a raw file, whole and unscanned, is the same bytes.
    fn can_reflink(&self) -> bool {
        let raw = |format| format == Format::Raw;
        self.copy.options.reflink
            && self.copy.options.sparse.is_none()
            && raw(self.format)
            && self.copy.image.layers.len() == 1
            && self
                .copy
                .image
                .tip()
                .is_some_and(|tip| raw(tip.info.format))
            && self.copy.setting.salvage.is_none()
    }

    fn reflink(&self, output: &FileOutput) -> bool {
        let source = self
            .copy
            .image
            .tip()
            .and_then(|tip| tip.storage.whole_file());
        source.is_some_and(|source| reflink::clone_file(source, output.file()))
    }

    /// What a clone still owes: digests, and the counts.
    fn after_reflink(&self, target: Box<dyn BlockTarget>, output: &FileOutput) -> Result<Copied> {
        let size = target.size();
        output.sync()?;
        let wanted = Wanted {
            digests: self.copy.options.digests.clone(),
            affordable_digest: (self.copy.options.verify || self.copy.options.affordable_digest)
                && self.copy.options.digests.is_empty(),
            fingerprint: self.copy.options.verify,
        };
        let source = self.copy.image.source.as_ref();
        let asked = wanted.fingerprint || !wanted.digests.is_empty();
        let outcome = if asked {
            pass::run(source, &wanted, None, self.copy.setting)?
        } else {
            crate::count::count(source, self.copy.setting)?
        };
        self.copy.check_source()?;
        Ok(Copied {
            target_size: size,
            file_size: size,
            notes: Vec::new(),
            outcome,
        })
    }

    /// Holds what was written against what was read.
    fn verify(
        &self,
        output: &dyn Output,
        further: Vec<(OsString, StorageRef)>,
        done: &Copied,
        padded: bool,
    ) -> Result<()> {
        let written = Written {
            format: self.format,
            storage: output.read_back()?,
            further,
            below: self
                .copy
                .options
                .below
                .as_ref()
                .map(|below| below.source.clone()),
        };
        let expected = Expected {
            size: self.copy.image.source.size(),
            fingerprint: done.outcome.fingerprint,
            target_size: padded.then_some(done.target_size),
        };
        verify(written.disk()?, &expected, self.copy.setting)
    }
}

/// Gives the file at `path` a second name, which stays when the first one is taken.
fn keep(path: &Path, kept: &Path) -> Result<()> {
    std::fs::hard_link(path, kept).map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => already_there(kept).into(),
        _ => Error::io("keep the old file under another name", e)
            .in_file(kept)
            .into(),
    })
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
