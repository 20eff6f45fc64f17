//! Entries of the L1 table: where the L2 tables stand (qcow2 spec, "Cluster mapping").

use crate::error::{Error, Result};

/// Bits 9 to 55: a file offset. The same in L1 and L2 entries.
pub const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;

/// Bit 63: the refcount of what the entry points to is exactly one. The same in L1 and L2 entries.
pub const COPIED: u64 = 1 << 63;

/// The L2 table that `entry` points to: its file offset, a multiple of `cluster_size`; `None` when nothing of the
/// range is allocated.
///
/// # Errors
/// `Malformed` for reserved bits that are set and an offset inside a cluster.
pub fn l2_offset(entry: u64, cluster_size: u64) -> Result<Option<u64>> {
    if entry & !(OFFSET_MASK | COPIED) != 0 {
        return Err(
            Error::malformed("L1 entry", "has reserved bits set").found(format!("{entry:#018x}"))
        );
    }
    let offset = entry & OFFSET_MASK;
    if !offset.is_multiple_of(cluster_size) {
        return Err(
            Error::malformed("L1 entry", "points into the middle of a cluster")
                .found(format!("offset {offset}"))
                .expected(format!("a multiple of {cluster_size}")),
        );
    }
    Ok((offset != 0).then_some(offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_points_to_a_whole_cluster_or_nowhere() {
        assert_eq!(l2_offset(0, 65536).unwrap(), None);
        assert_eq!(l2_offset(COPIED | 0x50000, 65536).unwrap(), Some(0x50000));
        assert_eq!(l2_offset(0x50000, 65536).unwrap(), Some(0x50000));
        assert!(l2_offset(0x50200, 65536).is_err());
        assert_eq!(l2_offset(0x50200, 512).unwrap(), Some(0x50200));
    }

    #[test]
    fn reserved_bits_are_malformed() {
        for bit in (0..9).chain(56..63) {
            assert!(l2_offset(0x50000 | 1 << bit, 512).is_err(), "{bit}");
        }
    }
}
