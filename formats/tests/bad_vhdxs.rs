//! What damaged and hostile VHDXs lead to: an error of the right kind, and never a disk.

mod common;

use std::ops::Range;

use common::vhdx::log::{Change, Entry, SECTOR, summed};
use common::vhdx::{
    BAT_GUID, Block, Built, DATA_WRITE, DISK_ID, FULL, HEADERS, Item, KIB, LOG, METADATA_GUID, MIB,
    PARTIAL, REGIONS, Vhdx, braced, guid, region,
};
use common::{le64, patch};
use formats::reader::read_guest;
use formats::{ErrorKind, Format, OpenContext, ReferencePolicy, StorageRef, open_storage};

const MB: u64 = MIB as u64;

/// Guest bytes that are read at once.
const PIECE: u64 = 8 << 20;

/// The kind of the first error on the way through the disk in `storage`.
fn kind_of(storage: StorageRef) -> Option<ErrorKind> {
    let context = OpenContext {
        references: ReferencePolicy::only(Vec::new()),
        ..OpenContext::default()
    };
    let image = match open_storage(storage, None, &context) {
        Ok(image) => image,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return Some(error.kind());
        }
    };
    let size = image.source.size().min(64 << 20);
    let mut disk = vec![0; PIECE as usize];
    for at in (0..size).step_by(PIECE as usize) {
        let piece = &mut disk[..(size - at).min(PIECE) as usize];
        if let Err(error) = read_guest(image.source.as_ref(), at, piece) {
            return Some(error.kind());
        }
    }
    None
}

fn kind(built: &Built) -> Option<ErrorKind> {
    kind_of(built.storage())
}

#[track_caller]
fn is(built: Built, expected: ErrorKind, what: &str) {
    assert_eq!(kind(&built), Some(expected), "{what}");
}

#[track_caller]
fn malformed(built: Built, what: &str) {
    is(built, ErrorKind::Malformed, what);
}

/// Four blocks, of which two are there.
fn sound() -> Vhdx {
    Vhdx::new(4 * MB, &[(0, Block::Full), (2, Block::Full)])
}

/// The same, over a parent, with a partial block.
fn child() -> Vhdx {
    let blocks = [(0, Block::Full), (1, Block::Partial(vec![(0, 1)]))];
    Vhdx::new(4 * MB, &blocks).over("base.vhdx", DATA_WRITE)
}

#[test]
fn what_all_of_this_starts_from_is_sound() {
    assert_eq!(kind(&sound().build()), None);
}

// The fixed part.

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
        (u64::MAX & !0xF_FFFF, MIB as u32),
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

/// With entry `index` of the region tables another one.
fn with_region(built: Built, index: usize, entry: &[u8]) -> Built {
    built.with_both(REGIONS, 16 + index * 32, entry).summed()
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
        let built = with_region(image.build(), index, &entry);
        malformed(built, &format!("{index} {offset} {len}"));
    }
    for offset in [1 << 40, 1 << 62] {
        let entry = region(BAT_GUID, offset, MIB as u32, 1);
        let found = kind(&with_region(image.build(), 0, &entry));
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
    malformed(with_region(built, 2, &other), "on a block");
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
        malformed(with_region(built, 2, &again), name);
    }
}

#[test]
fn an_unknown_region_that_is_required() {
    let other = region(DISK_ID, 16 * MB, MIB as u32, 1);
    let built = sound().build().with_both(REGIONS, 8, &[3]);
    is(
        with_region(built, 2, &other),
        ErrorKind::Unsupported,
        "unknown",
    );
}

// Metadata.

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

// The BAT.

