//! A folder of files that appear together: OVF with its disks, or a VMX with its disks.

use std::ffi::OsString;
use std::path::Path;

use formats::{Error, Format, PART, Result as FormatResult, WritableStorage};
use machines::href::Href;
use machines::machine::FileReference;
use machines::profiles::DiskKind;
use transfer::output::FileSet;
use transfer::refusals::{check_name, refuse_own_source};
use transfer::same_storage::Sources;
use transfer::{Result, Setting};

use super::images::Plan;
use super::member::{Done, MemberWriter, wanted};
use super::ova::disks_out;
use super::texts::{Describer, Names, readable};
use super::{Input, Made, WriteOptions};

/// Writes `input` as an OVF descriptor at `path` (`web.ovf`), with its files beside it.
///
/// # Errors
/// What is wrong with the disks or the storage. Nothing is left behind then.
pub fn ovf(
    mut input: Input,
    path: &Path,
    force: bool,
    options: &WriteOptions<'_>,
    setting: &Setting<'_>,
) -> Result<Made> {
    let mut members = MemberWriter::new(options, setting, wanted(options.profile));
    let base = options.profile.file_name(&base_of(path));
    let mut names = Names::new(&base, &input, members.format, options);
    // These three belong together by their name.
    names.descriptor = own_name(path);
    let beside = |extension| format!("{}.{extension}", base_of(path));
    names.manifest = names.manifest.map(|_| beside("mf"));
    names.certificate = names.certificate.map(|_| beside("cert"));
    refuse_stale(path, &names, force)?;
    let files: Vec<String> = names.members().map(str::to_owned).collect();
    let seals = [&names.manifest, &names.certificate].into_iter().flatten();
    let further: Vec<OsString> = files.iter().chain(seals).map(OsString::from).collect();
    let output = create(path, &further, force, &input.sources(options))?;
    let mut done = Vec::new();
    let mut capacities = Vec::new();
    for (disk, name) in input.disks.iter_mut().zip(&names.disks) {
        let target = members.target(disk, name.as_deref().unwrap_or("disk"))?;
        if !target.further_parts().is_empty() {
            return Err(
                Error::usage("-o", "disks of several files do not go into an OVF package").into(),
            );
        }
        capacities.push(target.size());
        if let Some(name) = name {
            let base = part(done.len() + 1);
            let one = members.disk(disk, name, None, &output, base)?;
            done.push(one);
        }
    }
    for disc in input.discs.iter_mut().flatten() {
        let base = part(done.len() + 1);
        let one = members.disc(disc, &output, base)?;
        done.push(one);
    }
    let describer = Describer {
        input: &input,
        names: &names,
        format: members.described_format(),
        options,
        capacities,
    };
    let texts = describer.texts(&done, None)?;
    write_text(&output, 0, &texts.descriptor)?;
    if names.manifest.is_some() {
        write_text(&output, done.len() + 1, &texts.manifest)?;
    }
    if names.certificate.is_some() {
        write_text(&output, done.len() + 2, &texts.certificate)?;
    }
    let mut file_size: u64 = done.iter().map(|d| d.len).sum();
    file_size += (texts.descriptor.len() + texts.manifest.len() + texts.certificate.len()) as u64;
    if options.copy.verify {
        verify(&members, &input, &output, &done)?;
    }
    output.commit(force)?;
    members.notes.extend(texts.notes);
    Ok(Made {
        notes: members.notes,
        file_size,
        disks: disks_out(&input, &names, done),
    })
}

