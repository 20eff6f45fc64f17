//! The files of one image, which appear whole or not at all: the one that the user named last.

use std::ffi::OsString;
use std::io::IoSlice;
use std::ops::Range;
use std::path::{Path, PathBuf};

use formats::{Error, PART, Result, StorageRef, WritableStorage};

use super::file::{already_there, folder_of, sync_folder};
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

    /// What has been written to the file that the user named.
    ///
    /// # Errors
    /// `Io`.
    pub fn read_back_first(&self) -> Result<StorageRef> {
        self.read_back()
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

    /// Gives the files their names, the first one last. All are on stable storage before any has a name. Files that are
    /// replaced are put aside before, the first one first: whoever looks in between finds no image, not a mixed one.
    ///
    /// # Errors
    /// `Refused` when a name was taken meanwhile, else `Io`; everything is as it was then.
    pub fn commit(self, replace: bool) -> Result<()> {
        self.sync()?;
        let mut parts = self.parts;
        if parts.len() < 2 {
            return parts.pop().map_or(Ok(()), |(_, only)| only.commit(replace));
        }
        let folder = folder_of(&parts[0].0).to_owned();
        let mut moved = Moved::default();
        let put = moved.put(parts, replace);
        match &put {
            Ok(()) => moved.forget_old(),
            Err(_) => moved.undo(),
        }
        put?;
        sync_folder(&folder)
    }

    /// The part that holds file offset `offset`, and the offset in there.
    fn part(&self, offset: u64) -> Result<(&FileOutput, u64)> {
        let part = self.parts.get((offset / PART) as usize);
        part.map(|(_, output)| (output, offset % PART))
            .ok_or_else(|| Error::limit("target", "is larger than any file can be").at(offset))
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

/// What was renamed on the way, so that it can be undone.
#[derive(Default)]
struct Moved {
    /// Old files: where they are for the moment, and their names.
    old: Vec<(PathBuf, PathBuf)>,
    /// Names that new files have.
    new: Vec<PathBuf>,
}

impl Moved {
    fn put(&mut self, parts: Vec<(PathBuf, FileOutput)>, replace: bool) -> Result<()> {
        if replace {
            for (path, output) in &parts {
                output.take_over_permissions();
                self.put_aside(path)?;
            }
        }
        let mut parts = parts.into_iter();
        let first = parts.next();
        for (path, output) in parts.chain(first) {
            output.put_in_place(false)?;
            self.new.push(path);
        }
        Ok(())
    }

    fn put_aside(&mut self, path: &Path) -> Result<()> {
        let hidden = path.with_file_name(format!(
            ".diskferry-{}-{}.old",
            std::process::id(),
            self.old.len()
        ));
        match std::fs::rename(path, &hidden) {
            Ok(()) => self.old.push((hidden, path.to_owned())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("put the old file aside", e).in_file(path)),
        }
        Ok(())
    }

    fn forget_old(&self) {
        for (hidden, _) in &self.old {
            let _ = std::fs::remove_file(hidden);
        }
    }

    fn undo(&self) {
        for path in &self.new {
            let _ = std::fs::remove_file(path);
        }
        for (hidden, path) in &self.old {
            let _ = std::fs::rename(hidden, path);
        }
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

    fn read_back_at(&self, offset: u64) -> Result<(StorageRef, u64)> {
        let (part, at) = self.part(offset)?;
        Ok((part.read_back()?, at))
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
        // A part that cannot be replaced: everything is as it was.
        for name in ["a", "b"] {
            std::fs::write(folder.path().join(name), "old").unwrap();
        }
        let set = write(true).unwrap();
        std::fs::remove_file(folder.path().join("c")).unwrap();
        std::fs::create_dir_all(folder.path().join("c/full")).unwrap();
        let hidden = folder
            .path()
            .join(format!(".diskferry-{}-2.old", std::process::id()));
        std::fs::create_dir_all(hidden.join("full")).unwrap();
        assert_eq!(set.commit(true).unwrap_err().kind(), ErrorKind::Io);
        std::fs::remove_dir_all(hidden).unwrap();
        std::fs::remove_dir_all(folder.path().join("c")).unwrap();
        assert_eq!(names(), ["a", "b"]);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        write(true).unwrap().commit(true).unwrap();
        assert_eq!(names(), ["a", "b", "c"]);
        assert_eq!(std::fs::read(folder.path().join("c")).unwrap(), b"\0third");
        assert_eq!(std::fs::read(folder.path().join("b")).unwrap(), [0; 7]);
        assert!(write(true).unwrap().write_at(b"x", 3 * PART).is_err());
    }
}
