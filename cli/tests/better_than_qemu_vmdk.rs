//! Where qemu-img 10.0.2 is wrong about VMDK, and diskferry must not be. Each test shows both: should qemu-img be mended
//! one day, the test says so.

mod common;

use std::path::Path;
use std::process::{Command, Stdio};

use common::damage::images::{le32, le64};
use common::damage::{Damaged, fails};
use common::peers::{diskferry_content, qemu_content, qemu_img, qemu_raw, seven_zip_agrees};
use common::vmdk::{Item, SECTOR, descriptor, grains, walk};
use common::{Folder, convert, folder_of, have, make_disk, noise, run_ok, s, tool};

const MIB: u64 = 1 << 20;

/// A folder with `a.vmdk` of these extents, `a-flat.vmdk` of 2 MiB, and what that holds.
fn flat(create_type: &str, extents: &[&str]) -> (Folder, Vec<u8>) {
    let content = noise(1, 2 * MIB as usize);
    let text = descriptor(create_type, 1, None, extents);
    let files = [("a.vmdk", text), ("a-flat.vmdk", content.clone())];
    (folder_of(&files), content)
}

#[test]
fn extents_of_zeros_and_extents_that_are_not_writable_are_part_of_the_disk() {
    if !have("qemu-img") {
        return;
    }
    let (first, last) = (
        "RW 2048 FLAT \"a-flat.vmdk\" 0",
        "RW 2048 FLAT \"a-flat.vmdk\" 2048",
    );
    let gap = vec![0; MIB as usize];
    for (middle, of_flat) in [
        ("RW 2048 ZERO", None),
        ("RDONLY 2048 ZERO", None),
        ("NOACCESS 2048 ZERO", None),
        ("RDONLY 2048 FLAT \"a-flat.vmdk\" 1024", Some(512 << 10)),
        ("NOACCESS 2048 FLAT \"a-flat.vmdk\" 7", Some(7 * SECTOR)),
    ] {
        let (folder, content) = flat("monolithicFlat", &[first, middle, last]);
        let image = folder.file("a.vmdk");
        let (front, back) = content.split_at(MIB as usize);
        // The last extent has slipped to the front, and the disk is smaller by one extent.
        assert!(
            qemu_content(&image, "vmdk", &folder) == content,
            "qemu-img has learnt {middle}"
        );
        let between = of_flat.map_or(&gap[..], |at| &content[at..at + MIB as usize]);
        let disk = [front, between, back].concat();
        assert!(diskferry_content(&image, &folder) == disk, "{middle}");
    }
}

#[test]
fn a_flat_extent_that_is_cut_off_is_an_error() {
    if !have("qemu-img") {
        return;
    }
    for line in [
        "RW 4096 FLAT \"a-flat.vmdk\" 0",
        "RW 4096 VMFS \"a-flat.vmdk\"",
    ] {
        let (folder, content) = flat("monolithicFlat", &[line]);
        let extent = folder.file("a-flat.vmdk");
        std::fs::write(&extent, &content[..MIB as usize + 1]).expect("write");
        let image = folder.file("a.vmdk");
        let of_qemu = qemu_content(&image, "vmdk", &folder);
        assert_eq!(of_qemu.len(), content.len(), "qemu-img notices by now");
        assert!(of_qemu[MIB as usize + 1..].iter().all(|byte| *byte == 0));
        let error = fails(&image, &[], 3, "truncated");
        assert_eq!(error["file"].as_str(), Some(s(&extent)), "{error}");
    }
}

#[test]
fn a_truncated_sparse_vmdk_is_an_error() {
    if !have("qemu-img") {
        return;
    }
    let folder = Folder::new();
    let raw = folder.file("disk.raw");
    make_disk(&raw, 10 * MIB);
    let image = folder.file("disk.vmdk");
    convert(&raw, &image, &[]);
    let bytes = std::fs::read(&image).expect("read");
    let cut = Damaged::new("cut.vmdk", &bytes[..bytes.len() * 6 / 10]);
    let of_qemu = qemu_content(&cut.path, "vmdk", &cut.folder);
    assert!(
        of_qemu != std::fs::read(&raw).expect("read"),
        "qemu-img lost nothing"
    );
    cut.is("truncated");
}

#[test]
fn every_type_made_of_files_is_read_in_any_case() {
    if !have("qemu-img") {
        return;
    }
    for create_type in [
        "custom",
        "fullDevice",
        "partitionedDevice",
        "2GbMaxExtentFlat",
        "vmfsThin",
        "vmfsPreallocated",
        "vmfsEagerZeroedThick",
        "MONOLITHICFLAT",
        "monolithicflat",
    ] {
        let (folder, content) = flat(create_type, &["RW 4096 FLAT \"a-flat.vmdk\" 0"]);
        let image = folder.file("a.vmdk");
        let (code, text) = qemu_img(&["info", "-f", "vmdk", s(&image)]);
        assert_eq!(code, Some(1), "qemu-img has learnt {create_type}: {text}");
        assert!(
            diskferry_content(&image, &folder) == content,
            "{create_type}"
        );
    }
}

#[test]
fn an_extent_on_vmfs_may_start_inside_its_file() {
    if !have("qemu-img") {
        return;
    }
    let lines = [
        "RW 4000 VMFS \"a-flat.vmdk\" 96",
        "RW 96 VMFS \"a-flat.vmdk\" 0",
    ];
    let (folder, content) = flat("vmfs", &lines);
    let image = folder.file("a.vmdk");
    let (code, text) = qemu_img(&["info", "-f", "vmdk", s(&image)]);
    assert_eq!(code, Some(1), "qemu-img has learnt offsets: {text}");
    let (last, first) = content.split_at(96 * SECTOR);
    assert!(diskferry_content(&image, &folder) == [first, last].concat());
}

