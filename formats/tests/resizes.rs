//! Another size for images where they stand: what they hold stays, what is new is zeros, and a crash at any point leaves
//! the old size or the new one.

mod common;

use common::in_place::Files;
use common::written::{self, Model};
use common::{Random, samples};
use formats::resize::overwrite;
use formats::vhd::footer::{DiskType, Footer};
use formats::{ErrorKind, Format, Plan};

/// Sizes to go to from `old` bytes: near and far, and back.
fn sizes(old: u64) -> Vec<u64> {
    vec![old + 512, old + 4096, old + 100_000, old + (3 << 20)]
}

fn all_sizes(image: &Files, what: &str) {
    let old = image.open().expect("opens").source.size();
    for size in sizes(old) {
        let larger = image.resizes_safely(size, what);
        assert_eq!(larger.damage(), image.damage(), "{what} to {size}");
        let back = larger.resizes_safely(old, &format!("{what}, back from {size}"));
        assert!(back.content().starts_with(&image.content()), "{what}");
        let again = back.resizes_safely(size + 512, &format!("{what}, again"));
        assert_eq!(again.damage(), image.damage(), "{what} to {size} again");
    }
}

fn kind(image: &Files, size: u64) -> ErrorKind {
    image.resize(size).expect_err("is refused").kind()
}

#[test]
fn raw_disks_get_any_size() {
    let image = Files::one(Format::Raw, Random::new(3).bytes(5000));
    for size in [1, 4999, 5001, 100_000] {
        let after = image.resizes_safely(size, "raw");
        assert_eq!(after.files[0].1.len() as u64, size);
    }
}

#[test]
fn vhds_get_any_size() {
    for (name, format, bytes) in samples() {
        if format == Format::Vhd && !common::is_orphan(name) {
            all_sizes(&Files::one(format, bytes), name);
        }
    }
}

#[test]
fn vhds_over_a_parent_get_any_size() {
    let parent = common::vhd::dynamic();
    for room in [0, 1 << 20] {
        let mut child = common::vhd::child(common::vhd::ID, "base.vhd");
        // The id of the child is its own.
        let footer = Footer::parse(child.last_chunk().expect("a footer"), 0).expect("sound");
        let footer = Footer {
            unique_id: [3; 16],
            ..footer
        }
        .to_bytes();
        let end = child.len() - 512;
        child[..512].copy_from_slice(&footer);
        child[end..].copy_from_slice(&footer);
        let image = Files {
            below: vec![("base.vhd".to_owned(), parent.clone())],
            ..Files::one(Format::Vhd, child)
        };
        let old = image.open().expect("opens").source.size();
        // Locators stand in the way of a larger BAT: it moves behind them.
        image.resizes_safely(old + room + (1 << 20), "differencing");
    }
}

#[test]
fn a_larger_parent_does_not_show_through() {
    let parent = Files::one(Format::Vhd, common::vhd::dynamic());
    let below = parent.resizes_safely(200_000, "parent").files[0].1.clone();
    let child = |below: &[u8]| Files {
        below: vec![("base.vhd".to_owned(), below.to_vec())],
        ..Files::one(Format::Vhd, common::vhd::child(common::vhd::ID, "base.vhd"))
    };
    child(&below).resizes_safely(150_000, "zeros below");
    let disk = Random::new(9).bytes(100_000 / 512 * 512);
    let model: Model = vec![(0, disk)];
    let options = ["block_size=64k".to_owned()];
    let large = written::write(Format::Vhd, 1 << 20, &options, &model, "large");
    let mut large = large.file.to_bytes();
    let footer = Footer {
        unique_id: common::vhd::ID,
        ..Footer::parse(large.first_chunk().expect("a footer"), 0).expect("sound")
    }
    .to_bytes();
    let end = large.len() - 512;
    large[..512].copy_from_slice(&footer);
    large[end..].copy_from_slice(&footer);
    assert_eq!(kind(&child(&large), 150_000), ErrorKind::Refused);
}

#[test]
fn blocks_move_out_of_the_way_of_a_larger_bat() {
    let image = Files::one(Format::Vhd, common::vhd::dynamic());
    // 128 entries have room; these need 4 KiB and 64 KiB.
    for size in [4 << 20, 64 << 20] {
        let (log, new) = image.resize(size).expect("resized");
        let after = image.with(&log.files());
        assert_eq!(new, size);
        let content = after.content();
        let before = image.content();
        assert!(content[..before.len()] == before);
        assert!(content[before.len()..].iter().all(|byte| *byte == 0));
        assert!(log.changes() > 10);
    }
    image.resizes_safely(1 << 20, "moved");
}

