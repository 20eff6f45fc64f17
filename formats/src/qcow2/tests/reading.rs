use libdeflater::{CompressionLvl, Compressor};

use super::*;
use crate::source::{BlockSource, Mapping, run_at};

const COPIED: u64 = 1 << 63;

fn deflated(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0; data.len() + 100];
    let len = Compressor::new(CompressionLvl::default())
        .deflate_compress(data, &mut out)
        .unwrap();
    out.truncate(len);
    out
}

/// The L2 entry of a compressed cluster of `cluster_size` bytes at `offset`.
fn compressed_entry(cluster_size: u64, offset: u64, len: u64) -> u64 {
    let sectors = (offset + len - 1) / 512 - offset / 512;
    let shift = 62 - (cluster_size.trailing_zeros() - 8);
    1 << 62 | sectors << shift | offset
}

/// Kinds and lengths of the runs of the whole disk.
fn runs(source: &dyn BlockSource) -> Vec<(&'static str, u64)> {
    let mut all = Vec::new();
    let mut offset = 0;
    while offset < source.size() {
        let run = run_at(source, offset, u64::MAX).unwrap();
        let kind = match run.mapping {
            Mapping::Absent => "absent",
            Mapping::Zero => "zero",
            Mapping::Stored { .. } => "stored",
            Mapping::Packed { .. } => "packed",
        };
        all.push((kind, run.len));
        offset += run.len;
    }
    all
}

#[test]
fn size_is_exact_to_the_byte() {
    let data = noise(65536 * 2, 1);
    for size in [1u64, 511, 513, 65537, 131_071] {
        let mut sample = Sample::new(131_072, 65536, &[(0, &data)]);
        sample.set64(24, size);
        assert!(sample.read().unwrap() == data[..size as usize], "{size}");
    }
}

#[test]
fn neighbours_are_one_run_across_clusters_and_tables() {
    let sample = Sample::new(4 << 20, 4096, &[(1 << 20, &noise(1 << 20, 1))]);
    let image = sample.open().unwrap();
    assert_eq!(
        runs(image.source.as_ref()),
        [
            ("absent", 1 << 20),
            ("stored", 1 << 20),
            ("absent", 2 << 20)
        ]
    );
}

#[test]
fn zero_clusters_are_zero_with_and_without_a_cluster() {
    let data = noise(65536 * 4, 1);
    let mut sample = Sample::new(65536 * 4, 65536, &[(0, &data)]);
    let entry = sample.l2_entry(1);
    sample.set64(entry, 1);
    let allocated = sample.be64(sample.l2_entry(2));
    sample.set64(sample.l2_entry(2), allocated | 1);
    let image = sample.open().unwrap();
    assert_eq!(
        runs(image.source.as_ref()),
        [("stored", 65536), ("zero", 131_072), ("stored", 65536)]
    );
}

#[test]
fn compressed_clusters_may_share_a_sector_and_end_with_the_file() {
    for cluster_size in [512u64, 4096, 65536, 2 << 20] {
        let text: Vec<u8> = (0..3 * cluster_size / 2).map(|i| (i / 9) as u8).collect();
        let mut whole = text.clone();
        whole.resize(2 * cluster_size as usize, 0);
        let mut sample = Sample::new(text.len() as u64, cluster_size, &[(0, &[1])]);
        sample.set64(24, text.len() as u64);
        for index in 0..2 {
            let cluster = &whole[(index * cluster_size) as usize..][..cluster_size as usize];
            let packed = deflated(cluster);
            let at = sample.append(&packed);
            let entry = compressed_entry(cluster_size, at, packed.len() as u64);
            sample.set64(sample.l2_entry(index), entry);
        }
        assert!(sample.read().unwrap() == text, "{cluster_size}");
        let image = sample.open().unwrap();
        let expected = [("packed", cluster_size), ("packed", cluster_size / 2)];
        assert_eq!(runs(image.source.as_ref()), expected);
        let run = run_at(image.source.as_ref(), cluster_size + 7, 100).unwrap();
        let Mapping::Packed { unit, skip, .. } = run.mapping else {
            panic!("not packed");
        };
        assert_eq!((run.len, unit as u64, skip), (100, cluster_size, 7));
    }
}

#[test]
fn zstd_clusters_are_read() {
    let text: Vec<u8> = (0..65536).map(|i| (i / 9) as u8).collect();
    let mut packed = vec![0; 70_000];
    let len = zstd_safe::compress(&mut packed[..], &text, 3).unwrap();
    let mut sample = Sample::new(65536, 65536, &[(0, &[1])]);
    let at = sample.append(&packed[..len]);
    let entry = compressed_entry(65536, at, len as u64);
    sample.set64(sample.l2_entry(0), entry);
    sample.patch(79, &[8]);
    sample.patch(104, &[1]);
    assert!(sample.read().unwrap() == text);
}

