//! Images that other software made, read to the digests that independent readers found in them.
//!
//! The images belong to their authors and are not part of the project. `DISKFERRY_CORPUS` names a folder that holds them
//! under the paths of its `MANIFEST.tsv`, whose header names the columns: path, size, sha256, format, virtual_size,
//! guest_sha256, remark. What was published packed (.gz, .bz2, .xz) lies unpacked beside. Without the variable there is
//! nothing to do, and the test counts as skipped.

mod common;

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::skip::named_by;
use common::{Folder, convert, guest_digest, run, run_ok, s, sha256sum};

/// Digests with this prefix cover the blocks of 64 KiB that are not all zero, each after its offset.
const SPARSE_DIGEST: &str = "nz64k:";
const SPARSE_BLOCK: u64 = 64 << 10;

struct Row(HashMap<String, String>);

impl Row {
    fn get(&self, column: &str) -> &str {
        self.0.get(column).map_or("", String::as_str)
    }

    /// The file, unpacked.
    fn file(&self, corpus: &Path) -> PathBuf {
        let path = self.get("path");
        let unpacked = [".zst", ".gz", ".bz2", ".xz"]
            .iter()
            .find_map(|packing| path.strip_suffix(packing));
        corpus.join(unpacked.unwrap_or(path))
    }

    /// Whether nobody should read a disk in it.
    fn is_refused(&self) -> bool {
        let marks = ["MALFORMED", "HOSTILE", "BAD CHECKSUM"];
        // A fragment has a header that speaks of more than there is; nobody has read a disk in it.
        let fragment = self.get("guest_sha256").is_empty() && self.get("format") != "raw";
        fragment
            || self.get("subformat") == "v1"
            || marks
                .iter()
                .any(|mark| self.get("remark").starts_with(mark))
    }
}

fn rows(corpus: &Path) -> Vec<Row> {
    let manifest = std::fs::read_to_string(corpus.join("MANIFEST.tsv")).expect("MANIFEST.tsv");
    let mut lines = manifest.lines();
    let header: Vec<_> = lines.next().expect("a header").split('\t').collect();
    lines
        .map(|line| {
            let cells = line.split('\t').map(str::to_owned);
            Row(header.iter().map(|h| (*h).to_owned()).zip(cells).collect())
        })
        .filter(|row| {
            let known = ["raw", "vhd", "vhdx", "vmdk", "qcow", "qcow2", "vdi"];
            known.contains(&row.get("format"))
        })
        .collect()
}

/// The sparse digest of a disk: found from its map, so that terabytes of zeros cost nothing.
fn sparse_digest(image: &Path) -> String {
    let folder = Folder::new();
    let raw = folder.file("disk.raw");
    convert(image, &raw, &[]);
    let map = run_ok(&["map", s(&raw), "--json"]).json();
    let size = map["size"].as_u64().expect("a size");
    let disk = File::open(&raw).expect("open");
    let mut sum = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sha256sum");
    let mut input = sum.stdin.take().expect("its input");
    let mut next = 0;
    for run in map["runs"].as_array().expect("runs") {
        let start = run["offset"].as_u64().expect("an offset");
        let end = start + run["length"].as_u64().expect("a length");
        next = next.max(start / SPARSE_BLOCK * SPARSE_BLOCK);
        while run["type"] == "data" && next < end {
            let mut block = vec![0; SPARSE_BLOCK.min(size - next) as usize];
            disk.read_exact_at(&mut block, next).expect("read");
            if block.iter().any(|byte| *byte != 0) {
                input.write_all(&next.to_le_bytes()).expect("hash");
                input.write_all(&block).expect("hash");
            }
            next += SPARSE_BLOCK;
        }
    }
    drop(input);
    let output = sum.wait_with_output().expect("sha256sum");
    String::from_utf8_lossy(&output.stdout)[..64].to_owned()
}

/// What is wrong with how diskferry reads the file of `row`, if anything.
fn complaint(row: &Row, file: &Path) -> Option<String> {
    // A raw disk by a name that says otherwise, and the reverse, need the word of the user.
    let named_raw = file.extension().is_some_and(|e| e == "img");
    let is_vmdk_or_vdi = ["vmdk", "vdi"].contains(&row.get("format"));
    let options: &[&str] = if row.get("format") == "raw" || named_raw && is_vmdk_or_vdi {
        &["-f", row.get("format")]
    } else {
        &[]
    };
    let folder = Folder::new();
    let target = folder.file("target.raw");
    if row.is_refused() {
        let finished = run(&[&["convert", s(file), s(&target)], options].concat());
        let fine = matches!(finished.code, Some(3 | 5)) && folder.names().is_empty();
        return (!fine).then(|| format!("exit {:?}: {}", finished.code, finished.stderr));
    }
    let size: u64 = row.get("virtual_size").parse().expect("a size");
    let known = row.get("guest_sha256");
    if let Some(expected) = known.strip_prefix(SPARSE_DIGEST) {
        let found = sparse_digest(file);
        return (found != expected).then(|| format!("sparse digest {found}"));
    }
    // Of a raw disk the file itself is the content.
    let own = sha256sum(file);
    let expected = if known.is_empty() { &own } else { known };
    let finished = run(&[&["digest", s(file), "-a", "sha256", "--json"], options].concat());
    if finished.code != Some(0) {
        return Some(format!("exit {:?}: {}", finished.code, finished.stderr));
    }
    let answer = finished.json();
    if answer["digest"] != expected || answer["size"] != size {
        return Some(format!("reads as {answer}, not {size} bytes {expected}"));
    }
    convert(file, &target, &[&["--verify"], options].concat());
    let back = folder.file("back.qcow2");
    convert(&target, &back, &["-f", "raw"]);
    let (digest, _) = guest_digest(&back, &[]);
    (size.is_multiple_of(512) && digest != expected).then(|| "lost on the way".to_owned())
}

#[test]
fn every_image_of_the_corpus_reads_to_its_digest_or_is_refused() {
    let Some(corpus) = named_by("DISKFERRY_CORPUS") else {
        return;
    };
    let (mut read, mut refused, mut complaints) = (0, 0, Vec::new());
    for row in rows(&corpus) {
        let file = row.file(&corpus);
        if !file.exists() {
            complaints.push(format!("{}: is not there", file.display()));
            continue;
        }
        if let Some(complaint) = complaint(&row, &file) {
            complaints.push(format!("{}: {complaint}", file.display()));
        } else if row.is_refused() {
            refused += 1;
        } else {
            read += 1;
        }
    }
    eprintln!("{read} images read, {refused} refused as they should be");
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    assert!(read > 0, "an empty corpus");
}
