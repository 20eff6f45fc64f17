//! Where compressed clusters go: one after the other, several in a cluster of the file, counted in each that they touch.

use std::ops::Range;

/// Bytes in which the length of a compressed cluster is told (qcow2 spec, "Compressed Clusters Descriptor").
const SECTOR: u64 = 512;

/// The clusters of the file while they are given out, and how often each is used.
#[derive(Debug)]
pub struct PackedSpace {
    cluster_size: u64,
    /// Most users that a refcount can count.
    most: u64,
    /// Users of each cluster that was given out.
    counts: Vec<u16>,
    /// Next free byte behind compressed data, if there is a cluster with room.
    at: Option<u64>,
}

impl PackedSpace {
    /// An empty space behind the first `used` clusters.
    pub fn new(cluster_size: u64, refcount_order: u32, used: u64) -> PackedSpace {
        let most = 1u64.checked_shl(1 << refcount_order).unwrap_or(0);
        PackedSpace {
            cluster_size,
            most: most.wrapping_sub(1).min(u16::MAX.into()),
            counts: vec![1; used as usize],
            at: None,
        }
    }

    /// Clusters that were given out.
    pub fn used(&self) -> u64 {
        self.counts.len() as u64
    }

    /// Users of each of them.
    pub fn counts(&self) -> &[u16] {
        &self.counts
    }

    /// A cluster of its own; its number.
    pub fn allocate(&mut self) -> u64 {
        self.counts.push(1);
        self.used() - 1
    }

    /// A place for `len` compressed bytes, fewer than a cluster has: a file offset.
    pub fn place(&mut self, len: u64) -> u64 {
        let fresh = self.used() * self.cluster_size;
        let open = self.at.filter(|at| self.fits(*at, len));
        let at = open.unwrap_or(fresh);
        let end = at + len;
        let clusters = end.div_ceil(self.cluster_size);
        if clusters > self.used() {
            self.counts.resize(clusters as usize, 0);
        }
        let touched = self.touched(at, len);
        for count in self.counts.get_mut(touched).unwrap_or_default() {
            *count += 1;
        }
        self.at = (!end.is_multiple_of(self.cluster_size)).then_some(end);
        at
    }

    /// Whether `len` bytes at `at` stay in clusters that are free or still to be given out, and can be counted.
    fn fits(&self, at: u64, len: u64) -> bool {
        let open_end = at.next_multiple_of(self.cluster_size);
        let most = self.most;
        let is_last = open_end == self.used() * self.cluster_size;
        let touched = self.touched(at, len.min(open_end - at));
        let counted = self.counts.get(touched).unwrap_or_default();
        counted.iter().all(|count| u64::from(*count) < most) && (at + len <= open_end || is_last)
    }

    /// The clusters in which the sectors of `len` bytes at `at` stand, of those that were given out.
    fn touched(&self, at: u64, len: u64) -> Range<usize> {
        let first = at / self.cluster_size;
        let end = (at + len)
            .next_multiple_of(SECTOR)
            .div_ceil(self.cluster_size);
        first as usize..(end as usize).min(self.counts.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_share_a_cluster_and_each_counts() {
        let mut space = PackedSpace::new(4096, 4, 3);
        assert_eq!(space.place(1000), 3 * 4096);
        assert_eq!(space.place(3000), 3 * 4096 + 1000);
        // Over the border, into a new cluster.
        assert_eq!(space.place(1000), 3 * 4096 + 4000);
        assert_eq!(space.counts(), [1, 1, 1, 3, 1]);
        // A table in between: what does not fit starts behind it.
        assert_eq!(space.allocate(), 5);
        assert_eq!(space.place(3096), 4 * 4096 + 904);
        assert_eq!(space.place(4000), 6 * 4096);
        assert_eq!(space.allocate(), 7);
        assert_eq!(space.place(4000), 8 * 4096);
        assert_eq!(space.counts(), [1, 1, 1, 3, 2, 1, 1, 1, 1]);
    }

    #[test]
    fn a_refcount_is_never_too_small() {
        let mut space = PackedSpace::new(4096, 1, 1);
        let places: Vec<_> = (0..5).map(|_| space.place(100)).collect();
        assert_eq!(places, [4096, 4196, 4296, 8192, 8292]);
        assert_eq!(space.counts(), [1, 3, 2]);
        let mut space = PackedSpace::new(4096, 0, 1);
        assert_eq!([space.place(100), space.place(100)], [4096, 8192]);
    }
}
