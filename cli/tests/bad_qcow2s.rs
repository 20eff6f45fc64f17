//! Damaged and hostile qcow2 images: exit code 3, the place of the damage, no target, no litter, the source untouched.

mod common;

use common::damage::images::qcow2::{Builder, COMPRESSED, COPIED, Pack, deflate, kinds, zstd};
use common::damage::images::{be64, patch};
use common::damage::{Damaged, place};
use common::{Folder, convert, make_disk, run_ok, s, testdata};

/// An image with clusters of 512 bytes, and `changes` in it: 64 bits at an offset.
fn changed(changes: &[(u64, u64)]) -> Damaged {
    let mut image = Builder::default().build();
    for (at, value) in changes {
        patch(&mut image, *at as usize, &value.to_be_bytes());
    }
    Damaged::new("bad.qcow2", &image)
}

/// As [`changed`], for a field of the header of 32 bits.
fn header32(at: usize, value: u32) -> Damaged {
    let mut image = Builder::default().build();
    patch(&mut image, at, &value.to_be_bytes());
    Damaged::new("bad.qcow2", &image)
}

/// Where the L2 entry of guest cluster `guest` (below 64) stands.
fn l2_entry(guest: u64) -> u64 {
    Builder::default().l2() + guest * 8
}

fn message(error: &serde_json::Value) -> &str {
    error["message"].as_str().expect("a message")
}

#[test]
fn the_undamaged_ones_are_read() {
    for (name, builder) in kinds().filter(|(_, builder)| builder.backing.is_none()) {
        let whole = Damaged::new(name, &builder.build());
        run_ok(&["digest", s(&whole.path)]);
    }
}

#[test]
fn an_image_cut_anywhere_is_truncated() {
    let folder = Folder::new();
    let (raw, qcow2) = (folder.file("disk.raw"), folder.file("disk.qcow2"));
    make_disk(&raw, 4 << 20);
    convert(&raw, &qcow2, &["-o", "cluster_size=4k"]);
    let image = std::fs::read(&qcow2).expect("read the image");
    let refcounts = be64(&image, 48) as usize;
    let l2 = (be64(&image, 4096) & !COPIED) as usize;
    let data = (be64(&image, l2) & !COPIED) as usize;
    for len in [
        50,
        90,
        108,
        image.len() * 6 / 10,
        4096 + 8,
        l2 + 1000,
        data + 1000,
        refcounts + 100,
    ] {
        let error = Damaged::new("cut.qcow2", &image[..len]).is("truncated");
        assert!(error["structure"].is_string(), "{error}");
    }
}

#[test]
fn images_of_other_software_cut_at_60_percent_are_truncated() {
    for name in ["small.qcow2", "zstd.qcow2", "subclusters.qcow2"] {
        let image = std::fs::read(testdata(name)).expect("testdata");
        let cut = Damaged::new("cut.qcow2", &image[..image.len() * 6 / 10]);
        let finished = common::run(&["convert", s(&cut.path), s(&cut.folder.file("new.raw"))]);
        assert_eq!(finished.code, Some(3), "{name}: {}", finished.stderr);
        assert_eq!(cut.folder.names(), ["cut.qcow2"]);
    }
}

#[test]
fn every_kind_cut_in_its_data_is_truncated_or_malformed() {
    for (name, builder) in kinds().filter(|(_, builder)| builder.backing.is_none()) {
        let image = builder.build();
        let cut = Damaged::new(name, &image[..builder.data() as usize + 700]);
        cut.is("truncated");
    }
}

#[test]
fn l2_entries_past_the_end_are_truncated() {
    let end = Builder::default().build().len() as u64;
    for host in [end, end + 512, 1 << 40, (1 << 56) - 512] {
        let error = changed(&[(l2_entry(3), COPIED | host)]).is("truncated");
        assert_eq!(place(&error), ("L2 entry", l2_entry(3)), "{host}");
    }
    for host in [end, 1 << 50, (1 << 61) - 1] {
        let error = changed(&[(l2_entry(3), COMPRESSED | host)]).is("truncated");
        assert_eq!(place(&error), ("L2 entry", l2_entry(3)), "{host}");
    }
}

#[test]
fn l1_entries_past_the_end_are_truncated() {
    let builder = Builder::default();
    let end = builder.build().len() as u64;
    for table in [end, end - 512 + 1024, 1 << 40, (1 << 56) - 512] {
        let error = changed(&[(builder.l1() + 8, COPIED | table)]).is("truncated");
        assert_eq!(place(&error), ("L2 table", table));
    }
}

#[test]
fn entries_that_point_into_header_or_tables_are_malformed() {
    let builder = Builder::default();
    let refcount_block = builder.refcount_table() + builder.cluster();
    for table in [
        0,
        builder.l1(),
        builder.l2(),
        builder.refcount_table(),
        refcount_block,
    ] {
        // Offset 0 of a standard entry means that there is no cluster.
        if table > 0 {
            changed(&[(l2_entry(3), COPIED | table)]).is("malformed");
        }
        if table != builder.l2() {
            changed(&[(l2_entry(3), COMPRESSED | (table + 3))]).is("malformed");
        }
        if table > 0 && table != builder.l2() {
            changed(&[(builder.l1() + 8, COPIED | table)]).is("malformed");
        }
    }
    // The header's own tables, one on the other, and in the header.
    changed(&[(40, builder.refcount_table())]).is("malformed");
    changed(&[(40, 0)]).is("malformed");
    changed(&[(48, 0)]).is("malformed");
}

