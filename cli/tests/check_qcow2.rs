//! `check` of qcow2 images, held against `qemu-img check`: clean ones, damaged ones, repaired ones, hostile ones.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use common::damage::images::{Random, be32, be64, patch};
use common::damage::snapshot;
use common::peers::{have_qemu, qemu_check, qemu_img};
use common::{Finished, Folder, convert, guest_digest, make_disk, run, s, tool};
use formats::{Format, MemoryStorage, OpenContext, StorageRef, driver};
use serde_json::Value;

const COPIED: u64 = 1 << 63;

/// What somebody counted in an image.
#[derive(Debug, PartialEq, Eq)]
struct Counts {
    leaks: u64,
    corruptions: u64,
    allocated: u64,
    compressed: u64,
    end: u64,
}

fn number(object: &Value, name: &str) -> u64 {
    object[name].as_u64().unwrap_or(0)
}

/// What qemu-img counts; `None` when it does not get that far.
fn qemu_counts(image: &Path) -> Option<Counts> {
    let output = Command::new("qemu-img")
        .args(["check", "--output=json", "-f", "qcow2", s(image)])
        .stderr(Stdio::null())
        .output()
        .expect("qemu-img");
    let answer: Value = serde_json::from_slice(&output.stdout).ok()?;
    (number(&answer, "check-errors") == 0).then(|| Counts {
        leaks: number(&answer, "leaks"),
        corruptions: number(&answer, "corruptions"),
        allocated: number(&answer, "allocated-clusters"),
        compressed: number(&answer, "compressed-clusters"),
        end: number(&answer, "image-end-offset"),
    })
}

fn check(image: &Path, options: &[&str]) -> Finished {
    run(&[&["check", "-f", "qcow2", "--json", s(image)], options].concat())
}

fn counts(answer: &Value) -> Counts {
    let counts = &answer["counts"];
    Counts {
        leaks: number(counts, "leaks"),
        corruptions: number(counts, "corruptions"),
        allocated: number(counts, "allocated_clusters"),
        compressed: number(counts, "compressed_clusters"),
        end: number(counts, "image_end_offset"),
    }
}

/// Nothing is found, and both programs count the same.
fn is_clean(image: &Path) {
    let finished = check(image, &["--unpack"]);
    let answer = finished.json();
    let shown = format!("{}: {answer}", image.display());
    assert_eq!(finished.code, Some(0), "{shown}");
    for list in ["damage", "lost", "warnings"] {
        assert_eq!(answer[list], serde_json::json!([]), "{shown}");
    }
    assert_eq!(number(&answer["counts"], "overlaps"), 0, "{shown}");
    assert_eq!(Some(counts(&answer)), qemu_counts(image), "{shown}");
}

fn qemu_io(image: &Path, commands: &[&str]) {
    let mut arguments = vec!["-f", "qcow2"];
    commands.iter().for_each(|c| arguments.extend(["-c", c]));
    arguments.push(s(image));
    tool("qemu-io", &arguments);
}

/// An image made by qemu with plain, zero and compressed clusters, two snapshots and a bitmap.
fn qemu_image(folder: &Folder, name: &str, options: &str) -> PathBuf {
    let image = folder.file(name);
    tool(
        "qemu-img",
        &["create", "-f", "qcow2", "-o", options, s(&image), "12M"],
    );
    let compressed = "write -c -P 5 8M 2M";
    let writes = ["write -P 1 0 1M", "write -P 2 5000k 500k", "write -z 7M 1M"];
    qemu_io(&image, &writes);
    if !options.contains("data_file") && !options.contains("preallocation") {
        qemu_io(&image, &[compressed]);
        // A snapshot needs refcounts above 1.
        if !options.contains("refcount_bits=1,") {
            tool("qemu-img", &["snapshot", "-c", "one", s(&image)]);
            qemu_io(&image, &["write -P 3 500k 1M"]);
            tool("qemu-img", &["snapshot", "-c", "two", s(&image)]);
        }
    }
    if !options.contains("compat=0.10") {
        tool("qemu-img", &["bitmap", "--add", s(&image), "daily"]);
    }
    qemu_io(&image, &["write -P 4 600k 100k"]);
    image
}