#[test]
fn a_bat_too_short_for_the_disk() {
    // 131072 entries of eight bytes are a MiB; of a MiB each, with an entry for each 4096.
    let most = 131_072u64 - 131_072 / 4097;
    for (blocks, fits) in [(most - 1, true), (most + 1, false)] {
        let built = sound().build();
        let (_, size_at) = built.items[1];
        let built = built.with(size_at, &(blocks * MB).to_le_bytes());
        assert_eq!(kind(&built).is_none(), fits, "{blocks}");
    }
    let built = sound().build();
    let (_, size_at) = built.items[1];
    malformed(built.with(size_at, &(1u64 << 40).to_le_bytes()), "1 TiB");
}

#[test]
fn entries_that_lead_into_something_else() {
    let image = sound();
    let places = [
        0,
        LOG as u64,
        image.metadata_at() as u64,
        image.bat_at() as u64,
    ];
    for place in places {
        malformed(
            image.build().with_bat(1, place | FULL),
            &format!("a block at {place}"),
        );
    }
    // A block of 4 MiB that starts in front of the log cannot be; but one may reach into what is behind it.
    let image = Vhdx {
        block_size: 4 * MIB as u32,
        ..Vhdx::new(8 * MB, &[(0, Block::Full)])
    };
    let mut built = image.build();
    let far = built.append(MIB);
    let built = with_region(
        built.with_both(REGIONS, 8, &[3]),
        2,
        &region("cccccccc-0000-4000-8000-00000000000c", far, MIB as u32, 0),
    );
    assert_eq!(kind(&built), None);
    malformed(built.with_bat(1, (far - MB) | FULL), "into a region");
}

#[test]
fn blocks_past_the_end_of_the_file() {
    let image = sound();
    let built = image.build();
    let end = built.len as u64;
    for place in [end, end + MB, 1 << 40, u64::MAX & !0xF_FFFF] {
        is(
            image.build().with_bat(1, place | FULL),
            ErrorKind::Truncated,
            &format!("{place}"),
        );
    }
    for cut in [1, 4096, MIB, 2 * MIB] {
        let len = built.len - cut;
        is(
            built.clone().cut(len),
            ErrorKind::Truncated,
            &format!("{cut}"),
        );
    }
}

#[test]
fn a_file_cut_off_in_its_tables() {
    let built = sound().build();
    let cuts = [
        built.bat + MIB - 1,
        built.bat + 1,
        built.metadata + 70 * KIB,
        built.metadata + 1,
    ];
    for len in cuts {
        is(
            built.clone().cut(len),
            ErrorKind::Truncated,
            &format!("{len}"),
        );
    }
    for len in [8, KIB, 65 * KIB, 130 * KIB, 200 * KIB, MIB] {
        let found = kind(&built.clone().cut(len));
        let fine = [Some(ErrorKind::Malformed), Some(ErrorKind::Truncated)];
        assert!(fine.contains(&found), "{len}: {found:?}");
    }
}

#[test]
fn two_blocks_in_one_place() {
    let built = sound().build();
    let entry = built.bat_entry(0);
    malformed(built.with_bat(3, entry), "the same place");
    // Larger blocks that overlap in part.
    let image = Vhdx {
        block_size: 4 * MIB as u32,
        ..Vhdx::new(16 * MB, &[(0, Block::Full), (2, Block::Full)])
    };
    let built = image.build();
    let entry = built.bat_entry(0) + MB;
    malformed(built.with_bat(1, entry), "a part");
    // Far apart: in other pages of the BAT.
    let image = Vhdx::new(40 << 30, &[(0, Block::Full)]);
    let built = image.build();
    let entry = built.bat_entry(0);
    let last = image.block_count() - 1;
    let built = built.with_bat(image.bat_index(last), entry);
    let image = open_storage(built.storage(), None, &OpenContext::default()).expect("open");
    let mut byte = [0];
    let both = [0, last * MB].map(|at| read_guest(image.source.as_ref(), at, &mut byte));
    let kinds = both.map(|read| read.err().map(|e| e.kind()));
    assert!(kinds.contains(&Some(ErrorKind::Malformed)), "{kinds:?}");
}

