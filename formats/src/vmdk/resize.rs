//! Another size for a disk where it stands: one flat extent with its descriptor, or one sparse extent with its descriptor
//! inside.
//!
//! A flat extent becomes longer before its descriptor says so, and shorter afterwards; the descriptor is replaced as a
//! file. The header of a sparse extent is one sector, which says capacity, directories and descriptor at once:
//!
//! ```text
//!   header · descriptor · directory · tables · grains
//!   header · descriptor · directory · tables · grains │ directory · more tables │ new descriptor    1. behind the end
//!     └──────────────────────────────────────────────────┴─────────────────────────┘               2. the header
//!     └─── new descriptor ───────────────────────────────┘                                         3. back to its place
//! ```

use super::SECTOR;
use super::descriptor::Descriptor;
use super::extent_line::{ExtentLine, ExtentType};
use super::header::SparseHeader;
use super::hosted;
use super::layer::{Kind, descriptor_text};
use super::new_image::MAX_DISK;
use super::resized_text::resized;
use crate::error::{Error, Result};
use crate::in_place::Plan;
use crate::open::LayerFile;
use crate::storage::{StorageRef, read_array};

/// How the disk in `layer` gets `size` bytes, rounded up to sectors.
///
/// # Errors
/// `Unsupported` for other kinds of VMDKs, `Limit`, `Refused` for one that was not closed properly or whose changes are
/// tracked.
pub fn resize(layer: &LayerFile, size: u64) -> Result<Plan> {
    let rounded = size.checked_next_multiple_of(SECTOR);
    let Some(size) = rounded.filter(|size| *size <= MAX_DISK) else {
        return Err(Error::limit("vmdk", "the disk is too large")
            .found(format!("{size} bytes"))
            .expected(format!("at most {MAX_DISK} bytes")));
    };
    let storage = &layer.storage;
    match Kind::read(storage.as_ref())? {
        Kind::Descriptor => flat(layer, size),
        Kind::Hosted => Sparse::new(storage, size)?.plan(),
        Kind::Cowd | Kind::SeSparse => Err(unsupported("an extent of a chain of ESXi")),
    }
}

fn unsupported(found: impl std::fmt::Display) -> Error {
    Error::unsupported("vmdk", "a disk of this kind cannot be resized in place")
        .found(found)
        .expected("monolithicFlat, monolithicSparse or vmfs")
        .hint("convert --size makes a copy of another size")
}

/// The only extent of the disk.
fn only_extent(descriptor: &Descriptor) -> Result<&ExtentLine> {
    if descriptor.value("changeTrackPath").is_some() {
        return Err(
            Error::refused("vmdk", "its changes are tracked, by blocks of its size")
                .hint("turn changed block tracking off for the disk first"),
        );
    }
    match &descriptor.extents[..] {
        [line] => Ok(line),
        lines => Err(unsupported(format!("{} extents", lines.len()))),
    }
}

fn flat(layer: &LayerFile, size: u64) -> Result<Plan> {
    let text = descriptor_text(layer.storage.as_ref())?;
    let descriptor = Descriptor::parse(&text)?;
    let line = only_extent(&descriptor)?;
    let extent = layer.further.first();
    let is_flat = matches!(line.kind, ExtentType::Flat | ExtentType::Vmfs);
    let Some(extent) = extent.filter(|_| is_flat) else {
        return Err(unsupported(line));
    };
    let end = line.offset.saturating_add(size);
    let text = resized(&text, &descriptor, size / SECTOR)?;
    let mut plan = Plan::new(size);
    if end > extent.len() {
        plan.set_len(1, end);
        plan.sync();
    }
    plan.replace(0, text);
    plan.sync();
    if size < line.len {
        plan.set_len(1, end);
        plan.sync();
    }
    Ok(plan)
}

struct Sparse<'a> {
    storage: &'a StorageRef,
    old: SparseHeader,
    new: SparseHeader,
    /// The first sector as it stands there.
    sector: [u8; SECTOR as usize],
    /// The new descriptor, as long as its room.
    descriptor: Vec<u8>,
    /// Where what is added goes.
    end: u64,
    plan: Plan,
}

