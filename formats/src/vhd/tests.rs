//! Whole images: written and read back, and damaged ones.

use std::sync::Arc;

use super::footer::FOOTER_LEN;
use super::locator::ParentLocator;
use super::*;
use crate::ErrorKind;
use crate::open::{Image, open, open_storage};
use crate::reader::read_guest;
use crate::source::run_at;
use crate::storage::{MemoryStorage, MemoryTarget, WritableStorage};
use crate::target::Identity;

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 64 << 10;
const IDENTITY: Identity = Identity {
    id: [0x5A; 16],
    unix_time: 1_700_000_000,
};

fn target(size: u64, pairs: &[&str]) -> Result<Box<dyn BlockTarget>> {
    let pairs: Vec<String> = pairs.iter().map(|p| (*p).to_owned()).collect();
    VhdDriver.target(size, &Options::new(OPTIONS, &pairs)?)
}

/// An image of `size` bytes with each of `parts` at its offset, and zeros elsewhere.
fn written(size: u64, pairs: &[&str], parts: &[(u64, &[u8])]) -> Vec<u8> {
    let mut target = target(size, pairs).unwrap();
    let out = MemoryTarget::default();
    for (offset, bytes) in parts {
        let (mut offset, mut rest) = (*offset, *bytes);
        while !rest.is_empty() {
            let placed = target.place(offset, rest.len() as u64).unwrap();
            for table in target.take_tables() {
                out.write_at(&table.bytes, table.offset).unwrap();
            }
            let (now, later) = rest.split_at(placed.len as usize);
            out.write_at(now, placed.offset).unwrap();
            offset += placed.len;
            rest = later;
        }
    }
    let promised = target.exact_length();
    let summary = target.finish(&IDENTITY, &out).unwrap();
    let bytes = out.into_bytes();
    assert_eq!(summary.file_size, bytes.len() as u64);
    assert!(promised.is_none_or(|length| length == summary.file_size));
    bytes
}

fn small(parts: &[(u64, &[u8])]) -> Vec<u8> {
    written(4 * BLOCK, &["block_size=64k"], parts)
}

fn context(salvage: bool) -> OpenContext {
    OpenContext {
        salvage,
        ..OpenContext::default()
    }
}

fn opened(bytes: &[u8], salvage: bool) -> Result<Image> {
    let storage = Arc::new(MemoryStorage::new(bytes.to_vec()));
    open_storage(storage, Some(Format::Vhd), &context(salvage))
}

fn layer(bytes: &[u8]) -> Result<Layer> {
    VhdDriver.open(
        Arc::new(MemoryStorage::new(bytes.to_vec())),
        &OpenContext::default(),
    )
}

fn content(image: &Image) -> Vec<u8> {
    let mut out = vec![0xEE; image.source.size() as usize];
    read_guest(image.source.as_ref(), 0, &mut out).unwrap();
    out
}

fn kind(bytes: &[u8]) -> ErrorKind {
    opened(bytes, false).err().expect("an error").kind()
}

fn warnings(image: &Image) -> usize {
    image.layers[0].info.warnings.len()
}

/// Replaces bytes of both copies of the footer, checksums made right.
fn patch_footers(image: &mut [u8], at: usize, bytes: &[u8]) {
    let len = image.len();
    for start in [0, len - 512] {
        let footer = image[start..start + 512].try_into().unwrap();
        image[start..start + 512].copy_from_slice(&footer::patched(footer, at, bytes));
    }
}

fn patch_header(image: &mut [u8], at: usize, bytes: &[u8]) {
    let header = image[512..1536].try_into().unwrap();
    image[512..1536].copy_from_slice(&dynamic_header::patched(header, at, bytes));
}

/// Turns a dynamic image into a differencing one with a parent of the id `parent` and a relative locator.
fn made_differencing(image: &mut Vec<u8>, parent: [u8; 16], name: &str) {
    let footer: Vec<u8> = image[image.len() - 512..].to_vec();
    image.truncate(image.len() - 512);
    let data: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let locator = ParentLocator {
        code: *b"W2ru",
        data_space: 512,
        data_length: data.len() as u32,
        data_offset: image.len() as u64,
    };
    image.extend(&data);
    image.resize(image.len().next_multiple_of(512), 0);
    image.extend(footer);
    patch_footers(image, 60, &4u32.to_be_bytes());
    let mut header = DynamicHeader::parse(image[512..1536].try_into().unwrap(), 512).unwrap();
    header.parent_id = parent;
    header.locators[0] = locator;
    image[512..1536].copy_from_slice(&header.to_bytes());
}

