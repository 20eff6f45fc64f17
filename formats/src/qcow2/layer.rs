//! Opens an image: header, extensions, the files it names, and what it says about itself.

use std::ops::Range;
use std::sync::Arc;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::bitmaps::{Bitmap, BitmapDirectory, Bitmaps};
use super::encryption::Encryption;
use super::extensions::Extensions;
use super::features::{
    self, BITMAPS, CORRUPT, DIRTY, EXTENDED_L2, EXTERNAL_DATA, LAZY_REFCOUNTS, RAW_EXTERNAL,
};
use super::header::{FULL_LENGTH, Header};
use super::snapshots::{self, Snapshot};
use super::source::QcowSource;
use crate::driver::{Detail, Format, Layer, LayerInfo, OpenContext, ParentReference};
use crate::error::{Error, Result};
use crate::storage::{Storage, StorageRef};

/// Bytes of bits that are counted for all bitmaps together: twice those of a disk of 64 TiB, in the usual granularity.
const BITMAP_EFFORT: u64 = 256 << 20;

/// What holds the parent's name, for messages.
const BACKING_NAME: &str = "backing file name";

/// Opens the image in `storage`, without its parents.
///
/// # Errors
/// Those of the structures, and `Refused` for an external data file that may not be followed and for a passphrase that
/// does not fit.
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
    let encryption = Encryption::read(&*storage, &header, &extensions, context)?;
    let mut storages = Vec::new();
    let mut data = storage.clone();
    if header.has(EXTERNAL_DATA) {
        data = open_data_file(&storage, &extensions, context)?;
        storages.push(data.clone());
    }
    let mut info = describe(&header, &extensions, backing_name);
    if let Some(encryption) = &encryption {
        data = encryption.open(&*storage, data, context)?;
        info.details.extend(encryption.details());
    }
    if context.detailed {
        describe_snapshots(&mut info, &storage, &header);
        describe_bitmaps(&mut info, &storage, &header, &extensions);
    }
    let header = match &context.snapshot {
        Some(wanted) => {
            let snapshots = snapshots::all(&*storage, &header)?;
            let snapshot = snapshots::find(&snapshots, wanted)?;
            info.details
                .push(("snapshot", Detail::Text(snapshot.name.clone())));
            snapshots::header_of(&header, snapshot)?
        }
        None => header,
    };
    let mut source = QcowSource::new(storage, data, &header, context, &mut info.warnings)?;
    if let Some(encryption) = &encryption {
        source.set_aside("the LUKS header", encryption.offset, encryption.length)?;
    }
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
        Some("vhdx") => Some(Format::Vhdx),
        Some("vmdk") => Some(Format::Vmdk),
        Some(other) => {
            return Err(Error::unsupported(
                "backing format",
                "the format of the backing file is not supported",
            )
            .found(format!("{other:?}"))
            .expected("raw, qcow2, vpc, vhdx or vmdk"));
        }
    };
    Ok(ParentReference {
        names: vec![name.to_owned()],
        structure: BACKING_NAME,
        format,
        identities: Vec::new(),
        sector_size: None,
        modified: None,
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

fn describe_snapshots(info: &mut LayerInfo, storage: &StorageRef, header: &Header) {
    let snapshots = snapshots::all(&**storage, header).unwrap_or_else(|error| {
        info.warnings
            .push(format!("the snapshots cannot be read: {error}"));
        Vec::new()
    });
    let record = |snapshot: &Snapshot| {
        vec![
            ("id", Detail::Text(snapshot.id.clone())),
            ("name", Detail::Text(snapshot.name.clone())),
            ("date", Detail::Text(date(snapshot.seconds))),
            (
                "disk_size",
                Detail::Number(snapshot.disk_size.unwrap_or(header.size)),
            ),
            ("vm_state_size", Detail::Number(snapshot.vm_state_size)),
        ]
    };
    let records = snapshots.iter().map(record).collect();
    info.details.push(("snapshots", Detail::Records(records)));
}

/// `2026-11-21T07:17:12Z`.
fn date(seconds: u32) -> String {
    OffsetDateTime::from_unix_timestamp(seconds.into())
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| seconds.to_string())
}

fn describe_bitmaps(
    info: &mut LayerInfo,
    storage: &StorageRef,
    header: &Header,
    extensions: &Extensions,
) {
    let bitmaps = match &extensions.bitmaps {
        Some(directory) => all_bitmaps(storage, header, directory),
        None => Ok(Vec::new()),
    };
    let bitmaps = bitmaps.unwrap_or_else(|error| {
        info.warnings
            .push(format!("the bitmaps cannot be read: {error}"));
        Vec::new()
    });
    let consistent = header.autoclear & BITMAPS != 0;
    let mut effort = BITMAP_EFFORT;
    let mut records = Vec::new();
    for bitmap in bitmaps {
        let mut record = vec![
            ("name", Detail::Text(bitmap.name.clone())),
            ("granularity", Detail::Number(1 << bitmap.granularity_bits)),
            (
                "usable",
                Detail::Flag(consistent && bitmap.is_trustworthy()),
            ),
            ("in_use", Detail::Flag(bitmap.in_use)),
            ("auto", Detail::Flag(bitmap.auto)),
        ];
        let cost = u64::from(bitmap.table_entries).saturating_mul(header.cluster_size());
        let mut dirty: u64 = 0;
        let counted = match effort.checked_sub(cost) {
            Some(left) => {
                effort = left;
                bitmap.dirty(storage, header, header.size, &mut |range| {
                    dirty = dirty.saturating_add(range.end - range.start);
                })
            }
            None => Err(Error::limit("bitmaps", "are too large to be counted")),
        };
        match counted {
            Ok(()) => record.push(("dirty_bytes", Detail::Number(dirty))),
            Err(error) => info.warnings.push(format!(
                "what is dirty in the bitmap {:?} is not known: {error}",
                bitmap.name
            )),
        }
        records.push(record);
    }
    info.details.push(("bitmaps", Detail::Records(records)));
}

fn all_bitmaps(
    storage: &StorageRef,
    header: &Header,
    directory: &BitmapDirectory,
) -> Result<Vec<Bitmap>> {
    Bitmaps::new(&**storage, *directory, header.cluster_size())?.collect()
}

/// Calls `visit` with the ranges that the bitmap called `name` says were written.
///
/// # Errors
/// `Usage` when there is no such bitmap, `Refused` when it is not to be trusted.
pub fn dirty_ranges(
    storage: &StorageRef,
    name: &str,
    visit: &mut dyn FnMut(Range<u64>),
) -> Result<()> {
    let mut first = vec![0; storage.len().min(FULL_LENGTH as u64) as usize];
    storage.read_at(&mut first, 0)?;
    let header = Header::parse(&first)?;
    let extensions = Extensions::read(&**storage, &header)?;
    let bitmaps = match &extensions.bitmaps {
        Some(extension) => all_bitmaps(storage, &header, extension)?,
        None => Vec::new(),
    };
    let mut named = bitmaps.iter().filter(|bitmap| bitmap.name == name);
    let (found, another) = (named.next(), named.next());
    if another.is_some() {
        return Err(
            Error::malformed("bitmap directory", "several bitmaps have this name")
                .found(format!("{name:?}"))
                .in_file(storage.path()),
        );
    }
    let Some(bitmap) = found else {
        let known: Vec<_> = bitmaps.iter().map(|b| format!("{:?}", b.name)).collect();
        return Err(Error::usage("--bitmap", "the image has no such bitmap")
            .found(format!("{name:?}"))
            .expected(if known.is_empty() {
                "none: the image has no bitmaps".to_owned()
            } else {
                known.join(", ")
            })
            .in_file(storage.path()));
    };
    if !bitmap.is_trustworthy() || header.autoclear & BITMAPS == 0 {
        return Err(Error::refused(
            "bitmap",
            "was not saved properly, or has data of an unknown kind: what it says may be too little",
        )
        .found(format!("{name:?}"))
        .in_file(storage.path())
        .hint("take the whole disk as written"));
    }
    bitmap
        .dirty(storage, &header, header.size, visit)
        .map_err(|e| e.in_file(storage.path()))
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