impl<'a> Sparse<'a> {
    fn new(storage: &'a StorageRef, size: u64) -> Result<Sparse<'a>> {
        let sector = read_array(storage.as_ref(), 0)?;
        let header = SparseHeader::parse(&sector)?;
        if header.is_compressed() || header.directory.is_none() {
            return Err(unsupported("a stream of compressed grains"));
        }
        if header.unclean {
            return Err(Error::refused(
                "sparse header",
                "the extent was not closed properly by who wrote it last",
            ));
        }
        let (offset, room) = header.descriptor;
        if offset == 0 || header.capacity == 0 {
            return Err(unsupported("an extent without its descriptor"));
        }
        // At most 1 MiB: it was opened.
        let mut text = vec![0; room as usize];
        storage.read_at(&mut text, offset)?;
        let descriptor = Descriptor::parse(&text)?;
        let line = only_extent(&descriptor)?;
        if line.kind != ExtentType::Sparse {
            return Err(unsupported(line));
        }
        let end = text.iter().position(|byte| *byte == 0);
        text.truncate(end.unwrap_or(text.len()));
        let mut text = resized(&text, &descriptor, size / SECTOR)?;
        if text.len() as u64 > room {
            return Err(Error::limit("descriptor", "would have no room any more").found(text.len()));
        }
        text.resize(room as usize, 0);
        let new = SparseHeader {
            capacity: size,
            ..header
        };
        Ok(Sparse {
            storage,
            old: header,
            new,
            sector,
            descriptor: text,
            end: storage.len().next_multiple_of(SECTOR),
            plan: Plan::new(size),
        })
    }

    fn plan(mut self) -> Result<Plan> {
        if self.new.tables() > self.old.tables() {
            self.new.redundant = self
                .old
                .redundant
                .map(|at| self.directory(at))
                .transpose()?;
            self.new.directory = self
                .old
                .directory
                .map(|at| self.directory(at))
                .transpose()?;
            // So that the next grain starts like all others.
            self.end = self.end.next_multiple_of(self.old.grain_size);
        }
        self.check_room()?;
        let (place, room) = self.old.descriptor;
        let (end, aside) = (self.end, self.descriptor.clone());
        self.plan.set_len(0, end + room);
        self.plan.write(end, aside.clone());
        self.plan.sync();
        self.new.descriptor = (end, room);
        self.write_header();
        self.plan.write(place, aside);
        self.plan.sync();
        self.new.descriptor = (place, room);
        self.write_header();
        self.plan.set_len(0, end);
        self.plan.sync();
        Ok(self.plan)
    }

    /// Makes a copy of the directory at byte `at`, with grain tables for what is new, behind the end; where it is.
    fn directory(&mut self, at: u64) -> Result<u64> {
        let table = hosted::geometry(&self.old).table_size();
        let mut bytes = vec![0; self.old.tables() as usize * 4];
        self.storage.read_at(&mut bytes, at)?;
        let place = self.end;
        let len = (self.new.tables() * 4).next_multiple_of(SECTOR);
        let mut next = place + len;
        for _ in self.old.tables()..self.new.tables() {
            let sector = u32::try_from(next / SECTOR).map_err(|_| too_long())?;
            bytes.extend(sector.to_le_bytes());
            next += table.next_multiple_of(SECTOR);
        }
        bytes.resize(len as usize, 0);
        self.plan.write(place, bytes);
        self.end = next;
        Ok(place)
    }

    /// Fails when a disk that is written full would have grains that no entry can name.
    fn check_room(&self) -> Result<()> {
        let grown = self.new.capacity.saturating_sub(self.old.capacity);
        let full = self.end.max(self.old.capacity).saturating_add(grown);
        match u32::try_from(full / SECTOR) {
            Ok(_) => Ok(()),
            Err(_) => Err(too_long()),
        }
    }

    fn write_header(&mut self) {
        self.plan.write(0, self.new.over(&self.sector));
        self.plan.sync();
    }
}

fn too_long() -> Error {
    Error::limit("vmdk", "the disk is too large for one sparse file")
        .expected("less than 2 TiB")
        .hint("convert --size with -o subformat=vmfs can hold it")
}
