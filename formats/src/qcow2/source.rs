//! The map of a qcow2 image: from guest offsets over L1 and L2 to host offsets.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::header::Header;
use super::l1;
use super::l2::{Cluster, L2Format, SUBCLUSTERS, Subcluster, Subclusters};
use super::refcount::Refcounts;
use crate::codec::Codec;
use crate::driver::OpenContext;
use crate::error::{Error, Result};
use crate::joined::{Joined, PackedRange, Place};
use crate::overlap::{Areas, Inserted, UnitSet};
use crate::slice_cache::SliceCache;
use crate::source::{BlockSource, Run};
use crate::storage::StorageRef;
use crate::table::PagedTable;

/// L2 slices that one call of `map` looks into at most. A disk full of tables that all say "nothing here" is mapped in
/// several calls, so that none of them takes long.
const SLICES_PER_RUN: usize = 64;

/// Warnings about tables that are used twice; more of them tell no more.
const WARNINGS: usize = 20;

/// The active state of a qcow2 image.
pub struct QcowSource {
    /// The image.
    image: StorageRef,
    /// What standard clusters stand in: the image, or its external data file; what either decrypts to.
    data: StorageRef,
    format: L2Format,
    codec: Codec,
    size: u64,
    l1: PagedTable,
    l1_entries: u64,
    l1_offset: u64,
    l2: SliceCache,
    areas: Areas,
    refcounts: Refcounts,
    /// Clusters that hold a refcount block.
    refcount_blocks: UnitSet,
    /// Clusters that hold an active L2 table.
    l2_clusters: UnitSet,
    seen: Mutex<Seen>,
    any_doubtful: AtomicBool,
    salvage: bool,
}

/// What was met on the way, to notice it when it comes a second time.
struct Seen {
    /// L2 slices, by file offset over slice size.
    slices: UnitSet,
    /// Data clusters.
    data: UnitSet,
    /// Data clusters that must not be read, because something else stands there too.
    doubtful: UnitSet,
}

impl QcowSource {
    /// The disk that `header` describes: `image` is the file it stands in, `data` what holds the clusters, decrypted where
    /// they are encrypted.
    ///
    /// # Errors
    /// `Truncated` or `Malformed` when header, L1 table and refcount table are not each in a place of their own inside
    /// the file, or when an L2 table is used twice; when salvaging the latter is a warning.
    pub fn new(
        image: StorageRef,
        data: StorageRef,
        header: &Header,
        context: &OpenContext,
        warnings: &mut Vec<String>,
    ) -> Result<QcowSource> {
        let refcount_entries = header.refcount_table_bytes() / 8;
        let refcount_table = PagedTable::new(
            image.clone(),
            "refcount table",
            header.refcount_table_offset,
            refcount_entries,
            8,
        )?;
        // Opened to see that all of it is there.
        let all_entries = u64::from(header.l1_entries);
        PagedTable::new(image.clone(), "L1 table", header.l1_offset, all_entries, 8)?;
        let l1_entries = header.l1_entries_needed();
        let l1 = PagedTable::new(image.clone(), "L1 table", header.l1_offset, l1_entries, 8)?;
        let mut source = QcowSource {
            data,
            format: L2Format::of(header),
            codec: header.codec,
            size: header.size,
            l1,
            l1_entries,
            l1_offset: header.l1_offset,
            l2: SliceCache::new(image.clone(), header.cluster_size(), &context.slices),
            areas: areas(header)?,
            refcounts: Refcounts::new(image.clone(), header),
            refcount_blocks: UnitSet::new(&context.budget),
            l2_clusters: UnitSet::new(&context.budget),
            seen: Mutex::new(Seen {
                slices: UnitSet::new(&context.budget),
                data: UnitSet::new(&context.budget),
                doubtful: UnitSet::new(&context.budget),
            }),
            any_doubtful: AtomicBool::new(false),
            salvage: context.salvage,
            image,
        };
        source.collect_refcount_blocks(&refcount_table, refcount_entries)?;
        source.collect_l2_tables(warnings)?;
        Ok(source)
    }

    /// Keeps clusters away from the `len` bytes at `offset`, which hold `name`.
    ///
    /// # Errors
    /// `Malformed` when something else stands there.
    pub fn set_aside(&mut self, name: &'static str, offset: u64, len: u64) -> Result<()> {
        match self.areas.add(name, offset, len) {
            Some(other) => Err(overlapping(name, other, offset)),
            None => Ok(()),
        }
    }

