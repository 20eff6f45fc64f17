//! `convert --replace`: the new image has the place, the ids and the content of the old one, or everything is as it was.

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use common::damage::snapshot;
use common::peers::{have_qemu, qemu_img};
use common::{Folder, convert, guest_digest, kills, make_disk, run, run_ok, s};
use serde_json::Value;

fn info(image: &Path) -> Value {
    run_ok(&["info", s(image), "--json"]).json()
}

fn allocated(file: &Path) -> u64 {
    fs::metadata(file).expect("a file").blocks() * 512
}

/// The image is refused, with this exit code, and nothing in its folder changed.
fn refused(folder: &Folder, image: &Path, options: &[&str], code: i32) -> String {
    let before = snapshot(folder.path());
    let arguments = [&["convert", "--replace", s(image)], options].concat();
    let finished = run(&arguments);
    assert_eq!(finished.code, Some(code), "{}", finished.stderr);
    assert!(snapshot(folder.path()) == before, "something changed");
    finished.stderr
}

/// A disk of 24 MiB, most of it full, some of it zeros that are stored.
fn disk(folder: &Folder) -> std::path::PathBuf {
    let raw = folder.file("disk.raw");
    make_disk(&raw, 24 << 20);
    raw
}

#[test]
fn a_fixed_vhd_becomes_dynamic_under_its_own_name_and_id() {
    let folder = Folder::new();
    let vhd = folder.file("web.vhd");
    convert(&disk(&folder), &vhd, &["-S", "0", "-o", "subformat=fixed"]);
    let (before, content, size) = (info(&vhd), guest_digest(&vhd, &[]), allocated(&vhd));
    let options = ["convert", "--replace", s(&vhd), "-o", "subformat=dynamic"];
    let told = run_ok(&options);
    assert!(told.stderr.contains("saved"), "{}", told.stderr);
    let after = info(&vhd);
    assert_eq!(after["subformat"], "dynamic");
    assert_eq!(after["identity"], before["identity"]);
    assert_eq!(guest_digest(&vhd, &[]), content);
    assert!(allocated(&vhd) < size);
    assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 2);
}

#[test]
fn an_image_stays_what_it_was_and_loses_its_zeros() {
    for (name, options, kept) in [
        (
            "web.vhd",
            &["-o", "block_size=512k"][..],
            &["subformat", "block_size"][..],
        ),
        (
            "web.vhdx",
            &["-o", "block_size=1M"],
            &["subformat", "block_size"],
        ),
        ("web.vdi", &[], &["subformat"]),
        ("web.vmdk", &["-o", "adapter_type=ide"], &["subformat"]),
        (
            "web.qcow2",
            &["-o", "cluster_size=4k,compat=0.10"],
            &["subformat", "block_size"],
        ),
    ] {
        let folder = Folder::new();
        let image = folder.file(name);
        let with_zeros = [&["-S", "0"], options].concat();
        convert(&disk(&folder), &image, &with_zeros);
        let (before, content, size) = (info(&image), guest_digest(&image, &[]), allocated(&image));
        run_ok(&["convert", "--replace", s(&image), "--keep-old"]);
        let after = info(&image);
        for key in kept.iter().chain(&["format", "identity", "virtual_size"]) {
            assert_eq!(after[key], before[key], "{name}: {key}");
        }
        for key in ["virtual_disk_id", "adapter_type", "cid"] {
            assert_eq!(
                after["details"][key], before["details"][key],
                "{name}: {key}"
            );
        }
        assert_eq!(guest_digest(&image, &[]), content, "{name}");
        assert!(allocated(&image) < size, "{name}");
        let old = folder.file(&format!("{name}.old"));
        let format = before["format"].as_str().expect("a format");
        assert_eq!(guest_digest(&old, &["-f", format]), content, "{name}");
    }
}

