//! Tests that cannot do what they are for.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

/// Counts the calling test as skipped, or fails it where none may be (`DISKFERRY_NO_SKIP`).
pub fn skip(why: &str) {
    assert!(
        std::env::var_os("DISKFERRY_NO_SKIP").is_none(),
        "{} {why}",
        name()
    );
    count(why);
}

/// What the environment variable `variable` names: files that belong to others and cannot be everywhere. Without it, the
/// calling test is counted as skipped, and fails nowhere.
pub fn named_by(variable: &str) -> Option<PathBuf> {
    let named = std::env::var_os(variable).map(PathBuf::from);
    if named.is_none() {
        count(&format!("{variable} names nothing"));
    }
    named
}

fn name() -> String {
    std::thread::current().name().unwrap_or("a test").to_owned()
}

fn count(why: &str) {
    let name = name();
    eprintln!("SKIPPED {name}: {why}");
    if let Some(list) = std::env::var_os("DISKFERRY_SKIPPED") {
        let file = OpenOptions::new().append(true).create(true).open(list);
        let _ = file.and_then(|mut file| writeln!(file, "{name}: {why}"));
    }
}
