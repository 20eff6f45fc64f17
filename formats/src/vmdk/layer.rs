//! Opening a VMDK: from a descriptor, or an extent without one, to a layer.

use std::sync::Arc;

use super::descriptor::{Descriptor, LONG_CID, MAX_DESCRIPTOR, recognises, shortened};
use super::extent_line::ExtentLine;
use super::extents::{Extents, Own};
use super::hosted::HostedExtent;
use super::{SECTOR, cowd, header, hosted, sesparse};
use crate::driver::{Detail, Format, ImageId, Layer, LayerInfo, OpenContext, ParentReference};
use crate::error::{Error, Result};
use crate::reference;
use crate::source::BlockSource;
use crate::stack::Concat;
use crate::storage::{Storage, StorageRef};

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A descriptor.
    Descriptor,
    /// A hosted sparse extent.
    Hosted,
    /// A copy-on-write extent.
    Cowd,
    /// A space-efficient sparse extent.
    SeSparse,
}

impl Kind {
    /// What the file that starts with `first` is.
    pub fn of(first: &[u8]) -> Option<Kind> {
        let has = |magic: &[u8]| first.starts_with(magic);
        if has(&header::MAGIC) || has(&header::UNFINISHED_MAGIC) {
            Some(Kind::Hosted)
        } else if has(&cowd::MAGIC) {
            Some(Kind::Cowd)
        } else if has(&sesparse::MAGIC.to_le_bytes()) {
            Some(Kind::SeSparse)
        } else if recognises(first) {
            Some(Kind::Descriptor)
        } else {
            None
        }
    }

    /// What `storage` is.
    ///
    /// # Errors
    /// `Malformed` when it is no part of a VMDK.
    pub fn read(storage: &dyn Storage) -> Result<Kind> {
        let mut first = vec![0; storage.len().min(4096) as usize];
        storage.read_at(&mut first, 0)?;
        Kind::of(&first).ok_or_else(|| {
            Error::malformed("VMDK", "is neither a descriptor nor a sparse extent")
                .found(format!("{:02x?}", first.get(..8).unwrap_or(&first)))
                .hint("of a flat disk, name the descriptor (.vmdk), not the extent (-flat.vmdk)")
        })
    }
}

/// Opens the VMDK in `storage`.
///
/// # Errors
/// What is wrong with the descriptor or any extent.
pub fn open(storage: &StorageRef, context: &OpenContext) -> Result<Layer> {
    match Kind::read(storage.as_ref())? {
        Kind::Descriptor => {
            let text = descriptor_text(storage.as_ref())?;
            check_end(&text)?;
            from_descriptor(storage, Descriptor::parse(&text)?, None, context)
        }
        Kind::Hosted => {
            let mut extent = hosted::open(storage, context)?;
            match extent.descriptor.take() {
                Some(descriptor) => from_descriptor(storage, descriptor, Some(extent), context),
                None => Ok(bare(extent.source, "sparse extent", extent.warnings)),
            }
        }
        Kind::Cowd => {
            let extent = cowd::open(storage, context)?;
            if !extent.is_root {
                return Err(Error::unsupported(
                    "COWD header",
                    "the extent is a delta, and only its descriptor says of which disk",
                )
                .hint("name the descriptor (.vmdk), not the extent (-delta.vmdk)"));
            }
            Ok(bare(extent.source, "vmfsSparse extent", Vec::new()))
        }
        Kind::SeSparse => Ok(bare(
            sesparse::open(storage, context)?,
            "seSparse extent",
            Vec::new(),
        )),
    }
}

/// The text of the descriptor that the file is.
///
/// # Errors
/// `Limit` when it is too long.
pub fn descriptor_text(storage: &dyn Storage) -> Result<Vec<u8>> {
    if storage.len() > MAX_DESCRIPTOR {
        return Err(Error::limit("descriptor", "is too large")
            .found(format!("{} bytes", storage.len()))
            .expected(format!("at most {MAX_DESCRIPTOR}")));
    }
    let mut text = vec![0; storage.len() as usize];
    storage.read_at(&mut text, 0)?;
    Ok(text)
}

/// Fails when there are extents behind the NUL that ends a text: damage in its middle must not make the disk shorter.
fn check_end(text: &[u8]) -> Result<()> {
    let end = text.iter().position(|byte| *byte == 0);
    let rest = end.and_then(|end| text.get(end..)).unwrap_or_default();
    let mut lines = rest.split(|byte| matches!(byte, 0 | b'\n'));
    let is_extent = |line: &[u8]| {
        let line = String::from_utf8_lossy(line.trim_ascii());
        !matches!(ExtentLine::parse(&line, line.as_bytes()), Ok(None))
    };
    if !lines.any(is_extent) {
        return Ok(());
    }
    Err(Error::malformed("descriptor", "goes on behind a NUL byte")
        .at(end.unwrap_or(0) as u64)
        .hint("the file is damaged: find a whole copy"))
}

/// An extent without the descriptor that belongs to it.
fn bare(source: Arc<dyn BlockSource>, subformat: &str, mut warnings: Vec<String>) -> Layer {
    warnings.push(
        "this is an extent without its descriptor: whether it is all of the disk, or stands on a parent, is not known"
            .to_owned(),
    );
    let mut info = LayerInfo::new(Format::Vmdk, subformat);
    info.warnings = warnings;
    Layer {
        source,
        info,
        parent: None,
        storages: Vec::new(),
    }
}

