//! Markers: what stands in front of compressed grains and of the tables of a stream.
//!
//! Virtual Disk Format 5.0, "Stream-Optimized Compressed Sparse Extents".

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::SECTOR;
use crate::error::Result;
use crate::storage::{Storage, read_array};

/// Bytes in front of a compressed grain.
pub const GRAIN_MARKER: u64 = 12;

/// Bytes of a marker that say which it is.
const HEAD: usize = 16;

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    value: U64,
    size: U32,
    kind: U32,
}

/// What a marker announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marker {
    /// A compressed grain of `len` bytes, right behind the marker's first [`GRAIN_MARKER`] bytes.
    Grain {
        /// The guest sector at which the grain starts.
        sector: u64,
        /// Bytes of compressed data.
        len: u32,
    },
    /// The end of the stream.
    EndOfStream,
    /// A grain table of so many sectors, from the next sector on.
    GrainTable(u64),
    /// The grain directory.
    GrainDirectory(u64),
    /// The footer.
    Footer(u64),
    /// Something to be skipped: vSphere tells its progress with type 4.
    Other(u64),
}

impl Marker {
    /// The marker at byte `offset`.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn read(storage: &dyn Storage, offset: u64) -> Result<Marker> {
        let bytes: [u8; HEAD] = read_array(storage, offset)?;
        let raw: Raw = zerocopy::transmute!(bytes);
        let value = raw.value.get();
        Ok(match (raw.size.get(), raw.kind.get()) {
            (0, 0) => Marker::EndOfStream,
            (0, 1) => Marker::GrainTable(value),
            (0, 2) => Marker::GrainDirectory(value),
            (0, 3) => Marker::Footer(value),
            (0, _) => Marker::Other(value),
            (len, _) => Marker::Grain { sector: value, len },
        })
    }

    /// What stands in front of a compressed grain: the guest sector at which it starts, and its length in bytes.
    pub fn grain(sector: u64, len: u32) -> [u8; GRAIN_MARKER as usize] {
        let mut bytes = [0; GRAIN_MARKER as usize];
        bytes[..8].copy_from_slice(&sector.to_le_bytes());
        bytes[8..].copy_from_slice(&len.to_le_bytes());
        bytes
    }

    /// The sector of a marker for metadata of `sectors` sectors: type 1 a grain table, 2 the directory, 3 the footer.
    pub fn metadata(kind: u32, sectors: u64) -> [u8; SECTOR as usize] {
        let raw = Raw {
            value: sectors.into(),
            size: 0.into(),
            kind: kind.into(),
        };
        let mut sector = [0; SECTOR as usize];
        sector[..HEAD].copy_from_slice(raw.as_bytes());
        sector
    }
}
