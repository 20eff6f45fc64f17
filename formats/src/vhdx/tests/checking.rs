//! What `check` brings up.

use super::*;
use crate::driver::Finding;

fn findings(image: &[u8]) -> Vec<Finding> {
    let cancel = AtomicBool::new(false);
    let report = VhdxDriver.check(&storage(image), &OpenContext::default(), &cancel);
    report.unwrap().findings
}

/// How many findings of damage there are, and how many of something odd.
fn counts(image: &[u8]) -> (usize, usize) {
    let findings = findings(image);
    let damage = findings.iter().filter(|finding| finding.is_damage).count();
    (damage, findings.len() - damage)
}

#[test]
fn what_is_written_is_sound() {
    assert_eq!(findings(&small()), []);
    let fixed = written(3 * MIB, &options(&["subformat=fixed"]), &[]);
    assert_eq!(findings(&fixed), []);
}

#[test]
fn every_damaged_copy_is_damage() {
    for at in HEADERS_AT.iter().chain(&TABLES_AT) {
        let mut image = small();
        image[*at as usize + 30] ^= 1;
        assert_eq!(counts(&image), (1, 0), "{at}");
    }
}

#[test]
fn region_tables_that_differ_are_damage() {
    let mut image = small();
    change_regions(&mut image, |table| table.all[0].length = 1 << 20);
    let mut other = RegionTable::read_copy(&MemoryStorage::new(image.clone()), 1).unwrap();
    other.all[0].is_required = false;
    let bytes = other.to_bytes();
    image[TABLES_AT[1] as usize..][..bytes.len()].copy_from_slice(&bytes);
    assert_eq!(counts(&image), (1, 0));
}

#[test]
fn entries_are_looked_at_one_by_one() {
    for (index, bad, expected) in [
        // States and places.
        (0, 4, (1, 0)),
        (0, DATA_AT | 7, (1, 0)),
        (0, DATA_AT | 6, (1, 0)),
        (0, 2 << 20 | 6, (1, 0)),
        (0, 600 << 20 | 6, (1, 0)),
        // Harmless ones.
        (0, 9 << 20 | 2, (0, 1)),
        (0, 0x10 | 2, (0, 1)),
        (0, 3, (0, 0)),
        // Behind the disk.
        (8, u64::MAX, (0, 0)),
    ] {
        let mut image = small();
        set_entry(&mut image, index, BatEntry(bad));
        assert_eq!(counts(&image), expected, "{bad:#x}");
    }
}

#[test]
fn many_findings_are_counted() {
    let mut image = written(100 * MIB, &options(&["block_size=1M"]), &[]);
    for index in 0..100 {
        set_entry(&mut image, index, BatEntry(4));
    }
    let findings = findings(&image);
    assert_eq!(findings.len(), 21);
    assert!(findings[20].message.contains("80 more"));
}

#[test]
fn a_cancelled_check_stops() {
    let report = VhdxDriver.check(
        &storage(&small()),
        &OpenContext::default(),
        &AtomicBool::new(true),
    );
    assert_eq!(report.unwrap_err().kind(), ErrorKind::Io);
}
