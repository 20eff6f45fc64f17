//! A file that appears whole or not at all.
//!
//! It is written without a name (`O_TMPFILE`), so that whatever happens, a crash included, leaves nothing behind; only a
//! complete, synced file is linked to its name. File systems without that get a hidden temporary name beside the target,
//! which is removed on every way out that a program can take.

use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use formats::{Error, FileStorage, Result, StorageRef, WritableStorage};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::Output;
use super::direct::DualFile;

/// The file is made longer by this much at a time: a direct write that extends a file waits for all others.
const AHEAD: u64 = 256 << 20;

/// A new file on its way to `path`.
#[derive(Debug)]
pub struct FileOutput {
    file: DualFile,
    path: PathBuf,
    folder: PathBuf,
    /// The temporary name, where the file needs one.
    temporary: Option<tempfile::TempPath>,
    len: AtomicU64,
    growing: Mutex<()>,
}

impl FileOutput {
    /// A new, empty file that [`FileOutput::commit`] will put at `path`.
    ///
    /// # Errors
    /// `Io` when the folder is not there or cannot be written to.
    pub fn create(path: &Path) -> Result<FileOutput> {
        let folder = folder_of(path).to_owned();
        let failed = |e: io::Error| Error::io("create", e).in_file(path);
        let unnamed = rustix::fs::openat(
            CWD,
            &folder,
            OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o666),
        );
        let (file, temporary) = match unnamed {
            Ok(fd) if Path::new("/proc/self/fd").exists() => (File::from(fd), None),
            // What open(2) answers where files without a name are not supported; anything else is the folder's fault.
            Err(e) if !matches!(e, Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                return Err(failed(e.into()));
            }
            _ => {
                let (file, temporary) = tempfile::Builder::new()
                    .prefix(".diskferry-")
                    .suffix(".part")
                    .permissions(std::fs::Permissions::from_mode(0o666))
                    .tempfile_in(&folder)
                    .map_err(failed)?
                    .into_parts();
                (file, Some(temporary))
            }
        };
        Ok(FileOutput {
            file: DualFile::new(file),
            path: path.to_owned(),
            folder,
            temporary,
            len: AtomicU64::new(0),
            growing: Mutex::new(()),
        })
    }

    /// Bytes that the file system has free for it.
    ///
    /// # Errors
    /// `Io` when the file system does not say.
    pub fn free_space(&self) -> Result<u64> {
        free_space(&self.folder)
    }

    /// The file being written, for making it a clone of another one.
    pub fn file(&self) -> &File {
        self.file.file()
    }

    /// Gives the file its name; it is synced before. An existing file is replaced in one step when `replace` is set.
    ///
    /// # Errors
    /// `Refused` when the name is taken and `replace` is not set, else `Io`; nothing is left behind then.
    pub fn commit(self, replace: bool) -> Result<()> {
        if replace {
            self.take_over_permissions();
        }
        self.sync()?;
        let folder = self.folder.clone();
        self.put_in_place(replace)?;
        sync_folder(&folder)
    }

    /// Gives the file its name. Neither it nor its folder is synced.
    ///
    /// # Errors
    /// As [`FileOutput::commit`].
    pub(super) fn put_in_place(self, replace: bool) -> Result<()> {
        let failed = |e: io::Error| match e.kind() {
            io::ErrorKind::AlreadyExists => already_there(&self.path),
            _ => Error::io("put in place", e).in_file(&self.path),
        };
        match self.temporary {
            Some(temporary) if replace => {
                temporary.persist(&self.path).map_err(|e| failed(e.error))?
            }
            Some(temporary) => temporary
                .persist_noclobber(&self.path)
                .map_err(|e| failed(e.error))?,
            None => {
                let unnamed = format!("/proc/self/fd/{}", self.file.file().as_raw_fd());
                if replace {
                    link_over(&unnamed, &self.folder, &self.path).map_err(failed)?;
                } else {
                    link(&unnamed, &self.path).map_err(failed)?;
                }
            }
        }
        Ok(())
    }

    /// A file that replaces another one is for those whom the other one was for. As far as this user may: a failure is no
    /// reason to lose the copy.
    pub(super) fn take_over_permissions(&self) {
        use std::os::unix::fs::MetadataExt;
        let Ok(old) = std::fs::metadata(&self.path) else {
            return;
        };
        let owner = rustix::fs::Uid::from_raw(old.uid());
        let group = rustix::fs::Gid::from_raw(old.gid());
        let _ = rustix::fs::fchown(self.file.file(), Some(owner), Some(group));
        let _ = self.file.file().set_permissions(old.permissions());
    }

    fn error(&self, operation: &'static str, e: io::Error) -> Error {
        Error::io(operation, e).in_file(&self.path)
    }

    /// Sees to it that a write up to `end` does not extend the file. Failing at that is no error: the write itself will
    /// tell.
    fn make_room(&self, end: u64) {
        if end <= self.len.load(Ordering::Relaxed) {
            return;
        }
        // One thread at a time: a shorter length set after a longer one would cut off what others wrote.
        let _growing = self.growing.lock().unwrap_or_else(|e| e.into_inner());
        let wanted = end.saturating_add(AHEAD);
        if end > self.len.load(Ordering::Relaxed) && self.file.file().set_len(wanted).is_ok() {
            self.len.store(wanted, Ordering::Relaxed);
        }
    }
}

