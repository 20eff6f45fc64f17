//! The engine with sources that misbehave.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use formats::{
    BlockSource, Error, ErrorKind, Format, Image, LayerFile, LayerInfo, Mapping, MemoryStorage,
    Options, Result, Run, StorageRef,
};
use transfer::{
    Algorithm, Converted, CopyOptions, Place, Progress, Salvage, Setting, compare, convert,
};

const MIB: u64 = 1 << 20;

/// A disk of one repeated byte, whose map fails from one offset to another.
struct Disk {
    size: u64,
    byte: u8,
    broken: std::ops::Range<u64>,
    storage: StorageRef,
}

impl Disk {
    fn new(size: u64, byte: u8, broken: std::ops::Range<u64>) -> Disk {
        Disk {
            size,
            byte,
            broken,
            storage: Arc::new(MemoryStorage::new(vec![byte; MIB as usize])),
        }
    }
}

impl BlockSource for Disk {
    fn size(&self) -> u64 {
        self.size
    }

    fn block_size(&self) -> u64 {
        MIB
    }

    fn map(&self, offset: u64, limit: u64) -> Result<Run> {
        if self.broken.contains(&offset) {
            return Err(Error::malformed("entry", "is broken").at(offset));
        }
        let len = limit.min(MIB - offset % MIB);
        if self.byte == 0 {
            return Ok(Run::new(len, Mapping::Zero));
        }
        let mapping = Mapping::Stored {
            storage: self.storage.clone(),
            offset: offset % MIB,
        };
        Ok(Run::new(len, mapping))
    }
}

fn image(disk: Disk) -> Image {
    let storage = disk.storage.clone();
    let source: Arc<dyn BlockSource> = Arc::new(disk);
    Image {
        source: source.clone(),
        layers: vec![LayerFile {
            path: "toy".into(),
            info: LayerInfo::new(Format::Vhd, "toy"),
            source,
            storage: storage.clone(),
            further: Vec::new(),
            parent: None,
        }],
        storages: vec![storage],
    }
}

struct Attempt {
    result: transfer::Result<Converted>,
    salvage: Salvage,
}

fn try_convert(image: &Image, target: &Path, salvaging: bool, cancelled: bool) -> Attempt {
    let salvage = Salvage::default();
    let setting = Setting {
        threads: 5,
        cancel: &AtomicBool::new(cancelled),
        progress: &Progress::default(),
        salvage: salvaging.then_some(&salvage),
    };
    let place = Place::File {
        path: target,
        force: false,
    };
    let options = CopyOptions {
        verify: true,
        digests: vec![Algorithm::Blake3],
        ..CopyOptions::default()
    };
    let result = convert(
        image,
        Format::Raw,
        &Options::default(),
        place,
        &options,
        &setting,
    );
    Attempt { result, salvage }
}

fn left_in(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

#[test]
fn a_broken_entry_in_the_middle_stops_everything_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let image = image(Disk::new(100 * MIB, 7, 50 * MIB..51 * MIB));
    let attempt = try_convert(&image, &folder.path().join("out"), false, false);
    let error = attempt.result.unwrap_err();
    assert_eq!(error.kind(), Some(ErrorKind::Malformed));
    assert_eq!(left_in(folder.path()), 0);
}

#[test]
fn salvage_reads_on_and_lists_the_hole() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let image = image(Disk::new(10 * MIB, 7, 5 * MIB..6 * MIB));
    let attempt = try_convert(&image, &out, true, false);
    assert!(attempt.result.unwrap().verified);
    let losses = attempt.salvage.losses();
    assert_eq!((losses.count, losses.bytes), (1, MIB));
    assert_eq!(losses.holes[0].offset, 5 * MIB);
    let bytes = std::fs::read(out).unwrap();
    let mut expected = vec![7; 10 * MIB as usize];
    expected[5 * MIB as usize..6 * MIB as usize].fill(0);
    assert!(bytes == expected);
}

#[test]
fn cancelling_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let image = image(Disk::new(10 * MIB, 7, 0..0));
    let attempt = try_convert(&image, &folder.path().join("out"), false, true);
    assert!(matches!(attempt.result, Err(transfer::Error::Interrupted)));
    assert_eq!(left_in(folder.path()), 0);
}

#[test]
fn a_source_that_changed_meanwhile_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.raw");
    std::fs::write(&path, vec![1; MIB as usize]).unwrap();
    let image = formats::open(&path, None, &Default::default()).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(MIB + 1).unwrap();
    let attempt = try_convert(&image, &folder.path().join("out"), false, false);
    let error = attempt.result.unwrap_err();
    assert_eq!(error.kind(), Some(ErrorKind::Refused));
    assert_eq!(left_in(folder.path()), 1);
}

#[test]
fn a_source_that_breaks_its_contract_is_told_and_not_followed() {
    struct Endless;
    impl BlockSource for Endless {
        fn size(&self) -> u64 {
            MIB
        }
        fn block_size(&self) -> u64 {
            512
        }
        fn map(&self, _offset: u64, _limit: u64) -> Result<Run> {
            Ok(Run::new(0, Mapping::Zero))
        }
    }
    let zeros = Disk::new(MIB, 0, 0..0);
    let setting = Setting {
        threads: 2,
        cancel: &AtomicBool::new(false),
        progress: &Progress::default(),
        salvage: None,
    };
    assert!(compare(&Endless, &zeros, false, &setting).is_err());
}

#[test]
fn compare_finds_each_differing_range_and_what_lies_past_the_shorter_disk() {
    let setting = Setting {
        threads: 3,
        cancel: &AtomicBool::new(false),
        progress: &Progress::default(),
        salvage: None,
    };
    let sevens = Disk::new(5 * MIB, 7, 0..0);
    let shorter = Disk::new(5 * MIB - 512, 7, 0..0);
    let zeros = Disk::new(9 * MIB, 0, 0..0);
    let equal = compare(&sevens, &sevens, false, &setting).unwrap();
    assert!(equal.is_equal());
    let tail = compare(&shorter, &sevens, false, &setting).unwrap();
    assert_eq!((tail.count, tail.bytes), (1, 512));
    assert_eq!(tail.differences[0].offset, 5 * MIB - 512);
    for (first, second) in [(&sevens, &zeros), (&zeros, &sevens)] {
        let all = compare(first, second, false, &setting).unwrap();
        assert_eq!((all.count, all.bytes), (1, 5 * MIB));
        assert!(!compare(first, second, true, &setting).unwrap().is_equal());
    }
}
