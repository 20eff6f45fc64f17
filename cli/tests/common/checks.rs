//! What the tests of `check` share: what qemu-img counts, and images to be damaged.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::damage::images::{be64, patch};
use super::damage::snapshot;
use super::{Finished, Folder, convert, make_disk, run, s, tool};

pub const COPIED: u64 = 1 << 63;

/// What somebody counted in an image.
#[derive(Debug, PartialEq, Eq)]
pub struct Counts {
    pub leaks: u64,
    pub corruptions: u64,
    pub allocated: u64,
    pub compressed: u64,
    pub end: u64,
}

pub fn number(object: &Value, name: &str) -> u64 {
    object[name].as_u64().unwrap_or(0)
}

/// What qemu-img counts; `None` when it does not get that far, or is not there.
pub fn qemu_counts(image: &Path) -> Option<Counts> {
    let output = Command::new("qemu-img")
        .args(["check", "--output=json", "-f", "qcow2", s(image)])
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let answer: Value = serde_json::from_slice(&output.stdout).ok()?;
    (number(&answer, "check-errors") == 0).then(|| Counts {
        leaks: number(&answer, "leaks"),
        corruptions: number(&answer, "corruptions"),
        allocated: number(&answer, "allocated-clusters"),
        compressed: number(&answer, "compressed-clusters"),
        end: number(&answer, "image-end-offset"),
    })
}

pub fn check(image: &Path, options: &[&str]) -> Finished {
    run(&[&["check", "-f", "qcow2", "--json", s(image)], options].concat())
}

pub fn counts(answer: &Value) -> Counts {
    let counts = &answer["counts"];
    Counts {
        leaks: number(counts, "leaks"),
        corruptions: number(counts, "corruptions"),
        allocated: number(counts, "allocated_clusters"),
        compressed: number(counts, "compressed_clusters"),
        end: number(counts, "image_end_offset"),
    }
}

/// Nothing is found, and both programs count the same.
pub fn is_clean(image: &Path) {
    let finished = check(image, &["--unpack"]);
    let answer = finished.json();
    let shown = format!("{}: {answer}", image.display());
    assert_eq!(finished.code, Some(0), "{shown}");
    for list in ["damage", "lost", "warnings"] {
        assert_eq!(answer[list], serde_json::json!([]), "{shown}");
    }
    assert_eq!(number(&answer["counts"], "overlaps"), 0, "{shown}");
    assert_eq!(Some(counts(&answer)), qemu_counts(image), "{shown}");
}

pub fn qemu_io(image: &Path, commands: &[&str]) {
    let mut arguments = vec!["-f", "qcow2"];
    commands.iter().for_each(|c| arguments.extend(["-c", c]));
    arguments.push(s(image));
    tool("qemu-io", &arguments);
}

/// An image made by qemu with plain, zero and compressed clusters, two snapshots and a bitmap.
pub fn qemu_image(folder: &Folder, name: &str, options: &str) -> PathBuf {
    let image = folder.file(name);
    tool(
        "qemu-img",
        &["create", "-f", "qcow2", "-o", options, s(&image), "12M"],
    );
    let compressed = "write -c -P 5 8M 2M";
    let writes = ["write -P 1 0 1M", "write -P 2 5000k 500k", "write -z 7M 1M"];
    qemu_io(&image, &writes);
    if !options.contains("data_file") && !options.contains("preallocation") {
        qemu_io(&image, &[compressed]);
        // A snapshot needs refcounts above 1.
        if !options.contains("refcount_bits=1,") {
            tool("qemu-img", &["snapshot", "-c", "one", s(&image)]);
            qemu_io(&image, &["write -P 3 500k 1M"]);
            tool("qemu-img", &["snapshot", "-c", "two", s(&image)]);
        }
    }
    if !options.contains("compat=0.10") {
        tool("qemu-img", &["bitmap", "--add", s(&image), "daily"]);
    }
    qemu_io(&image, &["write -P 4 600k 100k"]);
    image
}

/// An image with clusters of 4 KiB, refcounts of 16 bits, and two L2 tables.
pub struct Sample {
    pub folder: Folder,
    pub path: PathBuf,
    pub bytes: Vec<u8>,
}

pub const CLUSTER: u64 = 4096;

impl Sample {
    pub fn new() -> Sample {
        let folder = Folder::new();
        let (raw, path) = (folder.file("disk.raw"), folder.file("sample.qcow2"));
        make_disk(&raw, 4 << 20);
        convert(&raw, &path, &["-o", "cluster_size=4k"]);
        std::fs::remove_file(raw).expect("remove");
        let bytes = std::fs::read(&path).expect("read");
        Sample {
            folder,
            path,
            bytes,
        }
    }

    pub fn set64(&mut self, at: u64, value: u64) {
        patch(&mut self.bytes, at as usize, &value.to_be_bytes());
    }

    pub fn get64(&self, at: u64) -> u64 {
        be64(&self.bytes, at as usize)
    }

    /// Where L1 entry `index` stands.
    pub fn l1(&self, index: u64) -> u64 {
        self.get64(40) + index * 8
    }

    /// Where the L2 entry of guest cluster `guest`, below 512, stands.
    pub fn l2(&self, guest: u64) -> u64 {
        (self.get64(self.l1(0)) & !COPIED) + guest * 8
    }

    /// The cluster of the file that guest cluster `guest` is in.
    pub fn host(&self, guest: u64) -> u64 {
        (self.get64(self.l2(guest)) & !COPIED) / CLUSTER
    }

    pub fn set_refcount(&mut self, cluster: u64, count: u16) {
        let block = self.get64(self.get64(48));
        let at = (block + cluster * 2) as usize;
        patch(&mut self.bytes, at, &count.to_be_bytes());
    }

    /// Puts a cluster that nothing uses behind the end, and counts it.
    pub fn leak(&mut self) {
        let cluster = self.bytes.len() as u64 / CLUSTER;
        self.bytes.resize(((cluster + 1) * CLUSTER) as usize, 0x55);
        self.set_refcount(cluster, 1);
    }

    pub fn write(&self) {
        std::fs::write(&self.path, &self.bytes).expect("write");
    }

    /// What is found after `change`, and by qemu.
    pub fn found(change: impl FnOnce(&mut Sample)) -> (Finished, Option<Counts>) {
        let mut sample = Sample::new();
        change(&mut sample);
        sample.write();
        let before = snapshot(sample.folder.path());
        let finished = check(&sample.path, &[]);
        assert!(snapshot(sample.folder.path()) == before, "check wrote");
        (finished, qemu_counts(&sample.path))
    }
}

pub fn says(answer: &Value, list: &str, words: &str) {
    let list = answer[list].as_array().expect("a list");
    assert!(
        list.iter()
            .any(|m| m.as_str().is_some_and(|m| m.contains(words))),
        "{words:?} is not in {answer}"
    );
}
