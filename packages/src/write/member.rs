//! One disk, or one disc, as a file of a package.

use std::ffi::OsString;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use formats::{
    BlockTarget, Error, Format, Identity, Options, SliceStorage, Storage, StorageRef,
    WritableStorage, driver,
};
use machines::machine::DiskFormat;
use machines::manifest::{Algorithm, Hasher};
use machines::profiles::{DiskKind, Profile};
use transfer::output::{OrderedPart, Output, Part};
use transfer::verify::{Expected, Written, verify};
use transfer::{Copied, Copy, CopyOptions, Error as TransferError, Result, Setting};

use super::{DiscIn, DiskIn, WriteOptions};

/// Bytes of a disc that are copied in one go.
const STEP: u64 = 1 << 20;

/// A member that was written.
pub(super) struct Done {
    /// Bytes of it.
    pub(super) len: u64,
    /// Its digest, if there is a manifest.
    pub(super) digest: Vec<u8>,
    /// What the engine did, if it is a disk.
    pub(super) copied: Option<Copied>,
}

/// Writes members: the format of the disks, and what all of them share.
pub(super) struct MemberWriter<'a> {
    pub(super) options: &'a WriteOptions<'a>,
    pub(super) setting: &'a Setting<'a>,
    /// Format of the disks.
    pub(super) format: Format,
    /// What has to be told of the disks.
    pub(super) notes: Vec<String>,
    pairs: Vec<String>,
}

impl<'a> MemberWriter<'a> {
    /// Disks as the profile wants them, or as the options say.
    pub(super) fn new(
        options: &'a WriteOptions<'a>,
        setting: &'a Setting<'a>,
        default: (Format, &str),
    ) -> Self {
        let mut pairs = options.disk_options.clone();
        let mut all = pairs.iter().flat_map(|pairs| pairs.split(','));
        let says_kind = all.any(|pair| pair.trim().starts_with("subformat="));
        if !says_kind && !default.1.is_empty() {
            pairs.push(format!("subformat={}", default.1));
        }
        MemberWriter {
            options,
            setting,
            format: default.0,
            notes: Vec::new(),
            pairs,
        }
    }

    /// The layout of a disk in the file `name`, for `size` bytes or as many more as the profile wants.
    pub(super) fn target(&self, disk: &DiskIn, name: &str) -> Result<Box<dyn BlockTarget>> {
        let size = disk.image.source.size();
        let mut pairs = self.pairs.clone();
        let says_adapter = pairs.iter().any(|pairs| pairs.contains("adapter_type="));
        if let Some(adapter) = disk
            .adapter
            .filter(|_| self.format == Format::Vmdk && !says_adapter)
        {
            pairs.push(format!("adapter_type={adapter}"));
        }
        let options = Options::new(driver(self.format).options(), &pairs)?
            .for_sectors(disk.image.source.sector_size())
            .compressed(self.options.compress);
        Ok(driver(self.format).target(self.rounded(size)?, &options, Path::new(name))?)
    }

    fn rounded(&self, size: u64) -> Result<u64> {
        let unit = self.options.size_multiple.max(1);
        let rounded = match unit {
            1 => Some(size),
            _ => size.max(1).checked_next_multiple_of(unit),
        };
        Ok(rounded.ok_or_else(|| Error::limit("disk", "is too large").found(size))?)
    }

    /// What descriptions call the disks.
    pub(super) fn described_format(&self) -> DiskFormat {
        let mut pairs = self.pairs.iter().flat_map(|pairs| pairs.split(','));
        let is_stream = pairs.any(|pair| pair.trim() == "subformat=streamOptimized");
        match self.format {
            Format::Vmdk if is_stream => DiskFormat::VmdkStream,
            Format::Vmdk => DiskFormat::Vmdk,
            Format::Vhd => DiskFormat::Vhd,
            Format::Vhdx => DiskFormat::Vhdx,
            Format::Qcow2 => DiskFormat::Qcow2,
            Format::Vdi => DiskFormat::Vdi,
            Format::Raw => DiskFormat::Raw,
        }
    }

