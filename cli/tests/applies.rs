//! `apply`: what a delta defines, onto a copy of its parent, and onto nothing else.

mod common;

use std::fs;
use std::path::Path;
use std::time::Duration;

use common::applying::{Chain, is_same, json, receipt, refused};
use common::peers::{have_qemu, qemu_img};
use common::{Folder, convert, diskferry, guest_digest, kills, noise, patched, run, run_ok, s};

const MIB: u64 = 1 << 20;

/// Formats of chains, and what a base is made with.
const CHAINS: &[(&str, &str)] = &[
    ("vhd", "block_size=512k"),
    ("vhdx", "block_size=1M"),
    ("qcow2", "cluster_size=64k"),
];

/// Formats of copies.
const COPIES: &[(&str, &[&str])] = &[
    ("raw", &[]),
    ("vhd", &["-o", "subformat=fixed"]),
    ("vhd", &[]),
    ("vhdx", &[]),
    ("vhdx", &["-o", "subformat=fixed"]),
    ("qcow2", &[]),
    ("qcow2", &["-c"]),
    ("qcow2", &["-o", "extended_l2=on"]),
    ("vmdk", &[]),
    ("vmdk", &["-o", "subformat=monolithicFlat"]),
    ("vmdk", &["-o", "subformat=vmfs"]),
    ("vdi", &[]),
];

#[test]
fn a_delta_of_any_format_is_applied_to_a_copy_of_any_format() {
    for (format, options) in CHAINS {
        let chain = Chain::new(format, options);
        for (target, kind) in COPIES {
            let what = format!("{format} onto {target} {kind:?}");
            let copy = chain.copy(target, kind);
            let known = json(&receipt(&copy))["source"].clone();
            assert_eq!(known["size"], 20 * MIB, "{what}");
            assert!(known["digest"].is_string(), "{what}");
            let planned = run_ok(&["apply", s(&chain.child), s(&copy), "--dry-run", "--json"]);
            is_same(&copy, &chain.old, &what);
            let done = run_ok(&["apply", s(&chain.child), s(&copy), "--verify", "--json"]);
            assert_eq!(planned.json()["bytes"], done.json()["bytes"], "{what}");
            is_same(&copy, &chain.new, &what);
            run_ok(&["check", s(&copy)]);
            let after = json(&receipt(&copy));
            assert!(after["applying"].is_null(), "{what}");
            assert_eq!(after["applied"].as_array().map(Vec::len), Some(1));
            let name = s(&chain.child).to_owned();
            assert!(
                after["source"]["file"]
                    .as_str()
                    .is_some_and(|f| name.ends_with(f.rsplit('/').next().unwrap_or("?")))
            );
            // It is a copy of the delta by now.
            let again = run_ok(&["apply", s(&chain.child), s(&copy)]);
            assert!(again.stderr.contains("already"), "{}", again.stderr);
            is_same(&copy, &chain.new, &what);
            if have_qemu() && *target == "qcow2" {
                qemu_img(&["check", s(&copy)]);
            }
        }
    }
}

#[test]
fn what_is_not_known_as_a_copy_of_the_parent_stays_as_it_is() {
    let chain = Chain::new("vhdx", "block_size=1M");
    let other = Chain::new("vhdx", "block_size=1M");
    let copy = chain.folder.file("copy.qcow2");
    convert(&chain.base, &copy, &[]);
    refused(&chain, &chain.child, &copy, &[], "no receipt");
    convert(&chain.base, &copy, &["--receipt", "--force"]);
    refused(&chain, &other.child, &copy, &[], "stands on");
    // Somebody wrote to it.
    run_ok(&["resize", s(&copy), "+1M"]);
    refused(&chain, &chain.child, &copy, &[], "not as it was left");
    // A conversion without a receipt takes the old one away.
    convert(&chain.base, &copy, &["--force"]);
    assert!(!receipt(&copy).exists());
    // A receipt that is none.
    fs::write(receipt(&copy), "{}").expect("write");
    let finished = run(&["apply", s(&chain.child), s(&copy)]);
    assert_eq!(finished.code, Some(3), "{}", finished.stderr);
}

#[test]
fn a_base_that_was_written_to_after_it_was_copied_is_noticed() {
    let chain = Chain::new("vhd", "block_size=2M");
    let copy = chain.copy("qcow2", &[]);
    std::thread::sleep(Duration::from_millis(1100));
    // The machine ran on the base, and a checkpoint was made then.
    let base = fs::File::options()
        .append(true)
        .open(&chain.base)
        .expect("open");
    base.set_modified(std::time::SystemTime::now())
        .expect("a time");
    convert(&chain.new, &chain.child, &["-B", "base.vhd", "--force"]);
    refused(&chain, &chain.child, &copy, &[], "written");
    let chain = Chain::new("qcow2", "cluster_size=4k");
    let copy = chain.copy("raw", &[]);
    let base = fs::File::options()
        .append(true)
        .open(&chain.base)
        .expect("open");
    base.set_modified(std::time::SystemTime::UNIX_EPOCH)
        .expect("a time");
    refused(&chain, &chain.child, &copy, &[], "not known");
}