/// The kind of every run: `S`tored, `Z`ero or `A`bsent, and its length in sectors.
fn runs(source: &dyn crate::BlockSource) -> String {
    let mut text = Vec::new();
    let mut offset = 0;
    while offset < source.size() {
        let run = run_at(source, offset, u64::MAX).unwrap();
        let letter = match run.mapping {
            Mapping::Stored { .. } => 'S',
            Mapping::Zero => 'Z',
            Mapping::Absent => 'A',
            Mapping::Packed { .. } => 'P',
        };
        text.push(format!("{letter}{}", run.len / 512));
        offset += run.len;
    }
    text.join(" ")
}

#[test]
fn what_was_written_is_read_back() {
    let half: Vec<u8> = (0..BLOCK as usize / 2).map(|i| i as u8 | 1).collect();
    let parts: &[(u64, &[u8])] = &[
        (512, &[1; 512]),
        (BLOCK - 512, &half),
        (3 * BLOCK, &[2; 100]),
    ];
    for pairs in [&["block_size=64k"][..], &[], &["subformat=fixed"]] {
        let size = 4 * BLOCK - 512;
        let mut expected = vec![0; size as usize];
        for (offset, bytes) in parts {
            let at = *offset as usize;
            expected[at..at + bytes.len()].copy_from_slice(bytes);
        }
        let image = opened(&written(size, pairs, parts), false).unwrap();
        assert!(content(&image) == expected, "{pairs:?}");
        assert_eq!(warnings(&image), 0, "{:?}", image.layers[0].info.warnings);
        assert_eq!(
            image.layers[0].info.identity,
            Some(Uuid::from_bytes(IDENTITY.id))
        );
    }
}

#[test]
fn data_of_every_block_starts_on_a_page() {
    for block_size in ["64k", "128k", "256k", "512k", "1M", "2M"] {
        let option = format!("block_size={block_size}");
        let mut target = target(64 * MIB, &[&option]).unwrap();
        let block = target.block_size();
        for index in [0, 3, 4] {
            let placed = target.place(index * block + 512, u64::MAX).unwrap();
            assert_eq!(placed.offset % 4096, 512);
            assert_eq!(placed.len, block - 512);
            let tables = target.take_tables();
            assert_eq!(tables.len(), 1);
            assert_eq!(tables[0].offset + 4096 + 512, placed.offset);
            let set: u32 = tables[0].bytes.iter().map(|b| b.count_ones()).sum();
            assert_eq!(u64::from(set), block / 512);
            assert!(tables[0].bytes[..3584].iter().all(|b| *b == 0));
            let again = target.place(index * block + 1024, 512).unwrap();
            assert_eq!(again.offset, placed.offset + 512);
            assert!(target.take_tables().is_empty());
        }
        assert!(target.place(64 * MIB, 512).is_err());
    }
}

#[test]
fn blocks_and_end_footer_stand_where_they_must() {
    let bytes = small(&[(0, &[1; 512]), (3 * BLOCK, &[1; 512])]);
    assert_eq!(bytes.len() as u64, 4096 + 2 * (4096 + BLOCK) + 512);
    let empty = small(&[]);
    assert_eq!(empty.len(), 2048 + 512);
    assert_eq!(empty[..512], empty[2048..]);
    // Sixteen bytes of entries, then padding.
    assert!(empty[1536..2048].iter().all(|b| *b == 0xFF));
}

#[test]
fn sizes_are_rounded_up_to_sectors() {
    assert_eq!(target(1, &[]).unwrap().size(), 512);
    assert_eq!(target(10 * MIB + 1, &[]).unwrap().size(), 10 * MIB + 512);
    let fixed = target(10 * MIB, &["subformat=fixed"]).unwrap();
    assert!(fixed.is_sequential());
    assert_eq!(fixed.exact_length(), Some(10 * MIB + 512));
}

#[test]
fn what_the_format_cannot_hold_is_refused_before_writing() {
    let kind = |size, pairs: &[&str]| target(size, pairs).err().expect("an error").kind();
    target(2040 << 30, &[]).unwrap();
    target(2040 << 30, &["subformat=fixed"]).unwrap();
    target(2040 << 30, &["block_size=1M"]).unwrap();
    assert_eq!(kind((2040 << 30) + 1, &[]), ErrorKind::Limit);
    assert_eq!(kind(u64::MAX, &["subformat=fixed"]), ErrorKind::Limit);
    assert_eq!(kind(2040 << 30, &["block_size=128k"]), ErrorKind::Limit);
    assert_eq!(kind(1024 << 30, &["block_size=64k"]), ErrorKind::Limit);
    assert_eq!(kind(0, &[]), ErrorKind::Unsupported);
    for block_size in ["32k", "4M", "96k", "0", "x"] {
        let option = format!("block_size={block_size}");
        assert_eq!(kind(MIB, &[&option]), ErrorKind::Usage, "{block_size}");
    }
    assert_eq!(
        kind(MIB, &["subformat=fixed", "block_size=2M"]),
        ErrorKind::Usage
    );
}

