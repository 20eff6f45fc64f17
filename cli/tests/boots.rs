//! The last proof: a disk that boots still boots from every format.
//!
//! `DISKFERRY_BOOT_IMAGE` names a raw disk that prints `DIC-BOOT-OK` on its serial console when its system has come up and
//! found its own files unharmed. Without the variable there is nothing to do.

mod common;

use std::path::{Path, PathBuf};

use common::boot::{boot, is_up};
use common::{Folder, convert, guest_digest, have, noise, run_ok, s, tool};

#[test]
fn a_disk_boots_from_every_format() {
    let Some(raw) = std::env::var_os("DISKFERRY_BOOT_IMAGE").map(PathBuf::from) else {
        return;
    };
    if !have("qemu-system-x86_64") {
        return;
    }
    let folder = Folder::new();
    let [vhd, vhdx, qcow2] =
        ["vhd", "vhdx", "qcow2"].map(|kind| folder.file(&format!("boot.{kind}")));
    let vmdks = ["monolithicSparse", "monolithicFlat", "streamOptimized"];
    let vmdks = vmdks.map(|subformat| (subformat, folder.file(&format!("{subformat}.vmdk"))));
    let back = folder.file("back.raw");
    convert(&raw, &vhd, &["-f", "raw", "--verify"]);
    let mut source = &vhd;
    for (subformat, image) in &vmdks {
        let options = ["-o", &format!("subformat={subformat}"), "--verify"];
        convert(source, image, &options);
        source = image;
    }
    convert(source, &qcow2, &["--verify"]);
    convert(&qcow2, &vhdx, &["--verify"]);
    convert(&vhdx, &back, &["--verify"]);
    let expected = guest_digest(&raw, &["-f", "raw"]);
    let vmdks = vmdks.iter().map(|(_, image)| ("vmdk", image));
    let others = [
        ("vhd", &vhd),
        ("vhdx", &vhdx),
        ("qcow2", &qcow2),
        ("raw", &back),
    ];
    for (format, image) in others.into_iter().chain(vmdks) {
        assert_eq!(guest_digest(image, &["-f", format]), expected, "{format}");
        let told = boot(format, image);
        assert!(is_up(&told), "{} does not boot:\n{told}", image.display());
    }
}

/// Puts a file into the payload of a boot image, as its guest would.
fn write_file(raw: &Path, folder: &Folder) {
    let content = folder.file("content");
    std::fs::write(&content, noise(77, 300_000)).expect("write");
    let partition = format!("{}?offset=1048576", s(raw));
    let command = format!("write {} payload/written-later", s(&content));
    tool("debugfs", &["-w", "-R", &command, &partition]);
}

/// What the guest says of its files.
fn tree(told: &str) -> Vec<&str> {
    told.lines()
        .filter(|line| line.starts_with("DIC-TREE"))
        .collect()
}

#[test]
fn a_disk_that_a_delta_was_applied_to_boots_with_its_files() {
    let Some(raw) = std::env::var_os("DISKFERRY_BOOT_IMAGE").map(PathBuf::from) else {
        return;
    };
    if !have("qemu-system-x86_64") || !have("debugfs") {
        return;
    }
    let folder = Folder::new();
    let new = folder.file("new.raw");
    tool("cp", &["--sparse=always", s(&raw), s(&new)]);
    write_file(&new, &folder);
    let expected = boot("raw", &new);
    let before = boot("raw", &raw);
    assert_eq!(tree(&expected).len(), 2, "{expected}");
    assert_ne!(tree(&expected), tree(&before));
    let (base, child) = (folder.file("base.vhd"), folder.file("child.vhd"));
    convert(&raw, &base, &["-f", "raw"]);
    convert(&new, &child, &["-f", "raw", "-B", "base.vhd"]);
    let copy = folder.file("copy.qcow2");
    convert(&base, &copy, &["--receipt"]);
    run_ok(&["apply", s(&child), s(&copy), "--verify"]);
    assert_eq!(tree(&boot("qcow2", &copy)), tree(&expected));
    run_ok(&["merge", s(&child), "--verify", "--remove"]);
    assert_eq!(tree(&boot("vhd", &base)), tree(&expected));
}