#[test]
fn a_last_block_that_the_file_cuts_is_made_whole() {
    let mut bytes = common::vhd::dynamic();
    // Block 9 is the last in the file; its guest sees 2048 bytes of it.
    let footer = bytes.split_off(bytes.len() - 512);
    bytes.truncate(bytes.len() - 2048);
    bytes.extend(footer);
    let image = Files::one(Format::Vhd, bytes);
    let old = image.open().expect("opens").source.size();
    for size in [old + 512, old + 2048, old + 4096] {
        image.resizes_safely(size, "cut");
    }
}

#[test]
fn fixed_vhds_end_with_their_footer() {
    let image = Files::one(Format::Vhd, common::vhd::fixed());
    for size in [512, 4096, 7680, 8704, 9216, 1 << 20] {
        let after = image.resizes_safely(size, "fixed");
        assert_eq!(after.files[0].1.len() as u64, size + 512);
        assert!(
            after.open().expect("opens").layers[0]
                .info
                .warnings
                .is_empty()
        );
    }
    // With a gap in front of the footer.
    let mut gap = common::vhd::fixed();
    let footer = gap.split_off(8192);
    gap.extend([7; 1024]);
    gap.extend(footer);
    let image = Files::one(Format::Vhd, gap);
    for size in [512, 8704, 9216, 9728, 20_480] {
        image.resizes_safely(size, "fixed with a gap");
    }
}

#[test]
fn sizes_are_rounded_up_and_limited() {
    let image = Files::one(Format::Vhd, common::vhd::fixed());
    let after = image.resizes_safely(8193, "rounded");
    assert_eq!(after.content().len(), 8704);
    assert_eq!(kind(&image, (2040 << 30) + 1), ErrorKind::Limit);
    // Blocks of 4 KiB: the BAT would have too many entries.
    let image = Files::one(Format::Vhd, common::vhd::dynamic());
    assert_eq!(kind(&image, 2040 << 30), ErrorKind::Limit);
}

#[test]
fn vhds_that_somebody_relies_on_stay_as_they_are() {
    let parsed = Footer::new(DiskType::Fixed, 8192, common::vhd::ID, 0);
    let saved = Footer {
        saved_state: true,
        ..parsed.clone()
    };
    let hidden = Footer {
        hidden: true,
        ..parsed
    };
    for footer in [saved, hidden] {
        let mut bytes = common::vhd::fixed();
        let end = bytes.len() - 512;
        bytes[end..].copy_from_slice(&footer.to_bytes());
        let image = Files::one(Format::Vhd, bytes);
        assert_eq!(kind(&image, 1 << 20), ErrorKind::Refused);
    }
}

#[test]
fn qcow2s_get_any_size() {
    for (name, format, bytes) in samples() {
        if format != Format::Qcow2 || common::is_orphan(name) {
            continue;
        }
        let image = Files::one(format, bytes);
        match name {
            // With bitmaps, which have a size too.
            "history.qcow2" => assert_eq!(kind(&image, 10 << 20), ErrorKind::Refused),
            _ => all_sizes(&image, name),
        }
    }
}

#[test]
fn vdis_get_any_size() {
    for (name, format, bytes) in samples() {
        if format == Format::Vdi && !common::is_orphan(name) {
            all_sizes(&Files::one(format, bytes), name);
        }
    }
}

#[test]
fn vhdxs_get_any_size() {
    for (name, format, bytes) in samples() {
        if format != Format::Vhdx || common::is_orphan(name) {
            continue;
        }
        let image = Files::one(format, bytes);
        match image.resize(1 << 40) {
            Ok(_) => all_sizes(&image, name),
            Err(error) => println!("{name}: {error}"),
        }
    }
}

