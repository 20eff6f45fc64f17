//! Differencing disks: what is the child's, and whose child it is.

use super::*;
use crate::driver::ImageId;
use crate::reference::ReferencePolicy;

const BLOCK: usize = MIB as usize;

fn over(parent: &[u8], pairs: &[&str]) -> Options {
    let image = opened(parent, &[]).unwrap();
    let backing: Backing = image.tip().unwrap().as_backing("base.vhdx");
    options(pairs).over(Some(backing))
}

/// Opens `tip` beside files of these names.
fn opened(tip: &[u8], files: &[(&str, &[u8])]) -> Result<Image> {
    let files = files
        .iter()
        .map(|(name, bytes)| ((*name).into(), storage(bytes)));
    let context = OpenContext {
        references: ReferencePolicy::only(files.collect()),
        ..OpenContext::default()
    };
    open_storage(storage(tip), Some(Format::Vhdx), &context)
}

fn parent() -> Vec<u8> {
    written(
        8 * MIB,
        &options(&["block_size=1M"]),
        &[Data(0, &[1; 8 * BLOCK])],
    )
}

/// Over [`parent`]: block 0 all data, block 1 zeros, block 2 data and zeros that fill it, block 3 a sector of data,
/// block 4 two sectors of zeros, the others the parent's.
fn child(parent: &[u8]) -> Vec<u8> {
    let pieces = [
        Data(0, &[2; BLOCK]),
        Zeros(MIB, MIB),
        Data(2 * MIB, &[3; BLOCK / 2]),
        Zeros(2 * MIB + MIB / 2, MIB / 2),
        Data(3 * MIB + 4096, &[4; 512]),
        Zeros(4 * MIB + 8192, 1024),
    ];
    written(8 * MIB, &over(parent, &[]), &pieces)
}

#[test]
fn a_child_holds_only_what_differs() {
    let parent = parent();
    let child = child(&parent);
    let layer = layer(&child).unwrap();
    assert_eq!(
        runs(layer.source.as_ref()),
        "S1024 Z1024 S1024 A4 S0.5 A1027.5 S1 A4087"
    );
    assert_eq!(layer.info.subformat, "differencing");
    let states: Vec<u64> = (0..8).map(|index| entry(&child, index) & 7).collect();
    assert_eq!(states, [6, 2, 6, 7, 7, 0, 0, 0]);
    assert_eq!(entry(&child, 1), 2);
    // The bitmap of the only chunk, of 4096 blocks.
    assert_eq!(entry(&child, 4096) & 7, 6);
    let image = opened(&child, &[("base.vhdx", &parent)]).unwrap();
    let mut out = vec![0xEE; 8 * BLOCK];
    read_guest(image.source.as_ref(), 0, &mut out).unwrap();
    let mut expected = vec![1; 8 * BLOCK];
    expected[..BLOCK].fill(2);
    expected[BLOCK..3 * BLOCK].fill(0);
    expected[2 * BLOCK..2 * BLOCK + BLOCK / 2].fill(3);
    expected[3 * BLOCK + 4096..][..512].fill(4);
    expected[4 * BLOCK + 8192..][..1024].fill(0);
    assert!(out == expected);
}

#[test]
fn bits_start_with_the_lowest() {
    let child = child(&parent());
    let bitmap = (entry(&child, 4096) & !0xF_FFFF) as usize;
    // Block 3, sector 8: 2048 sectors a block.
    assert_eq!(child[bitmap + 3 * 256 + 1], 1);
    // Block 4, sectors 16 and 17.
    assert_eq!(child[bitmap + 4 * 256 + 2], 3);
}

#[test]
fn a_child_shares_the_disk_id_and_names_its_parent() {
    let parent_image = parent();
    let child = child(&parent_image);
    assert_eq!(metadata(&child).disk_id, metadata(&parent_image).disk_id);
    let layer = layer(&child).unwrap();
    let parent_id = super::layer(&parent_image).unwrap().info.identity;
    assert_ne!(layer.info.identity, parent_id);
    let reference = layer.parent.expect("a parent");
    assert_eq!(reference.names, ["base.vhdx"]);
    assert_eq!(reference.identities, Vec::from_iter(parent_id));
    assert_eq!(reference.format, Some(Format::Vhdx));
}

#[test]
fn bitmaps_of_later_chunks_are_found() {
    let one = options(&["block_size=2M"]);
    let parent = written(20 << 30, &one, &[Data(13 << 30, &[1; 8192])]);
    let pieces = [
        Data(4096, &[2; 4096]),
        Data(13 << 30, &[3; 4096]),
        Data((20 << 30) - 4096, &[4; 4096]),
    ];
    let child = written(20 << 30, &over(&parent, &[]), &pieces);
    let image = opened(&child, &[("base.vhdx", &parent)]).unwrap();
    let mut out = [0; 8192];
    read_guest(image.source.as_ref(), 13 << 30, &mut out).unwrap();
    assert_eq!((out[0], out[4095], out[4096], out[8191]), (3, 3, 1, 1));
    read_guest(image.source.as_ref(), (20 << 30) - 8192, &mut out).unwrap();
    assert_eq!((out[0], out[4095], out[4096], out[8191]), (0, 0, 4, 4));
    read_guest(image.source.as_ref(), 0, &mut out).unwrap();
    assert_eq!((out[0], out[4096]), (0, 2));
}

