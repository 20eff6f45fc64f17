//! Opening an image: the file, then the files it stands on, into one disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::driver::{DRIVERS, Format, Layer, LayerInfo, OpenContext, ParentReference, driver};
use crate::error::{Error, ErrorKind, Result};
use crate::options::Backing;
use crate::probe::probe;
use crate::source::BlockSource;
use crate::stack::Stack;
use crate::storage::{FileStorage, StorageRef};

/// Layers that a chain may have. Products stop far below; a longer one is an attack or a mistake.
pub const MAX_CHAIN: usize = 64;

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
}

impl LayerFile {
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

    fn storages(&self) -> impl Iterator<Item = &StorageRef> {
        std::iter::once(&self.storage).chain(&self.further)
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
    let parents = &OpenContext {
        snapshot: None,
        ..context.clone()
    };
    let mut layers: Vec<LayerFile> = Vec::new();
    let mut storages = Vec::new();
    let layer = open_layer(&storage, format, context).map_err(|e| e.in_file(storage.path()))?;
    check_sectors(&layer, context).map_err(|e| e.in_file(storage.path()))?;
    let mut next = Some((storage, layer));
    while let Some((storage, layer)) = next.take() {
        check_chain(&layers, &storage)?;
        if let Some(reference) = &layer.parent {
            let (file, mut parent) = open_parent(storage.path(), reference, parents)?;
            let doubt = driver(layer.info.format).parent_doubt(&layer.info, &parent.info);
            parent.info.warnings.extend(doubt);
            next = Some((file, parent));
        }
        storages.push(storage.clone());
        storages.extend(layer.storages.iter().cloned());
        layers.push(LayerFile {
            path: storage.path().to_owned(),
            info: layer.info,
            source: layer.source,
            storage,
            further: layer.storages,
        });
    }
    let mut sources = layers.iter().map(|l| l.source.clone());
    let Some(tip) = sources.next() else {
        return Err(Error::malformed("chain", "has no layer"));
    };
    let parents: Vec<_> = sources.collect();
    let source = if parents.is_empty() {
        tip
    } else {
        Arc::new(Stack::new(tip, parents))
    };
    Ok(Image {
        source,
        layers,
        storages,
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
    let file = LayerFile {
        path: storage.path().to_owned(),
        info: layer.info,
        source: layer.source,
        storage,
        further: layer.storages,
    };
    Ok((file, layer.parent))
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
    let mut layers = vec![LayerFile {
        path: storage.path().to_owned(),
        info: layer.info,
        source: layer.source.clone(),
        storage,
        further: layer.storages,
    }];
    layers.extend(parent.layers);
    Ok(Image {
        source: Arc::new(Stack::new(layer.source, vec![parent.source])),
        layers,
        storages,
    })
}

/// An image that stands on another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// Its file.
    pub path: PathBuf,
    /// Whether the file below is one of its own: an extent, or a data file. Nothing of it may change by itself.
    pub is_whole: bool,
}

/// Files beside `parent` that could be its children, by the names or the ids that they hold, or images of which it is a
/// part. Those elsewhere nobody knows.
///
/// # Errors
/// `Io` when the folder cannot be listed, `Limit` when there is too much in it.
pub fn children_beside(parent: &LayerFile, context: &OpenContext) -> Result<Vec<Child>> {
    let mut children = Vec::new();
    let own = parent
        .path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    // Any format may stand on any other (qcow2).
    let extensions: Vec<&str> = DRIVERS
        .iter()
        .flat_map(|d| d.extensions())
        .copied()
        .collect();
    for name in context.references.files_around(&parent.path, &extensions)? {
        let path = parent.path.with_file_name(&name);
        let alone = OpenContext {
            locked: true,
            ..context.clone()
        };
        // What cannot be read does not say what it stands on.
        let Ok((file, reference)) = open_alone(&path, None, &alone) else {
            continue;
        };
        if is_same_file(&file.storage, &parent.storage) {
            continue;
        }
        let mut further = file.further.iter();
        if further.any(|part| is_same_file(part, &parent.storage)) {
            let is_whole = true;
            children.push(Child { path, is_whole });
            continue;
        }
        let Some(reference) = reference else { continue };
        let last = |name: &String| name.rsplit(['/', '\\']).next() == Some(&*own);
        let is_meant = match parent.info.identity {
            Some(id) if !reference.identities.is_empty() => reference.identities.contains(&id),
            _ => reference.names.iter().any(last),
        };
        if is_meant {
            children.push(Child {
                path,
                is_whole: false,
            });
        }
    }
    Ok(children)
}

fn open_layer(
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

fn is_same_file(one: &StorageRef, other: &StorageRef) -> bool {
    one.file_id().is_some() && one.file_id() == other.file_id()
}

/// Fails when the user says that an image has other sectors than it says itself.
fn check_sectors(layer: &Layer, context: &OpenContext) -> Result<()> {
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

fn check_chain(layers: &[LayerFile], storage: &StorageRef) -> Result<()> {
    if layers.len() >= MAX_CHAIN {
        return Err(Error::limit("chain", "has too many layers")
            .expected(format!("at most {MAX_CHAIN}"))
            .in_file(storage.path()));
    }
    let id = storage.file_id();
    if id.is_some() && layers.iter().any(|l| l.storage.file_id() == id) {
        return Err(
            Error::malformed("chain", "is a circle: the file is its own ancestor")
                .in_file(storage.path()),
        );
    }
    Ok(())
}

/// The first of the named files that can be opened and is the parent.
fn open_parent(
    child: &Path,
    reference: &ParentReference,
    context: &OpenContext,
) -> Result<(StorageRef, Layer)> {
    if let ([], [_, ..], Some(format)) = (
        &reference.names[..],
        &reference.identities[..],
        reference.format,
    ) {
        return find_parent(child, reference, format, context);
    }
    let mut failure: Option<Error> = None;
    for name in &reference.names {
        match open_named(child, name, reference, context) {
            Ok(parent) => return Ok(parent),
            // A file that is there, but is another one, tells more than a file that is not there. Of two alike the
            // first counts: it is the name that people know.
            Err(e)
                if failure.as_ref().is_none_or(|known| {
                    known.kind() == ErrorKind::Refused && e.kind() != ErrorKind::Refused
                }) =>
            {
                failure = Some(e);
            }
            Err(_) => {}
        }
    }
    Err(failure.unwrap_or_else(|| {
        Error::malformed(reference.structure, "is a delta, but names no parent").in_file(child)
    }))
}

/// The one file beside the child, or in a folder that the user allows, that is an image of the right format with the right
/// identity: for parents that have no name.
fn find_parent(
    child: &Path,
    reference: &ParentReference,
    format: Format,
    context: &OpenContext,
) -> Result<(StorageRef, Layer)> {
    let extensions = driver(format).extensions();
    let names = context.references.files_around(child, extensions)?;
    let mut found: Option<(StorageRef, Layer)> = None;
    let mut unreadable = None;
    for name in &names {
        let opened = context.references.open(child, name, reference.structure);
        let opened = opened.and_then(|storage| {
            let layer = open_layer(&storage, Some(format), context);
            let layer = layer.map_err(|e| e.in_file(storage.path()))?;
            Ok((storage, layer))
        });
        let candidate = match opened {
            Ok(candidate) => candidate,
            Err(error) => {
                unreadable.get_or_insert(error);
                continue;
            }
        };
        let identity = candidate.1.info.identity;
        if !identity.is_some_and(|id| reference.identities.contains(&id)) {
            continue;
        }
        match &found {
            None => found = Some(candidate),
            // The same file by another name.
            Some((known, _)) if is_same_file(known, &candidate.0) => {}
            Some((known, _)) => {
                let both = [known.path(), candidate.0.path()].map(Path::display);
                return Err(
                    Error::refused(reference.structure, "two files could be the parent")
                        .found(format!("{} and {}", both[0], both[1]))
                        .expected(format!("one file with {}", ids(reference)))
                        .hint("keep only the right one in the folders that are looked through")
                        .in_file(child),
                );
            }
        }
    }
    found.ok_or_else(|| {
        let what = match unreadable {
            None => format!("{} {format} files without it", names.len()),
            Some(error) => format!("{} {format} files, one not readable: {error}", names.len()),
        };
        Error::malformed(reference.structure, "no file with the parent's id is there")
            .found(what)
            .expected(ids(reference))
            .hint("put it beside the image, or name its folder with --allow-references DIR")
            .in_file(child)
    })
}

/// The identities that a parent may have, for messages.
fn ids(reference: &ParentReference) -> String {
    let ids: Vec<String> = reference
        .identities
        .iter()
        .map(ToString::to_string)
        .collect();
    format!("id {}", ids.join(" or "))
}

fn open_named(
    child: &Path,
    name: &str,
    reference: &ParentReference,
    context: &OpenContext,
) -> Result<(StorageRef, Layer)> {
    let storage = context.references.open(child, name, reference.structure)?;
    let path = storage.path().to_owned();
    let layer = open_layer(&storage, reference.format, context).map_err(|e| e.in_file(&path))?;
    check_identity(reference, &layer.info, layer.source.sector_size(), &path)?;
    Ok((storage, layer))
}

impl ParentReference {
    /// Fails when `parent` is not the image that is meant.
    ///
    /// # Errors
    /// `Malformed`.
    pub fn check(&self, parent: &LayerFile) -> Result<()> {
        let sectors = parent.source.sector_size();
        check_identity(self, &parent.info, sectors, &parent.path)
    }
}

fn check_identity(
    reference: &ParentReference,
    parent: &LayerInfo,
    found: u32,
    path: &Path,
) -> Result<()> {
    if let Some(expected) = reference.sector_size.filter(|size| *size != found) {
        return Err(Error::malformed(
            reference.structure,
            "the parent has sectors of another size",
        )
        .found(format!("{found} bytes"))
        .expected(format!("{expected} bytes"))
        .in_file(path));
    }
    let expected = &reference.identities;
    if expected.is_empty() || parent.identity.is_some_and(|id| expected.contains(&id)) {
        return Ok(());
    }
    Err(
        Error::malformed(reference.structure, "the parent is another image")
            .found(
                parent
                    .identity
                    .map_or("no id".to_owned(), |id| format!("id {id}")),
            )
            .expected(ids(reference))
            .hint("find the parent that the child was made on")
            .in_file(path),
    )
}
