//! A part of another storage.

use std::path::{Path, PathBuf};

use super::{Storage, StorageRef, check_range, past_the_end};
use crate::error::Result;

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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{ErrorKind, FileStorage, MemoryStorage};

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
}