    /// Writes `disk` at `base` of `output`.
    pub(super) fn disk(
        &mut self,
        disk: &mut DiskIn,
        name: &str,
        identity: Option<Identity>,
        output: &dyn Output,
        base: u64,
    ) -> Result<Done> {
        let target = self.target(disk, name)?;
        let size = disk.image.source.size();
        if target.size() > size {
            let note = format!(
                "{name}: {size} bytes → {}, the rest is zeros",
                target.size()
            );
            if !self.notes.contains(&note) {
                self.notes.push(note);
            }
        }
        let options = CopyOptions {
            provided: (self.options.watch)(std::mem::take(&mut disk.pending)),
            identity,
            ..self.options.copy.clone()
        };
        let copy = Copy {
            image: &disk.image,
            options: &options,
            setting: self.setting,
        };
        if target.is_sequential() {
            let hasher = self.hasher();
            let part = ordered(output, base, &hasher)?;
            let copied = copy.run(target, &part)?;
            let len = part.finish()?;
            if !output.is_stream() {
                // The file may have been made longer ahead of the writes.
                output.set_len(base + len)?;
            }
            return Ok(Done {
                len,
                digest: finish(hasher),
                copied: Some(copied),
            });
        }
        if output.is_stream() {
            return Err(Error::usage(
                "standard output",
                "disks of this kind cannot be written in one go",
            )
            .hint("write the package to a file")
            .into());
        }
        let copied = copy.run(target, &Part::new(output, base))?;
        let len = copied.file_size;
        let digest = match self.options.manifest {
            None => Vec::new(),
            Some(algorithm) => self.digest(output, base, len, algorithm)?,
        };
        Ok(Done {
            len,
            digest,
            copied: Some(copied),
        })
    }

    /// Copies `disc` to `base` of `output`.
    pub(super) fn disc(&self, disc: &mut DiscIn, output: &dyn Output, base: u64) -> Result<Done> {
        let provided = (self.options.watch)(std::mem::take(&mut disc.pending));
        let hasher = self.hasher();
        let part = ordered(output, base, &hasher)?;
        self.each_piece(disc.storage.as_ref(), |at, piece| {
            Ok(part.write_at(piece, at)?)
        })?;
        let len = part.finish()?;
        if !output.is_stream() {
            output.set_len(base + len)?;
        }
        disc.storage.check_unchanged()?;
        provided.map_or(Ok(()), |holds| holds())?;
        Ok(Done {
            len,
            digest: finish(hasher),
            copied: None,
        })
    }

    /// Reads back the disk in `storage` and the files that belong to it, and holds it against what was read from `disk`.
    pub(super) fn verify(
        &self,
        disk: &DiskIn,
        copied: &Copied,
        storage: StorageRef,
        further: Vec<(OsString, StorageRef)>,
    ) -> Result<()> {
        let written = Written {
            format: self.format,
            storage,
            further,
            below: None,
        };
        let expected = Expected {
            size: disk.image.source.size(),
            fingerprint: copied.outcome.fingerprint,
            target_size: Some(copied.target_size),
        };
        verify(written.disk()?, &expected, self.setting)
    }

    /// The digest of what was written here and there: it is read once more.
    fn digest(
        &self,
        output: &dyn Output,
        base: u64,
        len: u64,
        algorithm: Algorithm,
    ) -> Result<Vec<u8>> {
        let (storage, at) = output.read_back_at(base)?;
        let written = SliceStorage::new(storage, at, len)?;
        let mut hasher = algorithm.hasher();
        self.each_piece(&written, |_, piece| {
            hasher.update(piece);
            Ok(())
        })?;
        Ok(hasher.finish())
    }

    fn each_piece(
        &self,
        storage: &dyn Storage,
        mut take: impl FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let (mut buffer, mut at) = (vec![0; STEP as usize], 0);
        while at < storage.len() {
            if self.setting.cancel.load(Ordering::Relaxed) {
                return Err(TransferError::Interrupted);
            }
            let len = STEP.min(storage.len() - at);
            let piece = &mut buffer[..len as usize];
            storage.read_at(piece, at)?;
            take(at, piece)?;
            at += len;
        }
        Ok(())
    }

    fn hasher(&self) -> Shared {
        Arc::new(Mutex::new(self.options.manifest.map(Algorithm::hasher)))
    }
}

/// A digest in the making, or none.
type Shared = Arc<Mutex<Option<Hasher>>>;

fn ordered<'a>(output: &'a dyn Output, base: u64, hasher: &Shared) -> Result<OrderedPart<'a>> {
    let hasher = hasher.clone();
    let observer = move |bytes: &[u8]| {
        let mut hasher = hasher.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(hasher) = hasher.as_mut() {
            hasher.update(bytes);
        }
    };
    Ok(OrderedPart::new(output, base, Box::new(observer))?)
}

fn finish(hasher: Shared) -> Vec<u8> {
    let mut hasher = hasher.lock().unwrap_or_else(|e| e.into_inner());
    hasher.take().map_or(Vec::new(), Hasher::finish)
}

/// The disks that a profile wants, as format and subformat.
pub(super) fn wanted(profile: &'static Profile) -> (Format, &'static str) {
    (format_of(profile.disk.0), profile.disk.1)
}

/// The format of disks that a profile asks for.
pub fn format_of(kind: DiskKind) -> Format {
    match kind {
        DiskKind::Vmdk => Format::Vmdk,
        DiskKind::Vhd => Format::Vhd,
        DiskKind::Vhdx => Format::Vhdx,
        DiskKind::Qcow2 => Format::Qcow2,
        DiskKind::Raw => Format::Raw,
    }
}
