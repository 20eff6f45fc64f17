//! Internal snapshots and dirty bitmaps of qcow2 images that QEMU made.

mod common;

use std::path::{Path, PathBuf};

use common::damage::images::be64;
use common::peers::{have_qemu, qemu_raw};
use common::{Folder, patched, run, run_ok, s, tool};

fn qemu_io(image: &Path, commands: &[&str]) {
    let mut arguments: Vec<&str> = commands.iter().flat_map(|c| ["-c", c]).collect();
    arguments.push(s(image));
    tool("qemu-io", &arguments);
}

/// An image with two snapshots of 8 MiB, a present of 12 MiB, and a bitmap; and what each of them holds.
fn image(folder: &Folder) -> (PathBuf, [PathBuf; 3]) {
    let image = folder.file("disk.qcow2");
    let states = ["one.raw", "two.raw", "now.raw"].map(|name| folder.file(name));
    tool(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", s(&image), "8M"],
    );
    qemu_io(&image, &["write -P 1 0 1M"]);
    qemu_raw("qcow2", &image, &states[0]);
    tool("qemu-img", &["snapshot", "-c", "one", s(&image)]);
    qemu_io(&image, &["write -P 2 512k 1M"]);
    qemu_raw("qcow2", &image, &states[1]);
    tool("qemu-img", &["snapshot", "-c", "two", s(&image)]);
    tool("qemu-img", &["resize", "-q", s(&image), "12M"]);
    tool(
        "qemu-img",
        &["bitmap", "--add", "-g", "64k", s(&image), "since"],
    );
    qemu_io(
        &image,
        &["write -z 0 64k", "write -P 3 3M 130k", "write -P 4 11M 1M"],
    );
    qemu_raw("qcow2", &image, &states[2]);
    (image, states)
}

fn same(arguments: &[&str]) {
    let finished = run(&[&["compare", "-s"], arguments].concat());
    assert_eq!(finished.code, Some(0), "{arguments:?}: {}", finished.text());
}

#[test]
fn each_snapshot_reads_as_it_was() {
    if !have_qemu() {
        return;
    }
    let folder = Folder::new();
    let (image, [one, two, now]) = image(&folder);
    same(&[s(&image), s(&now)]);
    for (name, state) in [("one", &one), ("1", &one), ("two", &two), ("2", &two)] {
        same(&["--snapshot", name, s(&image), s(state)]);
        let target = folder.file("target.raw");
        let target = s(&target);
        run_ok(&["convert", "--snapshot", name, s(&image), target, "--force"]);
        same(&[target, s(state)]);
    }
    let unknown = run(&["digest", "--snapshot", "three", s(&image)]);
    assert_eq!(unknown.code, Some(2));
    assert!(
        unknown.stderr.contains("\"one\", \"two\""),
        "{}",
        unknown.stderr
    );
    assert_eq!(run(&["digest", "--snapshot", "one", s(&now)]).code, Some(2));
}

#[test]
fn info_lists_snapshots_and_bitmaps() {
    if !have_qemu() {
        return;
    }
    let folder = Folder::new();
    let (image, _) = image(&folder);
    let details = run_ok(&["info", "--json", s(&image)]).json()["details"].clone();
    let snapshots = details["snapshots"].as_array().expect("snapshots");
    assert_eq!(snapshots.len(), 2);
    assert_eq!(
        (&snapshots[1]["id"], &snapshots[1]["name"]),
        (&"2".into(), &"two".into())
    );
    assert_eq!(snapshots[0]["disk_size"], 8 << 20);
    assert_eq!(snapshots[0]["vm_state_size"], 0);
    let date = snapshots[0]["date"].as_str().expect("a date");
    assert!(date.starts_with("20") && date.ends_with('Z'), "{date}");
    let bitmap = &details["bitmaps"][0];
    assert_eq!(bitmap["name"], "since");
    assert_eq!(bitmap["granularity"], 64 << 10);
    assert_eq!(bitmap["usable"], true);
    // 64 KiB at the front, three granules at 3 MiB, the last MiB.
    assert_eq!(bitmap["dirty_bytes"], (4 * 64 + 1024) << 10);
}

#[test]
fn a_bitmap_says_what_was_written() {
    if !have_qemu() {
        return;
    }
    let folder = Folder::new();
    let (image, _) = image(&folder);
    let answer = run_ok(&["map", "--bitmap", "since", "--json", s(&image)]).json();
    let ranges: Vec<_> = answer["ranges"]
        .as_array()
        .expect("ranges")
        .iter()
        .collect();
    let ranges: Vec<_> = ranges
        .iter()
        .map(|r| (r["offset"].as_u64().unwrap(), r["length"].as_u64().unwrap()))
        .collect();
    assert_eq!(
        ranges,
        [
            (0, 64 << 10),
            (3 << 20, 3 * (64 << 10)),
            (11 << 20, 1 << 20)
        ]
    );
    assert_eq!(run(&["map", "--bitmap", "other", s(&image)]).code, Some(2));
    // In use: whoever wrote last did not save it.
    let text = run_ok(&["info", "--json", s(&image)]).json();
    assert_eq!(text["details"]["bitmaps"][0]["in_use"], false);
}

#[test]
fn a_damaged_bitmap_is_told_by_info_and_costs_a_conversion_nothing() {
    if !have_qemu() {
        return;
    }
    let folder = Folder::new();
    let (image, [.., now]) = image(&folder);
    let bytes = std::fs::read(&image).expect("read");
    // The bitmaps extension: its head, count, reserved, bytes of the directory, place of the directory, which starts with
    // the entry. The length of the bitmap's table is in bytes 8 to 11 of that.
    let kind = 0x2385_2875u32.to_be_bytes();
    let extension = bytes.windows(4).position(|window| window == kind);
    let entry = be64(&bytes, extension.expect("the extension") + 8 + 16);
    let bad = folder.file("bad.qcow2");
    patched(&image, &bad, &[(entry + 8, &[0x07, 0xff, 0xff, 0xff])]);
    let answer = run_ok(&["info", "--json", s(&bad)]).json();
    assert_eq!(answer["details"]["bitmaps"][0]["name"], "since");
    assert!(answer["details"]["bitmaps"][0]["dirty_bytes"].is_null());
    assert!(answer["warnings"].to_string().contains("since"), "{answer}");
    let finished = run_ok(&["compare", s(&bad), s(&now)]);
    assert_eq!(finished.stderr, "");
    assert_eq!(run(&["map", "--bitmap", "since", s(&bad)]).code, Some(3));
}
