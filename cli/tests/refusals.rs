//! What is not done because it would not be safe (exit code 5), what cannot be meant (2), and what the machine cannot do
//! (4): nothing is written, and what was there stays as it was.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use common::damage::images::qcow2::Builder;
use common::damage::{fails, fails_to, snapshot};
use common::{Folder, convert, guest_digest, make_disk, run, run_ok, s};

/// A folder with a raw disk of 1 MiB, "disk.raw".
fn with_disk() -> Folder {
    let folder = Folder::new();
    make_disk(&folder.file("disk.raw"), 1 << 20);
    folder
}

#[test]
fn an_existing_target_is_refused_without_force() {
    let folder = with_disk();
    let raw = folder.file("disk.raw");
    for name in ["old.qcow2", "old.vhd", "old.raw", "old.vdi"] {
        fs::write(folder.file(name), "old").expect("write");
        let error = fails_to(&raw, &folder.file(name), &[], 5, "refused");
        assert!(
            error["message"].as_str().unwrap().contains("--force"),
            "{error}"
        );
        convert(&raw, &folder.file(name), &["--force"]);
        assert_eq!(
            guest_digest(&folder.file(name), &[]),
            guest_digest(&raw, &[])
        );
    }
    // A link that leads nowhere is there, too.
    symlink("nowhere", folder.file("link.raw")).expect("link");
    fails_to(&raw, &folder.file("link.raw"), &[], 5, "refused");
}

#[test]
fn only_plain_files_are_replaced() {
    let folder = with_disk();
    let raw = folder.file("disk.raw");
    fs::create_dir(folder.file("folder.raw")).expect("a folder");
    common::tool("mkfifo", &[s(&folder.file("pipe.raw"))]);
    for name in ["folder.raw", "pipe.raw"] {
        for options in [&[][..], &["--force"]] {
            fails_to(&raw, &folder.file(name), options, 5, "refused");
        }
    }
}

#[test]
fn the_source_is_never_its_own_target() {
    let folder = with_disk();
    let raw = folder.file("disk.raw");
    fs::hard_link(&raw, folder.file("hard.raw")).expect("link");
    symlink("disk.raw", folder.file("soft.raw")).expect("link");
    for name in ["disk.raw", "hard.raw", "soft.raw"] {
        for options in [&[][..], &["--force"], &["--force", "-O", "qcow2"]] {
            fails_to(&raw, &folder.file(name), options, 5, "refused");
        }
    }
}

#[test]
fn a_file_that_the_source_stands_on_is_never_the_target() {
    let folder = with_disk();
    let (tip, middle) = (folder.file("tip.qcow2"), folder.file("middle.qcow2"));
    fs::write(&tip, Builder::over("qcow2", "middle.qcow2").build()).expect("write");
    fs::write(&middle, Builder::over("raw", "disk.raw").build()).expect("write");
    for target in [&middle, &folder.file("disk.raw"), &tip] {
        fails_to(&tip, target, &["--force"], 5, "refused");
    }
}

/// A qcow2 in a folder of its own whose backing file is called `name`.
fn naming(folder: &Folder, name: &str) -> std::path::PathBuf {
    let own = folder.file("own");
    fs::create_dir_all(&own).expect("a folder");
    let image = own.join("tip.qcow2");
    fs::write(&image, Builder::over("raw", name).build()).expect("write");
    image
}

#[test]
fn references_out_of_the_folder_are_refused() {
    let folder = with_disk();
    let own = folder.file("own");
    naming(&folder, "x");
    fs::create_dir(own.join("sub")).expect("a folder");
    fs::copy(folder.file("disk.raw"), own.join("sub/disk.raw")).expect("copy");
    symlink(folder.file("disk.raw"), own.join("out")).expect("link");
    symlink("/dev/zero", own.join("device")).expect("link");
    symlink("loop", own.join("loop")).expect("link");
    common::tool("mkfifo", &[s(&own.join("pipe"))]);
    let absolute = s(&folder.file("disk.raw")).to_owned();
    for name in [
        absolute.as_str(),
        "../disk.raw",
        "sub/../../disk.raw",
        "sub/disk.raw",
        "out",
        "device",
        "loop",
        "pipe",
        "sub",
        "tip.qcow2/x",
        "/dev/zero",
        "/proc/self/mem",
        "/etc/hostname",
        "nbd://localhost/x",
        "nbd:localhost:10809",
        "https://localhost/disk.raw",
        "json:{\"driver\":\"raw\"}",
        "fat:rw:/tmp",
    ] {
        let image = naming(&folder, name);
        let error = fails(&image, &[], 5, "refused");
        assert_eq!(error["structure"], "backing file name", "{name}");
        assert_eq!(error["file"], s(&image), "{name}");
        for verb in ["digest", "map"] {
            assert_eq!(run(&[verb, s(&image)]).code, Some(5), "{verb} {name}");
        }
    }
}

#[test]
fn a_reference_to_nothing_is_a_fault_of_the_image() {
    let folder = with_disk();
    for name in ["absent", "n".repeat(300).as_str()] {
        let error = fails(&naming(&folder, name), &[], 3, "malformed");
        assert_eq!(error["structure"], "backing file name", "{name}");
    }
}

