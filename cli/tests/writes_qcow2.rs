//! Every kind of qcow2 that can be written, held against qemu-img.

mod common;

use std::path::{Path, PathBuf};

use common::peers::{qemu_check, qemu_finds_equal, qemu_size};
use common::{Folder, convert, have, make_disk, run, run_ok, s, tool};

const MIB: u64 = 1 << 20;

/// The options of one image: what `-o` gets, and whether it is compressed.
type Kind<'a> = (&'a str, bool);

fn make(raw: &Path, folder: &Folder, (options, compress): Kind) -> PathBuf {
    let target = folder.file("disk.qcow2");
    let mut arguments = vec!["-f", "raw", "--verify", "--force"];
    if !options.is_empty() {
        arguments.extend(["-o", options]);
    }
    if compress {
        arguments.push("-c");
    }
    convert(raw, &target, &arguments);
    target
}

/// What the library imago reads in `image`.
fn imago_reads(image: &Path) -> Vec<u8> {
    use imago::{FormatAccess, FormatDriverBuilder, PermissiveImplicitOpenGate};
    let gate = PermissiveImplicitOpenGate::default();
    let disk = imago::qcow2::Qcow2::<imago::file::File>::builder_path(image).open(gate);
    let disk = FormatAccess::new(disk.expect("imago opens it"));
    let mut bytes = vec![0xEE; disk.size() as usize];
    disk.read(&mut bytes, 0).expect("imago reads it");
    bytes
}

/// qemu finds the same disk in each, and nothing wrong with any; imago reads the same.
fn qemu_agrees(kinds: &[Kind]) {
    if !have("qemu-img") {
        return;
    }
    for size in [512, 6 * MIB + 512, 5 * MIB + 77] {
        let folder = Folder::new();
        let raw = folder.file("disk.raw");
        make_disk(&raw, size);
        for kind in kinds {
            let image = make(&raw, &folder, *kind);
            assert_eq!(qemu_size("qcow2", &image), size.next_multiple_of(512));
            assert!(qemu_finds_equal("qcow2", &image, "raw", &raw), "{kind:?}");
            qemu_check("qcow2", &image);
            let mut expected = std::fs::read(&raw).expect("read");
            expected.resize(size.next_multiple_of(512) as usize, 0);
            // imago has neither zstd nor extended L2 entries.
            if !kind.0.contains("zstd") && !kind.0.contains("extended_l2") {
                assert!(imago_reads(&image) == expected, "imago: {kind:?}");
            }
        }
    }
}

#[test]
fn compressed_clusters_of_every_size_agree() {
    let sizes = ["512", "4k", "64k", "2M"];
    let types = ["zlib", "zstd"];
    let options: Vec<_> = sizes
        .iter()
        .flat_map(|size| types.map(|t| format!("cluster_size={size},compression_type={t}")))
        .collect();
    let kinds: Vec<_> = options.iter().map(|o| (o.as_str(), true)).collect();
    qemu_agrees(&kinds);
}

#[test]
fn every_refcount_width_agrees() {
    let options: Vec<_> = (0..=6)
        .map(|order| format!("refcount_bits={}", 1 << order))
        .collect();
    let plain = options.iter().map(|o| (o.as_str(), false));
    let packed = options.iter().map(|o| (o.as_str(), true));
    qemu_agrees(&plain.chain(packed).collect::<Vec<_>>());
}

#[test]
fn versions_and_features_agree() {
    qemu_agrees(&[
        ("compat=0.10", false),
        ("compat=0.10", true),
        ("lazy_refcounts=on", false),
        ("extended_l2=on", false),
        ("extended_l2=on", true),
        ("extended_l2=on,cluster_size=16k", false),
        ("extended_l2=on,cluster_size=2M", false),
        ("preallocation=metadata", false),
        ("preallocation=falloc", false),
        ("preallocation=full", false),
        ("preallocation=metadata,extended_l2=on", false),
        ("preallocation=metadata,cluster_size=512", false),
    ]);
}

