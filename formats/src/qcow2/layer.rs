//! Opens an image: header, extensions, the files it names, and what it says about itself.

use std::sync::Arc;

use super::extensions::Extensions;
use super::features::{
    self, BITMAPS, CORRUPT, DIRTY, EXTENDED_L2, EXTERNAL_DATA, LAZY_REFCOUNTS, RAW_EXTERNAL,
};
use super::header::{FULL_LENGTH, Header};
use super::source::QcowSource;
use crate::driver::{Detail, Format, Layer, LayerInfo, OpenContext, ParentReference};
use crate::error::{Error, Result};
use crate::storage::{Storage, StorageRef};

/// What holds the parent's name, for messages.
const BACKING_NAME: &str = "backing file name";

/// Opens the image in `storage`, without its parents.
///
/// # Errors
/// Those of the structures, and `Refused` for an external data file that may not be followed.
pub fn open(storage: StorageRef, context: &OpenContext) -> Result<Layer> {
    let mut first = vec![0; storage.len().min(FULL_LENGTH as u64) as usize];
    storage.read_at(&mut first, 0)?;
    let header = Header::parse(&first)?;
    let extensions = match Extensions::read(&*storage, &header) {
        // An image of the future may have extensions that look wrong; its feature bits are the better reason.
        Err(_) if features::unreadable(header.incompatible) != 0 => Extensions::default(),
        other => other?,
    };
    let names = extensions.feature_names.clone().unwrap_or_default();
    features::check_readable(header.incompatible, &names)?;
    let backing_name = read_backing_name(&*storage, &header)?;
    let parent = backing_name
        .as_ref()
        .map(|name| parent(name, &extensions))
        .transpose()?;
    let mut storages = Vec::new();
    let mut data = storage.clone();
    if header.has(EXTERNAL_DATA) {
        data = open_data_file(&storage, &extensions, context)?;
        storages.push(data.clone());
    }
    let mut info = describe(&header, &extensions, backing_name);
    let source = QcowSource::new(storage, data, &header, context, &mut info.warnings)?;
    Ok(Layer {
        source: Arc::new(source),
        info,
        parent,
        storages,
    })
}

fn read_backing_name(storage: &dyn Storage, header: &Header) -> Result<Option<String>> {
    let Some((offset, length)) = header.backing_name else {
        return Ok(None);
    };
    let mut name = vec![0; length as usize];
    storage.read_at(&mut name, offset)?;
    String::from_utf8(name)
        .map(Some)
        .map_err(|_| Error::malformed(BACKING_NAME, "is not UTF-8 text").at(offset))
}

fn parent(name: &str, extensions: &Extensions) -> Result<ParentReference> {
    let format = match extensions.backing_format.as_deref() {
        None => None,
        Some("raw") => Some(Format::Raw),
        Some("qcow2") => Some(Format::Qcow2),
        Some("vpc" | "vhd") => Some(Format::Vhd),
        Some("vmdk") => Some(Format::Vmdk),
        Some(other) => {
            return Err(Error::unsupported(
                "backing format",
                "the format of the backing file is not supported",
            )
            .found(format!("{other:?}"))
            .expected("raw, qcow2, vpc or vmdk"));
        }
    };
    Ok(ParentReference {
        names: vec![name.to_owned()],
        structure: BACKING_NAME,
        format,
        identity: None,
    })
}

fn open_data_file(
    image: &StorageRef,
    extensions: &Extensions,
    context: &OpenContext,
) -> Result<StorageRef> {
    const DATA_NAME: &str = "data file name";
    let Some(name) = &extensions.data_file else {
        return Err(Error::malformed(
            DATA_NAME,
            "the image has an external data file, but names none",
        ));
    };
    let data = context.references.open(image.path(), name, DATA_NAME)?;
    if data.file_id().is_some() && data.file_id() == image.file_id() {
        return Err(
            Error::malformed(DATA_NAME, "names the image itself").found(format!("{name:?}"))
        );
    }
    Ok(data)
}

fn describe(header: &Header, extensions: &Extensions, backing_name: Option<String>) -> LayerInfo {
    let mut info = LayerInfo::new(Format::Qcow2, format!("v{}", header.version));
    let text = |text: &str| Detail::Text(text.to_owned());
    let compat = if header.version == 2 { "0.10" } else { "1.1" };
    let compression = match header.codec {
        crate::Codec::Zstd => "zstd",
        _ => "zlib",
    };
    info.details = vec![
        ("compat", text(compat)),
        ("cluster_size", Detail::Number(header.cluster_size())),
        ("refcount_bits", Detail::Number(1 << header.refcount_order)),
        ("compression_type", text(compression)),
        ("extended_l2", Detail::Flag(header.has(EXTENDED_L2))),
        (
            "lazy_refcounts",
            Detail::Flag(header.compatible & LAZY_REFCOUNTS != 0),
        ),
        ("dirty", Detail::Flag(header.has(DIRTY))),
        ("corrupt", Detail::Flag(header.has(CORRUPT))),
        ("snapshots", Detail::Number(header.snapshots.into())),
        (
            "bitmaps",
            Detail::Number(extensions.bitmaps.unwrap_or(0).into()),
        ),
    ];
    if extensions.bitmaps.is_some() && header.autoclear & BITMAPS == 0 {
        info.details.push(("bitmaps_stale", Detail::Flag(true)));
    }
    if header.has(EXTERNAL_DATA)
        && let Some(name) = &extensions.data_file
    {
        info.details.push(("data_file", text(name)));
        let raw = header.autoclear & RAW_EXTERNAL != 0;
        info.details.push(("data_file_raw", Detail::Flag(raw)));
    }
    if header.has(CORRUPT) {
        info.warnings.push(
            "the image is marked as corrupt: whoever wrote it last found damage in it".to_owned(),
        );
    }
    if let Some(name) = backing_name {
        match &extensions.backing_format {
            Some(format) => info.details.push(("backing_format", text(format))),
            None => info.warnings.push(format!(
                "the image does not say which format its backing file {name:?} has: it is guessed"
            )),
        }
        info.details.push(("backing_file", Detail::Text(name)));
    }
    info
}