#[test]
fn the_same_table_or_cluster_twice_is_malformed() {
    let builder = Builder::default();
    let error = changed(&[(builder.l1() + 8, COPIED | builder.l2())]).is("malformed");
    assert_eq!(place(&error), ("L1 entry", builder.l1() + 8));
    let error = changed(&[(l2_entry(3), COPIED | builder.data())]).is("malformed");
    // Which of the two is wrong nobody can tell: it ends at the first.
    assert_eq!(place(&error), ("L2 entry", l2_entry(0)));
    // From the other table.
    let second = builder.l2() + builder.cluster();
    changed(&[(second, COPIED | builder.data())]).is("malformed");
}

#[test]
fn reserved_bits_and_crooked_offsets_are_malformed() {
    let builder = Builder::default();
    for bits in [1u64, 0x100, 1 << 56, 1 << 62] {
        let entry = COPIED | builder.l2() | bits;
        let error = changed(&[(builder.l1(), entry)]).is("malformed");
        assert_eq!(place(&error), ("L1 entry", builder.l1()), "{bits:#x}");
    }
    for bits in [2u64, 0x100, 1 << 56, 1 << 61] {
        let entry = COPIED | builder.data() | bits;
        let error = changed(&[(l2_entry(0), entry)]).is("malformed");
        assert_eq!(place(&error), ("L2 entry", l2_entry(0)), "{bits:#x}");
    }
    changed(&[(l2_entry(4), COPIED | COMPRESSED | builder.data())]).is("malformed");
    for at in [40, 48] {
        changed(&[(at, builder.data() + 8)]).is("malformed");
    }
}

#[test]
fn subclusters_that_contradict_each_other_are_malformed() {
    let builder = Builder {
        extended: true,
        cluster_bits: 14,
        size: 30 << 14,
        ..Builder::default()
    };
    for (descriptor, bitmap) in [
        (COPIED | builder.data(), 1 << 32 | 1),
        (0, 1),
        (COPIED | builder.data() | 1, 1),
        (COMPRESSED | builder.data(), 1),
    ] {
        let mut image = builder.build();
        patch(
            &mut image,
            builder.l2() as usize,
            &u64::to_be_bytes(descriptor),
        );
        patch(
            &mut image,
            builder.l2() as usize + 8,
            &u64::to_be_bytes(bitmap),
        );
        let error = Damaged::new("bad.qcow2", &image).is("malformed");
        assert_eq!(place(&error), ("L2 entry", builder.l2()));
    }
}

fn with_units(zstd: bool, pack: Pack) -> Damaged {
    let builder = Builder {
        zstd,
        pack,
        ..Builder::default()
    };
    Damaged::new("bad.qcow2", &builder.build())
}

#[test]
fn compressed_clusters_of_the_wrong_length_are_malformed() {
    let cases: [(bool, Pack, &str); 6] = [
        (
            false,
            |c| deflate(&c[..c.len() - 1]),
            "inflates to only 511",
        ),
        (false, |c| deflate(&[c, &[0]].concat()), "inflates to more"),
        (false, |_| deflate(&[]), "inflates to only 0"),
        // A cluster may be several frames, and the next one's follows.
        (true, |c| zstd(&c[..c.len() - 1]), "inflates to"),
        (true, |c| zstd(&[c, &[0]].concat()), "inflates to more"),
        (true, |_| zstd(&[0; 100_000]), "inflates to more"),
    ];
    for (is_zstd, pack, what) in cases {
        let error = with_units(is_zstd, pack).is("malformed");
        assert!(message(&error).contains(what), "{error}");
        assert!(error["offset"].is_u64(), "{error}");
    }
}

#[test]
fn damaged_compressed_clusters_are_malformed() {
    fn torn(mut packed: Vec<u8>) -> Vec<u8> {
        let half = packed.len() / 2;
        packed[half..].fill(0xFF);
        packed
    }
    let cases: [(bool, Pack); 5] = [
        (false, |_| vec![0xFF; 100]),
        (false, |c| torn(deflate(c))),
        (true, |_| vec![0xFF; 100]),
        (true, |c| torn(zstd(c))),
        // deflate where zstd is promised.
        (true, deflate),
    ];
    for (is_zstd, pack) in cases {
        with_units(is_zstd, pack).is("malformed");
    }
}

