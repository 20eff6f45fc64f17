//! Extents of ESX's deltas, and descriptors, with something wrong: each is told apart by the kind of its error.

mod common;

use common::vmdk::delta::{Cowd, SeSparse};
use common::vmdk::{SECTOR, Sparse, descriptor_of, fails, kind};
use formats::ErrorKind;

use ErrorKind::{Limit, Malformed, Refused, Truncated, Unsupported};

#[test]
fn a_cowd_delta_without_its_descriptor_is_unsupported() {
    let cowd = Cowd {
        flags: 2,
        ..Cowd::default()
    };
    fails(cowd.build(), Unsupported);
}

#[test]
fn wrong_fields_of_a_cowd_header_are_told_apart() {
    for (what, at, bytes, expected) in [
        ("version", 4, &[2][..], Unsupported),
        ("capacity", 15, &[0x7f], Malformed),
        ("no grain size", 16, &[0], Malformed),
        ("odd grain size", 16, &[3], Malformed),
        ("huge grain size", 18, &[1], Malformed),
        ("directory in the header", 20, &[0], Malformed),
        ("directory past the end", 22, &[1], Truncated),
        ("short directory", 24, &[1], Malformed),
    ] {
        let image = Cowd::default().build().with(at, bytes);
        assert_eq!(kind(&image.bytes), Some(expected), "{what}");
    }
}

#[test]
fn a_sesparse_journal_that_must_be_replayed_is_unsupported() {
    let dirty = SeSparse::VOLATILE + 24;
    fails(SeSparse::default().build().with(dirty, &[1]), Unsupported);
    let magic = SeSparse::VOLATILE;
    fails(SeSparse::default().build().with(magic, &[0]), Malformed);
}

#[test]
fn wrong_fields_of_a_sesparse_header_are_told_apart() {
    // The number of the field, and its value.
    for (what, field, value, expected) in [
        ("version", 1, 0x2_0000_0002, Unsupported),
        ("capacity", 2, 1 << 40, Malformed),
        ("capacity past 2^64 bytes", 2, u64::MAX, Malformed),
        ("grain size", 3, 16, Unsupported),
        ("table size", 4, 128, Unsupported),
        ("flags", 5, 1, Unsupported),
        ("volatile header past the end", 10, 1 << 40, Truncated),
        ("volatile header past 2^64 bytes", 10, u64::MAX, Malformed),
        ("directory in the journal", 16, 4, Malformed),
        ("short directory", 17, 0, Malformed),
        ("tables in the header", 18, 0, Malformed),
        ("no room for tables", 19, 64, Malformed),
        ("no room for grains", 25, 8, Malformed),
        ("grains past the end", 24, 1 << 40, Truncated),
    ] {
        let image = SeSparse::default()
            .build()
            .with(field * 8, &u64::to_le_bytes(value));
        assert_eq!(kind(&image.bytes), Some(expected), "{what}");
    }
}

#[test]
fn wrong_entries_of_sesparse_tables_are_told_apart() {
    let image = SeSparse::default().build();
    let fails = |at: usize, value: u64, expected: ErrorKind| {
        let image = image.clone().with(at, &value.to_le_bytes());
        assert_eq!(kind(&image.bytes), Some(expected), "{value:#x} at {at}");
    };
    let (directory, table) = (image.directory, image.tables[0]);
    fails(directory, 1, Malformed);
    fails(directory, 0x2000_0000 << 32, Malformed);
    fails(directory, 0x1000_0001 << 32, Malformed);
    fails(directory, 0x1000_0000 << 32 | 2, Malformed);
    fails(directory, 0x1000_0000 << 32 | 0xFFFF_FFFF, Malformed);
    // Another entry has it.
    fails(directory, 0x1000_0000 << 32 | 1, Malformed);
    for kind in 4..16 {
        fails(table, kind << 60, Malformed);
    }
    fails(table, 5, Malformed);
    fails(table, SeSparse::entry(1), Malformed);
    fails(table, SeSparse::entry(1000), Malformed);
    fails(table, u64::MAX >> 2, Malformed);
}

fn descriptor(lines: &[&str]) -> Vec<u8> {
    descriptor_of("custom", lines).into_bytes()
}

#[test]
fn extent_lines_that_cannot_be_are_told_apart() {
    for (lines, expected) in [
        (&[][..], Malformed),
        (&["RW 16 FLAT \"b-flat.vmdk\" 0"], Refused),
        (&["RW 16 FLAT \"../a-flat.vmdk\" 0"], Refused),
        (&["RW 17 FLAT \"a-flat.vmdk\" 0"], Truncated),
        (&["RW 16 FLAT \"a-flat.vmdk\" 1"], Truncated),
        (&["RW 16 FLAT \"a-flat.vmdk\" 9007199254740992"], Truncated),
        (&["RW 9007199254740992 FLAT \"a-flat.vmdk\" 0"], Truncated),
        (&["RW 9007199254740993 ZERO"], Limit),
        (&["RW 9007199254740992 ZERO"; 4], Limit),
        (&["RW 16 SPARSE \"a-flat.vmdk\""], Malformed),
        (&["RW 16 SPARSE \"a-delta.vmdk\""], Malformed),
        (&["RW 16 SESPARSE \"a-s001.vmdk\""], Malformed),
        (&["RW 16 VMFSSPARSE \"a-sesparse.vmdk\""], Malformed),
        (&["RW 99999 SPARSE \"a-s001.vmdk\""], Malformed),
        (&["RW 99999 VMFSSPARSE \"a-delta.vmdk\""], Malformed),
        (&["RW 99999 SESPARSE \"a-sesparse.vmdk\""], Malformed),
        (&["RW 16 VMFSRDM \"a-flat.vmdk\""], Unsupported),
    ] {
        assert_eq!(kind(&descriptor(lines)), Some(expected), "{lines:?}");
    }
}

#[test]
fn a_descriptor_inside_an_extent_names_that_extent() {
    let mut sparse = Sparse::default();
    for (line, expected) in [
        ("RW 16 FLAT \"a-flat.vmdk\" 0", Malformed),
        ("RW 99999 SPARSE \"a.vmdk\"", Malformed),
    ] {
        sparse.descriptor = Some(descriptor_of("monolithicSparse", &[line]));
        fails(sparse.build(), expected);
    }
    fails(Sparse::default().build().with(SECTOR, &[0]), Malformed);
}

#[test]
fn a_delta_names_its_parent() {
    let text = descriptor_of("custom", &["RW 16 ZERO"]);
    let text = text.replace("parentCID=ffffffff", "parentCID=00000007");
    assert_eq!(kind(text.as_bytes()), Some(Malformed));
    let text = format!("{text}parentFileNameHint=\"b.vmdk\"\n");
    assert_eq!(kind(text.as_bytes()), Some(Refused));
}

#[test]
fn a_descriptor_of_more_than_a_mebibyte_is_refused() {
    let mut text = descriptor(&["RW 16 ZERO"]);
    text.resize(1 << 20, b'\n');
    assert_eq!(kind(&text), None);
    text.push(b'\n');
    assert_eq!(kind(&text), Some(Limit));
}

#[test]
fn as_many_keys_as_a_descriptor_can_hold_take_no_time() {
    let mut text = descriptor(&["RW 16 ZERO"]);
    for key in 0.. {
        let line = format!("{key:x}=\n");
        if text.len() + line.len() > 1 << 20 {
            break;
        }
        text.extend(line.into_bytes());
    }
    let started = std::time::Instant::now();
    assert_eq!(kind(&text), None);
    assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
}
