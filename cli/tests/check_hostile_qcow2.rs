//! `check` of qcow2 images that were made to hurt: tables named millions of times, and random changes.

mod common;

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use common::Folder;
use common::checks::*;
use common::damage::images::{Random, be32, be64, patch};
use common::peers::have_qemu;
use formats::{Format, MemoryStorage, OpenContext, StorageRef, driver};

/// What takes minutes without a bound takes a second or two with it, on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn bitmaps_of_terabytes_in_a_file_of_holes_are_not_counted_bit_by_bit() {
    let folder = Folder::new();
    let path = folder.file("bitmaps.qcow2");
    let mut header = vec![0; 512];
    patch(&mut header, 0, b"QFI\xfb\0\0\0\x03");
    for (at, value) in [(20, 9), (36, 1), (56, 1), (96, 4), (100, 104)] {
        patch(&mut header, at, &u32::to_be_bytes(value));
    }
    let (directory, table, count) = (1u64 << 20, 8u64 << 20, 65_535u64);
    // Size, L1, refcount table, the autoclear bit of the bitmaps, and their extension.
    for (at, value) in [(24, 1 << 15), (40, 512), (48, 1024), (88, 1)] {
        patch(&mut header, at, &u64::to_be_bytes(value));
    }
    patch(&mut header, 104, &0x2385_2875_0000_0018u64.to_be_bytes());
    for (at, value) in [(112, count << 32), (120, 32 * count), (128, directory)] {
        patch(&mut header, at, &value.to_be_bytes());
    }
    // Each has a table of 1 GiB, and all have the same.
    let kind_and_lengths = 1 << 56 | 9 << 48 | 1 << 32;
    let entry = [
        table,
        (1 << 27) << 32,
        kind_and_lengths,
        u64::from(b'x') << 56,
    ];
    let entry: Vec<u8> = entry.iter().flat_map(|word| word.to_be_bytes()).collect();
    let file = std::fs::File::create(&path).expect("create");
    file.write_all_at(&header, 0).expect("write");
    let entries = entry.repeat(count as usize);
    file.write_all_at(&entries, directory).expect("write");
    file.set_len(table + (8 << 27)).expect("length");
    let started = Instant::now();
    let finished = check(&path, &[]);
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    says(&finished.json(), "damage", "stands on another table");
    assert_eq!(common::run(&["info", common::s(&path)]).code, Some(0));
    assert!(started.elapsed() < PATIENCE);
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
    assert!(started.elapsed() < PATIENCE);
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
                    1 => COPIED | (random.below(mutant.len() as u64) / 512 * 512),
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
            assert!(started.elapsed() < PATIENCE, "round {round}");
        }
        assert!(found > 150, "{found}");
        std::fs::remove_file(folder.file("a.qcow2")).expect("remove");
    }
}
