//! New VMDKs: files that appear together or not at all, and compressed blocks that are handed on as they are.

mod common;

use std::fs;
use std::path::PathBuf;

use common::damage::{fails_to, snapshot};
use common::peers::{qemu_finds_equal, seven_zip_agrees};
use common::vmdk::{SECTOR, descriptor, grains};
use common::{Folder, convert, folder_of, have, make_disk, noise, run_ok, s, tool};

const MIB: u64 = 1 << 20;
const STREAM: [&str; 2] = ["-o", "subformat=streamOptimized"];

/// The kinds that are several files, with the last of them.
const IN_FILES: [(&str, &str); 4] = [
    ("monolithicFlat", "new-flat.vmdk"),
    ("vmfs", "new-flat.vmdk"),
    ("twoGbMaxExtentFlat", "new-f002.vmdk"),
    ("twoGbMaxExtentSparse", "new-s002.vmdk"),
];

/// A folder with a disk of a little more than one extent of a split VMDK.
fn disk() -> (Folder, PathBuf) {
    let folder = Folder::new();
    let raw = folder.file("disk.raw");
    make_disk(&raw, (2 << 30) + MIB + 512);
    (folder, raw)
}

#[test]
fn an_extent_that_exists_is_not_replaced_unless_asked_for() {
    let (folder, raw) = disk();
    for (subformat, part) in IN_FILES {
        let target = folder.file("new.vmdk");
        let options = ["-o", &format!("subformat={subformat}")];
        fs::write(folder.file(part), "old").expect("write");
        let before = snapshot(folder.path());
        let error = fails_to(&raw, &target, &options, 5, "refused");
        assert!(error.to_string().contains(part), "{error}");
        assert!(snapshot(folder.path()) == before);

        // The second time over all that is there by then.
        for _ in 0..2 {
            let options = [&options[..], &["--force", "--verify"]].concat();
            let answer = convert(&raw, &target, &options);
            assert_eq!(answer["verified"], true, "{subformat}");
            run_ok(&["compare", "-s", s(&raw), s(&target)]);
        }
        for name in folder.names() {
            if name.starts_with("new") {
                fs::remove_file(folder.file(&name)).expect("remove");
            }
        }
        assert_eq!(folder.names(), ["disk.raw"]);
    }
}

#[test]
fn an_extent_of_the_source_is_not_overwritten() {
    let text = descriptor(
        "monolithicFlat",
        1,
        None,
        &["RW 16 FLAT \"new-flat.vmdk\" 0"],
    );
    let folder = folder_of(&[("a.vmdk", text), ("new-flat.vmdk", noise(1, 16 * SECTOR))]);
    let (source, target) = (folder.file("a.vmdk"), folder.file("new.vmdk"));
    for subformat in ["monolithicFlat", "vmfs"] {
        let options = ["--force", "-o", &format!("subformat={subformat}")];
        fails_to(&source, &target, &options, 5, "refused");
    }
    fails_to(
        &source,
        &folder.file("new-flat.vmdk"),
        &["--force"],
        5,
        "refused",
    );
}

/// A folder with `disk.raw`, and `hard.vmdk`: the same as a stream, compressed as hard as it goes.
fn hard() -> (Folder, PathBuf) {
    let folder = Folder::new();
    let raw = folder.file("disk.raw");
    // What compresses, so that levels differ.
    let text: Vec<u8> = (0..2 * MIB).map(|n| ((n / 7) ^ (n >> 9)) as u8).collect();
    fs::write(&raw, [noise(1, 100_000), text, vec![0; 300_000]].concat()).expect("write");
    let hard = folder.file("hard.vmdk");
    convert(&raw, &hard, &["-o", "subformat=streamOptimized,level=12"]);
    (folder, hard)
}

#[test]
fn grains_pass_from_stream_to_stream_as_they_are() {
    let (folder, hard) = hard();
    let of = |name: &str| grains(&fs::read(folder.file(name)).expect("read"));
    convert(&hard, &folder.file("passed.vmdk"), &STREAM);
    assert!(of("passed.vmdk") == of("hard.vmdk"));

    convert(
        &hard,
        &folder.file("again.vmdk"),
        &[&STREAM[..], &["--recompress"]].concat(),
    );
    convert(
        &folder.file("disk.raw"),
        &folder.file("usual.vmdk"),
        &STREAM,
    );
    assert!(of("again.vmdk") == of("usual.vmdk"));
    assert!(of("again.vmdk") != of("hard.vmdk"));
}

#[test]
fn a_damaged_grain_is_not_passed_on() {
    let (folder, hard) = hard();
    let image = fs::read(&hard).expect("read");
    let places: Vec<_> = (65536..image.len() - 4096)
        .step_by(SECTOR)
        .filter(|at| image[*at + 8..*at + 12] != [0; 4])
        .collect();
    for at in [places[0] + 5000, places[0] + 12 + 40_000] {
        let mut bad = image.clone();
        bad[at] ^= 0x10;
        let source = folder.file("bad.vmdk");
        fs::write(&source, bad).expect("write");
        fails_to(&source, &folder.file("new.vmdk"), &STREAM, 3, "malformed");
    }
}

#[test]
fn clusters_of_qcow2_become_grains() {
    if !have("qemu-img") || !have("7zz") {
        return;
    }
    let (folder, _) = hard();
    let (raw, qcow2) = (folder.file("disk.raw"), folder.file("packed.qcow2"));
    let options = ["convert", "-c", "-f", "raw", "-O", "qcow2"];
    tool("qemu-img", &[&options[..], &[s(&raw), s(&qcow2)]].concat());
    let size = raw
        .metadata()
        .expect("its length")
        .len()
        .next_multiple_of(512);
    for more in [&[][..], &["--recompress"]] {
        let image = folder.file("new.vmdk");
        convert(
            &qcow2,
            &image,
            &[&STREAM[..], &["--force", "--verify"], more].concat(),
        );
        assert!(qemu_finds_equal("vmdk", &image, "raw", &raw), "{more:?}");
        seven_zip_agrees("vmdk", &image, &raw, size);
    }
}
