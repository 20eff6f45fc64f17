//! Every target against a model in memory: whatever is placed and zeroed, in whatever pieces, is what is read back, and
//! nothing in the file stands on top of something else.

mod common;

use std::ops::Range;
use std::sync::Mutex;

use common::{Random, open};
use formats::reader::read_guest;
use formats::storage::MemoryTarget;
use formats::{BlockSource, Format, Identity, Options, Result, WritableStorage, driver, run_at};

/// Images of each kind.
const ROUNDS: u64 = 60;

const IDENTITY: Identity = Identity {
    id: [9; 16],
    unix_time: 1_700_000_000,
};

/// A file in memory that notes what is written where.
#[derive(Default)]
struct Noting {
    file: MemoryTarget,
    written: Mutex<Vec<Range<u64>>>,
}

impl WritableStorage for Noting {
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        if !bytes.is_empty() {
            self.note(offset, bytes.len() as u64);
        }
        self.file.write_at(bytes, offset)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.file.set_len(len)
    }
}

impl Noting {
    fn note(&self, offset: u64, len: u64) {
        let mut written = self.written.lock().expect("nobody panicked");
        written.push(offset..offset + len);
    }

    fn check_disjoint(&self, what: &str) {
        let mut written = self.written.lock().expect("nobody panicked");
        written.sort_by_key(|range| range.start);
        for pair in written.windows(2) {
            assert!(pair[0].end <= pair[1].start, "{what}: {pair:?}");
        }
    }
}

/// What the guest wrote: offsets and bytes, ascending.
type Model = Vec<(u64, Vec<u8>)>;

/// Ascending pieces of a disk of `size` bytes, of lengths up to `longest`, most of them not placed when it is huge.
fn random_model(random: &mut Random, size: u64, longest: u64) -> Model {
    let mut model = Model::new();
    let mut at = 0;
    let grain = random.pick(&[1, 512, 512, 4096]);
    while at < size && model.len() < 60 {
        let len = (1 + random.below(longest) / grain)
            .saturating_mul(grain)
            .min(size - at);
        if len <= 300_000 && !random.one_in(3) {
            let bytes = random.bytes(len as usize);
            model.push((at, bytes));
        }
        at += len;
    }
    model
}

/// Writes `model` as the engine does: pieces and the zeros between them, in order, and tables as they are ready.
fn write(format: Format, size: u64, options: &[String], model: &Model, what: &str) -> Vec<u8> {
    let driver = driver(format);
    let options = Options::new(driver.options(), options).expect("options");
    let mut target = driver
        .target(size, &options, "a".as_ref())
        .expect("a target");
    let (exact, target_size) = (target.exact_length(), target.size());
    assert!(target_size >= size, "{what}");
    let out = Noting::default();
    let mut done = 0;
    let end = (size, Vec::new());
    for (offset, bytes) in model.iter().chain([&end]) {
        if *offset > done
            && let Some(zeros) = target.zero(done, offset - done).expect("zero")
        {
            out.note(zeros.start, zeros.end - zeros.start);
        }
        done = *offset;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let placed = target.place(done, rest.len() as u64).expect("a place");
            assert!((1..=rest.len() as u64).contains(&placed.len), "{what}");
            let (now, later) = rest.split_at(placed.len as usize);
            out.write_at(now, placed.offset).expect("write");
            done += placed.len;
            rest = later;
            for table in target.take_tables() {
                out.write_at(&table.bytes, table.offset).expect("write");
            }
        }
    }
    let summary = target.finish(&IDENTITY, &out).expect("finish");
    out.check_disjoint(what);
    let file = out.file.into_bytes();
    assert_eq!(summary.file_size, file.len() as u64, "{what}");
    assert!(
        exact.is_none_or(|exact| exact == summary.file_size),
        "{what}"
    );
    file
}

/// The disk is `model`, and zeros wherever that says nothing.
fn check(source: &dyn BlockSource, model: &Model, what: &str) {
    let mut done = 0;
    for (offset, bytes) in model {
        check_zeros(source, done..*offset, what);
        let mut read = vec![0xEE; bytes.len()];
        read_guest(source, *offset, &mut read).expect("read");
        assert!(read == *bytes, "{what}: at {offset}");
        done = offset + bytes.len() as u64;
    }
    check_zeros(source, done..source.size(), what);
}

fn check_zeros(source: &dyn BlockSource, range: Range<u64>, what: &str) {
    let mut at = range.start;
    while at < range.end {
        let run = run_at(source, at, range.end - at).expect("a run");
        if !run.mapping.reads_zero() {
            let mut read = vec![0xEE; run.len as usize];
            read_guest(source, at, &mut read).expect("read");
            assert!(read.iter().all(|byte| *byte == 0), "{what}: at {at}");
        }
        at += run.len;
    }
}

fn round_trips(format: Format, choices: &[&str], sizes: &[u64]) {
    let mut random = Random::new(format as u64 + 77);
    for round in 0..ROUNDS {
        let most = random.pick(sizes);
        let size = 1 + random.below(most);
        let options: Vec<String> = match random.pick(choices) {
            "" => Vec::new(),
            option => vec![option.to_owned()],
        };
        let longest = random.pick(&[3_000, 100_000, size / 20 + 1]);
        let model = random_model(&mut random, size, longest);
        let what = format!("{format} round {round}: {size} bytes, {options:?}");
        let file = write(format, size, &options, &model, &what);
        // Without a magic a raw disk is whatever is said.
        let image = open(file, Some(format), false).expect(&what);
        assert!(
            image.source.size() >= size && image.source.size() < size + 512,
            "{what}"
        );
        assert!(image.layers[0].info.warnings.is_empty(), "{what}");
        check(image.source.as_ref(), &model, &what);
    }
}

const SMALL: &[u64] = &[600, 100_000, 3 << 20];
const LARGE: &[u64] = &[600, 100_000, 3 << 20, 5 << 30, 2000 << 30];

#[test]
fn a_raw_disk_holds_what_was_placed() {
    round_trips(Format::Raw, &[""], SMALL);
}

#[test]
fn a_fixed_vhd_holds_what_was_placed() {
    round_trips(Format::Vhd, &["subformat=fixed"], SMALL);
}

#[test]
fn a_dynamic_vhd_holds_what_was_placed() {
    let blocks = [
        "",
        "block_size=128k",
        "block_size=256k",
        "block_size=1M",
        "block_size=2M",
    ];
    round_trips(Format::Vhd, &blocks, LARGE);
    round_trips(Format::Vhd, &["block_size=64k"], SMALL);
}

#[test]
fn a_qcow2_holds_what_was_placed() {
    let clusters = [
        "",
        "cluster_size=8k",
        "cluster_size=32k",
        "cluster_size=512k",
        "cluster_size=2M",
    ];
    round_trips(Format::Qcow2, &clusters, LARGE);
    let small = [
        "cluster_size=512",
        "cluster_size=1k",
        "cluster_size=2k",
        "cluster_size=4k",
    ];
    round_trips(Format::Qcow2, &small, &[600, 100_000, 3 << 20, 5 << 30]);
}
