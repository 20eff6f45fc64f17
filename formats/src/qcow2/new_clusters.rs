//! Clusters behind the end of an image that is there, and their refcounts.

use std::collections::{BTreeMap, BTreeSet};

use super::header::{Header, REFCOUNT_TABLE_MAX_BYTES};
use super::l1::OFFSET_MASK;
use super::refcount::{Refcounts, put};
use crate::error::{Error, Result};
use crate::in_place::Plan;
use crate::storage::{StorageRef, read_array};

/// Bytes that are read and written of a refcount block at once: no entry is longer, and none lies across two.
const WORD: u64 = 8;

/// Clusters that are taken from behind the end of the file.
pub struct NewClusters<'a> {
    storage: &'a StorageRef,
    refcounts: Refcounts,
    cluster_size: u64,
    order: u32,
    /// File offset of the table that there is.
    table_offset: u64,
    /// Offsets of refcount blocks: the table as it will be.
    table: Vec<u64>,
    /// Entries of the table that there is.
    old_entries: u64,
    next: u64,
    taken: Vec<u64>,
    /// Of these, what was given up again.
    abandoned: BTreeSet<u64>,
    /// Blocks that are made, by their index in the table.
    blocks: BTreeMap<u64, Vec<u8>>,
    /// Where the table goes, if it gets another place.
    new_table: Option<u64>,
    /// Words of blocks that there are, as they will be, by their file offset.
    words: BTreeMap<u64, [u8; WORD as usize]>,
}