/// An image as the command writes it, with all of its files.
fn written(format: Format, size: u64, options: &str, model: &Model) -> Files {
    let options: Vec<String> = options.split(',').map(str::to_owned).collect();
    let written = written::write(format, size, &options, model, "written");
    let others = written.others.iter().map(|(name, file)| {
        let mut bytes = vec![0; file.len() as usize];
        file.read_at(&mut bytes, 0).expect("read");
        (name.to_str().expect("a name").to_owned(), bytes)
    });
    let first = ("a".to_owned(), written.file.to_bytes());
    Files {
        format,
        files: std::iter::once(first).chain(others).collect(),
        below: Vec::new(),
    }
}

#[test]
fn vmdks_of_one_extent_get_any_size() {
    let model: Model = vec![
        (0, Random::new(5).bytes(70_000)),
        (190_000, Random::new(6).bytes(10_000)),
    ];
    for kind in ["monolithicSparse", "monolithicFlat", "vmfs"] {
        let image = written(Format::Vmdk, 200_192, &format!("subformat={kind}"), &model);
        all_sizes(&image, kind);
        // Several grain tables more.
        let larger = image.resizes_safely(100 << 20, kind);
        assert_eq!(larger.damage(), image.damage(), "{kind}");
        assert!(
            larger.open().expect("opens").layers[0]
                .info
                .warnings
                .is_empty()
        );
    }
}

#[test]
fn other_vmdks_have_to_be_converted() {
    let model: Model = vec![(0, Random::new(5).bytes(1000))];
    for kind in ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let image = written(
            Format::Vmdk,
            3 << 30,
            &format!("subformat={kind}"),
            &Vec::new(),
        );
        assert_eq!(kind_of(&image), ErrorKind::Unsupported);
    }
    let image = written(Format::Vmdk, 200_192, "subformat=streamOptimized", &model);
    assert_eq!(kind_of(&image), ErrorKind::Unsupported);
}

fn kind_of(image: &Files) -> ErrorKind {
    let size = image.open().expect("opens").source.size();
    kind(image, size + 512)
}

#[test]
fn what_the_command_writes_gets_any_size() {
    let model: Model = vec![
        (0, Random::new(7).bytes(300_000)),
        (1_500_000, Random::new(8).bytes(500)),
    ];
    for (format, options) in [
        (Format::Vhd, "subformat=fixed"),
        (Format::Vhd, "block_size=64k"),
        (Format::Qcow2, "cluster_size=512"),
        (Format::Qcow2, "cluster_size=4k,refcount_bits=1"),
        (Format::Qcow2, "cluster_size=4k,compat=0.10"),
        (
            Format::Qcow2,
            "cluster_size=16k,extended_l2=on,refcount_bits=64",
        ),
        (Format::Vdi, "subformat=dynamic"),
        (Format::Vdi, "subformat=fixed"),
        (Format::Vhdx, "subformat=dynamic"),
        (Format::Vhdx, "subformat=fixed,block_size=1M"),
        (Format::Vhdx, "logical_sector_size=4096"),
    ] {
        let image = written(format, 1_504_256, options, &model);
        let what = format!("{format} {options}");
        let larger = image.resizes_safely(5 << 20, &what);
        assert_eq!(larger.damage(), image.damage(), "{what}");
        let size = larger.content().len() as u64;
        let again = larger.resizes_safely(size + 8192, &what);
        assert_eq!(again.damage(), image.damage(), "{what}");
        again.resizes_safely(2 << 20, &what);
    }
}

#[test]
fn places_are_made_without_a_change_of_content() {
    let model: Model = vec![
        (0, Random::new(7).bytes(300_000)),
        (1_500_000, Random::new(8).bytes(500)),
    ];
    for (format, options) in [
        (Format::Raw, ""),
        (Format::Vhd, "subformat=fixed"),
        (Format::Vhd, "block_size=64k"),
        (Format::Qcow2, "cluster_size=512"),
        (Format::Qcow2, "cluster_size=4k,refcount_bits=1"),
        (
            Format::Qcow2,
            "cluster_size=16k,extended_l2=on,refcount_bits=64",
        ),
        (Format::Vdi, "subformat=dynamic"),
        (Format::Vhdx, "subformat=dynamic,block_size=1M"),
        (Format::Vmdk, "subformat=monolithicSparse"),
        (Format::Vmdk, "subformat=monolithicFlat"),
    ] {
        let image = match options {
            "" => Files::one(format, Random::new(3).bytes(5000)),
            options => written(format, 5 << 20, options, &model),
        };
        let size = image.content().len() as u64;
        let what = format!("{format} {options}");
        let edge = 299_000.min(size)..310_000.min(size);
        for range in [0..1024, edge, size - 20_000.min(size)..size] {
            let after = image.allocates_safely(range.clone(), &what);
            assert_eq!(after.damage(), image.damage(), "{what}");
            let bytes = Random::new(9).bytes((range.end - range.start) as usize);
            let (log, _) = after
                .change(|image, _| {
                    let mut plan = Plan::new(size);
                    overwrite(&image.layers[0], &mut plan, range.start, &bytes)?;
                    Ok(plan)
                })
                .unwrap_or_else(|e| panic!("{what}: {e}"));
            let mut expected = image.content();
            expected[range.start as usize..range.end as usize].copy_from_slice(&bytes);
            let written = after.with(&log.files());
            assert!(written.content() == expected, "{what} at {range:?}");
            assert_eq!(written.damage(), image.damage(), "{what}");
        }
    }
    // Sectors that were not written, in a block that was.
    let image = Files::one(Format::Vhd, common::vhd::dynamic());
    image.allocates_safely(0..20_000, "dynamic VHD");
}

