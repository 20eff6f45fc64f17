//! Places for clusters that have none, in an image that is there: behind the end of the file.

use std::collections::BTreeMap;

use super::features::EXTERNAL_DATA;
use super::header::Header;
use super::l1::{COPIED, OFFSET_MASK, l2_offset};
use super::l2::{Cluster, L2Format};
use super::new_clusters::NewClusters;
use super::resize::{read_header, refuse_changes, write_header};
use crate::error::{Error, Result};
use crate::in_place::{Allocation, Plan};
use crate::storage::{StorageRef, read_array};

/// How all clusters of the disk in `storage` that are `wanted` get a place in it that is theirs alone.
///
/// # Errors
/// `Refused` for an image that is not fit to be changed, `Unsupported` for clusters that are encrypted or in another file.
pub fn allocate(storage: &StorageRef, wanted: &Allocation) -> Result<Plan> {
    let (header, extensions) = read_header(storage.as_ref())?;
    refuse_changes(&header, &extensions)?;
    let mut change = Change {
        storage,
        format: L2Format::of(&header),
        clusters: NewClusters::new(storage, &header)?,
        tables: BTreeMap::new(),
        entries: Vec::new(),
        filled: Vec::new(),
        freed: BTreeMap::new(),
        header,
    };
    let size = change.header.cluster_size();
    let count = change.header.size.div_ceil(size);
    for cluster in wanted.units(size).take_while(|cluster| *cluster < count) {
        change.allocate(cluster)?;
    }
    change.plan(wanted)
}

fn unsupported(what: &'static str) -> Error {
    Error::unsupported("cluster", "cannot be written to in place").found(what)
}

/// An L2 table that is new.
struct NewTable {
    /// Its file offset.
    offset: u64,
    /// That of the one that it takes the place of, if another user of that is left.
    copied: Option<u64>,
}

struct Change<'a> {
    storage: &'a StorageRef,
    header: Header,
    format: L2Format,
    clusters: NewClusters<'a>,
    /// L2 tables that are new, by the place of their L1 entry.
    tables: BTreeMap<u64, NewTable>,
    /// L2 entries that change: their file offset, and what they say.
    entries: Vec<(u64, Vec<u8>)>,
    /// Guest clusters with a new place, and that.
    filled: Vec<(u64, u64)>,
    /// Clusters of the file that have fewer users afterwards, and by how many.
    freed: BTreeMap<u64, u64>,
}

impl Change<'_> {
    /// Gives a place to guest cluster `cluster`.
    fn allocate(&mut self, cluster: u64) -> Result<()> {
        let size = self.header.cluster_size();
        let entry_size = self.format.entry_size();
        let per_table = size / entry_size;
        let l1_at = self.header.l1_offset + cluster / per_table * 8;
        // Where the entry is read, and where it is written.
        let (old, new) = self.table(l1_at)?;
        let inside = cluster % per_table * entry_size;
        let mut entry = vec![0; entry_size as usize];
        if let Some(old) = old {
            self.storage.read_at(&mut entry, old + inside)?;
        }
        let is_own = entry.first().is_some_and(|byte| byte & 0x80 != 0);
        match self.format.parse(&entry)? {
            Cluster::Stored(_) if is_own && !self.is_encrypted_elsewhere() => return Ok(()),
            _ if self.is_encrypted_elsewhere() => {
                return Err(unsupported("it is encrypted, or in another file"));
            }
            Cluster::Packed(range) => self.free(range.offset, range.len.into()),
            // Zeros may have a place, too.
            _ => {
                let word = entry
                    .first_chunk()
                    .map_or(0, |bytes| u64::from_be_bytes(*bytes));
                let host = word & OFFSET_MASK;
                self.free(host, if host == 0 { 0 } else { size });
            }
        }
        let place = self.clusters.take(1)? * size;
        let mut bytes = (place | COPIED).to_be_bytes().to_vec();
        if self.format.extended {
            // All subclusters are there.
            bytes.extend(u64::from(u32::MAX).to_be_bytes());
        }
        self.entries.push((new + inside, bytes));
        self.filled.push((cluster, place));
        Ok(())
    }

    /// New clusters of it would have to be encrypted, or to go elsewhere.
    fn is_encrypted_elsewhere(&self) -> bool {
        self.header.has(EXTERNAL_DATA) || self.header.encrypted
    }

    /// The L2 table that the entry at `l1_at` names: as it is, if there is one, and where changes of it go.
    fn table(&mut self, l1_at: u64) -> Result<(Option<u64>, u64)> {
        if let Some(table) = self.tables.get(&l1_at) {
            return Ok((table.copied, table.offset));
        }
        let size = self.header.cluster_size();
        let entry = u64::from_be_bytes(read_array(self.storage.as_ref(), l1_at)?);
        let copied = match l2_offset(entry, size)? {
            Some(known) if entry & COPIED != 0 => return Ok((Some(known), known)),
            shared => shared,
        };
        if let Some(shared) = copied {
            self.free(shared, size);
        }
        let offset = self.clusters.take(1)? * size;
        self.tables.insert(l1_at, NewTable { offset, copied });
        Ok((copied, offset))
    }

    /// One user less for every cluster that the range touches.
    fn free(&mut self, offset: u64, len: u64) {
        let size = self.header.cluster_size();
        let end = offset.saturating_add(len).div_ceil(size);
        for cluster in offset / size..end {
            *self.freed.entry(cluster).or_default() += 1;
        }
    }

    fn plan(mut self, wanted: &Allocation) -> Result<Plan> {
        let mut plan = Plan::new(self.header.size);
        if self.entries.is_empty() {
            return Ok(plan);
        }
        let table = self.clusters.count_all()?;
        // What is new is zeros.
        plan.set_len(0, self.clusters.end());
        self.clusters.write_new(&mut plan);
        let size = self.header.cluster_size();
        for (cluster, place) in std::mem::take(&mut self.filled) {
            wanted.fill(&mut plan, &(cluster * size..(cluster + 1) * size), place)?;
        }
        for new in self.tables.values() {
            if let Some(old) = new.copied {
                plan.copy(old, new.offset, size);
            }
        }
        plan.sync();
        self.clusters.write_counts(&mut plan)?;
        if let Some((offset, count)) = table {
            let old = self.header.refcount_table_offset / size;
            let old_count = self.header.refcount_table_clusters;
            self.header.refcount_table_offset = offset;
            self.header.refcount_table_clusters = count;
            self.header.check_tables()?;
            write_header(&mut plan, &self.header);
            self.clusters.free(&mut plan, old, old_count.into())?;
        }
        for (at, bytes) in &self.entries {
            plan.write(*at, bytes.clone());
        }
        plan.sync();
        for (at, table) in &self.tables {
            let entry = (table.offset & OFFSET_MASK) | COPIED;
            plan.write(*at, entry.to_be_bytes());
        }
        plan.sync();
        // A crash before this leaves leaks.
        for (cluster, users) in std::mem::take(&mut self.freed) {
            self.clusters.release(&mut plan, cluster, users)?;
        }
        plan.sync();
        Ok(plan)
    }
}
