//! A whole chain at once: every layer becomes an image that stands on the one before it, the base first.
//!
//! A layer is written from its own map ([`Delta`]): what it does not define is neither read nor compared. Each image
//! is read back for what its child has to know of it. All files appear together.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use formats::open::{LayerFile, open_storage_alone, stacked};
use formats::options::Backing;
use formats::{
    BlockTarget, Delta, Error, Format, Image, OpenContext, Options, PART, ReferencePolicy,
    StorageRef, driver,
};

use crate::copy::{Copied, Copy, CopyOptions};
use crate::digest::Algorithm;
use crate::error::Result;
use crate::output::{FileSet, Output, Part};
use crate::pass::{self, Setting, Wanted};
use crate::refusals::{check_name, refuse_own_source};
use crate::verify::{Expected, verify};

/// Where the images of a chain go.
pub struct ChainPlace<'a> {
    /// The folder.
    pub folder: &'a Path,
    /// The name of each image, that of the tip first.
    pub names: &'a [String],
    /// Whether they may replace files.
    pub force: bool,
}

/// A layer that was written.
#[derive(Debug)]
pub struct LayerDone {
    /// Guest-visible size of the source in bytes.
    pub source_size: u64,
    /// Guest-visible size of the target in bytes: never less.
    pub target_size: u64,
    /// Length of the file in bytes.
    pub file_size: u64,
    /// Guest bytes of data that the layer holds itself.
    pub data_bytes: u64,
    /// Guest bytes that it says are zeros.
    pub zero_bytes: u64,
    /// Digests of the disk that is seen with this layer as the tip.
    pub digests: Vec<(Algorithm, String)>,
    /// The BLAKE3 of that, which verifying yields besides.
    pub verified_digest: Option<String>,
    /// What the user should know about the image.
    pub notes: Vec<String>,
}

/// Converts every layer of `image`, a chain, to `format`. Answers what was done, the tip first.
///
/// # Errors
/// What is wrong with a layer, the format or the storage: no file appears then.
pub fn convert_chain(
    image: &Image,
    format: Format,
    format_options: &Options,
    place: &ChainPlace<'_>,
    options: &CopyOptions,
    setting: &Setting<'_>,
) -> Result<Vec<LayerDone>> {
    let Some((first, further)) = place.names.split_first() else {
        return Err(Error::malformed("chain", "has no layer").into());
    };
    let mut sources = options.sources.clone();
    sources.extend(image.storages.iter().map(|storage| storage.path()));
    for name in place.names {
        refuse_own_source(&place.folder.join(name), &sources)?;
    }
    let first = place.folder.join(first);
    // A link would lead out of the folder that the others stand in.
    let first = match first.is_symlink() {
        true => first,
        false => check_name(&first, place.force)?,
    };
    let further: Vec<OsString> = further.iter().map(OsString::from).collect();
    let output = FileSet::create(&first, &further, place.force)?;
    let job = ChainJob {
        image,
        format,
        format_options: format_options
            .clone()
            .for_sectors(image.source.sector_size()),
        names: place.names,
        options,
        setting,
        output: &output,
    };
    let mut written: Vec<Written> = Vec::new();
    for number in (0..image.layers.len()).rev() {
        let layer = job.write(number, written.last())?;
        written.push(layer);
    }
    written.reverse();
    let mut done = job.prove(written)?;
    image.check_unchanged()?;
    if let Some(holds) = &options.provided {
        holds()?;
    }
    output.commit(place.force)?;
    done.iter_mut().for_each(|layer| layer.notes.dedup());
    Ok(done)
}

struct ChainJob<'a> {
    image: &'a Image,
    format: Format,
    format_options: Options,
    names: &'a [String],
    options: &'a CopyOptions,
    setting: &'a Setting<'a>,
    output: &'a FileSet,
}

/// An image that was written, and read back.
struct Written {
    file: LayerFile,
    copied: Copied,
    backing: Backing,
}

