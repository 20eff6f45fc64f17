//! A source that somebody writes to while it is read is an error. The pipe that nobody reads holds the conversion until
//! the source has changed, so that nothing depends on timing.

mod common;

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Stdio};

use common::{Folder, diskferry, noise, s};

const SIZE: u64 = 48 << 20;

/// Starts a conversion of `source` into a pipe, lets `change` happen in its middle, and reads the rest; exit code and
/// what it said.
fn converted_while(source: &Path, change: impl FnOnce(&File)) -> (Option<i32>, String) {
    let mut child = diskferry()
        .args(["convert", s(source), "-", "-O", "raw", "-j", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start");
    let mut pipe = child.stdout.take().expect("its stdout");
    pipe.read_exact(&mut [0]).expect("the first byte");
    change(&OpenOptions::new().write(true).open(source).expect("open"));
    std::io::copy(&mut pipe, &mut std::io::sink()).expect("the rest");
    said(child)
}

fn said(mut child: Child) -> (Option<i32>, String) {
    let mut text = String::new();
    let mut stderr = child.stderr.take().expect("its stderr");
    stderr.read_to_string(&mut text).expect("text");
    (child.wait().expect("wait").code(), text)
}

fn source(folder: &Folder) -> std::path::PathBuf {
    let path = folder.file("disk.raw");
    std::fs::write(&path, noise(1, SIZE as usize)).expect("write");
    path
}

#[test]
fn a_source_that_is_left_alone_is_converted() {
    let folder = Folder::new();
    let (code, text) = converted_while(&source(&folder), |_| {});
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn a_source_that_grows_is_refused() {
    let folder = Folder::new();
    let (code, text) = converted_while(&source(&folder), |file| {
        file.set_len(SIZE + 512).expect("grow");
    });
    assert_eq!(code, Some(5), "{text}");
    assert!(text.contains("changed while it was read"), "{text}");
}

#[test]
fn a_source_that_is_written_to_is_refused() {
    let folder = Folder::new();
    let (code, text) = converted_while(&source(&folder), |file| {
        file.write_all_at(b"x", 0).expect("write");
    });
    assert_eq!(code, Some(5), "{text}");
    assert!(text.contains("changed while it was read"), "{text}");
}

#[test]
fn a_source_that_shrinks_is_an_error() {
    let folder = Folder::new();
    let (code, text) = converted_while(&source(&folder), |file| {
        file.set_len(SIZE / 2).expect("shrink");
    });
    assert!(matches!(code, Some(3 | 5)), "{text}");
    assert!(text.contains("while it was read"), "{text}");
}

#[test]
fn a_parent_that_is_written_to_is_refused() {
    let folder = Folder::new();
    source(&folder);
    let child = common::damage::images::qcow2::Builder {
        size: SIZE,
        cluster_bits: 16,
        ..common::damage::images::qcow2::Builder::over("raw", "disk.raw")
    };
    let tip = folder.file("tip.qcow2");
    std::fs::write(&tip, child.build()).expect("write");
    let parent = folder.file("disk.raw");
    let (code, text) = converted_while(&tip, |_| {
        let mut file = OpenOptions::new().append(true).open(&parent).expect("open");
        file.write_all(&[1; 512]).expect("append");
    });
    assert_eq!(code, Some(5), "{text}");
    assert!(text.contains("disk.raw"), "{text}");
}
