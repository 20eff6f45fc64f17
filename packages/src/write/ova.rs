//! An OVA: descriptor, manifest and certificate in front, where many readers look for them, and behind them the disks.
//!
//! What stands in front depends on what comes behind: lengths and digests. In a file, room is kept for it, which is why the
//! texts end in a few empty lines. To a pipe, everything is written twice: the first time to nowhere.

use std::path::Path;
use std::sync::Arc;

use formats::tar::{BLOCK, Header};
use formats::{Error, Identity, SliceStorage, WritableStorage};
use transfer::output::{FileSet, Nowhere, Output, StreamOutput};
use transfer::refusals::{check_name, refuse_own_source};
use transfer::{Place, Result, Setting, identity};

use super::member::{Done, MemberWriter, wanted};
use super::texts::{Describer, Names, Room, Texts};
use super::xva::no_device;
use super::{DiskOut, Input, Made, WriteOptions};

/// Writes `input` as an OVA to `place`; the names of its files begin with `base`.
///
/// # Errors
/// What is wrong with the disks or the storage. Nothing is left behind at `place` then.
pub fn ova(
    input: Input,
    place: Place<'_>,
    base: &str,
    options: &WriteOptions<'_>,
    setting: &Setting<'_>,
) -> Result<Made> {
    let members = MemberWriter::new(options, setting, wanted(options.profile));
    let names = Names::new(base, &input, members.format, options);
    let mut writer = Writer {
        // Both passes over a disk must give it the same ids.
        identities: input.disks.iter().map(|_| chosen(options)).collect(),
        names,
        members,
        input,
    };
    let room = writer.describer()?.room()?;
    let front = front_len(&room, &writer.names);
    match place {
        Place::File { path, force } => writer.write_file(path, force, room, front),
        Place::Stream(stream) => {
            if options.copy.verify {
                return Err(Error::usage("standard output", "cannot be read back")
                    .hint("leave out --verify")
                    .into());
            }
            writer.write_stream(&StreamOutput::new(stream), room, front)
        }
        Place::Device(path) | Place::Replacement { path, .. } => Err(no_device(path)),
    }
}

/// Ids of a disk, unless they are made from its content.
fn chosen(options: &WriteOptions<'_>) -> Option<Identity> {
    options.copy.reproducible.is_none().then(identity::random)
}

/// Bytes in front of the first member.
fn front_len(room: &Room, names: &Names) -> u64 {
    let manifest = names.manifest.as_ref().map(|_| room.manifest);
    let certificate = names.certificate.as_ref().map(|_| room.certificate);
    let texts = [Some(room.descriptor), manifest, certificate];
    texts.into_iter().flatten().map(member_len).sum()
}

/// Bytes of a member with its header and padding.
fn member_len(len: usize) -> u64 {
    BLOCK + (len as u64).next_multiple_of(BLOCK)
}

struct Writer<'a> {
    members: MemberWriter<'a>,
    names: Names,
    input: Input,
    identities: Vec<Option<Identity>>,
}

