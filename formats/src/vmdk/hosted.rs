//! A hosted sparse extent: monolithicSparse, the pieces of twoGbMaxExtentSparse, streamOptimized.

use std::sync::Arc;

use super::descriptor::{Descriptor, MAX_DESCRIPTOR};
use super::directory::{Directory, DirectoryLayout, TablePlace};
use super::grains::{Geometry, Grain, GrainFormat, GrainSource, past_the_end};
use super::header::{FLAG_ZERO_GRAINS, SparseHeader};
use super::marker::{GRAIN_MARKER, Marker};
use super::{SECTOR, rebuild};
use crate::driver::OpenContext;
use crate::error::{Error, ErrorKind, Result};
use crate::joined::PackedRange;
use crate::overlap::Areas;
use crate::source::BlockSource;
use crate::storage::{Storage, StorageRef, read_array};

/// Zeros behind the end of a stream that are passed over while the footer is looked for.
const MOST_PADDING: u64 = 4 << 20;

/// The layout of an extent whose tables are not in its file.
const REBUILT: &str = "rebuilt from markers";

/// An extent file, opened.
pub struct HostedExtent {
    /// Its map.
    pub source: Arc<dyn BlockSource>,
    /// Its header; of a stream the one at the front.
    pub header: SparseHeader,
    /// The descriptor inside it, if there is one.
    pub descriptor: Option<Descriptor>,
    /// Where its tables stand, in words.
    pub layout: &'static str,
    /// What a user should hear about.
    pub warnings: Vec<String>,
}

/// Opens the extent in `storage`.
///
/// # Errors
/// What is wrong with header, footer or grain directory.
pub fn open(storage: &StorageRef, context: &OpenContext) -> Result<HostedExtent> {
    let header = SparseHeader::parse(&read_array(storage.as_ref(), 0)?)?;
    let descriptor = embedded_descriptor(storage.as_ref(), &header)?;
    let mut warnings = Vec::new();
    if header.unclean {
        warnings.push("the extent was not closed properly by who wrote it last".to_owned());
    }
    let tables = match Tables::find(storage, &header, context) {
        Err(error) if context.salvage && can_do_without(&error) => {
            Tables::salvaged(storage, &header, context, &error, &mut warnings)?
        }
        tables => tables?,
    };
    let areas = areas(&header, &tables)?;
    let geometry = geometry(&header);
    let format = HostedFormat::new(&header);
    let is_rebuilt = tables.is_rebuilt();
    let mut source = GrainSource::new(
        format,
        geometry,
        (tables.storage, tables.directory),
        storage.clone(),
        areas,
        context,
    );
    if is_rebuilt {
        // The tables are in memory, where nothing else is.
        source = source.with_table_areas(Areas::default());
    }
    Ok(HostedExtent {
        source: Arc::new(source),
        header,
        descriptor,
        layout: tables.layout,
        warnings,
    })
}

fn can_do_without(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Malformed | ErrorKind::Truncated)
}

/// The descriptor inside the extent; none when its place is empty, as in all but the first extents of a split disk.
fn embedded_descriptor(storage: &dyn Storage, header: &SparseHeader) -> Result<Option<Descriptor>> {
    let (offset, room) = header.descriptor;
    if offset == 0 || room == 0 {
        return Ok(None);
    }
    if room > MAX_DESCRIPTOR {
        return Err(Error::limit("descriptor", "is too large")
            .at(offset)
            .found(format!("{room} bytes"))
            .expected(format!("at most {MAX_DESCRIPTOR}")));
    }
    let mut text = vec![0; room as usize];
    storage.read_at(&mut text, offset)?;
    if text.iter().all(|b| *b == 0) {
        return Ok(None);
    }
    if text.first() == Some(&0) {
        return Err(Error::malformed("descriptor", "is not a text").at(offset));
    }
    Descriptor::parse(&text).map(Some)
}

/// The sizes of the extent with this header.
pub fn geometry(header: &SparseHeader) -> Geometry {
    Geometry {
        capacity: header.capacity,
        grain_size: header.grain_size,
        table_entries: header.table_entries.into(),
        entry_size: 4,
    }
}