/// A stream that diskferry makes of `raw`; with `through_a_pipe` on standard output.
fn stream_of(raw: &Path, through_a_pipe: bool, options: &[&str]) -> Vec<u8> {
    let folder = Folder::new();
    let target = folder.file("disk.vmdk");
    let name = if through_a_pipe { "-" } else { s(&target) };
    let format = ["-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized"];
    let arguments = [&["convert", s(raw), name], &format[..], options].concat();
    let finished = run_ok(&arguments);
    if through_a_pipe {
        assert_eq!(folder.names(), [""; 0]);
        return finished.stdout;
    }
    std::fs::read(&target).expect("read")
}

/// The stream is what VMware's own importers take: grains ascending, each where its table says, tables and footer at the
/// end, and then exactly one sector of zeros.
fn is_a_stream_for_vmware(stream: &[u8], size: u64) {
    assert_eq!(&stream[..4], b"KDMV");
    assert_eq!(le32(stream, 4), 3, "version");
    assert_eq!(le32(stream, 8), 0x3_0001, "flags");
    assert_eq!(le64(stream, 12), size / 512, "capacity");
    assert_eq!(le64(stream, 56), u64::MAX, "the directory is at the end");
    let items = walk(stream);
    let kinds: Vec<_> = items
        .iter()
        .map(|item| match item {
            Item::Grain(..) => 0,
            Item::Table => 1,
            Item::Directory => 2,
            Item::Footer(_) => 3,
            Item::End => 4,
        })
        .collect();
    assert!(kinds.is_sorted(), "{kinds:?}");
    assert!(kinds.ends_with(&[2, 3, 4]), "{kinds:?}");
    let count = |wanted| kinds.iter().filter(|kind| **kind == wanted).count();
    assert_eq!([count(2), count(3), count(4)], [1, 1, 1], "{kinds:?}");
    let footer = stream.len() - 1024;
    assert!(items.contains(&Item::Footer(footer)));
    // The footer is the header, but knows where the directory is.
    assert_eq!(stream[footer..footer + 56], stream[..56]);
    assert_eq!(stream[footer + 64..footer + 512], stream[64..512]);
    let directory = le64(stream, footer + 56) as usize * SECTOR;

    let mut sectors = grains(stream).into_iter().map(|(sector, _)| sector);
    let mut at = le64(stream, 64) as usize * SECTOR;
    let mut named = Vec::new();
    for table in 0..size.div_ceil(32 * MIB) as usize {
        let place = le32(stream, directory + 4 * table) as usize * SECTOR;
        let entries = (0..512).map(|entry| (entry, le32(stream, place + 4 * entry) as usize));
        for (entry, grain) in entries.filter(|(_, grain)| place > 0 && *grain > 0) {
            assert_eq!(
                le64(stream, grain * SECTOR),
                (table * 512 + entry) as u64 * 128
            );
            assert_eq!(grain * SECTOR, at, "grains follow each other");
            at = (at + 12 + le32(stream, at + 8) as usize).next_multiple_of(SECTOR);
            named.push((table * 512 + entry) as u64 * 128);
        }
    }
    assert!(sectors.by_ref().eq(named), "the tables name every grain");
}

#[test]
fn streams_are_what_importers_take() {
    let folder = Folder::new();
    let raw = folder.file("disk.raw");
    for (size, content) in [
        (70 * MIB + 512, true),
        (MIB, false),
        (512, true),
        (40 * MIB, true),
    ] {
        make_disk(&raw, size);
        if !content {
            std::fs::write(&raw, vec![0; size as usize]).expect("write");
        }
        let stream = stream_of(&raw, false, &["--reproducible"]);
        is_a_stream_for_vmware(&stream, size);
        is_a_stream_for_vmware(&stream_of(&raw, true, &[]), size);
        // The same bytes with any number of threads, and through a pipe.
        assert!(stream == stream_of(&raw, false, &["--reproducible", "-j", "1"]));
        assert!(stream == stream_of(&raw, true, &["--reproducible"]));
    }
}

#[test]
fn streams_of_qemu_are_not() {
    if !have("qemu-img") || !have("7zz") {
        return;
    }
    let folder = Folder::new();
    let raw = folder.file("disk.raw");
    make_disk(&raw, 10 * MIB);
    let of_qemu = folder.file("qemu.vmdk");
    let options = [
        "convert",
        "-f",
        "raw",
        "-O",
        "vmdk",
        "-o",
        "subformat=streamOptimized",
    ];
    tool(
        "qemu-img",
        &[&options[..], &[s(&raw), s(&of_qemu)]].concat(),
    );
    let bytes = std::fs::read(&of_qemu).expect("read");
    assert!(
        le64(&bytes, 56) != u64::MAX,
        "qemu-img writes a footer by now"
    );
    let refused = Command::new("7zz")
        .args(["t", "-tVMDK", s(&of_qemu)])
        .stdin(Stdio::null())
        .output()
        .expect("7zz");
    assert!(
        !refused.status.success(),
        "7-Zip reads the streams of qemu now"
    );
    // What diskferry makes of that stream is read by both.
    let ours = folder.file("ours.vmdk");
    convert(&of_qemu, &ours, &["-o", "subformat=streamOptimized"]);
    is_a_stream_for_vmware(&std::fs::read(&ours).expect("read"), 10 * MIB);
    seven_zip_agrees("vmdk", &ours, &raw, 10 * MIB);
    let back = folder.file("back.raw");
    qemu_raw("vmdk", &ours, &back);
    assert!(std::fs::read(&back).expect("read") == std::fs::read(&raw).expect("read"));
}
