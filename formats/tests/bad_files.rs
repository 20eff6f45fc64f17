//! The files in `testdata/bad`: each is refused as its manifest says, or read without panic and within bounds.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use common::{Seen, exercise, look_through};
use formats::{Format, OpenContext};

/// Longest file that belongs there.
const LONGEST: u64 = 64 << 10;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/bad")
}

/// File, and the kind of error that it leads to; "none" where it can be read.
fn manifest() -> Vec<(String, String)> {
    let text = fs::read_to_string(folder().join("MANIFEST.tsv")).expect("the manifest");
    let rows = text
        .lines()
        .skip(1)
        .map(|line| match line.split('\t').collect::<Vec<_>>()[..] {
            [file, _what, kind] => (file.to_owned(), kind.to_owned()),
            _ => panic!("not three columns: {line}"),
        });
    rows.collect()
}

/// The kind of the first error on the way through the disk.
fn kind_of(path: &Path) -> String {
    let image = match formats::open(path, None, &OpenContext::default()) {
        Ok(image) => image,
        Err(error) => return error.kind().name().to_owned(),
    };
    let Seen { errors, .. } = look_through(image.source.as_ref());
    if errors == 0 {
        return "none".to_owned();
    }
    let mut disk = vec![0; image.source.size().min(1 << 20) as usize];
    let read = formats::reader::read_guest(image.source.as_ref(), 0, &mut disk);
    read.expect_err("an error in the first MiB")
        .kind()
        .name()
        .to_owned()
}

#[test]
fn every_bad_file_leads_to_what_the_manifest_says() {
    for (file, kind) in manifest() {
        assert_eq!(kind_of(&folder().join(&file)), kind, "{file}");
    }
}

#[test]
fn the_manifest_lists_every_file() {
    let listed: BTreeSet<String> = manifest().into_iter().map(|(file, _)| file).collect();
    let mut there = BTreeSet::new();
    for entry in fs::read_dir(folder()).expect("testdata/bad") {
        let entry = entry.expect("an entry");
        assert!(entry.metadata().expect("metadata").len() <= LONGEST);
        there.insert(entry.file_name().to_string_lossy().into_owned());
    }
    there.remove("MANIFEST.tsv");
    assert_eq!(listed, there);
}

#[test]
fn as_whatever_they_are_opened_they_do_no_harm() {
    for (file, _) in manifest() {
        let bytes = fs::read(folder().join(&file)).expect("read");
        for format in [
            None,
            Some(Format::Vhd),
            Some(Format::Vmdk),
            Some(Format::Qcow2),
            Some(Format::Vdi),
            Some(Format::Vhdx),
            Some(Format::Raw),
        ] {
            for salvage in [false, true] {
                exercise(bytes.clone(), format, salvage);
            }
        }
    }
}