/// Grain directory and grain tables.
pub(super) struct Tables {
    storage: StorageRef,
    pub(super) directory: Directory,
    layout: &'static str,
    /// The other directory: byte offset.
    pub(super) redundant: Option<u64>,
}

impl Tables {
    /// Those that the header, or the footer, names.
    pub(super) fn find(
        storage: &StorageRef,
        header: &SparseHeader,
        context: &OpenContext,
    ) -> Result<Tables> {
        let (offset, redundant, layout) = match header.directory {
            Some(offset) => (offset, header.redundant, "tables in front"),
            None => {
                let footer = footer(storage.as_ref(), header)?;
                let offset = footer.directory.ok_or_else(|| {
                    Error::malformed("footer", "does not say where the grain directory is")
                })?;
                (offset, footer.redundant, "tables at the end, with footer")
            }
        };
        Tables::at(storage, header, offset, context).map(|directory| Tables {
            storage: storage.clone(),
            directory,
            layout,
            redundant,
        })
    }

    pub(super) fn at(
        storage: &StorageRef,
        header: &SparseHeader,
        offset: u64,
        context: &OpenContext,
    ) -> Result<Directory> {
        // An extent of no capacity holds a descriptor only, and needs no directory.
        if offset < SECTOR && header.capacity > 0 {
            return Err(Error::malformed("grain directory", "overlaps the header")
                .found(format!("byte {offset}")));
        }
        let zeros = header.flags & FLAG_ZERO_GRAINS != 0;
        let layout = DirectoryLayout {
            name: "grain directory",
            offset,
            entries: header.tables(),
            entry_size: 4,
            table_size: geometry(header).table_size(),
            read: Box::new(move |sector| match sector {
                1 if zeros => Ok(TablePlace::Zero),
                sector => directory_entry(sector),
            }),
        };
        Directory::open(storage.clone(), layout, context)
    }

    /// Whether they stand in memory, not in the file.
    fn is_rebuilt(&self) -> bool {
        self.layout == REBUILT
    }

    /// Where the directory is lost: the redundant one, or one made anew from the markers.
    fn salvaged(
        storage: &StorageRef,
        header: &SparseHeader,
        context: &OpenContext,
        error: &Error,
        warnings: &mut Vec<String>,
    ) -> Result<Tables> {
        if let Some(offset) = header.redundant
            && let Ok(directory) = Tables::at(storage, header, offset, context)
        {
            warnings.push(format!("the redundant grain directory was used: {error}"));
            return Ok(Tables {
                storage: storage.clone(),
                directory,
                layout: "redundant tables",
                redundant: None,
            });
        }
        if !header.has_markers() {
            return Err(Error::malformed(
                "grain directory",
                format!("is lost, and the extent has no markers to make one from: {error}"),
            ));
        }
        let rebuilt = rebuild::from_markers(storage, header, warnings)?;
        warnings.push(format!(
            "the grain directory was made anew from the grain markers: {error}"
        ));
        Ok(Tables {
            directory: Tables::at(&rebuilt.storage, header, rebuilt.directory, context)?,
            storage: rebuilt.storage,
            layout: REBUILT,
            redundant: None,
        })
    }
}

/// The footer: the last sector that is not zero, before the end-of-stream sector.
fn footer(storage: &dyn Storage, header: &SparseHeader) -> Result<SparseHeader> {
    let end = storage.len() / SECTOR * SECTOR;
    let mut at = end;
    let not_found = || {
        Error::truncated("footer", "is not at the end of the file")
            .hint("the stream is cut off; get the whole file, or read what is there with --salvage")
    };
    while at > SECTOR && end - at <= MOST_PADDING {
        at -= SECTOR;
        let sector: [u8; SECTOR as usize] = read_array(storage, at)?;
        if sector.iter().all(|b| *b == 0) {
            continue;
        }
        let footer = SparseHeader::parse(&sector).map_err(|e| match e.kind() {
            ErrorKind::Malformed => not_found().at(at).found(e.to_string()),
            _ => e.at(at),
        })?;
        let same =
            |h: &SparseHeader| (h.capacity, h.grain_size, h.table_entries, h.is_compressed());
        if same(&footer) != same(header) {
            return Err(Error::malformed("footer", "contradicts the header")
                .at(at)
                .found(format!(
                    "{} bytes in grains of {}",
                    footer.capacity, footer.grain_size
                ))
                .expected(format!(
                    "{} bytes in grains of {}",
                    header.capacity, header.grain_size
                )));
        }
        return Ok(footer);
    }
    Err(not_found())
}

