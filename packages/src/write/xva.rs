//! An export of XenServer or XCP-ng: everything is known before the first block, so that it can go to a pipe.

use std::path::Path;
use std::sync::Arc;

use formats::tar::{BLOCK, Header};
use formats::xva::{DESCRIPTION, Index, XvaSource, XvaTarget, check_disks};
use formats::{Error, Image, StorageRef, WritableStorage};
use machines::Machine;
use machines::xva::Vdi;
use transfer::output::{FileSet, Output, StreamOutput};
use transfer::refusals::{check_name, refuse_own_source};
use transfer::verify::{Expected, verify};
use transfer::{Copied, Copy, CopyOptions, Place, Result, Setting};

use super::texts::readable;
use super::{DiskOut, Input, Made, WriteOptions};

/// Writes `inputs` to `place`.
///
/// # Errors
/// What is wrong with the disks or the storage. Nothing is left behind at `place` then.
pub fn xva(
    mut inputs: Vec<Input>,
    place: Place<'_>,
    options: &WriteOptions<'_>,
    setting: &Setting<'_>,
) -> Result<Made> {
    let machines: Vec<Machine> = inputs.iter().map(|input| input.machine.clone()).collect();
    check_disks(machines.iter().map(|m| m.disks.len() as u64).sum())?;
    let exported = machines::xva::write(&machines, &options.seed)?;
    readable(machines::xva::read(exported.written.text.as_bytes()))?;
    let mut writer = Writer {
        options,
        setting,
        vdis: exported.vdis,
        made: Made {
            notes: exported.written.notes,
            ..Made::default()
        },
        copied: Vec::new(),
    };
    let text = exported.written.text.into_bytes();
    match place {
        Place::File { path, force } => {
            for input in &inputs {
                refuse_own_source(path, &input.sources(options))?;
            }
            let path = check_name(path, force)?;
            let output = FileSet::create(&path, &[], force)?;
            let len = writer.write(&mut inputs, &text, &output)?;
            output.set_len(len)?;
            if options.copy.verify {
                writer.verify(output.read_back()?, &inputs)?;
            }
            output.commit(force)?;
        }
        Place::Stream(stream) => {
            if options.copy.verify {
                return Err(Error::usage("standard output", "cannot be read back")
                    .hint("leave out --verify")
                    .into());
            }
            writer.write(&mut inputs, &text, &StreamOutput::new(stream))?;
        }
        Place::Device(path) | Place::Replacement { path, .. } => return Err(no_device(path)),
    }
    Ok(writer.made)
}

/// The error for a device as the target of a package.
pub(super) fn no_device(path: &Path) -> transfer::Error {
    Error::usage("target device", "packages are written to files only")
        .in_file(path)
        .into()
}

struct Writer<'a> {
    options: &'a WriteOptions<'a>,
    setting: &'a Setting<'a>,
    vdis: Vec<Vdi>,
    made: Made,
    /// What verifying has to know of each disk.
    copied: Vec<Expected>,
}

impl Writer<'_> {
    /// Writes all of it, and answers how long it is.
    fn write(&mut self, inputs: &mut [Input], text: &[u8], output: &dyn Output) -> Result<u64> {
        let header = Header::for_file(DESCRIPTION, text.len() as u64, self.options.unix_time)?;
        output.write_at(&[&header, text].concat(), 0)?;
        let mut at = BLOCK + (text.len() as u64).next_multiple_of(BLOCK);
        for index in 0..self.vdis.len() {
            let Some(vdi) = self.vdis.get(index).cloned() else {
                break;
            };
            let input = inputs.get_mut(vdi.machine);
            let Some(disk) = input.and_then(|input| input.disks.get_mut(vdi.disk)) else {
                return Err(Error::malformed("machine", "has more disks than were given").into());
            };
            let provided = (self.options.watch)(std::mem::take(&mut disk.pending));
            let copied = self.disk(&vdi, &disk.image, provided, at, output)?;
            let end = copied.file_size;
            let size = disk.image.source.size();
            self.copied.push(Expected {
                size,
                fingerprint: copied.outcome.fingerprint,
                target_size: Some(copied.target_size),
            });
            self.made
                .disks
                .push(DiskOut::new(vdi.reference, size, copied, end - at));
            at = end;
        }
        output.write_at(&[0; 2 * BLOCK as usize], at)?;
        output.sync()?;
        self.made.file_size = at + 2 * BLOCK;
        Ok(self.made.file_size)
    }

    fn disk(
        &self,
        vdi: &Vdi,
        image: &Image,
        provided: Option<transfer::Condition>,
        start: u64,
        output: &dyn Output,
    ) -> Result<Copied> {
        let (checksum, time) = (self.options.checksum, self.options.unix_time);
        let size = image.source.size();
        let target = XvaTarget::new(&vdi.reference, size, start, checksum, time)?;
        let options = CopyOptions {
            provided,
            ..self.options.copy.clone()
        };
        let copy = Copy {
            image,
            options: &options,
            setting: self.setting,
        };
        copy.run(Box::new(target), output)
    }

    fn verify(&self, storage: StorageRef, inputs: &[Input]) -> Result<()> {
        let index = Index::read(&storage)?;
        if index.disks.len() != self.vdis.len() || inputs.is_empty() {
            return Err(transfer::Error::VerifyFailed);
        }
        let disks = index.disks.into_iter().zip(&self.vdis).zip(&self.copied);
        for ((disk, vdi), expected) in disks {
            let source = XvaSource::new(storage.clone(), Arc::new(disk), vdi.virtual_size)?;
            verify(Arc::new(source), expected, self.setting)?;
        }
        Ok(())
    }
}
