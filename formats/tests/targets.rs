//! Every target against a model in memory: whatever is placed and zeroed, in whatever pieces, is what is read back, and
//! nothing in the file stands on top of something else.

mod common;

use std::ops::Range;
use std::sync::Arc;

use common::Random;
use common::written::{Model, Written, target, write};
use formats::reader::read_guest;
use formats::{
    BlockSource, ErrorKind, Format, Image, OpenContext, ReferencePolicy, open_storage, run_at,
};

/// Images of each kind.
const ROUNDS: u64 = 60;

/// Ascending pieces of a disk of `size` bytes, of lengths up to `longest`, most of them not placed when it is huge.
fn random_model(random: &mut Random, size: u64, longest: u64) -> Model {
    let mut model = Model::new();
    let mut at = 0;
    let grain = random.pick(&[1, 512, 512, 4096]);
    while at < size && model.len() < 60 {
        let len = (1 + random.below(longest) / grain)
            .saturating_mul(grain)
            .min(size - at);
        if len <= 300_000 && !random.one_in(3) {
            let bytes = random.bytes(len as usize);
            model.push((at, bytes));
        }
        at += len;
    }
    model
}

fn open(written: Written, format: Format, what: &str) -> Image {
    let context = OpenContext {
        references: ReferencePolicy::only(written.others),
        ..OpenContext::default()
    };
    // Without a magic a raw disk is whatever is said.
    open_storage(Arc::new(written.file), Some(format), &context)
        .unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// The disk is `model`, and zeros wherever that says nothing.
fn check(source: &dyn BlockSource, model: &Model, what: &str) {
    let mut done = 0;
    for (offset, bytes) in model {
        check_zeros(source, done..*offset, what);
        let mut read = vec![0xEE; bytes.len()];
        read_guest(source, *offset, &mut read).expect("read");
        assert!(read == *bytes, "{what}: at {offset}");
        done = offset + bytes.len() as u64;
    }
    check_zeros(source, done..source.size(), what);
}

fn check_zeros(source: &dyn BlockSource, range: Range<u64>, what: &str) {
    let mut at = range.start;
    while at < range.end {
        let run = run_at(source, at, range.end - at).expect("a run");
        if !run.mapping.reads_zero() {
            let mut read = vec![0xEE; run.len as usize];
            read_guest(source, at, &mut read).expect("read");
            assert!(read.iter().all(|byte| *byte == 0), "{what}: at {at}");
        }
        at += run.len;
    }
}

fn round_trips(format: Format, choices: &[&str], sizes: &[u64]) {
    let mut random = Random::new(format as u64 + 77);
    for round in 0..ROUNDS {
        let most = random.pick(sizes);
        let size = 1 + random.below(most);
        let options: Vec<String> = match random.pick(choices) {
            "" => Vec::new(),
            option => vec![option.to_owned()],
        };
        let longest = random.pick(&[3_000, 100_000, size / 20 + 1]);
        let model = random_model(&mut random, size, longest);
        let what = format!("{format} round {round}: {size} bytes, {options:?}");
        let file = write(format, size, &options, &model, &what);
        let image = open(file, format, &what);
        let sector = image.source.sector_size();
        assert!(
            (size..size + u64::from(sector)).contains(&image.source.size()),
            "{what}"
        );
        assert!(image.layers[0].info.warnings.is_empty(), "{what}");
        check(image.source.as_ref(), &model, &what);
    }
}

const SMALL: &[u64] = &[600, 100_000, 3 << 20];
const LARGE: &[u64] = &[600, 100_000, 3 << 20, 5 << 30, 2000 << 30];
/// Tables of a sparse VMDK are there for all of the disk.
const LARGE_SPARSE: &[u64] = &[600, 100_000, 3 << 20, 5 << 30, 500 << 30];

#[test]
fn a_raw_disk_holds_what_was_placed() {
    round_trips(Format::Raw, &[""], SMALL);
}

#[test]
fn a_fixed_vhd_holds_what_was_placed() {
    round_trips(Format::Vhd, &["subformat=fixed"], SMALL);
}

#[test]
fn a_dynamic_vhd_holds_what_was_placed() {
    let blocks = [
        "",
        "block_size=128k",
        "block_size=256k",
        "block_size=1M",
        "block_size=2M",
    ];
    round_trips(Format::Vhd, &blocks, LARGE);
    round_trips(Format::Vhd, &["block_size=64k"], SMALL);
}

#[test]
fn a_dynamic_vhdx_holds_what_was_placed() {
    let choices = [
        "",
        "block_size=1M",
        "block_size=256M",
        "logical_sector_size=4096",
    ];
    round_trips(Format::Vhdx, &choices, LARGE);
}

#[test]
fn a_fixed_vhdx_holds_what_was_placed() {
    round_trips(Format::Vhdx, &["subformat=fixed"], SMALL);
}

#[test]
fn a_qcow2_holds_what_was_placed() {
    let clusters = [
        "",
        "cluster_size=8k",
        "cluster_size=32k",
        "cluster_size=512k",
        "cluster_size=2M",
    ];
    round_trips(Format::Qcow2, &clusters, LARGE);
    let small = [
        "cluster_size=512",
        "cluster_size=1k",
        "cluster_size=2k",
        "cluster_size=4k",
    ];
    round_trips(Format::Qcow2, &small, &[600, 100_000, 3 << 20, 5 << 30]);
}

#[test]
fn a_vmdk_in_one_file_holds_what_was_placed() {
    round_trips(
        Format::Vmdk,
        &["", "subformat=monolithicFlat"],
        LARGE_SPARSE,
    );
    round_trips(Format::Vmdk, &["subformat=vmfs"], LARGE);
}

#[test]
fn a_stream_optimized_vmdk_holds_what_was_placed() {
    let levels = [
        "subformat=streamOptimized",
        "subformat=streamOptimized,level=1",
        "subformat=streamOptimized,level=12",
    ];
    round_trips(Format::Vmdk, &levels, LARGE);
}

#[test]
fn a_split_vmdk_holds_what_was_placed() {
    let kinds = [
        "subformat=twoGbMaxExtentSparse",
        "subformat=twoGbMaxExtentFlat",
    ];
    round_trips(Format::Vmdk, &kinds, &[600, 3 << 20, 5 << 30, 50 << 30]);
}

/// A map of 64 KiB covers 16 GiB.
#[test]
fn a_vdi_holds_what_was_placed() {
    let kinds = ["subformat=dynamic", "subformat=fixed"];
    round_trips(Format::Vdi, &kinds, &[600, 3 << 20, 50 << 30, 2 << 40]);
}

/// Where VMware cuts split disks.
const SPLIT: u64 = 4_192_256 * 512;

#[test]
fn a_split_vmdk_is_cut_where_vmware_cuts() {
    let mut random = Random::new(4);
    for option in [
        "subformat=twoGbMaxExtentSparse",
        "subformat=twoGbMaxExtentFlat",
    ] {
        for (size, extents) in [
            (SPLIT - 512, 1),
            (SPLIT, 1),
            (SPLIT + 1, 2),
            (2 * SPLIT, 2),
            (3 * SPLIT - 1, 3),
        ] {
            let what = format!("{option}: {size} bytes");
            // Across the border, from it on, up to it, and at the end of the disk.
            let mut model = Model::new();
            for border in (SPLIT..size).step_by(SPLIT as usize) {
                model.push((border - 70_000, random.bytes(9_000)));
                model.push((border - 1_000, random.bytes(2_000)));
                model.push((border + 65_536, random.bytes(4_096)));
            }
            model.retain(|(offset, bytes)| offset + (bytes.len() as u64) < size - 512);
            model.push((size - 512, random.bytes(512)));
            let written = write(Format::Vmdk, size, &[option.to_owned()], &model, &what);
            let lengths: Vec<_> = written.others.iter().map(|(_, file)| file.len()).collect();
            assert_eq!(lengths.len(), extents, "{what}");
            // Below 2 GiB also with all grains and tables.
            assert!(
                lengths.iter().all(|len| *len < 2 << 30),
                "{what}: {lengths:?}"
            );
            check(
                open(written, Format::Vmdk, &what).source.as_ref(),
                &model,
                &what,
            );
        }
    }
}

#[test]
fn a_disk_that_the_kind_of_vmdk_cannot_hold_is_a_limit() {
    let kind = |size: u64, subformat: &str| {
        let options = [format!("subformat={subformat}")];
        target(Format::Vmdk, size, &options)
            .err()
            .map(|error| error.kind())
    };
    assert_eq!(kind(2000 << 30, "monolithicSparse"), None);
    assert_eq!(kind(2 << 40, "monolithicSparse"), Some(ErrorKind::Limit));
    for subformat in ["vmfs", "monolithicFlat", "streamOptimized"] {
        assert_eq!(kind(64 << 40, subformat), None);
        assert_eq!(kind((64 << 40) + 1, subformat), Some(ErrorKind::Limit));
    }
    // More extents than a descriptor that can be read has lines for.
    assert_eq!(kind(40 << 40, "twoGbMaxExtentSparse"), None);
    assert_eq!(
        kind(64 << 40, "twoGbMaxExtentSparse"),
        Some(ErrorKind::Limit)
    );
    assert_eq!(kind(64 << 40, "twoGbMaxExtentFlat"), Some(ErrorKind::Limit));
}
