//! Conversions that must fail, and leave everything as it was.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Folder, run, s};

#[path = "../../../formats/tests/common/mod.rs"]
pub mod images;

/// Files up to this length are compared byte by byte.
const COMPARED: u64 = 64 << 20;

/// How long anything that must fail may take: far less, but tests share their machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// What stands in a folder: names, hidden ones too, with length, time of the last change and content.
pub type Snapshot = BTreeMap<String, (u64, i64, i64, Vec<u8>)>;

/// Takes a snapshot.
pub fn snapshot(folder: &Path) -> Snapshot {
    let entries = std::fs::read_dir(folder).expect("list the folder");
    entries
        .map(|entry| {
            let entry = entry.expect("an entry");
            let meta = entry.metadata().expect("metadata");
            let content = if meta.is_file() && meta.len() <= COMPARED {
                std::fs::read(entry.path()).expect("read")
            } else {
                Vec::new()
            };
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, (meta.len(), meta.mtime(), meta.mtime_nsec(), content))
        })
        .collect()
}

/// Converts `source` to a new file beside it, which must fail with this exit code and kind, and change nothing in the
/// folder. Answers the error object.
pub fn fails(source: &Path, options: &[&str], code: i32, kind: &str) -> Value {
    let target = source.with_file_name("new.raw");
    fails_to(source, &target, options, code, kind)
}

/// As [`fails`], with a target of one's own.
pub fn fails_to(source: &Path, target: &Path, options: &[&str], code: i32, kind: &str) -> Value {
    let folders = [source, target].map(|file| file.parent().expect("a folder"));
    let seen = || folders.map(|folder| folder.is_dir().then(|| snapshot(folder)));
    let before = seen();
    let started = Instant::now();
    let arguments = [&["convert", s(source), s(target), "--json"], options].concat();
    let finished = run(&arguments);
    let shown = format!("{arguments:?}: {}", finished.stderr);
    assert_eq!(finished.code, Some(code), "{shown}");
    assert!(started.elapsed() < PATIENCE, "{shown}");
    assert_eq!(finished.error_kind(), kind, "{shown}");
    assert!(seen() == before, "something in the folder changed: {shown}");
    let error = finished.json()["error"].clone();
    let message = error["message"].as_str().expect("a message");
    assert!(finished.stderr.contains(message), "{shown}");
    error
}

/// An image file in a folder of its own.
pub struct Damaged {
    pub folder: Folder,
    pub path: PathBuf,
}

impl Damaged {
    pub fn new(name: &str, bytes: &[u8]) -> Damaged {
        let folder = Folder::new();
        let path = folder.file(name);
        std::fs::write(&path, bytes).expect("write the image");
        Damaged { folder, path }
    }

    /// It is at fault: exit code 3, and the message names the file.
    pub fn is(&self, kind: &str) -> Value {
        self.is_when(&[], kind)
    }

    /// As [`Damaged::is`], with options.
    pub fn is_when(&self, options: &[&str], kind: &str) -> Value {
        let error = fails(&self.path, options, 3, kind);
        assert_eq!(error["file"].as_str(), Some(s(&self.path)), "{error}");
        error
    }
}

/// The place that an error names.
pub fn place(error: &Value) -> (&str, u64) {
    let structure = error["structure"].as_str();
    (
        structure.unwrap_or_else(|| panic!("no structure in {error}")),
        error["offset"]
            .as_u64()
            .unwrap_or_else(|| panic!("no offset in {error}")),
    )
}
