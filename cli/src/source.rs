//! What a verb reads: a disk image, or a disk out of a package.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use formats::unpacked::Pool;
use formats::{Error, FileStorage, Format, Image, OpenContext, StorageRef};
use packages::{Choice, Kind, Opened, integrity};
use transfer::Condition;

use crate::args::Opening;
use crate::failure::Failure;
use crate::{open, receipt, report};

/// A format that the user may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// Of a disk.
    Disk(Format),
    /// Of a package.
    Package(Kind),
}

impl Named {
    /// The format of this name, if one is named.
    ///
    /// # Errors
    /// `Usage` for a name that nobody knows.
    pub fn parse(name: Option<&str>) -> Result<Option<Named>, Failure> {
        match name.and_then(Kind::by_name) {
            Some(kind) => Ok(Some(Named::Package(kind))),
            None => Ok(open::format(name)?.map(Named::Disk)),
        }
    }
}

/// A disk that was opened.
pub struct Source {
    /// Its content.
    pub image: Image,
    /// What it is called in messages: the file, and the member of it.
    pub path: PathBuf,
    /// What it is stored as.
    pub format: String,
    /// Bytes that it takes where it is stored.
    pub file_size: u64,
    /// Whether it stands in a package.
    pub is_packaged: bool,
    /// Whether a package describes it, but has no file for it.
    pub is_blank: bool,
    pending: Vec<integrity::Pending>,
    salvage: bool,
}

impl Source {
    /// The disk image at `path`.
    pub fn of_image(path: &Path, image: Image) -> Source {
        let tip = image.tip();
        Source {
            path: path.to_owned(),
            format: tip.map_or(String::new(), |tip| tip.info.format.to_string()),
            file_size: tip.map_or(0, |tip| tip.file_size()),
            image,
            is_packaged: false,
            is_blank: false,
            pending: Vec::new(),
            salvage: false,
        }
    }

    /// Starts to compute the digests that the disk's files should have, and answers the condition that they have them.
    pub fn watch(&mut self, cancel: &Arc<AtomicBool>) -> Option<Condition> {
        watch(self.take_pending(), cancel, self.salvage)
    }

    /// The digests that its files should have, for whoever watches over them.
    pub fn take_pending(&mut self) -> Vec<integrity::Pending> {
        std::mem::take(&mut self.pending)
    }
}

/// Starts to compute digests, and answers the condition that they are right. With `salvage`, a wrong one is only told.
pub fn watch(
    pending: Vec<integrity::Pending>,
    cancel: &Arc<AtomicBool>,
    salvage: bool,
) -> Option<Condition> {
    let holds = integrity::watch(pending, cancel)?;
    if !salvage {
        return Some(holds);
    }
    Some(Arc::new(move || {
        match holds() {
            Err(transfer::Error::Image(error)) => report::warning(&error.to_string()),
            other => other?,
        }
        Ok(())
    }))
}

/// Opens the disk in the file at `path`: the file itself, or the one in the package that `opening` picks. Says on standard
/// error what is odd about it.
///
/// # Errors
/// What is wrong with the file; `Usage` when nobody can tell which disk is meant, or one is picked of what is no package.
pub fn disk(
    path: &Path,
    format: Option<&str>,
    opening: &Opening,
    context: &OpenContext,
) -> Result<Source, Failure> {
    let source = disk_or_image(path, format, &choice(opening), context)?;
    if !source.is_packaged {
        refuse_choice(opening, path)?;
    }
    Ok(source)
}

/// As [`disk`], but `choice` is no error for what is no package.
///
/// # Errors
/// As [`disk`].
pub fn disk_or_image(
    path: &Path,
    format: Option<&str>,
    choice: &Choice,
    context: &OpenContext,
) -> Result<Source, Failure> {
    let found = Found::open(path, format)?;
    if let Some(opened) = found.package(context)? {
        if context.layer.is_some() {
            return Err(
                Error::usage("--layer", "is for disks that are not in a package")
                    .in_file(path)
                    .into(),
            );
        }
        let machine = choice.machine(&opened)?;
        let disk = choice.disk(&opened, machine)?;
        say_package(&opened);
        judge_package(&opened, context.salvage)?;
        return disk_of(&opened, machine, disk, context);
    }
    let image = formats::open_storage(found.file, found.format, context)?;
    let mut image = open::said(image)?;
    if !image
        .storages
        .iter()
        .any(|s| s.file_id() == found.outermost.file_id())
    {
        image.storages.push(found.outermost);
    }
    Ok(Source {
        salvage: context.salvage,
        ..Source::of_image(path, image)
    })
}

