//! Chains that are circles, too long, or stand on the wrong file: an error within a moment, and nothing written.

mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::damage::images::patch;
use common::damage::images::qcow2::Builder;
use common::damage::images::vhd::{self, child, fix_checksums};
use common::damage::{fails, snapshot};
use common::{Folder, convert, folder_of, guest_digest, make_disk, run, s};

/// A qcow2 over `name`.
fn over(name: &str) -> Vec<u8> {
    Builder::over("qcow2", name).build()
}

/// Opening `name` fails as a circle does.
fn is_circle(folder: &Folder, name: &str) {
    let started = Instant::now();
    let error = fails(&folder.file(name), &[], 3, "malformed");
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(error["structure"], "chain");
    assert!(
        error["message"].as_str().unwrap().contains("circle"),
        "{error}"
    );
    for verb in ["digest", "info", "map"] {
        let finished = run(&[verb, s(&folder.file(name)), "--json"]);
        assert!(
            matches!(finished.code, Some(0 | 3)),
            "{verb}: {}",
            finished.stderr
        );
    }
    assert_eq!(run(&["digest", s(&folder.file(name))]).code, Some(3));
}

#[test]
fn an_image_that_stands_on_itself_is_malformed() {
    is_circle(&folder_of(&[("a.qcow2", over("a.qcow2"))]), "a.qcow2");
    // Under another name it is still itself.
    let folder = folder_of(&[("a.qcow2", over("b.qcow2"))]);
    fs::hard_link(folder.file("a.qcow2"), folder.file("b.qcow2")).expect("link");
    is_circle(&folder, "a.qcow2");
    let folder = folder_of(&[("a.qcow2", over("b.qcow2"))]);
    std::os::unix::fs::symlink("a.qcow2", folder.file("b.qcow2")).expect("link");
    is_circle(&folder, "a.qcow2");
}

#[test]
fn two_and_three_images_in_a_circle_are_malformed() {
    let folder = folder_of(&[("a.qcow2", over("b.qcow2")), ("b.qcow2", over("a.qcow2"))]);
    is_circle(&folder, "a.qcow2");
    let folder = folder_of(&[
        ("a.qcow2", over("b.qcow2")),
        ("b.qcow2", over("c.qcow2")),
        ("c.qcow2", over("b.qcow2")),
    ]);
    is_circle(&folder, "a.qcow2");
}

#[test]
fn a_vhd_that_is_its_own_parent_is_malformed() {
    is_circle(&folder_of(&[("a.vhd", child(vhd::ID, "a.vhd"))]), "a.vhd");
    let folder = folder_of(&[
        ("a.vhd", child(vhd::ID, "b.vhd")),
        ("b.vhd", child(vhd::ID, "a.vhd")),
    ]);
    is_circle(&folder, "a.vhd");
}

/// Names of a chain of `length` images over a raw disk; the tip is "0.qcow2".
fn chain(length: usize) -> Folder {
    let folder = Folder::new();
    for index in 0..length - 1 {
        let image = match index + 2 {
            next if next == length => Builder::over("raw", "base.raw").build(),
            _ => over(&format!("{}.qcow2", index + 1)),
        };
        fs::write(folder.file(&format!("{index}.qcow2")), image).expect("write");
    }
    make_disk(&folder.file("base.raw"), 70 << 9);
    folder
}

#[test]
fn a_chain_of_64_is_read_and_one_of_65_is_over_the_limit() {
    let whole = chain(64);
    assert_eq!(guest_digest(&whole.file("0.qcow2"), &[]).1, 70 << 9);
    let longer = chain(65);
    let error = fails(&longer.file("0.qcow2"), &[], 3, "limit");
    assert_eq!(error["structure"], "chain");
    // From its second image on it is short enough.
    guest_digest(&longer.file("1.qcow2"), &[]);
}

