//! What legal images read as.

use super::*;

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
    assert_eq!(
        parent.identities,
        vec![ImageId::Uuid(Uuid::from_bytes([9; 16]))]
    );
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
    assert_eq!(
        (parent.format, parent.identities),
        (Some(Format::Raw), vec![])
    );
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