/// A file that the user named: unpacked if it is packed, and known for what it is.
pub struct Found {
    /// Its bytes.
    pub file: StorageRef,
    /// The file itself.
    pub outermost: StorageRef,
    /// The format of disks that the user named.
    pub format: Option<Format>,
    /// What sort of package it is.
    pub kind: Option<Kind>,
}

impl Found {
    /// Looks at the file at `path`. With a disk's format, its bytes are taken for that whatever they look like.
    ///
    /// # Errors
    /// Those of the file; `Usage` for a format that nobody knows.
    pub fn open(path: &Path, format: Option<&str>) -> Result<Found, Failure> {
        receipt::refuse_half_applied(path)?;
        Found::open_half_applied(path, format)
    }

    /// The same, also while a delta is applied to it only in part.
    ///
    /// # Errors
    /// As [`Found::open`].
    pub fn open_half_applied(path: &Path, format: Option<&str>) -> Result<Found, Failure> {
        let named = Named::parse(format)?;
        let file: StorageRef = Arc::new(FileStorage::open(path)?);
        let outermost = file.clone();
        let (file, format, kind) = match named {
            Some(Named::Disk(format)) => (file, Some(format), None),
            Some(Named::Package(kind)) => (unpacked(file)?, None, Some(kind)),
            None => {
                let file = unpacked(file)?;
                let kind = packages::recognise(&file)?;
                (file, None, kind)
            }
        };
        Ok(Found {
            file,
            outermost,
            format,
            kind,
        })
    }

    /// The package, if it is one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn package(&self, context: &OpenContext) -> Result<Option<Opened>, Failure> {
        let Some(kind) = self.kind else {
            return Ok(None);
        };
        let mut opened = packages::open(self.file.clone(), kind, context)?;
        opened.outermost = self.outermost.clone();
        Ok(Some(opened))
    }
}

fn unpacked(file: StorageRef) -> Result<StorageRef, Failure> {
    Ok(match packages::packed::is_packed(&file)? {
        true => packages::packed::unpacked(file, u64::MAX, &Pool::default())?,
        false => file,
    })
}

/// The package in the file at `path`, if it is one.
///
/// # Errors
/// What is wrong with it.
pub fn package(
    path: &Path,
    format: Option<&str>,
    context: &OpenContext,
) -> Result<Option<Opened>, Failure> {
    Found::open(path, format)?.package(context)
}

/// What the options say about machines and disks of packages.
pub fn choice(opening: &Opening) -> Choice {
    Choice {
        machine: opening.vm.clone(),
        disk: opening.disk.clone(),
    }
}

/// Opens one disk of a package.
///
/// # Errors
/// What is wrong with it.
pub fn disk_of(
    opened: &Opened,
    machine: usize,
    disk: usize,
    context: &OpenContext,
) -> Result<Source, Failure> {
    let disk = opened.disk(machine, disk, context)?;
    open::refuse_half_applied(&disk.image)?;
    for warning in &disk.warnings {
        report::warning(&format!("{}: {warning}", disk.path.display()));
    }
    Ok(Source {
        image: disk.image,
        path: disk.path,
        format: disk.format,
        file_size: disk.file_size,
        is_packaged: true,
        is_blank: disk.is_blank,
        pending: disk.pending,
        salvage: context.salvage,
    })
}

/// Fails for a package that its manifest or certificate disproves, unless damage is expected.
///
/// # Errors
/// `Malformed`.
pub fn judge_package(opened: &Opened, salvage: bool) -> Result<(), Failure> {
    if let (Some(damage), false) = (opened.seal.damage.first(), salvage) {
        return Err(Error::malformed("package", damage.clone())
            .hint("--salvage reads it all the same")
            .in_file(opened.path())
            .into());
    }
    Ok(())
}

/// Says what is odd about a package.
pub fn say_package(opened: &Opened) {
    let all = opened.warnings.iter().chain(&opened.seal.damage);
    all.for_each(|warning| report::warning(&format!("{}: {warning}", opened.path().display())));
    let is_sealable = matches!(opened.kind, Kind::Ova | Kind::Ovf) && opened.seal.damage.is_empty();
    if opened.seal.manifest.is_none() && is_sealable {
        report::note("the package has no manifest: nothing vouches for its files");
    }
}

/// Fails when a machine or a disk is chosen of what is no package.
///
/// # Errors
/// `Usage`.
pub fn refuse_choice(opening: &Opening, path: &Path) -> Result<(), Failure> {
    let option = match (&opening.disk, &opening.vm) {
        (Some(_), _) => "--disk",
        (None, Some(_)) => "--vm",
        (None, None) => return Ok(()),
    };
    Err(
        Error::usage(option, "picks from a package, and this is a disk image")
            .in_file(path)
            .into(),
    )
}