#[test]
fn clean_images_of_every_kind_have_no_finding() {
    if !have_qemu() {
        return;
    }
    let folder = Folder::new();
    let mut kinds: Vec<String> = Vec::new();
    for cluster_size in ["512", "4k", "64k", "2M"] {
        for bits in [1, 16, 64] {
            kinds.push(format!("refcount_bits={bits},cluster_size={cluster_size}"));
        }
    }
    let data_file = format!("data_file={}", s(&folder.file("data")));
    kinds.extend(
        [
            "cluster_size=64k,extended_l2=on",
            "cluster_size=64k,compression_type=zstd",
            "cluster_size=64k,compat=0.10",
            "cluster_size=64k,preallocation=full",
            &data_file,
        ]
        .map(str::to_owned),
    );
    for (index, kind) in kinds.iter().enumerate() {
        is_clean(&qemu_image(&folder, &format!("{index}.qcow2"), kind));
    }
}

#[test]
fn what_diskferry_writes_has_no_finding() {
    if !have_qemu() {
        return;
    }
    let folder = Folder::new();
    let raw = folder.file("disk.raw");
    make_disk(&raw, 9 << 20);
    let kinds: [&[&str]; 5] = [
        &[],
        &["-c"],
        &["-o", "cluster_size=512"],
        &["-c", "-o", "cluster_size=512"],
        &["-c", "-o", "cluster_size=2M"],
    ];
    for (index, kind) in kinds.iter().enumerate() {
        let image = folder.file(&format!("{index}.qcow2"));
        convert(&raw, &image, kind);
        is_clean(&image);
    }
}

/// An image with clusters of 4 KiB, refcounts of 16 bits, and two L2 tables.
struct Sample {
    folder: Folder,
    path: PathBuf,
    bytes: Vec<u8>,
}

const CLUSTER: u64 = 4096;

impl Sample {
    fn new() -> Sample {
        let folder = Folder::new();
        let (raw, path) = (folder.file("disk.raw"), folder.file("sample.qcow2"));
        make_disk(&raw, 4 << 20);
        convert(&raw, &path, &["-o", "cluster_size=4k"]);
        std::fs::remove_file(raw).expect("remove");
        let bytes = std::fs::read(&path).expect("read");
        Sample {
            folder,
            path,
            bytes,
        }
    }

    fn set64(&mut self, at: u64, value: u64) {
        patch(&mut self.bytes, at as usize, &value.to_be_bytes());
    }

    fn get64(&self, at: u64) -> u64 {
        be64(&self.bytes, at as usize)
    }

    /// Where L1 entry `index` stands.
    fn l1(&self, index: u64) -> u64 {
        self.get64(40) + index * 8
    }

    /// Where the L2 entry of guest cluster `guest`, below 512, stands.
    fn l2(&self, guest: u64) -> u64 {
        (self.get64(self.l1(0)) & !COPIED) + guest * 8
    }

    /// The cluster of the file that guest cluster `guest` is in.
    fn host(&self, guest: u64) -> u64 {
        (self.get64(self.l2(guest)) & !COPIED) / CLUSTER
    }

    fn set_refcount(&mut self, cluster: u64, count: u16) {
        let block = self.get64(self.get64(48));
        let at = (block + cluster * 2) as usize;
        patch(&mut self.bytes, at, &count.to_be_bytes());
    }

    /// Puts a cluster that nothing uses behind the end, and counts it.
    fn leak(&mut self) {
        let cluster = self.bytes.len() as u64 / CLUSTER;
        self.bytes.resize(((cluster + 1) * CLUSTER) as usize, 0x55);
        self.set_refcount(cluster, 1);
    }

    fn write(&self) {
        std::fs::write(&self.path, &self.bytes).expect("write");
    }

    /// What is found after `change`, and by qemu.
    fn found(change: impl FnOnce(&mut Sample)) -> (Finished, Option<Counts>) {
        let mut sample = Sample::new();
        change(&mut sample);
        sample.write();
        let before = snapshot(sample.folder.path());
        let finished = check(&sample.path, &[]);
        assert!(snapshot(sample.folder.path()) == before, "check wrote");
        (finished, qemu_counts(&sample.path))
    }
}

