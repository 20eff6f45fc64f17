//! A few thousand random changes of the headers and tables of every kind of image: none may panic, hang, or take memory
//! that the image has no right to. Seeded: the same changes on every machine.

mod common;

use std::time::Duration;

use common::{
    Random, Seen, be32, be64, exercise, is_orphan, luks, patch, samples, vdi, vhd, vhdx, vmdk,
};
use formats::{Format, OpenContext, driver, open_storage};

/// Mutants of each sample.
const ROUNDS: u64 = 3_000;

/// Processor time that one mutant may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// Memory that the test may have taken at its peak, in KiB.
const MEMORY: u64 = 256 << 10;

/// Numbers at which parsers stumble.
const NUMBERS: [u64; 22] = [
    0,
    1,
    2,
    3,
    7,
    8,
    9,
    21,
    22,
    64,
    511,
    512,
    513,
    4096,
    65536,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    1 << 56,
    0x7FFF_FFFF_FFFF_FFFF,
    1 << 63,
    u64::MAX,
];

/// The parts of a sample that are headers and tables: offset and length.
fn structures(format: Format, image: &[u8]) -> Vec<(usize, usize)> {
    let footer = (image.len().saturating_sub(512), 96);
    match format {
        Format::Vhd if image.starts_with(b"conectix") => {
            let bitmap = be32(image, vhd::TABLE) as usize * 512;
            let locators = (512 + 576, 96);
            let table = (vhd::TABLE, 64);
            vec![footer, (0, 96), (512, 64), locators, table, (bitmap, 16)]
        }
        Format::Vhd => vec![footer],
        Format::Vmdk => vmdk::structures(image),
        Format::Vdi => vdi::structures(image),
        Format::Vhdx => vhdx::structures(image),
        _ => {
            let cluster = 1 << be32(image, 20);
            let (l1, refcounts) = (be64(image, 40) as usize, be64(image, 48) as usize);
            let mut places = vec![
                (0, 112),
                (112, 64),
                (l1, 32),
                (l1 + cluster, 160),
                (refcounts, 16),
                (refcounts + cluster, 64),
            ];
            if be32(image, 60) > 0 {
                // The snapshots, and what the bitmaps extension leads to.
                let (snapshots, directory) = (be64(image, 64) as usize, be64(image, 136) as usize);
                let table = be64(image, directory) as usize;
                let entries = [(snapshots, 112), (snapshots, 112), (directory, 32)];
                places.extend(entries);
                places.extend([(60, 12), (112, 32), (directory, 32), (table, 8)]);
            }
            if be32(image, 32) == 2 {
                // The header and two of its slots, and where its slot's key material starts.
                let luks = luks::header_at(image);
                places.extend([(luks, 304), (luks, 304), (luks + 1024, 64)]);
            }
            places
        }
    }
}

/// A number that means something in this file, or next to it.
fn number(random: &mut Random, image: &[u8]) -> u64 {
    let len = image.len() as u64;
    match random.below(6) {
        0 => len.wrapping_add(random.below(3)).wrapping_sub(1),
        1 => random.below(len / 512 + 2) * 512,
        2 => random.below(len / 512 + 2),
        3 => random.word(),
        _ => random.pick(&NUMBERS),
    }
}

/// The lower `width` bytes of `number`, as the format has its numbers.
fn encoded(format: Format, number: u64, width: usize) -> Vec<u8> {
    match format {
        Format::Vmdk | Format::Vdi | Format::Vhdx => number.to_le_bytes()[..width].to_vec(),
        _ => number.to_be_bytes()[8 - width..].to_vec(),
    }
}

fn change(random: &mut Random, format: Format, image: &mut Vec<u8>, places: &[(usize, usize)]) {
    let (start, len) = random.pick(places);
    let at = start + random.below(len as u64) as usize;
    let number = number(random, image);
    match random.below(8) {
        0 | 1 => {
            if let Some(byte) = image.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        2 => patch(image, at & !3, &encoded(format, number, 4)),
        // The header of a sparse extent is packed to words of four bytes.
        3 if format == Format::Vmdk => patch(image, at & !3, &encoded(format, number, 8)),
        3 => patch(image, at & !7, &encoded(format, number, 8)),
        // The flags of an entry stay.
        4 if format == Format::Vmdk => patch(image, at & !7, &encoded(format, number, 6)),
        4 => patch(image, (at & !7) + 2, &encoded(format, number, 6)),
        5 => {
            let width = random.pick(&[4, 8, 16]);
            let (one, other) = (
                at / width * width,
                start + random.below(len as u64) as usize / width * width,
            );
            if one.max(other) + width <= image.len() {
                let bytes = image[one..one + width].to_vec();
                image.copy_within(other..other + width, one);
                patch(image, other, &bytes);
            }
        }
        6 => patch(image, at, &random.bytes(1 + at % 16)),
        _ if random.one_in(8) => image.truncate(random.below(image.len() as u64 + 1) as usize),
        _ => {
            // The same entry twice.
            if at + 16 <= image.len() {
                image.copy_within(at & !7..(at & !7) + 8, (at & !7) + 8);
            }
        }
    }
}

/// Peak of the memory that this process has had, in KiB.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a Linux /proc");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .expect("VmHWM");
    line.split_whitespace()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .expect("a number")
}

