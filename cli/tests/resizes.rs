//! `resize`: another size for images where they stand, with QEMU and 7-Zip as judges of what comes out.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::peers::{
    Readers, have_qemu, qemu_check, qemu_finds_equal, qemu_size, seven_zip_agrees,
};
use common::{Folder, convert, diskferry, guest_digest, have, kills, noise, run, run_ok, s, tool};

const MIB: u64 = 1 << 20;

/// Formats, options and the name of the file.
const KINDS: &[(&str, &str, &[&str])] = &[
    ("raw", "a.raw", &[]),
    ("vhd", "a.vhd", &["-o", "subformat=fixed"]),
    ("vhd", "a.vhd", &["-o", "subformat=dynamic"]),
    ("vhd", "a.vhd", &["-o", "subformat=dynamic,block_size=64k"]),
    ("qcow2", "a.qcow2", &[]),
    ("qcow2", "a.qcow2", &["-o", "compat=0.10,cluster_size=512"]),
    ("qcow2", "a.qcow2", &["-c", "-o", "extended_l2=on"]),
    ("vhdx", "a.vhdx", &[]),
    ("vhdx", "a.vhdx", &["-o", "subformat=fixed"]),
    ("vdi", "a.vdi", &[]),
    ("vdi", "a.vdi", &["-o", "subformat=fixed"]),
    ("vmdk", "a.vmdk", &["-o", "subformat=monolithicSparse"]),
    ("vmdk", "a.vmdk", &["-o", "subformat=monolithicFlat"]),
    ("vmdk", "a.vmdk", &["-o", "subformat=vmfs"]),
];

/// A raw disk of `size` bytes with noise at its front and in its middle.
fn disk(folder: &Folder, size: u64) -> PathBuf {
    let path = folder.file("disk.raw");
    let mut bytes = vec![0; size as usize];
    bytes[512..70_000].copy_from_slice(&noise(1, 69_488));
    let middle = size as usize / 2;
    bytes[middle..middle + 9000].copy_from_slice(&noise(2, 9000));
    std::fs::write(&path, bytes).expect("write");
    path
}

fn resize(image: &Path, size: &str, options: &[&str]) -> serde_json::Value {
    let arguments = [&["resize", "--json", s(image), size], options].concat();
    run_ok(&arguments).json()
}

fn set_len(raw: &Path, len: u64) {
    let file = std::fs::OpenOptions::new().write(true).open(raw);
    file.expect("open").set_len(len).expect("its length");
}

#[test]
fn every_format_grows_and_shrinks_as_qemu_sees_it() {
    if !have_qemu() {
        return;
    }
    for (format, name, options) in KINDS {
        let folder = Folder::new();
        let raw = disk(&folder, 10 * MIB);
        let image = folder.file(name);
        let target = [options, &["-O", format][..]].concat();
        convert(&raw, &image, &target);
        for (size, argument, how) in [
            (20 * MIB, "+10M", &[][..]),
            (300 * MIB, "300M", &[]),
            (12 * MIB, "12M", &["--shrink"]),
            (64 * MIB, "64M", &[]),
            (10 * MIB, "10M", &["--shrink"]),
        ] {
            let what = format!("{format} {options:?} to {size}");
            let answer = resize(&image, argument, how);
            assert_eq!(answer["size"], size, "{what}");
            set_len(&raw, size);
            assert_eq!(
                guest_digest(&image, &[]),
                guest_digest(&raw, &["-f", "raw"])
            );
            run_ok(&["check", "-f", format, s(&image)]);
            assert!(qemu_finds_equal(format, &image, "raw", &raw), "{what}");
            // For QEMU it is the geometry that counts in a VHD, or the file.
            let seen = qemu_size(format, &image);
            assert!(seen == size || *format == "vhd", "{what}: {seen}");
            if matches!(*format, "qcow2" | "vdi") {
                tool("qemu-img", &["check", "-f", format, s(&image)]);
            }
        }
    }
}