#[test]
fn states_that_a_block_cannot_have() {
    let built = sound().build();
    let place = built.bat_entry(0) & !0xF_FFFF;
    for state in [4, PARTIAL] {
        malformed(
            built.clone().with_bat(0, place | state),
            &format!("state {state}"),
        );
    }
    // Reserved bits lead nowhere else, and checking tells of them.
    for bit in 3..20 {
        let built = built.clone().with_bat(0, place | FULL | 1 << bit);
        assert_eq!(kind(&built), None, "bit {bit}");
        let found = common::check(&built.bytes(), Format::Vhdx).expect("a report");
        assert_eq!(found.len(), 1, "bit {bit}: {found:?}");
    }
}

// Differencing.

/// A folder with `base.vhdx` and `child.avhdx`; the kind of error that the child leads to.
fn kind_in_folder(base: &Built, child: &Built) -> Option<ErrorKind> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("child.avhdx");
    std::fs::write(folder.path().join("base.vhdx"), base.bytes()).expect("write");
    std::fs::write(&path, child.bytes()).expect("write");
    let read = formats::open(&path, None, &OpenContext::default()).and_then(|image| {
        let mut disk = vec![0; image.source.size() as usize];
        read_guest(image.source.as_ref(), 0, &mut disk)
    });
    read.err().map(|error| error.kind())
}

#[track_caller]
fn over_its_base(child: Built, expected: Option<ErrorKind>, what: &str) {
    assert_eq!(kind_in_folder(&sound().build(), &child), expected, "{what}");
}

const MALFORMED: Option<ErrorKind> = Some(ErrorKind::Malformed);

#[test]
fn a_partial_block_without_its_bitmap() {
    over_its_base(child().build(), None, "sound");
    let index = child().bitmap_index(0);
    let built = child().build();
    let bitmap = built.bat_entry(index) & !0xF_FFFF;
    for state in [0, 1, 2, 3, 4, 5, 7] {
        let built = built.clone().with_bat(index, bitmap | state);
        over_its_base(built, MALFORMED, &format!("state {state}"));
    }
    over_its_base(built.clone().with_bat(index, 0), MALFORMED, "nothing");
    for place in [0, MB, 2 * MB, 3 * MB] {
        let built = built.clone().with_bat(index, place | FULL);
        over_its_base(built, MALFORMED, &format!("at {place}"));
    }
    let block = built.bat_entry(0);
    over_its_base(
        built.clone().with_bat(index, block),
        MALFORMED,
        "on a block",
    );
    let past = built.len as u64 | FULL;
    over_its_base(
        built.with_bat(index, past),
        Some(ErrorKind::Truncated),
        "past the end",
    );
}

#[test]
fn a_partial_block_of_a_disk_without_a_parent() {
    let built = sound().build();
    let entry = built.bat_entry(0) & !7 | PARTIAL;
    malformed(built.with_bat(0, entry), "partial");
}

/// The parent flag without a locator.
#[test]
fn a_parent_that_nobody_names() {
    let built = sound().build();
    let (_, parameters) = built.items[0];
    malformed(built.with(parameters + 4, &[2]), "no locator");
}

fn with_locator(entries: &[(&str, &str)]) -> Built {
    let entries = entries
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    let image = Vhdx {
        parent: Some(entries.collect()),
        ..child()
    };
    image.build()
}

#[test]
fn locators_without_linkage_without_a_path_or_with_nonsense() {
    let linkage = braced(DATA_WRITE);
    let path = ("relative_path", "base.vhdx");
    over_its_base(
        with_locator(&[("parent_linkage", &linkage), path]),
        None,
        "sound",
    );
    over_its_base(with_locator(&[path]), MALFORMED, "no linkage");
    over_its_base(
        with_locator(&[("PARENT_LINKAGE", &linkage), path]),
        MALFORMED,
        "keys have their case",
    );
    for text in [
        "",
        "{}",
        "nonsense",
        "{22222222-0000-4000-8000-00000000000}",
    ] {
        let built = with_locator(&[("parent_linkage", text), path]);
        over_its_base(built, MALFORMED, text);
    }
    over_its_base(
        with_locator(&[("parent_linkage", &linkage)]),
        MALFORMED,
        "no path",
    );
    over_its_base(
        with_locator(&[
            ("parent_linkage", &linkage),
            ("parent_linkage", &linkage),
            path,
        ]),
        MALFORMED,
        "twice",
    );
}