/// An image with extended L2: one table, its entries given as pairs.
fn extended(size: u64, entries: &[(u64, u64)]) -> Sample {
    let mut sample = Sample::new(size, 65536, &[(0, &[1])]);
    sample.patch(79, &[1 << 4]);
    let table = sample.l2_entry(0);
    for (index, (descriptor, bitmap)) in entries.iter().enumerate() {
        sample.set64(table + index as u64 * 16, *descriptor);
        sample.set64(table + index as u64 * 16 + 8, *bitmap);
    }
    sample
}

#[test]
fn extended_l2_subclusters_map_one_by_one() {
    let mut sample = extended(4 * 65536, &[]);
    let data = noise(65536, 5);
    let host = sample.append(&data);
    let table = sample.l2_entry(0);
    sample.set64(table, COPIED | host);
    // Subclusters 1 and 2 are stored, 31 is zero; of the next cluster all are.
    sample.set64(table + 8, 1 << 63 | 0b110);
    sample.set64(table + 24, 0xffff_ffff << 32);
    let image = sample.open().unwrap();
    assert_eq!(
        runs(image.source.as_ref()),
        [
            ("absent", 2048),
            ("stored", 4096),
            ("absent", 28 * 2048),
            ("zero", 2048 + 65536),
            ("absent", 131_072)
        ]
    );
    let disk = sample.read().unwrap();
    assert!(disk[2048..6144] == data[2048..6144]);
    // A run may start inside a subcluster.
    let run = run_at(image.source.as_ref(), 3000, 10_000).unwrap();
    let Mapping::Stored { offset, .. } = run.mapping else {
        panic!("not stored");
    };
    assert_eq!((offset, run.len), (host + 3000, 6144 - 3000));
}

#[test]
fn subclusters_behind_the_end_of_the_file_need_not_be_there() {
    let mut sample = extended(65536, &[]);
    let host = sample.append(&noise(2048, 5));
    let table = sample.l2_entry(0);
    sample.set64(table, COPIED | host);
    sample.set64(table + 8, 1);
    assert!(sample.read().is_ok());
    sample.set64(table + 8, 0b11);
    assert!(sample.read().is_err());
}

#[test]
fn a_disk_of_empty_tables_is_mapped_in_steps() {
    // 512-byte clusters: a table for each 32 KiB. One data cluster each, then taken away again.
    let mut sample = Sample::new(8 << 20, 512, &[(0, &vec![1; 8 << 20])]);
    for cluster in 0..(8 << 20) / 512 {
        let entry = sample.l2_entry(cluster);
        sample.set64(entry, 0);
    }
    let image = sample.open().unwrap();
    let all = runs(image.source.as_ref());
    assert_eq!(all.iter().map(|run| run.1).sum::<u64>(), 8 << 20);
    assert_eq!(all.len(), 4);
}

#[test]
fn threads_read_one_source_together() {
    let data = noise(4 << 20, 9);
    let sample = Sample::new(4 << 20, 512, &[(0, &data)]);
    let image = sample.open().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (source, data) = (image.source.clone(), &data);
            scope.spawn(move || {
                for step in 0..64u64 {
                    let offset = (step * 4 + thread) % 64 * 65536;
                    let mut block = vec![0; 65536];
                    read_guest(source.as_ref(), offset, &mut block).unwrap();
                    assert!(block == data[offset as usize..][..65536]);
                }
            });
        }
    });
}

#[test]
fn the_state_of_a_vm_behind_the_disk_is_no_disk_data() {
    let mut sample = Sample::new(64 << 10, 512, &[(0, &noise(64 << 10, 1))]);
    // Half of the disk: the second L1 entry is now past its end, and may say anything.
    sample.set64(24, 32 << 10);
    sample.set64(sample.l1_entry(1), u64::MAX);
    assert_eq!(sample.read().unwrap().len(), 32 << 10);
}

#[test]
fn the_last_cluster_of_the_file_may_be_cut_behind_the_disk() {
    let data = noise(65536, 1);
    let mut sample = Sample::new(65536, 65536, &[(0, &[1])]);
    let host = sample.append(&data[..10_000]);
    sample.set64(sample.l2_entry(0), COPIED | host);
    assert!(sample.read().is_err());
    sample.set64(24, 10_000);
    assert!(sample.read().unwrap() == data[..10_000]);
}