#[test]
fn it_takes_less_than_a_tenth_of_a_second() {
    for (format, name, options) in KINDS {
        let folder = Folder::new();
        let raw = disk(&folder, 10 * MIB);
        let image = folder.file(name);
        convert(&raw, &image, &[options, &["-O", format][..]].concat());
        let mut best = Duration::MAX;
        for size in ["100G", "200G", "400G"] {
            // Tables of hundreds of megabytes take longer to write.
            let options = options.concat();
            let has_small =
                options.contains("64k") || options.contains("512") || options.contains("fixed");
            let size = match has_small {
                true => size.replace('G', "M"),
                false => size.to_owned(),
            };
            let started = Instant::now();
            resize(&image, &size, &[]);
            best = best.min(started.elapsed());
        }
        assert!(best < Duration::from_millis(100), "{format}: {best:?}");
    }
}

#[test]
fn tables_of_every_size_are_counted_right() {
    if !have_qemu() {
        return;
    }
    for options in [
        "cluster_size=512",
        "cluster_size=512,refcount_bits=1",
        "cluster_size=4k,refcount_bits=64",
    ] {
        let folder = Folder::new();
        let image = folder.file("a.qcow2");
        convert(&disk(&folder, 10 * MIB), &image, &["-o", options]);
        let before = guest_digest(&image, &[]);
        // The refcount table has to grow for the L1 table.
        for size in ["20G", "32G", "100G"] {
            resize(&image, size, &[]);
            qemu_check("qcow2", &image);
            if options.contains("512") && size == "32G" {
                break;
            }
        }
        let small = folder.file("b.qcow2");
        resize(&image, "10M", &["--shrink"]);
        convert(&image, &small, &[]);
        assert_eq!(guest_digest(&small, &[]), before);
    }
}

#[test]
fn what_lies_behind_the_new_end_is_told_and_kept() {
    let folder = Folder::new();
    let raw = disk(&folder, 10 * MIB);
    let before = std::fs::read(&raw).expect("read");
    let refused = run(&["resize", "--json", s(&raw), "2M"]);
    assert_eq!((refused.code, &*refused.error_kind()), (Some(5), "refused"));
    assert!(refused.stderr.contains("--shrink"), "{}", refused.stderr);
    let refused = run(&["resize", s(&raw), "2M", "--shrink"]);
    assert_eq!(refused.code, Some(5), "{}", refused.text());
    let told = format!("data from byte {} on", 5 * MIB);
    assert!(refused.stderr.contains(&told), "{}", refused.stderr);
    // A partition, although all of it is zeros.
    let mut table = before.clone();
    table[446 + 4] = 0x83;
    table[446 + 8..446 + 16].copy_from_slice(&[0, 8, 0, 0, 0, 0x48, 0, 0]);
    table[510..512].copy_from_slice(&[0x55, 0xAA]);
    std::fs::write(&raw, &table).expect("write");
    let refused = run(&["resize", s(&raw), "6M", "--shrink"]);
    assert_eq!(refused.code, Some(5), "{}", refused.text());
    let told = "partition 1 of the MBR, bytes 1048576 to 10485760";
    assert!(refused.stderr.contains(told), "{}", refused.stderr);
    assert!(std::fs::read(&raw).expect("read") == table);
}

/// Calls `judge` with images of every format that grew and shrank, and a raw disk with their content.
/// Those with extended L2 entries are left out: none of the others knows them.
fn resized(mut judge: impl FnMut(&str, &Path, &Path, u64)) {
    for (format, name, options) in KINDS {
        if options.contains(&"extended_l2=on") {
            continue;
        }
        let folder = Folder::new();
        let raw = disk(&folder, 10 * MIB);
        let image = folder.file(name);
        convert(&raw, &image, &[options, &["-O", format][..]].concat());
        for size in [60 * MIB, 12 * MIB] {
            resize(&image, &size.to_string(), &["--shrink"]);
            set_len(&raw, size);
            judge(format, &image, &raw, size);
        }
    }
}

#[test]
fn seven_zip_reads_what_was_resized() {
    if !have("7zz") {
        return;
    }
    resized(|format, image, raw, size| {
        if format != "raw" {
            seven_zip_agrees(format, image, raw, size);
        }
    });
}

#[test]
fn libyal_and_dissect_read_what_was_resized() {
    let Some(readers) = Readers::find() else {
        return;
    };
    resized(|format, image, raw, _| {
        for reader in ["libyal", "dissect"] {
            // libyal has no module for VDIs.
            if format != "raw" && (reader, format) != ("libyal", "vdi") {
                readers.agree(reader, format, image, raw, &[]);
            }
        }
    });
}