/// Processor time of this thread: how long a busy machine lets it wait says nothing.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("a Linux /proc");
    let nanoseconds = stat.split_whitespace().next().and_then(|n| n.parse().ok());
    Duration::from_nanos(nanoseconds.expect("a number"))
}

/// Runs the mutants of one sample; how many still opened.
fn run_mutants(seed: u64, name: &str, format: Format, sample: &[u8]) -> u64 {
    let places = structures(format, sample);
    let mut random = Random::new(seed);
    let mut opened = 0;
    let rounds = match sample.len() {
        ..0x10_0000 => ROUNDS,
        _ => ROUNDS / 3,
    };
    for round in 0..rounds {
        let mut image = sample.to_vec();
        for _ in 0..1 + random.below(4) {
            change(&mut random, format, &mut image, &places);
        }
        if format == Format::Vhd && !random.one_in(2) {
            vhd::fix_checksums(&mut image);
        }
        // Without right checksums little is reached.
        if format == Format::Vhdx && !random.one_in(8) {
            vhdx::built::fix_checksums(&mut image);
        }
        let salvage = random.one_in(3);
        let claimed = (!random.one_in(4)).then_some(format);
        let started = processor_time();
        opened += u64::from(exercise(image, claimed, salvage).is_some());
        let took = processor_time() - started;
        assert!(took < PATIENCE, "{name}, round {round}: {took:?}");
    }
    opened
}

#[test]
fn random_changes_neither_panic_nor_hang_nor_take_memory() {
    let mut opened = 0;
    for (seed, (name, format, sample)) in (1..).zip(samples()) {
        let mut of_this = run_mutants(seed, name, format, &sample);
        // A file without its parent does not open: without the last step it does.
        if is_orphan(name) {
            of_this += 100;
        }
        assert!(of_this >= 100, "{name}: only {of_this} mutants opened");
        opened += of_this;
    }
    assert!(opened > 3_000, "{opened}");
    let peak = peak_memory();
    assert!(peak < MEMORY, "{peak} KiB");
}

#[test]
fn the_samples_themselves_are_sound() {
    for (name, format, sample) in samples() {
        let image = match common::open(sample, Some(format), false) {
            Ok(image) => image,
            Err(error) => {
                assert!(is_orphan(name), "{name}: {error}");
                continue;
            }
        };
        let seen = common::look_through(image.source.as_ref());
        let Seen {
            runs,
            bytes,
            errors,
        } = seen;
        assert!(runs > 0 && bytes >= 2048 && errors == 0, "{name}: {seen:?}");
        // These are deltas by nature, and say that their descriptor is missing; or were not closed.
        let is_bare = matches!(name, "cowd.vmdk" | "sesparse.vmdk" | "logged.vhdx");
        let warnings = &image.layers[0].info.warnings;
        assert_eq!(warnings.len(), usize::from(is_bare), "{name}: {warnings:?}");
    }
}

#[test]
fn the_sample_with_a_history_has_one() {
    let image = common::qcow2::Builder {
        history: true,
        ..Default::default()
    };
    let bytes = image.build();
    common::check(&bytes, Format::Qcow2).expect("its structures can be followed");
    let storage = vmdk::memory(bytes);
    let mut dirty = Vec::new();
    driver(Format::Qcow2)
        .dirty_ranges(&storage, common::qcow2::BITMAP, &mut |range| {
            dirty.push(range)
        })
        .expect("a bitmap");
    assert_eq!(dirty.first(), Some(&(0..512)));
    for (snapshot, size) in [("1", image.size), ("two", image.size / 2)] {
        let context = OpenContext {
            snapshot: Some(snapshot.to_owned()),
            ..OpenContext::default()
        };
        let opened = open_storage(storage.clone(), Some(Format::Qcow2), &context);
        assert_eq!(opened.expect(snapshot).source.size(), size, "{snapshot}");
    }
}

#[test]
fn every_cut_of_every_sample_is_survived() {
    for (name, format, sample) in samples() {
        // A VHDX is mostly nothing.
        let step = 97.max((sample.len() / 300) | 1);
        for len in (0..sample.len()).step_by(step) {
            for salvage in [false, true] {
                let cut = sample[..len].to_vec();
                let seen = exercise(cut, Some(format), salvage);
                if name == "fixed.vhd" {
                    assert!(seen.is_none(), "{name} cut to {len} bytes opened");
                }
            }
        }
    }
}