impl<'a> NewClusters<'a> {
    /// None so far, of the image in `storage`.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn new(storage: &'a StorageRef, header: &Header) -> Result<NewClusters<'a>> {
        // At most 8 MiB: it was checked.
        let mut bytes = vec![0; header.refcount_table_bytes() as usize];
        storage.read_at(&mut bytes, header.refcount_table_offset)?;
        let (entries, _) = bytes.as_chunks::<8>();
        let table: Vec<u64> = entries.iter().map(|e| u64::from_be_bytes(*e)).collect();
        Ok(NewClusters {
            storage,
            refcounts: Refcounts::new(storage.clone(), header),
            cluster_size: header.cluster_size(),
            order: header.refcount_order,
            table_offset: header.refcount_table_offset,
            old_entries: table.len() as u64,
            table,
            next: storage.len().div_ceil(header.cluster_size()),
            taken: Vec::new(),
            abandoned: BTreeSet::new(),
            blocks: BTreeMap::new(),
            new_table: None,
            words: BTreeMap::new(),
        })
    }

    /// Takes `count` clusters in a row; the number of the first.
    ///
    /// # Errors
    /// `Limit` for a file that is too long, and those of the refcounts.
    pub fn take(&mut self, count: u64) -> Result<u64> {
        let mut first = self.next;
        let mut at = first;
        while at < first.saturating_add(count) {
            // What is counted behind the end of the file is a leak, but not ours.
            if self.refcounts.count(at)? != 0 {
                first = at + 1;
            }
            at += 1;
        }
        let end = at.checked_mul(self.cluster_size);
        if end.is_none_or(|end| end > OFFSET_MASK) {
            return Err(Error::limit("file", "would be too long for its tables").found(at));
        }
        self.next = at;
        self.taken.extend(first..at);
        Ok(first)
    }

    /// Where the file ends with all that was taken.
    pub fn end(&self) -> u64 {
        self.next * self.cluster_size
    }

    /// Sees to it that there are refcount blocks for all that was taken, and a table for them. Where the table gets
    /// another place: its file offset and its clusters.
    ///
    /// # Errors
    /// `Limit` for a table of more than 8 MiB.
    pub fn count_all(&mut self) -> Result<Option<(u64, u32)>> {
        let mut done = 0;
        while let Some(cluster) = self.taken.get(done).copied() {
            done += 1;
            let block = cluster / self.per_block();
            self.make_table(block)?;
            if self.entry(block) & OFFSET_MASK == 0 {
                let place = self.take(1)? * self.cluster_size;
                self.set_entry(block, place);
                self.blocks
                    .insert(block, vec![0; self.cluster_size as usize]);
            }
        }
        let (per_block, order) = (self.per_block(), self.order);
        self.taken
            .retain(|cluster| !self.abandoned.contains(cluster));
        for cluster in &self.taken {
            if let Some(bytes) = self.blocks.get_mut(&(cluster / per_block)) {
                put(bytes, order, cluster % per_block, 1);
            }
        }
        let table_bytes = self.table.len() as u64 * 8;
        Ok(self.new_table.map(|at| {
            (
                at * self.cluster_size,
                (table_bytes / self.cluster_size) as u32,
            )
        }))
    }

    /// Makes the table long enough for block number `block`. What it grows by suffices for itself.
    fn make_table(&mut self, block: u64) -> Result<()> {
        if block < self.table.len() as u64 {
            return Ok(());
        }
        let per_cluster = self.cluster_size / 8;
        // A few more blocks than asked for: the table itself has to be counted.
        let entries = (block + 2).next_multiple_of(per_cluster) + per_cluster;
        if entries * 8 > REFCOUNT_TABLE_MAX_BYTES {
            return Err(Error::limit("refcount table", "would be larger than 8 MiB")
                .found(format!("{} bytes", entries * 8)));
        }
        if let Some(first) = self.new_table {
            // It turned out to be too small: its place is nobody's, and not counted.
            self.abandoned
                .extend(first..first + self.table.len() as u64 / per_cluster);
        }
        self.new_table = Some(self.take(entries / per_cluster)?);
        self.table.resize(entries as usize, 0);
        Ok(())
    }

    /// Writes the blocks and the table that are made.
    pub fn write_new(&self, plan: &mut Plan) {
        for (block, bytes) in &self.blocks {
            plan.write(self.entry(*block), bytes.clone());
        }
        if let Some(at) = self.new_table {
            let bytes: Vec<u8> = self.table.iter().flat_map(|e| e.to_be_bytes()).collect();
            plan.write(at * self.cluster_size, bytes);
        }
    }

    /// Counts what was taken in blocks that there are, and enters blocks that are made in a table that there is.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn write_counts(&mut self, plan: &mut Plan) -> Result<()> {
        let taken = std::mem::take(&mut self.taken);
        for cluster in &taken {
            if !self.blocks.contains_key(&(cluster / self.per_block())) {
                self.set_count(plan, *cluster, 1)?;
            }
        }
        for block in self
            .blocks
            .keys()
            .filter(|block| **block < self.old_entries)
        {
            let entry = self.entry(*block).to_be_bytes();
            plan.write(self.table_offset + block * 8, entry);
        }
        plan.sync();
        Ok(())
    }

    /// Counts one user less of each of `count` clusters from `first` on.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn free(&mut self, plan: &mut Plan, first: u64, count: u64) -> Result<()> {
        let mut all = first..first.saturating_add(count);
        all.try_for_each(|cluster| self.release(plan, cluster, 1))
    }

    /// Counts `users` users less of a cluster that was not touched before.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn release(&mut self, plan: &mut Plan, cluster: u64, users: u64) -> Result<()> {
        let count = self.refcounts.count(cluster)?;
        self.set_count(plan, cluster, count.saturating_sub(users))
    }

    fn set_count(&mut self, plan: &mut Plan, cluster: u64, count: u64) -> Result<()> {
        let (block, index) = (cluster / self.per_block(), cluster % self.per_block());
        let bit = index << self.order;
        let at = (self.entry(block) & OFFSET_MASK) + bit / 64 * WORD;
        let mut word = match self.words.get(&at) {
            Some(word) => *word,
            None => read_array(self.storage.as_ref(), at)?,
        };
        put(&mut word, self.order, (bit % 64) >> self.order, count);
        self.words.insert(at, word);
        plan.write(at, word);
        Ok(())
    }

    fn per_block(&self) -> u64 {
        (self.cluster_size * 8) >> self.order
    }

    fn entry(&self, block: u64) -> u64 {
        self.table.get(block as usize).copied().unwrap_or(0)
    }

    fn set_entry(&mut self, block: u64, offset: u64) {
        if let Some(entry) = self.table.get_mut(block as usize) {
            *entry = offset;
        }
    }
}
