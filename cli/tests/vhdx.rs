//! VHDX: what qemu-img cannot read or has to write to the source for, images that it makes, and children of children.

mod common;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use common::peers::{qemu_check, qemu_finds_equal, qemu_img, seven_zip_agrees};
use common::{
    Folder, convert, guest_digest, have, make_disk, noise, patched, run, run_ok, s, sha256sum, tool,
};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const HEADERS: [u64; 2] = [64 << 10, 128 << 10];
const LOG: u64 = MIB;
const BAT: u64 = 3 * MIB;
const PAGE: usize = 4096;

fn read(file: &Path, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let file = std::fs::File::open(file).expect("open");
    file.read_exact_at(&mut bytes, offset).expect("read");
    bytes
}

fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[4..8].fill(0);
    let sum = crc32c::crc32c(&bytes).to_le_bytes();
    bytes[4..8].copy_from_slice(&sum);
    bytes
}

/// A log entry that puts `page` to `offset` of the file, and the ids of the log.
fn log_entry(guid: &[u8; 16], offset: u64, page: &[u8], file_len: u64) -> Vec<u8> {
    const SEQUENCE: u64 = 7;
    let mut entry = vec![0; 2 * PAGE];
    let mut put = |at: usize, bytes: &[u8]| entry[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"loge");
    put(8, &(2 * PAGE as u32).to_le_bytes());
    put(16, &SEQUENCE.to_le_bytes());
    put(24, &1u32.to_le_bytes());
    put(32, guid);
    put(48, &file_len.to_le_bytes());
    put(56, &file_len.to_le_bytes());
    put(64, b"desc");
    put(68, &page[PAGE - 4..]);
    put(72, &page[..8]);
    put(80, &offset.to_le_bytes());
    put(88, &SEQUENCE.to_le_bytes());
    put(PAGE, b"data");
    put(PAGE + 8, &page[8..PAGE - 4]);
    put(2 * PAGE - 4, &(SEQUENCE as u32).to_le_bytes());
    sealed(entry)
}

/// An image whose BAT lost the block of the second 2 MiB to its log, and what its disk holds once that is replayed.
fn dirty(folder: &Folder) -> (PathBuf, PathBuf) {
    let (raw, whole) = (folder.file("disk.raw"), folder.file("whole.vhdx"));
    make_disk(&raw, 10 * MIB);
    convert(&raw, &whole, &[]);
    let bat = read(&whole, BAT, PAGE);
    let len = whole.metadata().expect("there").len();
    let guid = [0x11; 16];
    let entry = log_entry(&guid, BAT, &bat, len);
    let headers = HEADERS.map(|at| {
        let mut header = read(&whole, at, PAGE);
        header[48..64].copy_from_slice(&guid);
        (at, sealed(header))
    });
    let image = folder.file("dirty.vhdx");
    let patches = [
        (headers[0].0, &headers[0].1[..]),
        (headers[1].0, &headers[1].1),
        (LOG, &entry),
        // Zeros, says the BAT before the log is replayed.
        (BAT + 8, &2u64.to_le_bytes()),
    ];
    patched(&whole, &image, &patches);
    (image, raw)
}

#[test]
fn a_log_is_replayed_without_touching_the_file() {
    if !have("qemu-img") {
        return;
    }
    let folder = Folder::new();
    let (image, raw) = dirty(&folder);
    let before = sha256sum(&image);
    // qemu-img reads nothing of it.
    let (code, told) = qemu_img(&["convert", "-O", "raw", s(&image), s(&folder.file("q"))]);
    assert!(code != Some(0) && told.contains("log"), "{told}");

    let copy = folder.file("copy.raw");
    let answer = run_ok(&["convert", s(&image), s(&copy), "--verify"]);
    assert!(answer.stderr.contains("log"), "{}", answer.stderr);
    assert_eq!(sha256sum(&copy), sha256sum(&raw));
    let info = run_ok(&["info", s(&image), "--json"]).json();
    let state = info["details"]["log"].as_str().expect("a state");
    assert_eq!(state, "replayed in memory: 1 entries, 1 changes");
    let check = run_ok(&["check", s(&image), "--json"]).json();
    assert_eq!(check["damaged"], false);
    assert_eq!(sha256sum(&image), before);

    // What qemu-img makes of it by writing to it.
    let repaired = folder.file("repaired.vhdx");
    std::fs::copy(&image, &repaired).expect("copy");
    let (code, told) = qemu_img(&["check", "-r", "all", s(&repaired)]);
    assert_eq!(code, Some(0), "{told}");
    assert!(qemu_finds_equal("vhdx", &repaired, "raw", &raw));
    assert_eq!(run(&["compare", s(&image), s(&repaired)]).code, Some(0));
}