#[test]
fn sectors_of_4096_bytes_have_bits_of_their_own() {
    let wide = options(&["block_size=1M", "logical_sector_size=4096"]);
    let parent = written(2 * MIB, &wide, &[Data(0, &[1; 2 * BLOCK])]);
    let child = written(
        2 * MIB,
        &over(&parent, &[]),
        &[Data(MIB + 8192, &[2; 4096])],
    );
    let layer = layer(&child).unwrap();
    assert_eq!(runs(layer.source.as_ref()), "A1032 S4 A1012");
    assert_eq!(layer.source.sector_size(), 4096);
    let image = opened(&child, &[("base.vhdx", &parent)]).unwrap();
    assert_eq!(image.source.sector_size(), 4096);
}

#[test]
fn past_the_end_of_the_parent_blocks_are_zeros() {
    let parent = parent();
    let child = written(12 * MIB, &over(&parent, &[]), &[Data(9 * MIB, &[7; 512])]);
    let states: Vec<u64> = (0..13).map(|index| entry(&child, index) & 7).collect();
    assert_eq!(states, [0, 0, 0, 0, 0, 0, 0, 0, 2, 6, 2, 2, 0]);
    let image = opened(&child, &[("base.vhdx", &parent)]).unwrap();
    assert_eq!(runs(image.source.as_ref()), "S8192 Z1024 S1024 Z2048");
}

#[test]
fn parts_of_sectors_cannot_be_stored() {
    let mut target = target(8 * MIB, &over(&parent(), &[])).unwrap();
    assert_eq!(
        target.place(100, 412).unwrap_err().kind(),
        ErrorKind::Malformed
    );
    assert_eq!(
        target.zero(100, 412).unwrap_err().kind(),
        ErrorKind::Malformed
    );
}

#[test]
fn either_linkage_will_do_and_no_other() {
    let parent = parent();
    let of_parent = match layer(&parent).unwrap().info.identity {
        Some(ImageId::Uuid(id)) => id,
        other => panic!("{other:?}"),
    };
    let stranger = uuid::Uuid::from_u128(5);
    let opens = |first, second: Option<uuid::Uuid>| {
        let mut child = child(&parent);
        change_metadata(&mut child, |metadata| {
            let locator = metadata.locator.as_mut().unwrap();
            let values = &mut locator.values;
            let braced = |id: uuid::Uuid| id.braced().to_string();
            values.insert("parent_linkage".into(), braced(first));
            if let Some(second) = second {
                values.insert("parent_linkage2".into(), braced(second));
            }
        });
        opened(&child, &[("base.vhdx", &parent)]).map(|_| ())
    };
    opens(of_parent, None).unwrap();
    opens(stranger, Some(of_parent)).unwrap();
    opens(of_parent, Some(stranger)).unwrap();
    let error = opens(stranger, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed);
    let error = opens(stranger, Some(uuid::Uuid::from_u128(6))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed);
}

#[test]
fn a_parent_with_other_sectors_is_malformed() {
    let parent = parent();
    let mut wide = parent.clone();
    change_metadata(&mut wide, |metadata| metadata.logical_sector_size = 4096);
    let error = opened(&child(&parent), &[("base.vhdx", &wide)])
        .err()
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::Malformed);
}

#[test]
fn a_missing_parent_is_refused() {
    let error = opened(&child(&parent()), &[]).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Refused);
}

#[test]
fn a_partial_block_without_bitmap_is_malformed() {
    for entry in [0, 2, 7] {
        let mut child = child(&parent());
        set_entry(&mut child, 4096, BatEntry(entry));
        assert_eq!(kind(&child), ErrorKind::Malformed);
    }
    let mut child = child(&parent());
    set_entry(&mut child, 4096, BatEntry::bitmap(1 << 40));
    assert_eq!(kind(&child), ErrorKind::Truncated);
    for place in [1, 3, 4] {
        set_entry(&mut child, 4096, BatEntry::bitmap(place << 20));
        assert_eq!(kind(&child), ErrorKind::Malformed);
    }
}

#[test]
fn three_layers_read_as_one_disk() {
    let base = parent();
    let middle = child(&base);
    let tip = written(
        8 * MIB,
        &over_named(&middle, &base, "middle.vhdx"),
        &[Data(5 * MIB, &[9; 4096]), Zeros(6 * MIB, MIB)],
    );
    let files = [("middle.vhdx", &middle[..]), ("base.vhdx", &base[..])];
    let image = opened(&tip, &files).unwrap();
    assert_eq!(image.layers.len(), 3);
    let byte = |offset: u64| {
        let mut out = [0xEE];
        read_guest(image.source.as_ref(), offset, &mut out).unwrap();
        out[0]
    };
    assert_eq!(
        [byte(0), byte(MIB), byte(3 * MIB), byte(3 * MIB + 4096)],
        [2, 0, 1, 4]
    );
    assert_eq!(
        [
            byte(5 * MIB),
            byte(5 * MIB + 4096),
            byte(6 * MIB),
            byte(7 * MIB)
        ],
        [9, 1, 0, 1]
    );
}

fn over_named(image: &[u8], base: &[u8], name: &str) -> Options {
    let image = opened(image, &[("base.vhdx", base)]).unwrap();
    options(&[]).over(Some(image.tip().unwrap().as_backing(name)))
}
