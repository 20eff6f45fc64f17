//! Opening: from the structures to a [`Layer`].

use std::sync::Arc;

use super::bat::{BITMAP_BLOCK, BatLayout};
use super::file_identifier;
use super::header::{HEADER_AREA, Headers};
use super::info;
use super::log::{self, LogState};
use super::metadata::Metadata;
use super::parent_locator::ParentLocator;
use super::region_table::RegionTable;
use super::source::VhdxSource;
use crate::driver::{Format, ImageId, Layer, OpenContext, ParentReference};
use crate::error::{Error, ErrorKind, Result};
use crate::overlap::Areas;
use crate::storage::{Storage, StorageRef, read_array};

/// All structures of a file but the BAT, each checked.
pub(super) struct Structures {
    /// Both headers.
    pub headers: Headers,
    /// What state the log was in.
    pub log: LogState,
    /// The file, with its log replayed.
    pub storage: StorageRef,
    /// The region table.
    pub regions: RegionTable,
    /// The metadata.
    pub metadata: Metadata,
    /// What holds no blocks.
    pub areas: Areas,
    /// The program that made the file.
    pub creator: Option<String>,
    /// What a user should hear about.
    pub warnings: Vec<String>,
}

impl Structures {
    /// Reads and checks them. With `salvage`, a log that cannot be replayed is left alone.
    ///
    /// # Errors
    /// Whatever is wrong with any of them.
    pub fn read(file: &StorageRef, context: &OpenContext) -> Result<Structures> {
        let mut warnings = Vec::new();
        let signature: [u8; 8] = read_array(file.as_ref(), 0)?;
        if signature != file_identifier::SIGNATURE {
            return Err(Error::malformed("file identifier", "has another signature")
                .at(0)
                .found(format!("\"{}\"", signature.escape_ascii()))
                .expected("\"vhdxfile\""));
        }
        let headers = Headers::read(file.as_ref())?;
        if let Some(damage) = &headers.damage {
            warnings.push(format!("{damage}; the other copy was used"));
        }
        let (storage, log) = replay(file, &headers, context, &mut warnings)?;
        let regions = RegionTable::read(storage.as_ref(), &mut warnings)?;
        let areas = areas(storage.as_ref(), &headers, &regions)?;
        let metadata = Metadata::read(storage.as_ref(), &regions.metadata, &mut warnings)?;
        if let Err(error) = check_growth(file, storage.as_ref(), &regions, &metadata)
            .map_err(|e| e.at(headers.current.log_offset).in_file(file.path()))
        {
            if !context.salvage {
                return Err(error);
            }
            warnings.push(error.to_string());
        }
        Ok(Structures {
            creator: file_identifier::creator(file.as_ref())?,
            headers,
            log,
            storage,
            regions,
            metadata,
            areas,
            warnings,
        })
    }
}

fn replay(
    file: &StorageRef,
    headers: &Headers,
    context: &OpenContext,
    warnings: &mut Vec<String>,
) -> Result<(StorageRef, LogState)> {
    match log::replay(file, &headers.current, &context.budget) {
        Ok((storage, log)) => {
            if let LogState::Replayed { entries, .. } = log {
                let grown = match storage.len().saturating_sub(file.len()) {
                    0 => String::new(),
                    more => format!("; they make it {more} bytes longer, which read as zeros"),
                };
                warnings.push(format!(
                    "the file was not closed properly: {entries} entries of its log were replayed in memory{grown}"
                ));
            }
            Ok((storage, log))
        }
        Err(error)
            if context.salvage
                && matches!(error.kind(), ErrorKind::Malformed | ErrorKind::Truncated) =>
        {
            warnings.push(format!(
                "{error}; it was not replayed: what was written last may be lost"
            ));
            Ok((file.clone(), LogState::Damaged))
        }
        Err(error) => Err(error),
    }
}

/// Fails when the log makes `file` longer than it can have been: by more than all that may be in it, which nobody adds
/// between two flushes. Blocks that are missing would read as zeros there.
fn check_growth(
    file: &StorageRef,
    replayed: &dyn Storage,
    regions: &RegionTable,
    metadata: &Metadata,
) -> Result<()> {
    let layout = BatLayout::new(metadata);
    let regions = regions.all.iter().map(|region| u64::from(region.length));
    let parts = [
        layout.blocks().saturating_mul(layout.block_size),
        layout.chunks().saturating_mul(BITMAP_BLOCK),
        file.len(),
    ];
    let most = parts
        .into_iter()
        .chain(regions)
        .fold(0, u64::saturating_add);
    if replayed.len() <= most {
        return Ok(());
    }
    Err(
        Error::malformed("log", "makes the file longer than the disk can need")
            .found(format!("{} bytes", replayed.len()))
            .expected(format!("at most {most} bytes")),
    )
}

/// What of the file holds neither data nor sector bitmaps.
fn areas(storage: &dyn Storage, headers: &Headers, regions: &RegionTable) -> Result<Areas> {
    let mut areas = Areas::default();
    areas.add("headers", 0, HEADER_AREA);
    let log = &headers.current;
    if log.log_length > 0 {
        areas.add("log", log.log_offset, log.log_length.into());
    }
    for region in &regions.all {
        let length = u64::from(region.length);
        if let Some(other) = areas.add(region.name(), region.offset, length) {
            return Err(
                Error::malformed("region table", "two parts of the file overlap")
                    .found(format!("{} and {other}", region.name()))
                    .expected(format!("none at byte {}", region.offset)),
            );
        }
    }
    for region in [&regions.metadata, &regions.bat] {
        let end = region.offset.saturating_add(region.length.into());
        if end > storage.len() {
            return Err(
                Error::truncated(region.name(), "does not fit into the file")
                    .at(region.offset)
                    .found(format!(
                        "{} bytes in a file of {} bytes",
                        region.length,
                        storage.len()
                    ))
                    .hint("the file is cut off"),
            );
        }
    }
    Ok(areas)
}

/// Opens the VHDX in `storage`, without its parents.
///
/// # Errors
/// Whatever is wrong with its structures; of the BAT only what can be seen without reading it.
pub fn open(storage: StorageRef, context: &OpenContext) -> Result<Layer> {
    let structures = Structures::read(&storage, context)?;
    let info = info::describe(&structures);
    let layout = BatLayout::new(&structures.metadata);
    let parent = structures
        .metadata
        .locator
        .as_ref()
        .map(|locator| parent_reference(locator, &structures.metadata))
        .transpose()?;
    let source = VhdxSource::new(
        structures.storage,
        layout,
        &structures.regions.bat,
        structures.areas,
        context,
    )?;
    Ok(Layer {
        source: Arc::new(source),
        info,
        parent,
        storages: Vec::new(),
    })
}

fn parent_reference(locator: &ParentLocator, metadata: &Metadata) -> Result<ParentReference> {
    let names = locator.names();
    if names.is_empty() {
        return Err(Error::malformed(
            "parent locator",
            "names no parent that can be looked for",
        ));
    }
    let linkages = std::iter::once(locator.parent_linkage).chain(locator.parent_linkage_2);
    Ok(ParentReference {
        names,
        structure: "parent locator",
        format: Some(Format::Vhdx),
        identities: linkages.map(ImageId::Uuid).collect(),
        sector_size: Some(metadata.logical_sector_size),
        modified: None,
    })
}
