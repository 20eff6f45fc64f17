//! Overlays (`-B`): what they hold of a disk, what they stand on, and that this is never written to.

mod common;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use common::checks::COPIED;
use common::damage::images::{be64, patch};
use common::damage::{fails_to, snapshot};
use common::peers::{qemu_check, qemu_finds_equal};
use common::{Folder, convert, guest_digest, have, make_disk, noise, run, s, tool};

const MIB: u64 = 1 << 20;

/// A base, and a disk that differs from it here and there: data over data, zeros over data, data over zeros, longer.
fn base_and_changed(folder: &Folder) -> (PathBuf, PathBuf) {
    let (base, changed) = (folder.file("base.raw"), folder.file("changed.raw"));
    make_disk(&base, 6 * MIB);
    let mut bytes = std::fs::read(&base).expect("read");
    bytes[100_000..101_000].copy_from_slice(&noise(9, 1000));
    bytes[400_000..600_000].fill(0);
    bytes[3_000_000..3_000_512].fill(5);
    bytes.resize(8 << 20, 0);
    bytes[8_000_000..8_001_000].fill(6);
    std::fs::write(&changed, bytes).expect("write");
    (base, changed)
}

#[test]
fn an_overlay_holds_only_what_differs() {
    if !have("qemu-img") {
        return;
    }
    let folder = Folder::new();
    let (base, changed) = base_and_changed(&folder);
    for format in ["raw", "qcow2", "vhd", "vmdk"] {
        let name = format!("base.{format}");
        if format != "raw" {
            convert(&base, &folder.file(&name), &["-f", "raw"]);
        }
        for options in [
            "",
            "compat=0.10",
            "extended_l2=on",
            "cluster_size=512",
            "cluster_size=2M",
        ] {
            for compress in [false, true] {
                let target = folder.file("tip.qcow2");
                let mut arguments = vec!["-B", &name, "-F", format, "--verify", "--force"];
                if !options.is_empty() {
                    arguments.extend(["-o", options]);
                }
                if compress {
                    arguments.push("-c");
                }
                convert(&changed, &target, &arguments);
                assert!(
                    qemu_finds_equal("qcow2", &target, "raw", &changed),
                    "{arguments:?}"
                );
                qemu_check("qcow2", &target);
                let info = tool("qemu-img", &["info", "--output=json", s(&target)]);
                assert!(info.contains("backing-filename-format"), "{info}");
                if options.is_empty() {
                    let len = std::fs::metadata(&target).expect("metadata").len();
                    assert!(len < MIB, "{len} bytes");
                }
            }
        }
    }
}

#[test]
fn an_overlay_of_the_same_disk_is_empty_and_never_replaces_its_base() {
    let folder = Folder::new();
    let (base, _) = base_and_changed(&folder);
    let target = folder.file("tip.qcow2");
    let answer = convert(&base, &target, &["-B", "base.raw"]);
    assert_eq!(answer["bytes"]["data"], 0);
    assert_eq!(answer["bytes"]["zero"], 0);
    assert_eq!(answer["bytes"]["below"], 6 * MIB);
    let before = std::fs::read(&base).expect("read");
    let arguments = [
        "convert",
        s(&target),
        s(&base),
        "-O",
        "qcow2",
        "-B",
        "base.raw",
        "--force",
    ];
    assert_eq!(run(&arguments).code, Some(5));
    assert!(std::fs::read(&base).expect("read") == before);
}

/// A folder with `disk.raw`, which is `source`, and an image of the same disk and one of another that it may stand on.
fn disk_and_bases(source: &[u8], base: &[u8]) -> (Folder, PathBuf) {
    let folder = Folder::new();
    let (raw, base_raw) = (folder.file("disk.raw"), folder.file("base.raw"));
    std::fs::write(&raw, source).expect("write");
    std::fs::write(&base_raw, base).expect("write");
    convert(&base_raw, &folder.file("base.qcow2"), &["-f", "raw"]);
    (folder, raw)
}

#[test]
fn a_data_file_never_replaces_what_the_overlay_stands_on() {
    let (folder, raw) = disk_and_bases(&noise(1, 300_032), &noise(2, 300_032));
    let base = folder.file("base.qcow2");
    symlink(&base, folder.file("soft.qcow2")).expect("link");
    std::fs::hard_link(&base, folder.file("hard.qcow2")).expect("link");
    let middle = folder.file("middle.qcow2");
    convert(&raw, &middle, &["-B", "base.qcow2"]);
    let target = folder.file("new.qcow2");
    for (base, data) in [
        ("base.qcow2", "base.qcow2"),
        ("base.qcow2", "soft.qcow2"),
        ("base.qcow2", "hard.qcow2"),
        ("soft.qcow2", "base.qcow2"),
        ("middle.qcow2", "base.qcow2"),
        ("base.raw", "base.raw"),
        // Nor the source.
        ("base.qcow2", "disk.raw"),
    ] {
        let data = format!("data_file={data}");
        let options = ["-B", base, "-o", &data, "--force"];
        let error = fails_to(&raw, &target, &options, 5, "refused");
        assert!(
            error["message"]
                .as_str()
                .is_some_and(|m| m.contains("stands on"))
        );
    }
}

#[test]
fn a_data_file_of_the_name_of_the_image_is_a_usage_error() {
    let (folder, raw) = disk_and_bases(&noise(1, 300_032), &noise(2, 300_032));
    let target = folder.file("new.qcow2");
    for options in [
        &["-o", "data_file=new.qcow2"][..],
        &["-o", "data_file=new.qcow2", "--force"],
        &["-o", "data_file=new.qcow2", "-B", "base.qcow2"],
        &["-o", "data_file=./new.qcow2", "--force"],
    ] {
        fails_to(&raw, &target, options, 2, "usage");
    }
}