#[test]
fn locators_whose_parts_are_not_in_them() {
    let sound = child().build();
    let (_, data) = sound.items[5];
    let number = |at: usize, bytes: &[u8], what: &str| {
        over_its_base(sound.clone().with(data + at, bytes), MALFORMED, what);
    };
    over_its_base(
        sound.clone().with(data, &[0]),
        Some(ErrorKind::Unsupported),
        "another type",
    );
    number(18, &[0, 0], "no entries");
    number(18, &[0xFF, 0xFF], "too many entries");
    number(20, &u32::MAX.to_le_bytes(), "key offset");
    number(24, &u32::MAX.to_le_bytes(), "value offset");
    number(20, &[0; 4], "no key offset");
    number(28, &[0xFF, 0xFF], "key length");
    number(28, &[3, 0], "half a letter");
    number(30, &[0xFF, 0xFF], "value length");
}

#[test]
fn parents_that_are_not_there_foreign_or_elsewhere() {
    let linkage = braced(DATA_WRITE);
    let at = |path: &str| with_locator(&[("parent_linkage", &linkage), ("relative_path", path)]);
    over_its_base(at("gone.vhdx"), MALFORMED, "gone");
    let foreign = with_locator(&[
        ("parent_linkage", &braced(DISK_ID)),
        ("relative_path", "base.vhdx"),
    ]);
    over_its_base(foreign, MALFORMED, "another DataWriteGuid");
    // A path that leads out is not followed; its last part is looked for beside the child.
    over_its_base(at("..\\..\\gone.vhdx"), MALFORMED, "up");
    let folder = tempfile::tempdir().expect("a folder");
    let outside = folder.path().join("base.vhdx");
    std::fs::write(&outside, sound().build().bytes()).expect("write");
    let own = folder.path().join("own");
    std::fs::create_dir(&own).expect("a folder");
    let path = own.join("child.avhdx");
    std::fs::write(&path, at("..\\base.vhdx").bytes()).expect("write");
    let kind = formats::open(&path, None, &OpenContext::default()).err();
    let kind = kind.map(|error| error.kind());
    let fine = [Some(ErrorKind::Malformed), Some(ErrorKind::Refused)];
    assert!(fine.contains(&kind), "{kind:?}");
}

#[test]
fn a_parent_with_other_sectors_or_of_another_format() {
    let base = Vhdx {
        sector: 4096,
        ..sound()
    };
    let found = kind_in_folder(&base.build(), &child().build());
    let fine = [MALFORMED, Some(ErrorKind::Unsupported)];
    assert!(fine.contains(&found), "{found:?}");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("child.avhdx");
    std::fs::write(&path, child().build().bytes()).expect("write");
    std::fs::write(folder.path().join("base.vhdx"), vec![0; MIB]).expect("write");
    let kind = formats::open(&path, None, &OpenContext::default()).err();
    assert_eq!(kind.map(|error| error.kind()), MALFORMED);
}

#[test]
fn chains_that_are_circles() {
    let own = Vhdx {
        data_write: DATA_WRITE,
        ..child()
    };
    let own = own.over("child.avhdx", DATA_WRITE).build();
    over_its_base(own, MALFORMED, "its own parent");
    let one = Vhdx {
        data_write: DISK_ID,
        ..child()
    };
    let other = child().over("child.avhdx", DISK_ID);
    assert_eq!(kind_in_folder(&other.build(), &one.build()), MALFORMED);
}

// The log.

