//! The map of a sparse extent of any kind: from guest offsets over grain directory and grain tables to grains.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::SECTOR;
use super::directory::{Directory, TablePlace};
use crate::codec::Codec;
use crate::driver::OpenContext;
use crate::error::{Error, Result};
use crate::joined::{Joined, PackedRange, Place};
use crate::overlap::{Areas, Inserted, UnitSet};
use crate::slice_cache::SliceCache;
use crate::source::{BlockSource, Mapping, Run};
use crate::storage::StorageRef;

/// Grain tables that one call of `map` looks into at most, so that none takes long.
const TABLES_PER_RUN: usize = 64;

/// Where a grain stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grain {
    /// In the parent, if there is one.
    Absent,
    /// Nowhere: zeros.
    Zero,
    /// As it is, from this byte on.
    Stored(u64),
    /// Compressed, with what belongs in front of it, from this byte on.
    Packed(u64),
}

/// What differs between the kinds of sparse extents.
pub trait GrainFormat: Send + Sync {
    /// What an entry of a grain table says.
    ///
    /// # Errors
    /// `Malformed` for what cannot be.
    fn grain(&self, entry: &[u8]) -> Result<Grain>;

    /// The compressed bytes of the grain for the guest's byte `guest`, which stands at `offset` of `data`.
    ///
    /// # Errors
    /// `Malformed` when it is another grain, `Truncated` when it is not all there.
    fn packed(&self, data: &StorageRef, offset: u64, guest: u64) -> Result<PackedRange>;

    /// Whether compressed grains say themselves which they are.
    fn has_markers(&self) -> bool {
        false
    }
}

/// The sizes of a sparse extent.
#[derive(Debug, Clone, Copy)]
pub struct Geometry {
    /// Guest bytes.
    pub capacity: u64,
    /// Guest bytes of a grain, a power of two of at least 512.
    pub grain_size: u64,
    /// Entries of a grain table.
    pub table_entries: u64,
    /// Bytes of an entry.
    pub entry_size: u64,
}

impl Geometry {
    /// Bytes of a grain table.
    pub fn table_size(&self) -> u64 {
        self.table_entries * self.entry_size
    }

    /// Guest bytes that a grain table covers.
    pub fn coverage(&self) -> u64 {
        self.table_entries * self.grain_size
    }
}

/// A sparse extent.
pub struct GrainSource<F> {
    format: F,
    geometry: Geometry,
    /// What the grains stand in.
    data: StorageRef,
    directory: Directory,
    tables: SliceCache,
    /// Whether the tables stand in the same file as the grains.
    own_tables: bool,
    /// Where no grain can be.
    areas: Areas,
    /// Where no grain table can be, if that is not the same.
    table_areas: Option<Areas>,
    seen: Mutex<Seen>,
    any_doubtful: AtomicBool,
}

/// What was met on the way, to notice it when it comes a second time.
struct Seen {
    /// Slices of grain tables, by file offset over slice size.
    slices: UnitSet,
    /// Grains that do not say which they are, by what [`GrainSource::unit`] makes of their places.
    grains: UnitSet,
    /// Those of them that stand where another one does.
    doubtful: UnitSet,
}

impl<F: GrainFormat> GrainSource<F> {
    /// The extent whose `directory` stands in `tables` and whose grains stand in `data`, outside of `areas`.
    pub fn new(
        format: F,
        geometry: Geometry,
        (tables, directory): (StorageRef, Directory),
        data: StorageRef,
        areas: Areas,
        context: &OpenContext,
    ) -> GrainSource<F> {
        GrainSource {
            format,
            geometry,
            own_tables: Arc::ptr_eq(&tables, &data),
            data,
            directory,
            tables: SliceCache::new(tables, geometry.table_size(), &context.slices),
            areas,
            table_areas: None,
            seen: Mutex::new(Seen {
                slices: UnitSet::new(&context.budget),
                grains: UnitSet::new(&context.budget),
                doubtful: UnitSet::new(&context.budget),
            }),
            any_doubtful: AtomicBool::new(false),
        }
    }

    /// The same, with other areas that grain tables must keep clear of.
    pub fn with_table_areas(self, areas: Areas) -> GrainSource<F> {
        GrainSource {
            table_areas: Some(areas),
            ..self
        }
    }