#[test]
fn a_torn_log_is_refused_unless_salvaging() {
    let folder = Folder::new();
    let (image, raw) = dirty(&folder);
    let file = OpenOptions::new().write(true).open(&image).expect("open");
    file.write_all_at(b"atad", LOG + PAGE as u64).expect("tear");
    let target = folder.file("target.raw");
    let finished = run(&["convert", s(&image), s(&target), "--json"]);
    assert_eq!(finished.code, Some(3));
    assert_eq!(finished.error_kind(), "malformed");
    assert!(!target.exists());
    let salvaged = run_ok(&["convert", s(&image), s(&target), "--salvage"]);
    assert!(
        salvaged.stderr.contains("not replayed"),
        "{}",
        salvaged.stderr
    );
    assert_eq!(run(&["compare", s(&target), s(&raw)]).code, Some(1));
    assert_eq!(run(&["check", s(&image)]).code, Some(1));
}

#[test]
fn images_of_qemu_are_read_past_the_first_chunks() {
    if !have("qemu-img") {
        return;
    }
    let folder = Folder::new();
    let raw = folder.file("disk.raw");
    make_disk(&raw, 6 * GIB);
    let expected = guest_digest(&raw, &[]);
    for options in [
        "block_size=1M",
        "block_size=2M,block_state_zero=off",
        "block_size=16M",
        "block_size=256M",
        "subformat=fixed,block_size=1M",
        "subformat=fixed",
    ] {
        let image = folder.file("qemu.vhdx");
        let arguments = ["convert", "-f", "raw", "-O", "vhdx", "-o", options];
        tool(
            "qemu-img",
            &[&arguments[..], &[s(&raw), s(&image)]].concat(),
        );
        assert_eq!(guest_digest(&image, &[]), expected, "{options}");
        let check = run_ok(&["check", s(&image), "--json"]).json();
        assert_eq!(check["damage"].as_array().map(Vec::len), Some(0), "{check}");
        std::fs::remove_file(&image).expect("remove");
    }
}

/// Three disks of 40 MiB, each with changes over the one before: data, single sectors, zeros over data.
fn generations(folder: &Folder) -> [PathBuf; 3] {
    let [base, middle, tip] = ["0.raw", "1.raw", "2.raw"].map(|name| folder.file(name));
    std::fs::write(&base, noise(1, 40 * MIB as usize)).expect("write");
    patched(
        &base,
        &middle,
        &[
            (5 * MIB + 512, &noise(2, 512)),
            (8 * MIB, &[0; 4 << 20]),
            (13 * MIB + 4096, &[0; 8192]),
            (20 * MIB, &noise(3, 6 << 20)),
        ],
    );
    patched(
        &middle,
        &tip,
        &[
            (9 * MIB, &noise(4, 4096)),
            (20 * MIB + 100, &[0; 100]),
            (40 * MIB - 512, &noise(5, 512)),
        ],
    );
    [base, middle, tip]
}

#[test]
fn a_chain_of_three_holds_what_each_changed() {
    let folder = Folder::new();
    let [base, middle, tip] = generations(&folder);
    for options in ["", "block_size=1M", "logical_sector_size=4096"] {
        let [a, b, c] = ["a.vhdx", "b.avhdx", "c.avhdx"].map(|name| folder.file(name));
        let made = ["--force", "--verify", "-o"];
        let options = match options {
            "" => "subformat=dynamic",
            other => other,
        };
        convert(&base, &a, &[&made[..], &[options]].concat());
        let over = |name| ["--force", "--verify", "-O", "vhdx", "-B", name];
        let answer = convert(&middle, &b, &over("a.vhdx"));
        assert_eq!(answer["bytes"]["data"], 4096 + 6 * MIB, "{options}");
        assert_eq!(answer["bytes"]["zero"], 4 * MIB + 8192, "{options}");
        convert(&tip, &c, &over("b.avhdx"));
        assert!(b.metadata().expect("there").len() < 20 * MIB);
        for (image, raw) in [(&a, &base), (&b, &middle), (&c, &tip)] {
            assert_eq!(guest_digest(image, &[]).0, sha256sum(raw), "{options}");
            let check = run_ok(&["check", s(image), "--json"]).json();
            assert_eq!(check["warnings"].as_array().map(Vec::len), Some(0));
            if have("7zz") {
                seven_zip_agrees("vhdx", image, raw, 40 * MIB);
            }
        }
        // The base is no longer what the others stand on.
        patched(&base, &folder.file("new.raw"), &[(0, b"new")]);
        convert(&folder.file("new.raw"), &a, &["--force", "-o", options]);
        let finished = run(&["digest", s(&c), "--json"]);
        assert_eq!(finished.error_kind(), "malformed");
    }
}

