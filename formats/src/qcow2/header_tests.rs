use super::*;
use crate::ErrorKind;

pub fn sample() -> Header {
    Header {
        version: 3,
        backing_name: None,
        cluster_bits: 16,
        size: 1 << 30,
        encrypted: false,
        l1_entries: 2,
        l1_offset: 0x30000,
        refcount_table_offset: 0x10000,
        refcount_table_clusters: 1,
        snapshots: 0,
        snapshots_offset: 0,
        incompatible: 0,
        compatible: 0,
        autoclear: 0,
        refcount_order: 4,
        header_length: 112,
        codec: Codec::Deflate,
    }
}

fn patched(at: usize, bytes: &[u8]) -> Result<Header> {
    let mut header = sample().to_bytes();
    header[at..at + bytes.len()].copy_from_slice(bytes);
    Header::parse(&header)
}

fn kind(at: usize, bytes: &[u8]) -> ErrorKind {
    patched(at, bytes).unwrap_err().kind()
}

#[test]
fn a_header_survives_the_disk() {
    let mut header = sample();
    assert_eq!(Header::parse(&header.to_bytes()).unwrap(), header);
    header.codec = Codec::Zstd;
    header.incompatible = COMPRESSION_TYPE | EXTENDED_L2;
    header.l1_entries = 4;
    header.backing_name = Some((600, 5));
    assert_eq!(Header::parse(&header.to_bytes()).unwrap(), header);
}

#[test]
fn version_2_has_no_feature_fields() {
    let header = patched(4, &2u32.to_be_bytes()).unwrap();
    assert_eq!((header.version, header.header_length), (2, 72));
    let mut bytes = sample().to_bytes();
    bytes[4..8].copy_from_slice(&2u32.to_be_bytes());
    bytes[72..].fill(0xff);
    let header = Header::parse(&bytes).unwrap();
    assert_eq!((header.incompatible, header.refcount_order), (0, 4));
    assert!(Header::parse(&bytes[..72]).is_ok());
}

#[test]
fn a_header_that_is_cut_off_is_truncated() {
    let bytes = sample().to_bytes();
    for len in [0, 3, 71, 72, 103, 104, 111] {
        let error = Header::parse(&bytes[..len]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Truncated, "{len}");
    }
}

#[test]
fn encryption_other_than_luks_is_refused_by_name() {
    assert!(patched(32, &2u32.to_be_bytes()).unwrap().encrypted);
    for (method, name) in [(1u32, "AES"), (3, "unknown encryption")] {
        let error = patched(32, &method.to_be_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn other_versions_are_unsupported() {
    for version in [0u32, 1, 4, u32::MAX] {
        assert_eq!(kind(4, &version.to_be_bytes()), ErrorKind::Unsupported);
    }
    let mut bytes = sample().to_bytes();
    assert!(recognises(&bytes));
    bytes[7] = 1;
    assert!(!recognises(&bytes));
    assert!(!recognises(&bytes[..50]));
    assert!(recognises(b"QFI\xfb"), "cut, but no raw disk");
    assert!(!recognises(b"QFI"));
}

#[test]
fn impossible_fields_are_malformed() {
    let u32 = |n: u32| n.to_be_bytes();
    assert_eq!(kind(0, b"QFI\xfa"), ErrorKind::Malformed);
    assert_eq!(kind(20, &u32(8)), ErrorKind::Malformed);
    assert_eq!(kind(20, &u32(22)), ErrorKind::Malformed);
    assert_eq!(kind(20, &u32(u32::MAX)), ErrorKind::Malformed);
    assert_eq!(kind(96, &u32(7)), ErrorKind::Malformed);
    for length in [0, 96, 103, 106, 65544, u32::MAX] {
        assert_eq!(kind(100, &u32(length)), ErrorKind::Malformed, "{length}");
    }
    assert_eq!(kind(104, &[2]), ErrorKind::Unsupported);
    // zstd without its bit, and the bit without zstd.
    assert_eq!(kind(104, &[1]), ErrorKind::Malformed);
    assert_eq!(kind(79, &[8]), ErrorKind::Malformed);
}

#[test]
fn tables_of_impossible_size_are_refused() {
    assert_eq!(kind(36, &1u32.to_be_bytes()), ErrorKind::Malformed);
    assert_eq!(kind(36, &0x40_0001u32.to_be_bytes()), ErrorKind::Limit);
    assert_eq!(kind(24, &u64::MAX.to_be_bytes()), ErrorKind::Limit);
    assert_eq!(kind(56, &129u32.to_be_bytes()), ErrorKind::Limit);
    assert_eq!(kind(56, &u32::MAX.to_be_bytes()), ErrorKind::Limit);
    assert_eq!(kind(40, &0x30200u64.to_be_bytes()), ErrorKind::Malformed);
    assert_eq!(kind(48, &0x10001u64.to_be_bytes()), ErrorKind::Malformed);
}

#[test]
fn a_backing_name_outside_cluster_0_is_malformed() {
    for (offset, length) in [
        (40u64, 4u32),
        (65530, 10),
        (u64::MAX, 10),
        (200, 1024),
        (200, u32::MAX),
    ] {
        let mut bytes = sample().to_bytes();
        bytes[8..16].copy_from_slice(&offset.to_be_bytes());
        bytes[16..20].copy_from_slice(&length.to_be_bytes());
        let error = Header::parse(&bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed);
    }
}

#[test]
fn extended_l2_needs_clusters_of_16_kib() {
    let mut header = sample();
    header.incompatible = EXTENDED_L2;
    header.cluster_bits = 13;
    header.l1_entries = 1 << 10;
    assert!(Header::parse(&header.to_bytes()).is_err());
    header.cluster_bits = 14;
    assert!(Header::parse(&header.to_bytes()).is_ok());
}

#[test]
fn a_raw_data_file_excludes_a_backing_file() {
    let mut header = sample();
    header.incompatible = EXTERNAL_DATA;
    header.autoclear = RAW_EXTERNAL;
    assert!(Header::parse(&header.to_bytes()).is_ok());
    header.backing_name = Some((200, 3));
    assert!(Header::parse(&header.to_bytes()).is_err());
}
