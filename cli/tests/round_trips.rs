//! From one format into the next and back: not a bit is lost, and the same input makes the same bytes.

mod common;

use std::path::{Path, PathBuf};

use common::{
    Folder, convert, diskferry, guest_digest, have, make_disk, noise, patched, run, run_ok, s,
    sha256sum, tool,
};
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// One target after the other: name, and options that make it.
const STATIONS: [(&str, &[&str]); 12] = [
    ("a.vhd", &[]),
    ("b.qcow2", &[]),
    ("c.raw", &[]),
    ("c.vhdx", &[]),
    ("d.vhdx", &["-o", "subformat=fixed,block_size=1M"]),
    ("d.vhd", &["-o", "subformat=fixed"]),
    ("e.qcow2", &["-o", "cluster_size=512"]),
    ("f.vhd", &["-o", "block_size=512k"]),
    ("g.qcow2", &["-o", "cluster_size=2M"]),
    ("g.vdi", &[]),
    ("h.vdi", &["-o", "subformat=fixed"]),
    ("h.raw", &["-S", "0"]),
];

/// The disk goes through all stations; the last one is answered.
fn tour(raw: &Path, folder: &Folder) -> PathBuf {
    let mut source = raw.to_owned();
    let mut expected = guest_digest(raw, &[]);
    for (name, options) in STATIONS {
        let target = folder.file(name);
        convert(&source, &target, &[&["--verify"], options].concat());
        let found = guest_digest(&target, &[]);
        if found.1 != expected.1 {
            // The first format that stores whole sectors pads the disk once.
            assert_eq!(found.1, expected.1.next_multiple_of(512));
            let compared = run_ok(&["compare", s(raw), s(&target), "--json"]).json();
            assert_eq!(compared["identical"], true);
            expected = found.clone();
        }
        assert_eq!(found, expected, "{name}");
        source = target;
    }
    source
}

#[test]
fn whole_sectors_come_back_byte_for_byte() {
    for size in [512, MIB - 512, 10 * MIB] {
        let folder = Folder::new();
        let raw = folder.file("disk.raw");
        make_disk(&raw, size);
        let back = tour(&raw, &folder);
        assert_eq!(sha256sum(&raw), sha256sum(&back), "{size} bytes");
    }
}

#[test]
fn odd_lengths_are_padded_with_zeros_and_never_cut() {
    for size in [1, 511, 513, MIB + 1] {
        let folder = Folder::new();
        let raw = folder.file("disk.raw");
        make_disk(&raw, size);
        // Raw to raw keeps the length to the byte.
        let copy = folder.file("copy.raw");
        convert(&raw, &copy, &["--no-reflink", "--verify"]);
        assert_eq!(sha256sum(&raw), sha256sum(&copy), "{size} bytes");

        let told = run_ok(&["convert", s(&raw), s(&folder.file("told.vhd"))]).stderr;
        assert!(told.contains(&format!("{size} bytes → ")), "{told}");

        let back = std::fs::read(tour(&raw, &folder)).expect("read");
        let mut expected = std::fs::read(&raw).expect("read");
        expected.resize(size.next_multiple_of(512) as usize, 0);
        assert!(back == expected, "{size} bytes");
    }
}

/// A disk of no bytes is one: raw and qcow2 can say so. A VHD or VDI cannot, and is not made.
#[test]
fn an_empty_disk_stays_empty() {
    let folder = Folder::new();
    let raw = folder.file("empty.raw");
    std::fs::write(&raw, b"").expect("write");
    let (image, back) = (folder.file("empty.qcow2"), folder.file("back.raw"));
    convert(&raw, &image, &["--verify"]);
    convert(&image, &back, &["--verify"]);
    assert_eq!(guest_digest(&image, &[]), (sha256sum(&raw), 0));
    assert_eq!(back.metadata().expect("there").len(), 0);
    assert_eq!(run(&["compare", s(&raw), s(&image)]).code, Some(0));
    let map = run_ok(&["map", s(&image), "--json"]).json();
    assert_eq!(map["runs"].as_array().map(Vec::len), Some(0));

    let before = folder.names();
    for name in ["empty.vhd", "empty.vdi"] {
        let finished = run(&["convert", s(&raw), s(&folder.file(name))]);
        assert_eq!(finished.code, Some(3), "{}", finished.stderr);
        assert_eq!(folder.names(), before);
    }
}