/// Damage that both programs count alike; answers what was found.
fn as_qemu(code: i32, leaks: u64, corruptions: u64, change: impl FnOnce(&mut Sample)) -> Value {
    let (finished, qemu) = Sample::found(change);
    let answer = finished.json();
    let found = counts(&answer);
    assert_eq!(Some(&found), qemu.as_ref(), "{answer}");
    assert_eq!(
        (found.leaks, found.corruptions),
        (leaks, corruptions),
        "{answer}"
    );
    assert_eq!(finished.code, Some(code), "{answer}");
    answer
}

fn says(answer: &Value, list: &str, words: &str) {
    let list = answer[list].as_array().expect("a list");
    assert!(
        list.iter()
            .any(|m| m.as_str().is_some_and(|m| m.contains(words))),
        "{words:?} is not in {answer}"
    );
}

#[test]
fn a_leak_is_a_warning() {
    if !have_qemu() {
        return;
    }
    let answer = as_qemu(0, 1, 0, Sample::leak);
    says(&answer, "warnings", "--repair");
    assert_eq!(
        answer["places"]["leaked clusters"].as_array().map(Vec::len),
        Some(1)
    );
}

#[test]
fn wrong_refcounts_are_told_as_qemu_tells_them() {
    if !have_qemu() {
        return;
    }
    // Too low; the flag of the entry is wrong then, too.
    let answer = as_qemu(1, 0, 2, |sample| sample.set_refcount(sample.host(0), 0));
    says(&answer, "damage", "refcount 0");
    // Too high: the same with the flag.
    as_qemu(1, 1, 1, |sample| sample.set_refcount(sample.host(0), 7));
    // Of tables.
    as_qemu(1, 0, 1, |sample| sample.set_refcount(0, 0));
}

#[test]
fn wrong_flags_are_told_as_qemu_tells_them() {
    if !have_qemu() {
        return;
    }
    as_qemu(1, 0, 1, |sample| {
        sample.set64(sample.l2(0), sample.get64(sample.l2(0)) & !COPIED)
    });
    as_qemu(1, 0, 1, |sample| {
        sample.set64(sample.l1(0), sample.get64(sample.l1(0)) & !COPIED)
    });
}

#[test]
fn clusters_and_tables_that_are_used_twice_are_told_as_qemu_tells_them() {
    if !have_qemu() {
        return;
    }
    let answer = as_qemu(1, 1, 1, |sample| {
        sample.set64(sample.l2(1), sample.get64(sample.l2(0)))
    });
    says(&answer, "damage", "lower than the number of uses");
    let (finished, qemu) = Sample::found(|sample| {
        sample.set64(sample.l1(1), sample.get64(sample.l1(0)));
    });
    let answer = finished.json();
    assert_eq!(Some(counts(&answer)), qemu);
    assert!(number(&answer["counts"], "corruptions") > 50, "{answer}");
    assert_eq!(finished.code, Some(1));
}

#[test]
fn impossible_entries_are_told_as_qemu_tells_them() {
    if !have_qemu() {
        return;
    }
    as_qemu(1, 0, 1, |sample| {
        sample.set64(sample.l2(0), sample.get64(sample.l2(0)) | 2)
    });
    as_qemu(1, 0, 1, |sample| {
        sample.set64(sample.l1(0), sample.get64(sample.l1(0)) | 1 << 60)
    });
    // Into the middle of a cluster: it touches the next one, too.
    as_qemu(1, 0, 2, |sample| {
        sample.set64(sample.l2(0), sample.get64(sample.l2(0)) + 512)
    });
}

#[test]
fn entries_past_the_end_are_damage() {
    if !have_qemu() {
        return;
    }
    for entry in [1 << 40 | COPIED, 1 << 62 | 1 << 40] {
        let (finished, qemu) = Sample::found(|sample| sample.set64(sample.l2(0), entry));
        let (answer, qemu) = (finished.json(), qemu.expect("counts"));
        assert_eq!(finished.code, Some(1), "{answer}");
        assert_eq!(counts(&answer).leaks, qemu.leaks, "{answer}");
        // qemu looks at its flag as well.
        assert!(
            (1..=qemu.corruptions).contains(&counts(&answer).corruptions),
            "{answer}"
        );
        assert_eq!(answer["lost"][0]["offset"].as_u64(), Some(0), "{answer}");
    }
}

