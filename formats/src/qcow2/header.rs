//! The header: the first 72 bytes (version 2), 104 or 112 bytes (version 3) of the file.

use zerocopy::byteorder::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::features::{self, COMPRESSION_TYPE, EXTENDED_L2, EXTERNAL_DATA, RAW_EXTERNAL};
use crate::codec::Codec;
use crate::error::{Error, Result};

/// What a qcow2 file starts with.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Bytes of the header that both versions have.
pub const V2_LENGTH: usize = 72;
/// Bytes of the header of version 3 up to its length field, the least it may have.
const V3_LENGTH: usize = 104;
/// Bytes of the header with the compression type: what is written.
pub const FULL_LENGTH: usize = 112;

/// The encryption method that is read.
const LUKS: u32 = 2;

/// `log2` of the cluster sizes that are read: 512 bytes to 2 MiB, as in QEMU.
pub const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// Extended L2 entries need subclusters of at least a sector (qcow2 spec, "Extended L2 Entries").
pub const EXTENDED_L2_CLUSTER_BITS: u32 = 14;
/// Most bytes that a backing file name has (qcow2 spec, "Header").
const BACKING_NAME_MAX: u32 = 1023;
/// Most bytes that an L1 table has: a limit of QEMU, and with it of everybody.
pub const L1_MAX_BYTES: u64 = 32 << 20;
/// Most bytes that a refcount table has: a limit of QEMU.
pub const REFCOUNT_TABLE_MAX_BYTES: u64 = 8 << 20;
/// `log2` of the refcount width in version 2, and of what is written: 16 bits.
pub const REFCOUNT_ORDER: u32 = 4;

/// The fields of both versions as they stand on disk.
#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct CommonFields {
    magic: [u8; 4],
    version: U32,
    backing_name_offset: U64,
    backing_name_length: U32,
    cluster_bits: U32,
    size: U64,
    crypt_method: U32,
    l1_entries: U32,
    l1_offset: U64,
    refcount_table_offset: U64,
    refcount_table_clusters: U32,
    snapshots: U32,
    snapshots_offset: U64,
}

/// What version 3 added, as it stands on disk at byte 72.
#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Version3Fields {
    incompatible: U64,
    compatible: U64,
    autoclear: U64,
    refcount_order: U32,
    header_length: U32,
}

/// What stands at byte 104 when the header is longer than that.
#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct CompressionFields {
    compression_type: u8,
    padding: [u8; 7],
}

/// A header whose fields were checked against each other; [`super::layer`] holds them against the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// File offset and length in bytes (1 to 1023) of the backing file's name, inside cluster 0.
    pub backing_name: Option<(u64, u32)>,
    /// `log2` of the cluster size, 9 to 21.
    pub cluster_bits: u32,
    /// Guest-visible size in bytes, any value that the L1 table can map.
    pub size: u64,
    /// Whether the data clusters are encrypted with LUKS.
    pub encrypted: bool,
    /// Entries of the active L1 table: at least as many as `size` needs, at most 4 Mi.
    pub l1_entries: u32,
    /// File offset of the active L1 table, a multiple of the cluster size.
    pub l1_offset: u64,
    /// File offset of the refcount table, a multiple of the cluster size.
    pub refcount_table_offset: u64,
    /// Clusters of the refcount table, at most 8 MiB of them.
    pub refcount_table_clusters: u32,
    /// Number of internal snapshots.
    pub snapshots: u32,
    /// File offset of the snapshot table. It is not checked: most readers have no use for it.
    pub snapshots_offset: u64,
    /// Feature bits that a reader must know; all of them are.
    pub incompatible: u64,
    /// Feature bits that may be ignored.
    pub compatible: u64,
    /// Feature bits that a writer clears when it does not know them.
    pub autoclear: u64,
    /// `log2` of the bits of a refcount, 0 to 6.
    pub refcount_order: u32,
    /// Bytes of the header: where the extensions start.
    pub header_length: u32,
    /// What compressed clusters are packed with.
    pub codec: Codec,
}

/// Whether `first`, the first bytes of a file, are those of a qcow2 of version 2 or later, even of one that is cut off.
pub fn recognises(first: &[u8]) -> bool {
    first.starts_with(&MAGIC) && first.get(4..8) != Some(&[0, 0, 0, 1])
}