/// An entry of a directory: nothing, or the sector of a grain table.
pub fn directory_entry(sector: u64) -> Result<TablePlace> {
    Ok(match sector {
        0 => TablePlace::Absent,
        sector => TablePlace::At(sector * SECTOR),
    })
}

/// The parts of the file in which no grain can stand.
fn areas(header: &SparseHeader, tables: &Tables) -> Result<Areas> {
    let mut areas = Areas::default();
    areas.add("the header", 0, SECTOR);
    let (descriptor, room) = header.descriptor;
    if descriptor != 0 {
        areas.add("the descriptor", descriptor, room);
    }
    if tables.is_rebuilt() {
        return Ok(areas);
    }
    let (offset, len) = tables.directory.place();
    let redundant = tables.redundant.filter(|other| *other != offset);
    let directories = [Some(offset), redundant];
    for at in directories.into_iter().flatten() {
        if let Some(other) = areas.add("the grain directory", at, len) {
            return Err(
                Error::malformed("grain directory", format!("overlaps {other}"))
                    .at(at)
                    .found(format!("{len} bytes")),
            );
        }
    }
    Ok(areas)
}

/// What entries and grains look like.
pub struct HostedFormat {
    grain_size: u64,
    zeros: bool,
    compressed: bool,
    markers: bool,
}

impl HostedFormat {
    /// Entries that are sectors of plain grains and nothing else.
    pub fn plain(grain_size: u64) -> HostedFormat {
        HostedFormat {
            grain_size,
            zeros: false,
            compressed: false,
            markers: false,
        }
    }

    fn new(header: &SparseHeader) -> HostedFormat {
        HostedFormat {
            grain_size: header.grain_size,
            zeros: header.flags & FLAG_ZERO_GRAINS != 0,
            compressed: header.is_compressed(),
            markers: header.has_markers(),
        }
    }
}

impl GrainFormat for HostedFormat {
    fn grain(&self, entry: &[u8]) -> Result<Grain> {
        let sector = entry
            .try_into()
            .map(u32::from_le_bytes)
            .map_err(|_| Error::malformed("grain table", "has half an entry"))?;
        let offset = u64::from(sector) * SECTOR;
        Ok(match sector {
            0 => Grain::Absent,
            1 if self.zeros => Grain::Zero,
            _ if self.compressed => Grain::Packed(offset),
            _ => Grain::Stored(offset),
        })
    }

    fn has_markers(&self) -> bool {
        self.markers
    }

    fn packed(&self, data: &StorageRef, offset: u64, guest: u64) -> Result<PackedRange> {
        let (start, len) = if self.markers {
            if offset.saturating_add(GRAIN_MARKER + 4) > data.len() {
                return Err(past_the_end(offset, data.len()));
            }
            match Marker::read(data.as_ref(), offset)? {
                Marker::Grain { sector, len } if sector == guest / SECTOR => {
                    (offset + GRAIN_MARKER, len)
                }
                other => {
                    return Err(Error::malformed(
                        "grain marker",
                        "is not that of the grain in the table",
                    )
                    .at(offset)
                    .found(format!("{other:?}"))
                    .expected(format!("a grain for sector {}", guest / SECTOR)));
                }
            }
        } else {
            if offset.saturating_add(4) > data.len() {
                return Err(past_the_end(offset, data.len()));
            }
            let len = read_array(data.as_ref(), offset).map(u32::from_le_bytes)?;
            (offset + 4, len)
        };
        // Deflate makes nothing longer than by a few bytes in a thousand.
        if len == 0 || u64::from(len) > 2 * self.grain_size {
            return Err(
                Error::malformed("compressed grain", "has an impossible length")
                    .at(offset)
                    .found(format!("{len} bytes"))
                    .expected(format!("1 to {}", 2 * self.grain_size)),
            );
        }
        if start + u64::from(len) > data.len() {
            return Err(past_the_end(offset, data.len()));
        }
        Ok(PackedRange { offset: start, len })
    }
}