    /// Adds what the grain tables up to the next that is there, or a slice of one, say; whether it was a slice.
    fn extend(&self, run: &mut Joined) -> Result<bool> {
        let coverage = self.geometry.coverage();
        let at = run.next();
        let (index, within) = (at / coverage, at % coverage);
        match self.directory.next_present(index) {
            None => run.push(Place::Absent, run.left()),
            Some(next) if next > index => run.push(Place::Absent, next * coverage - at),
            Some(_) => match self.table(index)? {
                TablePlace::Absent => run.push(Place::Absent, coverage - within),
                TablePlace::Zero => run.push(Place::Zero, coverage - within),
                TablePlace::At(table) => {
                    self.extend_from_table(run, table, within / self.geometry.grain_size)?;
                    return Ok(true);
                }
            },
        }
        Ok(false)
    }

    fn table(&self, index: u64) -> Result<TablePlace> {
        let areas = self.table_areas.as_ref().unwrap_or(&self.areas);
        self.directory.table(index, areas)
    }

    /// Adds what the grain table at byte `table` says, from its entry `first` to the end of a slice.
    fn extend_from_table(&self, run: &mut Joined, table: u64, first: u64) -> Result<()> {
        let entry_size = self.geometry.entry_size;
        let slice_size = self.tables.slice_size();
        let start = first * entry_size / slice_size * slice_size;
        let slice = self.slice(
            table + start,
            (self.geometry.table_size() - start).min(slice_size),
        )?;
        let skip = (first * entry_size - start) as usize;
        let rest = slice.get(skip..).unwrap_or_default();
        // Most of what a huge disk has is tables full of nothing: no need to parse that.
        if rest.iter().fold(0, |all, byte| all | byte) == 0 {
            let grains = rest.len() as u64 / entry_size;
            let within = run.next() % self.geometry.grain_size;
            run.push(Place::Absent, grains * self.geometry.grain_size - within);
            return Ok(());
        }
        for (entry, at) in rest
            .chunks_exact(entry_size as usize)
            .zip((table + first * entry_size..).step_by(entry_size as usize))
        {
            if !run.is_open() {
                break;
            }
            self.extend_from_entry(run, entry).map_err(|e| e.near(at))?;
        }
        Ok(())
    }

    fn extend_from_entry(&self, run: &mut Joined, entry: &[u8]) -> Result<()> {
        let grain_size = self.geometry.grain_size;
        let guest = run.next();
        let within = guest % grain_size;
        let rest = grain_size - within;
        match self.format.grain(entry)? {
            Grain::Absent => run.push(Place::Absent, rest),
            Grain::Zero => run.push(Place::Zero, rest),
            Grain::Stored(offset) => self.push_stored(run, offset, within)?,
            // It would close the run: what stands there is asked for in the next one.
            Grain::Packed(_) if !run.is_empty() => run.close(),
            Grain::Packed(offset) => {
                self.check_place(offset, SECTOR)?;
                self.check_doubt(Grain::Packed(offset))?;
                let range = self.format.packed(&self.data, offset, guest - within)?;
                run.push(Place::Packed(range, within as u32), rest);
            }
        }
        Ok(())
    }

    /// Adds the rest of the grain at byte `offset`, as far as it is there: of the last one of a file only what the
    /// guest sees has to be.
    fn push_stored(&self, run: &mut Joined, offset: u64, within: u64) -> Result<()> {
        self.check_place(offset, self.geometry.grain_size)?;
        self.check_doubt(Grain::Stored(offset))?;
        let start = offset.saturating_add(within);
        let wanted = (self.geometry.grain_size - within).min(run.left());
        let there = self.data.len().saturating_sub(start).min(wanted);
        if there == 0 {
            return Err(past_the_end(start, self.data.len()));
        }
        run.push(Place::Stored(start), there);
        if there < wanted {
            run.close();
        }
        Ok(())
    }

    /// Fails when something else than a grain stands in the `len` bytes at `offset`.
    fn check_place(&self, offset: u64, len: u64) -> Result<()> {
        let overlaps = |other: &str| {
            Err(
                Error::malformed("grain table", format!("a grain overlaps {other}"))
                    .found(format!("a grain at byte {offset}")),
            )
        };
        if let Some(other) = self.areas.hit(offset, len) {
            return overlaps(other);
        }
        if self.own_tables {
            // Tables are at least as long as a step, so none is stepped over.
            let step = (self.geometry.table_size() / SECTOR).max(1);
            let (first, last) = (offset / SECTOR, (offset + (len - 1)) / SECTOR);
            let mut sectors = (first..last).step_by(step as usize).chain([last]);
            if sectors.any(|sector| self.directory.sectors.contains(sector)) {
                return overlaps("a grain table");
            }
        }
        Ok(())
    }

