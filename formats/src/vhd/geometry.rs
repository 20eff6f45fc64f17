//! Cylinders, heads and sectors: what BIOSes of the time wanted, and what Virtual PC takes for the size.

use std::fmt;

/// Sectors that a geometry can express: the most cylinders, heads and sectors per track.
const MAX_SECTORS: u64 = 65535 * 16 * 255;

/// What is to be said about a new disk of `size` bytes: Virtual PC takes the geometry for the size, and that cannot
/// express every size.
pub fn notes(size: u64) -> Vec<String> {
    let geometry = Geometry::of_disk(size);
    if geometry.is_largest() || geometry.bytes() == size {
        return Vec::new();
    }
    vec![format!(
        "Microsoft Virtual PC would see the first {} bytes of this disk only (its CHS geometry); \
         Hyper-V, Azure, XenServer and QEMU see all {size}",
        geometry.bytes()
    )]
}

/// A CHS geometry as the footer stores it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Cylinders.
    pub cylinders: u16,
    /// Heads, in practice 4 to 16.
    pub heads: u8,
    /// Sectors per track: 17, 31, 63 or 255.
    pub sectors_per_track: u8,
}

impl Geometry {
    /// The geometry of a disk of `size` bytes, rounded down ("CHS calculation" in Microsoft's VHD specification,
    /// appendix): it never expresses more than the disk has. Disks of less than 34 KiB have no whole cylinder.
    pub fn of_disk(size: u64) -> Geometry {
        let sectors = (size / 512).min(MAX_SECTORS);
        if sectors >= 65535 * 16 * 63 {
            return Geometry::new(sectors / 255, 16, 255);
        }
        let mut per_track = 17;
        let mut tracks = sectors / per_track;
        let mut heads = tracks.div_ceil(1024).max(4);
        if tracks >= heads * 1024 || heads > 16 {
            per_track = 31;
            heads = 16;
            tracks = sectors / per_track;
        }
        if tracks >= heads * 1024 {
            per_track = 63;
            heads = 16;
            tracks = sectors / per_track;
        }
        Geometry::new(tracks, heads, per_track)
    }

    /// All three are in range by construction: at most 65535, 16 and 255.
    fn new(tracks: u64, heads: u64, per_track: u64) -> Geometry {
        Geometry {
            cylinders: (tracks / heads) as u16,
            heads: heads as u8,
            sectors_per_track: per_track as u8,
        }
    }

    /// Bytes that the geometry expresses.
    pub fn bytes(self) -> u64 {
        u64::from(self.cylinders) * u64::from(self.heads) * u64::from(self.sectors_per_track) * 512
    }

    /// Whether it is the largest one, which says no more than "at least that much".
    pub fn is_largest(self) -> bool {
        self.bytes() == MAX_SECTORS * 512
    }
}

impl fmt::Display for Geometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{}/{}",
            self.cylinders, self.heads, self.sectors_per_track
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_geometry_of_the_specification() {
        const MIB: u64 = 1 << 20;
        for (size, geometry) in [
            (MIB, "30/4/17"),
            (10 * MIB, "301/4/17"),
            (40 * MIB, "963/5/17"),
            (100 * MIB, "1003/12/17"),
            (504 * MIB, "1024/16/63"),
            (1024 * MIB, "2080/16/63"),
            (10240 * MIB, "20805/16/63"),
            (40960 * MIB, "20560/16/255"),
            (136_365_211_648, "65278/16/255"),
            (136_899_993_600, "65535/16/255"),
            (2040 << 30, "65535/16/255"),
        ] {
            assert_eq!(Geometry::of_disk(size).to_string(), geometry, "{size}");
        }
    }

    #[test]
    fn a_geometry_never_expresses_more_than_the_disk() {
        for power in 9..42 {
            for size in [(1u64 << power) - 512, 1 << power, (1 << power) + 512] {
                assert!(Geometry::of_disk(size).bytes() <= size, "{size}");
            }
        }
        assert!(Geometry::of_disk(u64::MAX).is_largest());
        assert_eq!(Geometry::of_disk(0).bytes(), 0);
    }
}
