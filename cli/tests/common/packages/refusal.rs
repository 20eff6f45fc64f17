//! Packages that must be refused, wherever they go.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::super::damage::snapshot;
use super::super::{Folder, run, s};

/// Longer than anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);
pub const SECRET: &[u8] = b"nobody is to read this";

/// Converts a package that must be refused, to an image, to the other kind of package and into a folder: exit code 3 or 5,
/// nothing new in the folder, nothing changed. Answers the error of the first.
pub fn refused(what: &str, name: &str, bytes: &[u8]) -> Value {
    let folder = Folder::new();
    fs::create_dir(folder.file("own")).expect("a folder");
    let package = folder.file("own").join(name);
    fs::write(&package, bytes).expect("write");
    fs::write(folder.file("secret"), SECRET).expect("write");
    refused_at(what, &package, &folder)
}

/// Where a package goes, and how.
const TARGETS: [(&str, &[&str]); 4] = [
    ("new.raw", &["--disk", "1"]),
    ("new.xva", &[]),
    ("new.ova", &[]),
    ("new/", &["-O", "qcow2"]),
];

pub fn refused_at(what: &str, package: &Path, folder: &Folder) -> Value {
    let own = package.parent().expect("a folder");
    let before = (snapshot(own), snapshot(folder.path()));
    let started = Instant::now();
    let mut first = None;
    for (target, options) in TARGETS {
        let target = own.join(target);
        let arguments = [&["convert", s(package), s(&target), "--json"], options].concat();
        let finished = run(&arguments);
        let said = &finished.stderr;
        assert!(
            matches!(finished.code, Some(3 | 5)),
            "{what}: {:?}: {said}",
            finished.code
        );
        assert!(!said.contains("panicked"), "{what}: {said}");
        assert!(
            !said.contains(std::str::from_utf8(SECRET).expect("text")),
            "{what}: {said}"
        );
        let after = (snapshot(own), snapshot(folder.path()));
        assert!(
            after.0 == before.0 && after.1.len() == before.1.len(),
            "{what}: {target:?} left something"
        );
        first.get_or_insert(finished.json()["error"].clone());
    }
    assert!(
        started.elapsed() < PATIENCE,
        "{what}: {:?}",
        started.elapsed()
    );
    first.expect("an error")
}

/// The kind of a refusal.
pub fn is(what: &str, name: &str, bytes: &[u8], kinds: &[&str]) {
    let error = refused(what, name, bytes);
    let kind = error["kind"].as_str().expect("a kind");
    assert!(kinds.contains(&kind), "{what}: {error}");
}
