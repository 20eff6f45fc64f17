//! Dirty bitmaps of qcow2 images that must not be believed.

mod common;

use common::damage::images::qcow2::{BITMAP, Builder};
use common::damage::images::{be64, patch};
use common::{Folder, run, run_ok, s};

/// An image with a bitmap, and where its directory stands.
fn image() -> (Vec<u8>, usize) {
    let builder = Builder {
        history: true,
        ..Builder::default()
    };
    let bytes = builder.build();
    // The last field of the first header extension.
    let directory = be64(&bytes, 136) as usize;
    (bytes, directory)
}

/// Writes `directory`, of `count` bitmaps, in the place of the one that is there.
fn with_directory(folder: &Folder, count: u32, directory: &[u8]) -> std::path::PathBuf {
    let (mut bytes, at) = image();
    patch(&mut bytes, at, directory);
    patch(&mut bytes, 120, &count.to_be_bytes());
    patch(&mut bytes, 128, &(directory.len() as u64).to_be_bytes());
    let path = folder.file("a.qcow2");
    std::fs::write(&path, bytes).expect("write");
    path
}

/// The entry of the bitmap: 24 bytes, and the name, padded to 8.
fn entry() -> Vec<u8> {
    let (bytes, at) = image();
    bytes[at..at + 32].to_vec()
}

#[test]
fn a_bitmap_with_unknown_data_is_used_only_if_it_says_that_it_may_be() {
    const IN_USE: u8 = 1;
    const EXTRA_DATA_COMPATIBLE: u8 = 4;
    for (flags, extra, usable) in [
        (0, 0, true),
        (EXTRA_DATA_COMPATIBLE, 0, true),
        (EXTRA_DATA_COMPATIBLE, 8, true),
        (0, 8, false),
        (0, 1, false),
        (EXTRA_DATA_COMPATIBLE | IN_USE, 8, false),
        (IN_USE, 0, false),
    ] {
        let folder = Folder::new();
        let mut entry = entry();
        entry[15] = flags;
        entry[23] = extra;
        // In front of the name.
        entry.splice(24..24, vec![0xE7; extra.into()]);
        entry.truncate(24 + usize::from(extra) + BITMAP.len());
        entry.resize(entry.len().next_multiple_of(8), 0);
        let path = with_directory(&folder, 1, &entry);
        let case = format!("flags {flags}, {extra} bytes");
        let info = run_ok(&["info", "--json", s(&path)]).json();
        let bitmap = &info["details"]["bitmaps"][0];
        assert_eq!(bitmap["name"], BITMAP, "{case}");
        assert_eq!(bitmap["usable"], usable, "{case}");
        let mapped = run(&["map", "--json", "--bitmap", BITMAP, s(&path)]);
        if usable {
            assert_eq!(mapped.code, Some(0), "{case}: {}", mapped.stderr);
            assert!(
                !mapped.json()["ranges"]
                    .as_array()
                    .expect("ranges")
                    .is_empty()
            );
        } else {
            assert_eq!(mapped.code, Some(5), "{case}: {}", mapped.stderr);
            assert_eq!(mapped.error_kind(), "refused");
            assert!(mapped.stderr.contains(s(&path)), "{}", mapped.stderr);
        }
    }
}

#[test]
fn a_name_that_two_bitmaps_have_names_neither() {
    let folder = Folder::new();
    let mut twice = entry();
    let mut other = entry();
    // The second one says less.
    other[17] = 16;
    twice.extend(other);
    let path = with_directory(&folder, 2, &twice);
    let mapped = run(&["map", "--json", "--bitmap", BITMAP, s(&path)]);
    assert_eq!(mapped.code, Some(3), "{}", mapped.stderr);
    assert_eq!(mapped.error_kind(), "malformed");
    assert!(
        mapped.stderr.contains("several bitmaps"),
        "{}",
        mapped.stderr
    );
    // Both are shown, and the disk is whole.
    let info = run_ok(&["info", "--json", s(&path)]).json();
    assert_eq!(info["details"]["bitmaps"].as_array().map(Vec::len), Some(2));
    run_ok(&["digest", s(&path)]);
}