#[test]
fn a_data_file_holds_the_clusters() {
    if !have("qemu-img") {
        return;
    }
    for options in ["", ",data_file_raw=on", ",data_file_raw=on,extended_l2=on"] {
        let folder = Folder::new();
        let raw = folder.file("disk.raw");
        make_disk(&raw, 6 * MIB + 512);
        let image = make(
            &raw,
            &folder,
            (&format!("data_file=disk.data{options}"), false),
        );
        assert!(image.exists());
        // QEMU looks for the data file in the folder that it was started in.
        let compare =
            "qemu-img compare -f raw -F qcow2 disk.raw disk.qcow2 && qemu-img check disk.qcow2";
        tool(
            "sh",
            &["-c", &format!("cd {} && {compare}", s(folder.path()))],
        );
        if options.contains("raw=on") {
            assert!(qemu_finds_equal(
                "raw",
                &folder.file("disk.data"),
                "raw",
                &raw
            ));
        }
    }
}

#[test]
fn a_data_file_never_replaces_another_file() {
    let folder = Folder::new();
    let (raw, data) = (folder.file("disk.raw"), folder.file("other"));
    make_disk(&raw, MIB);
    std::fs::write(&data, "precious").expect("write");
    let target = folder.file("disk.qcow2");
    let arguments = [
        "convert",
        s(&raw),
        s(&target),
        "--json",
        "-o",
        "data_file=other",
    ];
    let finished = run(&arguments);
    assert_eq!(
        (finished.code, finished.error_kind().as_str()),
        (Some(5), "refused")
    );
    assert_eq!(std::fs::read(&data).expect("read"), b"precious");
    assert!(!target.exists());
    for name in ["../other", "/etc/other", ""] {
        let option = format!("data_file={name}");
        let finished = run(&["convert", s(&raw), s(&target), "-o", &option]);
        assert_eq!(finished.code, Some(2), "{name}");
    }
}

#[test]
fn impossible_combinations_are_usage_errors() {
    let folder = Folder::new();
    let (raw, target) = (folder.file("disk.raw"), folder.file("disk.qcow2"));
    make_disk(&raw, MIB);
    for arguments in [
        &["-o", "compat=0.10,compression_type=zstd"][..],
        &["-o", "compat=0.10,extended_l2=on"],
        &["-o", "extended_l2=on,cluster_size=8k"],
        &["-o", "level=3"],
        &["-c", "-o", "level=10"],
        &["-c", "-o", "preallocation=full"],
        &["-c", "-o", "data_file=x"],
        &["-c", "-S", "0"],
        &["-o", "data_file_raw=on"],
        &["-o", "refcount_bits=3"],
        &["-O", "vhd", "-c"],
        &["-O", "raw", "-c"],
        &["-O", "raw", "-B", "disk.raw"],
        &["-O", "vdi", "-B", "disk.raw"],
        &["-O", "vdi", "-c"],
        &["-O", "vmdk", "-c", "-o", "subformat=vmfs"],
    ] {
        let finished = run(&[&["convert", s(&raw), s(&target)], arguments].concat());
        assert_eq!(finished.code, Some(2), "{arguments:?}: {}", finished.stderr);
        assert_eq!(folder.names(), ["disk.raw"], "{arguments:?}");
    }
}

#[test]
fn compressed_clusters_pass_through_and_are_checked_on_the_way() {
    let folder = Folder::new();
    let raw = folder.file("disk.raw");
    make_disk(&raw, 6 * MIB);
    for kind in ["zlib", "zstd"] {
        let option = format!("compression_type={kind},level=9");
        let first = make(&raw, &folder, (&option, true));
        let source = folder.file("source.qcow2");
        std::fs::rename(&first, &source).expect("rename");
        let again = folder.file("again.qcow2");
        let options = [
            "-c",
            "-o",
            &format!("compression_type={kind},level=1"),
            "--force",
        ];
        convert(&source, &again, &options);
        // Level 1 would have made another file.
        assert!(std::fs::read(&again).expect("read") == std::fs::read(&source).expect("read"));
        let anew = [&options[..], &["--recompress"]].concat();
        convert(&source, &again, &anew);
        assert!(std::fs::read(&again).expect("read") != std::fs::read(&source).expect("read"));
        // A damaged cluster does not pass.
        let map = run_ok(&["map", s(&source), "--json"]).json();
        let runs = map["runs"].as_array().expect("runs");
        let packed = runs.iter().find(|run| run["type"] == "compressed");
        let at = packed.expect("a compressed run")["file_offset"]
            .as_u64()
            .expect("an offset");
        let bad = folder.file("bad.qcow2");
        common::patched(&source, &bad, &[(at, &[0xff; 16])]);
        let target = folder.file("target.qcow2");
        assert_eq!(run(&["convert", s(&bad), s(&target), "-c"]).code, Some(3));
        assert!(!target.exists());
    }
}

