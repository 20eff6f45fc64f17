//! Places for clusters that have none, in an image that is there: behind the end of the file.

use std::collections::BTreeMap;
use std::ops::Range;

use super::features::{EXTERNAL_DATA, RAW_EXTERNAL};
use super::header::{FULL_LENGTH, Header};
use super::l1::{COPIED, OFFSET_MASK, l2_offset};
use super::l2::{Cluster, L2Format, SUBCLUSTERS, Subcluster, Subclusters};
use super::new_clusters::NewClusters;
use super::resize::write_header;
use crate::error::{Error, Result};
use crate::in_place::Plan;
use crate::storage::{StorageRef, read_array};

/// How all clusters of `range` of the disk in `storage` get a place in it.
///
/// # Errors
/// `Unsupported` for clusters that are compressed, shared, encrypted or in another file.
pub fn allocate(storage: &StorageRef, range: Range<u64>) -> Result<Plan> {
    let mut first = vec![0; storage.len().min(FULL_LENGTH as u64) as usize];
    storage.read_at(&mut first, 0)?;
    let header = Header::parse(&first)?;
    if header.has(EXTERNAL_DATA) || header.encrypted || header.autoclear & RAW_EXTERNAL != 0 {
        return Err(unsupported("the clusters of this image"));
    }
    let mut change = Change {
        storage,
        format: L2Format::of(&header),
        clusters: NewClusters::new(storage, &header)?,
        header,
        tables: BTreeMap::new(),
        entries: Vec::new(),
        zeros: Vec::new(),
    };
    let size = change.header.cluster_size();
    for cluster in range.start / size..range.end.div_ceil(size) {
        change.allocate(cluster)?;
    }
    change.plan()
}

fn unsupported(what: &'static str) -> Error {
    Error::unsupported("cluster", "cannot be written to in place").found(what)
}

struct Change<'a> {
    storage: &'a StorageRef,
    header: Header,
    format: L2Format,
    clusters: NewClusters<'a>,
    /// L2 tables that are new: by the place of their L1 entry, their offset.
    tables: BTreeMap<u64, u64>,
    /// L2 entries that change: their file offset, and what they say.
    entries: Vec<(u64, Vec<u8>)>,
    /// What of clusters that there are is not seen yet, and will be: file offsets.
    zeros: Vec<Range<u64>>,
}

impl Change<'_> {
    /// Gives a place to guest cluster `cluster`.
    fn allocate(&mut self, cluster: u64) -> Result<()> {
        let size = self.header.cluster_size();
        let entry_size = self.format.entry_size();
        let per_table = size / entry_size;
        let l1_at = self.header.l1_offset + cluster / per_table * 8;
        let l1_entry = u64::from_be_bytes(read_array(self.storage.as_ref(), l1_at)?);
        let table = match (l2_offset(l1_entry, size)?, self.tables.get(&l1_at)) {
            (Some(_), _) if l1_entry & COPIED == 0 => {
                return Err(unsupported("a table that is shared"));
            }
            (Some(known), _) => known,
            (None, Some(known)) => *known,
            (None, None) => {
                let new = self.clusters.take(1)? * size;
                self.tables.insert(l1_at, new);
                new
            }
        };
        let at = table + cluster % per_table * entry_size;
        let mut entry = vec![0; entry_size as usize];
        if !self.tables.contains_key(&l1_at) {
            self.storage.read_at(&mut entry, at)?;
        }
        let word = entry.first_chunk().map_or(0, |b| u64::from_be_bytes(*b));
        let host = word & OFFSET_MASK;
        let parsed = self.format.parse(&entry)?;
        if matches!(parsed, Cluster::Packed(_)) {
            return Err(unsupported("a compressed cluster"));
        }
        if host != 0 && word & COPIED == 0 {
            return Err(unsupported("a cluster that is shared"));
        }
        let place = match parsed {
            Cluster::Stored(_) => return Ok(()),
            _ if host == 0 => self.clusters.take(1)? * size,
            Cluster::Split(sub) => {
                self.blank(host, &sub);
                host
            }
            _ => {
                self.zeros.push(host..host + size);
                host
            }
        };
        let mut bytes = (place | COPIED).to_be_bytes().to_vec();
        if self.format.extended {
            // All subclusters are there.
            bytes.extend(u64::from(u32::MAX).to_be_bytes());
        }
        self.entries.push((at, bytes));
        Ok(())
    }

    /// Notes the parts of the cluster at `host` that are not stored.
    fn blank(&mut self, host: u64, sub: &Subclusters) {
        let size = self.header.cluster_size() / u64::from(SUBCLUSTERS);
        let mut index = 0;
        while index < SUBCLUSTERS {
            let (kind, count) = sub.run(index);
            let count = count.max(1);
            let start = host + u64::from(index) * size;
            if kind != Subcluster::Stored {
                self.zeros.push(start..start + u64::from(count) * size);
            }
            index += count;
        }
    }

    fn plan(mut self) -> Result<Plan> {
        let mut plan = Plan::new(self.header.size);
        if self.entries.is_empty() {
            return Ok(plan);
        }
        let table = self.clusters.count_all()?;
        // What is new is zeros.
        plan.set_len(0, self.clusters.end());
        for range in &self.zeros {
            plan.zero(range.start, range.end - range.start);
        }
        self.clusters.write_new(&mut plan);
        plan.sync();
        self.clusters.write_counts(&mut plan)?;
        if let Some((offset, count)) = table {
            let old = self.header.refcount_table_offset / self.header.cluster_size();
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
            plan.write(*at, ((table & OFFSET_MASK) | COPIED).to_be_bytes());
        }
        plan.sync();
        Ok(plan)
    }
}
