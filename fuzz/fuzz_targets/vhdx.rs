//! Changes of a VHDX that is sound otherwise: a differencing disk with sector bitmaps, and a log that puts its BAT in
//! place. The first byte: bit 1 is salvage. Then, one after the other: a place (one byte), where in it (two bytes), a
//! length (one byte), and that many bytes. The checksums of headers, region tables and the log are made right in the end.
#![no_main]

#[path = "../../formats/tests/common/mod.rs"]
mod common;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock};

use formats::options::Backing;
use formats::{Format, ImageId, MemoryStorage, OpenContext, Options, StorageRef, driver};

const MIB: usize = 1 << 20;
const PAGE: usize = 4096;
const HEADERS: [usize; 2] = [64 << 10, 128 << 10];
const REGIONS: [usize; 2] = [192 << 10, 256 << 10];
const REGION: usize = 64 << 10;
const LOG: usize = MIB;
const METADATA: usize = 2 * MIB;
const BAT: usize = 3 * MIB;

/// What changes may fall on.
const PLACES: [usize; 10] = [
    0,
    HEADERS[0],
    HEADERS[1],
    REGIONS[0],
    REGIONS[1],
    METADATA,
    METADATA + (64 << 10),
    BAT,
    LOG,
    LOG + PAGE,
];

static SEED: LazyLock<Vec<u8>> = LazyLock::new(seed);

fn seed() -> Vec<u8> {
    let vhdx = driver(Format::Vhdx);
    let backing = Backing {
        name: "base.vhdx".to_owned(),
        format: Format::Vhdx,
        identity: Some(ImageId::Uuid(Default::default())),
        disk_id: None,
        size: 4 << 20,
        sector_size: 512,
        block_size: MIB as u64,
        modified: None,
    };
    let options = Options::new(vhdx.options(), &[]).map(|options| options.over(Some(backing)));
    let mut target = options
        .and_then(|options| vhdx.target(4 << 20, &options, "a".as_ref()))
        .expect("a target");
    let out = formats::storage::MemoryTarget::default();
    target.place(4096, 8192).expect("a place");
    target.zero(MIB as u64, MIB as u64).expect("zeros");
    let identity = formats::Identity {
        id: [7; 16],
        unix_time: 0,
    };
    let head = target.head(&identity).expect("a head").unwrap_or_default();
    target.finish(&identity, &out).expect("an image");
    let mut image = out.into_bytes();
    common::patch(&mut image, 0, &head);
    add_log(&mut image);
    image
}

/// Moves the first page of the BAT into the log.
fn add_log(image: &mut [u8]) {
    let page = image[BAT..BAT + PAGE].to_vec();
    let len = (image.len() as u64).to_le_bytes();
    let guid = [3; 16];
    for header in HEADERS {
        common::patch(image, header + 48, &guid);
    }
    for (at, bytes) in [
        (0, &b"loge"[..]),
        (8, &(2 * PAGE as u32).to_le_bytes()),
        (16, &[1]),
        (24, &[1]),
        (32, &guid),
        (48, &len),
        (56, &len),
        (64, b"desc"),
        (68, &page[PAGE - 4..]),
        (72, &page[..8]),
        (80, &(BAT as u64).to_le_bytes()),
        (88, &[1]),
        (PAGE, b"data"),
        (PAGE + 8, &page[8..PAGE - 4]),
        (2 * PAGE - 4, &[1]),
    ] {
        common::patch(image, LOG + at, bytes);
    }
    image[BAT..BAT + PAGE].fill(0);
}

fn seal(image: &mut [u8], at: usize, len: usize) {
    if let Some(bytes) = image.get_mut(at..at + len) {
        bytes[4..8].fill(0);
        let sum = crc32c::crc32c(bytes).to_le_bytes();
        bytes[4..8].copy_from_slice(&sum);
    }
}

/// Checks the image and looks through it, without its parent.
fn look(image: Vec<u8>, salvage: bool) {
    let storage: StorageRef = Arc::new(MemoryStorage::new(image));
    let context = OpenContext {
        salvage,
        ..OpenContext::default()
    };
    let vhdx = driver(Format::Vhdx);
    let checked = vhdx.check(&storage, &context, &AtomicBool::new(false));
    let opened = vhdx.open(storage, &context);
    for error in checked.err().iter().chain(opened.as_ref().err()) {
        assert!(!error.to_string().is_empty());
    }
    if let Ok(layer) = opened {
        common::look_through(layer.source.as_ref());
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((how, mut rest)) = data.split_first() else {
        return;
    };
    let mut image = SEED.clone();
    while let [place, low, high, len, others @ ..] = rest {
        let (bytes, others) = others.split_at(others.len().min(usize::from(*len)));
        let within = usize::from(u16::from_le_bytes([*low, *high]));
        let start = PLACES[usize::from(*place) % PLACES.len()];
        common::patch(&mut image, start + within, bytes);
        rest = others;
    }
    let entry = common::le32(&image, LOG + 8) as usize;
    seal(&mut image, LOG, entry.clamp(PAGE, MIB));
    HEADERS.iter().for_each(|at| seal(&mut image, *at, PAGE));
    REGIONS.iter().for_each(|at| seal(&mut image, *at, REGION));
    look(image, how & 2 != 0);
});