/// The length of the file of [`sound`].
fn sound_len() -> usize {
    sound().build().len
}

fn change() -> Change {
    Change::Data(sound().data_at() as u64, vec![9; SECTOR])
}

fn with_log(bytes: Vec<u8>) -> Built {
    sound().logged(vec![(0, bytes)]).build()
}

/// The sound entry of a log: with a change of data and one to zeros.
fn entry() -> Entry {
    let zeros = Change::Zero(sound().data_at() as u64 + 8192, 4096);
    Entry::new(5, 0, sound_len(), vec![change(), zeros])
}

#[test]
fn a_log_without_a_whole_entry() {
    assert_eq!(kind(&with_log(entry().bytes())), None);
    malformed(sound().logged(vec![]).build(), "empty");
    let bytes = entry().bytes();
    let spoiled: [(Range<usize>, &str); 9] = [
        (0..4, "signature"),
        (4..8, "checksum"),
        (8..12, "length"),
        (16..24, "sequence number"),
        (32..48, "GUID"),
        (64..68, "signature of a descriptor"),
        (88..96, "sequence number of a descriptor"),
        (4096..4100, "signature of a data sector"),
        (8188..8192, "sequence number of a data sector"),
    ];
    for (range, what) in spoiled {
        let mut torn = bytes.clone();
        for byte in &mut torn[range.clone()] {
            *byte ^= 0x15;
        }
        malformed(with_log(torn.clone()), what);
        if range.start != 4 {
            malformed(with_log(summed(torn)), &format!("{what}, summed"));
        }
    }
    let mut torn = bytes;
    torn[5000] ^= 1;
    malformed(with_log(torn), "data");
}

#[test]
fn log_entries_with_a_wrong_guid() {
    let foreign = Entry {
        guid: guid(DISK_ID),
        ..entry()
    };
    malformed(with_log(foreign.bytes()), "foreign");
    let zero = Entry {
        guid: [0; 16],
        ..entry()
    };
    malformed(with_log(zero.bytes()), "zero");
    // The header is what is wrong.
    let built = with_log(entry().bytes());
    let built = built.with_both(HEADERS, 48, &guid(DISK_ID)).summed();
    malformed(built, "header");
}

#[test]
fn numbers_of_a_log_entry_that_cannot_be() {
    let bytes = entry().bytes();
    let set = |at: usize, value: &[u8], what: &str| {
        let mut bytes = bytes.clone();
        patch(&mut bytes, at, value);
        malformed(with_log(summed(bytes)), what);
    };
    for len in [0u32, 4095, 4096, 4097, 2 * MIB as u32, u32::MAX] {
        set(8, &len.to_le_bytes(), &format!("length {len}"));
    }
    for count in [3u32, 127, u32::MAX] {
        set(24, &count.to_le_bytes(), &format!("{count} descriptors"));
    }
    set(16, &[0; 8], "sequence number 0");
    for tail in [1u32, 4096, MIB as u32, u32::MAX] {
        set(12, &tail.to_le_bytes(), &format!("tail {tail}"));
    }
    // Of the data descriptor, then of the zero descriptor: not on a sector of 4 KiB.
    set(64 + 16, &[1], "data offset");
    set(96 + 16, &[1], "zero offset");
    set(96 + 8, &[1], "zero length");
}

#[test]
fn entries_that_are_torn_in_a_sequence_that_needs_them() {
    // The last entry says that the first one counts, but that is torn.
    let first = entry();
    let second = Entry {
        sequence: 6,
        ..first.clone()
    };
    let mut torn = first.bytes();
    torn[4096 + 200] ^= 1;
    let log = vec![(0, torn), (first.len(), second.bytes())];
    malformed(sound().logged(log).build(), "torn tail");
    // A gap in the numbers.
    let gap = Entry {
        sequence: 4,
        ..first.clone()
    };
    let log = vec![(0, gap.bytes()), (first.len(), second.bytes())];
    let image = sound().logged(log);
    // The first one is a sequence of its own, and the last one that is whole.
    assert_eq!(kind(&image.build()), None);
}