#[test]
fn data_in_the_place_of_a_table_is_damage() {
    for place in [
        "header",
        "L1 table",
        "L2 table",
        "refcount table",
        "refcount block",
    ] {
        let (finished, _) = Sample::found(|sample| {
            let cluster = match place {
                "header" => 0,
                "L1 table" => sample.l1(0) / CLUSTER,
                "L2 table" => sample.l2(0) / CLUSTER,
                "refcount table" => sample.get64(48) / CLUSTER,
                _ => sample.get64(sample.get64(48)) / CLUSTER,
            };
            let cluster = cluster.max(1);
            sample.set64(sample.l2(0), COPIED | cluster * CLUSTER);
            // Even when somebody counted it.
            sample.set_refcount(cluster, 2);
        });
        let answer = finished.json();
        assert_eq!(finished.code, Some(1), "{place}: {answer}");
        assert_eq!(
            number(&answer["counts"], "overlaps"),
            1,
            "{place}: {answer}"
        );
    }
}

#[test]
fn refcount_blocks_in_impossible_places_are_damage() {
    let table = |sample: &Sample| sample.get64(48);
    let changes: [(&str, &dyn Fn(&mut Sample)); 4] = [
        ("reserved", &|s| s.set64(table(s), s.get64(table(s)) | 4)),
        ("middle", &|s| s.set64(table(s), s.get64(table(s)) + 512)),
        ("past the end", &|s| s.set64(table(s), 1 << 50)),
        ("another part", &|s| {
            s.set64(table(s) + 8, s.get64(table(s)))
        }),
    ];
    for (words, change) in changes {
        let (finished, _) = Sample::found(|sample| change(sample));
        assert_eq!(finished.code, Some(1), "{words}");
        says(&finished.json(), "damage", words);
    }
}

#[test]
fn snapshot_tables_that_run_out_of_the_file_are_damage() {
    let (finished, _) = Sample::found(|sample| {
        let end = sample.bytes.len() as u64;
        patch(&mut sample.bytes, 60, &2u32.to_be_bytes());
        sample.set64(64, end - CLUSTER);
        // An entry with names that are longer than the rest of the file.
        let at = (end - CLUSTER) as usize;
        sample.bytes[at..].fill(0);
        patch(&mut sample.bytes, at + 12, &[0xff; 4]);
    });
    assert_eq!(finished.code, Some(1));
    says(&finished.json(), "damage", "snapshot table");
}

#[test]
fn damaged_bitmap_directories_are_damage() {
    if !have_qemu() {
        return;
    }
    let folder = Folder::new();
    let image = qemu_image(&folder, "a.qcow2", "cluster_size=64k");
    let bytes = std::fs::read(&image).expect("read");
    // Behind the type and length of the bitmaps extension: count, reserved, size, offset.
    let extension = (104..4096)
        .step_by(8)
        .find(|at| be32(&bytes, *at) == 0x2385_2875)
        .expect("an extension");
    let directory = be64(&bytes, extension + 24) as usize;
    let changes: [(usize, &[u8], &str); 5] = [
        (extension + 24, &(1u64 << 40).to_be_bytes(), "past the end"),
        (extension + 8, &9u32.to_be_bytes(), "runs out"),
        (directory + 16, &[7], "unknown type"),
        (directory + 18, &[0xff; 2], "runs out"),
        (directory, &(1u64 << 40).to_be_bytes(), "past the end"),
    ];
    for (at, change, words) in changes {
        let mut damaged = bytes.clone();
        patch(&mut damaged, at, change);
        let copy = folder.file("damaged.qcow2");
        std::fs::write(&copy, damaged).expect("write");
        let finished = check(&copy, &[]);
        assert_eq!(finished.code, Some(1), "{words}");
        says(&finished.json(), "damage", words);
    }
}

#[test]
fn refcounts_of_a_dirty_image_are_no_damage() {
    let (finished, _) = Sample::found(|sample| {
        sample.set64(72, 1);
        sample.set_refcount(sample.host(0), 0);
    });
    let answer = finished.json();
    assert_eq!(finished.code, Some(0), "{answer}");
    assert_eq!(counts(&answer).corruptions, 2);
    says(&answer, "warnings", "lower than the number of uses");
}