#[test]
fn unknown_incompatible_features_are_refused_by_name() {
    let error = changed(&[(72, 1 << 5)]).is("unsupported");
    assert_eq!(error["found"], "bit 5");
    let mut image = Builder::default().build();
    patch(&mut image, 72, &(1u64 << 63).to_be_bytes());
    patch(&mut image, 112, &0x6803_F857u32.to_be_bytes());
    patch(&mut image, 116, &48u32.to_be_bytes());
    patch(&mut image, 120, b"\0\x3Ftime travel\0");
    let error = Damaged::new("bad.qcow2", &image).is("unsupported");
    assert!(message(&error).contains("time travel"), "{error}");
}

#[test]
fn encrypted_images_are_refused_by_name() {
    for (method, name) in [(1, "AES"), (2, "LUKS"), (3, "encryption")] {
        let error = header32(32, method).is("unsupported");
        assert!(message(&error).contains(name), "{error}");
    }
}

#[test]
fn other_versions_are_unsupported() {
    for version in [0, 1, 4, u32::MAX] {
        let error = header32(4, version).is("unsupported");
        assert!(message(&error).contains("version"), "{error}");
    }
}

#[test]
fn impossible_headers_are_malformed() {
    for bits in [0, 8, 22, 31, 63, 64, u32::MAX] {
        assert_eq!(place(&header32(20, bits).is("malformed")), ("header", 20));
    }
    for order in [7, 64, u32::MAX] {
        assert_eq!(place(&header32(96, order).is("malformed")), ("header", 96));
    }
    for length in [0, 72, 103, 105, 111, 520, u32::MAX] {
        assert_eq!(
            place(&header32(100, length).is("malformed")),
            ("header", 100)
        );
    }
    // The compression type and its feature bit contradict each other.
    header32(104, 1 << 24).is("malformed");
    header32(76, 1 << 3).is("malformed");
    header32(104, 7 << 24).is("unsupported");
    // Subclusters of 16 bytes.
    header32(76, 1 << 4).is("malformed");
}

#[test]
fn huge_claims_are_errors_at_once() {
    for size in [1 << 63, u64::MAX, u64::MAX - 511, 1 << 61] {
        assert_eq!(place(&changed(&[(24, size)]).is("limit")), ("L1 table", 36));
    }
    changed(&[(24, 1 << 30)]).is("malformed");
    header32(36, u32::MAX).is("limit");
    header32(36, 4 << 20).is("truncated");
    header32(36, 0).is("malformed");
    header32(56, u32::MAX).is("limit");
    header32(56, 1 << 14).is("truncated");
    for at in [40, 48] {
        changed(&[(at, 1 << 40)]).is("truncated");
        changed(&[(at, u64::MAX - 511)]).is("truncated");
    }
}

#[test]
fn backing_names_in_impossible_places_are_malformed() {
    for (offset, length) in [
        (500u64, 100u32),
        (512, 10),
        (1 << 40, 10),
        (u64::MAX, 10),
        (8, 10),
    ] {
        let mut image = Builder::over("raw", "base.raw").build();
        patch(&mut image, 8, &offset.to_be_bytes());
        patch(&mut image, 16, &length.to_be_bytes());
        let error = Damaged::new("bad.qcow2", &image).is("malformed");
        assert_eq!(error["structure"], "backing file name");
    }
    let mut image = Builder::over("raw", "base.raw").build();
    patch(&mut image, 16, &1024u32.to_be_bytes());
    Damaged::new("bad.qcow2", &image).is("malformed");
    Damaged::new("bad.qcow2", &Builder::over("qed", "base.qed").build()).is("unsupported");
}

#[test]
fn extensions_that_run_over_are_malformed() {
    let mut image = Builder::default().build();
    patch(&mut image, 112, &0xE279_2ACAu32.to_be_bytes());
    for length in [393u32, 1 << 20, u32::MAX] {
        patch(&mut image, 116, &length.to_be_bytes());
        let error = Damaged::new("bad.qcow2", &image).is("malformed");
        assert_eq!(place(&error), ("header extension", 112), "{length}");
    }
}

#[test]
fn a_data_file_that_is_named_nowhere_or_is_the_image_is_malformed() {
    header32(76, 1 << 2).is("malformed");
    let mut image = Builder::default().build();
    patch(&mut image, 76, &(1u32 << 2).to_be_bytes());
    patch(&mut image, 112, &0x4441_5441u32.to_be_bytes());
    patch(&mut image, 116, &9u32.to_be_bytes());
    patch(&mut image, 120, b"bad.qcow2");
    Damaged::new("bad.qcow2", &image).is("malformed");
}

#[test]
fn salvage_loses_the_doubtful_cluster_and_no_more() {
    let folder = Folder::new();
    let target = folder.file("salvaged.raw");
    let image = testdata("bad/cluster-twice.qcow2");
    let lost = convert(&image, &target, &["--salvage"])["lost"].clone();
    let lost = lost.as_array().expect("a list");
    assert!(!lost.is_empty());
    let bytes: u64 = lost.iter().filter_map(|hole| hole["length"].as_u64()).sum();
    let info = run_ok(&["info", s(&image), "--json"]).json();
    let cluster = info["block_size"].as_u64().expect("a cluster size");
    assert!(bytes <= 2 * cluster, "{lost:?}");
}