#[test]
fn allowed_folders_widen_the_references_and_no_more() {
    let folder = with_disk();
    let own = folder.file("own");
    fs::create_dir(folder.file("other")).expect("a folder");
    let here = ["--allow-references", s(folder.path())].map(str::to_owned);
    let here = [here[0].as_str(), here[1].as_str()];
    let other = folder.file("other");
    let elsewhere = ["--allow-references", s(&other)];
    let absolute = s(&folder.file("disk.raw")).to_owned();
    naming(&folder, "x");
    symlink(folder.file("disk.raw"), own.join("out")).expect("link");
    for name in [absolute.as_str(), "out"] {
        let image = naming(&folder, name);
        fails(&image, &elsewhere, 5, "refused");
        guest_digest(&image, &here);
        let target = folder.file("flat.raw");
        convert(&image, &target, &[&here[..], &["--force"]].concat());
    }
    for name in [
        "../disk.raw",
        "/dev/zero",
        "/etc/hostname",
        "nbd:localhost:1",
    ] {
        fails(&naming(&folder, name), &here, 5, "refused");
    }
    let image = naming(&folder, "x");
    let absent = folder.file("absent");
    fails(&image, &["--allow-references", s(&absent)], 4, "io");
}

#[test]
fn an_external_data_file_is_followed_as_carefully() {
    let folder = with_disk();
    for name in ["/etc/hostname", "../disk.raw", "/dev/zero", "json:{}"] {
        let mut image = Builder::default().build();
        image[79] = 4;
        image[112..120].copy_from_slice(&[0x44, 0x41, 0x54, 0x41, 0, 0, 0, name.len() as u8]);
        image[120..120 + name.len()].copy_from_slice(name.as_bytes());
        let path = folder.file("image.qcow2");
        fs::write(&path, image).expect("write");
        let error = fails(&path, &[], 5, "refused");
        assert_eq!(error["structure"], "data file name");
    }
}

#[test]
fn what_cannot_be_meant_is_a_usage_error() {
    let folder = with_disk();
    let raw = folder.file("disk.raw");
    let before = snapshot(folder.path());
    for (target, options) in [
        ("new.qcow2", &["-O", "vmfs"][..]),
        ("new.qcow2", &["-f", "qcow9"]),
        ("new.qcow2", &["-o", "nonsense=1"]),
        ("new.qcow2", &["-o", "cluster_size"]),
        ("new.qcow2", &["-o", "cluster_size=3k"]),
        ("new.qcow2", &["-o", "cluster_size=256"]),
        ("new.qcow2", &["-o", "cluster_size=4M"]),
        ("new.qcow2", &["-o", "cluster_size=0"]),
        ("new.qcow2", &["-o", "cluster_size=99999999T"]),
        ("new.vhd", &["-o", "subformat=thin"]),
        ("new.vhd", &["-o", "block_size=3k"]),
        ("new.vhd", &["-o", "subformat=fixed,block_size=2M"]),
        ("new.raw", &["-o", "subformat=fixed"]),
        ("new.raw", &["-S", "bad"]),
        ("new.raw", &["-S", "-1"]),
        ("new.raw", &["-S", "1000"]),
        ("new.raw", &["-S", "4M"]),
        ("new.raw", &["-j", "0"]),
        ("new.raw", &["-j", "many"]),
        ("new.raw", &["--digest", "crc32"]),
        ("new.raw", &["--progress", "loud"]),
        ("new.raw", &["--nonsense"]),
        ("new", &[]),
        ("new.xyz", &[]),
        ("-", &["-O", "qcow2"]),
        ("-", &["-O", "vhd"]),
        ("-", &["-O", "raw", "--verify"]),
        ("-", &["-O", "raw", "--json"]),
    ] {
        let target = match target {
            "-" => Path::new("-").to_owned(),
            name => folder.file(name),
        };
        let finished = run(&[&["convert", s(&raw), s(&target)], options].concat());
        assert_eq!(
            finished.code,
            Some(2),
            "{target:?} {options:?}: {}",
            finished.stderr
        );
        assert!(!finished.stderr.is_empty());
        let silent = finished.stdout.is_empty() || options.contains(&"--json");
        assert!(silent, "{target:?} {options:?}");
    }
    for arguments in [&["convert"][..], &["nonsense"], &[]] {
        assert_eq!(run(arguments).code, Some(2), "{arguments:?}");
    }
    assert!(snapshot(folder.path()) == before);
    let finished = run(&["convert", s(&raw), s(&folder.file("new.xyz")), "--json"]);
    assert_eq!(finished.error_kind(), "usage");
}

#[test]
fn a_missing_target_folder_is_an_io_error() {
    let folder = with_disk();
    let target = folder.file("missing/new.raw");
    fails_to(&folder.file("disk.raw"), &target, &[], 4, "io");
    let target = folder.file("disk.raw/new.raw");
    fails_to(&folder.file("disk.raw"), &target, &[], 4, "io");
}

#[test]
fn a_replaced_file_keeps_its_old_content_when_the_copy_fails() {
    let folder = Folder::new();
    let bad = folder.file("bad.qcow2");
    let builder = Builder::default();
    let mut image = builder.build();
    // The last cluster of the disk is out of the file: what stands before it is copied.
    let last = (builder.l2() + builder.cluster() + 5 * 8) as usize;
    image[last..last + 8].copy_from_slice(&(1u64 << 63 | 1 << 40).to_be_bytes());
    fs::write(&bad, image).expect("write");
    for name in ["old.raw", "old.vhd", "old.qcow2"] {
        fs::write(folder.file(name), "old and whole").expect("write");
        fails_to(&bad, &folder.file(name), &["--force"], 3, "truncated");
        assert_eq!(fs::read(folder.file(name)).expect("read"), b"old and whole");
    }
}

#[test]
fn what_goes_to_a_closed_pipe_is_an_io_error() {
    let folder = Folder::new();
    let raw = folder.file("disk.raw");
    fs::write(&raw, common::noise(1, 4 << 20)).expect("write");
    let mut child = common::diskferry()
        .args(["convert", s(&raw), "-", "-O", "raw"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("start");
    drop(child.stdout.take());
    assert_eq!(child.wait().expect("wait").code(), Some(4));
    run_ok(&["digest", s(&raw)]);
}
