//! What damaged and hostile VHDXs lead to: an error of the right kind, and never a disk.

mod common;

use common::patch;
use common::vhdx::log::Entry;
use common::vhdx::wrong::{is, kind, malformed, sound};
use common::vhdx::{
    BAT_GUID, DISK_ID, HEADERS, Item, KIB, LOG, METADATA_GUID, MIB, REGIONS, Vhdx, guid, region,
};
use formats::ErrorKind;

const MB: u64 = MIB as u64;

#[test]
fn what_all_of_this_starts_from_is_sound() {
    assert_eq!(kind(&sound().build()), None);
}

#[test]
fn both_headers_bad() {
    let spoils: [(usize, &[u8]); 4] = [(0, b"HEAD"), (4, &[0xFF; 4]), (8, &[0x55]), (4095, &[1])];
    for (at, bytes) in spoils {
        let built = sound().build().with_both(HEADERS, at, bytes);
        malformed(built, &format!("{at}"));
    }
}

#[test]
fn equal_sequence_numbers_that_differ() {
    let image = Vhdx {
        sequences: [5, 5],
        ..sound()
    };
    let built = image.build();
    assert_eq!(kind(&built), None);
    let built = built.with(HEADERS[1] + 32, &guid(DISK_ID)).summed();
    malformed(built, "another DataWriteGuid");
}

#[test]
fn headers_of_another_version() {
    let built = sound().build().with_both(HEADERS, 66, &[2]).summed();
    is(built, ErrorKind::Unsupported, "version 2");
    // The version of the log matters only when there is one.
    let built = sound().build().with_both(HEADERS, 64, &[1]).summed();
    assert_eq!(kind(&built), None);
    let logged = sound().logged(vec![]).build();
    let built = logged.with_both(HEADERS, 64, &[1]).summed();
    is(built, ErrorKind::Unsupported, "log version 1");
}

#[test]
fn a_log_in_an_impossible_place() {
    let entry = [(0, Entry::new(1, 0, 6 * MIB, vec![]).bytes())];
    let image = sound().logged(entry.to_vec());
    assert_eq!(kind(&image.build()), None);
    let set = |offset: u64, len: u32| {
        let built = image.build();
        let built = built.with_both(HEADERS, 72, &offset.to_le_bytes());
        built.with_both(HEADERS, 68, &len.to_le_bytes()).summed()
    };
    for (offset, len) in [
        (0, MIB as u32),
        (MB + 4096, MIB as u32),
        (MB, 4096),
        (MB, 0),
        (MB, MIB as u32 + 4096),
        // Over the metadata.
        (MB, 2 * MIB as u32),
        (2 * MB, MIB as u32),
    ] {
        malformed(set(offset, len), &format!("{offset} {len}"));
    }
    for (offset, len) in [
        (1 << 40, MIB as u32),
        (!0xF_FFFF, MIB as u32),
        (MB, 0xFFF0_0000),
    ] {
        let found = kind(&set(offset, len));
        let fine = [Some(ErrorKind::Malformed), Some(ErrorKind::Truncated)];
        assert!(fine.contains(&found), "{offset} {len}: {found:?}");
    }
}

#[test]
fn both_region_tables_bad() {
    let spoils: [(usize, &[u8]); 3] = [(0, b"REGI"), (4, &[0xFF; 4]), (60 * KIB, &[1])];
    for (at, bytes) in spoils {
        let built = sound().build().with_both(REGIONS, at, bytes);
        malformed(built, &format!("{at}"));
    }
    for count in [0u32, 1, 2048, u32::MAX] {
        let built = sound()
            .build()
            .with_both(REGIONS, 8, &count.to_le_bytes())
            .summed();
        malformed(built, &format!("{count} entries"));
    }
}

#[test]
fn regions_that_overlap_or_stand_where_they_cannot() {
    let image = sound();
    let (bat, metadata) = (image.bat_at() as u64, image.metadata_at() as u64);
    for (name, index, offset, len) in [
        // On each other, on the log, on the headers, next to a MiB, of no length.
        (BAT_GUID, 0, metadata, MIB as u32),
        (METADATA_GUID, 1, bat, MIB as u32),
        (BAT_GUID, 0, LOG as u64, MIB as u32),
        (BAT_GUID, 0, 0, MIB as u32),
        (BAT_GUID, 0, bat + 4096, MIB as u32),
        (BAT_GUID, 0, bat, MIB as u32 - 4096),
        (METADATA_GUID, 1, metadata, 0),
    ] {
        let entry = region(name, offset, len, 1);
        let built = image.build().with_region(index, &entry);
        malformed(built, &format!("{index} {offset} {len}"));
    }
    for offset in [1 << 40, 1 << 62] {
        let entry = region(BAT_GUID, offset, MIB as u32, 1);
        let found = kind(&image.build().with_region(0, &entry));
        let fine = [Some(ErrorKind::Malformed), Some(ErrorKind::Truncated)];
        assert!(fine.contains(&found), "{offset}: {found:?}");
    }
    // Blocks on an unknown region that nobody needs.
    let other = region(
        "cccccccc-0000-4000-8000-00000000000c",
        4 * MB,
        MIB as u32,
        0,
    );
    let built = image.build().with_both(REGIONS, 8, &[3]);
    malformed(built.with_region(2, &other), "on a block");
}

