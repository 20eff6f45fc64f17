use super::*;
use crate::ErrorKind;
use crate::source::run_at;

/// Two data clusters of 4 KiB, mapped by one table.
fn sample() -> Sample {
    Sample::new(1 << 20, 4096, &[(0, &noise(8192, 3))])
}

fn kind_of(sample: &Sample) -> ErrorKind {
    sample.read().unwrap_err().kind()
}

#[test]
fn truncated_l1_is_an_error() {
    let mut sample = sample();
    sample.bytes.truncate(4096 + 7);
    assert_eq!(sample.open().err().unwrap().kind(), ErrorKind::Truncated);
}

#[test]
fn a_file_cut_anywhere_in_its_tables_is_an_error() {
    let whole = Sample::new(
        2 << 20,
        4096,
        &[(0, &noise(8192, 3)), (1 << 20, &noise(4096, 4))],
    );
    // Header, L1 table, L2 table, data, L2 table, data, refcount block, refcount table.
    for len in (0..whole.bytes.len()).step_by(512) {
        let mut cut = Sample {
            bytes: whole.bytes.clone(),
            cluster_size: 4096,
        };
        cut.bytes.truncate(len);
        assert_eq!(kind_of(&cut), ErrorKind::Truncated, "{len}");
    }
}

#[test]
fn l2_entry_past_the_end_is_truncated() {
    let mut sample = sample();
    let end = sample.bytes.len() as u64;
    sample.set64(sample.l2_entry(1), 1 << 63 | end);
    assert_eq!(kind_of(&sample), ErrorKind::Truncated);
    sample.set64(sample.l2_entry(1), (1 << 63) | ((1 << 56) - 4096));
    assert_eq!(kind_of(&sample), ErrorKind::Truncated);
    // What stands in front of it is still readable.
    let image = sample.open().unwrap();
    assert_eq!(run_at(image.source.as_ref(), 0, 8192).unwrap().len, 4096);
}

#[test]
fn compressed_cluster_past_the_end_is_truncated() {
    let mut sample = sample();
    let end = sample.bytes.len() as u64;
    sample.set64(sample.l2_entry(1), 1 << 62 | end);
    assert_eq!(kind_of(&sample), ErrorKind::Truncated);
    sample.set64(sample.l2_entry(1), u64::MAX >> 1);
    assert_eq!(kind_of(&sample), ErrorKind::Truncated);
    // A range that starts in the file holds garbage, which the codec finds out.
    sample.set64(sample.l2_entry(1), 1 << 62 | (end - 100));
    assert_eq!(kind_of(&sample), ErrorKind::Malformed);
}

#[test]
fn l2_table_past_the_end_is_truncated() {
    let mut sample = sample();
    let end = sample.bytes.len() as u64;
    sample.set64(sample.l1_entry(0), 1 << 63 | end);
    assert_eq!(kind_of(&sample), ErrorKind::Truncated);
    sample.bytes.resize(end as usize + 4095, 0);
    assert_eq!(kind_of(&sample), ErrorKind::Truncated);
    sample.bytes.resize(end as usize + 4096, 0);
    assert!(sample.read().is_ok());
}

#[test]
fn the_same_l2_twice_is_malformed() {
    let mut sample = Sample::new(8 << 20, 4096, &[(0, &noise(8192, 3))]);
    let first = sample.be64(sample.l1_entry(0));
    sample.set64(sample.l1_entry(1), first);
    assert_eq!(sample.open().err().unwrap().kind(), ErrorKind::Malformed);
    // Shared on purpose.
    sample.set_refcount(first & !(1 << 63), 2);
    let disk = sample.read().unwrap();
    assert!(disk[..8192] == disk[2 << 20..][..8192]);
}

#[test]
fn the_same_data_cluster_twice_is_malformed_unless_shared() {
    let mut sample = sample();
    let first = sample.be64(sample.l2_entry(0));
    sample.set64(sample.l2_entry(7), first);
    assert_eq!(kind_of(&sample), ErrorKind::Malformed);
    // It stays so, however often it is asked.
    let image = sample.open().unwrap();
    assert!(image.source.map(0, 512).is_err());
    assert!(image.source.map(0, 512).is_err());
    sample.set_refcount(first & !(1 << 63), 2);
    let disk = sample.read().unwrap();
    assert!(disk[..4096] == disk[7 * 4096..][..4096]);
}

