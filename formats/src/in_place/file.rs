//! A file that is open for writing, and locked.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, FallocateFlags, FlockOperation, OFlags};

use super::{InPlace, fill, no_punching};
use crate::error::{Error, Result};
use crate::storage::{Storage, check_range};

/// A file that is open for writing, and locked against other programs that lock what they write (QEMU does).
#[derive(Debug)]
pub struct InPlaceFile {
    file: File,
    path: PathBuf,
}

impl InPlaceFile {
    /// Opens the file that `storage` reads. The lock goes with any handle of this process on the file: none may be closed
    /// before the last write.
    ///
    /// # Errors
    /// `Refused` when another program has it in use, or when another file has taken its name; `Io`.
    pub fn open(storage: &dyn Storage) -> Result<InPlaceFile> {
        let path = storage.path();
        let failed = |what: &'static str, e| Error::io(what, e).in_file(path);
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        if storage.is_device() {
            // Fails when it is mounted, or otherwise in use by the kernel.
            options.custom_flags(OFlags::EXCL.bits() as i32);
        }
        let file = options.open(path).map_err(|e| match e.raw_os_error() {
            Some(code) if code == rustix::io::Errno::BUSY.raw_os_error() => in_use(path),
            _ => failed("open for writing", e),
        })?;
        let meta = file.metadata().map_err(|e| failed("stat", e))?;
        if storage.file_id() != Some((meta.dev(), meta.ino())) {
            return Err(
                Error::refused("file", "is no longer the one that was checked").in_file(path),
            );
        }
        lock(&file, path)?;
        Ok(InPlaceFile {
            file,
            path: path.to_owned(),
        })
    }
}

impl InPlaceFile {
    /// Makes a file called `path` with the rights of this one.
    fn write_beside(&self, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
        let meta = self.file.metadata()?;
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        file.write_all(bytes)?;
        // Only root can give files away; whoever else runs this owns the new one.
        let _ = fchown(&file, Some(meta.uid()), Some(meta.gid()));
        file.set_permissions(meta.permissions())?;
        file.sync_all()
    }
}

fn in_use(path: &Path) -> Error {
    Error::refused("file", "is in use by another program")
        .hint("stop what has it open (is the VM still running?) and start again")
        .in_file(path)
}

fn lock(file: &File, path: &Path) -> Result<()> {
    // Locks of the other kind are only looked for: where a server keeps both, they would be in each other's way. Devices
    // are locked like this by udev, again and again.
    let is_device = file
        .metadata()
        .is_ok_and(|m| m.file_type().is_block_device());
    if !is_device {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(in_use(path)),
            Ok(()) => rustix::fs::flock(file, FlockOperation::Unlock)
                .map_err(|e| Error::io("unlock", e.into()).in_file(path))?,
            // A file system without such locks.
            Err(_) => {}
        }
    }
    match rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => Err(in_use(path)),
        // A file system without locks.
        Err(rustix::io::Errno::NOLCK | rustix::io::Errno::NOTSUP | rustix::io::Errno::INVAL) => {
            Ok(())
        }
        Err(e) => Err(Error::io("lock", e.into()).in_file(path)),
    }
}

impl InPlace for InPlaceFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.file
            .write_all_at(bytes, offset)
            .map_err(|e| Error::io("write", e).at(offset).in_file(&self.path))
    }

    fn zero_at(&self, offset: u64, len: u64) -> Result<()> {
        let meta = self.file.metadata();
        let is_device = meta.is_ok_and(|meta| meta.file_type().is_block_device());
        let zeroed = match is_device {
            true => {
                let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
                let zeroed = rustix::fs::fallocate(&self.file, flags, offset, len);
                zeroed.map_err(|e| Error::io("zero", e.into()))
            }
            // A hole reads as zeros, and takes no room.
            false => self.punch(offset, len),
        };
        zeroed.or_else(|_| fill(self, offset, len, 0))
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let failed = |e| Error::io("set the length", e).in_file(&self.path);
        let meta = self.file.metadata().map_err(failed)?;
        if meta.file_type().is_block_device() {
            return Err(Error::refused("device", "has the size that it has").in_file(&self.path));
        }
        self.file.set_len(len).map_err(failed)
    }

    fn replace(&self, bytes: &[u8]) -> Result<()> {
        let failed = |e| Error::io("replace", e).in_file(&self.path);
        // The name may be a link: what is replaced is the file that it leads to.
        let path = self.path.canonicalize().map_err(failed)?;
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Error::refused("file", "has no name").in_file(&self.path));
        };
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".diskferry-{}", std::process::id()));
        let temporary = folder.join(hidden);
        let placed = self
            .write_beside(&temporary, bytes)
            .and_then(|()| std::fs::rename(&temporary, &path));
        if placed.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        placed
            .and_then(|()| File::open(folder)?.sync_all())
            .map_err(failed)
    }

    fn sync(&self) -> Result<()> {
        self.file
            .sync_data()
            .map_err(|e| Error::io("sync", e).in_file(&self.path))
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        loop {
            return match rustix::fs::fallocate(&self.file, flags, offset, len) {
                Ok(()) => Ok(()),
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                    Err(no_punching().in_file(&self.path))
                }
                Err(e) => Err(Error::io("make a hole", e.into())
                    .at(offset)
                    .in_file(&self.path)),
            };
        }
    }

    fn drop_cached(&self, offset: u64, len: u64) {
        let len = std::num::NonZeroU64::new(len);
        // Advice only: without it, what is read comes from memory.
        let _ = rustix::fs::fadvise(&self.file, offset, len, Advice::DontNeed);
    }
}

/// The file as it is by now: its length is asked for each time.
impl Storage for InPlaceFile {
    fn len(&self) -> u64 {
        self.file.metadata().map_or(0, |meta| meta.len())
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(&self.path, self.len(), offset, buf.len())?;
        self.file
            .read_exact_at(buf, offset)
            .map_err(|e| Error::io("read", e).at(offset).in_file(&self.path))
    }

    fn allocated(&self) -> Result<u64> {
        let meta = self.file.metadata();
        let meta = meta.map_err(|e| Error::io("stat", e).in_file(&self.path))?;
        Ok(meta.blocks().saturating_mul(512))
    }

    fn file_id(&self) -> Option<(u64, u64)> {
        let meta = self.file.metadata().ok()?;
        Some((meta.dev(), meta.ino()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::storage::FileStorage;

    #[test]
    fn a_file_is_replaced_by_its_name_also_behind_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::write(&path, "one").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let storage = FileStorage::open(&link).unwrap();
        let file = InPlaceFile::open(&storage).unwrap();
        file.replace(b"another").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"another");
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_file_that_was_replaced_is_not_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, "one").unwrap();
        let storage = FileStorage::open(&path).unwrap();
        assert!(InPlaceFile::open(&storage).is_ok());
        std::fs::rename(&path, folder.path().join("b")).unwrap();
        std::fs::write(&path, "two").unwrap();
        let error = InPlaceFile::open(&storage).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
    }
}
