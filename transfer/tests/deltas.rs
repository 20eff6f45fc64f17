//! What a delta defines, written into images of every format: against a model, and through every crash on the way.

mod common;

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use common::layers::{Model, Rng, image_of};
use formats::in_place::crash::{CrashFile, CrashLog};
use formats::open::stacked;
use formats::reader::read_guest;
use formats::{
    BlockSource, Format, Ids, Image, InPlace, MemoryStorage, OpenContext, Options, ReferencePolicy,
    Result, Storage, StorageRef, driver, open_storage,
};
use transfer::delta::{self, Changing, Place};
use transfer::{ChainPlace, CopyOptions, Progress, Setting, convert_chain};

/// Formats of copies, with options, and whether they can stand on another image.
const COPIES: &[(Format, &str, bool)] = &[
    (Format::Raw, "", false),
    (Format::Vhd, "subformat=fixed", false),
    (Format::Vhd, "block_size=64k", true),
    (Format::Vhdx, "block_size=1M", true),
    (Format::Vhdx, "subformat=fixed,block_size=1M", false),
    (Format::Qcow2, "cluster_size=512", true),
    (Format::Qcow2, "cluster_size=4k,compat=0.10", true),
    (Format::Qcow2, "cluster_size=16k,extended_l2=on", true),
    (Format::Qcow2, "cluster_size=4k,refcount_bits=1", true),
    (Format::Qcow2, "cluster_size=64k", true),
    (Format::Vmdk, "subformat=monolithicSparse", false),
    (Format::Vdi, "subformat=dynamic", false),
    (Format::Vdi, "subformat=fixed", false),
];

