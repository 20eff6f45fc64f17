//! `check` of qcow2 images, held against `qemu-img check`: clean ones and damaged ones.

mod common;

use common::checks::*;
use common::damage::images::{be32, be64, patch};
use common::peers::have_qemu;
use common::{Folder, convert, make_disk, s};
use serde_json::Value;

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
            sample.set64(sample.l2(0), COPIED | (cluster * CLUSTER));
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
    /// What an entry of the refcount table becomes.
    type Change = fn(u64) -> u64;
    let changes: [(&str, u64, Change); 4] = [
        ("reserved", 0, |entry| entry | 4),
        ("middle", 0, |entry| entry + 512),
        ("past the end", 0, |_| 1 << 50),
        ("another part", 8, |entry| entry),
    ];
    for (words, at, change) in changes {
        let (finished, _) = Sample::found(|sample| {
            let table = sample.get64(48);
            sample.set64(table + at, change(sample.get64(table)));
        });
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
fn a_data_cluster_that_the_end_of_the_file_cuts_is_lost() {
    let (finished, _) = Sample::found(|sample| {
        sample.leak();
        let cluster = sample.bytes.len() as u64 / CLUSTER - 1;
        sample.set_refcount(sample.host(0), 0);
        sample.set64(sample.l2(0), COPIED | (cluster * CLUSTER));
        sample.bytes.truncate((cluster * CLUSTER + 1000) as usize);
    });
    let answer = finished.json();
    assert_eq!(finished.code, Some(1), "{answer}");
    assert_eq!(answer["damage"], serde_json::json!([]), "{answer}");
    assert_eq!(answer["lost"][0]["offset"].as_u64(), Some(1000), "{answer}");
}