/// The overlay `target` reads as `raw`, to diskferry and to QEMU.
fn reads_as(target: &Path, raw: &Path) {
    assert_eq!(guest_digest(target, &[]), guest_digest(raw, &[]));
    assert!(qemu_finds_equal("qcow2", target, "raw", raw));
}

#[test]
fn a_base_whose_name_has_a_colon_is_a_file_and_no_protocol() {
    if !have("qemu-img") {
        return;
    }
    let (folder, raw) = disk_and_bases(&noise(1, 100_352), &noise(2, 100_352));
    let disk = std::fs::read(&raw).expect("read");
    std::fs::create_dir(folder.file("d:e")).expect("a folder");
    for (name, others) in [
        ("web-T10:00.raw", &[][..]),
        // Without its prefix it would be another file.
        ("file:b.raw", &["b.raw"]),
        ("nbd:c.raw", &[]),
        ("./f:g.raw", &[]),
        ("d:e/h.raw", &[]),
        ("json:{}", &[]),
    ] {
        std::fs::write(folder.file(name), &disk).expect("write");
        for other in others {
            std::fs::write(folder.file(other), noise(3, disk.len())).expect("write");
        }
        let target = folder.file("tip.qcow2");
        let options = ["-f", "raw", "-B", name, "-F", "raw", "--verify", "--force"];
        let answer = convert(&raw, &target, &options);
        assert_eq!(answer["bytes"]["data"], 0, "{name}");
        let trusted = ["--allow-references", s(folder.path())];
        assert_eq!(guest_digest(&target, &trusted), guest_digest(&raw, &[]));
        assert!(qemu_finds_equal("qcow2", &target, "raw", &raw), "{name}");
    }
}

#[test]
fn a_data_file_whose_name_has_a_colon_is_a_usage_error() {
    let (folder, raw) = disk_and_bases(&noise(1, 100_352), &noise(2, 100_352));
    let target = folder.file("new.qcow2");
    for name in ["d:1.raw", "file:d.raw", "nbd:d", ":"] {
        let option = format!("data_file={name}");
        fails_to(&raw, &target, &["-o", &option], 2, "usage");
    }
}

#[test]
fn an_odd_end_is_not_filled_up_from_the_base() {
    if !have("qemu-img") {
        return;
    }
    let disk = noise(1, 513);
    for (base, fits) in [
        // Up to the end of the last sector, and beyond it.
        (noise(1, 1024), false),
        (noise(1, 4096), false),
        ([&disk[..], &[0; 510], &[1]].concat(), false),
        ([&disk[..], &[1]].concat(), false),
        ([&disk[..], &[0; 511]].concat(), true),
        ([&disk[..], &[0; 511], &noise(2, 3072)].concat(), true),
        (disk.clone(), true),
        (disk[..512].to_vec(), true),
        ([&disk[..], &[0; 5]].concat(), true),
    ] {
        let (folder, raw) = disk_and_bases(&disk, &base);
        let mut padded = disk.clone();
        padded.resize(1024, 0);
        let expected = folder.file("expected.raw");
        std::fs::write(&expected, padded).expect("write");
        let target = folder.file("tip.qcow2");
        for below in ["base.raw", "base.qcow2"] {
            for more in [&["--verify"][..], &["-c"], &["-o", "extended_l2=on"]] {
                let options = [&["-B", below, "--force"], more].concat();
                if fits {
                    convert(&raw, &target, &options);
                    reads_as(&target, &expected);
                } else {
                    fails_to(&raw, &target, &options, 5, "refused");
                }
            }
        }
    }
}

#[test]
fn what_is_lost_of_a_base_is_an_error_even_when_salvaging() {
    let (folder, raw) = disk_and_bases(&[0; 1 << 20], &noise(1, 1 << 20));
    let base = folder.file("base.qcow2");
    let mut bytes = std::fs::read(&base).expect("read");
    let l2 = be64(&bytes, be64(&bytes, 40) as usize) & !COPIED;
    // An entry that nobody writes so: a cluster that starts in the middle of another.
    let entry = be64(&bytes, l2 as usize + 3 * 8);
    patch(
        &mut bytes,
        l2 as usize + 3 * 8,
        &(entry + 512).to_be_bytes(),
    );
    std::fs::write(&base, bytes).expect("write");
    assert_eq!(run(&["digest", s(&base)]).code, Some(3));
    let target = folder.file("tip.qcow2");
    for options in [
        &["-B", "base.qcow2"][..],
        &["-B", "base.qcow2", "--salvage"],
        &["-B", "base.qcow2", "--salvage", "--verify"],
        &["-B", "base.qcow2", "--salvage", "-c"],
    ] {
        let error = fails_to(&raw, &target, options, 3, "malformed");
        assert!(
            error["file"]
                .as_str()
                .is_some_and(|f| f.ends_with("base.qcow2")),
            "{error}"
        );
    }
    // What is lost of the source is still salvaged.
    let before = snapshot(folder.path());
    let options = ["-B", "base.raw", "--salvage"];
    let answer = convert(&base, &target, &options);
    assert_eq!(answer["bytes"]["lost"], 65_536);
    std::fs::remove_file(&target).expect("remove");
    assert!(snapshot(folder.path()) == before);
}

#[test]
fn a_base_that_will_not_be_followed_is_told() {
    let folder = Folder::new();
    let base = folder.file("base.raw");
    std::fs::write(&base, [1; 4096]).expect("write");
    std::fs::create_dir(folder.file("sub")).expect("folder");
    let overlay = folder.file("sub/tip.qcow2");
    let done = run(&["convert", s(&base), s(&overlay), "-B", "../base.raw"]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(
        done.stderr.contains("never followed here"),
        "{}",
        done.stderr
    );
}
