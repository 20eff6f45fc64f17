//! Files that an image names: found only where the user lets us look.
//!
//! Names inside an image are chosen by whoever made it. They are followed only to plain files in the image's own folder
//! or below a folder that the user allowed; never to devices, pipes, URLs, through `..`, or through a symbolic link
//! that leaves those folders.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::storage::{FileStorage, StorageRef};

/// Entries of folders that are gone through for a parent that has no name.
const MOST_ENTRIES: usize = 100_000;

/// Files among them that are opened.
const MOST_FILES: usize = 4096;

/// Longest path of a parent, in UTF-16 units: as long as Windows allows.
const MAX_WINDOWS_PATH: usize = 32_000;

/// Which files named inside images may be opened.
#[derive(Debug, Clone, Default)]
pub struct ReferencePolicy {
    allowed: Vec<PathBuf>,
    /// Files that are at hand already, by their names.
    given: Option<Arc<HashMap<OsString, StorageRef>>>,
    /// Files, and what is read in their place.
    replaced: Vec<(StorageRef, StorageRef)>,
}

impl ReferencePolicy {
    /// Files beside the image, and below each of `folders`.
    ///
    /// # Errors
    /// `Io` when a folder is not there.
    pub fn new(folders: &[PathBuf]) -> Result<ReferencePolicy> {
        let allowed = folders
            .iter()
            .map(|folder| {
                folder
                    .canonicalize()
                    .map_err(|e| Error::io("allowed folder", e).in_file(folder))
            })
            .collect::<Result<_>>()?;
        Ok(ReferencePolicy {
            allowed,
            ..ReferencePolicy::default()
        })
    }

    /// Nothing but `files`, each known by its name: an image that has no place in a file system yet.
    pub fn only(files: Vec<(OsString, StorageRef)>) -> ReferencePolicy {
        ReferencePolicy {
            given: Some(Arc::new(files.into_iter().collect())),
            ..ReferencePolicy::default()
        }
    }

    /// The same files, but where one of `files` is found, the one beside it is read: an image as it will be.
    pub fn replacing(self, files: Vec<(StorageRef, StorageRef)>) -> ReferencePolicy {
        ReferencePolicy {
            replaced: files,
            ..self
        }
    }

    /// Opens the file that `image` calls `name`, relative to the image's folder when the name is relative.
    /// `structure` is what holds the name ("backing file name", "parent locator"), for messages.
    ///
    /// # Errors
    /// `Refused` when the policy does not allow it, `Malformed` when it may be opened but is not there, `Io`.
    pub fn open(
        &self,
        image: &Path,
        name: impl AsRef<OsStr>,
        structure: &'static str,
    ) -> Result<StorageRef> {
        let found = self.find(image, name.as_ref(), structure)?;
        let id = found.file_id();
        let mut replaced = self.replaced.iter();
        let planned = replaced
            .find(|(file, _)| Arc::ptr_eq(file, &found) || (id.is_some() && file.file_id() == id));
        Ok(planned.map_or(found, |(_, planned)| planned.clone()))
    }

