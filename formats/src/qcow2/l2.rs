//! Entries of L2 tables: standard, compressed, and extended ones with subclusters (qcow2 spec, "Cluster mapping",
//! "Compressed Clusters Descriptor", "Extended L2 Entries").

use super::features::{EXTENDED_L2, EXTERNAL_DATA};
use super::header::Header;
use super::l1::{COPIED, OFFSET_MASK};
use crate::error::{Error, Result};
use crate::joined::PackedRange;

/// Bit 62: the cluster is compressed.
pub const COMPRESSED: u64 = 1 << 62;
/// Bit 0 of a standard entry of version 3: the cluster reads as zeros.
pub const ZERO: u64 = 1;
/// Subclusters of a cluster.
pub const SUBCLUSTERS: u32 = 32;

/// How the L2 entries of an image are to be understood.
#[derive(Debug, Clone, Copy)]
pub struct L2Format {
    /// `log2` of the cluster size, 9 to 21.
    pub cluster_bits: u32,
    /// Whether bit 0 means "zeros": from version 3 on, without subclusters.
    pub zero_flag: bool,
    /// Whether entries have 16 bytes, the second half for subclusters.
    pub extended: bool,
    /// Whether the clusters stand in another file, each at its guest offset.
    pub external_data: bool,
}

/// What an L2 entry says about its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cluster {
    /// Not allocated: the backing file decides.
    Absent,
    /// Zeros, whatever the backing file says.
    Zero,
    /// The cluster stands at this offset, a multiple of the cluster size.
    Stored(u64),
    /// The cluster is compressed. Its length is known to the end of the last 512-byte sector that it touches.
    Packed(PackedRange),
    /// The subclusters differ.
    Split(Subclusters),
}

/// A cluster with subclusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subclusters {
    /// Offset of the whole cluster; means something only where a subcluster is allocated.
    pub host: u64,
    allocated: u32,
    zero: u32,
}

/// What a subcluster is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subcluster {
    /// The backing file decides.
    Absent,
    /// Zeros.
    Zero,
    /// It stands in its place in the cluster.
    Stored,
}

impl Subclusters {
    /// The kind of subcluster `index`, and how many from there on are of the same kind. `index` is below 32.
    pub fn run(&self, index: u32) -> (Subcluster, u32) {
        let kind = self.kind(index);
        let same = (index..SUBCLUSTERS)
            .take_while(|i| self.kind(*i) == kind)
            .count();
        (kind, same as u32)
    }

    /// Whether any subcluster is allocated.
    pub fn any_stored(&self) -> bool {
        self.allocated != 0
    }

    fn kind(&self, index: u32) -> Subcluster {
        let bit = 1u32.checked_shl(index).unwrap_or(0);
        if self.allocated & bit != 0 {
            Subcluster::Stored
        } else if self.zero & bit != 0 {
            Subcluster::Zero
        } else {
            Subcluster::Absent
        }
    }
}

impl L2Format {
    /// The entries of the image with this header.
    pub fn of(header: &Header) -> L2Format {
        let extended = header.has(EXTENDED_L2);
        L2Format {
            cluster_bits: header.cluster_bits,
            zero_flag: header.version >= 3 && !extended,
            extended,
            external_data: header.has(EXTERNAL_DATA),
        }
    }

    /// Bytes of an entry.
    pub fn entry_size(&self) -> u64 {
        if self.extended { 16 } else { 8 }
    }

    /// Bytes of a cluster.
    pub fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Takes an entry as it stands on disk: 8 bytes, or 16 of extended ones.
    ///
    /// # Errors
    /// `Malformed` for reserved bits that are set, offsets inside a cluster, and states that exclude each other.
    pub fn parse(&self, entry: &[u8]) -> Result<Cluster> {
        let word = |part: Option<&[u8; 8]>| part.map_or(0, |bytes| u64::from_be_bytes(*bytes));
        let descriptor = word(entry.first_chunk());
        let bitmap = match entry.get(8..) {
            Some(rest) if self.extended => word(rest.first_chunk()),
            _ => 0,
        };
        let cluster = if descriptor & COMPRESSED != 0 {
            self.compressed(descriptor, bitmap)
        } else {
            self.standard(descriptor, bitmap)
        };
        cluster.map_err(|why| {
            let found = if self.extended {
                format!("{descriptor:#018x} {bitmap:#018x}")
            } else {
                format!("{descriptor:#018x}")
            };
            Error::malformed("L2 entry", why).found(found)
        })
    }

    fn standard(&self, entry: u64, bitmap: u64) -> Result<Cluster, &'static str> {
        let flags = COPIED | if self.zero_flag { ZERO } else { 0 };
        if entry & !(OFFSET_MASK | flags) != 0 {
            return Err("has reserved bits set");
        }
        let host = entry & OFFSET_MASK;
        if !host.is_multiple_of(self.cluster_size()) {
            return Err("points into the middle of a cluster");
        }
        // At the start of an external data file stands a cluster like any other, and bit 63 tells it from none.
        let allocated = host != 0 || (self.external_data && entry & COPIED != 0);
        if self.extended {
            return subclusters(host, allocated, bitmap);
        }
        Ok(if entry & flags & ZERO != 0 {
            Cluster::Zero
        } else if allocated {
            Cluster::Stored(host)
        } else {
            Cluster::Absent
        })
    }

    fn compressed(&self, entry: u64, bitmap: u64) -> Result<Cluster, &'static str> {
        if self.external_data {
            return Err("is compressed, which an image with an external data file cannot have");
        }
        if entry & COPIED != 0 {
            return Err("is compressed and marked as copied, which exclude each other");
        }
        if bitmap != 0 {
            return Err("is compressed and has subclusters, which exclude each other");
        }
        // cluster_bits is 9 to 21: the offset has 49 to 61 bits.
        let offset_bits = 62 - (self.cluster_bits - 8);
        let offset = entry & ((1 << offset_bits) - 1);
        let more_sectors = (entry & !COMPRESSED) >> offset_bits;
        // At most 2^13 + 1 sectors.
        let len = (more_sectors + 1) * 512 - offset % 512;
        Ok(Cluster::Packed(PackedRange {
            offset,
            len: len as u32,
        }))
    }
}

