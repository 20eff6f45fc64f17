//! Several storages one behind the other, as one: a file that a package holds in parts.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::storage::{Storage, StorageRef, check_range};

/// Storages one behind the other, with offsets from the start of the first one.
#[derive(Debug)]
pub struct PartsStorage {
    /// Where each part starts; parts without a byte are left out.
    parts: Vec<(u64, StorageRef)>,
    len: u64,
    path: PathBuf,
}

impl PartsStorage {
    /// `parts` one behind the other; `path` is what they are together, for messages and probing.
    ///
    /// # Errors
    /// `Limit` when the sum of the lengths is not a number of 64 bits.
    pub fn new(parts: impl IntoIterator<Item = StorageRef>, path: &Path) -> Result<PartsStorage> {
        let mut placed = Vec::new();
        let mut len: u64 = 0;
        for part in parts {
            let end = len.checked_add(part.len()).ok_or_else(|| {
                Error::limit("parts", "are together longer than any file can be").in_file(path)
            })?;
            if !part.is_empty() {
                placed.push((len, part));
            }
            len = end;
        }
        Ok(PartsStorage {
            parts: placed,
            len,
            path: path.to_owned(),
        })
    }

    /// As [`PartsStorage::new`], for the parts of a file that was cut every `chunk_size` bytes (DSP0243, `chunkSize`).
    ///
    /// # Errors
    /// `Malformed` for a `chunk_size` of 0; `Truncated` when a part is shorter, `Malformed` when one is longer than that;
    /// the last one may be shorter. What [`PartsStorage::new`] refuses.
    pub fn chunks(parts: Vec<StorageRef>, chunk_size: u64, path: &Path) -> Result<PartsStorage> {
        if chunk_size == 0 {
            return Err(Error::malformed("chunkSize", "is 0").in_file(path));
        }
        let last = parts.len().saturating_sub(1);
        for (number, part) in parts.iter().enumerate() {
            let len = part.len();
            let error = if len > chunk_size {
                Error::malformed("part of a file", "is longer than chunkSize")
            } else if len < chunk_size && number < last {
                Error::truncated(
                    "part of a file",
                    "is shorter than chunkSize, and is not the last one",
                )
            } else {
                continue;
            };
            return Err(error
                .found(format!("{len} bytes"))
                .expected(format!("{chunk_size} bytes"))
                .in_file(part.path()));
        }
        Self::new(parts, path)
    }

    /// The part that holds `offset`, where in it that is, and the bytes from there to the part's end.
    fn part(&self, offset: u64) -> Option<(&StorageRef, u64, u64)> {
        let after = self.parts.partition_point(|(start, _)| *start <= offset);
        let (start, part) = self.parts.get(after.checked_sub(1)?)?;
        let inside = offset - start;
        let left = part.len().checked_sub(inside).filter(|left| *left > 0)?;
        Some((part, inside, left))
    }
}

impl Storage for PartsStorage {
    fn len(&self) -> u64 {
        self.len
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn read_at(&self, buf: &mut [u8], mut offset: u64) -> Result<()> {
        check_range(&self.path, self.len, offset, buf.len())?;
        let mut rest = buf;
        while !rest.is_empty() {
            let Some((part, inside, left)) = self.part(offset) else {
                return check_range(&self.path, self.len, offset, rest.len());
            };
            let now = left.min(rest.len() as u64);
            let (head, later) = rest.split_at_mut(now as usize);
            part.read_at(head, inside)?;
            offset += now;
            rest = later;
        }
        Ok(())
    }

    fn extent(&self, offset: u64, limit: u64) -> Result<(u64, bool)> {
        match self.part(offset) {
            Some((part, inside, left)) if limit > 0 => part.extent(inside, limit.min(left)),
            _ => Ok((limit, true)),
        }
    }

    fn allocated(&self) -> Result<u64> {
        let parts = self.parts.iter();
        parts.map(|(_, part)| part.allocated()).sum()
    }

    fn check_unchanged(&self) -> Result<()> {
        let mut parts = self.parts.iter();
        parts.try_for_each(|(_, part)| part.check_unchanged())
    }

    /// That of the first part: whoever reads that reads this.
    fn file_id(&self) -> Option<(u64, u64)> {
        self.parts.first().and_then(|(_, part)| part.file_id())
    }

    fn is_encrypted(&self) -> bool {
        self.parts.iter().any(|(_, part)| part.is_encrypted())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use super::*;
    use crate::ErrorKind;
    use crate::storage::{FileStorage, MemoryStorage, SliceStorage};

    fn memory(bytes: impl IntoIterator<Item = u8>) -> StorageRef {
        Arc::new(MemoryStorage::new(bytes.into_iter().collect()))
    }

    fn name() -> &'static Path {
        Path::new("web-disk1.vmdk")
    }

    #[test]
    fn parts_read_as_one_across_their_seams() {
        let parts = [memory(0..5), memory([]), memory(5..6), memory(6..10)];
        let all = PartsStorage::new(parts, name()).unwrap();
        assert_eq!((all.len(), all.path()), (10, name()));
        for start in 0..=10u8 {
            for end in start..=10 {
                let mut buf = vec![0xEE; usize::from(end - start)];
                all.read_at(&mut buf, start.into()).unwrap();
                assert_eq!(buf, (start..end).collect::<Vec<_>>());
            }
        }
        for (len, offset) in [(1, 10), (2, 9), (1, u64::MAX), (0, 11)] {
            let error = all.read_at(&mut vec![0; len], offset).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Truncated, "{len} at {offset}");
            assert_eq!(error.path(), Some(name()));
        }
    }