impl Header {
    /// Takes the header from the first bytes of a file, [`FULL_LENGTH`] of them where the file has as many.
    ///
    /// Incompatible features are taken as they are: what an unknown one is called stands behind the header. All other
    /// checks are made here.
    ///
    /// # Errors
    /// `Truncated`, `Malformed`; `Unsupported` for other versions, unknown encryption and compression; `Limit` for
    /// tables larger than anybody writes.
    pub fn parse(first: &[u8]) -> Result<Header> {
        let (fields, rest) = CommonFields::read_from_prefix(first).map_err(|_| cut())?;
        if fields.magic != MAGIC {
            return Err(Error::malformed("header", "has no qcow2 magic")
                .at(0)
                .found(format!("{:02x?}", fields.magic))
                .expected("\"QFI\\xfb\""));
        }
        let v3 = match fields.version.get() {
            2 => None,
            3 => {
                let (v3, rest) = Version3Fields::read_from_prefix(rest).map_err(|_| cut())?;
                Some((v3, rest))
            }
            other => return Err(unsupported_version(other)),
        };
        let encrypted = is_encrypted(fields.crypt_method.get())?;
        let cluster_bits = check_cluster_bits(fields.cluster_bits.get())?;
        let mut header = Header {
            version: fields.version.get(),
            backing_name: None,
            cluster_bits,
            size: fields.size.get(),
            encrypted,
            l1_entries: fields.l1_entries.get(),
            l1_offset: fields.l1_offset.get(),
            refcount_table_offset: fields.refcount_table_offset.get(),
            refcount_table_clusters: fields.refcount_table_clusters.get(),
            snapshots: fields.snapshots.get(),
            snapshots_offset: fields.snapshots_offset.get(),
            incompatible: 0,
            compatible: 0,
            autoclear: 0,
            refcount_order: REFCOUNT_ORDER,
            header_length: V2_LENGTH as u32,
            codec: Codec::Deflate,
        };
        if let Some((v3, rest)) = v3 {
            header.take_version3(&v3, rest)?;
        }
        header.take_backing_name(&fields)?;
        header.check_features()?;
        header.check_tables()?;
        Ok(header)
    }

    /// Bytes of a cluster.
    pub fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Whether all incompatible features in `bits` are set.
    pub fn has(&self, bits: u64) -> bool {
        self.incompatible & bits == bits
    }

    /// Bytes of an L2 entry: 8, or 16 with subclusters.
    pub fn l2_entry_size(&self) -> u64 {
        if self.has(EXTENDED_L2) { 16 } else { 8 }
    }

    /// Guest bytes that one L1 entry maps.
    pub fn l1_coverage(&self) -> u64 {
        self.cluster_size() * (self.cluster_size() / self.l2_entry_size())
    }

    /// L1 entries that the disk needs; what the table has beyond them is the state of a VM, never disk data.
    pub fn l1_entries_needed(&self) -> u64 {
        self.size.div_ceil(self.l1_coverage())
    }

    /// Bytes of the refcount table.
    pub fn refcount_table_bytes(&self) -> u64 {
        u64::from(self.refcount_table_clusters) << self.cluster_bits
    }

