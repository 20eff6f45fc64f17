//! What VDIs of every kind read as, alone and over parents that have no name.

mod common;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use common::vdi::{Builder, DISCARDED, ID, MODIFICATION, UNALLOCATED, kinds};
use formats::reader::read_guest;
use formats::{
    BlockSource, Detail, Error, ErrorKind, Format, Image, ImageId, Mapping, OpenContext,
    ReferencePolicy, driver, open_storage, run_at,
};
use uuid::Uuid;

const FREE: u32 = UNALLOCATED;

fn content(image: &Image) -> Vec<u8> {
    let mut disk = vec![0xEE; image.source.size() as usize];
    read_guest(image.source.as_ref(), 0, &mut disk).expect("read");
    disk
}

fn opened(builder: &Builder) -> Image {
    open_storage(builder.storage(), None, &OpenContext::default()).expect("open")
}

fn warnings(image: &Image) -> Vec<&str> {
    let all = image.layers.iter().flat_map(|layer| &layer.info.warnings);
    all.map(String::as_str).collect()
}

#[test]
fn every_kind_that_stands_alone_reads_as_it_was_made() {
    for (name, builder) in kinds() {
        if name == "differencing.vdi" {
            continue;
        }
        let image = opened(&builder);
        assert_eq!(image.layers[0].info.format, Format::Vdi);
        assert_eq!(image.source.size(), builder.disk_size);
        assert!(content(&image) == builder.content(&[]), "{name}");
        assert!(warnings(&image).is_empty(), "{name}");
    }
}

#[test]
fn the_signature_decides_and_not_the_text() {
    for text in [
        "",
        "<<< innotek VirtualBox Disk Image >>>\n",
        "<<< Sun xVM VirtualBox Disk Image >>>\n",
        "<<< Sun VirtualBox Disk Image >>>\n",
        "QFI",
    ] {
        let builder = Builder {
            text,
            ..Builder::new(&[1, FREE, 0])
        };
        assert!(content(&opened(&builder)) == builder.content(&[]), "{text}");
    }
}

#[test]
fn offsets_need_not_be_aligned_and_the_map_may_be_longer_than_the_disk() {
    let builder = Builder {
        map_offset: 475,
        data_offset: Some(601),
        disk_size: 4096 + 1,
        ..Builder::new(&[1, 0, FREE, 17])
    };
    let builder = Builder {
        allocated: Some(2),
        ..builder
    };
    let image = opened(&builder);
    let mut expected = builder.block(1);
    expected.push(builder.block(0)[0]);
    assert!(content(&image) == expected);
}

/// The kind of every run and its length in blocks of 4 KiB.
fn runs(source: &dyn BlockSource) -> String {
    let mut text = Vec::new();
    let mut offset = 0;
    while offset < source.size() {
        let run = run_at(source, offset, u64::MAX).expect("a run");
        let letter = match run.mapping {
            Mapping::Stored { .. } => 'S',
            Mapping::Zero => 'Z',
            Mapping::Absent => 'A',
            Mapping::Packed { .. } => 'P',
        };
        text.push(format!("{letter}{}", run.len / 4096));
        offset += run.len;
    }
    text.join(" ")
}

#[test]
fn neighbours_are_one_run_and_what_is_absent_is_not_zero() {
    let map = [0, 1, 2, 9, FREE, FREE, DISCARDED, DISCARDED, FREE, 3];
    let base = opened(&Builder::new(&map));
    assert_eq!(runs(base.source.as_ref()), "S3 S1 Z5 S1");
    let child = Builder::over(&map, [7; 16]).storage();
    let layer = driver(Format::Vdi).open(child, &OpenContext::default());
    let layer = layer.expect("a layer");
    assert_eq!(runs(layer.source.as_ref()), "S3 S1 A2 Z2 A1 S1");
    // The third block and what is before it, from the middle on.
    let run = run_at(base.source.as_ref(), 5000, u64::MAX).expect("a run");
    assert_eq!(run.len, 3 * 4096 - 5000);
}

/// More entries than two slices of the map hold, and a last slice that is no whole one.
#[test]
fn a_map_of_many_slices_is_read_to_its_end() {
    let mut map = vec![FREE; 40_000];
    map[0] = 1;
    map[16_383] = 2;
    map[16_384] = 0;
    map[39_999] = 3;
    let image = opened(&Builder::new(&map));
    let zeros = [16_382, 39_999 - 16_385];
    assert_eq!(
        runs(image.source.as_ref()),
        format!("S1 Z{} S1 S1 Z{} S1", zeros[0], zeros[1])
    );
    let builder = Builder::new(&map);
    let mut block = vec![0; 4096];
    read_guest(image.source.as_ref(), 39_999 * 4096, &mut block).expect("read");
    assert!(block == builder.block(3));
}

