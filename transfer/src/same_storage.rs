//! Whether two paths lead to the same bytes, under whatever names: device nodes, loop devices, partitions.

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// What bytes stand on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// A plain file: device and inode.
    File(u64, u64),
    /// A block device: its number.
    Device(u64),
}

/// Layers of devices that are followed: a volume on a mapper on a partition on a disk is four.
const DEPTH: usize = 8;

/// A file or device, and what it stands on.
#[derive(Debug, Default, Clone)]
struct Standing {
    /// The same bytes under other names: a device node's number, the file behind a loop device.
    itself: BTreeSet<Place>,
    /// What contains it among other things: the disk of a partition, the devices under a volume.
    below: BTreeSet<Place>,
}

/// Files and devices that are read, so that none of them may be written to.
#[derive(Debug, Default, Clone)]
pub struct Sources {
    paths: BTreeSet<PathBuf>,
    standing: Standing,
}

impl Sources {
    /// One more of them. Files that are not there are nothing's.
    pub fn add(&mut self, path: &Path) {
        // Disks of a package may all be in one file.
        if !self.paths.contains(path) {
            self.paths.insert(path.to_owned());
            self.standing.add(path);
        }
    }

    /// Whether writing to `target` would write to one of them.
    pub fn include(&self, target: &Path) -> bool {
        let (target, source) = (Standing::of(target), &self.standing);
        let meet = |a: &BTreeSet<Place>, b: &BTreeSet<Place>| !a.is_disjoint(b);
        // Two partitions of one disk stand on the same, and are not the same.
        meet(&target.itself, &source.itself)
            || meet(&target.itself, &source.below)
            || meet(&target.below, &source.itself)
    }
}

impl<'a> Extend<&'a Path> for Sources {
    fn extend<T: IntoIterator<Item = &'a Path>>(&mut self, paths: T) {
        paths.into_iter().for_each(|path| self.add(path));
    }
}

impl<'a> FromIterator<&'a Path> for Sources {
    fn from_iter<T: IntoIterator<Item = &'a Path>>(paths: T) -> Sources {
        let mut sources = Sources::default();
        sources.extend(paths);
        sources
    }
}

impl Standing {
    fn of(path: &Path) -> Standing {
        let mut standing = Standing::default();
        standing.add(path);
        standing
    }

    fn add(&mut self, path: &Path) {
        if let Ok(meta) = std::fs::metadata(path) {
            self.add_itself(&meta, DEPTH);
        }
    }

    fn add_itself(&mut self, meta: &Metadata, depth: usize) {
        if !meta.file_type().is_block_device() {
            self.itself.insert(Place::File(meta.dev(), meta.ino()));
            return;
        }
        let number = meta.rdev();
        if !self.itself.insert(Place::Device(number)) || depth == 0 {
            return;
        }
        let folder = sysfs(number);
        if let Some(file) = read(&folder.join("loop/backing_file"))
            && let Ok(meta) = std::fs::metadata(file)
        {
            self.add_itself(&meta, depth - 1);
        }
        self.add_below(&folder, depth);
    }

    /// The disk of a partition, and the devices that a mapper or RAID device is made of.
    fn add_below(&mut self, folder: &Path, depth: usize) {
        let mut lower = Vec::new();
        if folder.join("partition").exists() {
            lower.push(folder.join("../dev"));
        }
        if let Ok(slaves) = std::fs::read_dir(folder.join("slaves")) {
            lower.extend(slaves.flatten().map(|slave| slave.path().join("dev")));
        }
        for number in lower.iter().filter_map(|file| device_number(file)) {
            if self.below.insert(Place::Device(number)) && depth > 0 {
                self.add_below(&sysfs(number), depth - 1);
            }
        }
    }
}

/// Where sysfs describes a block device. The link is resolved, so that `..` is the disk of a partition.
fn sysfs(number: u64) -> PathBuf {
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let link = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    link.canonicalize().unwrap_or(link)
}

fn read(file: &Path) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    Some(text.trim_end_matches('\n').to_owned())
}

/// A number as sysfs writes it: `8:1`.
fn device_number(file: &Path) -> Option<u64> {
    let text = read(file)?;
    let (major, minor) = text.split_once(':')?;
    Some(rustix::fs::makedev(
        major.parse().ok()?,
        minor.parse().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_file_are_one_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("a"), "a").unwrap();
        std::fs::write(path("b"), "a").unwrap();
        std::fs::hard_link(path("a"), path("hard")).unwrap();
        std::os::unix::fs::symlink("a", path("soft")).unwrap();
        let overlap = |target: &Path, source: &Path| Sources::from_iter([source]).include(target);
        assert!(overlap(&path("a"), &path("a")));
        assert!(overlap(&path("hard"), &path("a")));
        assert!(overlap(&path("soft"), &path("a")));
        assert!(!overlap(&path("b"), &path("a")));
        assert!(!overlap(&path("absent"), &path("absent")));
    }
}