/// What is written in tests of chance, and how far a disk may grow there.
const KINDS: [(Format, &str, u64); 9] = [
    (Format::Raw, "", 3 << 20),
    (Format::Vhd, "subformat=fixed", 3 << 20),
    (Format::Vhd, "block_size=64k", 40 << 20),
    (Format::Qcow2, "cluster_size=512", 40 << 20),
    (Format::Qcow2, "extended_l2=on", 40 << 20),
    (Format::Vdi, "subformat=dynamic", 40 << 20),
    (Format::Vhdx, "block_size=1M", 40 << 20),
    (Format::Vmdk, "subformat=monolithicSparse", 40 << 20),
    (Format::Vmdk, "subformat=monolithicFlat", 3 << 20),
];

/// An image of up to 1 MiB with some data in it.
fn of_chance(format: Format, options: &str, random: &mut Random) -> Files {
    let size = 512 * (1 + random.below(2048));
    let mut model: Model = Vec::new();
    let mut at = 0;
    while at < size {
        let len = (1 + random.below(90_000)).min(size - at);
        if random.below(3) > 0 {
            model.push((at, random.bytes(len as usize)));
        }
        at += len;
    }
    let bytes = |model: &Model| {
        let mut bytes = vec![0; size as usize];
        for (at, data) in model {
            bytes[*at as usize..][..data.len()].copy_from_slice(data);
        }
        bytes
    };
    match options {
        "" => Files::one(format, bytes(&model)),
        _ => written(format, size, options, &model),
    }
}

#[test]
fn sizes_of_chance_follow_each_other() {
    for (seed, (format, options, most)) in (0..4).flat_map(|n| KINDS.map(|kind| (n, kind))) {
        let mut random = Random::new(seed * 31 + 5);
        let mut image = of_chance(format, options, &mut random);
        let mut expected = image.content();
        for _ in 0..8 {
            let part = 1 + random.below(40);
            let size = 512 * (1 + random.below(most / 512 / part));
            let what = format!("{format} {options}, seed {seed}, to {size}");
            let (log, new) = image.resize(size).unwrap_or_else(|e| panic!("{what}: {e}"));
            image = image.with(&log.files());
            // What is cut off here is not zeros everywhere: it must not come back.
            expected.resize(new as usize, 0);
            assert!(image.content() == expected, "{what}");
            assert_eq!(image.damage(), Vec::<String>::new(), "{what}");
        }
    }
}

#[test]
fn a_resize_that_ended_early_can_be_done_again() {
    for (format, options, _) in KINDS {
        let image = of_chance(format, options, &mut Random::new(77));
        let before = image.content();
        let (log, size) = image.resize(3 << 20).expect("resized");
        let mut expected = before.clone();
        expected.resize(size as usize, 0);
        let what = format!("{format} {options}");
        let mut seen = std::collections::HashSet::new();
        log.crashes(|files, when| {
            if !seen.insert(files.to_vec()) || seen.len() > 200 {
                return;
            }
            let (log, _) = image
                .with(files)
                .resize(3 << 20)
                .unwrap_or_else(|e| panic!("{what} {when}: {e}"));
            let after = image.with(&log.files());
            assert!(after.content() == expected, "{what} {when}");
        });
    }
}
