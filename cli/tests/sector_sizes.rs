//! Logical sectors of 512 and 4096 bytes, and what becomes of partition tables.

mod common;

use std::path::{Path, PathBuf};

use common::{Folder, run, run_ok, s};

/// A disk of 8 MiB and three sectors of 512 bytes, with a GPT for sectors of `sector` bytes.
fn disk(folder: &Folder, name: &str, sector: usize) -> PathBuf {
    let path = folder.file(name);
    let mut bytes = vec![0; (8 << 20) + 3 * 512];
    bytes[510..512].copy_from_slice(&[0x55, 0xAA]);
    bytes[450] = 0xEE;
    bytes[sector..sector + 8].copy_from_slice(b"EFI PART");
    std::fs::write(&path, bytes).expect("write");
    path
}

fn sectors_of(image: &Path) -> u64 {
    let info = run_ok(&["info", "--json", s(image)]).json();
    info["sector_size"].as_u64().expect("a number")
}

#[test]
fn other_sectors_are_told_with_the_partitions_that_are_lost() {
    let folder = Folder::new();
    let source = disk(&folder, "a.raw", 512);
    let target = folder.file("a.vhdx");
    let done = run_ok(&[
        "convert",
        s(&source),
        s(&target),
        "-o",
        "logical_sector_size=4096",
    ]);
    assert!(
        done.stderr
            .contains("its GPT counts in sectors of 512 bytes"),
        "{}",
        done.stderr
    );
    assert!(
        done.stderr.contains("8390144 bytes → 8392704"),
        "{}",
        done.stderr
    );
    assert_eq!(sectors_of(&target), 4096);

    // Back to sectors that the table was made for: they differ, and nothing is lost.
    let back = folder.file("back.qcow2");
    let done = run_ok(&["convert", s(&target), s(&back)]);
    assert!(
        done.stderr.contains("sectors of 512 bytes in the target"),
        "{}",
        done.stderr
    );
    assert!(!done.stderr.contains("GPT"), "{}", done.stderr);
}

#[test]
fn the_user_says_what_a_raw_disk_has_and_vhdx_keeps_it() {
    let folder = Folder::new();
    let source = disk(&folder, "a.raw", 4096);
    let target = folder.file("a.vhdx");
    let done = run_ok(&["convert", "--sector-size", "4k", s(&source), s(&target)]);
    assert!(!done.stderr.contains("sectors of"), "{}", done.stderr);
    assert_eq!(sectors_of(&target), 4096);
    let again = folder.file("b.vhdx");
    run_ok(&["convert", s(&target), s(&again)]);
    assert_eq!(sectors_of(&again), 4096);
    let raw = folder.file("b.raw");
    let done = run_ok(&["convert", s(&again), s(&raw)]);
    assert!(
        done.stderr.contains("attach it with them"),
        "{}",
        done.stderr
    );

    let vhd = folder.file("c.vhd");
    let done = run_ok(&["convert", s(&target), s(&vhd)]);
    assert!(
        done.stderr
            .contains("its GPT counts in sectors of 4096 bytes"),
        "{}",
        done.stderr
    );
}

#[test]
fn what_the_image_says_itself_is_not_overruled() {
    let folder = Folder::new();
    let source = disk(&folder, "a.raw", 512);
    let image = folder.file("a.vhdx");
    run_ok(&["convert", s(&source), s(&image)]);
    for (size, code) in [("512", 0), ("4096", 2), ("1024", 2)] {
        let done = run(&["digest", "--sector-size", size, s(&image)]);
        assert_eq!(done.code, Some(code), "{size}: {}", done.text());
    }
}