impl Writer<'_> {
    fn describer(&self) -> Result<Describer<'_>> {
        Ok(Describer {
            input: &self.input,
            names: &self.names,
            format: self.members.described_format(),
            options: self.members.options,
            capacities: self.capacities()?,
        })
    }

    /// Sizes of the disks as the package will have them.
    fn capacities(&self) -> Result<Vec<u64>> {
        let disks = self.input.disks.iter().zip(&self.names.disks);
        disks
            .map(|(disk, name)| {
                let target = self
                    .members
                    .target(disk, name.as_deref().unwrap_or("disk"))?;
                match target.further_parts().is_empty() {
                    true => Ok(target.size()),
                    false => Err(Error::usage(
                        "-o",
                        "disks of several files do not go into an OVA",
                    )
                    .hint("write a folder with -O ovf, or use another subformat")
                    .into()),
                }
            })
            .collect()
    }

    fn write_file(&mut self, path: &Path, force: bool, room: Room, front: u64) -> Result<Made> {
        refuse_own_source(path, &self.input.sources(self.members.options))?;
        let path = check_name(path, force)?;
        let output = FileSet::create(&path, &[], force)?;
        let (done, end) = self.members(&output, front, None)?;
        let texts = self.describer()?.texts(&done, Some(room))?;
        output.set_len(end)?;
        output.write_at(&self.front(&texts)?, 0)?;
        if self.members.options.copy.verify {
            self.verify(&output, front, &done)?;
        }
        output.commit(force)?;
        Ok(self.made(texts.notes, done, end))
    }

    fn write_stream(&mut self, output: &dyn Output, room: Room, front: u64) -> Result<Made> {
        let (known, _) = self.members(&Nowhere, front, None)?;
        let texts = self.describer()?.texts(&known, Some(room))?;
        output.write_at(&self.front(&texts)?, 0)?;
        let (done, end) = self.members(output, front, Some(&known))?;
        let is_same = |(a, b): (&Done, &Done)| a.len == b.len && a.digest == b.digest;
        if !known.iter().zip(&done).all(is_same) {
            return Err(Error::refused("disk", "changed while it was read")
                .hint("the package that went out is not whole: throw it away")
                .into());
        }
        output.sync()?;
        Ok(self.made(texts.notes, done, end))
    }

    /// Writes disks and discs from `at` on, and the end of the archive. Headers go first where `known` tells the lengths, else
    /// last. Answers also where all ends.
    fn members(
        &mut self,
        output: &dyn Output,
        mut at: u64,
        known: Option<&[Done]>,
    ) -> Result<(Vec<Done>, u64)> {
        let time = self.members.options.unix_time;
        let mut all = Vec::new();
        let names: Vec<String> = self.names.members().map(str::to_owned).collect();
        let disks = self.input.disks.iter_mut().zip(&self.identities);
        let mut disks = disks.filter(|(disk, _)| !disk.is_blank);
        let mut discs = self.input.discs.iter_mut().flatten();
        for (index, name) in names.iter().enumerate() {
            let header = |len: u64| Header::for_file(name, len, time);
            if let Some(known) = known.and_then(|known| known.get(index)) {
                output.write_at(&header(known.len)?, at)?;
            }
            let start = at + BLOCK;
            let done = match disks.next() {
                Some((disk, identity)) => {
                    self.members.disk(disk, name, *identity, output, start)?
                }
                None => match discs.next() {
                    Some(disc) => self.members.disc(disc, output, start)?,
                    None => break,
                },
            };
            if known.is_none() {
                output.write_at(&header(done.len)?, at)?;
            }
            at = start + done.len.next_multiple_of(BLOCK);
            all.push(done);
        }
        output.write_at(&[0; 2 * BLOCK as usize], at)?;
        Ok((all, at + 2 * BLOCK))
    }

    /// The members in front, with their headers.
    fn front(&self, texts: &Texts) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let members = [
            (Some(&self.names.descriptor), &texts.descriptor),
            (self.names.manifest.as_ref(), &texts.manifest),
            (self.names.certificate.as_ref(), &texts.certificate),
        ];
        for (name, text) in members {
            let Some(name) = name else { continue };
            let time = self.members.options.unix_time;
            bytes.extend(Header::for_file(name, text.len() as u64, time)?);
            bytes.extend(text);
            bytes.resize(bytes.len().next_multiple_of(BLOCK as usize), 0);
        }
        Ok(bytes)
    }

    fn verify(&self, output: &dyn Output, front: u64, done: &[Done]) -> Result<()> {
        let storage = output.read_back()?;
        let mut at = front;
        let disks = self.input.disks.iter().filter(|disk| !disk.is_blank);
        for (disk, done) in disks.zip(done) {
            let slice = SliceStorage::new(storage.clone(), at + BLOCK, done.len)?;
            if let Some(copied) = &done.copied {
                self.members
                    .verify(disk, copied, Arc::new(slice), Vec::new())?;
            }
            at += BLOCK + done.len.next_multiple_of(BLOCK);
        }
        Ok(())
    }

    fn made(&mut self, notes: Vec<String>, done: Vec<Done>, file_size: u64) -> Made {
        self.members.notes.extend(notes);
        Made {
            notes: std::mem::take(&mut self.members.notes),
            file_size,
            disks: disks_out(&self.input, &self.names, done),
        }
    }
}

/// What is told of the disks that were written.
pub(super) fn disks_out(input: &Input, names: &Names, done: Vec<Done>) -> Vec<DiskOut> {
    let disks = input.disks.iter().zip(&names.disks);
    let named = disks.filter_map(|(disk, name)| Some((disk, name.clone()?)));
    let done = done.into_iter().filter_map(|d| Some((d.copied?, d.len)));
    let pairs = named.zip(done);
    pairs
        .map(|((disk, name), (copied, len))| {
            DiskOut::new(name, disk.image.source.size(), copied, len)
        })
        .collect()
}