#[test]
fn the_files_of_an_image_go_with_it() {
    let folder = Folder::new();
    let vmdk = folder.file("web.vmdk");
    convert(&disk(&folder), &vmdk, &["-o", "subformat=vmfs"]);
    let content = guest_digest(&vmdk, &[]);
    let id = info(&vmdk)["identity"].clone();
    run_ok(&["convert", "--replace", s(&vmdk)]);
    assert_eq!(info(&vmdk)["details"]["create_type"], "vmfs");
    assert_eq!(info(&vmdk)["identity"], id);
    assert_eq!(guest_digest(&vmdk, &[]), content);
    refused(&folder, &vmdk, &["--keep-old"], 2);
    run_ok(&[
        "convert",
        "--replace",
        s(&vmdk),
        "-o",
        "subformat=monolithicSparse",
    ]);
    assert_eq!(guest_digest(&vmdk, &[]), content);
    assert!(!folder.file("web-flat.vmdk").exists());
}

#[test]
fn a_link_is_followed_and_stays() {
    let folder = Folder::new();
    let (vhd, link) = (folder.file("web.vhd"), folder.file("link.vhd"));
    convert(&disk(&folder), &vhd, &["-o", "subformat=fixed"]);
    std::os::unix::fs::symlink(&vhd, &link).expect("a link");
    run_ok(&["convert", "--replace", s(&link), "-o", "subformat=dynamic"]);
    assert!(link.is_symlink());
    assert_eq!(info(&vhd)["subformat"], "dynamic");
}

#[test]
fn what_others_stand_on_or_would_be_lost_is_refused() {
    let folder = Folder::new();
    let base = folder.file("base.qcow2");
    convert(&disk(&folder), &base, &[]);
    let child = folder.file("child.qcow2");
    convert(&folder.file("disk.raw"), &child, &["-B", "base.qcow2"]);
    let told = refused(&folder, &base, &[], 5);
    assert!(told.contains("child.qcow2"), "{told}");
    let told = refused(&folder, &child, &[], 5);
    assert!(told.contains("stands on"), "{told}");
    refused(&folder, &base, &["-B", "child.qcow2"], 2);
    refused(&folder, &base, &["--cpus", "2"], 2);
    refused(&folder, &folder.file("disk.raw"), &["-O", "ova"], 2);
    refused(&folder, &base, &["there.qcow2"], 2);
    fs::write(folder.file("disk.raw.old"), "old").expect("write");
    refused(&folder, &folder.file("disk.raw"), &["--keep-old"], 5);
    if have_qemu() {
        let alone = folder.file("alone.qcow2");
        convert(&folder.file("disk.raw"), &alone, &[]);
        qemu_img(&["snapshot", "-c", "one", s(&alone)]);
        let told = refused(&folder, &alone, &[], 5);
        assert!(told.contains("snapshots"), "{told}");
    }
}

#[test]
fn a_parent_of_another_format_by_id_is_refused() {
    let folder = Folder::new();
    let base = folder.file("base.vhdx");
    convert(&disk(&folder), &base, &[]);
    convert(
        &folder.file("disk.raw"),
        &folder.file("tip.vhdx"),
        &["-B", "base.vhdx"],
    );
    let told = refused(&folder, &base, &[], 5);
    assert!(told.contains("tip.vhdx"), "{told}");
}

#[test]
fn a_kill_leaves_the_old_image_or_the_new_one_under_its_name() {
    let folder = Folder::new();
    let raw = disk(&folder);
    let mut random = common::noise(31, 4000).into_iter();
    for (name, old, new) in [
        ("web.vhd", "subformat=fixed", "subformat=dynamic"),
        ("web.qcow2", "cluster_size=64k", "cluster_size=4k"),
        ("web.vhdx", "subformat=fixed", "subformat=dynamic"),
    ] {
        let image = folder.file(name);
        convert(&raw, &image, &["-o", old]);
        let content = guest_digest(&image, &[]);
        for round in 0..kills(3, 12) {
            let options = [new, old][round % 2];
            let mut running = common::diskferry()
                .args(["convert", "--replace", s(&image), "-o", options])
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .spawn()
                .expect("diskferry");
            let wait = 2 * u64::from(random.next().expect("a byte"));
            std::thread::sleep(std::time::Duration::from_millis(wait));
            let _ = running.kill();
            running.wait().expect("its end");
            assert_eq!(guest_digest(&image, &[]), content, "{name} after {wait} ms");
            run_ok(&["check", s(&image)]);
        }
        fs::remove_file(&image).expect("remove");
    }
    // Of what was killed nothing is left where the file system knows files without names.
    assert!(fs::read_dir(folder.path()).expect("list").count() <= 2);
}