fn setting<T>(job: impl FnOnce(&Setting<'_>) -> T) -> T {
    job(&Setting {
        threads: 2,
        cancel: &false.into(),
        progress: &Progress::default(),
        salvage: None,
    })
}

/// An image in memory: its file, and what that stands on.
#[derive(Clone)]
struct Files {
    format: Format,
    file: Vec<u8>,
    below: Vec<(String, Vec<u8>)>,
}

impl Files {
    /// The chain of `models` as images of `format`.
    fn of(models: &[Model], format: Format, pairs: &str, compress: bool) -> Files {
        let folder = tempfile::tempdir().unwrap();
        let pairs: Vec<String> = pairs.split_terminator(',').map(str::to_owned).collect();
        let options = Options::new(driver(format).options(), &pairs).unwrap();
        let names: Vec<String> = (0..models.len())
            .map(|n| format!("layer{n}.{format}"))
            .collect();
        let place = ChainPlace {
            folder: folder.path(),
            names: &names,
            force: false,
        };
        let copy = CopyOptions {
            reproducible: Some(0),
            ..CopyOptions::default()
        };
        let image = image_of(models);
        let options = options.compressed(compress);
        setting(|setting| convert_chain(&image, format, &options, &place, &copy, setting)).unwrap();
        let read = |name: &String| std::fs::read(folder.path().join(name)).unwrap();
        Files {
            format,
            file: read(&names[0]),
            below: names[1..].iter().map(|n| (n.clone(), read(n))).collect(),
        }
    }

    fn context(&self) -> OpenContext {
        let below = self.below.iter().map(|(name, bytes)| {
            let storage: StorageRef = Arc::new(MemoryStorage::new(bytes.clone()));
            (OsString::from(name), storage)
        });
        OpenContext {
            references: ReferencePolicy::only(below.collect()),
            ..OpenContext::default()
        }
    }

    fn with(&self, file: &[u8]) -> Files {
        Files {
            file: file.to_vec(),
            ..self.clone()
        }
    }

    fn open(&self) -> Image {
        let storage: StorageRef = Arc::new(MemoryStorage::new(self.file.clone()));
        open_storage(storage, Some(self.format), &self.context()).unwrap()
    }

    fn damage(&self) -> Vec<String> {
        let storage: StorageRef = Arc::new(MemoryStorage::new(self.file.clone()));
        let report = driver(self.format).check(&storage, &self.context(), &AtomicBool::new(false));
        let damage = report.unwrap().findings.into_iter();
        damage.map(|finding| finding.message).collect()
    }

    /// Writes the delta into it, on a disk that fails after `changes` of them.
    fn apply(&self, delta: &dyn BlockSource, ids: Ids, changes: Option<usize>) -> CrashLog {
        let log = CrashLog::new();
        let place = InMemory {
            file: log.file("copy", self.file.clone()),
            format: self.format,
            context: self.context(),
        };
        if let Some(changes) = changes {
            log.fail_after(changes);
        }
        let done = setting(|setting| {
            let mut image = Changing::new(&place)?;
            delta::write(delta, &mut image, ids, setting)
        });
        assert_eq!(done.is_err(), changes.is_some(), "{:?}", done.err());
        log
    }
}

/// A file that remembers what a crash would leave.
struct InMemory {
    file: Arc<CrashFile>,
    format: Format,
    context: OpenContext,
}

impl Place for InMemory {
    fn open(&self) -> Result<Image> {
        let storage: StorageRef = self.file.clone();
        open_storage(storage, Some(self.format), &self.context)
    }

    fn writable(&self, storage: &StorageRef) -> Result<Box<dyn InPlace>> {
        assert_eq!(storage.path(), self.file.path());
        Ok(Box::new(self.file.clone()))
    }
}

fn content(source: &dyn BlockSource) -> Vec<u8> {
    let mut all = vec![0xEE; source.size() as usize];
    read_guest(source, 0, &mut all).unwrap();
    all
}

/// A delta of `size` bytes, and `below` layers under it of the same size.
fn chain(random: &mut Rng, below: usize, sectors: u64) -> Vec<Model> {
    let size = sectors as usize * 512;
    let mut models: Vec<Model> = (0..=below)
        .map(|_| {
            let mut parts = Vec::new();
            let longest = [3, 20, 150][random.below(3) as usize];
            while parts.len() < sectors as usize {
                let count = 1 + random.below(longest) as usize;
                let byte = match random.below(6) {
                    0..3 => None,
                    3 => Some(0),
                    _ => Some(1 + random.below(255) as u8),
                };
                parts.extend(std::iter::repeat_n(byte, count));
            }
            parts.truncate(sectors as usize);
            Model::new(parts, size)
        })
        .collect();
    // What applying is for: a little in a lot.
    if random.below(2) == 0 {
        let mut few = vec![None; sectors as usize];
        for _ in 0..3 {
            few[random.below(sectors) as usize] = Some(random.below(3) as u8);
        }
        models[0] = Model::new(few, size);
    }
    models
}

/// Some of `count` states, the same in every run.
fn picked(state: usize, most: usize, count: usize) -> bool {
    count <= most || state.is_multiple_of(count.div_ceil(most))
}

fn states(log: &CrashLog) -> usize {
    log.crashes(|_, _| {})
}

#[test]
fn a_delta_becomes_part_of_a_copy_of_any_format() {
    for seed in 0..6 {
        for (format, options, _) in COPIES {
            let models = chain(&mut Rng::new(seed), 1, 300 + 130 * seed);
            let what = format!("seed {seed}, {format} {options}");
            let copy = Files::of(&models[1..], *format, options, false);
            let image = image_of(&models);
            let delta = image.layers[0].source.as_ref();
            let log = copy.apply(delta, Ids::New, None);
            let after = copy.with(&log.files()[0]);
            let mut expected = Model::flat(&models);
            let found = content(after.open().source.as_ref());
            expected.resize(found.len(), 0);
            assert!(found == expected, "{what}");
            assert_eq!(after.damage(), copy.damage(), "{what}");
        }
    }
}

#[test]
fn compressed_clusters_are_unpacked_where_they_are_written_to() {
    for (seed, options) in [
        (1, "cluster_size=4k"),
        (2, "cluster_size=64k"),
        (3, "cluster_size=4k,compression_type=zstd"),
    ] {
        let models = chain(&mut Rng::new(seed), 1, 900);
        let copy = Files::of(&models[1..], Format::Qcow2, options, true);
        let image = image_of(&models);
        let log = copy.apply(image.layers[0].source.as_ref(), Ids::New, None);
        let after = copy.with(&log.files()[0]);
        let found = content(after.open().source.as_ref());
        assert!(found == Model::flat(&models), "{options}");
        assert_eq!(after.damage(), [""; 0], "{options}");
    }
}

#[test]
fn whatever_a_crash_leaves_of_applying_is_finished_by_doing_it_again() {
    for (seed, (format, options, _)) in (10..).zip(COPIES) {
        let models = chain(&mut Rng::new(seed), 1, 260);
        let what = format!("{format} {options}");
        let copy = Files::of(&models[1..], *format, options, false);
        let image = image_of(&models);
        let delta = image.layers[0].source.as_ref();
        let log = copy.apply(delta, Ids::New, None);
        let (count, mut state) = (states(&log), 0);
        let mut expected = Model::flat(&models);
        log.crashes(|files, when| {
            state += 1;
            if !picked(state, 60, count) {
                return;
            }
            let again = copy.with(&files[0]).apply(delta, Ids::New, None);
            let after = copy.with(&again.files()[0]);
            let found = content(after.open().source.as_ref());
            expected.resize(found.len(), 0);
            assert!(found == expected, "{what}, {when}");
        });
    }
}

#[test]
fn a_disk_that_is_full_in_the_middle_leaves_what_can_be_finished() {
    for (seed, (format, options, _)) in (20..).zip(COPIES) {
        let models = chain(&mut Rng::new(seed), 1, 260);
        let what = format!("{format} {options}");
        let copy = Files::of(&models[1..], *format, options, false);
        let image = image_of(&models);
        let delta = image.layers[0].source.as_ref();
        let changes = copy.apply(delta, Ids::New, None).changes();
        let mut expected = Model::flat(&models);
        for stop in (0..changes).filter(|stop| picked(*stop, 25, changes)) {
            let begun = copy.apply(delta, Ids::New, Some(stop));
            let again = copy.with(&begun.files()[0]).apply(delta, Ids::New, None);
            let after = copy.with(&again.files()[0]);
            let found = content(after.open().source.as_ref());
            expected.resize(found.len(), 0);
            assert!(found == expected, "{what}, after {stop} changes");
        }
    }
}

#[test]
fn while_a_delta_is_merged_the_chain_shows_the_same_disk() {
    for (seed, (format, options, stands)) in (30..).zip(COPIES) {
        for below in 1..=2 {
            if below == 2 && !stands {
                continue;
            }
            let models = chain(&mut Rng::new(seed), below, 260);
            let what = format!("{format} {options} on {} layers", below - 1);
            let parent = Files::of(&models[1..], *format, options, false);
            let image = image_of(&models);
            let delta = image.layers[0].source.clone();
            let log = parent.apply(delta.as_ref(), Ids::Kept, None);
            let (count, mut state) = (states(&log), 0);
            let expected = Model::flat(&models);
            log.crashes(|files, when| {
                state += 1;
                if !picked(state, 150, count) {
                    return;
                }
                let crashed = parent.with(&files[0]).open();
                let chain = stacked(vec![delta.clone(), crashed.source.clone()]).unwrap();
                assert!(content(chain.as_ref()) == expected, "{what}, {when}");
                assert_eq!(
                    crashed.layers[0].info.identity,
                    parent.open().layers[0].info.identity,
                    "{what}"
                );
            });
            let after = parent.with(&log.files()[0]);
            let found = content(after.open().source.as_ref());
            let mut expected = expected;
            expected.resize(found.len(), 0);
            assert!(found == expected, "{what}");
            assert_eq!(after.damage(), parent.damage(), "{what}");
        }
    }
}