#[test]
fn clear_bit_in_a_dynamic_block_reads_zero() {
    let mut bytes = small(&[(0, &[1; BLOCK as usize])]);
    // The bitmap of the first block stands right in front of its data.
    bytes[8192 - 512] = 0b1011_1111;
    bytes[8192 - 510] = 0;
    let image = opened(&bytes, false).unwrap();
    assert_eq!(runs(image.source.as_ref()), "S1 Z1 S14 Z8 S104 Z384");
    assert!(content(&image)[512..1024].iter().all(|b| *b == 0));
}

#[test]
fn clear_bit_in_a_differencing_block_is_absent() {
    let mut bytes = small(&[(BLOCK, &[1; BLOCK as usize])]);
    bytes[8192 - 512] = 0b0000_1111;
    made_differencing(&mut bytes, [9; 16], ".\\base.vhd");
    let layer = layer(&bytes).unwrap();
    assert_eq!(runs(layer.source.as_ref()), "A128 A4 S124 A256");
    let parent = layer.parent.unwrap();
    assert_eq!(parent.names, ["base.vhd"]);
    assert_eq!(parent.identity, Some(Uuid::from_bytes([9; 16])));
    assert_eq!(parent.format, Some(Format::Vhd));
}

#[test]
fn a_run_may_start_and_end_inside_a_sector() {
    let image = opened(&small(&[(0, &[1; 512])]), false).unwrap();
    let run = run_at(image.source.as_ref(), 100, 50).unwrap();
    assert_eq!(run.len, 50);
    assert!(matches!(run.mapping, Mapping::Stored { offset, .. } if offset == 8192 + 100));
    let run = run_at(image.source.as_ref(), BLOCK + 1, u64::MAX).unwrap();
    assert_eq!(run.len, 3 * BLOCK - 1);
}

#[test]
fn old_xen_bitmaps_are_read_lowest_bit_first() {
    let mut bytes = small(&[(0, &[1; BLOCK as usize])]);
    patch_footers(&mut bytes, 28, b"tap\0\0\0\0\x01");
    bytes[8192 - 512] = 0b1111_1110;
    let image = opened(&bytes, false).unwrap();
    assert_eq!(runs(image.source.as_ref()), "Z1 S127 Z384");
}

#[test]
fn a_child_is_read_over_its_parent() {
    let folder = tempfile::tempdir().unwrap();
    let base = written(
        3 * BLOCK,
        &["subformat=fixed"],
        &[(0, &[7; 3 * BLOCK as usize])],
    );
    std::fs::write(folder.path().join("base.vhd"), &base).unwrap();
    let mut child = small(&[(BLOCK, &[1; BLOCK as usize])]);
    child[8192 - 512] = 0;
    made_differencing(&mut child, IDENTITY.id, "C:\\vm\\base.vhd");
    let path = folder.path().join("child.vhd");
    std::fs::write(&path, &child).unwrap();
    let image = open(&path, None, &OpenContext::default()).unwrap();
    let read = content(&image);
    let at = |sector: usize| read[sector * 512];
    // The parent, the child's block with eight sectors of the parent, the parent, past its end.
    assert_eq!(
        [at(0), at(128), at(135), at(136), at(256), at(384), at(511)],
        [7, 7, 7, 1, 7, 0, 0]
    );
    made_differencing(&mut child, [1; 16], "base.vhd");
    std::fs::write(&path, &child).unwrap();
    let wrong = open(&path, None, &OpenContext::default());
    assert_eq!(wrong.err().unwrap().kind(), ErrorKind::Malformed);
    std::fs::remove_file(folder.path().join("base.vhd")).unwrap();
    assert!(open(&path, None, &OpenContext::default()).is_err());
}

#[test]
fn a_parent_without_an_id_is_raw() {
    let mut bytes = small(&[]);
    made_differencing(&mut bytes, [0; 16], ".\\base.img");
    let layer = layer(&bytes).unwrap();
    assert_eq!(layer.info.warnings.len(), 1);
    let parent = layer.parent.unwrap();
    assert_eq!((parent.format, parent.identity), (Some(Format::Raw), None));
}