#[test]
fn leaks_and_flags_are_repaired() {
    if !have_qemu() {
        return;
    }
    let mut sample = Sample::new();
    let digest = guest_digest(&sample.path, &[]);
    sample.leak();
    sample.leak();
    sample.set64(sample.l1(0), sample.get64(sample.l1(0)) & !COPIED);
    sample.set64(sample.l2(3), sample.get64(sample.l2(3)) & !COPIED);
    // Its flag is right once its refcount is.
    sample.set_refcount(sample.host(5), 3);
    sample.write();
    assert_eq!(check(&sample.path, &[]).code, Some(1));
    let finished = check(&sample.path, &["--repair"]);
    let answer = finished.json();
    assert_eq!(finished.code, Some(0), "{answer}");
    assert_eq!(
        answer["repaired"],
        serde_json::json!({"leaks": 3, "flags": 2})
    );
    qemu_check(&sample.path);
    is_clean(&sample.path);
    assert_eq!(guest_digest(&sample.path, &[]), digest);
}

#[test]
fn refcounts_of_every_width_are_repaired() {
    if !have_qemu() {
        return;
    }
    for bits in [2, 4, 8, 16, 32, 64] {
        let folder = Folder::new();
        let options = format!("refcount_bits={bits},cluster_size=4k");
        let image = folder.file("a.qcow2");
        tool(
            "qemu-img",
            &["create", "-f", "qcow2", "-o", &options, s(&image), "12M"],
        );
        qemu_io(&image, &["write -P 1 0 1M"]);
        tool("qemu-img", &["snapshot", "-c", "one", s(&image)]);
        qemu_io(&image, &["write -P 2 500k 1M"]);
        let digest = guest_digest(&image, &[]);
        // Nobody knows of the snapshot any more: what it kept is leaked, and what it shared is not shared.
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(&image)
            .expect("open");
        file.write_all_at(&[0; 12], 60).expect("write");
        drop(file);
        let before = check(&image, &[]).json();
        assert_eq!(
            Some(counts(&before)),
            qemu_counts(&image),
            "{bits}: {before}"
        );
        assert!(counts(&before).leaks > 200, "{before}");
        let repaired = check(&image, &["--repair"]);
        assert_eq!(repaired.code, Some(0), "{bits}");
        assert!(number(&repaired.json()["repaired"], "flags") > 100);
        qemu_check(&image);
        assert_eq!(guest_digest(&image, &[]), digest);
    }
}

#[test]
fn nothing_is_written_when_more_is_wrong() {
    let mut sample = Sample::new();
    sample.leak();
    sample.set64(sample.l2(1), sample.get64(sample.l2(0)));
    sample.write();
    let before = snapshot(sample.folder.path());
    let finished = check(&sample.path, &["--repair"]);
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    assert!(finished.json()["not_repaired"].is_string());
    assert!(snapshot(sample.folder.path()) == before);
}