/// The parent is not there: an error that says which, and what to do.
fn parent_is_missing(folder: &Folder, name: &str, parent: &str) {
    let before = snapshot(folder.path());
    let (source, target) = (folder.file(name), folder.file("new.raw"));
    let finished = run(&["convert", s(&source), s(&target), "--json"]);
    assert!(matches!(finished.code, Some(3 | 5)), "{}", finished.stderr);
    let message = finished.json()["error"]["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(message.contains(parent), "{message}");
    assert!(message.contains("--allow-references"), "{message}");
    assert!(snapshot(folder.path()) == before);
}

#[test]
fn a_missing_parent_is_an_error_with_a_hint() {
    parent_is_missing(
        &folder_of(&[("a.qcow2", over("gone.qcow2"))]),
        "a.qcow2",
        "gone.qcow2",
    );
    parent_is_missing(
        &folder_of(&[("a.vhd", child([7; 16], "gone.vhd"))]),
        "a.vhd",
        "gone.vhd",
    );
    // Further down.
    let folder = folder_of(&[
        ("a.qcow2", over("b.qcow2")),
        ("b.qcow2", over("gone.qcow2")),
    ]);
    parent_is_missing(&folder, "a.qcow2", "gone.qcow2");
}

#[test]
fn a_parent_with_another_id_is_malformed() {
    let folder = folder_of(&[("a.vhd", child([7; 16], "base.vhd"))]);
    make_disk(&folder.file("base.raw"), 1 << 20);
    convert(&folder.file("base.raw"), &folder.file("base.vhd"), &[]);
    let error = fails(&folder.file("a.vhd"), &[], 3, "malformed");
    assert!(
        error["file"].as_str().unwrap().ends_with("base.vhd"),
        "{error}"
    );
    let expected = "id 07070707-0707-0707-0707-070707070707";
    assert_eq!(error["expected"], expected);
    assert!(
        error["found"].as_str().unwrap().starts_with("id "),
        "{error}"
    );
    // The one that it was made on.
    let mut parent = vhd::dynamic();
    let end = parent.len() - 512;
    for footer in [0, end] {
        patch(&mut parent, footer + 68, &[7; 16]);
    }
    fix_checksums(&mut parent);
    fs::write(folder.file("base.vhd"), parent).expect("write");
    guest_digest(&folder.file("a.vhd"), &[]);
}

#[test]
fn a_parent_that_is_damaged_or_of_another_format_is_an_error() {
    let base = Builder::default().build();
    let folder = folder_of(&[
        ("a.qcow2", over("b.qcow2")),
        ("b.qcow2", base[..2200].to_vec()),
    ]);
    let error = fails(&folder.file("a.qcow2"), &[], 3, "truncated");
    assert!(
        error["file"].as_str().unwrap().ends_with("b.qcow2"),
        "{error}"
    );
    let folder = folder_of(&[("a.qcow2", over("b.qcow2")), ("b.qcow2", vec![0; 4096])]);
    let error = fails(&folder.file("a.qcow2"), &[], 3, "malformed");
    assert!(
        error["file"].as_str().unwrap().ends_with("b.qcow2"),
        "{error}"
    );
    let folder = folder_of(&[("a.vhd", child([7; 16], "b.vhd")), ("b.vhd", base)]);
    fails(&folder.file("a.vhd"), &[], 3, "malformed");
}

#[test]
fn a_chain_of_scattered_tables_takes_little_memory() {
    // L1 tables whose entries all point far apart, and past the end of the file.
    let entries = 8192u64;
    let folder = Folder::new();
    for index in 0..64 {
        let builder = match index {
            63 => Builder::default(),
            _ => Builder::over("qcow2", &format!("{}.qcow2", index + 1)),
        };
        let mut image = builder.build();
        let l1 = image.len() as u64;
        image.extend((1..=entries).flat_map(|n| (n << 25 | 1 << 63).to_be_bytes()));
        patch(&mut image, 24, &(entries << 15).to_be_bytes());
        patch(&mut image, 36, &(entries as u32).to_be_bytes());
        patch(&mut image, 40, &l1.to_be_bytes());
        fs::write(folder.file(&format!("{index}.qcow2")), image).expect("write");
    }
    let limited = format!(
        "ulimit -v 1000000; exec {} digest -j 1 {} --json",
        env!("CARGO_BIN_EXE_diskferry"),
        s(&folder.file("0.qcow2"))
    );
    let output = std::process::Command::new("sh")
        .args(["-c", &limited])
        .output()
        .expect("sh");
    assert_eq!(
        output.status.code(),
        Some(3),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