#[test]
fn a_differencing_disk_without_a_parents_name_is_an_error() {
    let mut bytes = small(&[]);
    patch_footers(&mut bytes, 60, &4u32.to_be_bytes());
    assert_eq!(kind(&bytes), ErrorKind::Malformed);
}

#[test]
fn short_footer_is_read() {
    for pairs in [&["block_size=64k"][..], &["subformat=fixed"]] {
        let mut bytes = written(4 * BLOCK, pairs, &[(0, &[1; 512])]);
        bytes.pop();
        let image = open_storage(
            Arc::new(MemoryStorage::new(bytes)),
            None,
            &OpenContext::default(),
        )
        .unwrap();
        assert_eq!(image.layers[0].info.format, Format::Vhd);
        assert_eq!(warnings(&image), 0);
        assert_eq!(content(&image)[..512], [1; 512]);
    }
}

#[test]
fn a_damaged_end_footer_falls_back_to_the_copy() {
    let mut bytes = small(&[(0, &[1; 512])]);
    let last = bytes.len() - 1;
    bytes[last] = 1;
    let image = opened(&bytes, false).unwrap();
    assert_eq!(warnings(&image), 1);
    assert_eq!(content(&image)[..512], [1; 512]);
    bytes[100] = 1;
    assert_eq!(kind(&bytes), ErrorKind::Malformed);
    assert_eq!(warnings(&opened(&bytes, true).unwrap()), 1);
}

#[test]
fn a_damaged_copy_is_only_a_warning() {
    let mut bytes = small(&[(0, &[1; 512])]);
    bytes[0] = 0;
    assert_eq!(warnings(&opened(&bytes, false).unwrap()), 1);
}

#[test]
fn a_file_that_is_cut_off_is_truncated() {
    let bytes = small(&[(0, &[1; 512]), (BLOCK, &[1; 512])]);
    for cut in [1, 2, 511, 512, 4096, 70000, 100_000] {
        let cut_off = &bytes[..bytes.len() - cut];
        if cut == 1 {
            // All but the last byte is a short footer.
            opened(cut_off, false).unwrap();
            continue;
        }
        assert_eq!(kind(cut_off), ErrorKind::Truncated, "{cut}");
    }
    let image = opened(&bytes[..bytes.len() - 70000], true).unwrap();
    assert_eq!(warnings(&image), 2);
    let mut sector = [0; 512];
    read_guest(image.source.as_ref(), 0, &mut sector).unwrap();
    assert_eq!(sector, [1; 512]);
    let lost = read_guest(image.source.as_ref(), BLOCK, &mut sector);
    assert_eq!(lost.unwrap_err().kind(), ErrorKind::Truncated);
}

#[test]
fn a_fixed_disk_with_a_bad_checksum_is_malformed() {
    let mut bytes = written(BLOCK, &["subformat=fixed"], &[(0, &[1; 512])]);
    let last = bytes.len() - 1;
    bytes[last] = 1;
    assert_eq!(kind(&bytes), ErrorKind::Malformed);
    let image = opened(&bytes, true).unwrap();
    assert_eq!((warnings(&image), content(&image)[0]), (1, 1));
}

#[test]
fn a_guest_cannot_pass_off_its_first_sector_as_the_footer() {
    let inner = small(&[]);
    let mut bytes = written(BLOCK, &["subformat=fixed"], &[(0, &inner)]);
    assert_eq!(content(&opened(&bytes, false).unwrap())[..2560], inner);
    let last = bytes.len() - 1;
    bytes[last] = 1;
    assert_eq!(kind(&bytes), ErrorKind::Malformed);
    assert_eq!(content(&opened(&bytes, true).unwrap())[..2560], inner);
}

#[test]
fn a_fixed_disk_shorter_than_its_size_is_truncated_and_a_longer_one_is_told() {
    let bytes = written(BLOCK, &["subformat=fixed"], &[(0, &[1; 512])]);
    assert_eq!(kind(&bytes[512..]), ErrorKind::Truncated);
    let longer = [
        &bytes[..BLOCK as usize],
        &[0; 512],
        &bytes[BLOCK as usize..],
    ]
    .concat();
    let image = opened(&longer, false).unwrap();
    assert_eq!((warnings(&image), image.source.size()), (1, BLOCK));
}

