//! Opening an image: the file, then the files it stands on, into one disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::chain::{Walk, check_chain, check_identity};
use crate::driver::{Format, Layer, LayerChoice, LayerInfo, OpenContext, ParentReference, driver};
use crate::error::{Error, Result};
use crate::options::Backing;
use crate::probe::probe;
use crate::source::BlockSource;
use crate::stack::Stack;
use crate::storage::{FileStorage, StorageRef};

/// An image with all it stands on.
pub struct Image {
    /// The disk as its guest sees it.
    pub source: Arc<dyn BlockSource>,
    /// The files of the chain, the one that was named first.
    pub layers: Vec<LayerFile>,
    /// Every file that is read from.
    pub storages: Vec<StorageRef>,
}

/// One file of a chain.
pub struct LayerFile {
    /// The file.
    pub path: PathBuf,
    /// What it says about itself.
    pub info: LayerInfo,
    /// Its own map, without its parents.
    pub source: Arc<dyn BlockSource>,
    /// The file's bytes.
    pub storage: StorageRef,
    /// Files besides it that hold parts of the layer (extents, a data file).
    pub further: Vec<StorageRef>,
    /// How it names the file that it stands on, if it is a delta.
    pub parent: Option<ParentReference>,
}

impl LayerFile {
    pub(crate) fn new(storage: StorageRef, layer: Layer) -> LayerFile {
        LayerFile {
            path: storage.path().to_owned(),
            info: layer.info,
            source: layer.source,
            storage,
            further: layer.storages,
            parent: layer.parent,
        }
    }

    /// Bytes in all files of this layer.
    pub fn file_size(&self) -> u64 {
        self.storages().map(|s| s.len()).sum()
    }

    /// Bytes that all files of this layer occupy.
    ///
    /// # Errors
    /// Those of the storages.
    pub fn allocated(&self) -> Result<u64> {
        self.storages().map(|s| s.allocated()).sum()
    }

    /// Every file that it is read from.
    pub fn storages(&self) -> impl Iterator<Item = &StorageRef> {
        std::iter::once(&self.storage).chain(&self.further)
    }

    /// When its file was last written to, in seconds since 1970, where the file system says so.
    pub fn modified(&self) -> Option<u64> {
        let meta = self.storage.whole_file()?.metadata().ok()?;
        let since = meta.modified().ok()?.duration_since(std::time::UNIX_EPOCH);
        since.ok().map(|since| since.as_secs())
    }
}

impl LayerFile {
    /// What an image that stands on this one has to know of it; it will call it `name`.
    pub fn as_backing(&self, name: &str) -> Backing {
        Backing {
            name: name.to_owned(),
            format: self.info.format,
            identity: self.info.identity,
            disk_id: self.info.disk_id,
            size: self.source.size(),
            sector_size: self.source.sector_size(),
            block_size: self.source.block_size(),
            modified: self.modified(),
        }
    }
}

impl Image {
    /// The layer that was named.
    pub fn tip(&self) -> Option<&LayerFile> {
        self.layers.first()
    }

    /// Fails when one of its files changed since it was opened.
    ///
    /// # Errors
    /// `Refused` when one did.
    pub fn check_unchanged(&self) -> Result<()> {
        self.storages.iter().try_for_each(|s| s.check_unchanged())
    }
}

/// Opens the image at `path`, as `format` or as what it looks like, and all it stands on.
///
/// # Errors
/// What is wrong with any of the files; `Refused` for a reference that the policy does not allow.
pub fn open(path: &Path, format: Option<Format>, context: &OpenContext) -> Result<Image> {
    let storage: StorageRef = Arc::new(FileStorage::open(path)?);
    open_storage(storage, format, context)
}

/// As [`open`], for an image that is in a storage already.
///
/// # Errors
/// As [`open`].
pub fn open_storage(
    storage: StorageRef,
    format: Option<Format>,
    context: &OpenContext,
) -> Result<Image> {
    let mut walk = Walk::new(storage, format, context)?;
    if let Some(choice) = &context.layer {
        return one_layer(walk, choice);
    }
    while walk.step()? {}
    let layers = walk.layers;
    let sources = layers.iter().map(|layer| layer.source.clone()).collect();
    Ok(Image {
        source: stacked(sources)?,
        storages: layers
            .iter()
            .flat_map(LayerFile::storages)
            .cloned()
            .collect(),
        layers,
    })
}

/// The disk of a chain, the tip first.
///
/// # Errors
/// `Malformed` for a chain of nothing.
pub fn stacked(layers: Vec<Arc<dyn BlockSource>>) -> Result<Arc<dyn BlockSource>> {
    let mut layers = layers.into_iter();
    let Some(tip) = layers.next() else {
        return Err(Error::malformed("chain", "has no layer"));
    };
    let parents: Vec<_> = layers.collect();
    Ok(match parents.is_empty() {
        true => tip,
        false => Arc::new(Stack::new(tip, parents)),
    })
}

