//! What once went wrong with packages.

mod common;

use std::fs;
use std::os::unix::fs::symlink;

use common::damage::snapshot;
use common::{Folder, convert, guest_digest, noise, run, run_ok, s};

/// A package with one disk of 3 MiB, and the digest of that.
fn package(folder: &Folder) -> (std::path::PathBuf, (String, u64)) {
    let raw = folder.file("disk.raw");
    fs::write(&raw, noise(7, 3 << 20)).expect("write");
    let ova = folder.file("web.ova");
    convert(&raw, &ova, &["--name", "web", "--nic", "LAN"]);
    (ova, guest_digest(&raw, &[]))
}

#[test]
fn images_in_a_folder_end_where_they_should() {
    let folder = Folder::new();
    let (ova, digest) = package(&folder);
    for (name, options) in [
        ("raw", &["-O", "raw"][..]),
        ("vhd", &["-O", "vhd", "-o", "subformat=fixed"]),
        ("vhd", &["--for", "azure"]),
        ("vmdk", &["-O", "vmdk", "-o", "subformat=streamOptimized"]),
        ("vmdk", &["-O", "vmdk", "-o", "subformat=monolithicFlat"]),
        ("vmdk", &["-O", "vmx", "-o", "subformat=streamOptimized"]),
        ("vmdk", &["-O", "ovf"]),
    ] {
        for verify in [&["--verify"][..], &[]] {
            let target = folder.file("out");
            fs::create_dir(&target).expect("a folder");
            run_ok(
                &[
                    &["convert", s(&ova), s(&target) as &str, "--force"],
                    options,
                    verify,
                ]
                .concat(),
            );
            let image = target.join(format!("web-disk1.{name}"));
            assert_eq!(guest_digest(&image, &[]), digest, "{options:?}");
            run_ok(&["check", s(&image)]);
            if name == "raw" {
                assert_eq!(fs::metadata(&image).expect("a file").len(), digest.1);
            }
            fs::remove_dir_all(&target).expect("remove");
        }
    }
}

#[test]
fn a_link_does_not_lead_a_package_over_its_own_source() {
    let folder = Folder::new();
    let (ova, _) = package(&folder);
    let (own, out) = (folder.file("own"), folder.file("out"));
    run_ok(&["convert", s(&ova), s(&own), "-O", "vmx"]);
    fs::create_dir(&out).expect("a folder");
    fs::write(own.join("other.ovf"), "").expect("write");
    symlink(own.join("other.ovf"), out.join("web.ovf")).expect("a link");
    let before = snapshot(&own);
    let target = out.join("web.ovf");
    let finished = run(&["convert", s(&own.join("web.vmx")), s(&target), "--force"]);
    assert_eq!(finished.code, Some(5), "{}", finished.stderr);
    assert!(snapshot(&own) == before, "the source's folder changed");
}

#[test]
fn a_package_is_not_put_beside_the_seal_of_another() {
    let folder = Folder::new();
    let (ova, _) = package(&folder);
    let target = folder.file("out");
    run_ok(&["convert", s(&ova), s(&target), "-O", "ovf"]);
    let again = ["convert", s(&ova), s(&target), "-O", "ovf", "--force"];
    let finished = run(&[&again[..], &["--manifest", "none"]].concat());
    assert_eq!(finished.code, Some(5), "{}", finished.stderr);
    run_ok(&again);
    run_ok(&["check", s(&target.join("web.ovf"))]);
}

#[test]
fn what_cannot_be_made_is_refused_and_nothing_is_left() {
    let folder = Folder::new();
    let (ova, _) = package(&folder);
    let before = snapshot(folder.path());
    for options in [
        &["web.toml"][..],
        &["out/", "-O", "toml"],
        &["out/", "-O", "qcow2", "-j", "0"],
        &["out/", "-O", "qcow2", "-S", "7"],
        // What would be taken and mean nothing.
        &["new.xva", "-c"],
        &["new.xva", "-o", "level=1"],
        &["new.xva", "--manifest", "sha1"],
        &["new.ova", "--checksum", "xxhash"],
        &["out/", "-O", "vmx", "-c"],
        &["out/", "-O", "vmx", "--manifest", "sha1"],
    ] {
        let target = folder.path().join(options[0]);
        let finished = run(&[&["convert", s(&ova), s(&target)], &options[1..]].concat());
        assert_eq!(finished.code, Some(2), "{options:?}: {}", finished.stderr);
        assert!(
            snapshot(folder.path()) == before,
            "{options:?}: something is left"
        );
    }
}

#[test]
fn a_description_that_nobody_could_read_is_not_written() {
    let folder = Folder::new();
    let raw = folder.file("disk.raw");
    fs::write(&raw, noise(7, 1 << 20)).expect("write");
    let before = snapshot(folder.path());
    for target in ["web.ova", "web.xva", "out"] {
        let target = folder.file(target);
        let kind = target.extension().map_or("vmx", |e| s(e.as_ref()));
        let memory = ["--memory", "9000000T"];
        let arguments = ["convert", s(&raw), s(&target), "-O", kind];
        let finished = run(&[&arguments[..], &memory].concat());
        if finished.code == Some(0) {
            run_ok(&["info", s(&target)]);
            fs::remove_file(&target).expect("remove");
        }
        assert!(
            matches!(finished.code, Some(0 | 2 | 3 | 5)),
            "{kind}: {}",
            finished.stderr
        );
        assert!(
            snapshot(folder.path()) == before,
            "{kind}: something is left"
        );
    }
}

#[test]
fn what_a_package_cannot_say_is_told() {
    let folder = Folder::new();
    let raw = folder.file("disk.raw");
    fs::write(&raw, noise(7, 1 << 20)).expect("write");
    let description = folder.file("web.toml");
    let text = r#"
        name = "web"
        [[disks]]
        name = "root of web"
        read_only = true
        [[nics]]
        network = "LAN"
        connected = false
        [[serial_ports]]
        backing = "file"
        target = "ttyS0.log"
        [[floppies]]
        medium = { href = "boot.flp" }
    "#;
    fs::write(&description, text).expect("write");
    for (target, told) in [
        (
            "web.ova",
            &["root of web", "writable", "ttyS0.log", "boot.flp"][..],
        ),
        ("vmx", &["root of web", "writable", "boot.flp"]),
        ("web.xva", &["network adapter 1", "floppy", "serial"]),
    ] {
        let path = folder.file(target);
        let mut arguments = vec!["convert", s(&raw), s(&path), "--machine", s(&description)];
        if target == "vmx" {
            arguments.extend(["-O", "vmx"]);
        }
        let notes = run_ok(&arguments).stderr;
        for word in told {
            assert!(notes.contains(word), "{target}: no {word} in {notes}");
        }
    }
}

#[test]
fn names_do_not_turn_the_terminal_around() {
    let folder = Folder::new();
    let raw = folder.file("a\u{202e}b.raw");
    fs::write(&raw, noise(7, 1 << 20)).expect("write");
    let target = folder.file("c.qcow2");
    let finished = run_ok(&["convert", s(&raw), s(&target)]);
    let told = String::from_utf8_lossy(&finished.stdout);
    assert!(told.contains("\\u{202e}"), "{told}");
    assert!(!told.contains('\u{202e}'));
}
