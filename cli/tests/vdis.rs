//! VDIs through the command: chains without names, what `info` and `check` say, and damage.

mod common;

use std::fs;

use common::damage::images::le32;
use common::damage::images::vdi::{Builder, DISCARDED, ID, MODIFICATION, UNALLOCATED};
use common::damage::{Damaged, fails, place, snapshot};
use common::peers::{diskferry_content, have_qemu, qemu_check, qemu_content, qemu_img};
use common::{Folder, convert, folder_of, make_disk, run, run_ok, s, tool};

const FREE: u32 = UNALLOCATED;

/// A child over a middle over a base: blocks of all three, given back and never written.
fn chain() -> ([(&'static str, Builder); 3], Vec<u8>) {
    let base = Builder::new(&[0, 1, 2, FREE, 3]);
    let middle = Builder::over(&[FREE, 0, DISCARDED, FREE, 1], ID);
    let tip = Builder {
        id: [0xD7; 16],
        ..Builder::over(&[FREE, FREE, FREE, 0, FREE], middle.id)
    };
    let content = tip.content(&middle.content(&base.content(&[])));
    (
        [("base.vdi", base), ("middle.vdi", middle), ("tip.vdi", tip)],
        content,
    )
}

fn in_folder(images: &[(&str, Builder)]) -> Folder {
    let files: Vec<_> = images.iter().map(|(name, b)| (*name, b.build())).collect();
    folder_of(&files)
}

#[test]
fn a_chain_is_converted_and_the_source_is_left_alone() {
    let (images, content) = chain();
    let folder = in_folder(&images);
    let before = snapshot(folder.path());
    assert!(diskferry_content(&folder.file("tip.vdi"), &folder) == content);
    assert!(snapshot(folder.path()) == before);
    let copy = folder.file("copy.qcow2");
    convert(&folder.file("tip.vdi"), &copy, &["--verify"]);
    let map = run_ok(&["map", s(&folder.file("tip.vdi")), "--json"]).json();
    assert_eq!(map["size"], content.len());
}

#[test]
fn info_tells_the_chain_and_what_is_missing_of_it() {
    let (images, _) = chain();
    let folder = in_folder(&images);
    let tip = folder.file("tip.vdi");
    let info = run_ok(&["info", s(&tip), "--json"]).json();
    assert_eq!(info["format"], "vdi");
    assert_eq!(info["subformat"], "differencing");
    assert_eq!(info["chain"].as_array().map(Vec::len), Some(3));
    assert_eq!(info["parent"]["file"], s(&folder.file("middle.vdi")));
    assert_eq!(info["warnings"], serde_json::json!([]));
    fs::remove_file(folder.file("middle.vdi")).expect("remove");
    let info = run_ok(&["info", s(&tip), "--json"]).json();
    let id = "c5c5c5c5-c5c5-c5c5-c5c5-c5c5c5c5c5c5";
    assert_eq!(info["parent"]["identity"], id);
    assert_eq!(info["warnings"].as_array().map(Vec::len), Some(1));
    assert!(run_ok(&["info", s(&tip)]).text().contains(id));
    fails(&tip, &[], 3, "malformed");
}

#[test]
fn two_possible_parents_are_refused_and_a_changed_one_is_told() {
    let (images, _) = chain();
    let folder = in_folder(&images);
    let tip = folder.file("tip.vdi");
    fs::copy(folder.file("middle.vdi"), folder.file("a copy.vdi")).expect("copy");
    fails(&tip, &[], 5, "refused");
    fs::remove_file(folder.file("a copy.vdi")).expect("remove");
    let mut base = fs::read(folder.file("base.vdi")).expect("read");
    assert_eq!(base[408..424], MODIFICATION);
    base[408] ^= 1;
    fs::write(folder.file("base.vdi"), base).expect("write");
    let told = run_ok(&["convert", s(&tip), s(&folder.file("out.raw"))]).stderr;
    assert!(told.contains("last modification"), "{told}");
    let info = run_ok(&["info", s(&tip)]).text();
    assert!(info.contains("last modification"), "{info}");
}

#[test]
fn damage_is_told_with_its_place() {
    let sound = Builder::new(&[0, 1, 2]);
    let twice = Builder {
        allocated: Some(3),
        ..Builder::new(&[0, 2, 2])
    };
    let error = Damaged::new("a.vdi", &twice.build()).is("malformed");
    assert_eq!(place(&error), ("block map", 516));
    let mut uncounted = sound.build();
    uncounted[388] = 2;
    let error = Damaged::new("a.vdi", &uncounted).is("malformed");
    assert_eq!(place(&error), ("block map", 520));
    let image = sound.build();
    let cut = Damaged::new("a.vdi", &image[..image.len() - 1]);
    assert_eq!(place(&cut.is("truncated")), ("block map", 520));
    let old = Builder {
        version: 2,
        ..sound
    };
    let error = Damaged::new("a.vdi", &old.build()).is("unsupported");
    assert_eq!(place(&error), ("header", 68));
}

/// Damage that qemu-img finds is found, and what is sound to it is sound.
#[test]
fn check_agrees_with_qemu() {
    if !have_qemu() {
        return;
    }
    let folder = Folder::new();
    let (raw, image) = (folder.file("disk.raw"), folder.file("disk.vdi"));
    make_disk(&raw, 20 << 20);
    for subformat in ["subformat=dynamic", "subformat=fixed"] {
        convert(&raw, &image, &["-o", subformat, "--force"]);
        qemu_check("vdi", &image);
        let answer = run_ok(&["check", s(&image), "--json"]).json();
        assert_eq!(answer["warnings"], serde_json::json!([]));
        let sound = fs::read(&image).expect("read");
        assert_eq!(answer["counts"]["allocated_blocks"], le32(&sound, 388));
        assert!(qemu_content(&image, "vdi", &folder) == fs::read(&raw).expect("read"));
        let map = 1 << 20;
        let spoiled: [(usize, u32); 3] = [(388, le32(&sound, 388) - 1), (map, 1), (map, 1000)];
        for (at, value) in spoiled {
            let mut damaged = sound.clone();
            damaged[at..at + 4].copy_from_slice(&value.to_le_bytes());
            fs::write(&image, damaged).expect("write");
            assert_eq!(run(&["check", s(&image)]).code, Some(1), "{at}: {value}");
            let (code, _) = qemu_img(&["check", "-f", "vdi", s(&image)]);
            assert_ne!(code, Some(0), "{at}: {value}");
        }
    }
}

/// QEMU reads zeros where VDIs are cut off, without a word.
#[test]
fn an_image_that_is_cut_off_is_an_error_also_where_qemu_reads_on() {
    if !have_qemu() {
        return;
    }
    let folder = Folder::new();
    let (raw, image) = (folder.file("disk.raw"), folder.file("disk.vdi"));
    make_disk(&raw, 20 << 20);
    convert(&raw, &image, &[]);
    let whole = fs::read(&image).expect("read");
    fs::write(&image, &whole[..whole.len() * 6 / 10]).expect("write");
    let target = folder.file("qemu.raw");
    let (code, _) = qemu_img(&["convert", "-f", "vdi", "-O", "raw", s(&image), s(&target)]);
    assert_eq!(code, Some(0));
    fails(&image, &[], 3, "truncated");
    let saved = run(&["convert", s(&image), s(&folder.file("a.raw")), "--salvage"]);
    assert!(saved.stderr.contains("lost"), "{}", saved.stderr);
}

/// What we write, a guest can go on writing to.
#[test]
fn qemu_writes_to_what_was_written() {
    if !have_qemu() {
        return;
    }
    let folder = Folder::new();
    let (raw, image) = (folder.file("disk.raw"), folder.file("disk.vdi"));
    make_disk(&raw, (12 << 20) + 1024);
    convert(&raw, &image, &[]);
    let arguments = [
        "-f",
        "vdi",
        "-c",
        "write -P 7 3M 1M",
        "-c",
        "write -P 8 12M 1k",
    ];
    tool("qemu-io", &[&arguments[..], &[s(&image)]].concat());
    qemu_check("vdi", &image);
    let content = qemu_content(&image, "vdi", &folder);
    assert!(diskferry_content(&image, &folder) == content);
    assert!(content[3 << 20..4 << 20].iter().all(|byte| *byte == 7));
}
