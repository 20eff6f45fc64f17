//! The last proof: a disk that boots still boots from every format.
//!
//! `DISKFERRY_BOOT_IMAGE` names a raw disk that prints `DIC-BOOT-OK` on its serial console when its system has come up and
//! found its own files unharmed. Without the variable there is nothing to do.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::peers::qemu_name;
use common::{Folder, convert, guest_digest, have, s};

const LINE: &str = "DIC-BOOT-OK";
/// Seconds until a boot without hardware help must be through.
const PATIENCE: &str = "240";

/// Boots `image` without changing it and answers what came over the serial line.
fn boot(format: &str, image: &Path) -> String {
    let drive = format!("file={},format={},if=virtio", s(image), qemu_name(format));
    let output = Command::new("timeout")
        .args([PATIENCE, "qemu-system-x86_64"])
        .args(["-M", "pc", "-accel", "tcg", "-cpu", "max", "-m", "512"])
        .args(["-display", "none", "-monitor", "none", "-nic", "none"])
        .args([
            "-no-reboot",
            "-snapshot",
            "-serial",
            "stdio",
            "-drive",
            &drive,
        ])
        .stdin(Stdio::null())
        .output()
        .expect("qemu-system-x86_64");
    String::from_utf8_lossy(&output.stdout).replace('\r', "")
}

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
        assert!(
            told.lines().any(|line| line == LINE),
            "{} does not boot:\n{told}",
            image.display()
        );
    }
}