#[test]
fn a_parent_is_compared_and_a_word_is_taken() {
    for (format, options) in CHAINS {
        let chain = Chain::new(format, options);
        let copy = chain.folder.file("copy.vmdk");
        convert(&chain.old, &copy, &[]);
        let parent = ["--parent", s(&chain.base)];
        run_ok(&[&["apply", s(&chain.child), s(&copy)], &parent[..]].concat());
        is_same(&copy, &chain.new, format);
        convert(&chain.old, &copy, &["--force"]);
        run_ok(&["apply", s(&chain.child), s(&copy), "--trust"]);
        is_same(&copy, &chain.new, format);
        convert(&chain.old, &copy, &["--force"]);
        let other = Chain::new("vhdx", "block_size=2M");
        let parent = ["--parent", s(&other.base)];
        if *format != "qcow2" {
            let finished = run(&[&["apply", s(&chain.child), s(&copy)], &parent[..]].concat());
            assert_eq!(finished.code, Some(3), "{}", finished.stderr);
        }
    }
}

#[test]
fn deltas_are_applied_one_after_the_other() {
    let chain = Chain::new("vhdx", "block_size=2M");
    let (tip, tip_raw) = (chain.folder.file("tip.vhdx"), chain.folder.file("tip.raw"));
    patched(&chain.new, &tip_raw, &[(7_000_000, &noise(9, 90_000))]);
    convert(&tip_raw, &tip, &["-B", "child.vhdx"]);
    let copy = chain.copy("qcow2", &[]);
    refused(&chain, &tip, &copy, &[], "stands on");
    run_ok(&["apply", s(&chain.child), s(&copy)]);
    run_ok(&["apply", s(&tip), s(&copy)]);
    is_same(&copy, &tip_raw, "both");
    assert_eq!(
        json(&receipt(&copy))["applied"].as_array().map(Vec::len),
        Some(2)
    );
}

#[test]
fn a_delta_of_another_size_gives_the_copy_its_own() {
    for (format, options) in CHAINS {
        for size in ["31M", "12M"] {
            let chain = Chain::new(format, options);
            fs::remove_file(&chain.child).expect("remove");
            let sized = ["-B", &format!("base.{format}"), "--size", size, "--shrink"];
            let new = chain.folder.file("sized.raw");
            let source = match size {
                "12M" => &chain.old,
                _ => &chain.new,
            };
            patched(source, &new, &[(3_000_000, &noise(11, 70_000))]);
            let small = chain.folder.file("small.raw");
            convert(&new, &chain.child, &sized);
            convert(&chain.child, &small, &[]);
            for (target, kind) in COPIES {
                let what = format!("{format} of {size} onto {target} {kind:?}");
                let copy = chain.copy(target, kind);
                run_ok(&["apply", s(&chain.child), s(&copy), "--verify"]);
                is_same(&copy, &small, &what);
                let (_, found) = guest_digest(&copy, &[]);
                assert_eq!(found, guest_digest(&small, &[]).1, "{what}");
            }
        }
    }
}

#[test]
fn half_applied_is_not_read_by_anybody_and_finished_by_the_same_delta() {
    let chain = Chain::new("vhdx", "block_size=2M");
    let copy = chain.copy("qcow2", &[]);
    let mut begun = json(&receipt(&copy));
    let other = chain.copy("raw", &[]);
    run_ok(&["apply", s(&chain.child), s(&other)]);
    begun["applying"] = json(&receipt(&other))["applied"][0].clone();
    fs::write(receipt(&copy), begun.to_string()).expect("write");
    for arguments in [
        &["info", s(&copy)][..],
        &["digest", s(&copy)],
        &["check", s(&copy)],
        &["compare", s(&copy), s(&chain.old)],
        &["convert", s(&copy), s(&chain.folder.file("out.raw"))],
        &["resize", s(&copy), "+1M"],
    ] {
        let finished = run(arguments);
        assert_eq!(finished.code, Some(5), "{arguments:?}: {}", finished.stderr);
        assert!(finished.stderr.contains("in part"), "{}", finished.stderr);
    }
    let other = Chain::new("vhdx", "block_size=2M");
    refused(&chain, &other.child, &copy, &["--trust"], "in part");
    run_ok(&["apply", s(&chain.child), s(&copy)]);
    is_same(&copy, &chain.new, "finished");
}

