//! `check --repair` of qcow2 images: what it puts right, and when it keeps its hands off.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::checks::*;
use common::damage::snapshot;
use common::peers::{have_qemu, qemu_check, qemu_img};
use common::{Folder, guest_digest, s, tool};
use formats::{Error, FileStorage, Format, InPlace, InPlaceFile, StorageRef, driver};

#[test]
fn leaks_and_flags_are_repaired() {
    if !have_qemu() {
        return;
    }
    let mut sample = Sample::new();
    let digest = guest_digest(&sample.path, &[]);
    sample.leak();
    sample.leak();
    sample.set64(sample.l1(0), sample.get64(sample.l1(0)) & !COPIED);
    sample.set64(sample.l2(3), sample.get64(sample.l2(3)) & !COPIED);
    // Its flag is right once its refcount is.
    sample.set_refcount(sample.host(5), 3);
    sample.write();
    assert_eq!(check(&sample.path, &[]).code, Some(1));
    let finished = check(&sample.path, &["--repair"]);
    let answer = finished.json();
    assert_eq!(finished.code, Some(0), "{answer}");
    assert_eq!(
        answer["repaired"],
        serde_json::json!({"leaks": 3, "flags": 2})
    );
    qemu_check("qcow2", &sample.path);
    is_clean(&sample.path);
    assert_eq!(guest_digest(&sample.path, &[]), digest);
}

#[test]
fn refcounts_of_every_width_are_repaired() {
    if !have_qemu() {
        return;
    }
    for bits in [2, 4, 8, 16, 32, 64] {
        let folder = Folder::new();
        let options = format!("refcount_bits={bits},cluster_size=4k");
        let image = folder.file("a.qcow2");
        tool(
            "qemu-img",
            &["create", "-f", "qcow2", "-o", &options, s(&image), "12M"],
        );
        qemu_io(&image, &["write -P 1 0 1M"]);
        tool("qemu-img", &["snapshot", "-c", "one", s(&image)]);
        qemu_io(&image, &["write -P 2 500k 1M"]);
        let digest = guest_digest(&image, &[]);
        // Nobody knows of the snapshot any more: what it kept is leaked, and what it shared is not shared.
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(&image)
            .expect("open");
        file.write_all_at(&[0; 12], 60).expect("write");
        drop(file);
        let before = check(&image, &[]).json();
        assert_eq!(
            Some(counts(&before)),
            qemu_counts(&image),
            "{bits}: {before}"
        );
        assert!(counts(&before).leaks > 200, "{before}");
        let repaired = check(&image, &["--repair"]);
        assert_eq!(repaired.code, Some(0), "{bits}");
        assert!(number(&repaired.json()["repaired"], "flags") > 100);
        qemu_check("qcow2", &image);
        assert_eq!(guest_digest(&image, &[]), digest);
    }
}

#[test]
fn nothing_is_written_when_more_is_wrong() {
    let mut sample = Sample::new();
    sample.leak();
    sample.set64(sample.l2(1), sample.get64(sample.l2(0)));
    sample.write();
    let before = snapshot(sample.folder.path());
    let finished = check(&sample.path, &["--repair"]);
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    assert!(finished.json()["not_repaired"].is_string());
    assert!(snapshot(sample.folder.path()) == before);
}

#[test]
fn an_image_in_use_is_not_repaired() {
    if !have_qemu() {
        return;
    }
    let mut sample = Sample::new();
    sample.leak();
    sample.write();
    let mut user = Command::new("qemu-io")
        .args(["-f", "qcow2", s(&sample.path)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("qemu-io");
    let mut orders = user.stdin.take().expect("its input");
    // It has the image open once it answers.
    writeln!(orders, "length").expect("an order");
    let mut answer = String::new();
    let mut answers = BufReader::new(user.stdout.take().expect("its output"));
    answers.read_line(&mut answer).expect("an answer");
    let finished = check(&sample.path, &["--repair"]);
    drop(orders);
    user.wait().expect("qemu-io");
    assert_eq!(finished.code, Some(5), "{}", finished.text());
    assert_eq!(check(&sample.path, &["--repair"]).code, Some(0));
    qemu_check("qcow2", &sample.path);
}

#[test]
fn repairing_a_clean_image_writes_nothing() {
    if !have_qemu() {
        return;
    }
    let folder = Folder::new();
    let image = qemu_image(&folder, "a.qcow2", "cluster_size=4k");
    let before = std::fs::read(&image).expect("read");
    let finished = check(&image, &["--repair"]);
    assert_eq!(finished.code, Some(0), "{}", finished.text());
    assert!(std::fs::read(&image).expect("read") == before);
    assert_eq!(qemu_img(&["check", s(&image)]).0, Some(0));
}

/// A file that can be written to a few times; then the machine stops.
struct Failing {
    file: InPlaceFile,
    writes_left: AtomicUsize,
}

impl InPlace for Failing {
    fn write_at(&self, bytes: &[u8], offset: u64) -> formats::Result<()> {
        let left = self.writes_left.load(Ordering::Relaxed);
        if left == 0 {
            return Err(Error::io("write", std::io::ErrorKind::Other.into()));
        }
        self.writes_left.store(left - 1, Ordering::Relaxed);
        self.file.write_at(bytes, offset)
    }

    fn set_len(&self, len: u64) -> formats::Result<()> {
        self.file.set_len(len)
    }

    fn replace(&self, bytes: &[u8]) -> formats::Result<()> {
        self.file.replace(bytes)
    }

    fn sync(&self) -> formats::Result<()> {
        self.file.sync()
    }
}

#[test]
fn a_repair_that_is_cut_short_leaves_nothing_worse() {
    if !have_qemu() {
        return;
    }
    let mut sample = Sample::new();
    let digest = guest_digest(&sample.path, &[]);
    for guest in 0..4 {
        sample.set_refcount(sample.host(guest), 2);
        sample.set64(sample.l2(guest), sample.get64(sample.l2(guest)) & !COPIED);
    }
    sample.leak();
    sample.set64(sample.l1(0), sample.get64(sample.l1(0)) & !COPIED);
    let mut done = false;
    for writes in 0.. {
        sample.write();
        let storage: StorageRef = Arc::new(FileStorage::open(&sample.path).expect("open"));
        let out = Failing {
            file: InPlaceFile::open(storage.as_ref()).expect("open for writing"),
            writes_left: AtomicUsize::new(writes),
        };
        done = driver(Format::Qcow2)
            .repair(&storage, &out, &AtomicBool::new(false))
            .is_ok();
        drop((storage, out));
        let answer = check(&sample.path, &[]).json();
        let found = counts(&answer);
        // A flag that says "shared" of what is not is safe: that, and leaks, is all there may be.
        assert_eq!(number(&answer["counts"], "overlaps"), 0);
        assert!(found.leaks <= 5 && found.corruptions <= 5, "{answer}");
        let low = &answer["places"]["clusters with a refcount that is too low"];
        assert!(low.is_null(), "{answer}");
        assert_eq!(guest_digest(&sample.path, &[]), digest);
        // Another try finishes it.
        assert_eq!(check(&sample.path, &["--repair"]).code, Some(0));
        qemu_check("qcow2", &sample.path);
        if done {
            break;
        }
    }
    assert!(done);
}
