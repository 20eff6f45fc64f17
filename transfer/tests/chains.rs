//! Chains of random layers against a model in memory: flattened, layer by layer, and kept as chains in every format.

mod common;

use std::path::Path;
use std::sync::Arc;

use common::layers::{Model, Rng, image_of};
use formats::open::open;
use formats::reader::read_guest;
use formats::{
    BlockSource, Format, Image, LayerChoice, Mapping, OpenContext, Options, driver, run_at,
};
use transfer::{ChainPlace, CopyOptions, LayerDone, Progress, Setting, convert_chain};

/// Formats that can hold a chain, with options, and the unit in bytes in which their overlays tell what they define.
const TARGETS: &[(Format, &str, bool, u64)] = &[
    (Format::Qcow2, "", false, 64 << 10),
    (Format::Qcow2, "", true, 64 << 10),
    (Format::Qcow2, "cluster_size=512", false, 512),
    (Format::Qcow2, "compat=0.10", false, 64 << 10),
    (Format::Qcow2, "cluster_size=2M", false, 2 << 20),
    (Format::Qcow2, "extended_l2=on", false, 64 << 10),
    (Format::Vhd, "", false, 4096),
    (Format::Vhd, "block_size=64k", false, 4096),
    (Format::Vhdx, "", false, 4096),
    (Format::Vhdx, "block_size=1M", false, 4096),
];

