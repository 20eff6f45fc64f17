//! What stands around the command: full or closed outputs, limits, odd names, pictures beside images.

mod common;

use std::fs::{self, OpenOptions};
use std::process::{Command, Stdio};

use common::{Folder, convert, diskferry, make_disk, run, run_ok, s, testdata};

const FULL: &str = "/dev/full";

#[test]
fn an_answer_that_cannot_be_written_is_an_error() {
    let image = testdata("small.qcow2");
    let image = s(&image);
    for arguments in [
        vec!["digest", image],
        vec!["info", image, "--json"],
        vec!["map", image],
        vec!["map", image, "--json"],
        vec!["compare", image, image],
    ] {
        let full = OpenOptions::new().write(true).open(FULL).expect(FULL);
        let output = diskferry()
            .args(&arguments)
            .stdout(full)
            .output()
            .expect("run");
        assert_eq!(output.status.code(), Some(4), "{arguments:?}");
    }
}

#[test]
fn nobody_to_complain_to_is_no_error() {
    let folder = Folder::new();
    let target = folder.file("target.raw");
    let full = || OpenOptions::new().write(true).open(FULL).expect(FULL);
    let image = testdata("small.vhd");
    let status = diskferry()
        .args(["convert", s(&image), s(&target), "--progress", "json"])
        .stdout(Stdio::null())
        .stderr(full())
        .status()
        .expect("run");
    assert_eq!(status.code(), Some(0));
    let status = diskferry()
        .args(["info", "absent"])
        .stderr(full())
        .status()
        .expect("run");
    assert_eq!(status.code(), Some(4));
}

#[test]
fn a_limit_on_file_sizes_counts_the_file_not_the_room_made_for_it() {
    let folder = Folder::new();
    let disk = folder.file("disk.raw");
    make_disk(&disk, 10 << 20);
    let under_limit = |blocks: u32, target: &str| {
        Command::new("bash")
            .args(["-c", "ulimit -f $1; shift; exec \"$@\"", "-"])
            .arg(blocks.to_string())
            .args([env!("CARGO_BIN_EXE_diskferry"), "convert", s(&disk)])
            .arg(folder.file(target))
            .output()
            .expect("run")
            .status
            .code()
    };
    // In units of 1024 bytes.
    assert_eq!(under_limit(50 << 10, "fits.qcow2"), Some(0));
    assert_eq!(under_limit(1 << 10, "does-not.qcow2"), Some(4));
    assert_eq!(folder.names(), ["disk.raw", "fits.qcow2"]);
}

#[test]
fn a_picture_replaces_nothing() {
    let folder = Folder::new();
    let image = folder.file("image.qcow2");
    fs::copy(testdata("small.qcow2"), &image).expect("copy");
    let before = fs::read(&image).expect("read");
    let finished = run(&["map", s(&image), "--picture", s(&image)]);
    assert_eq!(finished.code, Some(5), "{}", finished.stderr);
    assert!(fs::read(&image).expect("read") == before);
    let picture = folder.file("map.svg");
    run_ok(&["map", s(&image), "--picture", s(&picture)]);
    assert!(
        fs::read_to_string(&picture)
            .expect("read")
            .starts_with("<svg")
    );
}

#[test]
fn empty_disks_of_two_sizes_have_two_ids() {
    let folder = Folder::new();
    let mut ids = Vec::new();
    for size in [1 << 20, 5 << 20] {
        let disk = folder.file(&format!("{size}.raw"));
        fs::File::create(&disk)
            .expect("create")
            .set_len(size)
            .expect("size");
        let target = folder.file(&format!("{size}.vhd"));
        convert(&disk, &target, &["--reproducible"]);
        ids.push(run_ok(&["info", s(&target), "--json"]).json()["identity"].clone());
    }
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn a_name_that_no_file_can_have_fails_before_the_copy() {
    let folder = Folder::new();
    let image = testdata("small.vhd");
    for (name, code) in [
        (format!("{}.raw", "n".repeat(300)), 4),
        ("folder.raw/".to_owned(), 5),
    ] {
        let target = format!("{}/{name}", s(folder.path()));
        let finished = run(&["convert", s(&image), &target, "-O", "raw"]);
        assert_eq!(finished.code, Some(code), "{}", finished.stderr);
        assert!(folder.names().is_empty());
    }
}