#[test]
fn what_qemu_img_refuses_to_read_is_read() {
    if !have("qemu-img") {
        return;
    }
    let folder = Folder::new();
    let [base, middle, _] = generations(&folder);
    let (parent, child) = (folder.file("0.vhdx"), folder.file("1.vhdx"));
    run_ok(&["convert", s(&base), s(&parent)]);
    run_ok(&["convert", s(&middle), s(&child), "-B", "0.vhdx"]);
    let raw = folder.file("wide.raw");
    std::fs::write(&raw, vec![7; 1 << 20]).expect("write");
    let wide = folder.file("wide.vhdx");
    run_ok(&[
        "convert",
        s(&raw),
        s(&wide),
        "-o",
        "logical_sector_size=4096",
    ]);
    for image in [&child, &wide] {
        let (code, told) = qemu_img(&["convert", "-O", "raw", s(image), s(&folder.file("q"))]);
        assert_ne!(code, Some(0), "{told}");
        run_ok(&["digest", s(image)]);
    }
}

#[test]
fn the_same_delta_is_the_same_bytes() {
    let folder = Folder::new();
    let [base, middle, _] = generations(&folder);
    convert(&base, &folder.file("a.vhdx"), &["--reproducible"]);
    let made = ["1", "4"].map(|jobs| {
        let target = folder.file("b.avhdx");
        let over = ["-B", "a.vhdx", "--reproducible", "--force", "-j", jobs];
        convert(&middle, &target, &over);
        sha256sum(&target)
    });
    assert_eq!(made[0], made[1]);
}

#[test]
fn a_delta_of_the_same_content_is_empty_and_another_image() {
    let folder = Folder::new();
    let [base, ..] = generations(&folder);
    let (a, b) = (folder.file("a.vhdx"), folder.file("b.vhdx"));
    convert(&base, &a, &["--reproducible"]);
    convert(&base, &b, &["--reproducible", "-B", "a.vhdx"]);
    assert_eq!(b.metadata().expect("there").len(), 4 * MIB);
    let info = |image| run_ok(&["info", s(image), "--json"]).json();
    let (a, b) = (info(&a), info(&b));
    assert_ne!(a["identity"], b["identity"]);
    assert_eq!(b["parent"]["identity"], a["identity"]);
    let disk_id = |answer: &serde_json::Value| answer["details"]["virtual_disk_id"].clone();
    assert_eq!(disk_id(&a), disk_id(&b));
}

#[test]
fn a_vhdx_stands_on_another_vhdx_only() {
    let folder = Folder::new();
    let raw = folder.file("disk.raw");
    make_disk(&raw, 4 * MIB);
    convert(&raw, &folder.file("a.qcow2"), &[]);
    convert(&raw, &folder.file("a.vhdx"), &[]);
    let before = folder.names();
    let absolute = folder.file("a.vhdx");
    for (backing, options, code) in [
        ("a.qcow2", "subformat=dynamic", 5),
        ("disk.raw", "subformat=dynamic", 5),
        (s(&absolute), "subformat=dynamic", 5),
        ("a.vhdx", "block_size=1M", 2),
        ("a.vhdx", "logical_sector_size=4096", 2),
        ("a.vhdx", "subformat=fixed", 2),
    ] {
        let target = folder.file("b.vhdx");
        let arguments = ["convert", s(&raw), s(&target), "-B", backing, "-o", options];
        let finished = run(&arguments);
        assert_eq!(finished.code, Some(code), "{backing}: {}", finished.stderr);
        assert_eq!(folder.names(), before);
    }
    // The reverse is possible: a qcow2 can stand on anything.
    convert(&raw, &folder.file("c.qcow2"), &["-B", "a.vhdx", "--verify"]);
}

#[test]
fn a_size_that_is_no_whole_sectors_is_rounded_up_and_said() {
    let folder = Folder::new();
    let raw = folder.file("disk.raw");
    make_disk(&raw, MIB + 513);
    for (options, size) in [
        ("subformat=dynamic", MIB + 1024),
        ("subformat=fixed", MIB + 1024),
        ("logical_sector_size=4096", MIB + 4096),
    ] {
        let image = folder.file("disk.vhdx");
        let made = ["--verify", "--force", "-o", options];
        let arguments = [&["convert", s(&raw), s(&image)], &made[..]].concat();
        let told = run_ok(&arguments).stderr;
        assert!(told.contains(&format!("→ {size}")), "{told}");
        let info = run_ok(&["info", s(&image), "--json"]).json();
        assert_eq!(info["virtual_size"], size);
        assert_eq!(run(&["compare", s(&raw), s(&image)]).code, Some(0));
    }
}

#[test]
fn either_copy_of_header_and_regions_will_do() {
    let folder = Folder::new();
    let (raw, image) = (folder.file("disk.raw"), folder.file("disk.vhdx"));
    make_disk(&raw, 4 * MIB);
    convert(&raw, &image, &[]);
    for at in [HEADERS[0], HEADERS[1], 192 << 10, 256 << 10] {
        let damaged = folder.file("damaged.vhdx");
        patched(&image, &damaged, &[(at + 8, b"damage")]);
        assert_eq!(guest_digest(&damaged, &[]).0, sha256sum(&raw), "{at}");
        assert_eq!(run(&["check", s(&damaged)]).code, Some(1), "{at}");
    }
    if have("qemu-img") {
        qemu_check("vhdx", &image);
    }
}