#[test]
fn entries_that_wrap_and_are_torn_there() {
    let start = MIB - SECTOR;
    let wrapped = Entry {
        tail: start as u32,
        ..entry()
    };
    let bytes = wrapped.bytes();
    assert!(bytes.len() > SECTOR);
    let log = vec![(start, bytes.clone())];
    assert_eq!(kind(&sound().logged(log).build()), None);
    let mut torn = bytes.clone();
    torn[SECTOR + 10] ^= 1;
    malformed(
        sound().logged(vec![(start, torn)]).build(),
        "behind the border",
    );
    // What is behind the border is not at the front of the log, but behind the log.
    let mut built = sound().logged(vec![(start, bytes.clone())]).build();
    let (front, back) = (LOG, LOG + MIB);
    let lost = built.front[front..front + SECTOR].to_vec();
    assert!(lost.starts_with(b"data"));
    patch(&mut built.front, front, &[0; SECTOR]);
    let there = built.front[back..back + 8].to_vec();
    assert_eq!(there, b"metadata");
    malformed(built, "not wrapped");
    // Longer than the log.
    let changes = vec![change(); 300];
    let long = Entry::new(5, 0, sound_len(), changes).bytes();
    assert!(long.len() > MIB);
    malformed(
        sound().logged(vec![(0, long[..MIB].to_vec())]).build(),
        "longer than the log",
    );
}

#[test]
fn a_file_shorter_than_its_log_knows_it() {
    let len = sound_len() as u64;
    for (flushed, last, expected) in [
        (len, len, None),
        // Whole MiBs are not asked for: QEMU writes the length of the file.
        (len - 1, len + 1, None),
        (len + 1, len + 1, Some(ErrorKind::Truncated)),
        (len + MB, len + MB, Some(ErrorKind::Truncated)),
        (1 << 40, 1 << 40, Some(ErrorKind::Truncated)),
    ] {
        let entry = Entry {
            flushed,
            last,
            ..entry()
        };
        assert_eq!(kind(&with_log(entry.bytes())), expected, "{flushed}");
    }
    // The file may be made longer: by a lot without taking room.
    let entry = Entry {
        last: 1 << 40,
        ..entry()
    };
    assert_eq!(kind(&with_log(entry.bytes())), None);
}

/// A log that writes where the headers are would change what it is found by.
#[test]
fn a_log_that_leads_far_away_takes_no_memory() {
    for offset in [1u64 << 50, u64::MAX & !0xFFF, 1 << 63] {
        for far in [
            Change::Data(offset, vec![1; SECTOR]),
            Change::Zero(offset, 1 << 40),
            Change::Zero(offset, u64::MAX & !0xFFF),
        ] {
            let entry = Entry::new(5, 0, sound_len(), vec![far]);
            // Whether that is an error is not told here: it must not take memory, hang or panic.
            kind(&with_log(entry.bytes()));
        }
    }
}

/// What a log replayed makes of the tables is checked like everything else.
#[test]
fn a_log_that_spoils_the_bat_is_noticed() {
    let image = sound();
    let built = image.build();
    for entry in [
        LOG as u64 | FULL,
        built.bat_entry(0) & !7 | 4,
        1 << 50 | FULL,
    ] {
        let mut table = built.front[built.bat..built.bat + SECTOR].to_vec();
        patch(&mut table, 0, &entry.to_le_bytes());
        assert_eq!(le64(&table, 0), entry);
        let change = Change::Data(built.bat as u64, table);
        let log = Entry::new(5, 0, sound_len(), vec![change]);
        let found = kind(&with_log(log.bytes()));
        let fine = [MALFORMED, Some(ErrorKind::Truncated)];
        assert!(fine.contains(&found), "{entry:x}: {found:?}");
    }
}
