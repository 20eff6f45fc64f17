//! Uses against refcounts, cluster by cluster; and lowering the refcounts that are too high.

use super::chunks::Chunks;
use super::counts::{Counts, PAGE};
use super::stored::{Block, Stored, count_at};
use super::tally::{Kind, Tally};
use crate::error::{Error, Result};
use crate::in_place::InPlace;
use crate::qcow2::refcount::put;

/// Bytes of a block that are looked at together.
const PIECE: u64 = 64 << 10;
/// What is written at least.
const SECTOR: usize = 512;

/// What comparing takes and gives.
pub struct Comparison<'a, 's> {
    /// `log2` of the cluster size.
    pub cluster_bits: u32,
    /// Clusters of the file, the last one perhaps cut.
    pub clusters: u64,
    /// The uses of a window of clusters.
    pub counts: &'a Counts,
    /// The refcounts of the file.
    pub stored: &'a Stored<'s>,
    /// For reading blocks.
    pub chunks: &'a mut Chunks<'s>,
    /// The findings so far.
    pub tally: &'a mut Tally,
    /// The last cluster that is used or counted, if any is.
    pub last: &'a mut Option<u64>,
    /// Where refcounts that are too high are lowered.
    pub lower: Option<&'a dyn InPlace>,
}

impl Comparison<'_, '_> {
    /// Compares all clusters from the window's first one up to that of the next window.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn run(&mut self) -> Result<()> {
        // A compressed cluster may reach a little over the end of the file.
        let end = self.counts.next().unwrap_or(self.clusters + 1);
        self.overlaps(end);
        let mut at = self.counts.lo();
        while at < end {
            let block = self.stored.block(at);
            let next = match at < self.stored.end() {
                true => (at / self.stored.per_block() + 1) * self.stored.per_block(),
                false => end,
            };
            let stop = next.min(end);
            match block {
                Block::Absent => self.uncounted(at, stop),
                Block::At(offset) => self.block(offset, at, stop)?,
                Block::Unusable => {}
            }
            at = stop;
        }
        Ok(())
    }

    fn overlaps(&mut self, end: u64) {
        let mut at = self.counts.lo();
        while let Some(first) = self.counts.next_used(at, end) {
            at = end.min((first / PAGE + 1) * PAGE);
            let Some(page) = self.counts.page(first) else {
                continue;
            };
            for cluster in (first..at).filter(|c| page.overlaps(*c)) {
                self.tally
                    .note(Kind::Overlap, 1, cluster << self.cluster_bits, || {
                        Error::malformed("cluster", "holds a table and is something else too")
                    });
            }
        }
    }

    /// Clusters without a block: refcount 0.
    fn uncounted(&mut self, from: u64, end: u64) {
        let mut at = from;
        while let Some(first) = self.counts.next_used(at, end) {
            at = end.min((first / PAGE + 1) * PAGE);
            let Some(page) = self.counts.page(first) else {
                continue;
            };
            for cluster in first..at {
                self.cluster(cluster, 0, page.count(cluster));
            }
        }
    }

    /// The clusters from `from` to `end`, which the block at `offset` counts.
    fn block(&mut self, offset: u64, from: u64, end: u64) -> Result<()> {
        let order = self.stored.order();
        let piece_bytes = PIECE.min(1 << self.cluster_bits);
        let per_piece = (piece_bytes * 8) >> order;
        let start = from / self.stored.per_block() * self.stored.per_block();
        let mut at = from;
        while at < end {
            let index = (at - start) / per_piece;
            let first = start + index * per_piece;
            let stop = end.min(first + per_piece);
            let place = offset + index * piece_bytes;
            match self.chunks.read(place, piece_bytes)?.map(<[u8]>::to_vec) {
                None => self.uncounted(at, stop),
                Some(bytes) => self.piece(bytes, place, first, at..stop)?,
            }
            at = stop;
        }
        Ok(())
    }

    /// The clusters of `range`, whose refcounts are in `bytes` from cluster `first` on; `bytes` stand at `place`.
    fn piece(
        &mut self,
        mut bytes: Vec<u8>,
        place: u64,
        first: u64,
        range: std::ops::Range<u64>,
    ) -> Result<()> {
        let order = self.stored.order();
        let mut changed: Option<(usize, usize)> = None;
        let mut at = range.start;
        while at < range.end {
            let stop = range.end.min((at / PAGE + 1) * PAGE);
            let page = self.counts.page(at);
            for cluster in at..stop {
                let refcount = count_at(&bytes, order, (cluster - first) << order);
                let uses = page.map_or(0, |page| page.count(cluster));
                let is_leak = self.cluster(cluster, refcount, uses);
                if is_leak && self.lower.is_some() {
                    put(&mut bytes, order, cluster - first, uses);
                    let byte = (((cluster - first) << order) / 8) as usize;
                    let from = changed.map_or(byte, |(from, _)| from);
                    changed = Some((from, byte));
                }
            }
            at = stop;
        }
        if let (Some((from, to)), Some(out)) = (changed, self.lower) {
            let (from, to) = (from / SECTOR * SECTOR, (to / SECTOR + 1) * SECTOR);
            let part = bytes.get(from..to.min(bytes.len())).unwrap_or_default();
            out.write_at(part, place + from as u64)?;
        }
        Ok(())
    }

    /// Tells what is wrong with a cluster; whether it is a leak.
    fn cluster(&mut self, cluster: u64, refcount: u64, uses: u64) -> bool {
        // What blocks say about clusters behind the end of the file is of no use to anybody.
        if uses == 0 && (refcount == 0 || cluster >= self.clusters) {
            return false;
        }
        *self.last = (*self.last).max(Some(cluster));
        let at = cluster << self.cluster_bits;
        if refcount < uses {
            self.tally.note(Kind::Low, 1, at, || {
                Error::malformed("refcount", "is lower than the number of uses")
                    .found(format!("refcount {refcount}"))
                    .expected(uses)
            });
        } else if refcount > uses {
            self.tally.note(Kind::Leak, 1, at, || {
                Error::malformed("refcount", "is higher than the number of uses")
            });
        }
        refcount > uses
    }
}