#[test]
fn raw_bytes_that_contain_the_cookie_are_no_vhd() {
    let recognised = |bytes: Vec<u8>| {
        let head = Head::read(&MemoryStorage::new(bytes)).unwrap();
        VhdDriver.recognises(&head)
    };
    let mut raw = vec![0; 4096];
    raw[4096 - 512..4096 - 504].copy_from_slice(b"conectix");
    assert!(!recognised(raw.clone()));
    raw[4096 - 512..4096 - 504].copy_from_slice(b"v_poison");
    assert!(!recognised(raw));
    assert!(recognised(written(BLOCK, &["subformat=fixed"], &[])));
    assert!(recognised(small(&[])));
    for len in [0, 7, 8, 511] {
        assert!(!recognised(vec![0; len]));
    }
}

#[test]
fn a_poisoned_image_is_refused_by_name() {
    for pairs in [&["block_size=64k"][..], &["subformat=fixed"]] {
        let mut bytes = written(4 * BLOCK, pairs, &[]);
        let end = bytes.len() - 512;
        bytes[end..end + 8].copy_from_slice(b"v_poison");
        let storage: StorageRef = Arc::new(MemoryStorage::new(bytes));
        assert!(VhdDriver.recognises(&Head::read(storage.as_ref()).unwrap()));
        let error = open_storage(storage, None, &OpenContext::default())
            .err()
            .unwrap();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.to_string().contains("v_poison"));
    }
}

#[test]
fn a_bad_header_checksum_is_read_on_request_only() {
    let mut bytes = small(&[(0, &[1; 512])]);
    bytes[1500] = 1;
    assert_eq!(kind(&bytes), ErrorKind::Malformed);
    let image = opened(&bytes, true).unwrap();
    assert_eq!((warnings(&image), content(&image)[0]), (1, 1));
}

#[test]
fn a_header_in_an_impossible_place_is_an_error() {
    for (offset, expected) in [
        (0u64, ErrorKind::Malformed),
        (513, ErrorKind::Malformed),
        (1 << 40, ErrorKind::Truncated),
        (u64::MAX - 511, ErrorKind::Truncated),
        (u64::MAX, ErrorKind::Malformed),
        (1024, ErrorKind::Malformed),
    ] {
        let mut bytes = small(&[(0, &[1; 512])]);
        patch_footers(&mut bytes, 16, &offset.to_be_bytes());
        assert_eq!(kind(&bytes), expected, "{offset}");
    }
}

#[test]
fn a_bat_in_an_impossible_place_is_an_error() {
    for (offset, expected) in [
        (0u64, ErrorKind::Malformed),
        (1024, ErrorKind::Malformed),
        (1 << 40, ErrorKind::Truncated),
        (u64::MAX - 511, ErrorKind::Truncated),
    ] {
        let mut bytes = small(&[(0, &[1; 512])]);
        patch_header(&mut bytes, 16, &offset.to_be_bytes());
        assert_eq!(kind(&bytes), expected, "{offset}");
    }
}

#[test]
fn an_empty_disk_of_2040_gib_is_one_run() {
    let image = opened(&written(2040 << 30, &[], &[]), false).unwrap();
    assert_eq!(runs(image.source.as_ref()), format!("Z{}", 2040u64 << 21));
}

#[test]
fn the_current_size_counts() {
    let mut bytes = small(&[]);
    patch_footers(&mut bytes, 40, &(64 * MIB).to_be_bytes());
    let image = opened(&bytes, false).unwrap();
    assert_eq!((image.source.size(), warnings(&image)), (4 * BLOCK, 0));
    // Virtual PC goes by the geometry.
    patch_footers(&mut bytes, 28, b"vpc ");
    let image = opened(&bytes, false).unwrap();
    assert_eq!((image.source.size(), warnings(&image)), (4 * BLOCK, 1));
}

#[test]
fn a_saved_state_is_told() {
    let mut bytes = small(&[]);
    patch_footers(&mut bytes, 84, &[1]);
    assert_eq!(warnings(&opened(&bytes, false).unwrap()), 1);
}

#[test]
fn no_cut_and_no_flipped_byte_makes_it_panic() {
    let bytes = small(&[(0, &[1; 512]), (BLOCK, &[1; 512])]);
    for salvage in [false, true] {
        for len in (0..bytes.len()).step_by(509) {
            let _ = opened(&bytes[..len], salvage);
        }
        for at in (0..1600).chain(bytes.len() - FOOTER_LEN as usize..bytes.len()) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x81;
            if let Ok(image) = opened(&damaged, salvage)
                && image.source.size() <= MIB
            {
                let mut out = vec![0; image.source.size() as usize];
                let _ = read_guest(image.source.as_ref(), 0, &mut out);
            }
        }
    }
}