#[test]
fn a_region_twice() {
    for (name, offset) in [
        (BAT_GUID, sound().bat_at()),
        (METADATA_GUID, sound().metadata_at()),
        (BAT_GUID, 16 * MIB),
    ] {
        let built = sound().build().with_both(REGIONS, 8, &[3]);
        let again = region(name, offset as u64, MIB as u32, 1);
        malformed(built.with_region(2, &again), name);
    }
}

#[test]
fn an_unknown_region_that_is_required() {
    let other = region(DISK_ID, 16 * MB, MIB as u32, 1);
    let built = sound().build().with_both(REGIONS, 8, &[3]);
    is(
        built.with_region(2, &other),
        ErrorKind::Unsupported,
        "unknown",
    );
}

#[test]
fn a_metadata_table_that_cannot_be() {
    let at = sound().metadata_at();
    let spoils: [(usize, &[u8]); 4] = [
        (0, b"METADATA"),
        (10, &[0, 0]),
        (10, &2048u16.to_le_bytes()),
        (10, &[0xFF, 0xFF]),
    ];
    for (offset, bytes) in spoils {
        malformed(
            sound().build().with(at + offset, bytes),
            &format!("{bytes:?}"),
        );
    }
}

#[test]
fn items_that_are_missing_twice_there_or_misplaced() {
    let unknown = guid("dddddddd-0000-4000-8000-00000000000d");
    for index in 0..5 {
        let built = sound().build();
        let (entry, _) = built.items[index];
        // As an item that nobody needs it is passed over, and missed.
        let gone = built.clone().with(entry, &unknown).with(entry + 24, &[0]);
        malformed(gone, &format!("item {index} is missing"));
        let mut twice = built.clone();
        let (next, _) = twice.items[(index + 1) % 5];
        let whole = twice.front[entry..entry + 32].to_vec();
        patch(&mut twice.front, next, &whole);
        malformed(twice, &format!("item {index} is there twice"));
        for offset in [0u32, 32, 64 * KIB as u32 - 1, MIB as u32, u32::MAX] {
            let built = built.clone().with(entry + 16, &offset.to_le_bytes());
            malformed(built, &format!("item {index} at {offset}"));
        }
        for len in [0u32, 1, MIB as u32 + 1, u32::MAX] {
            let built = built.clone().with(entry + 20, &len.to_le_bytes());
            malformed(built, &format!("item {index} of {len} bytes"));
        }
    }
}

#[test]
fn an_unknown_item_that_is_required() {
    for flags in [4, 5, 6] {
        let image = Vhdx {
            further_items: vec![Item {
                guid: "dddddddd-0000-4000-8000-00000000000d",
                flags,
                data: vec![1; 8],
            }],
            ..sound()
        };
        is(image.build(), ErrorKind::Unsupported, &format!("{flags}"));
    }
}

#[test]
fn sizes_that_cannot_be() {
    let set = |item: usize, bytes: &[u8]| {
        let built = sound().build();
        let (_, data) = built.items[item];
        built.with(data, bytes)
    };
    let number = |item, value: u32| set(item, &value.to_le_bytes());
    for block_size in [0, 1, 4096, MIB as u32 / 2, 3 * MIB as u32, 512 * MIB as u32] {
        malformed(number(0, block_size), &format!("block size {block_size}"));
    }
    for sector in [0, 1, 511, 1024, 8192] {
        let found = kind(&number(3, sector));
        let fine = [Some(ErrorKind::Malformed), Some(ErrorKind::Unsupported)];
        assert!(fine.contains(&found), "sector size {sector}: {found:?}");
        let found = kind(&number(4, sector));
        assert!(fine.contains(&found), "physical sector {sector}: {found:?}");
    }
    for size in [1, 511, 513, 4 * MB - 1] {
        malformed(set(1, &u64::to_le_bytes(size)), &format!("size {size}"));
    }
    for size in [(64u64 << 40) + 512, u64::MAX - 511, 1 << 63] {
        let found = kind(&set(1, &size.to_le_bytes()));
        let fine = [Some(ErrorKind::Malformed), Some(ErrorKind::Limit)];
        assert!(fine.contains(&found), "size {size}: {found:?}");
    }
    // Of sectors of 4096 bytes, no half ones.
    let image = Vhdx {
        sector: 4096,
        ..Vhdx::new(MB + 512, &[])
    };
    malformed(image.build(), "half a sector");
}