    #[test]
    fn an_extent_ends_at_a_seam() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[1; 4096]).unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let sparse: StorageRef = Arc::new(FileStorage::open(file.path()).unwrap());
        let all = PartsStorage::new([memory([7; 100]), sparse.clone()], name()).unwrap();
        assert_eq!(all.extent(40, 1 << 30).unwrap(), (60, true));
        assert_eq!(all.extent(40, 10).unwrap(), (10, true));
        for inside in [0, 4096, 8192] {
            let limit = (1 << 20) - inside;
            let expected = sparse.extent(inside, limit).unwrap();
            assert_eq!(all.extent(100 + inside, 1 << 30).unwrap(), expected);
        }
        assert_eq!(all.extent(all.len(), 5).unwrap(), (5, true));
    }

    #[test]
    fn a_part_that_changed_is_noticed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(10).unwrap();
        let part: StorageRef = Arc::new(FileStorage::open(file.path()).unwrap());
        let all = PartsStorage::new([memory([1]), part], name()).unwrap();
        all.check_unchanged().unwrap();
        file.as_file().set_len(11).unwrap();
        let error = all.check_unchanged().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
    }

    #[test]
    fn chunks_have_the_size_that_is_said() {
        let chunks = |lens: &[usize], size| {
            let parts = lens.iter().map(|len| memory(vec![1; *len])).collect();
            let all = PartsStorage::chunks(parts, size, name());
            all.map(|all| all.len()).map_err(|e| e.kind())
        };
        assert_eq!(chunks(&[4, 4, 3], 4), Ok(11));
        assert_eq!(chunks(&[4, 4], 4), Ok(8));
        assert_eq!(chunks(&[], 4), Ok(0));
        assert_eq!(chunks(&[4, 3, 3], 4), Err(ErrorKind::Truncated));
        assert_eq!(chunks(&[4, 0, 3], 4), Err(ErrorKind::Truncated));
        assert_eq!(chunks(&[4, 5], 4), Err(ErrorKind::Malformed));
        assert_eq!(chunks(&[4], 0), Err(ErrorKind::Malformed));
    }

    #[derive(Debug)]
    struct Endless;

    impl Storage for Endless {
        fn len(&self) -> u64 {
            u64::MAX
        }
        fn path(&self) -> &Path {
            Path::new("endless")
        }
        fn read_at(&self, _buf: &mut [u8], _offset: u64) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lengths_that_no_file_can_have_are_a_limit() {
        let error = PartsStorage::new([Arc::new(Endless) as StorageRef, memory([1])], name());
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Limit);
    }

    #[test]
    fn threads_read_across_seams_at_once() {
        let bytes: Vec<u8> = (0..1 << 20).map(|i: u32| (i / 251) as u8).collect();
        let whole = memory(bytes.iter().copied());
        let parts = (0..16).map(|i| {
            let slice = SliceStorage::new(whole.clone(), i << 16, 1 << 16);
            Arc::new(slice.unwrap()) as StorageRef
        });
        let all = PartsStorage::new(parts, name()).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (all, bytes) = (&all, &bytes);
                scope.spawn(move || {
                    let mut buf = vec![0; 100_000];
                    for round in 0..9 {
                        let start = thread * 3001 + round * 100_000;
                        all.read_at(&mut buf, start as u64).unwrap();
                        assert_eq!(buf, bytes[start..start + buf.len()]);
                    }
                });
            }
        });
    }
}
