//! The disks of a machine as images in one folder, which appear together.

use std::ffi::OsString;
use std::path::Path;

use formats::{Error, Format, StorageRef};
use transfer::output::FileSet;
use transfer::refusals::{check_name, refuse_own_source};
use transfer::{Result, Setting};

use super::folder::part;
use super::member::{Done, MemberWriter};
use super::{DiskIn, DiskOut, Made, WriteOptions};

/// Which files of a set the images of some disks are.
pub(super) struct Plan {
    /// The names of all files, in their order.
    pub(super) files: Vec<OsString>,
    /// The first file of each disk: its place among `files`, its name, and the size of the disk.
    pub(super) firsts: Vec<First>,
    /// Files of the set before these.
    before: usize,
}

/// The file of an image that names the others.
pub(super) struct First {
    index: usize,
    pub(super) name: String,
    pub(super) size: u64,
}

impl Plan {
    /// The files of `disks`, which `names` are given to; `before` files of the set are not theirs.
    pub(super) fn new(
        members: &MemberWriter<'_>,
        disks: &[DiskIn],
        names: impl IntoIterator<Item = String>,
        before: usize,
    ) -> Result<Plan> {
        let (mut files, mut firsts): (Vec<OsString>, Vec<First>) = (Vec::new(), Vec::new());
        for (disk, name) in disks.iter().zip(names) {
            let target = members.target(disk, &name)?;
            firsts.push(First {
                index: files.len(),
                name: name.clone(),
                size: target.size(),
            });
            files.push(name.into());
            files.extend(target.further_parts());
        }
        Ok(Plan {
            files,
            firsts,
            before,
        })
    }

    /// Writes the disks to `output`.
    pub(super) fn write(
        &self,
        members: &mut MemberWriter<'_>,
        disks: &mut [DiskIn],
        output: &FileSet,
    ) -> Result<Vec<Done>> {
        let disks = disks.iter_mut().zip(&self.firsts);
        disks
            .map(|(disk, first)| {
                let base = part(self.before + first.index);
                members.disk(disk, &first.name, None, output, base)
            })
            .collect()
    }

    /// Reads the disks back and holds them against what was read. `files` are those of the set, without those before.
    pub(super) fn verify(
        &self,
        members: &MemberWriter<'_>,
        disks: &[DiskIn],
        done: &[Done],
        files: &[(OsString, StorageRef)],
    ) -> Result<()> {
        let ends = self.firsts.iter().skip(1).map(|first| first.index);
        let ends = ends.chain([self.files.len()]);
        let firsts = self.firsts.iter().zip(ends);
        for ((disk, done), (first, end)) in disks.iter().zip(done).zip(firsts) {
            let mut own = files
                .iter()
                .skip(first.index)
                .take(end - first.index)
                .cloned();
            if let (Some(copied), Some((_, storage))) = (&done.copied, own.next()) {
                members.verify(disk, copied, storage, own.collect())?;
            }
        }
        Ok(())
    }
}

/// Writes `disks` into `folder` as images of `format`, under `names`. All of them appear, or none.
///
/// # Errors
/// What is wrong with the disks or the storage.
pub fn images(
    mut disks: Vec<DiskIn>,
    folder: &Path,
    names: Vec<String>,
    format: Format,
    force: bool,
    options: &WriteOptions<'_>,
    setting: &Setting<'_>,
) -> Result<Made> {
    let mut members = MemberWriter::new(options, setting, (format, options.subformat));
    let plan = Plan::new(&members, &disks, names, 0)?;
    let Some((first, further)) = plan.files.split_first() else {
        return Err(Error::malformed("package", "the machine has no disk").into());
    };
    let path = folder.join(first);
    let mut sources = options.copy.sources.clone();
    disks.iter().for_each(|disk| disk.add_to(&mut sources));
    for name in &plan.files {
        refuse_own_source(&folder.join(name), &sources)?;
    }
    // A link would lead out of the folder that the others stand in.
    let path = match path.is_symlink() {
        true => path,
        false => check_name(&path, force)?,
    };
    let output = FileSet::create(&path, further, force)?;
    let done = plan.write(&mut members, &mut disks, &output)?;
    if options.copy.verify {
        let mut files = vec![(first.clone(), output.read_back_first()?)];
        files.extend(output.read_back_further()?);
        plan.verify(&members, &disks, &done, &files)?;
    }
    output.commit(force)?;
    Ok(plan.made(members, &disks, done))
}

impl Plan {
    fn made(self, members: MemberWriter<'_>, disks: &[DiskIn], done: Vec<Done>) -> Made {
        let file_size = done.iter().map(|done| done.len).sum();
        let told = disks.iter().zip(self.firsts).zip(done);
        let told = told.filter_map(|((disk, first), done)| {
            let size = disk.image.source.size();
            Some(DiskOut::new(first.name, size, done.copied?, done.len))
        });
        Made {
            file_size,
            disks: told.collect(),
            notes: members.notes,
        }
    }
}
