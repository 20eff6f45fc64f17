//! An image as a layer of a disk: its map, what it says about itself, and which parent it wants.

use std::sync::Arc;

use uuid::Uuid;

use super::block_map::BlockMap;
use super::header::{Header, ImageType};
use super::source::VdiSource;
use crate::driver::{Detail, Format, ImageId, Layer, LayerInfo, OpenContext, ParentReference};
use crate::error::{Error, Result};
use crate::storage::StorageRef;

/// Names under which `info` shows ids; [`parent_doubt`] goes by the first and the last.
const MODIFICATION_ID: &str = "modification_id";
const PARENT_MODIFICATION_ID: &str = "parent_modification_id";

/// Opens the image in `storage`, without its parent.
///
/// # Errors
/// Those of the header, and `Truncated` when the block map is not wholly in the file.
pub(super) fn open(storage: StorageRef, context: &OpenContext) -> Result<Layer> {
    let header = Header::read(storage.as_ref())?;
    let mut info = describe(&header);
    let parent = parent(&header, context.salvage, &mut info.warnings)?;
    let map = BlockMap::open(storage.clone(), header, context)?;
    Ok(Layer {
        source: Arc::new(VdiSource::new(storage, map)),
        info,
        parent,
        storages: Vec::new(),
    })
}

fn describe(header: &Header) -> LayerInfo {
    let mut info = LayerInfo::new(Format::Vdi, header.image_type.name());
    info.identity = Some(ImageId::Uuid(header.image_id));
    let number = |n: u32| Detail::Number(n.into());
    info.details = vec![
        ("header_text", Detail::Text(words(&header.text))),
        ("block_size", number(header.block_size)),
        ("block_extra", number(header.block_extra)),
        ("map_entries", number(header.blocks)),
        ("allocated_blocks", number(header.allocated)),
    ];
    let ids = [
        (MODIFICATION_ID, header.modification_id),
        ("parent_id", header.parent_id),
        (PARENT_MODIFICATION_ID, header.parent_modification_id),
    ];
    let ids = ids.into_iter().filter(|(_, id)| !id.is_nil());
    info.details
        .extend(ids.map(|(name, id)| (name, Detail::Text(id.to_string()))));
    if let Some(geometry) = header.geometry {
        let text = Detail::Text(geometry.to_string());
        info.details.push(("geometry", text));
    }
    if header.flags != 0 {
        let text = Detail::Text(format!("{:#x}", header.flags));
        info.details.push(("flags", text));
    }
    let comment = words(&header.comment);
    if !comment.is_empty() {
        info.details.push(("comment", Detail::Text(comment)));
    }
    info
}

/// The text in a field that is padded with NUL.
fn words(field: &[u8]) -> String {
    let text = field.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).trim().to_owned()
}

/// The parent, which a VDI knows by its id alone.
fn parent(
    header: &Header,
    salvage: bool,
    warnings: &mut Vec<String>,
) -> Result<Option<ParentReference>> {
    let kind = header.image_type;
    if !kind.has_parent() {
        if !header.parent_id.is_nil() {
            warnings.push(format!(
                "the header has the id of a parent, but the image is {}: no parent was looked for",
                kind.name()
            ));
        }
        return Ok(None);
    }
    if header.parent_id.is_nil() {
        return without_parent(kind, salvage, warnings);
    }
    Ok(Some(ParentReference {
        names: Vec::new(),
        structure: "parent id",
        format: Some(Format::Vdi),
        identities: vec![ImageId::Uuid(header.parent_id)],
        sector_size: None,
        modified: None,
    }))
}

/// VirtualBox leaves such images when it merges a base into its child; a lost id looks the same.
fn without_parent(
    kind: ImageType,
    salvage: bool,
    warnings: &mut Vec<String>,
) -> Result<Option<ParentReference>> {
    if !salvage {
        return Err(Error::malformed(
            "parent id",
            format!("the image is {}, but has no parent's id", kind.name()),
        )
        .at(424)
        .hint("if VirtualBox merged the parent into it, --salvage reads it without one"));
    }
    warnings.push(
        "the parent's id is missing: what this image does not hold itself reads as zeros"
            .to_owned(),
    );
    Ok(None)
}

/// What speaks against `parent` being what it was when `child` was made on it. VirtualBox gives an image a new
/// modification id when a VM begins to write to it; but it also leaves the old one in a child whose parent it
/// exchanges (when a snapshot is deleted), so that this proves nothing.
pub(super) fn parent_doubt(child: &LayerInfo, parent: &LayerInfo) -> Option<String> {
    let expected = id(child, PARENT_MODIFICATION_ID)?;
    let found = id(parent, MODIFICATION_ID).unwrap_or_default();
    (expected != found).then(|| {
        format!(
            "its last modification is {found}, its child was made on {expected}: either a snapshot between them was deleted, or it was written to since, and the disk is not what it was"
        )
    })
}

fn id(info: &LayerInfo, name: &str) -> Option<Uuid> {
    let (_, detail) = info.details.iter().find(|(known, _)| *known == name)?;
    match detail {
        Detail::Text(text) => text.parse().ok(),
        _ => None,
    }
}