#[test]
fn a_kill_at_any_moment_is_made_good_by_running_it_again() {
    let mut random = noise(21, 4000).into_iter();
    for (target, kind) in COPIES {
        let chain = Chain::new("vhdx", "block_size=1M");
        for _ in 0..kills(COPIES.len(), 4) {
            let copy = chain.copy(target, kind);
            let apply = ["apply", s(&chain.child), s(&copy)];
            let mut running = diskferry()
                .args(apply)
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .spawn()
                .expect("diskferry");
            let wait = 200 * u64::from(random.next().expect("a byte"));
            std::thread::sleep(Duration::from_micros(wait));
            let _ = running.kill();
            let ended = running.wait().expect("its end");
            let what = format!("{target} {kind:?} after {wait} µs");
            if ended.success() {
                is_same(&copy, &chain.new, &what);
                continue;
            }
            let read = run(&["compare", s(&copy), s(&chain.old)]);
            let finished = json(&receipt(&copy))["applied"].as_array().map(Vec::len);
            match (read.code, finished) {
                // It had not begun, or had ended.
                (Some(0), Some(0)) | (Some(1), Some(1)) => {}
                (Some(5), _) => assert!(read.stderr.contains("in part"), "{}", read.stderr),
                other => panic!("{what}: {other:?}, {}", read.text()),
            }
            if finished == Some(0) {
                run_ok(&[&apply[..], &["--verify"]].concat());
            }
            is_same(&copy, &chain.new, &what);
            run_ok(&["check", s(&copy)]);
        }
    }
}

#[test]
fn the_cost_follows_the_delta_and_not_the_disk() {
    let folder = Folder::new();
    let (old, new) = (folder.file("old.raw"), folder.file("new.raw"));
    for (raw, seed) in [(&old, 1), (&new, 2)] {
        fs::write(raw, noise(1, 2 << 20)).expect("write");
        let file = fs::File::options().write(true).open(raw).expect("open");
        file.set_len(100 << 30).expect("a length");
        use std::os::unix::fs::FileExt;
        if seed == 2 {
            for part in 0..8 {
                file.write_all_at(&noise(seed + part, 2 << 20), (part + 1) * (12 << 30))
                    .expect("write");
            }
        }
    }
    let (base, child) = (folder.file("base.vhdx"), folder.file("child.vhdx"));
    convert(&old, &base, &[]);
    convert(&new, &child, &["-B", "base.vhdx"]);
    for target in ["raw", "qcow2", "vhd", "vhdx", "vmdk"] {
        let copy = folder.file(&format!("copy.{target}"));
        convert(&base, &copy, &["--receipt"]);
        let before = written(&copy);
        let done = run_ok(&["apply", s(&child), s(&copy), "--json"]).json();
        assert_eq!(done["bytes"]["data"], 16 << 20, "{target}");
        let more = written(&copy).saturating_sub(before);
        assert!(more <= (16 << 20) * 12 / 10, "{target}: {more} bytes");
        is_same(&copy, &new, target);
    }
}

/// Bytes that a file occupies.
fn written(file: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(file).expect("a file").blocks() * 512
}

#[test]
fn what_is_no_delta_or_no_copy_is_refused_by_name() {
    let chain = Chain::new("vhd", "block_size=2M");
    let copy = chain.copy("qcow2", &[]);
    let finished = run(&["apply", s(&chain.base), s(&copy)]);
    assert_eq!(finished.code, Some(2), "{}", finished.stderr);
    let finished = run(&["apply", s(&chain.child), s(&chain.child), "--trust"]);
    assert_eq!(finished.code, Some(5), "{}", finished.stderr);
    // The parent itself has a child.
    refused(&chain, &chain.child, &chain.base, &["--trust"], "stands on");
    let stream = chain.folder.file("copy.vmdk");
    convert(&chain.base, &stream, &["-c", "--receipt"]);
    let before = fs::read(&stream).expect("read");
    let finished = run(&["apply", s(&chain.child), s(&stream)]);
    assert!(matches!(finished.code, Some(3 | 5)), "{}", finished.stderr);
    assert!(fs::read(&stream).expect("read") == before, "it changed");
    for arguments in [
        &["convert", s(&chain.base), "-", "-O", "raw", "--receipt"][..],
        &[
            "convert",
            s(&chain.base),
            s(&chain.folder.file("a.ova")),
            "--receipt",
        ],
    ] {
        assert_eq!(run(arguments).code, Some(2), "{arguments:?}");
    }
}