#[test]
fn what_the_header_says_is_told() {
    let builder = Builder {
        comment: "made \u{1b}[31mby hand\n",
        ..Builder::new(&[0, FREE])
    };
    let image = opened(&builder);
    let info = &image.layers[0].info;
    let id = ImageId::Uuid(Uuid::from_bytes_le(ID));
    assert_eq!(
        (info.subformat.as_str(), info.identity),
        ("dynamic", Some(id))
    );
    let detail = |name: &str| info.details.iter().find(|(n, _)| *n == name).map(|d| &d.1);
    let text = |text: &str| Some(Detail::Text(text.to_owned()));
    assert_eq!(detail("comment").cloned(), text("made \u{1b}[31mby hand"));
    assert_eq!(
        detail("header_text").cloned(),
        text("<<< Oracle VM VirtualBox Disk Image >>>")
    );
    assert_eq!(
        detail("modification_id").cloned(),
        text(&Uuid::from_bytes_le(MODIFICATION).to_string())
    );
    assert_eq!(detail("parent_id"), None);
    assert_eq!(detail("allocated_blocks"), Some(&Detail::Number(1)));
}

/// A folder with these images.
fn folder(images: &[(&str, &Builder)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, builder) in images {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, builder.build()).expect("write");
    }
    folder
}

fn open_in(folder: &Path, name: &str) -> Result<Image, Error> {
    formats::open(&folder.join(name), None, &OpenContext::default())
}

fn failure(folder: &Path, name: &str) -> Error {
    open_in(folder, name).err().expect("an error")
}

#[test]
fn a_chain_of_three_is_found_by_ids_whatever_the_names_are() {
    let base = Builder::new(&[0, 1, 2, 3, 4]);
    let middle = Builder {
        disk_size: 5 * 4096 - 512,
        ..Builder::over(&[FREE, 0, DISCARDED, FREE, 1], ID)
    };
    let tip = Builder {
        id: [0xD7; 16],
        image_type: 3,
        ..Builder::over(&[FREE, FREE, FREE, 0, FREE, FREE], middle.id)
    };
    let tip = Builder {
        parent_modification: middle.modification,
        ..tip
    };
    let other = Builder {
        id: [1; 16],
        ..base.clone()
    };
    let folder = folder(&[
        ("a.vdi", &other),
        ("b.VDI", &base),
        ("m.vdi", &middle),
        ("{tip}.vdi", &tip),
    ]);
    std::fs::write(folder.path().join("c.vdi"), "no image").expect("write");
    let image = open_in(folder.path(), "{tip}.vdi").expect("open");
    let below = middle.content(&base.content(&[]));
    assert!(content(&image) == tip.content(&below));
    assert!(warnings(&image).is_empty(), "{:?}", warnings(&image));
    let names: Vec<_> = image.layers.iter().map(|l| l.path.file_name()).collect();
    let expected = ["{tip}.vdi", "m.vdi", "b.VDI"];
    assert_eq!(names, expected.map(|name| Some(name.as_ref())));
}

#[test]
fn a_parent_in_another_folder_is_found_when_that_is_allowed() {
    let base = Builder::new(&[0, 1]);
    let tip = Builder::over(&[FREE, 0], ID);
    let folder = folder(&[("vm/base.vdi", &base), ("vm/Snapshots/tip.vdi", &tip)]);
    let path = folder.path().join("vm/Snapshots/tip.vdi");
    assert_eq!(
        failure(folder.path(), "vm/Snapshots/tip.vdi").kind(),
        ErrorKind::Malformed
    );
    let context = OpenContext {
        references: ReferencePolicy::new(&[folder.path().join("vm")]).expect("a policy"),
        ..OpenContext::default()
    };
    let image = formats::open(&path, None, &context).expect("open");
    assert!(content(&image) == tip.content(&base.content(&[])));
}

#[test]
fn two_files_with_the_parents_id_are_refused_by_name() {
    let base = Builder::new(&[0, 1]);
    let tip = Builder::over(&[FREE, 0], ID);
    let folder = folder(&[("base.vdi", &base), ("copy.vdi", &base), ("tip.vdi", &tip)]);
    let error = failure(folder.path(), "tip.vdi");
    assert_eq!(error.kind(), ErrorKind::Refused);
    for name in ["base.vdi", "copy.vdi"] {
        assert!(error.to_string().contains(name), "{error}");
    }
    // Two names of one file are one file.
    std::fs::remove_file(folder.path().join("copy.vdi")).expect("remove");
    std::os::unix::fs::symlink("base.vdi", folder.path().join("copy.vdi")).expect("link");
    open_in(folder.path(), "tip.vdi").expect("open");
}

