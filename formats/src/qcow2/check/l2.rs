//! The entries of an L2 table: what they use, and what is wrong with them.

use super::counts::{Counts, Use};
use super::l1::{L2Table, contradicts};
use super::stored::Stored;
use super::tally::{Kind, Tally};
use crate::error::{Error, Result};
use crate::qcow2::l1::{COPIED, OFFSET_MASK};
use crate::qcow2::l2::{COMPRESSED, Cluster, L2Format};

/// Clusters that the active state of the disk has.
#[derive(Debug, Default, Clone, Copy)]
pub struct Mapped {
    /// Clusters with a place in the file, compressed ones included.
    pub allocated: u64,
    /// Compressed ones.
    pub compressed: u64,
    /// Clusters that the end of the file cuts: whether the guest misses anything depends on where they stand in its disk.
    pub cut: u64,
}

/// What looking at the entries of L2 tables takes and gives.
pub struct Entries<'a, 's> {
    /// How entries are to be understood.
    pub format: L2Format,
    /// Length of the file.
    pub file_len: u64,
    /// The uses so far.
    pub counts: &'a mut Counts,
    /// The refcounts of the file.
    pub stored: &'a mut Stored<'s>,
    /// The findings so far; `None` when all that is to be found in entries was found before.
    pub tally: Option<&'a mut Tally>,
    /// The clusters so far.
    pub mapped: &'a mut Mapped,
}

/// Clusters in a row.
#[derive(Default)]
struct Row {
    first: u64,
    len: u64,
}

impl Entries<'_, '_> {
    /// Goes through the table in `bytes`, a whole one.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn table(&mut self, table: &L2Table, bytes: &[u8]) -> Result<()> {
        let size = self.format.entry_size();
        let mut row = Row::default();
        let entries = bytes.chunks_exact(size as usize);
        for (at, entry) in (table.offset..).step_by(size as usize).zip(entries) {
            let descriptor = entry.first_chunk().map_or(0, |d| u64::from_be_bytes(*d));
            // Most of many tables is empty.
            if descriptor == 0 && (!self.format.extended || entry.iter().all(|b| *b == 0)) {
                continue;
            }
            if descriptor & COMPRESSED != 0 {
                self.compressed(table, at, entry, descriptor);
            } else if let Some((first, len)) = self.standard(table, at, entry, descriptor)? {
                if first == row.first + row.len {
                    row.len += len;
                    continue;
                }
                self.counts
                    .add(row.first, row.len, table.uses.into(), Use::Data);
                row = Row { first, len };
            }
        }
        self.counts
            .add(row.first, row.len, table.uses.into(), Use::Data);
        Ok(())
    }

    /// The clusters that a standard entry uses: more than one if it is not aligned.
    fn standard(
        &mut self,
        table: &L2Table,
        at: u64,
        entry: &[u8],
        descriptor: u64,
    ) -> Result<Option<(u64, u64)>> {
        if let Err(error) = self.format.parse(entry) {
            self.wrong(Kind::Entry, table.uses, at, error);
        }
        let host = descriptor & OFFSET_MASK;
        let external = self.format.external_data;
        if host == 0 && !(external && descriptor & COPIED != 0) {
            return Ok(None);
        }
        self.mapped.allocated += u64::from(table.active);
        let bits = self.format.cluster_bits;
        let mut refcount = Some(1);
        if !external {
            if host >= self.file_len {
                let error = Error::truncated("L2 entry", "points past the end of the file")
                    .found(format!("{descriptor:#018x}"));
                self.wrong(Kind::Entry, table.uses, at, error);
                return Ok(None);
            }
            if self.tally.is_some() && table.active > 0 {
                refcount = self.stored.count(host >> bits)?;
            }
        }
        if table.active > 0 && contradicts(descriptor, refcount) && self.tally.is_some() {
            let error = Error::malformed(
                "L2 entry",
                "has a COPIED flag that contradicts the refcount",
            )
            .found(format!(
                "{descriptor:#018x}, refcount {}",
                refcount.unwrap_or_default()
            ));
            self.wrong(Kind::Copied, table.active, at, error);
        }
        let end = host + self.format.cluster_size();
        self.mapped.cut += u64::from(!external && end > self.file_len);
        let first = host >> bits;
        let last = (end - 1) >> bits;
        Ok((!external).then_some((first, last - first + 1)))
    }

    fn compressed(&mut self, table: &L2Table, at: u64, entry: &[u8], descriptor: u64) {
        self.mapped.allocated += u64::from(table.active);
        self.mapped.compressed += u64::from(table.active);
        let mut cluster = self.format.parse(entry);
        if let Err(error) = cluster {
            self.wrong(Kind::Entry, table.uses, at, error);
            // The flag alone does not make the rest meaningless.
            cluster = self.format.parse(&(descriptor & !COPIED).to_be_bytes());
        }
        let Ok(Cluster::Packed(range)) = cluster else {
            return;
        };
        let end = range.offset.saturating_add(range.len.into());
        let cluster_size = self.format.cluster_size();
        // Its length is known to the sector only, and the last cluster of a file may be cut.
        if range.offset >= self.file_len || end >= self.file_len.saturating_add(cluster_size) {
            let error = Error::truncated("L2 entry", "the compressed cluster is not in the file")
                .found(format!("{descriptor:#018x}"));
            self.wrong(Kind::Entry, table.uses, at, error);
            return;
        }
        let first = range.offset >> self.format.cluster_bits;
        let last = (end - 1) >> self.format.cluster_bits;
        self.counts
            .add(first, last - first + 1, table.uses.into(), Use::Data);
    }

    fn wrong(&mut self, kind: Kind, times: u32, at: u64, error: Error) {
        if let Some(tally) = &mut self.tally {
            tally.note(kind, times.into(), at, || error);
        }
    }
}
