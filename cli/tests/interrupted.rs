//! Signals: SIGINT and SIGTERM end a conversion with exit code 130 and nothing left, SIGKILL leaves no file with the
//! target's name. None of it depends on how fast the machine is.

mod common;

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Folder, diskferry, noise, s};

/// How long a program that was told to stop may go on.
const PATIENCE: Duration = Duration::from_secs(20);

fn signal(child: &Child, name: &str) {
    let id = child.id().to_string();
    let sent = Command::new("kill").args(["-s", name, &id]).status();
    assert!(sent.expect("kill").success());
}

/// The exit code; a program that does not end is killed and has none.
fn ended(mut child: Child) -> Option<i32> {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait().expect("wait") {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().expect("kill");
    child.wait().expect("wait");
    None
}

/// A raw disk that no machine copies in a moment: noise at its beginning, then data without end that a file system
/// need not store. With one thread and `-S 0` every zero is written.
fn endless_disk(folder: &Folder) -> std::path::PathBuf {
    let path = folder.file("disk.raw");
    fs::write(&path, noise(1, 8 << 20)).expect("write");
    let file = fs::File::options().write(true).open(&path).expect("open");
    file.set_len(2 << 40).expect("a sparse file of 2 TiB");
    path
}

/// A digest of a disk of zeros without end, told to report how far it is.
fn hashing(source: &Path) -> Child {
    diskferry()
        .args([
            "digest",
            s(source),
            "-a",
            "md5",
            "-j",
            "2",
            "--progress",
            "json",
        ])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("start")
}

/// A conversion of an endless disk into a new file that has to hash all of it: it copies, and goes on for hours.
fn converting(source: &Path, target: &Path, options: &[&str]) -> Child {
    diskferry()
        .args([
            "convert",
            s(source),
            s(target),
            "-j",
            "2",
            "--digest",
            "md5",
            "--progress",
            "json",
        ])
        .args(options)
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("start")
}

/// Waits until the first segments are done.
fn wait_until_it_copies(child: &mut Child) {
    let mut stderr = child.stderr.take().expect("its stderr");
    let mut text = String::new();
    let mut buffer = [0; 4096];
    loop {
        let len = stderr.read(&mut buffer).expect("progress");
        assert!(len > 0, "it ended: {text}");
        text += &String::from_utf8_lossy(&buffer[..len]);
        let moved = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
            line["done"].as_u64().is_some_and(|done| done > 0)
        };
        if text.lines().any(moved) {
            break;
        }
    }
    // It goes on writing: somebody has to read.
    std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
}

#[test]
fn a_signal_ends_a_conversion_and_nothing_is_left() {
    let folder = Folder::new();
    let source = endless_disk(&folder);
    for name in ["INT", "TERM", "HUP"] {
        let mut child = converting(&source, &folder.file("new.qcow2"), &[]);
        wait_until_it_copies(&mut child);
        signal(&child, name);
        assert_eq!(ended(child), Some(130), "SIG{name}");
        assert_eq!(folder.names(), ["disk.raw"], "SIG{name}");
    }
}

#[test]
fn a_signal_leaves_none_of_the_files_of_a_vmdk() {
    let folder = Folder::new();
    let source = endless_disk(&folder);
    for subformat in ["monolithicFlat", "twoGbMaxExtentSparse", "streamOptimized"] {
        let options = ["-o", &format!("subformat={subformat}")];
        let mut child = converting(&source, &folder.file("new.vmdk"), &options);
        wait_until_it_copies(&mut child);
        signal(&child, "INT");
        assert_eq!(ended(child), Some(130), "{subformat}");
        assert_eq!(folder.names(), ["disk.raw"], "{subformat}");
    }
}

#[test]
fn a_signal_leaves_the_file_that_was_to_be_replaced() {
    let folder = Folder::new();
    let source = endless_disk(&folder);
    let target = folder.file("new.qcow2");
    fs::write(&target, "old").expect("write");
    let mut child = diskferry()
        .args([
            "convert",
            s(&source),
            s(&target),
            "--force",
            "-j",
            "2",
            "--digest",
            "md5",
        ])
        .args(["--progress", "json"])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("start");
    wait_until_it_copies(&mut child);
    signal(&child, "INT");
    assert_eq!(ended(child), Some(130));
    assert_eq!(fs::read(&target).expect("read"), b"old");
    assert_eq!(folder.names(), ["disk.raw", "new.qcow2"]);
}

#[test]
fn a_killed_conversion_leaves_no_target() {
    let folder = Folder::new();
    let source = endless_disk(&folder);
    let mut child = converting(&source, &folder.file("new.qcow2"), &[]);
    wait_until_it_copies(&mut child);
    signal(&child, "KILL");
    assert_eq!(ended(child), None);
    assert!(!folder.file("new.qcow2").exists());
}

#[test]
fn a_signal_ends_a_digest() {
    let folder = Folder::new();
    let mut child = hashing(&endless_disk(&folder));
    wait_until_it_copies(&mut child);
    signal(&child, "TERM");
    assert_eq!(ended(child), Some(130));
}

/// A conversion into a pipe that nobody reads: it stands still in the middle of a write.
fn stuck(source: &Path, options: &[&str]) -> (Child, ChildStdout) {
    let mut child = diskferry()
        .args([&["convert", s(source), "-", "-O", "raw"], options].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("start");
    let mut pipe = child.stdout.take().expect("its stdout");
    // When the first byte is here, the program is at work; what it writes then fills the pipe.
    pipe.read_exact(&mut [0]).expect("the first byte");
    (child, pipe)
}

#[test]
fn a_signal_ends_a_conversion_into_a_pipe_that_nobody_reads() {
    let folder = Folder::new();
    let source = endless_disk(&folder);
    for (name, options) in [("INT", &[][..]), ("TERM", &["-j", "1"])] {
        let (child, pipe) = stuck(&source, options);
        std::thread::sleep(Duration::from_millis(200));
        signal(&child, name);
        assert_eq!(ended(child), Some(130), "SIG{name}");
        drop(pipe);
    }
    assert_eq!(folder.names(), ["disk.raw"]);
}
