//! Where the bytes of an image stand: a file, a block device, a slice of either, or memory.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::SeekFrom;

use crate::error::{Error, Result};

/// A storage that several sources and threads read at once.
pub type StorageRef = Arc<dyn Storage>;

/// Read-only random access to the bytes of an image.
///
/// Implementations never panic, whatever the offsets, and are read from many threads.
pub trait Storage: Send + Sync + fmt::Debug {
    /// Length in bytes.
    fn len(&self) -> u64;

    /// Whether it holds no byte at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The file it is, for messages.
    fn path(&self) -> &Path;

    /// Fills `buf` from `offset` on. Past the end is [`crate::ErrorKind::Truncated`], never a short read.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()>;

    /// What the file system knows about the range from `offset`, at most `limit` bytes: its length and whether it may
    /// hold data. `false` is a promise of zeros; `true` promises nothing. The length is at least 1 and at most `limit`.
    fn extent(&self, offset: u64, limit: u64) -> Result<(u64, bool)> {
        let _ = offset;
        Ok((limit, true))
    }

    /// Bytes that the file system has allocated for it.
    fn allocated(&self) -> Result<u64> {
        Ok(self.len())
    }

    /// Fails when the file behind it is no longer what it was when it was opened.
    fn check_unchanged(&self) -> Result<()> {
        Ok(())
    }

    /// Device and inode: the same file has the same identity, whatever its name.
    fn file_id(&self) -> Option<(u64, u64)> {
        None
    }

    /// The file behind it, when the storage is the whole of a plain file (for reflinks).
    fn whole_file(&self) -> Option<&File> {
        None
    }

    /// Whether it is a block device.
    fn is_device(&self) -> bool {
        false
    }

    /// Whether what is read is not what stands in the file at that offset, but what it decrypts to.
    fn is_encrypted(&self) -> bool {
        false
    }
}

/// The bytes `[offset, offset + N)` of `storage`, as an array.
pub fn read_array<const N: usize>(storage: &dyn Storage, offset: u64) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    storage.read_at(&mut bytes, offset)?;
    Ok(bytes)
}

fn past_the_end(path: &Path, offset: u64, wanted: u64, len: u64) -> Error {
    Error::truncated("file", "ends too early")
        .at(offset)
        .found(format!("{len} bytes"))
        .expected(format!(
            "at least {} bytes",
            u128::from(offset) + u128::from(wanted)
        ))
        .in_file(path)
}

pub(crate) fn check_range(path: &Path, len: u64, offset: u64, wanted: usize) -> Result<()> {
    match offset.checked_add(wanted as u64) {
        Some(end) if end <= len => Ok(()),
        _ => Err(past_the_end(path, offset, wanted as u64, len)),
    }
}

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

/// A part of another storage, with offsets of its own: a disk inside a package, a fixed VHD without its footer.
#[derive(Debug)]
pub struct SliceStorage {
    inner: StorageRef,
    start: u64,
    len: u64,
    name: Option<PathBuf>,
}

impl SliceStorage {
    /// The `len` bytes of `inner` from `start` on.
    ///
    /// # Errors
    /// `Truncated` when they are not all there.
    pub fn new(inner: StorageRef, start: u64, len: u64) -> Result<SliceStorage> {
        match start.checked_add(len) {
            Some(end) if end <= inner.len() => Ok(SliceStorage {
                inner,
                start,
                len,
                name: None,
            }),
            _ => Err(past_the_end(inner.path(), start, len, inner.len())),
        }
    }

    /// As [`SliceStorage::new`], for a part that is a file of its own: a member of a package. `path` is its name in
    /// messages and for probing (`web.ova/web-disk1.vmdk`), and it has an identity of its own, so that one member can be
    /// the parent of another.
    ///
    /// # Errors
    /// As [`SliceStorage::new`].
    pub fn named(inner: StorageRef, start: u64, len: u64, path: &Path) -> Result<SliceStorage> {
        let slice = Self::new(inner, start, len)?;
        Ok(SliceStorage {
            name: Some(path.to_owned()),
            ..slice
        })
    }
}

impl Storage for SliceStorage {
    fn len(&self) -> u64 {
        self.len
    }