#[test]
fn the_same_disk_makes_the_same_compressed_file_with_any_number_of_threads() {
    let folder = Folder::new();
    let raw = folder.file("disk.raw");
    make_disk(&raw, 20 * MIB);
    let mut first: Option<Vec<u8>> = None;
    for jobs in ["1", "2", "7"] {
        let target = folder.file("disk.qcow2");
        convert(
            &raw,
            &target,
            &["-c", "-j", jobs, "--reproducible", "--force"],
        );
        let bytes = std::fs::read(&target).expect("read");
        assert!(
            *first.get_or_insert_with(|| bytes.clone()) == bytes,
            "-j {jobs}"
        );
    }
}

#[test]
fn measure_says_what_convert_makes() {
    let folder = Folder::new();
    let raw = folder.file("disk.raw");
    make_disk(&raw, 6 * MIB + 512);
    for (format, options, compress) in [
        ("raw", "", false),
        ("vhd", "subformat=dynamic", false),
        ("vhd", "subformat=fixed", false),
        ("vmdk", "subformat=monolithicSparse", false),
        ("vmdk", "subformat=twoGbMaxExtentFlat", false),
        ("qcow2", "cluster_size=4k", false),
        ("qcow2", "preallocation=metadata", false),
        ("qcow2", "", true),
        ("vmdk", "subformat=streamOptimized", true),
    ] {
        let target = folder.file(&format!("disk-1.{format}"));
        let mut arguments = vec!["-O", format];
        if !options.is_empty() {
            arguments.extend(["-o", options]);
        }
        if compress {
            arguments.push("-c");
        }
        // Named like the source, so that descriptors have the same length.
        let source = folder.file("disk-0.raw");
        std::fs::copy(&raw, &source).expect("copy");
        let measured =
            run_ok(&[&["measure", s(&source), "--json"], &arguments[..]].concat()).json();
        let made = convert(&source, &target, &[&arguments[..], &["--force"]].concat());
        let (expected, real) = (&measured["file_size"], &made["target"]["file_size"]);
        assert_eq!(measured["exact"], !compress, "{format} {options}");
        if compress {
            assert!(expected.as_u64() >= real.as_u64(), "{format} {options}");
        } else {
            assert_eq!(expected, real, "{format} {options}");
        }
    }
}

#[test]
fn measure_counts_the_data_file() {
    let folder = Folder::new();
    let raw = folder.file("disk.raw");
    make_disk(&raw, 6 * MIB + 77);
    for (round, options) in [
        "",
        ",data_file_raw=on",
        ",extended_l2=on,cluster_size=16k",
        ",preallocation=metadata",
    ]
    .into_iter()
    .enumerate()
    {
        let [data, image] = ["data", "qcow2"].map(|kind| format!("disk-{round}.{kind}"));
        let options = format!("data_file={data}{options}");
        let arguments = ["-O", "qcow2", "-o", &options];
        let measure = [&["measure", s(&raw), "--json"][..], &arguments].concat();
        let measured = run_ok(&measure).json();
        let image = folder.file(&image);
        let made = convert(&raw, &image, &arguments);
        let files = [&image, &folder.file(&data)];
        let real: u64 = files
            .map(|file| std::fs::metadata(file).expect("metadata").len())
            .iter()
            .sum();
        assert_eq!(measured["file_size"], real, "{options}");
        assert_eq!(measured["exact"], true, "{options}");
        assert_eq!(made["target"]["file_size"], real, "{options}");
    }
}

#[test]
fn a_disk_larger_than_allowed_is_refused() {
    let folder = Folder::new();
    let (raw, target) = (folder.file("disk.raw"), folder.file("disk.qcow2"));
    make_disk(&raw, 2 * MIB);
    let finished = run(&["convert", s(&raw), s(&target), "--max-size", "1M", "--json"]);
    assert_eq!(
        (finished.code, finished.error_kind().as_str()),
        (Some(3), "limit")
    );
    convert(&raw, &target, &["--max-size", "2M"]);
}
