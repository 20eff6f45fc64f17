//! Receipts: what a copy was made from, and what was applied to it since.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use formats::resize::parts;
use formats::{Error, LayerFile, ParentReference};
use serde::{Deserialize, Serialize};
use transfer::output::file::folder_of;

use crate::failure::Failure;

/// What is added to the name of an image for that of its receipt.
const EXTENSION: &str = ".receipt.json";

/// Bytes that a receipt may have.
const LENGTH_MAX: u64 = 1 << 20;

/// The version of receipts that is written and understood.
const VERSION: u32 = 1;

/// What is known of a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The version of receipts.
    pub receipt: u32,
    /// What the copy holds the content of: the image that a delta on it has to stand on.
    pub source: Origin,
    /// The copy.
    pub target: Copy,
    /// The delta that is being applied. As long as it stands here, the copy is half of this and half of that.
    pub applying: Option<Origin>,
    /// Whether the copy becomes smaller if that delta is.
    #[serde(default)]
    pub shrinks: bool,
    /// The deltas that were applied, the last one last.
    pub applied: Vec<Origin>,
}

/// An image that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Its file.
    pub file: PathBuf,
    /// Its format.
    pub format: String,
    /// The id by which its children know it.
    pub identity: Option<String>,
    /// Size of its disk in bytes.
    pub size: u64,
    /// Length of its file in bytes.
    pub length: u64,
    /// When that was last written, in nanoseconds since 1970; nothing of devices.
    pub modified_ns: Option<i64>,
    /// Digest of its guest content, where it was computed.
    pub digest: Option<String>,
}

/// The copy as it was left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copy {
    /// Its format.
    pub format: String,
    /// Size of its disk in bytes.
    pub size: u64,
    /// Its files. Of devices nothing is known but the length.
    pub files: Vec<CopyFile>,
}

/// A file of a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyFile {
    /// Its name, without the folder.
    pub name: String,
    /// Its length in bytes.
    pub length: u64,
    /// When it was last written, in nanoseconds since 1970.
    pub modified_ns: Option<i64>,
    /// Its number in the file system: another file of this name is another copy.
    #[serde(default)]
    pub inode: Option<u64>,
}

impl Origin {
    /// What a receipt says of `layer`, whose disk has `size` bytes.
    pub fn of(layer: &LayerFile, size: u64, digest: Option<String>) -> Origin {
        let meta = fs::metadata(&layer.path).ok();
        Origin {
            file: layer
                .path
                .canonicalize()
                .unwrap_or_else(|_| layer.path.clone()),
            format: layer.info.format.to_string(),
            identity: layer.info.identity.map(|id| id.to_string()),
            size,
            length: layer.storage.len(),
            modified_ns: meta.as_ref().and_then(modified_ns),
            digest,
        }
    }

    /// Whether `now` is the same delta in the same state.
    pub fn is_same_delta(&self, now: &Origin) -> bool {
        let is_named = match &self.identity {
            Some(id) => now.identity.as_ref() == Some(id),
            None => now.identity.is_none() && self.file == now.file,
        };
        let state = |delta: &Origin| (delta.length, delta.modified_ns, delta.size);
        is_named && state(self) == state(now)
    }

    /// Whether `layer` is this very file, and nobody wrote to it since.
    pub fn is_still(&self, layer: &LayerFile) -> bool {
        let now = Origin::of(layer, self.size, self.digest.clone());
        now == *self && self.modified_ns.is_some()
    }

    /// Why this is not known to be what `parent` names, if it is not.
    pub fn doubt(&self, parent: &ParentReference) -> Option<String> {
        if !says_state(&self.format, parent) {
            let why = "the delta does not say which state of an image it stands on, and the file that it names is not \
                       there, or is not the one that was copied, as it was then";
            return Some(why.to_owned());
        }
        let ids: Vec<String> = parent.identities.iter().map(ToString::to_string).collect();
        let Some(own) = &self.identity else {
            return Some("what the copy was made from has no id".to_owned());
        };
        if !ids.contains(own) {
            let ids = ids.join(" or ");
            return Some(format!(
                "the copy holds image {own} ({}), and the delta stands on {ids}",
                self.file.display()
            ));
        }
        let modified = self
            .modified_ns
            .and_then(|ns| u64::try_from(ns / 1_000_000_000).ok());
        match (parent.modified, modified) {
            (Some(known), Some(read)) if read < known => Some(format!(
                "the image was written again (at {known}) after it was copied (as it was at {read}, in seconds since 1970)"
            )),
            _ => None,
        }
    }
}

impl Copy {
    /// The copy whose files are those of `layer`.
    ///
    /// # Errors
    /// `Io`.
    pub fn of(layer: &LayerFile) -> Result<Copy, Failure> {
        let mut files = Vec::new();
        for file in parts(layer) {
            let path = file.path();
            let meta = fs::metadata(path).map_err(|e| Error::io("stat", e).in_file(path))?;
            files.push(CopyFile {
                name: path
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned(),
                length: file.len(),
                modified_ns: modified_ns(&meta),
                inode: Some(meta.ino()),
            });
        }
        Ok(Copy {
            format: layer.info.format.to_string(),
            size: layer.source.size(),
            files,
        })
    }

