//! The files of one image, which appear whole or not at all: the one that the user named last.

use std::ffi::OsString;
use std::io::IoSlice;
use std::ops::Range;
use std::path::{Path, PathBuf};

use formats::{Error, PART, Result, StorageRef, WritableStorage};

use super::file::already_there;
use super::{FileOutput, Output};

/// Files that are written together. Offsets are those of [`PART`].
pub struct FileSet {
    /// The file that the user named first; the others in their order.
    parts: Vec<(PathBuf, FileOutput)>,
}

impl FileSet {
    /// New, empty files: one that will be at `path`, and one beside it for each of `further`.
    ///
    /// # Errors
    /// `Refused` when one of `further` exists and may not be replaced, `Io` when the folder cannot be written to.
    pub fn create(path: &Path, further: &[OsString], replace: bool) -> Result<FileSet> {
        let names = further.iter().map(|name| path.with_file_name(name));
        let parts = std::iter::once(path.to_owned())
            .chain(names)
            .enumerate()
            .map(|(index, path)| {
                // The first name was looked at before anything else.
                if index > 0 {
                    check_part(&path, replace)?;
                }
                let output = FileOutput::create(&path)?;
                Ok((path, output))
            })
            .collect::<Result<_>>()?;
        Ok(FileSet { parts })
    }

    /// The file that the user named.
    pub fn first(&self) -> Option<&FileOutput> {
        self.parts.first().map(|(_, output)| output)
    }

    /// The names of the further files, each with what has been written to it.
    ///
    /// # Errors
    /// `Io`.
    pub fn read_back_further(&self) -> Result<Vec<(OsString, StorageRef)>> {
        let further = self.parts.iter().skip(1);
        further
            .map(|(path, output)| {
                let name = path.file_name().unwrap_or_default().to_owned();
                Ok((name, output.read_back()?))
            })
            .collect()
    }

    /// Gives the files their names, the first one last. All are on stable storage before any has a name. When files are
    /// replaced, the first one goes before the others change: whoever looks in between finds no image, not a mixed one.
    ///
    /// # Errors
    /// `Refused` when a name was taken meanwhile, else `Io`; the names that were given are taken back then.
    pub fn commit(self, replace: bool) -> Result<()> {
        self.sync()?;
        let mut parts = self.parts.into_iter();
        let Some((path, first)) = parts.next() else {
            return Ok(());
        };
        if replace && parts.len() > 0 {
            first.take_over_permissions();
            remove(&path)?;
        }
        let mut named: Vec<PathBuf> = Vec::new();
        let mut result = parts.try_for_each(|(path, output)| {
            output.commit(replace)?;
            named.push(path);
            Ok(())
        });
        if result.is_ok() {
            result = first.commit(replace);
        }
        if result.is_err() {
            for path in &named {
                let _ = std::fs::remove_file(path);
            }
        }
        result
    }

    /// The part that holds file offset `offset`, and the offset in there.
    fn part(&self, offset: u64) -> Result<(&FileOutput, u64)> {
        let part = self.parts.get((offset / PART) as usize);
        part.map(|(_, output)| (output, offset % PART))
            .ok_or_else(|| Error::malformed("target", "has no such part").at(offset))
    }
}

/// Fails when a part cannot have the name `path`.
fn check_part(path: &Path, replace: bool) -> Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io("look at the target", e).in_file(path)),
        Ok(_) if !replace => Err(already_there(path)),
        Ok(meta) if !meta.is_file() => {
            Err(Error::refused("target", "is no plain file").in_file(path))
        }
        Ok(_) => Ok(()),
    }
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove the old file", e).in_file(path))
        }
        _ => Ok(()),
    }
}

impl WritableStorage for FileSet {
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let (part, at) = self.part(offset)?;
        part.write_at(bytes, at)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let (part, at) = self.part(len)?;
        part.set_len(at)
    }
}

impl Output for FileSet {
    fn write_pieces(&self, pieces: &[IoSlice<'_>], offset: u64) -> Result<()> {
        let (part, at) = self.part(offset)?;
        part.write_pieces(pieces, at)
    }

    fn zero_range(&self, _range: Range<u64>) -> Result<()> {
        // New files read as zeros wherever nothing was written.
        Ok(())
    }

    fn reserve(&self) -> Result<()> {
        self.parts
            .iter()
            .try_for_each(|(_, output)| output.reserve())
    }

    fn sync(&self) -> Result<()> {
        self.parts.iter().try_for_each(|(_, output)| output.sync())
    }

    fn read_back(&self) -> Result<StorageRef> {
        let (first, _) = self.part(0)?;
        first.read_back()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use formats::ErrorKind;

    #[test]
    fn all_files_appear_or_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let names = || {
            let entries = std::fs::read_dir(folder.path()).unwrap();
            let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name()).collect();
            names.sort();
            names
        };
        let further = ["b".into(), "c".into()];
        let write = |replace| -> Result<FileSet> {
            let set = FileSet::create(&path, &further, replace)?;
            set.write_at(b"first", 0)?;
            set.write_at(b"third", 2 * PART + 1)?;
            set.set_len(PART + 7)?;
            Ok(set)
        };
        let set = write(false).unwrap();
        assert!(names().is_empty());
        std::fs::write(folder.path().join("c"), "old").unwrap();
        assert_eq!(set.commit(false).unwrap_err().kind(), ErrorKind::Refused);
        assert_eq!(names(), ["c"]);
        assert_eq!(write(false).err().unwrap().kind(), ErrorKind::Refused);
        write(true).unwrap().commit(true).unwrap();
        assert_eq!(names(), ["a", "b", "c"]);
        assert_eq!(std::fs::read(folder.path().join("c")).unwrap(), b"\0third");
        assert_eq!(std::fs::read(folder.path().join("b")).unwrap(), [0; 7]);
        assert!(write(true).unwrap().write_at(b"x", 3 * PART).is_err());
    }
}
