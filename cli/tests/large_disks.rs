//! Disks of many terabytes with little in them: what they hold counts, not how large they are, and no limit of a format
//! is overstepped.

mod common;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::cost::cost_of;
use common::{Folder, convert, guest_digest, have, noise, patched, run, run_ok, s, tool};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

/// Far more than it takes, so that a busy machine is no failure; a loop over every cluster would take longer.
const MOMENT: Duration = Duration::from_secs(5);

fn empty(folder: &Folder, size: u64) -> PathBuf {
    let raw = folder.file("empty.raw");
    File::create(&raw)
        .expect("create")
        .set_len(size)
        .expect("grow");
    raw
}

fn in_a_moment(source: &Path, target: &Path, options: &[&str]) {
    let started = Instant::now();
    convert(source, target, options);
    assert!(started.elapsed() < MOMENT, "{:?}", started.elapsed());
}

#[test]
fn an_empty_disk_of_64_tib_takes_a_moment() {
    if !have("qemu-img") {
        return;
    }
    let folder = Folder::new();
    let (image, copy) = (folder.file("empty.qcow2"), folder.file("copy.qcow2"));
    tool("qemu-img", &["create", "-f", "qcow2", s(&image), "64T"]);
    in_a_moment(&image, &copy, &[]);
    let info = run_ok(&["info", s(&copy), "--json"]).json();
    assert_eq!(info["virtual_size"], 64 * TIB);
    assert!(info["allocated"].as_u64().expect("bytes") < 64 << 20);
    let started = Instant::now();
    assert_eq!(run(&["compare", "-s", s(&image), s(&copy)]).code, Some(0));
    assert!(started.elapsed() < MOMENT);
    let map = run_ok(&["map", s(&copy), "--json"]).json();
    assert_eq!(map["runs"].as_array().map(Vec::len), Some(1));
}

#[test]
fn an_empty_vhdx_of_64_tib_takes_a_moment() {
    if !have("qemu-img") {
        return;
    }
    let folder = Folder::new();
    for size in ["1M", "2M", "32M", "256M"] {
        let (image, copy) = (folder.file("empty.vhdx"), folder.file("copy.vhdx"));
        let option = format!("block_size={size}");
        let create = ["create", "-f", "vhdx", "-o", &option, s(&image), "64T"];
        tool("qemu-img", &create);
        in_a_moment(&image, &copy, &["--force"]);
        let info = run_ok(&["info", s(&copy), "--json"]).json();
        assert_eq!(info["virtual_size"], 64 * TIB);
        assert!(info["file_size"].as_u64().expect("bytes") < 32 << 20);
        let map = run_ok(&["map", s(&image), "--json"]).json();
        assert_eq!(map["runs"].as_array().map(Vec::len), Some(1));
    }
}

#[test]
fn the_largest_vhd_of_zeros_takes_a_moment() {
    let folder = Folder::new();
    let raw = empty(&folder, 2040 * GIB);
    let dynamic = folder.file("dynamic.vhd");
    in_a_moment(&raw, &dynamic, &[]);
    in_a_moment(&raw, &folder.file("fixed.vhd"), &["-o", "subformat=fixed"]);
    in_a_moment(&dynamic, &folder.file("disk.qcow2"), &[]);
}

/// Its block map alone takes 256 MiB.
#[test]
fn a_vdi_of_64_tib_of_zeros_takes_a_moment() {
    let folder = Folder::new();
    let (vdi, copy) = (folder.file("empty.vdi"), folder.file("copy.qcow2"));
    in_a_moment(&empty(&folder, 14 * TIB), &folder.file("small.vdi"), &[]);
    in_a_moment(&folder.file("small.vdi"), &folder.file("small.qcow2"), &[]);
    if have("qemu-img") {
        let image = folder.file("empty.qcow2");
        tool("qemu-img", &["create", "-f", "qcow2", s(&image), "64T"]);
        in_a_moment(&image, &vdi, &[]);
        in_a_moment(&vdi, &copy, &[]);
        assert_eq!(run(&["compare", "-s", s(&image), s(&copy)]).code, Some(0));
    }
}