#[test]
fn a_copy_of_another_size_is_made_in_every_format() {
    if !have_qemu() {
        return;
    }
    let more: &[(&str, &str, &[&str])] = &[
        ("vmdk", "a.vmdk", &["-o", "subformat=streamOptimized"]),
        ("vmdk", "a.vmdk", &["-o", "subformat=twoGbMaxExtentSparse"]),
        ("vmdk", "a.vmdk", &["-o", "subformat=twoGbMaxExtentFlat"]),
        ("qcow2", "a.qcow2", &["-o", "preallocation=metadata"]),
    ];
    for (format, name, options) in KINDS.iter().chain(more) {
        for (size, argument) in [
            (26 * MIB, "+16M"),
            (40 * MIB + 512, "41943552"),
            (7 * MIB, "7M"),
        ] {
            let folder = Folder::new();
            let raw = disk(&folder, 10 * MIB);
            let image = folder.file(name);
            let how = ["-O", format, "--verify", "--shrink", "--size", argument];
            let answer = convert(&raw, &image, &[options, &how[..]].concat());
            assert_eq!(answer["verified"], true);
            set_len(&raw, size);
            let what = format!("{format} {options:?} {argument}");
            let (_, seen) = guest_digest(&image, &[]);
            assert_eq!(seen, size, "{what}");
            assert!(qemu_finds_equal(format, &image, "raw", &raw), "{what}");
        }
    }
}

#[test]
fn an_overlay_may_be_larger_than_what_it_stands_on() {
    if !have_qemu() {
        return;
    }
    let folder = Folder::new();
    let raw = disk(&folder, 10 * MIB);
    let (base, overlay) = (folder.file("base.qcow2"), folder.file("overlay.qcow2"));
    convert(&raw, &base, &[]);
    convert(&raw, &overlay, &["-B", "base.qcow2", "--size", "+5M"]);
    for size in [15 * MIB, 30 * MIB, 9 * MIB, 33 * MIB] {
        resize(&overlay, &size.to_string(), &["--shrink"]);
        set_len(&raw, size);
        qemu_check("qcow2", &overlay);
        assert!(qemu_finds_equal("qcow2", &overlay, "raw", &raw), "{size}");
        assert_eq!(guest_digest(&overlay, &[]), guest_digest(&raw, &[]));
    }
}

#[test]
fn what_others_stand_on_or_are_made_of_is_refused() {
    let folder = Folder::new();
    let raw = disk(&folder, 10 * MIB);
    let refused = |image: &Path, found: &str| {
        let before = std::fs::read(image).expect("read");
        let refused = run(&["resize", "--json", "-f", "raw", s(image), "+1M"]);
        let refused = match image.extension().is_some_and(|e| e == "raw" || e == "vmdk") {
            true => refused,
            false => run(&["resize", "--json", s(image), "+1M"]),
        };
        assert_eq!((refused.code, &*refused.error_kind()), (Some(5), "refused"));
        assert!(refused.stderr.contains(found), "{}", refused.stderr);
        assert!(std::fs::read(image).expect("read") == before);
    };
    let base = folder.file("base.qcow2");
    convert(&raw, &base, &[]);
    convert(&raw, &folder.file("child.qcow2"), &["-B", "base.qcow2"]);
    refused(&base, "another image stands on it");
    let base = folder.file("base.vhdx");
    convert(&raw, &base, &[]);
    convert(&raw, &folder.file("child.vhdx"), &["-B", "base.vhdx"]);
    refused(&base, "another image stands on it");
    let descriptor = folder.file("flat.vmdk");
    convert(&raw, &descriptor, &["-o", "subformat=monolithicFlat"]);
    refused(&folder.file("flat-flat.vmdk"), "part of another image");
    // The children themselves have none.
    resize(&folder.file("child.qcow2"), "+1M", &[]);
    resize(&folder.file("child.vhdx"), "+1M", &[]);
}