    fn path(&self) -> &Path {
        self.name.as_deref().unwrap_or_else(|| self.inner.path())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.path(), self.len, offset, buf.len())?;
        self.inner.read_at(buf, self.start + offset)
    }

    fn extent(&self, offset: u64, limit: u64) -> Result<(u64, bool)> {
        let limit = limit.min(self.len.saturating_sub(offset));
        self.inner.extent(self.start.saturating_add(offset), limit)
    }

    fn allocated(&self) -> Result<u64> {
        let allocated = self.inner.allocated()?;
        // Nobody knows how much of a package is allocated for one of its members.
        Ok(match self.name {
            Some(_) => allocated.min(self.len),
            None => allocated,
        })
    }

    fn check_unchanged(&self) -> Result<()> {
        self.inner.check_unchanged()
    }

    fn file_id(&self) -> Option<(u64, u64)> {
        let (device, inode) = self.inner.file_id()?;
        Some(match self.name {
            // Another number for each place in the file, and for none of them that of the file itself.
            Some(_) => (device ^ !self.start, inode),
            None => (device, inode),
        })
    }

    fn is_encrypted(&self) -> bool {
        self.inner.is_encrypted()
    }
}

/// Bytes in memory: tests, fuzzing, and tables that were rebuilt.
#[derive(Debug)]
pub struct MemoryStorage {
    bytes: Vec<u8>,
    name: PathBuf,
}

impl MemoryStorage {
    /// A storage that holds `bytes`.
    pub fn new(bytes: Vec<u8>) -> MemoryStorage {
        MemoryStorage {
            bytes,
            name: PathBuf::from("(memory)"),
        }
    }
}

impl Storage for MemoryStorage {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn path(&self) -> &Path {
        &self.name
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(&self.name, self.len(), offset, buf.len())?;
        let start = offset as usize;
        buf.copy_from_slice(&self.bytes[start..start + buf.len()]);
        Ok(())
    }
}

/// What a target's tables are written to, and its blocks.
///
/// Bytes that were never written read as zeros, up to the length.
pub trait WritableStorage: Send + Sync {
    /// Writes all of `bytes` at `offset`, making the storage longer where needed.
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()>;

    /// Makes the storage exactly `len` bytes long.
    fn set_len(&self, len: u64) -> Result<()>;
}

/// A target in memory, for tests of the formats.
#[derive(Debug, Default)]
pub struct MemoryTarget(std::sync::Mutex<Vec<u8>>);

impl MemoryTarget {
    /// What has been written.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap_or_else(|e| e.into_inner())
    }
}

impl WritableStorage for MemoryTarget {
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let mut all = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let start = offset as usize;
        let end = start + bytes.len();
        if all.len() < end {
            all.resize(end, 0);
        }
        all[start..end].copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let mut all = self.0.lock().unwrap_or_else(|e| e.into_inner());
        all.resize(len as usize, 0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn reading_past_the_end_is_truncated_not_short() {
        let memory = MemoryStorage::new(vec![7; 10]);
        let mut buf = [0; 4];
        memory.read_at(&mut buf, 6).unwrap();
        assert_eq!(
            memory.read_at(&mut buf, 7).unwrap_err().kind(),
            ErrorKind::Truncated
        );
        assert_eq!(
            memory.read_at(&mut buf, u64::MAX).unwrap_err().kind(),
            ErrorKind::Truncated
        );
    }

    #[test]
    fn a_slice_keeps_to_its_part() {
        let inner: StorageRef = Arc::new(MemoryStorage::new((0..10).collect()));
        let slice = SliceStorage::new(inner.clone(), 4, 3).unwrap();
        let mut buf = [0; 3];
        slice.read_at(&mut buf, 0).unwrap();
        assert_eq!(buf, [4, 5, 6]);
        assert!(slice.read_at(&mut buf, 1).is_err());
        assert!(SliceStorage::new(inner, 8, 3).is_err());
    }

    #[test]
    fn a_member_has_a_name_and_an_identity_of_its_own() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(10).unwrap();
        let inner: StorageRef = Arc::new(FileStorage::open(file.path()).unwrap());
        let path = file.path().join("web-disk1.vmdk");
        let named = |start| SliceStorage::named(inner.clone(), start, 3, &path).unwrap();
        assert_eq!(named(4).path(), path);
        let past = named(4).read_at(&mut [0; 4], 0).unwrap_err();
        assert_eq!(
            (past.kind(), past.path()),
            (ErrorKind::Truncated, Some(&path as &Path))
        );
        assert!(named(4).file_id().is_some());
        assert_eq!(named(4).file_id(), named(4).file_id());
        assert_ne!(named(4).file_id(), named(0).file_id());
        assert_ne!(named(0).file_id(), inner.file_id());
        let unnamed = SliceStorage::new(inner.clone(), 4, 3).unwrap();
        assert_eq!(unnamed.file_id(), inner.file_id());
        assert!(SliceStorage::named(inner, 8, 3, &path).is_err());
    }

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