#[test]
fn an_image_in_use_is_not_repaired() {
    if !have_qemu() {
        return;
    }
    let mut sample = Sample::new();
    sample.leak();
    sample.write();
    let mut user = Command::new("qemu-io")
        .args(["-f", "qcow2", s(&sample.path)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("qemu-io");
    let mut orders = user.stdin.take().expect("its input");
    // It has the image open once it answers.
    writeln!(orders, "length").expect("an order");
    let mut answer = String::new();
    let mut answers = BufReader::new(user.stdout.take().expect("its output"));
    answers.read_line(&mut answer).expect("an answer");
    let finished = check(&sample.path, &["--repair"]);
    drop(orders);
    user.wait().expect("qemu-io");
    assert_eq!(finished.code, Some(5), "{}", finished.text());
    assert_eq!(check(&sample.path, &["--repair"]).code, Some(0));
    qemu_check(&sample.path);
}

#[test]
fn a_table_that_is_named_four_million_times_is_read_once() {
    let folder = Folder::new();
    let path = folder.file("bomb.qcow2");
    let (cluster, entries) = (65536u64, 4u64 << 20);
    let mut header = vec![0; cluster as usize];
    patch(&mut header, 0, b"QFI\xfb\0\0\0\x03");
    for (at, value) in [(20, 16), (36, entries as u32), (56, 1), (96, 4), (100, 104)] {
        patch(&mut header, at, &value.to_be_bytes());
    }
    let l2 = 2 * cluster + entries * 8;
    for (at, value) in [(24, entries << 29), (40, 2 * cluster), (48, cluster)] {
        patch(&mut header, at, &value.to_be_bytes());
    }
    // Some thousand snapshots have the same table.
    patch(&mut header, 60, &5000u32.to_be_bytes());
    patch(&mut header, 64, &(l2 + 2 * cluster).to_be_bytes());
    let mut file = std::fs::File::create(&path).expect("create");
    file.write_all(&header).expect("write");
    file.write_all_at(
        &(COPIED | l2).to_be_bytes().repeat(entries as usize),
        2 * cluster,
    )
    .expect("write");
    let data = (l2 + cluster).to_be_bytes().repeat(8192);
    file.write_all_at(&data, l2).expect("write");
    let mut snapshot = [0; 40];
    patch(&mut snapshot, 0, &(2 * cluster).to_be_bytes());
    patch(&mut snapshot, 8, &(entries as u32).to_be_bytes());
    file.write_all_at(&snapshot.repeat(5000), l2 + 2 * cluster)
        .expect("write");
    file.set_len(l2 + 8 * cluster).expect("length");
    let started = Instant::now();
    let finished = check(&path, &[]);
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    assert!(started.elapsed() < Duration::from_secs(20));
    says(&finished.json(), "damage", "lower than the number of uses");
}

#[test]
fn random_changes_of_every_table_are_survived() {
    if !have_qemu() {
        return;
    }
    let folder = Folder::new();
    for (seed, options) in [
        (1, "cluster_size=512"),
        (2, "cluster_size=16k,extended_l2=on"),
    ] {
        let image = std::fs::read(qemu_image(&folder, "a.qcow2", options)).expect("read");
        let cluster = 1usize << be32(&image, 20);
        // Clusters that look like tables: those with an entry in front that leads into the file.
        let tables: Vec<usize> = (0..image.len() - 8)
            .step_by(cluster)
            .filter(|at| {
                let first = be64(&image, *at) & !COPIED;
                *at == 0 || (first > 0 && first < image.len() as u64)
            })
            .collect();
        assert!(tables.len() > 5);
        let mut random = Random::new(seed);
        let mut found = 0;
        for round in 0..400 {
            let mut mutant = image.clone();
            for _ in 0..1 + random.below(4) {
                let at = random.pick(&tables) + random.below(24) as usize * 4;
                let value = match random.below(4) {
                    0 => random.word(),
                    1 => random.below(mutant.len() as u64) / 512 * 512 | COPIED,
                    2 => random.below(64) << random.below(64),
                    _ => u64::MAX,
                };
                let width = random.pick(&[2, 4, 8]);
                patch(&mut mutant, at, &value.to_be_bytes()[8 - width..]);
            }
            if random.one_in(8) {
                mutant.truncate(random.below(mutant.len() as u64) as usize);
            }
            let storage: StorageRef = Arc::new(MemoryStorage::new(mutant));
            let started = Instant::now();
            let report = driver(Format::Qcow2).check(
                &storage,
                &OpenContext::default(),
                &AtomicBool::new(false),
            );
            found += u64::from(report.is_ok_and(|report| !report.findings.is_empty()));
            assert!(started.elapsed() < Duration::from_secs(10), "round {round}");
        }
        assert!(found > 150, "{found}");
        std::fs::remove_file(folder.file("a.qcow2")).expect("remove");
    }
}

#[test]
fn repairing_a_clean_image_writes_nothing() {
    if !have_qemu() {
        return;
    }
    let folder = Folder::new();
    let image = qemu_image(&folder, "a.qcow2", "cluster_size=4k");
    let before = std::fs::read(&image).expect("read");
    let finished = check(&image, &["--repair"]);
    assert_eq!(finished.code, Some(0), "{}", finished.text());
    assert!(std::fs::read(&image).expect("read") == before);
    assert_eq!(qemu_img(&["check", s(&image)]).0, Some(0));
}
