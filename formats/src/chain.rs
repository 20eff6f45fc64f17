//! Going down a chain: from an image to the file that it stands on.

use std::path::Path;

use crate::driver::{Format, Layer, LayerInfo, OpenContext, ParentReference, driver};
use crate::error::{Error, ErrorKind, Result};
use crate::open::{LayerFile, check_sectors, open_layer};
use crate::storage::StorageRef;

/// Layers that a chain may have. Products stop far below; a longer one is an attack or a mistake.
pub const MAX_CHAIN: usize = 64;

/// Goes down a chain, layer by layer.
pub(crate) struct Walk {
    /// The layers so far, the tip first.
    pub layers: Vec<LayerFile>,
    /// How parents are opened.
    parents: OpenContext,
}

impl Walk {
    /// Stands on the tip.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(storage: StorageRef, format: Option<Format>, context: &OpenContext) -> Result<Walk> {
        let layer = open_layer(&storage, format, context).map_err(|e| e.in_file(storage.path()))?;
        check_sectors(&layer, context).map_err(|e| e.in_file(storage.path()))?;
        Ok(Walk {
            layers: vec![LayerFile::new(storage, layer)],
            parents: OpenContext {
                snapshot: None,
                layer: None,
                ..context.clone()
            },
        })
    }

    /// Opens what the lowest layer so far stands on; `false` when that is nothing.
    ///
    /// # Errors
    /// What is wrong with that; the layers so far stay.
    pub fn step(&mut self) -> Result<bool> {
        let Some((child, reference)) = self
            .layers
            .last()
            .and_then(|child| Some((child, child.parent.as_ref()?)))
        else {
            return Ok(false);
        };
        let (file, mut parent) = open_parent(&child.path, reference, &self.parents)?;
        check_chain(&self.layers, &file)?;
        let doubt = driver(child.info.format).parent_doubt(&child.info, &parent.info);
        parent.info.warnings.extend(doubt);
        self.layers.push(LayerFile::new(file, parent));
        Ok(true)
    }
}

/// Fails when `storage` cannot be the next layer below `layers`.
///
/// # Errors
/// `Limit` for a chain that is too long, `Malformed` for a circle.
pub(crate) fn check_chain(layers: &[LayerFile], storage: &StorageRef) -> Result<()> {
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

/// Whether both are the same file, by whatever names.
pub(crate) fn is_same_file(one: &StorageRef, other: &StorageRef) -> bool {
    one.file_id().is_some() && one.file_id() == other.file_id()
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

/// Fails when `parent` is not the image that `reference` speaks of. `found` is the size of its sectors in bytes.
///
/// # Errors
/// `Malformed`.
pub(crate) fn check_identity(
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