#[test]
fn threads_do_not_show_in_the_target() {
    let folder = Folder::new();
    let raw = folder.file("disk.raw");
    make_disk(&raw, 40 * MIB);
    for name in ["a.vhd", "a.vhdx", "a.qcow2", "a.raw", "a.vdi"] {
        for sparse in [&[][..], &["-S", "0"], &["-S", "64k"]] {
            let digests: Vec<_> = ["1", "2", "7"]
                .map(|jobs| {
                    let target = folder.file(name);
                    let fixed = ["--reproducible", "--force", "--no-reflink", "-j", jobs];
                    convert(&raw, &target, &[&fixed[..], sparse].concat());
                    sha256sum(&target)
                })
                .into();
            assert_eq!(digests[0], digests[1], "{name} {sparse:?}");
            assert_eq!(digests[0], digests[2], "{name} {sparse:?}");
        }
    }
}

#[test]
fn ids_and_times_come_from_the_content_only_when_asked() {
    let folder = Folder::new();
    let raw = folder.file("disk.raw");
    make_disk(&raw, MIB);
    let other = folder.file("other.raw");
    patched(&raw, &other, &[(5000, b"another")]);
    let make = |source: &Path, epoch: Option<&str>, options: &[&str]| {
        let target = folder.file("target.vhd");
        let mut command = diskferry();
        command
            .args(["convert", s(source), s(&target), "--force"])
            .args(options);
        if let Some(epoch) = epoch {
            command.env("SOURCE_DATE_EPOCH", epoch);
        }
        assert!(command.output().expect("run").status.success());
        std::fs::read(&target).expect("read")
    };
    let id = |vhd: &[u8]| vhd[68..84].to_vec();
    let time = |vhd: &[u8]| u32::from_be_bytes(vhd[24..28].try_into().expect("four"));

    let random = [make(&raw, None, &[]), make(&raw, None, &[])];
    assert_ne!(id(&random[0]), id(&random[1]));
    assert_ne!(time(&random[0]), 0);

    let fixed = make(&raw, None, &["--reproducible"]);
    assert!(fixed == make(&raw, None, &["--reproducible"]));
    assert_ne!(id(&fixed), id(&make(&other, None, &["--reproducible"])));

    // Seconds since 1970 there, since 2000 here.
    let dated = make(&raw, Some("946684801"), &[]);
    assert_eq!(time(&dated), 1);
    assert_eq!(id(&dated), id(&fixed));
    assert!(dated == make(&raw, Some("946684801"), &["--reproducible"]));
}

#[test]
fn sequential_formats_go_to_standard_output() {
    let folder = Folder::new();
    let raw = folder.file("disk.raw");
    make_disk(&raw, 6 * MIB + 100);
    let image = folder.file("disk.qcow2");
    convert(&raw, &image, &[]);
    let plain = run_ok(&["convert", s(&image), "-"]);
    let mut expected = std::fs::read(&raw).expect("read");
    expected.resize((6 << 20) + 512, 0);
    assert!(plain.stdout == expected);

    let fixed = folder.file("fixed.vhd");
    convert(&image, &fixed, &["-o", "subformat=fixed", "--reproducible"]);
    let streamed = run_ok(&[
        "convert",
        s(&image),
        "-",
        "-O",
        "vhd",
        "-o",
        "subformat=fixed",
        "--reproducible",
    ]);
    assert!(streamed.stdout == std::fs::read(&fixed).expect("read"));
}

#[test]
fn formats_with_tables_do_not_go_to_standard_output() {
    let folder = Folder::new();
    let raw = folder.file("disk.raw");
    make_disk(&raw, MIB);
    for format in ["qcow2", "vhd", "vdi"] {
        let finished = run(&["convert", s(&raw), "-", "-O", format]);
        assert_eq!(finished.code, Some(2), "{}", finished.stderr);
        assert!(finished.stdout.is_empty());
    }
    let both = run(&["convert", s(&raw), "-", "--json"]);
    assert_eq!(
        both.code,
        Some(2),
        "the disk and JSON cannot share an output"
    );
}