/// Writes `input` as a VMX at `path` (`web.vmx`), with its disks as VMDK beside it.
///
/// # Errors
/// As [`ovf`].
pub fn vmx(
    mut input: Input,
    path: &Path,
    force: bool,
    options: &WriteOptions<'_>,
    setting: &Setting<'_>,
) -> Result<Made> {
    let unsealed = WriteOptions {
        manifest: None,
        signing: None,
        copy: options.copy.clone(),
        disk_options: options.disk_options.clone(),
        seed: options.seed.clone(),
        ..*options
    };
    // ESXi opens flat disks on its datastores; everybody else sparse ones as well.
    let is_esxi = options.profile.name.starts_with("esxi") || options.profile.name == "vsphere";
    let kind = if is_esxi { "vmfs" } else { "monolithicSparse" };
    if options.profile.disk.0 != DiskKind::Vmdk {
        return Err(Error::usage("--for", "this product takes no VMX")
            .found(options.profile.name)
            .into());
    }
    let mut members = MemberWriter::new(&unsealed, setting, (Format::Vmdk, kind));
    let base = options.profile.file_name(&base_of(path));
    let names = Names::new(&base, &input, Format::Vmdk, &unsealed);
    // A VMX has no disks without a file.
    input
        .disks
        .iter_mut()
        .for_each(|disk| disk.is_blank = false);
    let named = (1..).map(|number| format!("{base}-disk{number}.vmdk"));
    let plan = Plan::new(&members, &input.disks, named, 1)?;
    let discs = names.discs.iter().flatten().map(OsString::from);
    let further: Vec<OsString> = plan.files.iter().cloned().chain(discs).collect();
    let output = create(path, &further, force, &input.sources(options))?;
    let mut done = plan.write(&mut members, &mut input.disks, &output)?;
    for (index, disc) in input.discs.iter_mut().flatten().enumerate() {
        let base = part(1 + plan.files.len() + index);
        let one = members.disc(disc, &output, base)?;
        done.push(one);
    }
    let mut machine = input.machine.clone();
    for (disk, first) in machine.disks.iter_mut().zip(&plan.firsts) {
        disk.image.file = Some(beside(&first.name));
        disk.image.capacity = Some(first.size);
    }
    for (drive, name) in machine.cd_drives.iter_mut().zip(&names.discs) {
        drive.medium = name.as_deref().map(beside);
    }
    if options.copy.verify {
        plan.verify(&members, &input.disks, &done, &output.read_back_further()?)?;
    }
    for floppy in &mut machine.floppies {
        if let Some(medium) = floppy.medium.take() {
            let note = format!("the floppy disk {} is left out", medium.href);
            members.notes.push(note);
        }
    }
    for port in &mut machine.serial_ports {
        if let Some(target) = port
            .target
            .take_if(|target| !Href::new(target.as_str()).is_flat())
        {
            let target = target.escape_debug();
            members
                .notes
                .push(format!("a serial port loses what is behind it: {target}"));
        }
    }
    let written = machines::vmx::write(&machine)?;
    readable(machines::vmx::read(written.text.as_bytes()))?;
    write_text(&output, 0, written.text.as_bytes())?;
    let file_size = done.iter().map(|d| d.len).sum::<u64>() + written.text.len() as u64;
    output.commit(force)?;
    let disks = plan.firsts.into_iter().map(|first| Some(first.name));
    let names = Names {
        disks: disks.collect(),
        ..names
    };
    members.notes.extend(written.notes);
    Ok(Made {
        notes: members.notes,
        file_size,
        disks: disks_out(&input, &names, done),
    })
}

fn beside(name: &str) -> FileReference {
    FileReference {
        href: Href::new(name),
        ..FileReference::default()
    }
}

/// Where file `index` of a set begins; 0 is the one that was named.
pub(super) fn part(index: usize) -> u64 {
    index as u64 * PART
}

fn own_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn base_of(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn create(path: &Path, further: &[OsString], force: bool, sources: &Sources) -> Result<FileSet> {
    if path.is_symlink() {
        return Err(Error::refused(
            "target",
            "is a link: the files that belong together would stand in two folders",
        )
        .hint("name the file that the link leads to")
        .in_file(path)
        .into());
    }
    let beside = further.iter().map(|name| path.with_file_name(name));
    for path in std::iter::once(path.to_owned()).chain(beside) {
        refuse_own_source(&path, sources)?;
    }
    let path = check_name(path, force)?;
    Ok(FileSet::create(&path, further, force)?)
}

/// Fails when a seal of an earlier package is beside `path`, which the new one does not have: it would disprove it.
fn refuse_stale(path: &Path, names: &Names, force: bool) -> Result<()> {
    for (extension, new) in [("mf", &names.manifest), ("cert", &names.certificate)] {
        let old = path.with_extension(extension);
        if new.is_none() && old.symlink_metadata().is_ok() {
            let hint = if force {
                "remove it first"
            } else {
                "remove it, or choose another name"
            };
            return Err(
                Error::refused("target", "what sealed another package is in its place")
                    .hint(hint)
                    .in_file(&old)
                    .into(),
            );
        }
    }
    Ok(())
}

fn write_text(output: &FileSet, index: usize, text: &[u8]) -> FormatResult<()> {
    output.write_at(text, part(index))?;
    output.set_len(part(index) + text.len() as u64)
}

fn verify(
    members: &MemberWriter<'_>,
    input: &Input,
    output: &FileSet,
    done: &[Done],
) -> Result<()> {
    let files = output.read_back_further()?;
    let disks = input.disks.iter().filter(|disk| !disk.is_blank);
    for ((disk, done), (_, storage)) in disks.zip(done).zip(files) {
        if let Some(copied) = &done.copied {
            members.verify(disk, copied, storage, Vec::new())?;
        }
    }
    Ok(())
}
