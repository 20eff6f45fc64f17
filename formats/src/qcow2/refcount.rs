//! Refcounts: the two-level table that says how often each cluster of the file is used (qcow2 spec, "Host cluster
//! management"). Reading needs it only to tell sharing from damage; writing makes all of it.

use super::header::Header;
use super::l1::OFFSET_MASK;
use crate::error::{Error, Result};
use crate::storage::{StorageRef, WritableStorage, read_array};

/// The refcounts of an image that is read.
#[derive(Debug)]
pub struct Refcounts {
    storage: StorageRef,
    table_offset: u64,
    table_entries: u64,
    cluster_bits: u32,
    order: u32,
}

impl Refcounts {
    /// Those of the image in `storage`. Nothing is read yet.
    pub fn new(storage: StorageRef, header: &Header) -> Refcounts {
        Refcounts {
            storage,
            table_offset: header.refcount_table_offset,
            table_entries: header.refcount_table_bytes() / 8,
            cluster_bits: header.cluster_bits,
            order: header.refcount_order,
        }
    }

    /// Whether cluster number `cluster` has more than one user. A refcount that cannot be read says nothing of the
    /// kind.
    pub fn is_shared(&self, cluster: u64) -> bool {
        matches!(self.count(cluster), Ok(count) if count > 1)
    }

    /// The number of users of cluster number `cluster`.
    ///
    /// # Errors
    /// `Malformed` when a table entry is impossible, and those of the storage.
    pub fn count(&self, cluster: u64) -> Result<u64> {
        // Entries of a block: at least 64 (512 bytes of 64 bits), at most 2^24.
        let per_block = (8u64 << self.cluster_bits) >> self.order;
        let (block, index) = (cluster / per_block, cluster % per_block);
        if block >= self.table_entries {
            return Ok(0);
        }
        // The table is inside the file: the product and the sum fit.
        let entry = u64::from_be_bytes(read_array(&*self.storage, self.table_offset + block * 8)?);
        let offset = entry & (OFFSET_MASK | !(u64::MAX >> 8));
        if entry != offset || !offset.is_multiple_of(1 << self.cluster_bits) {
            return Err(
                Error::malformed("refcount table", "has an impossible entry")
                    .at(self.table_offset + block * 8)
                    .found(format!("{entry:#018x}"))
                    .in_file(self.storage.path()),
            );
        }
        if offset == 0 {
            return Ok(0);
        }
        let bit = index << self.order;
        let word: [u8; 8] = read_array(&*self.storage, offset.saturating_add(bit / 64 * 8))?;
        Ok(pick(word, self.order, bit % 64))
    }
}

/// The entry of `1 << order` bits that starts at `bit` of a word: big-endian from a byte on, and the low bits first
/// within a byte.
pub fn pick(word: [u8; 8], order: u32, bit: u64) -> u64 {
    let width = 1u64 << order;
    let shift = if width >= 8 {
        64 - bit - width
    } else {
        (56 - bit / 8 * 8) + bit % 8
    };
    (u64::from_be_bytes(word) >> shift) & (u64::MAX >> (64 - width))
}

/// Writes entry `index` of `1 << order` bits: as [`pick`] reads it.
pub fn put(block: &mut [u8], order: u32, index: u64, count: u64) {
    let bit = index << order;
    let at = (bit / 8) as usize;
    if order < 3 {
        if let Some(byte) = block.get_mut(at) {
            let (shift, mask) = (bit % 8, (1u8 << (1u32 << order)) - 1);
            *byte = *byte & !(mask << shift) | (count as u8 & mask) << shift;
        }
        return;
    }
    let width = 1usize << (order - 3);
    let bytes = count.to_be_bytes();
    if let Some(entry) = block.get_mut(at..at + width) {
        entry.copy_from_slice(&bytes[8 - width..]);
    }
}

/// The refcounts of an image that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefcountLayout {
    /// Clusters in front of the refcount blocks.
    pub used: u64,
    /// Refcount blocks, one cluster each; they follow the used clusters.
    pub blocks: u64,
    /// Clusters of the refcount table, which follows the blocks.
    pub table_clusters: u64,
    cluster_size: u64,
    order: u32,
}

impl RefcountLayout {
    /// The least that counts `used` clusters and itself, in entries of `1 << order` bits. `used` times `cluster_size`
    /// must not exceed 2^63.
    pub fn new(used: u64, cluster_size: u64, order: u32) -> RefcountLayout {
        let per_block = (cluster_size * 8) >> order;
        let (mut blocks, mut table_clusters) = (0, 0);
        loop {
            let total = used + blocks + table_clusters;
            let wanted = (
                total.div_ceil(per_block),
                (total.div_ceil(per_block) * 8).div_ceil(cluster_size),
            );
            if wanted == (blocks, table_clusters) {
                return RefcountLayout {
                    used,
                    blocks,
                    table_clusters,
                    cluster_size,
                    order,
                };
            }
            // Both only grow, and less each time: a block counts 256 clusters or more.
            (blocks, table_clusters) = wanted;
        }
    }

