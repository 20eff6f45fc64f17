//! The last proof: a disk that boots still boots from every format.
//!
//! `DISKFERRY_BOOT_IMAGE` names a raw disk that prints `DIC-BOOT-OK` on its serial console when its system has come up and
//! found its own files unharmed. Without the variable there is nothing to do.

mod common;

use std::path::PathBuf;

use common::boot::{boot, is_up};
use common::{Folder, convert, guest_digest, have};

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
