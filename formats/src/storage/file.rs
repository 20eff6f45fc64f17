//! A plain file or a block device.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::SeekFrom;

use super::{Storage, check_range};
use crate::error::{Error, Result};

/// A plain file or a block device, opened for reading only.
#[derive(Debug)]
pub struct FileStorage {
    file: File,
    path: PathBuf,
    len: u64,
    device: bool,
    opened: Stamp,
}

/// What changes when somebody writes to a file.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
struct Stamp {
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(file: &File) -> io::Result<Stamp> {
        let meta = file.metadata()?;
        Ok(Stamp {
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
        })
    }
}

impl FileStorage {
    /// Opens the file or block device at `path` read-only.
    ///
    /// # Errors
    /// `Io` when it cannot be opened, `Unsupported` for a folder, pipe or anything else that has no random access.
    pub fn open(path: &Path) -> Result<FileStorage> {
        // Without O_NONBLOCK a FIFO would hang here until somebody writes to it.
        let file = File::options()
            .read(true)
            .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
            .open(path)
            .map_err(|e| Error::io("open", e).in_file(path))?;
        Self::from_file(file, path)
    }

    /// Takes a file that is open for reading; `path` is for messages.
    ///
    /// # Errors
    /// As [`FileStorage::open`].
    pub fn from_file(file: File, path: &Path) -> Result<FileStorage> {
        let meta = file
            .metadata()
            .map_err(|e| Error::io("stat", e).in_file(path))?;
        let kind = meta.file_type();
        let device = kind.is_block_device();
        if !device && !kind.is_file() {
            return Err(
                Error::unsupported("file", "is neither a plain file nor a block device")
                    .in_file(path),
            );
        }
        // st_size of a block device is 0, and so is what stat says: its end has to be sought.
        let len = if device {
            rustix::fs::seek(&file, SeekFrom::End(0))
                .map_err(|e| Error::io("find the size", e.into()).in_file(path))?
        } else {
            meta.size()
        };
        // Files of /proc and /sys say 0 whatever they hold.
        if len == 0 && file.read_at(&mut [0], 0).is_ok_and(|read| read > 0) {
            return Err(Error::unsupported("file", "has content but no size").in_file(path));
        }
        let opened = Stamp::of(&file).map_err(|e| Error::io("stat", e).in_file(path))?;
        Ok(FileStorage {
            file,
            path: path.to_owned(),
            len,
            device,
            opened,
        })
    }

    fn seek(&self, to: SeekFrom) -> Result<Option<u64>> {
        match rustix::fs::seek(&self.file, to) {
            Ok(offset) => Ok(Some(offset)),
            Err(rustix::io::Errno::NXIO) => Ok(None),
            Err(e) => Err(Error::io("look for holes", e.into()).in_file(&self.path)),
        }
    }
}

impl Storage for FileStorage {
    fn len(&self) -> u64 {
        self.len
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(&self.path, self.len, offset, buf.len())?;
        self.file
            .read_exact_at(buf, offset)
            .map_err(|e| match e.kind() {
                io::ErrorKind::UnexpectedEof => {
                    Error::truncated("file", "shrank while it was read")
                        .at(offset)
                        .in_file(&self.path)
                }
                _ => Error::io("read", e).at(offset).in_file(&self.path),
            })
    }

    fn extent(&self, offset: u64, limit: u64) -> Result<(u64, bool)> {
        if self.device || limit == 0 {
            return Ok((limit, true));
        }
        let data = match self.seek(SeekFrom::Data(offset)) {
            Ok(data) => data,
            // A file system that knows no holes says so in one of several ways: then all is data.
            Err(_) => return Ok((limit, true)),
        };
        match data {
            // No data up to the end: a hole, unless the file has become shorter, which reading says.
            None => Ok((
                limit,
                self.seek(SeekFrom::End(0))?
                    .is_some_and(|end| end < self.len),
            )),
            Some(start) if start > offset => Ok(((start - offset).min(limit), false)),
            Some(_) => {
                let end = self.seek(SeekFrom::Hole(offset))?.unwrap_or(self.len);
                Ok((end.saturating_sub(offset).clamp(1, limit), true))
            }
        }
    }

    fn allocated(&self) -> Result<u64> {
        if self.device {
            return Ok(self.len);
        }
        let meta = self
            .file
            .metadata()
            .map_err(|e| Error::io("stat", e).in_file(&self.path))?;
        Ok(meta.blocks().saturating_mul(512))
    }

    fn check_unchanged(&self) -> Result<()> {
        let now = Stamp::of(&self.file).map_err(|e| Error::io("stat", e).in_file(&self.path))?;
        // A device has no modification time of its content.
        if self.device || now == self.opened {
            return Ok(());
        }
        Err(Error::refused("file", "changed while it was read")
            .found(format!("{now:?}"))
            .expected(format!("{:?}", self.opened))
            .hint("stop what writes to it (is the VM still running?) and start again")
            .in_file(&self.path))
    }

    fn file_id(&self) -> Option<(u64, u64)> {
        let meta = self.file.metadata().ok()?;
        Some((meta.dev(), meta.ino()))
    }

    fn whole_file(&self) -> Option<&File> {
        (!self.device).then_some(&self.file)
    }

    fn is_device(&self) -> bool {
        self.device
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn holes_of_a_file_are_found() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4 << 20).unwrap();
        file.as_file().write_all_at(&[1; 4096], 2 << 20).unwrap();
        let storage = FileStorage::open(file.path()).unwrap();
        let (len, data) = storage.extent(0, 4 << 20).unwrap();
        // A file system without holes may say that all of it is data.
        assert!(data || len <= 2 << 20);
        assert!(storage.extent(2 << 20, 4096).unwrap().1);
    }

    #[test]
    fn what_was_cut_off_a_file_is_no_hole() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4 << 20).unwrap();
        let storage = FileStorage::open(file.path()).unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        assert_eq!(storage.extent(2 << 20, 4096).unwrap(), (4096, true));
    }

    #[test]
    fn a_file_that_was_written_to_is_noticed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let storage = FileStorage::open(file.path()).unwrap();
        storage.check_unchanged().unwrap();
        file.as_file().set_len(1).unwrap();
        assert_eq!(
            storage.check_unchanged().unwrap_err().kind(),
            ErrorKind::Refused
        );
    }

    #[test]
    fn a_folder_is_no_storage() {
        let folder = tempfile::tempdir().unwrap();
        assert!(FileStorage::open(folder.path()).is_err());
    }
}