/// `digest` and `convert --digest` tell what `program` prints for the raw disk, whatever the format.
fn digest_is_that_of(program: &str, algorithm: &str) {
    let folder = Folder::new();
    let raw = folder.file("disk.raw");
    make_disk(&raw, 20 * MIB + 1024);
    let image = folder.file("disk.qcow2");
    convert(&raw, &image, &[]);
    let by_program = tool(program, &[s(&raw)]);
    let expected = by_program.split_whitespace().next().expect("a digest");
    for file in [&raw, &image] {
        let told = run_ok(&["digest", s(file), "-a", algorithm]).text();
        assert_eq!(
            told.split_whitespace().next(),
            Some(expected),
            "{algorithm}"
        );
        let target = folder.file("copy.vhd");
        let answer = convert(file, &target, &["--force", "--digest", algorithm]);
        assert_eq!(answer["digest"]["algorithm"], algorithm);
        assert_eq!(answer["digest"]["digest"], expected, "{algorithm}");
    }
}

#[test]
fn sha256_sha1_and_md5_are_those_of_the_raw_disk() {
    digest_is_that_of("sha256sum", "sha256");
    digest_is_that_of("sha1sum", "sha1");
    digest_is_that_of("md5sum", "md5");
}

#[test]
fn blake3_is_that_of_the_raw_disk() {
    if have("b3sum") {
        digest_is_that_of("b3sum", "blake3");
    }
}

#[test]
fn verify_tells_the_blake3_that_digest_tells() {
    let folder = Folder::new();
    let raw = folder.file("disk.raw");
    make_disk(&raw, 9 * MIB);
    for name in ["a.vhd", "a.qcow2", "a.raw"] {
        let target = folder.file(name);
        let text = run_ok(&["convert", s(&raw), s(&target), "--verify"]).text();
        let answer = run_ok(&["digest", s(&target), "--json"]).json();
        let digest = answer["digest"].as_str().expect("a digest");
        assert!(text.contains(&format!("blake3 {digest}")), "{text}");
        assert!(text.contains("verified"), "{text}");
    }
}

/// Lengths of the runs of a map, by type; together they are the disk.
fn run_lengths(image: &Path) -> Vec<(String, u64)> {
    let map = run_ok(&["map", s(image), "--json"]).json();
    let mut end = 0;
    let runs = map["runs"].as_array().expect("runs");
    let lengths = runs
        .iter()
        .map(|run| {
            assert_eq!(run["offset"], end, "runs follow each other");
            let length = run["length"].as_u64().expect("a length");
            assert!(length > 0);
            end += length;
            (run["type"].as_str().expect("a type").to_owned(), length)
        })
        .collect();
    assert_eq!(map["size"], end, "the runs are the whole disk");
    lengths
}

#[test]
fn the_runs_of_a_map_are_the_whole_disk() {
    let folder = Folder::new();
    let raw = folder.file("disk.raw");
    make_disk(&raw, 30 * MIB + 5 * 512);
    run_lengths(&raw);
    for (name, options) in STATIONS {
        let target = folder.file(name);
        let answer = convert(&raw, &target, options);
        let stored: u64 = run_lengths(&target)
            .iter()
            .filter(|(kind, _)| kind == "data")
            .map(|(_, length)| length)
            .sum();
        let data = answer["bytes"]["data"].as_u64().expect("bytes");
        assert!(
            stored >= data,
            "{name}: {stored} bytes of data in the map, {data} copied"
        );
    }
    let text = run_ok(&["map", s(&folder.file("a.vhd"))]).text();
    assert!(text.starts_with("          offset"), "{text}");
    let picture = folder.file("map.svg");
    run_ok(&["map", s(&folder.file("a.vhd")), "--picture", s(&picture)]);
    assert!(
        std::fs::read_to_string(&picture)
            .expect("read")
            .contains("<svg")
    );
}

fn keys(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect()
}

#[test]
fn the_json_answers_have_the_keys_of_the_contract() {
    let folder = Folder::new();
    let raw = folder.file("disk.raw");
    make_disk(&raw, 3 * MIB);
    let image = folder.file("disk.vhd");
    let converted = convert(&raw, &image, &["--verify"]);
    for key in ["source", "target", "bytes", "seconds", "digest", "verified"] {
        assert!(keys(&converted).contains(&key), "convert: {key}");
    }
    assert_eq!(converted["verified"], true);
    let bytes = |key: &str| converted["bytes"][key].as_u64().expect("bytes");
    assert_eq!(bytes("data") + bytes("zero"), 3 * MIB);

    let info = run_ok(&["info", s(&image), "--json"]).json();
    for key in [
        "format",
        "subformat",
        "virtual_size",
        "sector_size",
        "block_size",
        "file_size",
        "allocated",
        "parent",
        "warnings",
    ] {
        assert!(keys(&info).contains(&key), "info: {key}");
    }
    assert_eq!(info["format"], "vhd");
    assert_eq!(info["subformat"], "dynamic");
    assert_eq!(info["virtual_size"], 3 * MIB);
    assert_eq!(info["block_size"], 2 * MIB);
    assert_eq!(info["parent"], Value::Null);

    let digest = run_ok(&["digest", s(&image), "--json"]).json();
    assert_eq!(digest["algorithm"], "blake3");
    assert_eq!(digest["size"], 3 * MIB);
    assert_eq!(digest["digest"], converted["digest"]["digest"]);
}

