//! What damaged and hostile images lead to.

use super::*;

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

#[test]
fn names_that_cannot_be_read_are_skipped_for_one_that_can() {
    let mut bytes = small(&[]);
    made_differencing(&mut bytes, [9; 16], ".\\a.vhd");
    let mut header = DynamicHeader::parse(bytes[512..1536].try_into().unwrap(), 512).unwrap();
    header.locators[1] = ParentLocator {
        code: *b"W2ku",
        ..header.locators[0]
    };
    header.locators[0].data_offset = u64::MAX;
    header.parent_name[..10].copy_from_slice(b"\0b\0.\0v\0h\0d");
    bytes[512..1536].copy_from_slice(&header.to_bytes());
    assert_eq!(
        layer(&bytes).unwrap().parent.unwrap().names,
        ["a.vhd", "b.vhd"]
    );
}