#[test]
fn entries_that_point_into_tables_are_malformed() {
    let l2 = sample().be64(sample().l1_entry(0)) & !(1 << 63);
    let (l1, refcounts) = (sample().be64(40), sample().be64(48));
    let block = sample().be64(refcounts);
    for table in [l1, l2, refcounts, block] {
        let mut sample = sample();
        sample.set64(sample.l2_entry(1), 1 << 63 | table);
        assert_eq!(kind_of(&sample), ErrorKind::Malformed, "data in {table}");
    }
    for table in [0u64, l1, refcounts, block] {
        let mut sample = sample();
        sample.set64(sample.l2_entry(1), 1 << 62 | table | 5);
        assert_eq!(kind_of(&sample), ErrorKind::Malformed, "packed in {table}");
    }
    for table in [l1, refcounts, block] {
        let mut sample = sample();
        sample.set64(sample.l1_entry(0), 1 << 63 | table);
        assert_eq!(kind_of(&sample), ErrorKind::Malformed, "L2 in {table}");
    }
    for table in [l1, refcounts] {
        let mut sample = sample();
        sample.set64(40, table);
        sample.set64(48, table);
        assert_eq!(kind_of(&sample), ErrorKind::Malformed, "L1 in {table}");
    }
}

#[test]
fn reserved_bits_and_misaligned_offsets_are_malformed() {
    for value in [1u64 << 62, 1 << 56, 1, 0x200] {
        let mut sample = sample();
        let entry = sample.l1_entry(0);
        sample.set64(entry, sample.be64(entry) | value);
        assert_eq!(kind_of(&sample), ErrorKind::Malformed, "L1 {value:#x}");
    }
    for value in [1u64 << 61, 1 << 56, 2, 0x200] {
        let mut sample = sample();
        let entry = sample.l2_entry(1);
        sample.set64(entry, sample.be64(entry) | value);
        assert_eq!(kind_of(&sample), ErrorKind::Malformed, "L2 {value:#x}");
    }
}

#[test]
fn an_error_says_file_structure_and_offset() {
    let mut sample = sample();
    let at = sample.l2_entry(1);
    sample.set64(at, 2);
    let error = sample.read().unwrap_err();
    assert_eq!(error.structure(), "L2 entry");
    assert_eq!(error.offset(), Some(at));
    assert!(error.path().is_some());
}

#[test]
fn unknown_incompatible_bit_is_refused_by_its_name() {
    let mut sample = sample();
    sample.patch(72, &[0x80]);
    let error = sample.open().err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(error.found_value(), Some("bit 63"));
    // The first entry of the feature name table, now for that bit.
    sample.patch(120, &[0, 63]);
    sample.patch(122, b"time travel\0");
    let error = sample.open().err().unwrap();
    assert_eq!(error.found_value(), Some("bit 63 (\"time travel\")"));
}

#[test]
fn a_corrupt_bit_is_a_warning() {
    let mut sample = sample();
    sample.patch(79, &[0b11]);
    let image = sample.open().unwrap();
    assert_eq!(image.layers[0].info.warnings.len(), 1);
}

#[test]
fn a_huge_claim_costs_nothing() {
    let mut sample = Sample::new(1 << 20, 2 << 20, &[]);
    sample.set64(24, 1 << 60);
    assert_eq!(sample.open().err().unwrap().kind(), ErrorKind::Malformed);
    sample.patch(36, &0x20_0000u32.to_be_bytes());
    assert_eq!(sample.open().err().unwrap().kind(), ErrorKind::Truncated);
}

#[test]
fn random_damage_never_panics_or_hangs() {
    let mut whole = Sample::new(256 << 10, 512, &[(0, &noise(64 << 10, 3))]);
    let at = whole.append(&[0x4b, 0x4c, 0x84, 0x01, 0, 0xff]);
    whole.set64(whole.l2_entry(64), 1 << 62 | at);
    let places = [(0, 128), (512, 64), (1024, 512), (1024 + 65 * 512, 512)];
    let random = noise(1 << 18, 11);
    let mut random = random.iter().map(|byte| usize::from(*byte));
    let mut read = 0;
    for round in 0..6000 {
        let mut sample = Sample {
            bytes: whole.bytes.clone(),
            cluster_size: 512,
        };
        for _ in 0..1 + round % 4 {
            let mut next = || random.next().unwrap_or(round) << 8 | random.next().unwrap_or(7);
            let (start, len) = places[next() % places.len()];
            let at = start + next() % len;
            sample.bytes[at] ^= 1 << (next() / 2 % 8);
        }
        if round % 16 == 0 {
            sample.bytes.truncate(round * 13 % whole.bytes.len());
        }
        let Ok(image) = sample.open() else {
            continue;
        };
        let size = image.source.size().min(1 << 20);
        let mut disk = vec![0; size as usize];
        for (block, part) in disk.chunks_mut(4096).enumerate() {
            read += u32::from(read_guest(image.source.as_ref(), block as u64 * 4096, part).is_ok());
        }
    }
    assert!(read > 1000);
}