    /// Whether `now` is in the same files, whatever is in them. A descriptor is another file after a change of size; the
    /// extents stay.
    pub fn has_files_of(&self, now: &Copy) -> bool {
        let mut both = self.files.iter().zip(&now.files);
        let is_kept = both.any(|(before, now)| before.inode == now.inode);
        let names = |copy: &Copy| -> Vec<_> { copy.files.iter().map(|f| f.name.clone()).collect() };
        self.format == now.format && is_kept && names(self) == names(now)
    }

    /// Why `now` is not as it was left, if it is not.
    pub fn doubt(&self, now: &Copy) -> Option<String> {
        if self.format != now.format {
            return Some(format!("it was {}, and is {}", self.format, now.format));
        }
        if self.size != now.size {
            return Some(format!(
                "its disk had {} bytes, and has {}",
                self.size, now.size
            ));
        }
        let mut both = self.files.iter().zip(&now.files);
        let same = |a: &CopyFile, b: &CopyFile| {
            a.length == b.length && a.modified_ns.is_none_or(|at| b.modified_ns == Some(at))
        };
        let other = both.find(|(before, now)| !same(before, now));
        match other {
            Some((_, now)) => Some(format!("{} was written to since", now.name)),
            None if self.files.len() != now.files.len() => Some("it has other files".to_owned()),
            None => None,
        }
    }
}

/// Whether a delta says in which state its parent has to be. A VHD and a VDI keep their ids when they are written to.
pub fn says_state(format: &str, parent: &ParentReference) -> bool {
    let keeps_id = matches!(format, "vhd" | "vdi");
    !parent.identities.is_empty() && (!keeps_id || parent.modified.is_some())
}

fn modified_ns(meta: &fs::Metadata) -> Option<i64> {
    let ns = meta.mtime().checked_mul(1_000_000_000)?;
    ns.checked_add(meta.mtime_nsec()).filter(|_| meta.is_file())
}

/// Where the receipt of the image at `path` is, if nobody says otherwise.
pub fn beside(path: &Path) -> PathBuf {
    // Behind a link is the same image.
    let path = &path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(EXTENSION);
    path.with_file_name(name)
}

/// Fails when something that is no receipt has the name that one is to get.
///
/// # Errors
/// `Refused`.
pub fn refuse_other_file(path: &Path) -> Result<(), Failure> {
    match (fs::symlink_metadata(path), read(path)) {
        (Err(e), _) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        (Ok(meta), Ok(Some(_))) if meta.is_file() => Ok(()),
        _ => Err(Error::refused("receipt", "another file has this name")
            .hint("give the receipt another name with --receipt=FILE")
            .in_file(path)
            .into()),
    }
}

/// The receipt in the file at `path`, if there is one.
///
/// # Errors
/// `Malformed` for what is none, `Io`.
pub fn read(path: &Path) -> Result<Option<Receipt>, Failure> {
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("stat", e).in_file(path).into()),
    };
    if !meta.is_file() || meta.len() > LENGTH_MAX {
        return Err(Error::malformed("receipt", "is no receipt")
            .in_file(path)
            .into());
    }
    let text = fs::read(path).map_err(|e| Error::io("read", e).in_file(path))?;
    let malformed = |what: String| {
        Error::malformed("receipt", "is no receipt of diskferry")
            .found(what)
            .hint("name the right one with --receipt FILE")
            .in_file(path)
    };
    let receipt: Receipt = serde_json::from_slice(&text).map_err(|e| malformed(e.to_string()))?;
    if receipt.receipt != VERSION {
        return Err(malformed(format!("version {}", receipt.receipt)).into());
    }
    Ok(Some(receipt))
}

impl Receipt {
    /// That `target` holds what `source` does.
    pub fn new(source: Origin, target: Copy) -> Receipt {
        Receipt {
            receipt: VERSION,
            source,
            target,
            applying: None,
            shrinks: true,
            applied: Vec::new(),
        }
    }

    /// Puts it into the file at `path`, whole, on stable storage.
    ///
    /// # Errors
    /// `Refused` when something else has this name, `Io`.
    pub fn write(&self, path: &Path) -> Result<(), Failure> {
        refuse_other_file(path)?;
        let failed = |e| Error::io("write the receipt", e).in_file(path);
        let text = serde_json::to_vec_pretty(self).map_err(|e| failed(e.into()))?;
        let folder = folder_of(path);
        let mut builder = tempfile::Builder::new();
        builder.permissions(fs::Permissions::from_mode(0o644));
        let mut file = builder.tempfile_in(folder).map_err(failed)?;
        file.write_all(&text).map_err(failed)?;
        file.write_all(b"\n").map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(path).map_err(|e| failed(e.error))?;
        let folder = File::open(folder).and_then(|folder| folder.sync_all());
        Ok(folder.map_err(failed)?)
    }
}

/// Fails when a delta is half applied to the image at `path`.
///
/// # Errors
/// `Refused`.
pub fn refuse_half_applied(path: &Path) -> Result<(), Failure> {
    let found = match read(&beside(path)) {
        // One that is there and cannot be read may say anything.
        Err(failure) if failure.is_io() && beside(path).is_file() => return Err(failure),
        // What is no receipt says nothing.
        Err(_) => None,
        Ok(found) => found,
    };
    match found.and_then(|found| found.applying) {
        None => Ok(()),
        Some(delta) => Err(Error::refused("image", "a delta was applied to it only in part")
            .found(delta.file.display())
            .hint("finish it: run \"diskferry apply\" again with the same delta; or make the copy anew, and remove its receipt")
            .in_file(path)
            .into()),
    }
}