    fn find(&self, image: &Path, name: &OsStr, structure: &'static str) -> Result<StorageRef> {
        let refuse = |why: &'static str| {
            Error::refused(structure, why)
                .found(format!("{name:?}"))
                .in_file(image)
        };
        check_name(&name.to_string_lossy()).map_err(refuse)?;
        if let Some(given) = &self.given {
            let bare = Path::new(name).strip_prefix(".").unwrap_or(Path::new(name));
            let found = given.get(bare.as_os_str()).cloned();
            return found.ok_or_else(|| refuse("is none of the image's own files"));
        }
        let folder = own_folder(image)?;
        let wanted = folder.join(name);
        let (Some(parent), Some(file_name)) = (wanted.parent(), wanted.file_name()) else {
            return Err(refuse("names no file"));
        };
        let outside = || {
            refuse("leads out of the image's own folder")
                .hint("if you trust it, name the folder with --allow-references DIR")
        };
        // The folder is resolved first and judged by where it really is. A folder that is not there is not told apart
        // from a forbidden one: an image must not be able to ask what exists.
        let real_folder = parent.canonicalize().map_err(|_| outside())?;
        let mut real = real_folder.join(file_name);
        let is_link = |path: &Path| {
            std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_symlink())
        };
        if is_link(&real) {
            real = real.canonicalize().map_err(|_| outside())?;
        }
        if !self.allows(&folder, &real) {
            return Err(outside());
        }
        let failed = |e: std::io::Error| {
            if is_the_names_fault(&e) {
                return Error::malformed(structure, "the file that it names is not there")
                    .found(format!("{name:?}"))
                    .hint("put it beside the image, or name its folder with --allow-references DIR")
                    .in_file(image);
            }
            Error::io("open", e).in_file(&real)
        };
        let meta = std::fs::symlink_metadata(&real).map_err(failed)?;
        if !meta.file_type().is_file() {
            return Err(refuse("leads to something that is no plain file"));
        }
        let file = File::options()
            .read(true)
            .custom_flags(
                (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits() as i32,
            )
            .open(&real)
            .map_err(failed)?;
        Ok(Arc::new(FileStorage::from_file(file, &real)?))
    }

    /// The files with one of `extensions` (all, if there is none) beside `image` and directly in the allowed folders, in a fixed order: where a
    /// parent can be that has no name. Each still has to go through [`ReferencePolicy::open`].
    ///
    /// # Errors
    /// `Io` when a folder cannot be listed, `Limit` when there is too much in them.
    pub(crate) fn files_around(&self, image: &Path, extensions: &[&str]) -> Result<Vec<OsString>> {
        let is_wanted = |name: &OsStr| {
            let extension = Path::new(name).extension().unwrap_or_default();
            extensions.is_empty() || extensions.iter().any(|e| extension.eq_ignore_ascii_case(e))
        };
        if let Some(given) = &self.given {
            let mut names: Vec<_> = given.keys().filter(|n| is_wanted(n)).cloned().collect();
            names.sort();
            return Ok(names);
        }
        let mut folders = vec![own_folder(image)?];
        for folder in &self.allowed {
            if !folders.contains(folder) {
                folders.push(folder.clone());
            }
        }
        let mut files = Vec::new();
        let mut looked_at = 0;
        for folder in folders {
            let failed = |e| Error::io("list the folder", e).in_file(&folder);
            let mut here = Vec::new();
            for entry in std::fs::read_dir(&folder).map_err(failed)? {
                let name = entry.map_err(failed)?.file_name();
                looked_at += 1;
                if looked_at > MOST_ENTRIES || here.len() + files.len() > MOST_FILES {
                    return Err(
                        Error::limit("folder", "holds too much to look for the parent")
                            .expected(format!(
                                "at most {MOST_ENTRIES} entries, {MOST_FILES} of them images"
                            ))
                            .hint("put the image and its parents into a folder of their own")
                            .in_file(&folder),
                    );
                }
                if is_wanted(&name) {
                    here.push(folder.join(name).into_os_string());
                }
            }
            here.sort();
            files.extend(here);
        }
        Ok(files)
    }

    fn allows(&self, folder: &Path, real: &Path) -> bool {
        real.parent() == Some(folder)
            || self.allowed.iter().any(|allowed| real.starts_with(allowed))
    }
}

/// Whether the name is to blame for `error`, not the machine: it leads nowhere, in a circle, through a file, or is too
/// long.
fn is_the_names_fault(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let of_names = [Errno::NOENT, Errno::NOTDIR, Errno::NAMETOOLONG, Errno::LOOP];
    error
        .raw_os_error()
        .is_some_and(|code| of_names.iter().any(|errno| errno.raw_os_error() == code))
}

fn own_folder(image: &Path) -> Result<PathBuf> {
    let folder = match image.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    folder
        .canonicalize()
        .map_err(|e| Error::io("folder of the image", e).in_file(image))
}

/// Whether an image may name a file so, wherever that file is.
///
/// # Errors
/// Why not.
pub(crate) fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("is empty");
    }
    if name.contains('\0') {
        return Err("contains a NUL byte");
    }
    if has_scheme(name) {
        return Err("is a URL or a driver string, not a file");
    }
    if Path::new(name)
        .components()
        .any(|part| part == Component::ParentDir)
    {
        return Err("goes through \"..\"");
    }
    Ok(())
}

/// Whether a name starts like `nbd:`, `json:`, `https://`: letters, digits, `+`, `-`, `.` and a colon before any slash.
fn has_scheme(name: &str) -> bool {
    let Some((scheme, _)) = name.split_once(':') else {
        return false;
    };
    !scheme.is_empty()
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | '_'))
}

/// Names to try for a parent at `path`: as it is, then its last part beside the child. Of a path with a drive or a
/// server, which means nothing here, only the last part is left.
pub(crate) fn candidates(path: &str) -> Vec<String> {
    let path = path.trim_start_matches("./");
    let foreign = path.starts_with("//") || path.as_bytes().get(1) == Some(&b':');
    let last = path.rsplit(['/', ':']).next().unwrap_or_default();
    let mut names = Vec::new();
    if !foreign && !path.is_empty() {
        names.push(path.to_owned());
    }
    if !matches!(last, "" | "." | "..") && names.iter().all(|name| name != last) {
        names.push(last.to_owned());
    }
    names
}