#[test]
fn a_kill_leaves_the_old_size_or_the_new_one() {
    let mut random = noise(17, 4000).into_iter();
    for (format, name, options) in KINDS {
        let folder = Folder::new();
        let raw = disk(&folder, 10 * MIB);
        let image = folder.file(name);
        convert(&raw, &image, &[options, &["-O", format][..]].concat());
        let mut old = 10 * MIB;
        let sizes = [90, 11, 300, 12, 64, 10].map(|size| size * MIB);
        for new in sizes.into_iter().cycle().take(kills(KINDS.len(), 6)) {
            let mut resizing = diskferry()
                .args(["resize", "--shrink", s(&image), &new.to_string()])
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .spawn()
                .expect("diskferry");
            // A resize takes up to 30 ms.
            let wait = 100 * u64::from(random.next().expect("a byte"));
            std::thread::sleep(Duration::from_micros(wait));
            let _ = resizing.kill();
            resizing.wait().expect("its end");
            let (digest, size) = guest_digest(&image, &["-f", format]);
            assert!(size == old || size == new, "{format} {options:?}: {size}");
            set_len(&raw, size);
            assert_eq!((digest, size), guest_digest(&raw, &["-f", "raw"]));
            old = size;
        }
        resize(&image, "301M", &[]);
        run_ok(&["check", "-f", format, s(&image)]);
    }
}

#[test]
fn images_in_use_are_refused() {
    if !have("python3") {
        return;
    }
    let folder = Folder::new();
    let raw = disk(&folder, MIB);
    for lock in [
        "fcntl.lockf(f, fcntl.LOCK_SH, 1, 100)",
        "fcntl.flock(f, fcntl.LOCK_SH)",
        // An OFD lock, as QEMU has it.
        "fcntl.fcntl(f, 37, struct.pack('hhqqi4x', fcntl.F_RDLCK, 0, 100, 1, 0))",
    ] {
        let program = format!(
            "import fcntl, struct, subprocess, sys\n\
             f = open(sys.argv[1], 'r+b')\n\
             {lock}\n\
             sys.exit(subprocess.run(sys.argv[2:]).returncode)\n"
        );
        let diskferry = env!("CARGO_BIN_EXE_diskferry");
        let python = std::process::Command::new("python3")
            .args(["-c", &program, s(&raw), diskferry, "resize", s(&raw), "2M"])
            .output()
            .expect("python3");
        let said = String::from_utf8_lossy(&python.stderr).into_owned();
        assert_eq!(python.status.code(), Some(5), "{lock}: {said}");
        assert!(said.contains("in use by another program"), "{said}");
        assert_eq!(raw.metadata().expect("a file").len(), MIB);
    }
}

#[test]
fn packages_and_packed_files_are_no_images_to_resize() {
    if !have("gzip") {
        return;
    }
    let folder = Folder::new();
    let raw = disk(&folder, MIB);
    let package = folder.file("a.xva");
    run_ok(&["convert", s(&raw), s(&package)]);
    tool("gzip", &[s(&raw)]);
    for file in [package, folder.file("disk.raw.gz")] {
        let refused = run(&["resize", "--json", s(&file), "+1M"]);
        assert_eq!(refused.error_kind(), "unsupported", "{}", refused.text());
    }
}

#[test]
fn sizes_that_make_no_sense_are_told() {
    let folder = Folder::new();
    let raw = disk(&folder, MIB);
    for size in ["0", "", "+", "-1M", "1.5G", "x", "99999999T"] {
        assert_eq!(
            run(&["resize", s(&raw), "--", size]).code,
            Some(2),
            "{size}"
        );
    }
    let answer = resize(&raw, "1M", &[]);
    assert_eq!(answer["size"], answer["size_before"]);
    assert_eq!(
        run(&["resize", s(&folder.file("none")), "1M"]).code,
        Some(4)
    );
}

#[test]
fn an_image_that_was_cut_off_is_not_made_longer() {
    let folder = Folder::new();
    let raw = disk(&folder, 10 * MIB);
    for format in ["vmdk", "qcow2", "vdi", "vhdx"] {
        let image = folder.file(&format!("cut.{format}"));
        convert(&raw, &image, &[]);
        // What stood at the end is not there: new tables must not take its place.
        let file = fs::File::options().write(true).open(&image).expect("open");
        let len = file.metadata().expect("a file").len();
        file.set_len(len - 70_000).expect("a length");
        drop(file);
        let before = fs::read(&image).expect("read");
        for size in ["+512", "+100G"] {
            let finished = run(&["resize", s(&image), size]);
            assert!(
                matches!(finished.code, Some(3 | 5)),
                "{format}: {}",
                finished.text()
            );
            assert!(
                fs::read(&image).expect("read") == before,
                "{format} changed"
            );
        }
    }
}
