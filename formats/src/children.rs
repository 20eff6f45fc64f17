//! What stands on an image: nobody but its children knows, so they are looked for.

use std::path::PathBuf;
use std::sync::Arc;

use crate::chain::is_same_file;
use crate::driver::{Format, OpenContext};
use crate::error::Result;
use crate::open::{LayerFile, open_storage_alone};
use crate::probe::recognised_in;
use crate::storage::{FileStorage, StorageRef};

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
    // Overlays are called anything ("web.snap1"), and any format may stand on any other (qcow2).
    for name in context.references.files_around(&parent.path, &[])? {
        let path = parent.path.with_file_name(&name);
        if !std::fs::metadata(&path).map_or(true, |meta| meta.is_file()) {
            continue;
        }
        // What cannot be read does not say what it stands on; a name that says raw does not hide what the content says.
        let storage: StorageRef = match FileStorage::open(&path) {
            Ok(file) => Arc::new(file),
            Err(_) => continue,
        };
        let formats = recognised_in(storage.as_ref()).unwrap_or_default();
        let mut found = formats
            .into_iter()
            .filter_map(|format| relation(&storage, format, parent, context));
        if let Some(is_whole) = found.next() {
            children.push(Child { path, is_whole });
        }
    }
    Ok(children)
}

/// Whether the file in `storage`, taken as `format`, is made of `parent` (true) or stands on it (false), if either.
fn relation(
    storage: &StorageRef,
    format: Format,
    parent: &LayerFile,
    context: &OpenContext,
) -> Option<bool> {
    let alone = OpenContext {
        locked: true,
        ..context.clone()
    };
    let (file, reference) = open_storage_alone(storage.clone(), Some(format), &alone).ok()?;
    if is_same_file(&file.storage, &parent.storage) {
        return None;
    }
    let mut further = file.further.iter();
    if further.any(|part| is_same_file(part, &parent.storage)) {
        return Some(true);
    }
    let reference = reference?;
    let own = parent.path.file_name().unwrap_or_default();
    let own = own.to_string_lossy();
    let names_it = |name: &String| {
        let bare = name.strip_prefix("file:").unwrap_or(name);
        let found = (context.references).open(&file.path, bare, reference.structure);
        bare.rsplit(['/', '\\']).next() == Some(&*own)
            || name.starts_with("json:") && name.contains(&*own)
            // Under another name: a link.
            || found.is_ok_and(|file| is_same_file(&file, &parent.storage))
    };
    let is_meant = match parent.info.identity {
        Some(id) if !reference.identities.is_empty() => reference.identities.contains(&id),
        _ => reference.names.iter().any(names_it),
    };
    is_meant.then_some(false)
}
