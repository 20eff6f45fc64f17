//! Files that are changed where they stand: only repairing does that.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::error::{Error, Result};
use crate::storage::Storage;

/// What repairing writes to.
pub trait InPlace: Send + Sync {
    /// Writes all of `bytes` at `offset`, inside the file.
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()>;

    /// Returns when everything written so far is on stable storage.
    fn sync(&self) -> Result<()>;
}

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
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|e| failed("open for writing", e))?;
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

fn lock(file: &File, path: &Path) -> Result<()> {
    match rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => {
            Err(Error::refused("file", "is in use by another program")
                .hint("stop what has it open (is the VM still running?) and start again")
                .in_file(path))
        }
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

    fn sync(&self) -> Result<()> {
        self.file
            .sync_data()
            .map_err(|e| Error::io("sync", e).in_file(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::storage::FileStorage;

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