#[test]
fn compare_tells_where_disks_differ() {
    let folder = Folder::new();
    let (raw, other) = (folder.file("disk.raw"), folder.file("other.raw"));
    make_disk(&raw, 5 * MIB);
    let image = folder.file("disk.qcow2");
    convert(&raw, &image, &[]);
    let same = run_ok(&["compare", s(&raw), s(&image)]);
    assert!(same.text().contains("identical"));

    patched(
        &raw,
        &other,
        &[
            (1000, &noise(9, 10)),
            ((2 << 20) - 1, b"\x7f\x7f"),
            (4 << 20, &[5]),
        ],
    );
    let different = run(&["compare", s(&image), s(&other), "--json"]);
    assert_eq!(different.code, Some(1));
    let answer = different.json();
    assert_eq!(answer["identical"], false);
    let ranges: Vec<_> = answer["differences"]
        .as_array()
        .expect("ranges")
        .iter()
        .map(|r| (r["offset"].as_u64().unwrap(), r["length"].as_u64().unwrap()))
        .collect();
    // Whole sectors.
    assert_eq!(
        ranges,
        [(512, 512), ((2 << 20) - 512, 1024), (4 << 20, 512)]
    );
    let text = run(&["compare", s(&image), s(&other)]).text();
    assert!(
        text.contains("different") && text.contains("4194304"),
        "{text}"
    );

    let quiet = run(&["compare", "-q", s(&image), s(&other)]);
    assert_eq!((quiet.code, quiet.text()), (Some(1), String::new()));
    let quiet = run(&["compare", "-q", s(&image), s(&raw)]);
    assert_eq!((quiet.code, quiet.text()), (Some(0), String::new()));
}

#[test]
fn compare_shows_the_first_ranges_and_counts_all() {
    let folder = Folder::new();
    let (raw, other) = (folder.file("disk.raw"), folder.file("other.raw"));
    make_disk(&raw, 5 * MIB);
    let patches: Vec<(u64, &[u8])> = (0..40)
        .map(|n| (n * 65536 + 7, &b"\x55\xAA\x55"[..]))
        .collect();
    patched(&raw, &other, &patches);
    let text = run(&["compare", s(&raw), s(&other)]).text();
    assert_eq!(text.matches("differ at").count(), 16, "{text}");
    assert!(text.contains("40 ranges"), "{text}");
    let answer = run(&["compare", s(&raw), s(&other), "--json"]).json();
    assert_eq!(answer["difference_count"], 40);
    assert_eq!(answer["different_bytes"], 40 * 512);
}

#[test]
fn a_longer_tail_of_zeros_is_the_same_unless_strict() {
    let folder = Folder::new();
    let (raw, longer) = (folder.file("disk.raw"), folder.file("longer.raw"));
    make_disk(&raw, 2 * MIB);
    std::fs::copy(&raw, &longer).expect("copy");
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&longer)
        .expect("open");
    file.set_len(6 * MIB + 1).expect("grow");
    for pair in [[&raw, &longer], [&longer, &raw]] {
        let same = run_ok(&["compare", s(pair[0]), s(pair[1])]);
        assert!(same.text().contains("sizes differ"), "{}", same.text());
        assert_eq!(
            run(&["compare", "-s", s(pair[0]), s(pair[1])]).code,
            Some(1)
        );
    }
    std::os::unix::fs::FileExt::write_all_at(&file, b"x", 6 * MIB).expect("write");
    assert_eq!(run(&["compare", s(&raw), s(&longer)]).code, Some(1));
    assert_eq!(run(&["compare", s(&longer), s(&raw)]).code, Some(1));
}

#[test]
fn completions_and_the_manual_are_there() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(run_ok(&["completions", shell]).text().contains("diskferry"));
    }
    let manual = run_ok(&["man"]).text();
    assert!(manual.contains(".TH") && manual.contains("diskferry"));
}