fn setting<T>(job: impl FnOnce(&Setting<'_>) -> T) -> T {
    job(&Setting {
        threads: 3,
        cancel: &false.into(),
        progress: &Progress::default(),
        salvage: None,
    })
}

fn names(count: usize, format: Format) -> Vec<String> {
    (0..count).map(|n| format!("layer{n}.{format}")).collect()
}

fn keep(
    image: &Image,
    (format, pairs, compress, _): (Format, &str, bool, u64),
    folder: &Path,
    options: &CopyOptions,
) -> transfer::Result<Vec<LayerDone>> {
    let pairs: Vec<String> = pairs.split_terminator(',').map(str::to_owned).collect();
    let format_options = Options::new(driver(format).options(), &pairs)
        .unwrap()
        .compressed(compress);
    let names = names(image.layers.len(), format);
    let place = ChainPlace {
        folder,
        names: &names,
        force: false,
    };
    setting(|setting| convert_chain(image, format, &format_options, &place, options, setting))
}

fn verified() -> CopyOptions {
    CopyOptions {
        verify: true,
        ..CopyOptions::default()
    }
}

/// The bytes of `source`, up to `len` of them, and whether the rest is zeros.
fn bytes(source: &dyn BlockSource, len: usize) -> Vec<u8> {
    let mut all = vec![0xEE; source.size() as usize];
    read_guest(source, 0, &mut all).unwrap();
    assert!(all.iter().skip(len).all(|byte| *byte == 0), "padding");
    all.resize(len, 0);
    all
}

/// The chain in `folder` is that of `models`, to its guest, and layer by layer.
fn is_chain(folder: &Path, format: Format, unit: u64, models: &[Model], what: &str) {
    for (number, model) in models.iter().enumerate() {
        let tip = folder.join(format!("layer{number}.{format}"));
        let image = open(&tip, None, &OpenContext::default()).unwrap();
        assert_eq!(image.layers.len(), models.len() - number, "{what}");
        let expected = Model::flat(&models[number..]);
        let found = bytes(image.source.as_ref(), expected.len());
        assert!(found == expected, "{what}: layer {number} as the tip");
        assert!(image.source.size() < model.size() + 512, "{what}");
        let below = models.get(number + 1).map_or(0, Model::size);
        defines(image.layers[0].source.as_ref(), model, below, unit, what);
    }
    for number in 0..models.len() {
        one_layer(folder, format, number, models, what);
    }
}

/// The layer `own` defines the units of which `model` defines a part, and no others.
fn defines(own: &dyn BlockSource, model: &Model, below: u64, unit: u64, what: &str) {
    if below == 0 && !model.is_delta() {
        return;
    }
    let mut at = 0;
    while at < model.size() {
        let end = (at + unit).min(own.size());
        let run = run_at(own, at, end - at).unwrap();
        let is_absent = matches!(run.mapping, Mapping::Absent);
        // Past the end of the parent nothing is nothing, however it is said.
        if at < below / unit * unit && end <= model.size() {
            let expected = model.defines(at..end);
            assert_eq!(!is_absent, expected, "{what}: {at}");
        }
        at = end;
    }
}

/// `--layer`: what one layer defines, and zeros for the rest.
fn one_layer(folder: &Path, format: Format, number: usize, models: &[Model], what: &str) {
    let tip = folder.join(format!("layer0.{format}"));
    let name = format!("layer{number}.{format}");
    let by_number = LayerChoice::Number(number);
    let read = [by_number, LayerChoice::Name(name.clone())].map(|layer| {
        let context = OpenContext {
            layer: Some(layer),
            ..OpenContext::default()
        };
        let image = open(&tip, None, &context).unwrap();
        assert_eq!(image.layers.len(), 1);
        assert!(image.layers[0].path.ends_with(&name));
        bytes(image.source.as_ref(), models[number].size() as usize)
    });
    assert!(read[0] == read[1]);
    let flat = Model::flat(&models[number..]);
    for (range, byte) in models[number].sectors() {
        let found = &read[0][range.clone()];
        // What it leaves out is completed from below, or nothing.
        let is_right = match byte {
            Some(byte) => found.iter().all(|b| *b == byte),
            None => found.iter().all(|b| *b == 0) || *found == flat[range.clone()],
        };
        assert!(is_right, "{what}: {range:?}");
    }
}

#[test]
fn random_chains_are_kept_in_every_format() {
    for seed in 0..10 {
        let mut random = Rng::new(seed);
        let models = Model::chain(&mut random, 1);
        let image = image_of(&models);
        let flat = bytes(image.source.as_ref(), models[0].size() as usize);
        assert!(flat == Model::flat(&models));
        for target in TARGETS {
            let what = format!("seed {seed}, {target:?}");
            let folder = tempfile::tempdir().unwrap();
            let done = keep(&image, *target, folder.path(), &verified());
            let done = done.unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(done.len(), models.len());
            is_chain(folder.path(), target.0, target.3, &models, &what);
        }
    }
}

#[test]
fn chains_of_real_files_are_kept_from_every_format_in_every_other() {
    for seed in 100..102 {
        let mut random = Rng::new(seed);
        let models = Model::chain(&mut random, 512);
        let image = image_of(&models);
        for from in TARGETS {
            let first = tempfile::tempdir().unwrap();
            keep(&image, *from, first.path(), &CopyOptions::default()).unwrap();
            let tip = first.path().join(format!("layer0.{}", from.0));
            let opened = open(&tip, None, &OpenContext::default()).unwrap();
            for to in TARGETS.iter().step_by(2) {
                let what = format!("seed {seed}, {from:?} to {to:?}");
                let second = tempfile::tempdir().unwrap();
                keep(&opened, *to, second.path(), &verified())
                    .unwrap_or_else(|e| panic!("{what}: {e}"));
                for number in 0..models.len() {
                    let tip = second.path().join(format!("layer{number}.{}", to.0));
                    let image = open(&tip, None, &OpenContext::default()).unwrap();
                    let expected = Model::flat(&models[number..]);
                    let found = bytes(image.source.as_ref(), expected.len());
                    assert!(found == expected, "{what}: layer {number}");
                }
            }
        }
    }
}

#[test]
fn zeros_over_data_stay_zeros_and_cost_nothing() {
    // A layer that says zeros all over, in three ways: one entry, one place, many bytes.
    let size = 8 << 20;
    let models = [0, 7].map(|byte| Model::filled(Some(byte), size));
    let image = image_of(&models);
    for (format, most) in [(Format::Qcow2, 1 << 20), (Format::Vhdx, 8 << 20)] {
        let folder = tempfile::tempdir().unwrap();
        let target = (format, "", false, 4096);
        let done = keep(&image, target, folder.path(), &verified()).unwrap();
        assert_eq!(done[0].zero_bytes, size as u64);
        assert_eq!(done[0].data_bytes, 0);
        assert!(done[0].file_size <= most, "{}", done[0].file_size);
    }
    let folder = tempfile::tempdir().unwrap();
    let target = (Format::Vhd, "", false, 4096);
    keep(&image, target, folder.path(), &verified()).unwrap();
    let tip = folder.path().join("layer0.vhd");
    use std::os::unix::fs::MetadataExt;
    let stored = std::fs::metadata(tip).unwrap().blocks() * 512;
    assert!(stored < 1 << 20, "{stored} bytes");
}

#[test]
fn nothing_below_is_read_but_what_completes_a_unit() {
    // A parent whose map fails everywhere but in one cluster.
    struct Guarded(Arc<dyn BlockSource>, std::ops::Range<u64>);
    impl BlockSource for Guarded {
        fn size(&self) -> u64 {
            self.0.size()
        }
        fn block_size(&self) -> u64 {
            512
        }
        fn map(&self, offset: u64, limit: u64) -> formats::Result<formats::Run> {
            assert!(self.1.contains(&offset), "{offset} is not needed");
            self.0.map(offset, limit.min(self.1.end - offset))
        }
    }
    let unit = 64 << 10;
    let mut tip = vec![None; (16 << 20) / 512];
    tip[5 * 128 + 1] = Some(9);
    tip[9 * 128..11 * 128].fill(Some(8));
    let base = Model::filled(Some(7), 16 << 20);
    let models = [Model::new(tip, 16 << 20), base];
    let image = image_of(&models);
    let (layer, base) = (&image.layers[0].source, &image.layers[1].source);
    let needed = 5 * unit as u64..6 * unit as u64;
    let guarded: Arc<dyn BlockSource> = Arc::new(Guarded(base.clone(), needed));
    let delta = formats::Delta::new(layer.clone(), guarded, unit as u64, 16 << 20);
    let mut defined = 0;
    let mut at = 0;
    while at < 16 << 20 {
        let run = run_at(&delta, at, u64::MAX).unwrap();
        if !matches!(run.mapping, Mapping::Absent) {
            defined += run.len;
        }
        at += run.len;
    }
    assert_eq!(defined, 3 * unit as u64);
}

#[test]
fn the_same_chain_is_the_same_bytes() {
    let models = Model::chain(&mut Rng::new(42), 1);
    let image = image_of(&models);
    for target in TARGETS {
        let read = [1, 2].map(|_| {
            let folder = tempfile::tempdir().unwrap();
            let options = CopyOptions {
                reproducible: Some(1_700_000_000),
                ..CopyOptions::default()
            };
            keep(&image, *target, folder.path(), &options).unwrap();
            names(models.len(), target.0)
                .iter()
                .map(|name| std::fs::read(folder.path().join(name)).unwrap())
                .collect::<Vec<_>>()
        });
        assert!(read[0] == read[1], "{target:?}");
    }
}

#[test]
fn layers_that_hold_the_same_have_ids_of_their_own() {
    let models = [None, None, Some(7)].map(|byte| Model::filled(byte, 1 << 20));
    let image = image_of(&models);
    for format in [Format::Vhd, Format::Vhdx] {
        let folder = tempfile::tempdir().unwrap();
        let options = CopyOptions {
            reproducible: Some(0),
            ..verified()
        };
        let target = (format, "", false, 4096);
        keep(&image, target, folder.path(), &options).unwrap();
        let tip = folder.path().join(format!("layer0.{format}"));
        let opened = open(&tip, None, &OpenContext::default()).unwrap();
        let mut ids: Vec<_> = opened.layers.iter().map(|l| l.info.identity).collect();
        ids.dedup();
        assert_eq!(ids.len(), 3);
        assert!(ids.iter().all(Option::is_some));
    }
}

#[test]
fn a_format_without_overlays_makes_no_file() {
    let models = Model::chain(&mut Rng::new(3), 512);
    let models = [&models[..], &models[..1]].concat();
    let image = image_of(&models);
    for format in [Format::Raw, Format::Vmdk, Format::Vdi] {
        let folder = tempfile::tempdir().unwrap();
        let target = (format, "", false, 512);
        let error = keep(&image, target, folder.path(), &verified()).unwrap_err();
        assert_eq!(error.kind(), Some(formats::ErrorKind::Usage), "{format}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_child_knows_when_its_parent_was_written() {
    let models = [None, Some(1)].map(|byte| Model::filled(byte, 4096));
    let image = image_of(&models);
    let folder = tempfile::tempdir().unwrap();
    let target = (Format::Vhd, "", false, 4096);
    keep(&image, target, folder.path(), &verified()).unwrap();
    let tip = folder.path().join("layer0.vhd");
    let opened = open(&tip, None, &OpenContext::default()).unwrap();
    let known = opened.layers[0].parent.as_ref().and_then(|p| p.modified);
    assert!(known.is_some());
    assert_eq!(known, opened.layers[1].modified());
}