#[test]
fn a_parent_that_is_not_there_or_cannot_be_read_is_told() {
    let tip = Builder::over(&[FREE, 0], ID);
    let broken = Builder {
        version: 2,
        ..Builder::new(&[0, 1])
    };
    let folder = folder(&[("tip.vdi", &tip)]);
    let error = failure(folder.path(), "tip.vdi");
    assert_eq!(error.kind(), ErrorKind::Malformed);
    let id = Uuid::from_bytes_le(ID).to_string();
    assert!(error.to_string().contains(&id), "{error}");
    std::fs::write(folder.path().join("base.vdi"), broken.build()).expect("write");
    let error = failure(folder.path(), "tip.vdi");
    assert_eq!(error.kind(), ErrorKind::Malformed);
    assert!(error.to_string().contains("base.vdi"), "{error}");
}

#[test]
fn an_image_that_is_its_own_ancestor_is_malformed() {
    let own = Builder::over(&[FREE, 0], [0xC5; 16]);
    assert_eq!(
        failure(folder(&[("a.vdi", &own)]).path(), "a.vdi").kind(),
        ErrorKind::Malformed
    );
    let one = Builder::over(&[FREE, 0], ID);
    let two = Builder {
        id: ID,
        ..Builder::over(&[FREE, 0], one.id)
    };
    let folder = folder(&[("one.vdi", &one), ("two.vdi", &two)]);
    assert_eq!(
        failure(folder.path(), "one.vdi").kind(),
        ErrorKind::Malformed
    );
}

/// VirtualBox leaves the old id in a child whose parent it exchanges: it proves nothing, but it is said.
#[test]
fn a_parent_that_was_written_to_since_is_told() {
    let base = Builder {
        modification: [8; 16],
        ..Builder::new(&[0, 1])
    };
    let tip = Builder::over(&[FREE, 0], ID);
    let made = folder(&[("base.vdi", &base), ("tip.vdi", &tip)]);
    let image = open_in(made.path(), "tip.vdi").expect("open");
    assert_eq!(warnings(&image).len(), 1);
    assert!(warnings(&image)[0].contains("last modification"));
    let silent = Builder {
        parent_modification: [0; 16],
        ..tip
    };
    let made = folder(&[("base.vdi", &base), ("tip.vdi", &silent)]);
    assert!(warnings(&open_in(made.path(), "tip.vdi").expect("open")).is_empty());
}

#[test]
fn a_base_with_the_id_of_a_parent_is_read_alone_and_that_is_told() {
    let builder = Builder {
        parent: [1; 16],
        ..Builder::new(&[0, FREE])
    };
    let image = opened(&builder);
    assert!(content(&image) == builder.content(&[]));
    assert_eq!(warnings(&image).len(), 1);
}

fn counts(builder: &Builder) -> (Vec<(&'static str, u64)>, Vec<bool>) {
    let report = driver(Format::Vdi).check(
        &builder.storage(),
        &OpenContext::default(),
        &AtomicBool::new(false),
    );
    let report = report.expect("a report");
    let damage = report.findings.iter().map(|finding| finding.is_damage);
    (report.counts, damage.collect())
}

#[test]
fn check_counts_blocks_and_finds_what_is_wrong_with_them() {
    for (name, builder) in kinds() {
        let named = builder.map.iter().filter(|e| **e < DISCARDED).count() as u64;
        let (counts, damage) = counts(&builder);
        assert_eq!(counts[0], ("allocated_blocks", named), "{name}");
        assert_eq!((counts.len(), damage.len()), (2, 0), "{name}");
    }
    let unreferenced = Builder {
        allocated: Some(3),
        ..Builder::new(&[0, FREE, DISCARDED, FREE])
    };
    let found = counts(&unreferenced);
    assert_eq!(found.1, [false]);
    assert!(found.0.contains(&("unreferenced", 2)));
    let wrong = Builder {
        allocated: Some(2),
        ..Builder::new(&[0, 1, 0, 3, 2])
    };
    let found = counts(&wrong);
    assert_eq!(found.1, [true; 5]);
    for count in [("duplicates", 1), ("not_allocated", 2), ("out_of_file", 2)] {
        assert!(found.0.contains(&count), "{found:?}");
    }
    // Of many of one sort, the first ones and how many more there are.
    let found = counts(&Builder::new(&[0; 100]));
    assert!(found.0.contains(&("duplicates", 99)), "{found:?}");
    assert!((2..40).contains(&found.1.len()), "{found:?}");
}
