//! Files that are not what their name, or the user, says; and formats that are known by name only.

mod common;

use common::damage::images::{is_orphan, qcow2, samples, vhd};
use common::damage::{Damaged, fails, fails_to};
use common::{convert, guest_digest, noise, run, run_ok, s};
use formats::vhd::footer::{DiskType, Footer};

#[test]
fn an_image_under_a_raw_name_is_malformed_until_f_settles_it() {
    for (name, _, image) in samples() {
        if is_orphan(name) || matches!(name, "split.vmdk" | "luks.qcow2") {
            continue;
        }
        for raw_name in ["disk.raw", "disk.img", "DISK.IMG", "disk.dd"] {
            let lying = Damaged::new(raw_name, &image);
            let error = lying.is("malformed");
            assert!(error["message"].as_str().unwrap().contains("-f"), "{error}");
            for verb in ["info", "digest", "map"] {
                assert_eq!(run(&[verb, s(&lying.path)]).code, Some(3), "{name} {verb}");
            }
        }
        let settled = Damaged::new("disk.raw", &image);
        run_ok(&["digest", s(&settled.path), "-f", "raw"]);
        let format = name.rsplit('.').next().unwrap();
        run_ok(&["digest", s(&settled.path), "-f", format]);
    }
}

#[test]
fn a_name_without_its_magic_is_malformed() {
    for name in [
        "disk.qcow2",
        "disk.vhd",
        "disk.vmdk",
        "disk.QCOW2",
        "disk.avhd",
    ] {
        for content in [vec![], vec![0; 100_000], noise(1, 100_000)] {
            let lying = Damaged::new(name, &content);
            let error = lying.is("malformed");
            assert!(
                error["message"].as_str().unwrap().contains("magic"),
                "{error}"
            );
        }
    }
}

#[test]
fn a_format_that_the_content_is_not_is_malformed() {
    let image = Damaged::new("disk.qcow2", &qcow2::Builder::default().build());
    image.is_when(&["-f", "vhd"], "malformed");
    let image = Damaged::new("disk.vhd", &vhd::dynamic());
    image.is_when(&["-f", "qcow2"], "malformed");
    let empty = Damaged::new("disk", b"");
    empty.is_when(&["-f", "vhd"], "malformed");
    empty.is_when(&["-f", "qcow2"], "truncated");
}

/// A file of 4 KiB with `magic` at `offset`.
fn with_magic(offset: usize, magic: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    bytes[offset..offset + magic.len()].copy_from_slice(magic);
    bytes
}

#[test]
fn formats_that_are_not_supported_are_refused_by_name() {
    for (name, offset, magic) in [
        ("QED", 0, &b"QED\0"[..]),
        ("Parallels", 0, b"WithoutFreeSpace"),
        ("Parallels", 0, b"WithouFreSpacExt"),
        ("qcow version 1", 0, b"QFI\xfb\0\0\0\x01"),
        ("tar", 257, b"ustar\0"),
        ("xz", 0, b"\xfd7zXZ\0"),
        ("gzip", 0, b"\x1f\x8b\x08\0"),
        ("zstd", 0, b"\x28\xb5\x2f\xfd"),
    ] {
        let bytes = with_magic(offset, magic);
        for file in ["disk", "disk.vmdk", "disk.vhd"] {
            // Files that are packed are unpacked, unless their name says that they are disks.
            let kind = match (name, file) {
                ("gzip", "disk") => "malformed",
                ("zstd", "disk") => "truncated",
                _ => "unsupported",
            };
            let error = Damaged::new(file, &bytes).is(kind);
            assert!(error["message"].as_str().unwrap().contains(name), "{error}");
        }
        Damaged::new("disk.raw", &bytes).is("malformed");
        let settled = Damaged::new("disk.raw", &bytes);
        run_ok(&["digest", s(&settled.path), "-f", "raw"]);
    }
}

#[test]
fn a_guest_cannot_turn_its_raw_disk_into_another_image() {
    let image = qcow2::Builder::over("raw", "/etc/hostname").build();
    Damaged::new("disk.img", &image).is("malformed");
}

#[test]
fn a_guest_cannot_turn_its_fixed_vhd_into_a_qcow2() {
    let mut image = qcow2::Builder::over("raw", "/etc/hostname").build();
    let start = image.clone();
    image.resize(1 << 20, 0x33);
    let footer = Footer::new(DiskType::Fixed, 1 << 20, vhd::ID, 0);
    image.extend(footer.to_bytes());
    let named = Damaged::new("disk.vhd", &image);
    let raw = named.folder.file("disk.raw");
    convert(&named.path, &raw, &[]);
    let content = std::fs::read(&raw).expect("read");
    assert!(content.len() == 1 << 20 && content.starts_with(&start));
    // Where the name does not say which of the two it is, the user has to.
    let error = Damaged::new("disk", &image).is("malformed");
    assert!(error["message"].as_str().unwrap().contains("-f"), "{error}");
}

#[test]
fn a_guest_cannot_turn_its_disk_into_an_archive() {
    for (offset, magic) in [(257, &b"ustar\0"[..]), (0, b"\x1f\x8b\x08\0"), (0, b"BZh9")] {
        let mut image = with_magic(offset, magic);
        image.resize(1 << 20, 0x33);
        let start = image.clone();
        let footer = Footer::new(DiskType::Fixed, 1 << 20, vhd::ID, 0);
        image.extend(footer.to_bytes());
        for name in ["disk.vhd", "disk"] {
            let named = Damaged::new(name, &image);
            let raw = named.folder.file("disk.raw");
            convert(&named.path, &raw, &[]);
            assert!(std::fs::read(&raw).expect("read") == start, "{name}");
        }
    }
}

#[test]
fn a_guest_cannot_turn_its_qcow2_into_a_vhd() {
    let mut image = qcow2::Builder::default().build();
    let plain = Damaged::new("disk.qcow2", &image);
    let footer = Footer::new(DiskType::Fixed, 4096, vhd::ID, 0);
    image.extend(footer.to_bytes());
    let named = Damaged::new("disk.qcow2", &image);
    assert_eq!(
        guest_digest(&named.path, &[]),
        guest_digest(&plain.path, &[])
    );
    Damaged::new("disk", &image).is("malformed");
    Damaged::new("disk.raw", &image).is("malformed");
}

#[test]
fn what_is_no_file_is_an_error() {
    let image = Damaged::new("disk.raw", &[0; 512]);
    fails(&image.folder.file("missing.raw"), &[], 4, "io");
    std::fs::create_dir(image.folder.file("folder.raw")).expect("a folder");
    fails(&image.folder.file("folder.raw"), &[], 3, "unsupported");
    let pipe = image.folder.file("pipe.raw");
    common::tool("mkfifo", &[s(&pipe)]);
    fails(&pipe, &[], 3, "unsupported");
    let device = std::path::Path::new("/dev/zero");
    fails_to(
        device,
        &image.folder.file("new.raw"),
        &["-f", "raw"],
        3,
        "unsupported",
    );
}
