//! Small images of every kind, and a bounded look at what a damaged one leads to.

// Each test file is a program of its own and uses a part of this; so do the fuzz targets.
#![allow(dead_code)]

pub mod in_place;
pub mod luks;
pub mod package;
pub mod qcow2;
pub mod vdi;
pub mod vhd;
pub mod vhdx;
pub mod vmdk;
pub mod written;

use std::sync::atomic::AtomicBool;

use formats::{
    BlockSource, Finding, Format, Image, OpenContext, Passphrase, ReferencePolicy, Result,
    RunReader, driver, open_storage, run_at,
};

/// Runs that are asked for of one image.
const RUNS: usize = 20_000;

/// Guest bytes that are read of one image.
const BYTES: u64 = 2 << 20;

/// Bytes of one run that are read at once.
const PIECE: u64 = 64 << 10;

/// Errors after which nobody goes on.
const ERRORS: usize = 64;

/// What a look at an image met.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub runs: usize,
    pub bytes: u64,
    pub errors: usize,
}

/// PBKDF2 iterations that an encrypted image may ask for.
const ITERATIONS: u64 = 10_000;

/// Opens `bytes` as an image; the files beside it are [`vmdk::files`], the passphrase is that of [`luks::image`].
pub fn open(bytes: Vec<u8>, format: Option<Format>, salvage: bool) -> Result<Image> {
    open_storage(vmdk::memory(bytes), format, &context(salvage))
}

fn context(salvage: bool) -> OpenContext {
    OpenContext {
        references: ReferencePolicy::only(vmdk::files()),
        salvage,
        passphrase: Some(Passphrase::new(luks::PASSPHRASE.to_vec()).with_patience(ITERATIONS)),
        ..OpenContext::default()
    }
}

/// What checking `bytes` brings up, besides what reading them does.
pub fn check(bytes: &[u8], format: Format) -> Result<Vec<Finding>> {
    let storage = vmdk::memory(bytes.to_vec());
    let report = driver(format).check(&storage, &context(false), &AtomicBool::new(false));
    Ok(report?.findings)
}

/// Maps a disk to its end, or as far as is sensible, and reads some of it. Past an error, which says where it is, it goes
/// on with the next block, as `--salvage` does.
pub fn look_through(source: &dyn BlockSource) -> Seen {
    let mut seen = Seen::default();
    let mut reader = RunReader::new();
    let mut buffer = vec![0; PIECE as usize];
    let mut offset = 0;
    while offset < source.size() && seen.runs < RUNS && seen.errors < ERRORS {
        seen.runs += 1;
        let limit = if seen.bytes < BYTES { PIECE } else { u64::MAX };
        let run = match run_at(source, offset, limit) {
            Ok(run) => run,
            Err(error) => {
                assert!(!error.structure().is_empty(), "{error}");
                assert!(error.path().is_some(), "no file: {error}");
                assert!(error.offset().is_some(), "no offset: {error}");
                seen.errors += 1;
                let block = source.block_size().max(512);
                offset += block - offset % block;
                continue;
            }
        };
        if !run.mapping.reads_zero() && seen.bytes < BYTES {
            let piece = &mut buffer[..run.len.min(PIECE) as usize];
            match reader.read(&run, piece) {
                Ok(()) => seen.bytes += piece.len() as u64,
                Err(_) => seen.errors += 1,
            }
        }
        offset += run.len;
    }
    seen
}

/// Looks at the snapshots and the bitmap of a qcow2 image, as far as it has them.
fn look_back(bytes: &[u8], format: Format, salvage: bool) {
    let storage = vmdk::memory(bytes.to_vec());
    let (mut ranges, mut dirty) = (0, 0);
    let visited = driver(format).dirty_ranges(&storage, qcow2::BITMAP, &mut |range| {
        ranges += 1;
        dirty += range.end - range.start;
    });
    match visited {
        Ok(()) => assert!(dirty >= ranges),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    for snapshot in ["1", "two"] {
        let context = OpenContext {
            snapshot: Some(snapshot.to_owned()),
            detailed: true,
            ..context(salvage)
        };
        if let Ok(image) = open_storage(storage.clone(), Some(format), &context) {
            look_through(image.source.as_ref());
        }
    }
}

/// Opens and checks `bytes` and looks through what there is: nothing of it may panic, hang or take much memory.
pub fn exercise(bytes: Vec<u8>, format: Option<Format>, salvage: bool) -> Option<Seen> {
    if let Some(Err(error)) = format.map(|format| check(&bytes, format)) {
        assert!(!error.to_string().is_empty());
    }
    // Most images have neither.
    if let Some(format) = format
        && bytes.get(60..64).is_some_and(|count| count != [0; 4])
    {
        look_back(&bytes, format, salvage);
    }
    match open(bytes, format, salvage) {
        Ok(image) => Some(look_through(image.source.as_ref())),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            None
        }
    }
}

/// The whole guest content.
pub fn content(image: &Image) -> Result<Vec<u8>> {
    let mut bytes = vec![0xEE; image.source.size() as usize];
    formats::reader::read_guest(image.source.as_ref(), 0, &mut bytes)?;
    Ok(bytes)
}

/// Numbers that look random and are the same everywhere (xorshift64*, by G. Marsaglia and S. Vigna).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn word(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        (self.word() >> 16) % bound
    }

    pub fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }

    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend(self.word().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

/// Writes `bytes` at `at`, as far as there is room.
pub fn patch(image: &mut [u8], at: usize, bytes: &[u8]) {
    for (to, from) in image.iter_mut().skip(at).zip(bytes) {
        *to = *from;
    }
}

/// The little-endian number at `at`; 0 where there is none.
pub fn le64(image: &[u8], at: usize) -> u64 {
    let bytes = image.get(at..).and_then(|rest| rest.first_chunk());
    bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// The little-endian number at `at`; 0 where there is none.
pub fn le32(image: &[u8], at: usize) -> u32 {
    let bytes = image.get(at..).and_then(|rest| rest.first_chunk());
    bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// The big-endian number at `at`.
pub fn be64(image: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&image[at..at + 8]);
    u64::from_be_bytes(bytes)
}

/// The big-endian number at `at`.
pub fn be32(image: &[u8], at: usize) -> u32 {
    (be64(image, at) >> 32) as u32
}

/// Whether a sample stands on a file that nobody has.
pub fn is_orphan(name: &str) -> bool {
    name.starts_with("differencing.") || name == "backing.qcow2"
}

/// What an image holds, for messages and for names of files: one of each kind.
pub fn samples() -> Vec<(&'static str, Format, Vec<u8>)> {
    let mut all = vec![
        ("fixed.vhd", Format::Vhd, vhd::fixed()),
        ("dynamic.vhd", Format::Vhd, vhd::dynamic()),
        ("differencing.vhd", Format::Vhd, vhd::differencing()),
    ];
    all.extend(qcow2::kinds().map(|(name, builder)| (name, Format::Qcow2, builder.build())));
    let vmdks = vmdk::kinds().into_iter();
    all.extend(vmdks.map(|(name, image)| (name, Format::Vmdk, image)));
    all.push(("luks.qcow2", Format::Qcow2, luks::image()));
    let vdis = vdi::kinds().into_iter();
    all.extend(vdis.map(|(name, builder)| (name, Format::Vdi, builder.build())));
    let vhdxs = vhdx::kinds().into_iter();
    all.extend(vhdxs.map(|(name, image)| (name, Format::Vhdx, image)));
    all
}