/// The entry for a cluster that was compressed to `len` bytes at file offset `offset`.
pub fn compressed_entry(cluster_bits: u32, offset: u64, len: u64) -> u64 {
    let offset_bits = 62 - (cluster_bits - 8);
    let sectors = (offset % 512 + len).div_ceil(512);
    COMPRESSED | (sectors - 1) << offset_bits | offset
}

fn subclusters(host: u64, has_cluster: bool, bitmap: u64) -> Result<Cluster, &'static str> {
    let (allocated, zero) = (bitmap as u32, (bitmap >> 32) as u32);
    if allocated & zero != 0 {
        return Err("has a subcluster that is both allocated and zero");
    }
    if allocated != 0 && !has_cluster {
        return Err("has allocated subclusters but no cluster");
    }
    Ok(match (allocated, zero) {
        (0, 0) => Cluster::Absent,
        (0, u32::MAX) => Cluster::Zero,
        (u32::MAX, _) => Cluster::Stored(host),
        _ => Cluster::Split(Subclusters {
            host,
            allocated,
            zero,
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(cluster_bits: u32) -> L2Format {
        L2Format {
            cluster_bits,
            zero_flag: true,
            extended: false,
            external_data: false,
        }
    }

    fn parse(format: L2Format, entry: u64) -> Result<Cluster> {
        format.parse(&entry.to_be_bytes())
    }

    #[test]
    fn standard_entries_are_absent_zero_or_stored() {
        let format = format(16);
        assert_eq!(parse(format, 0).unwrap(), Cluster::Absent);
        assert_eq!(parse(format, 1).unwrap(), Cluster::Zero);
        // Zero with a cluster kept in reserve.
        assert_eq!(parse(format, COPIED | 0x50001).unwrap(), Cluster::Zero);
        assert_eq!(
            parse(format, COPIED | 0x50000).unwrap(),
            Cluster::Stored(0x50000)
        );
        assert!(parse(format, 0x50200).is_err());
        for bit in (1..9).chain(56..62) {
            assert!(parse(format, 0x50000 | 1 << bit).is_err(), "{bit}");
        }
    }

    #[test]
    fn version_2_has_no_zero_flag() {
        let mut format = format(16);
        format.zero_flag = false;
        assert!(parse(format, 1).is_err());
        assert!(parse(format, 0x50001).is_err());
    }

    #[test]
    fn offset_0_of_a_data_file_counts_when_bit_63_is_set() {
        let mut format = format(16);
        assert_eq!(parse(format, COPIED).unwrap(), Cluster::Absent);
        format.external_data = true;
        assert_eq!(parse(format, COPIED).unwrap(), Cluster::Stored(0));
        assert_eq!(parse(format, 0).unwrap(), Cluster::Absent);
        assert!(parse(format, COMPRESSED | 0x50000).is_err());
    }

    #[test]
    fn the_length_of_a_compressed_cluster_ends_with_a_sector() {
        // 64 KiB clusters: 54 bits of offset, then the number of further sectors.
        let entry = COMPRESSED | 3 << 54 | 0x50123;
        assert_eq!(
            parse(format(16), entry).unwrap(),
            Cluster::Packed(PackedRange {
                offset: 0x50123,
                len: 4 * 512 - 0x123,
            })
        );
        let all = parse(format(9), u64::MAX >> 1).unwrap();
        assert_eq!(
            all,
            Cluster::Packed(PackedRange {
                offset: (1 << 61) - 1,
                len: 2 * 512 - 511,
            })
        );
        let Cluster::Packed(range) = parse(format(21), u64::MAX >> 1).unwrap() else {
            panic!("not packed");
        };
        assert_eq!(range.len, (1 << 22) - 511);
        assert!(parse(format(16), COPIED | entry).is_err());
    }

    #[test]
    fn subclusters_come_in_runs() {
        let mut format = format(16);
        (format.extended, format.zero_flag) = (true, false);
        let parse = |entry: u64, bitmap: u64| {
            format.parse(&[entry.to_be_bytes(), bitmap.to_be_bytes()].concat())
        };
        let Cluster::Split(sub) = parse(COPIED | 0x50000, 0x8000_0000_0000_0006).unwrap() else {
            panic!("not split");
        };
        assert_eq!(sub.run(0), (Subcluster::Absent, 1));
        assert_eq!(sub.run(1), (Subcluster::Stored, 2));
        assert_eq!(sub.run(3), (Subcluster::Absent, 28));
        assert_eq!(sub.run(31), (Subcluster::Zero, 1));
        assert_eq!(parse(0x50000, 0).unwrap(), Cluster::Absent);
        assert_eq!(parse(0, 0xffff_ffff << 32).unwrap(), Cluster::Zero);
        assert_eq!(
            parse(0x50000, 0xffff_ffff).unwrap(),
            Cluster::Stored(0x50000)
        );
        assert!(parse(0x50000, 1 << 32 | 1).is_err(), "both");
        assert!(parse(0, 1).is_err(), "no cluster");
        assert!(parse(0x50001, 1).is_err(), "bit 0 is reserved here");
        assert!(parse(COMPRESSED | 0x50000, 1).is_err());
    }
}