    /// Clusters of the whole file.
    pub fn total(&self) -> u64 {
        self.used + self.blocks + self.table_clusters
    }

    /// File offset of the table.
    pub fn table_offset(&self) -> u64 {
        (self.used + self.blocks) * self.cluster_size
    }

    /// Writes blocks and table, one cluster at a time. `counts` are the users of the first clusters; all others have
    /// one.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn write(&self, counts: &[u16], out: &dyn WritableStorage) -> Result<()> {
        let per_block = (self.cluster_size * 8) >> self.order;
        let mut counted = 0;
        for block in 0..self.blocks {
            let entries = (self.total() - counted).min(per_block);
            let mut bytes = vec![0; ((entries << self.order).div_ceil(8)) as usize];
            for index in 0..entries {
                let count = counts.get((counted + index) as usize).unwrap_or(&1);
                put(&mut bytes, self.order, index, (*count).into());
            }
            out.write_at(&bytes, (self.used + block) * self.cluster_size)?;
            counted += entries;
        }
        let per_cluster = self.cluster_size / 8;
        for cluster in 0..self.table_clusters {
            let first = cluster * per_cluster;
            let last = self.blocks.min(first + per_cluster);
            let bytes: Vec<u8> = (first..last)
                .flat_map(|block| ((self.used + block) * self.cluster_size).to_be_bytes())
                .collect();
            out.write_at(&bytes, self.table_offset() + cluster * self.cluster_size)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{MemoryStorage, MemoryTarget};
    use std::sync::Arc;

    #[test]
    fn entries_of_every_width_are_picked() {
        let word = [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef];
        assert_eq!(pick(word, 6, 0), 0x0123_4567_89ab_cdef);
        assert_eq!(pick(word, 5, 32), 0x89ab_cdef);
        assert_eq!(pick(word, 4, 16), 0x4567);
        assert_eq!(pick(word, 3, 8), 0x23);
        // Within a byte the low bits come first.
        assert_eq!(pick(word, 2, 8), 0x3);
        assert_eq!(pick(word, 2, 12), 0x2);
        assert_eq!(pick(word, 1, 60), 0b10);
        assert_eq!(pick(word, 0, 0), 1);
        assert_eq!(pick(word, 0, 1), 0);
        assert_eq!(pick(word, 0, 61), 1);
    }

    #[test]
    fn the_refcounts_count_themselves() {
        for cluster_size in [512u64, 4096, 65536, 2 << 20] {
            for used in [3, 255, 256, 16_000, 16_384, 1 << 20, 5 << 20] {
                let layout = RefcountLayout::new(used, cluster_size, 4);
                let per_block = cluster_size / 2;
                assert!(layout.blocks * per_block >= layout.total());
                assert!((layout.blocks - 1) * per_block < layout.total());
                assert!(layout.table_clusters * cluster_size >= layout.blocks * 8);
                assert!((layout.table_clusters - 1) * cluster_size < layout.blocks * 8);
            }
        }
    }

    #[test]
    fn what_was_written_is_read_back() {
        // Two table clusters: 64 blocks of 256 clusters each fill the first.
        let layout = RefcountLayout::new(17_000, 512, 4);
        assert_eq!(layout.table_clusters, 2);
        let out = MemoryTarget::default();
        layout.write(&[], &out).unwrap();
        out.set_len(layout.total() * 512).unwrap();
        let refcounts = Refcounts {
            storage: Arc::new(MemoryStorage::new(out.into_bytes())),
            table_offset: layout.table_offset(),
            table_entries: layout.table_clusters * 64,
            cluster_bits: 9,
            order: 4,
        };
        for cluster in 0..layout.total() {
            assert_eq!(refcounts.count(cluster).unwrap(), 1, "{cluster}");
        }
        for beyond in [layout.total(), layout.total() + 500, u64::MAX] {
            assert_eq!(refcounts.count(beyond).unwrap(), 0);
        }
        assert!(!refcounts.is_shared(3));
    }

    #[test]
    fn entries_of_every_width_are_read_back() {
        for order in 0..=6 {
            let counts: Vec<u16> = (0..3000u32)
                .map(|n| (n * 7919 % (1 << (1u32 << order).min(15))) as u16)
                .collect();
            let layout = RefcountLayout::new(3000, 512, order);
            let out = MemoryTarget::default();
            layout.write(&counts, &out).unwrap();
            out.set_len(layout.total() * 512).unwrap();
            let refcounts = Refcounts {
                storage: Arc::new(MemoryStorage::new(out.into_bytes())),
                table_offset: layout.table_offset(),
                table_entries: layout.table_clusters * 64,
                cluster_bits: 9,
                order,
            };
            for cluster in 0..layout.total() {
                let expected = counts.get(cluster as usize).map_or(1, |c| u64::from(*c));
                assert_eq!(
                    refcounts.count(cluster).unwrap(),
                    expected,
                    "{order} {cluster}"
                );
            }
        }
    }
}