    /// The slice of `len` bytes at file offset `offset`.
    fn slice(&self, offset: u64, len: u64) -> Result<Arc<[u8]>> {
        let slice = match self.tables.known(offset) {
            Some(slice) => slice,
            None => {
                let slice = self.tables.read(offset)?;
                self.note_grains(&slice, offset);
                self.tables.keep(offset, &slice);
                slice
            }
        };
        // The last slice of a table may be shorter than the others.
        Ok(match slice.get(..len as usize) {
            Some(part) if part.len() < slice.len() => part.into(),
            _ => slice,
        })
    }

    /// Enters the grains of a slice that is read for the first time.
    fn note_grains(&self, slice: &[u8], offset: u64) {
        let mut seen = self.seen.lock().unwrap_or_else(|e| e.into_inner());
        if seen.slices.insert(offset / SECTOR) != Inserted::New {
            return;
        }
        for entry in slice.chunks_exact(self.geometry.entry_size as usize) {
            let grain = self.format.grain(entry).unwrap_or(Grain::Absent);
            if let Some(unit) = self.unit(grain)
                && seen.grains.insert(unit) == Inserted::Known
            {
                seen.doubtful.insert(unit);
                self.any_doubtful.store(true, Ordering::Relaxed);
            }
        }
    }

    /// By what a grain is known when its place comes a second time; `None` for those that need not be known: what is not
    /// in the file, and what says itself which it is.
    fn unit(&self, grain: Grain) -> Option<u64> {
        let (at, size) = match grain {
            Grain::Stored(at) => (at, self.geometry.grain_size),
            Grain::Packed(at) if !self.format.has_markers() => (at, SECTOR),
            _ => return None,
        };
        (at < self.data.len()).then_some(at / size)
    }

    /// Fails when `grain` is known to stand where another one does.
    fn check_doubt(&self, grain: Grain) -> Result<()> {
        if !self.any_doubtful.load(Ordering::Relaxed) {
            return Ok(());
        }
        let seen = self.seen.lock().unwrap_or_else(|e| e.into_inner());
        match (self.unit(grain), grain) {
            (Some(unit), Grain::Stored(at) | Grain::Packed(at)) if seen.doubtful.contains(unit) => {
                Err(
                    Error::malformed("grain table", "two grains stand in one place")
                        .found(format!("a grain at byte {at}")),
                )
            }
            _ => Ok(()),
        }
    }
}

/// The error for a grain at byte `offset` of a file of `len` bytes.
pub fn past_the_end(offset: u64, len: u64) -> Error {
    Error::truncated("grain table", "a grain is past the end of the file")
        .found(format!("a grain at byte {offset} of {len}"))
        .hint("the file is cut off; find the whole one, or read what is left with --salvage")
}

impl<F: GrainFormat> BlockSource for GrainSource<F> {
    fn size(&self) -> u64 {
        self.geometry.capacity
    }

    fn block_size(&self) -> u64 {
        self.geometry.grain_size
    }

    fn map(&self, offset: u64, limit: u64) -> Result<Run> {
        let limit = limit.min(self.size().saturating_sub(offset));
        let mut run = Joined::new(offset, limit);
        let mut tables = 0;
        while run.is_open() && tables < TABLES_PER_RUN {
            match self.extend(&mut run) {
                Ok(was_table) => tables += usize::from(was_table),
                Err(e) if run.is_empty() => return Err(e.in_file(self.data.path())),
                // Said when the caller gets there.
                Err(_) => break,
            }
        }
        let grain_size = self.geometry.grain_size;
        let mut run = run.into_run(&self.data, &self.data, Codec::Zlib, grain_size as u32);
        if let Mapping::Packed { least, .. } = &mut run.mapping {
            // The last grain may be packed as long as the disk is, or as long as all others.
            let grain = offset - offset % grain_size;
            *least = (self.size() - grain).min(grain_size) as u32;
        }
        Ok(run)
    }
}