impl ChainJob<'_> {
    /// Writes layer `number` over `parent`.
    fn write(&self, number: usize, parent: Option<&Written>) -> Result<Written> {
        let (source, name) = match (self.image.layers.get(number), self.names.get(number)) {
            (Some(layer), Some(name)) => (&layer.source, name),
            _ => return Err(Error::malformed("chain", "has no such layer").into()),
        };
        let target = self.target(source.size(), name, parent)?;
        let source = match parent {
            None => source.clone(),
            Some(_) => Arc::new(Delta::new(
                source.clone(),
                stacked(self.disks(number + 1))?,
                target.block_size(),
                target.size(),
            )),
        };
        let delta = Image {
            source,
            layers: Vec::new(),
            storages: self.image.storages.clone(),
        };
        let options = CopyOptions {
            is_delta: parent.is_some(),
            verify: false,
            digests: Vec::new(),
            provided: None,
            ..self.options.clone()
        };
        let copy = Copy {
            image: &delta,
            options: &options,
            setting: self.setting,
        };
        let base = PART * number as u64;
        let copied = copy.run(target, &Part::new(self.output, base))?;
        let (storage, _) = self.output.read_back_at(base)?;
        self.read_back(storage, name, copied)
    }

    fn target(
        &self,
        size: u64,
        name: &str,
        parent: Option<&Written>,
    ) -> Result<Box<dyn BlockTarget>> {
        let backing = parent.map(|parent| parent.backing.clone());
        // What a sector has behind the end of the layer is written, so that nothing of the image below shows there.
        let unit = backing.as_ref().map_or(1, |b| u64::from(b.sector_size));
        let size = size
            .checked_next_multiple_of(unit)
            .ok_or_else(|| Error::limit("disk", "is too large").found(size))?;
        let options = self.format_options.clone().over(backing);
        let target = driver(self.format).target(size, &options, Path::new(name))?;
        if !target.further_parts().is_empty() {
            return Err(
                Error::usage("--keep-chain", "the images of a chain are of one file each")
                    .hint("leave out the option that makes them several")
                    .into(),
            );
        }
        Ok(target)
    }

    /// What the next image has to know of the one in `storage`, as anybody would read it.
    fn read_back(&self, storage: StorageRef, name: &str, copied: Copied) -> Result<Written> {
        let context = OpenContext {
            references: ReferencePolicy::only(Vec::new()),
            ..OpenContext::default()
        };
        let (file, _) = open_storage_alone(storage, Some(self.format), &context)?;
        let mut backing = file.as_backing(name);
        if self.options.reproducible.is_some() {
            backing.modified = None;
        }
        Ok(Written {
            file,
            copied,
            backing,
        })
    }

    /// The disks of the layers from `number` on.
    fn disks(&self, number: usize) -> Vec<Arc<dyn formats::BlockSource>> {
        let layers = self.image.layers.iter().skip(number);
        layers.map(|layer| layer.source.clone()).collect()
    }

    /// Holds what was written against what was read, as it is seen with each of the layers as the tip, and computes the
    /// digests of that: as far as either is wanted.
    fn prove(&self, written: Vec<Written>) -> Result<Vec<LayerDone>> {
        let wanted = Wanted {
            digests: self.options.digests.clone(),
            affordable_digest: self.options.verify && self.options.digests.is_empty(),
            fingerprint: self.options.verify,
        };
        let asked = wanted.fingerprint || !wanted.digests.is_empty();
        let new: Vec<_> = written.iter().map(|w| w.file.source.clone()).collect();
        let mut done = Vec::new();
        for (number, layer) in written.into_iter().enumerate() {
            let source = stacked(self.disks(number))?;
            let mut outcome = pass::Outcome::default();
            if asked {
                outcome = pass::run(source.as_ref(), &wanted, None, self.setting)?;
            }
            if self.options.verify {
                let expected = Expected {
                    size: source.size(),
                    fingerprint: outcome.fingerprint,
                    target_size: Some(layer.copied.target_size),
                };
                let disks = new.iter().skip(number).cloned().collect();
                verify(stacked(disks)?, &expected, self.setting)?;
            }
            done.push(LayerDone {
                source_size: source.size(),
                target_size: layer.copied.target_size,
                file_size: layer.copied.file_size,
                data_bytes: layer.copied.outcome.data_bytes,
                zero_bytes: layer.copied.outcome.zero_bytes,
                digests: outcome.digests,
                verified_digest: outcome.affordable_digest,
                notes: layer.copied.notes,
            });
        }
        Ok(done)
    }
}