/// The files of a chain from the tip on, as far as they can be opened.
pub struct Chain {
    /// The files that could be, the tip first.
    pub layers: Vec<LayerFile>,
    /// What is wrong with the next one.
    pub failure: Option<Error>,
}

/// As [`open_storage`], for looking at a chain of which not all files may be there. [`OpenContext::layer`] is not looked
/// at.
///
/// # Errors
/// What is wrong with the tip.
pub fn open_chain(
    storage: StorageRef,
    format: Option<Format>,
    context: &OpenContext,
) -> Result<Chain> {
    let mut walk = Walk::new(storage, format, context)?;
    let failure = loop {
        match walk.step() {
            Ok(true) => {}
            Ok(false) => break None,
            Err(error) => break Some(error),
        }
    };
    Ok(Chain {
        layers: walk.layers,
        failure,
    })
}

/// The layer that `choice` names, without what it stands on: no more of the chain is opened than leads to it.
fn one_layer(mut walk: Walk, choice: &LayerChoice) -> Result<Image> {
    loop {
        let number = walk.layers.len().saturating_sub(1);
        let Some(layer) = walk.layers.last() else {
            return Err(Error::malformed("chain", "has no layer"));
        };
        let is_meant = match choice {
            LayerChoice::Number(wanted) => *wanted == number,
            LayerChoice::Name(name) => {
                layer.path.file_name() == Some(name.as_ref()) || layer.path == Path::new(name)
            }
        };
        if is_meant {
            break;
        }
        if !walk.step()? {
            return Err(Error::usage("--layer", "the chain has no such layer")
                .found(choice)
                .expected(match number {
                    0 => "0: it stands on nothing".to_owned(),
                    last => format!("0 (the tip) to {last} (the base), or the name of a file"),
                })
                .hint("info --chain lists them"));
        }
    }
    let layers: Vec<_> = walk.layers.pop().into_iter().collect();
    let sources = layers.iter().map(|layer| layer.source.clone()).collect();
    Ok(Image {
        source: stacked(sources)?,
        storages: layers
            .iter()
            .flat_map(LayerFile::storages)
            .cloned()
            .collect(),
        layers,
    })
}

/// Opens the file at `path` alone, and answers what it says about its parent: for looking at an image whose parent is not
/// there.
///
/// # Errors
/// What is wrong with this file.
pub fn open_alone(
    path: &Path,
    format: Option<Format>,
    context: &OpenContext,
) -> Result<(LayerFile, Option<ParentReference>)> {
    open_storage_alone(Arc::new(FileStorage::open(path)?), format, context)
}

/// As [`open_alone`], for an image that is in a storage already.
///
/// # Errors
/// As [`open_alone`].
pub fn open_storage_alone(
    storage: StorageRef,
    format: Option<Format>,
    context: &OpenContext,
) -> Result<(LayerFile, Option<ParentReference>)> {
    let layer = open_layer(&storage, format, context).map_err(|e| e.in_file(storage.path()))?;
    let reference = layer.parent.clone();
    Ok((LayerFile::new(storage, layer), reference))
}

/// As [`open_storage`], with `parent` below it whatever file the image itself names: packages say so in their description.
///
/// # Errors
/// As [`open_storage`]; `Malformed` when the image knows that it stands on another one.
pub fn open_over(
    storage: StorageRef,
    format: Option<Format>,
    context: &OpenContext,
    parent: Image,
) -> Result<Image> {
    let layer = open_layer(&storage, format, context).map_err(|e| e.in_file(storage.path()))?;
    if let (Some(reference), Some(tip)) = (&layer.parent, parent.tip()) {
        check_identity(reference, &tip.info, tip.source.sector_size(), &tip.path)?;
    }
    check_chain(&parent.layers, &storage)?;
    let mut storages = vec![storage.clone()];
    storages.extend(layer.storages.iter().cloned());
    storages.extend(parent.storages);
    let tip = layer.source.clone();
    let mut layers = vec![LayerFile::new(storage, layer)];
    layers.extend(parent.layers);
    Ok(Image {
        source: Arc::new(Stack::new(tip, vec![parent.source])),
        layers,
        storages,
    })
}

/// Opens the file alone, as `format` or as what it looks like.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn open_layer(
    storage: &StorageRef,
    format: Option<Format>,
    context: &OpenContext,
) -> Result<Layer> {
    let format = match format {
        Some(format) => format,
        None => probe(storage.as_ref())?,
    };
    if context.snapshot.is_some() && format != Format::Qcow2 {
        return Err(Error::usage(
            "--snapshot",
            format!("{format} images have no internal snapshots"),
        ));
    }
    driver(format).open(storage.clone(), context)
}

/// Fails when the user says that an image has other sectors than it says itself.
///
/// # Errors
/// `Usage`.
pub(crate) fn check_sectors(layer: &Layer, context: &OpenContext) -> Result<()> {
    let found = layer.source.sector_size();
    match context.sector_size {
        Some(size) if size != found => Err(Error::usage(
            "--sector-size",
            "the image itself says another one",
        )
        .found(size)
        .expected(found)),
        _ => Ok(()),
    }
}