/// `name` as a path of Windows that starts with the folder of the child, as VHD and VHDX name their parents.
///
/// # Errors
/// `Refused` for what is no relative path or cannot stand in one, `Limit` for more than Windows allows.
pub(crate) fn relative_windows_path(name: &str) -> Result<String> {
    let refused = |why: &'static str| {
        let error = Error::refused("-B", why).found(format!("{name:?}"));
        Err(error.hint("name it as the new image is to find it from its own folder"))
    };
    if name.starts_with('/') {
        return refused("VHD and VHDX name their parents by a relative path");
    }
    if name.contains(['\\', ':', '\0']) {
        return refused("the name cannot stand in a path of Windows");
    }
    let parts = name.split('/').filter(|part| !matches!(*part, "" | "."));
    let path = parts.collect::<Vec<_>>().join("\\");
    let path = if path.starts_with("..\\") {
        path
    } else {
        format!(".\\{path}")
    };
    if path.encode_utf16().count() > MAX_WINDOWS_PATH {
        return Err(Error::limit("parent locator", "the name is too long")
            .expected(format!("at most {MAX_WINDOWS_PATH} characters")));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use std::os::unix::fs::symlink;

    struct Folders {
        root: tempfile::TempDir,
        image: PathBuf,
    }

    fn folders() -> Folders {
        let root = tempfile::tempdir().unwrap();
        for folder in ["own/sub", "other"] {
            std::fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        for file in ["own/base", "own/sub/base", "other/base"] {
            std::fs::write(root.path().join(file), file).unwrap();
        }
        symlink(root.path().join("other/base"), root.path().join("own/out")).unwrap();
        symlink("base", root.path().join("own/in")).unwrap();
        symlink("/dev/zero", root.path().join("own/device")).unwrap();
        let image = root.path().join("own/image");
        Folders { root, image }
    }

    fn kind(policy: &ReferencePolicy, image: &Path, name: &str) -> Option<ErrorKind> {
        policy
            .open(image, name, "backing file")
            .err()
            .map(|e| e.kind())
    }

    #[test]
    fn only_plain_files_beside_the_image_are_followed() {
        let f = folders();
        let policy = ReferencePolicy::default();
        let beside = f.root.path().join("own/base");
        for name in ["base", "./base", "in", beside.to_str().unwrap()] {
            assert_eq!(kind(&policy, &f.image, name), None, "{name}");
        }
        let outside = f.root.path().join("other/base");
        for name in [
            "../other/base",
            "sub/../base",
            "sub/base",
            "out",
            "device",
            "/dev/zero",
            "/etc/hostname",
            outside.to_str().unwrap(),
            "nbd:localhost:1",
            "json:{}",
            "https://example.org/x",
            "",
            "a\0b",
            ".",
            "sub",
            "/absent/base",
        ] {
            assert_eq!(
                kind(&policy, &f.image, name),
                Some(ErrorKind::Refused),
                "{name}"
            );
        }
    }

    #[test]
    fn a_file_that_may_be_opened_but_is_not_there_is_missing() {
        let f = folders();
        assert_eq!(
            kind(&ReferencePolicy::default(), &f.image, "absent"),
            Some(ErrorKind::Malformed)
        );
    }

    #[test]
    fn an_allowed_folder_widens_it() {
        let f = folders();
        let policy = ReferencePolicy::new(&[f.root.path().join("other")]).unwrap();
        let outside = f.root.path().join("other/base");
        assert_eq!(kind(&policy, &f.image, outside.to_str().unwrap()), None);
        assert_eq!(kind(&policy, &f.image, "out"), None);
        assert_eq!(
            kind(&policy, &f.image, "../other/base"),
            Some(ErrorKind::Refused)
        );
        assert_eq!(policy.open(&f.image, "out", "x").unwrap().len(), 10);
    }

    #[test]
    fn a_path_and_its_last_part_are_tried() {
        let tried = |path: &str| candidates(path).join(" ");
        assert_eq!(tried("./base.vhd"), "base.vhd");
        assert_eq!(tried("../up/base.vhd"), "../up/base.vhd base.vhd");
        assert_eq!(tried("C:/dir/base.vhd"), "base.vhd");
        assert_eq!(tried("C:base.vhd"), "base.vhd");
        assert_eq!(tried("//server/share/base.vhd"), "base.vhd");
        assert_eq!(tried("/dir/base.vhd"), "/dir/base.vhd base.vhd");
        for nothing in ["", "./", "C:/", "C:/dir/.."] {
            assert_eq!(tried(nothing), "", "{nothing}");
        }
    }

    #[test]
    fn paths_of_windows_start_with_the_folder_of_the_child() {
        let path = |name: &str| relative_windows_path(name).unwrap();
        assert_eq!(path("base.vhdx"), ".\\base.vhdx");
        assert_eq!(path("./sub//base.vhdx"), ".\\sub\\base.vhdx");
        assert_eq!(path("../up/base.vhdx"), "..\\up\\base.vhdx");
    }
}
