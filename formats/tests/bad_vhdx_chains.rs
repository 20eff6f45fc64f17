//! Differencing VHDXs that are damaged or hostile: sector bitmaps, locators, parents.

mod common;

use common::vhdx::wrong::{child, malformed, sound};
use common::vhdx::{Built, DATA_WRITE, DISK_ID, FULL, MIB, PARTIAL, Vhdx, braced};
use formats::reader::read_guest;
use formats::{ErrorKind, OpenContext};

const MB: u64 = MIB as u64;

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