fn from_descriptor(
    storage: &StorageRef,
    descriptor: Descriptor,
    own: Option<HostedExtent>,
    context: &OpenContext,
) -> Result<Layer> {
    check_type(&descriptor)?;
    let mut info = describe(&descriptor)?;
    if let Some(own) = &own {
        info.warnings.extend(own.warnings.iter().cloned());
        info.details.extend([
            ("layout", Detail::Text(own.layout.to_owned())),
            ("sparse_version", Detail::Number(own.header.version.into())),
            ("compressed", Detail::Flag(own.header.is_compressed())),
        ]);
    }
    // A sparse file of no capacity holds nothing but the descriptor.
    let own = own.filter(|own| own.header.capacity > 0).map(|own| Own {
        source: own.source,
        capacity: own.header.capacity,
    });
    let mut extents = Extents::open(storage, &descriptor, own, context)?;
    info.warnings.append(&mut extents.warnings);
    Ok(Layer {
        source: Arc::new(Concat::new(extents.pieces, sector_size(&descriptor)?)?),
        parent: parent(&descriptor)?,
        info,
        storages: extents.storages,
    })
}

/// What this program cannot read is refused by the name that VMware gives it.
fn check_type(descriptor: &Descriptor) -> Result<()> {
    let Some(create_type) = descriptor.value("createType") else {
        return Ok(());
    };
    let devices = [
        "vmfsRDM",
        "vmfsRDMP",
        "vmfsRaw",
        "vmfsRawDeviceMap",
        "vmfsPassthroughRawDeviceMap",
    ];
    if devices
        .iter()
        .any(|known| known.eq_ignore_ascii_case(create_type))
    {
        return Err(Error::unsupported(
            "descriptor",
            "the disk is a mapping of a raw device (RDM); its content is not in files",
        )
        .found(format!("createType {create_type:?}"))
        .hint("copy the device itself, or clone the disk to a VMDK with vmkfstools -i"));
    }
    Ok(())
}

fn sector_size(descriptor: &Descriptor) -> Result<u32> {
    match descriptor.database("logicalSectorSize") {
        None | Some("0" | "512") => Ok(512),
        Some("4096") => Ok(4096),
        Some(other) => Err(Error::unsupported(
            "descriptor",
            "the disk has sectors of an unknown size",
        )
        .found(format!("{:?}", shortened(other)))
        .expected("512 or 4096")),
    }
}

fn describe(descriptor: &Descriptor) -> Result<LayerInfo> {
    let create_type = descriptor.value("createType").unwrap_or_default();
    let mut info = LayerInfo::new(Format::Vmdk, create_type);
    if create_type.is_empty() {
        "without a type".clone_into(&mut info.subformat);
    }
    info.warnings.clone_from(&descriptor.warnings);
    let cid = descriptor.cid()?;
    info.identity = cid.filter(|cid| *cid != LONG_CID).map(ImageId::Cid);
    let text = |value: &str| Detail::Text(shortened(value));
    let hex = |cid: u32| Detail::Text(format!("{cid:08x}"));
    info.details.push(("create_type", text(create_type)));
    info.details.extend(cid.map(|cid| ("cid", hex(cid))));
    let parent = descriptor.parent_cid()?;
    if parent == Some(LONG_CID) {
        info.warnings.push(
            "the descriptor does not say which content its parent must have: it cannot be checked"
                .to_owned(),
        );
    }
    info.details
        .extend(parent.map(|cid| ("parent_cid", hex(cid))));
    let database = [
        ("adapter_type", "adapterType"),
        ("hardware_version", "virtualHWVersion"),
        ("tools_version", "toolsVersion"),
        ("uuid", "uuid"),
        ("long_content_id", "longContentID"),
        ("thin_provisioned", "thinProvisioned"),
    ];
    for (name, key) in database {
        let value = descriptor.database(key);
        info.details.extend(value.map(|value| (name, text(value))));
    }
    if let Some(name) = descriptor.value("changeTrackPath") {
        info.details.push(("change_tracking", text(name)));
    }
    let lines = descriptor.extents.iter().map(ToString::to_string);
    info.details
        .push(("extents", Detail::List(lines.collect())));
    Ok(info)
}

fn parent(descriptor: &Descriptor) -> Result<Option<ParentReference>> {
    const STRUCTURE: &str = "parentFileNameHint";
    let hint = descriptor.value("parentFileNameHint").unwrap_or_default();
    let Some(cid) = descriptor.parent_cid()? else {
        if hint.is_empty() {
            return Ok(None);
        }
        // Read alone it would be a disk with holes where the parent's data is.
        return Err(
            Error::malformed("descriptor", "names a parent, and says that there is none")
                .found(format!(
                    "parentFileNameHint {:?}, parentCID {}",
                    shortened(hint),
                    descriptor.value("parentCID").unwrap_or("missing")
                ))
                .expected("the CID of the parent"),
        );
    };
    if hint.is_empty() {
        return Err(
            Error::malformed("descriptor", "is a delta, but names no parent")
                .found(format!("parentCID {cid:08x}"))
                .expected(STRUCTURE),
        );
    }
    Ok(Some(ParentReference {
        names: reference::candidates(&hint.replace('\\', "/")),
        structure: STRUCTURE,
        format: Some(Format::Vmdk),
        identities: match cid {
            LONG_CID => Vec::new(),
            cid => vec![ImageId::Cid(cid)],
        },
        sector_size: None,
        modified: None,
    }))
}

/// How sectors are spoken of in messages.
pub fn in_sectors(bytes: u64) -> String {
    format!("{} sectors", bytes / SECTOR)
}