    /// Notes where the refcount blocks stand. Entries that are wrong are left out: reading needs no refcounts.
    fn collect_refcount_blocks(&mut self, table: &PagedTable, entries: u64) -> Result<()> {
        for index in 0..entries {
            let offset = table.be64(index)?;
            if offset != 0
                && offset < self.image.len()
                && offset.is_multiple_of(self.format.cluster_size())
            {
                self.refcount_blocks
                    .insert(offset >> self.format.cluster_bits);
            }
        }
        Ok(())
    }

    /// What of the image itself stands in any of the `len` bytes of a cluster at `offset`, except for L2 tables.
    fn metadata_at(&self, offset: u64, len: u64) -> Option<&'static str> {
        let is_block = self
            .refcount_blocks
            .contains(offset >> self.format.cluster_bits);
        self.areas
            .hit(offset, len)
            .or(is_block.then_some("a refcount block"))
    }

    /// Notes where the L2 tables stand. An entry that is wrong by itself is left to [`QcowSource::l2_table`], so that
    /// what other entries map can be read.
    fn collect_l2_tables(&mut self, warnings: &mut Vec<String>) -> Result<()> {
        let cluster_size = self.format.cluster_size();
        for index in 0..self.l1_entries {
            let Ok(Some(offset)) = l1::l2_offset(self.l1.be64(index)?, cluster_size) else {
                continue;
            };
            // Noting what is not there would take memory that no file stands behind.
            if offset >= self.image.len() {
                continue;
            }
            let cluster = offset / cluster_size;
            if self.l2_clusters.insert(cluster) == Inserted::Known
                && !self.refcounts.is_shared(cluster)
            {
                let error = Error::malformed("L1 entry", "the L2 table is used twice")
                    .at(self.l1_offset + index * 8)
                    .found(format!("L2 table at offset {offset}"))
                    .hint("qemu-img check tells how much of the image is damaged");
                if !self.salvage {
                    return Err(error);
                }
                if warnings.len() < WARNINGS {
                    warnings.push(format!("two parts of the disk hold the same: {error}"));
                }
            }
        }
        Ok(())
    }

    /// File offset of the L2 table of L1 entry `index`, inside the file and clear of other tables.
    fn l2_table(&self, index: u64) -> Result<Option<u64>> {
        let cluster_size = self.format.cluster_size();
        // The L1 table is inside the file: the sum fits.
        let at = self.l1_offset.saturating_add(index.saturating_mul(8));
        let Some(offset) =
            l1::l2_offset(self.l1.be64(index)?, cluster_size).map_err(|e| e.at(at))?
        else {
            return Ok(None);
        };
        if offset.saturating_add(cluster_size) > self.image.len() {
            return Err(Error::truncated("L2 table", "does not fit into the file")
                .at(offset)
                .found(format!("a file of {} bytes", self.image.len()))
                .hint("the image is cut off"));
        }
        match self.metadata_at(offset, cluster_size) {
            None => Ok(Some(offset)),
            Some(other) => {
                Err(overlapping("L2 table", other, offset).found(format!("L1 entry {index}")))
            }
        }
    }

    /// The slice at file offset `offset` of an L2 table; its first `entries` entries are those of the disk.
    fn slice(&self, offset: u64, entries: u64) -> Result<Arc<[u8]>> {
        if let Some(slice) = self.l2.known(offset) {
            return Ok(slice);
        }
        let slice = self.l2.read(offset)?;
        // Clusters of an external data file stand at their guest offset: none can be there twice.
        if !self.format.external_data {
            self.note_clusters(&slice, offset, entries)?;
        }
        self.l2.keep(offset, &slice);
        Ok(slice)
    }

    /// Enters the data clusters of a slice that is read for the first time.
    fn note_clusters(&self, slice: &[u8], offset: u64, entries: u64) -> Result<()> {
        let mut seen = self.seen.lock().unwrap_or_else(|e| e.into_inner());
        let slice_number = offset / self.l2.slice_size();
        if seen.slices.insert(slice_number) != Inserted::New {
            return Ok(());
        }
        let entry_size = self.format.entry_size();
        let mut at = offset;
        for entry in slice
            .chunks_exact(entry_size as usize)
            .take(usize::try_from(entries).unwrap_or(usize::MAX))
        {
            let result = match self.format.parse(entry) {
                Ok(Cluster::Stored(host)) => self.note_cluster(&mut seen, host),
                Ok(Cluster::Split(sub)) if sub.any_stored() => {
                    self.note_cluster(&mut seen, sub.host)
                }
                // What is wrong with an entry by itself is said to whoever asks for its cluster.
                _ => Ok(()),
            };
            // Said when the cluster is asked for: one bad entry does not make the others of its table unreadable.
            if let Err(error) = result
                && !self.note_doubtful(&mut seen, entry)
            {
                return Err(error.at(at));
            }
            at = at.saturating_add(entry_size);
        }
        Ok(())
    }

    /// Remembers that the cluster of `entry` must not be read; `false` when there is no memory left for that.
    fn note_doubtful(&self, seen: &mut Seen, entry: &[u8]) -> bool {
        let (Ok(Cluster::Stored(host)) | Ok(Cluster::Split(Subclusters { host, .. }))) =
            self.format.parse(entry)
        else {
            return false;
        };
        self.any_doubtful.store(true, Ordering::Relaxed);
        seen.doubtful.insert(host >> self.format.cluster_bits) != Inserted::Full
    }

    /// Fails when the cluster at `host` is known to be something else too.
    fn check_doubt(&self, host: u64) -> Result<()> {
        if !self.any_doubtful.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut seen = self.seen.lock().unwrap_or_else(|e| e.into_inner());
        if !seen.doubtful.contains(host >> self.format.cluster_bits) {
            return Ok(());
        }
        self.note_cluster(&mut seen, host)
    }

    fn note_cluster(&self, seen: &mut Seen, host: u64) -> Result<()> {
        let cluster = host >> self.format.cluster_bits;
        if host >= self.data.len() {
            return Ok(());
        }
        if self.l2_clusters.contains(cluster) {
            return Err(overlapping("L2 entry", "an L2 table", host));
        }
        if seen.data.insert(cluster) == Inserted::Known && !self.refcounts.is_shared(cluster) {
            return Err(
                Error::malformed("L2 entry", "the data cluster is used twice")
                    .found(format!("cluster at offset {host}"))
                    .hint("qemu-img check tells how much of the image is damaged"),
            );
        }
        Ok(())
    }

    /// Adds what one L1 entry without table, or one slice, says; whether it was a slice.
    fn extend(&self, run: &mut Joined) -> Result<bool> {
        let coverage = self.format.cluster_size() * self.l2_entries();
        let at = run.next();
        let index = at / coverage;
        let within = at % coverage;
        let Some(table) = self.l2_table(index)? else {
            run.push(Place::Absent, coverage - within);
            return Ok(false);
        };
        let entry_size = self.format.entry_size();
        let per_slice = self.l2.slice_size() / entry_size;
        let first = (within >> self.format.cluster_bits) / per_slice * per_slice;
        // Entries of the table that belong to the disk; the last table may have more.
        let on_disk = (self.size - index * coverage).div_ceil(self.format.cluster_size());
        let offset = table + first * entry_size;
        let slice = self.slice(offset, on_disk.saturating_sub(first))?;
        self.extend_from_slice(run, &slice, offset)?;
        Ok(true)
    }

    /// Adds what the entries of the slice at file offset `offset` say, from the one for `run.next()` on.
    fn extend_from_slice(&self, run: &mut Joined, slice: &[u8], offset: u64) -> Result<()> {
        let entry_size = self.format.entry_size();
        let per_slice = slice.len() as u64 / entry_size;
        let first = (run.next() >> self.format.cluster_bits) % per_slice;
        // Most of what a huge disk has is tables full of nothing: no need to parse that.
        let rest = &slice[(first * entry_size) as usize..];
        if rest.starts_with(&[0; 8]) && rest.iter().fold(0, |all, byte| all | byte) == 0 {
            let within = run.next() % self.format.cluster_size();
            let all = (per_slice - first) * self.format.cluster_size() - within;
            run.push(Place::Absent, all);
            return Ok(());
        }
        // Not `skip`: it would go through all that is in front, once for every compressed cluster.
        let entries = rest
            .chunks_exact(entry_size as usize)
            .zip((offset + first * entry_size..).step_by(entry_size as usize));
        for (entry, at) in entries {
            self.extend_from_entry(run, entry).map_err(|e| e.at(at))?;
            if !run.is_open() {
                break;
            }
        }
        Ok(())
    }

    /// Adds the rest of the cluster that `entry` maps.
    fn extend_from_entry(&self, run: &mut Joined, entry: &[u8]) -> Result<()> {
        let cluster_size = self.format.cluster_size();
        let within = run.next() % cluster_size;
        let rest = cluster_size - within;
        match self.format.parse(entry)? {
            Cluster::Absent => run.push(Place::Absent, rest),
            Cluster::Zero => run.push(Place::Zero, rest),
            Cluster::Stored(host) => self.push_stored(run, host, rest)?,
            Cluster::Packed(range) => {
                let range = self.check_packed(range)?;
                run.push(Place::Packed(range, within as u32), rest);
            }
            Cluster::Split(sub) => {
                let sub_size = cluster_size / u64::from(SUBCLUSTERS);
                while run.is_open() {
                    let within = run.next() % cluster_size;
                    let (kind, count) = sub.run((within / sub_size) as u32);
                    let end = (within / sub_size + u64::from(count)) * sub_size;
                    match kind {
                        Subcluster::Absent => run.push(Place::Absent, end - within),
                        Subcluster::Zero => run.push(Place::Zero, end - within),
                        Subcluster::Stored => self.push_stored(run, sub.host, end - within)?,
                    }
                    if end == cluster_size {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Adds `len` bytes that stand in their place in the cluster at `host`, as far as they are there.
    fn push_stored(&self, run: &mut Joined, host: u64, len: u64) -> Result<()> {
        let cluster_size = self.format.cluster_size();
        let guest = run.next();
        if self.format.external_data {
            // qcow2 spec, "Incompatible features", bit 2: the offset must match the guest offset.
            if host != guest - guest % cluster_size {
                return Err(Error::malformed(
                    "L2 entry",
                    "the cluster is not in its place in the external data file",
                )
                .found(format!("offset {host}"))
                .expected(format!("offset {}", guest - guest % cluster_size)));
            }
        } else if let Some(other) = self.metadata_at(host, cluster_size) {
            return Err(overlapping("L2 entry", other, host));
        } else {
            self.check_doubt(host)?;
        }
        // The last cluster of a file may be cut: only what the guest sees has to be there.
        let start = host.saturating_add(guest % cluster_size);
        let wanted = len.min(run.left());
        let there = self.data.len().saturating_sub(start).min(wanted);
        if there == 0 {
            return Err(
                Error::truncated("L2 entry", "points past the end of the file")
                    .found(format!("offset {start} in {} bytes", self.data.len()))
                    .hint("the image is cut off"),
            );
        }
        run.push(Place::Stored(start), there);
        if there < wanted {
            run.close();
        }
        Ok(())
    }

    /// The compressed cluster at `range`, its length cut to what the file has: it is known to the sector only.
    fn check_packed(&self, range: PackedRange) -> Result<PackedRange> {
        if let Some(other) = self.metadata_at(range.offset, 1) {
            return Err(overlapping("L2 entry", other, range.offset));
        }
        let there = self.image.len().saturating_sub(range.offset);
        if there == 0 {
            return Err(Error::truncated(
                "L2 entry",
                "the compressed cluster is past the end of the file",
            )
            .found(format!("offset {}", range.offset))
            .hint("the image is cut off"));
        }
        Ok(PackedRange {
            offset: range.offset,
            // No larger than range.len.
            len: there.min(range.len.into()) as u32,
        })
    }

    fn l2_entries(&self) -> u64 {
        self.format.cluster_size() / self.format.entry_size()
    }
}

impl BlockSource for QcowSource {
    fn size(&self) -> u64 {
        self.size
    }

    fn block_size(&self) -> u64 {
        self.format.cluster_size()
    }

    fn map(&self, offset: u64, limit: u64) -> Result<Run> {
        let limit = limit.min(self.size.saturating_sub(offset));
        let mut run = Joined::new(offset, limit);
        let mut slices = 0;
        while run.is_open() && slices < SLICES_PER_RUN {
            match self.extend(&mut run) {
                Ok(was_slice) => slices += usize::from(was_slice),
                Err(e) if run.is_empty() => return Err(e.in_file(self.image.path())),
                // Said when the caller gets there.
                Err(_) => break,
            }
        }
        let unit = self.format.cluster_size() as u32;
        Ok(run.into_run(&self.image, &self.data, self.codec, unit))
    }
}

fn overlapping(what: &'static str, other: &'static str, offset: u64) -> Error {
    Error::malformed(what, format!("overlaps {other}")).at(offset)
}

/// Header cluster, L1 table and refcount table, each in a place of its own.
fn areas(header: &Header) -> Result<Areas> {
    let cluster_size = header.cluster_size();
    let mut areas = Areas::default();
    areas.add("the header", 0, cluster_size);
    let l1_bytes = (u64::from(header.l1_entries) * 8).next_multiple_of(cluster_size);
    for (name, offset, len) in [
        ("the L1 table", header.l1_offset, l1_bytes),
        (
            "the refcount table",
            header.refcount_table_offset,
            header.refcount_table_bytes(),
        ),
    ] {
        if len == 0 {
            continue;
        }
        if let Some(other) = areas.add(name, offset, len) {
            return Err(overlapping(name, other, offset));
        }
    }
    Ok(areas)
}
