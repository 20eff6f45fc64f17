//! A base, a delta on it, and copies of the base that the delta is applied to.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::damage::snapshot;
use super::{Folder, convert, noise, patched, run, s};

const MIB: u64 = 1 << 20;

/// A base with a delta on it, and what the guest sees of both.
pub struct Chain {
    pub folder: Folder,
    pub base: PathBuf,
    pub child: PathBuf,
    /// The disk of the base, raw, and that of the delta.
    pub old: PathBuf,
    pub new: PathBuf,
}

impl Chain {
    /// A base in `format`, made with `options`, and a delta of small and large pieces, and of zeros.
    pub fn new(format: &str, options: &str) -> Chain {
        let folder = Folder::new();
        let (old, new) = (folder.file("old.raw"), folder.file("new.raw"));
        fs::write(&old, noise(1, 3 << 20)).expect("write");
        let file = fs::File::options().write(true).open(&old).expect("open");
        file.set_len(20 * MIB).expect("a length");
        let zeros = vec![0; 300_000];
        patched(
            &old,
            &new,
            &[
                (5000, &noise(2, 100)),
                (MIB, &zeros),
                (2_500_000, &noise(3, 1_200_000)),
                (20 * MIB - 700, &noise(4, 700)),
            ],
        );
        let base = folder.file(&format!("base.{format}"));
        let child = folder.file(&format!("child.{format}"));
        convert(&old, &base, &["-o", options]);
        convert(&new, &child, &["-B", &format!("base.{format}")]);
        Chain {
            folder,
            base,
            child,
            old,
            new,
        }
    }

    /// A copy of the base, with a receipt.
    pub fn copy(&self, format: &str, options: &[&str]) -> PathBuf {
        let copy = self.folder.file(&format!("copy.{format}"));
        convert(
            &self.base,
            &copy,
            &[&["--receipt", "--force"], options].concat(),
        );
        copy
    }
}

/// Where the receipt of `copy` is.
pub fn receipt(copy: &Path) -> PathBuf {
    let name = format!("{}.receipt.json", copy.display());
    PathBuf::from(name)
}

/// What stands in `file`.
pub fn json(file: &Path) -> Value {
    serde_json::from_slice(&fs::read(file).expect("read")).expect("JSON")
}

/// The content, without what a format adds at the end.
pub fn is_same(copy: &Path, raw: &Path, what: &str) {
    let finished = run(&["compare", s(copy), s(raw)]);
    assert_eq!(finished.code, Some(0), "{what}: {}", finished.text());
}

/// Applying is refused, and nothing in the folder changed.
pub fn refused(chain: &Chain, child: &Path, copy: &Path, options: &[&str], word: &str) {
    refused_with(5, chain, child, copy, options, word);
}

/// As [`refused`], with another exit code.
pub fn refused_with(
    code: i32,
    chain: &Chain,
    child: &Path,
    copy: &Path,
    options: &[&str],
    word: &str,
) {
    let before = snapshot(chain.folder.path());
    let finished = run(&[&["apply", s(child), s(copy)], options].concat());
    assert_eq!(finished.code, Some(code), "{}", finished.stderr);
    assert!(finished.stderr.contains(word), "{}", finished.stderr);
    assert!(snapshot(chain.folder.path()) == before, "something changed");
}