    /// The header as it stands on disk.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (backing_offset, backing_length) = self.backing_name.unwrap_or((0, 0));
        let common = CommonFields {
            magic: MAGIC,
            version: self.version.into(),
            backing_name_offset: backing_offset.into(),
            backing_name_length: backing_length.into(),
            cluster_bits: self.cluster_bits.into(),
            size: self.size.into(),
            crypt_method: if self.encrypted { LUKS } else { 0 }.into(),
            l1_entries: self.l1_entries.into(),
            l1_offset: self.l1_offset.into(),
            refcount_table_offset: self.refcount_table_offset.into(),
            refcount_table_clusters: self.refcount_table_clusters.into(),
            snapshots: self.snapshots.into(),
            snapshots_offset: self.snapshots_offset.into(),
        };
        let v3 = Version3Fields {
            incompatible: self.incompatible.into(),
            compatible: self.compatible.into(),
            autoclear: self.autoclear.into(),
            refcount_order: self.refcount_order.into(),
            header_length: (FULL_LENGTH as u32).into(),
        };
        let compression = CompressionFields {
            compression_type: u8::from(self.codec == Codec::Zstd),
            padding: [0; 7],
        };
        let mut bytes = common.as_bytes().to_vec();
        if self.version >= 3 {
            bytes.extend(v3.as_bytes());
            bytes.extend(compression.as_bytes());
        }
        bytes
    }

    fn take_version3(&mut self, v3: &Version3Fields, rest: &[u8]) -> Result<()> {
        self.incompatible = v3.incompatible.get();
        self.compatible = v3.compatible.get();
        self.autoclear = v3.autoclear.get();
        self.refcount_order = v3.refcount_order.get();
        self.header_length = v3.header_length.get();
        if self.refcount_order > 6 {
            return Err(Error::malformed("header", "the refcount order is too high")
                .at(96)
                .found(self.refcount_order)
                .expected("0 to 6"));
        }
        let length = u64::from(self.header_length);
        if length < V3_LENGTH as u64 || length > self.cluster_size() || length % 8 != 0 {
            return Err(Error::malformed("header", "has an impossible length")
                .at(100)
                .found(length)
                .expected(format!(
                    "a multiple of 8 from {V3_LENGTH} to {}",
                    self.cluster_size()
                )));
        }
        if length > V3_LENGTH as u64 {
            let (fields, _) = CompressionFields::read_from_prefix(rest).map_err(|_| cut())?;
            self.codec = codec(fields.compression_type)?;
        }
        Ok(())
    }

    fn take_backing_name(&mut self, fields: &CommonFields) -> Result<()> {
        let (offset, length) = (
            fields.backing_name_offset.get(),
            fields.backing_name_length.get(),
        );
        if offset == 0 || length == 0 {
            return Ok(());
        }
        if length > BACKING_NAME_MAX {
            return Err(Error::malformed("backing file name", "is too long")
                .at(16)
                .found(length)
                .expected(format!("at most {BACKING_NAME_MAX} bytes")));
        }
        let end = offset.checked_add(length.into());
        let inside = end.is_some_and(|end| end <= self.cluster_size());
        if offset < self.header_length.into() || !inside {
            return Err(Error::malformed(
                "backing file name",
                "is not behind the header in cluster 0",
            )
            .at(8)
            .found(format!("{length} bytes at offset {offset}")));
        }
        self.backing_name = Some((offset, length));
        Ok(())
    }

    fn check_features(&self) -> Result<()> {
        // With a feature that nobody here knows, what the other fields mean is unknown too.
        if features::unreadable(self.incompatible) != 0 {
            return Ok(());
        }
        let wrong = if self.has(EXTENDED_L2) && self.cluster_bits < EXTENDED_L2_CLUSTER_BITS {
            "clusters below 16 KiB cannot have extended L2 entries"
        } else if self.has(COMPRESSION_TYPE) != (self.codec != Codec::Deflate) {
            "the compression type contradicts its feature bit"
        } else if self.has(EXTERNAL_DATA)
            && self.autoclear & RAW_EXTERNAL != 0
            && self.backing_name.is_some()
        {
            "a raw external data file excludes a backing file"
        } else {
            return Ok(());
        };
        Err(Error::malformed("header", wrong)
            .at(72)
            .found(format!("incompatible features {:#x}", self.incompatible)))
    }

    /// Fails when the tables cannot be where the header says, or are too small or too large.
    ///
    /// # Errors
    /// `Malformed`, `Limit`.
    pub fn check_tables(&self) -> Result<()> {
        if features::unreadable(self.incompatible) != 0 {
            return Ok(());
        }
        let needed = self.l1_entries_needed();
        let most = L1_MAX_BYTES / 8;
        if needed > most || u64::from(self.l1_entries) > most {
            return Err(Error::limit("L1 table", "is larger than 32 MiB")
                .at(36)
                .found(format!("{} entries", needed.max(self.l1_entries.into())))
                .expected(format!("at most {most}")));
        }
        if u64::from(self.l1_entries) < needed {
            return Err(Error::malformed("L1 table", "is too small for the disk")
                .at(36)
                .found(format!("{} entries", self.l1_entries))
                .expected(format!("at least {needed}")));
        }
        if self.refcount_table_bytes() > REFCOUNT_TABLE_MAX_BYTES {
            return Err(Error::limit("refcount table", "is larger than 8 MiB")
                .at(56)
                .found(format!("{} bytes", self.refcount_table_bytes())));
        }
        for (name, at, offset) in [
            ("L1 table", 40, self.l1_offset),
            ("refcount table", 48, self.refcount_table_offset),
        ] {
            if !offset.is_multiple_of(self.cluster_size()) {
                return Err(Error::malformed(name, "does not start with a cluster")
                    .at(at)
                    .found(format!("offset {offset}"))
                    .expected(format!("a multiple of {}", self.cluster_size())));
            }
        }
        Ok(())
    }
}

fn cut() -> Error {
    Error::truncated("header", "the file ends inside it").at(0)
}

fn unsupported_version(version: u32) -> Error {
    Error::unsupported("header", format!("qcow version {version} is not supported"))
        .at(4)
        .found(version)
        .expected("2 or 3")
}

fn is_encrypted(method: u32) -> Result<bool> {
    let name = match method {
        0 => return Ok(false),
        LUKS => return Ok(true),
        // It has no way to tell a wrong passphrase from the right one.
        1 => "the old AES encryption is not supported",
        _ => "an unknown encryption method is not supported",
    };
    Err(Error::unsupported("header", name)
        .at(32)
        .found(format!("encryption method {method}")))
}

fn check_cluster_bits(bits: u32) -> Result<u32> {
    if CLUSTER_BITS.contains(&bits) {
        return Ok(bits);
    }
    let (from, to) = (CLUSTER_BITS.start(), CLUSTER_BITS.end());
    Err(Error::malformed("header", "has an impossible cluster size")
        .at(20)
        .found(format!("cluster_bits {bits}"))
        .expected(format!("{from} to {to}")))
}

fn codec(compression_type: u8) -> Result<Codec> {
    match compression_type {
        0 => Ok(Codec::Deflate),
        1 => Ok(Codec::Zstd),
        other => Err(
            Error::unsupported("header", "an unknown compression type is not supported")
                .at(V3_LENGTH as u64)
                .found(other)
                .expected("0 (deflate) or 1 (zstd)"),
        ),
    }
}

#[cfg(test)]
#[path = "header_tests.rs"]
pub(super) mod tests;