/// The folder that the file at `path` is in.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Sees to it that new names in `folder` are on stable storage.
///
/// # Errors
/// `Io` when they may not be.
pub fn sync_folder(folder: &Path) -> Result<()> {
    let synced = match File::open(folder) {
        Ok(file) => file.sync_all(),
        // A folder that may be written to but not read: everything then.
        Err(_) => {
            rustix::fs::sync();
            Ok(())
        }
    };
    synced.map_err(|e| Error::io("sync the folder", e).in_file(folder))
}

/// Bytes that the file system of `folder` has free for this user.
///
/// # Errors
/// `Io` when the file system does not say.
pub fn free_space(folder: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(folder)
        .map_err(|e| Error::io("look for free space", e.into()).in_file(folder))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn link(unnamed: &str, path: &Path) -> io::Result<()> {
    rustix::fs::linkat(CWD, unnamed, CWD, path, AtFlags::SYMLINK_FOLLOW).map_err(Into::into)
}

/// A link cannot replace a name; a rename can.
fn link_over(unnamed: &str, folder: &Path, path: &Path) -> io::Result<()> {
    for attempt in 0..100 {
        let name = folder.join(format!(".diskferry-{}-{attempt}.part", std::process::id()));
        match link(unnamed, &name) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(e) => return Err(e),
            Ok(()) => {
                return std::fs::rename(&name, path).inspect_err(|_| {
                    let _ = std::fs::remove_file(&name);
                });
            }
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// The error for a target that exists.
pub fn already_there(path: &Path) -> Error {
    Error::refused("target", "exists already")
        .hint("--force replaces it")
        .in_file(path)
}

impl WritableStorage for FileOutput {
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.file
            .file()
            .write_all_at(bytes, offset)
            .map_err(|e| self.error("write", e).at(offset))
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.len.store(len, Ordering::Relaxed);
        self.file
            .file()
            .set_len(len)
            .map_err(|e| self.error("set the length", e))
    }
}

impl Output for FileOutput {
    fn write_pieces(&self, pieces: &[IoSlice<'_>], offset: u64) -> Result<()> {
        let total: u64 = pieces.iter().map(|p| p.len() as u64).sum();
        self.make_room(offset.saturating_add(total));
        self.file
            .write_pieces(pieces, offset)
            .map_err(|e| self.error("write", e).at(offset))
    }

    fn zero_range(&self, _range: Range<u64>) -> Result<()> {
        // A new file reads as zeros wherever nothing was written.
        Ok(())
    }

    fn reserve(&self) -> Result<()> {
        let failed = |e: io::Error| self.error("reserve room", e);
        let len = self.file.file().metadata().map_err(failed)?.len();
        if len == 0 {
            return Ok(());
        }
        rustix::fs::fallocate(
            self.file.file(),
            rustix::fs::FallocateFlags::empty(),
            0,
            len,
        )
        .map_err(|e| failed(e.into()))
    }

    fn sync(&self) -> Result<()> {
        self.file
            .file()
            .sync_data()
            .map_err(|e| self.error("sync", e))
    }

    fn read_back(&self) -> Result<StorageRef> {
        let file = self
            .file
            .read_back()
            .map_err(|e| self.error("read back", e))?;
        Ok(Arc::new(FileStorage::from_file(file, &self.path)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn nothing_is_there_until_it_is_committed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let output = FileOutput::create(&path).unwrap();
        output.write_at(b"abc", 0).unwrap();
        assert!(!path.exists());
        output.commit(false).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"abc");
        assert_eq!(names(folder.path()), ["a"]);
    }

    #[test]
    fn a_dropped_output_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let output = FileOutput::create(&folder.path().join("a")).unwrap();
        output.write_at(b"abc", 0).unwrap();
        drop(output);
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn a_name_that_was_taken_meanwhile_is_refused_or_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let output = FileOutput::create(&path).unwrap();
        std::fs::write(&path, "old").unwrap();
        let error = output.commit(false).unwrap_err();
        assert_eq!(error.kind(), formats::ErrorKind::Refused);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        let output = FileOutput::create(&path).unwrap();
        output.write_at(b"new", 0).unwrap();
        output.commit(true).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["a"]);
    }
}
