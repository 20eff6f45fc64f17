//! Tests of the header.

use super::*;
use crate::ErrorKind;
use crate::storage::MemoryStorage;

pub fn sample() -> Header {
    Header {
        text: Header::virtualbox_text(),
        image_type: ImageType::Differencing,
        flags: 0,
        comment: [b'c'; 256],
        map_offset: 512,
        data_offset: 1024,
        disk_size: 100 * 4096 - 1,
        block_size: 4096,
        block_extra: 512,
        blocks: 100,
        allocated: 7,
        image_id: Uuid::from_u128(1),
        modification_id: Uuid::from_u128(2),
        parent_id: Uuid::from_u128(3),
        parent_modification_id: Uuid::from_u128(4),
        geometry: Some(Geometry {
            cylinders: 5,
            heads: 6,
            sectors: 7,
        }),
    }
}

#[test]
fn what_is_written_is_parsed() {
    let header = sample();
    let bytes = header.to_bytes();
    assert_eq!(Header::parse(&bytes).unwrap(), header);
    // The order of the fields is that of VirtualBox: the first group of an id has its lowest byte first.
    assert_eq!(bytes[64..72], [0x7F, 0x10, 0xDA, 0xBE, 1, 0, 1, 0]);
    assert_eq!(bytes[340..344], 512u32.to_le_bytes());
    assert_eq!(bytes[368..376], (100u64 * 4096 - 1).to_le_bytes());
    assert_eq!(bytes[388], 7);
    let id = Uuid::from_u128(0x00112233_4455_6677_8899_aabbccddeeff);
    let image_id = Header {
        image_id: id,
        ..header
    }
    .to_bytes();
    assert_eq!(
        image_id[392..400],
        [0x33, 0x22, 0x11, 0, 0x55, 0x44, 0x77, 0x66]
    );
    assert_eq!(image_id[400..402], [0x88, 0x99]);
}

#[test]
fn every_field_is_held_against_what_it_can_be() {
    let kind = |at: usize, value: &[u8]| {
        let mut bytes = sample().to_bytes();
        bytes[at..at + value.len()].copy_from_slice(value);
        Header::parse(&bytes).err().map(|error| error.kind())
    };
    let number = |at, value: u32| kind(at, &value.to_le_bytes());
    let (malformed, unsupported) = (Some(ErrorKind::Malformed), Some(ErrorKind::Unsupported));
    assert_eq!(number(64, 0xBEDA_107E), malformed);
    assert_eq!(number(68, 2), unsupported);
    assert_eq!(number(68, 0x0001_0000), unsupported);
    assert_eq!(number(68, 0x0002_0000), unsupported);
    assert_eq!(number(72, 0x17F), malformed);
    assert_eq!(number(72, 0x180), None);
    assert_eq!(number(72, u32::MAX), None);
    assert_eq!(number(76, 0), malformed);
    assert_eq!(number(76, 5), malformed);
    assert_eq!(number(340, 471), malformed);
    assert_eq!(number(340, 472), None);
    assert_eq!(number(340, 625), malformed);
    assert_eq!(number(344, 911), malformed);
    assert_eq!(number(344, u32::MAX), None);
    assert_eq!(number(360, 4096), unsupported);
    assert_eq!(number(468, 4096), unsupported);
    assert_eq!(kind(368, &u64::MAX.to_le_bytes()), malformed);
    for block_size in [0, 511, 513, 4095, u32::MAX] {
        assert_eq!(number(376, block_size), malformed, "{block_size}");
    }
    for block_size in [4608, 1 << 20, 3 << 20, 1 << 30] {
        assert_eq!(number(376, block_size), None, "{block_size}");
    }
    assert_eq!(number(384, 99), malformed);
    assert_eq!(number(384, u32::MAX), malformed);
    assert_eq!(number(388, 101), malformed);
}

#[test]
fn an_older_header_has_no_logical_geometry() {
    let mut bytes = sample().to_bytes();
    bytes[72..76].copy_from_slice(&0x180u32.to_le_bytes());
    bytes[468..472].copy_from_slice(&[0xFF; 4]);
    assert_eq!(Header::parse(&bytes).unwrap().geometry, None);
    bytes[348] = 9;
    let geometry = Header::parse(&bytes).unwrap().geometry.unwrap();
    assert_eq!(geometry.to_string(), "9/0/0");
}

#[test]
fn a_file_that_is_shorter_is_truncated() {
    let bytes = sample().to_bytes();
    let read = |len: usize| Header::read(&MemoryStorage::new(bytes[..len].to_vec()));
    assert_eq!(read(455).unwrap_err().kind(), ErrorKind::Truncated);
    // The geometry is cut off: its sector size is none.
    assert!(read(456).is_ok());
}