#[test]
fn a_disk_that_the_format_cannot_hold_is_refused_before_a_byte_is_written() {
    let folder = Folder::new();
    let raw = empty(&folder, 2040 * GIB + 1);
    for (name, options) in [
        ("a.vhd", &[][..]),
        ("a.vhd", &["-o", "subformat=fixed"]),
        // qemu takes 32 MiB of first-level table at most.
        ("a.qcow2", &["-o", "cluster_size=512"]),
    ] {
        let target = folder.file(name);
        let arguments = ["convert", s(&raw), s(&target)];
        let finished = run(&[&arguments, options].concat());
        assert_eq!(finished.code, Some(3), "{}", finished.stderr);
        assert_eq!(folder.names(), ["empty.raw"]);
    }
    convert(&raw, &folder.file("fits.qcow2"), &[]);
}

#[test]
fn what_little_there_is_at_the_far_end_arrives() {
    if !have("qemu-img") {
        return;
    }
    let folder = Folder::new();
    let size = 14 * TIB;
    let raw = folder.file("disk.raw");
    patched(
        &empty(&folder, 0),
        &raw,
        &[(3 * TIB - 300, &noise(1, 700)), (size - 5, b"ended")],
    );
    let image = folder.file("disk.qcow2");
    in_a_moment(&raw, &image, &[]);
    assert_eq!(run(&["compare", s(&raw), s(&image)]).code, Some(0));
    tool(
        "qemu-img",
        &["compare", "-f", "raw", "-F", "qcow2", s(&raw), s(&image)],
    );
    let back = folder.file("back.raw");
    in_a_moment(&image, &back, &[]);
    tool(
        "qemu-img",
        &["compare", "-f", "raw", "-F", "raw", s(&raw), s(&back)],
    );
}

/// Verifying hashes zeros too, but only so many of them: its cost does not grow with the size of the disk.
#[test]
fn verifying_ends_however_large_the_disk_is() {
    if !have("qemu-img") {
        return;
    }
    let folder = Folder::new();
    let (image, copy) = (folder.file("empty.qcow2"), folder.file("copy.qcow2"));
    tool("qemu-img", &["create", "-f", "qcow2", s(&image), "64T"]);
    let answer = convert(&image, &copy, &["--verify"]);
    assert_eq!(answer["verified"], true);
    assert_eq!(answer["digest"], serde_json::Value::Null);
}

/// The digest of a disk with more zeros than anything else is still that of all its bytes.
#[test]
fn zeros_count_in_a_digest() {
    let folder = Folder::new();
    let raw = empty(&folder, GIB + 7);
    let image = folder.file("disk.qcow2");
    convert(&raw, &image, &[]);
    let padded = empty(&folder, GIB + 512);
    assert_eq!(guest_digest(&image, &[]), guest_digest(&padded, &[]));
    assert_eq!(guest_digest(&padded, &[]).0, common::sha256sum(&padded));
}

/// Tables of 512 MiB, for clusters that are all empty.
#[test]
fn the_tables_of_a_preallocated_hole_are_not_kept_in_memory() {
    if !have("python3") {
        return;
    }
    let folder = Folder::new();
    let raw = empty(&folder, 256 * GIB);
    let options = "preallocation=metadata,cluster_size=4k";
    let cost = cost_of(&["measure", "-O", "qcow2", "-o", options, s(&raw)]);
    assert!(cost.peak < 256 * MIB, "{cost:?}");
    // And what is made in the end is not smaller for it.
    let (small, image) = (folder.file("small.raw"), folder.file("small.qcow2"));
    File::create(&small)
        .and_then(|file| file.set_len(GIB))
        .expect("a hole");
    let made = convert(&small, &image, &["-o", options]);
    assert!(made["target"]["file_size"].as_u64() > Some(GIB));
}

/// An image that has a cluster for everything and nothing in any of them: 16 million entries, and holes of the file.
#[test]
fn a_preallocated_image_costs_what_its_tables_do() {
    /// Twenty times what it takes; with the clusters read it takes minutes.
    const PATIENCE: Duration = Duration::from_secs(30);
    if !have("qemu-img") || !have("python3") {
        return;
    }
    let folder = Folder::new();
    let (image, copy) = (folder.file("preallocated.qcow2"), folder.file("copy.qcow2"));
    let create = ["create", "-f", "qcow2", "-o", "preallocation=metadata"];
    tool("qemu-img", &[&create[..], &[s(&image), "1T"]].concat());
    let cost = cost_of(&["convert", s(&image), s(&copy)]);
    assert!(cost.processor < PATIENCE, "{cost:?}");
    assert!(cost.peak < 256 * MIB, "{cost:?}");
    let info = run_ok(&["info", s(&copy), "--json"]).json();
    assert_eq!(info["virtual_size"], TIB);
    assert!(info["allocated"].as_u64() < Some(64 * MIB));
}
