//! The crate `vhdx` 0.1.0 as a reader that nobody here wrote: right up to 4 GiB, and the reason why it is not the reader here.

mod common;

use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::{Folder, run_ok, s};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A raw disk with 4 KiB that say where they are at each of `places`, and zeros elsewhere; and the VHDX of it.
fn made(folder: &Folder, size: u64, places: &[u64]) -> std::path::PathBuf {
    let raw = folder.file("disk.raw");
    let file = std::fs::File::create(&raw).expect("create");
    file.set_len(size).expect("length");
    for place in places {
        file.write_all_at(&marked(*place), *place).expect("write");
    }
    let image = folder.file("disk.vhdx");
    run_ok(&["convert", "--force", s(&raw), s(&image)]);
    image
}

fn marked(place: u64) -> Vec<u8> {
    (place | 1).to_le_bytes().repeat(512)
}

/// What the crate finds at `place`.
fn read(image: &Path, place: u64) -> Vec<u8> {
    let mut disk = vhdx::Vhdx::load(image);
    let mut reader = disk.reader();
    reader.seek(SeekFrom::Start(place)).expect("seek");
    let mut bytes = vec![0xEE; 4096];
    reader.read_exact(&mut bytes).expect("read");
    bytes
}

#[test]
fn the_crate_reads_what_is_written_below_4_gib() {
    let folder = Folder::new();
    let places = [0, 4096, MIB, 3 * MIB + 8192, GIB, 4 * GIB - 4096];
    let image = made(&folder, 4 * GIB, &places);
    for place in places {
        assert_eq!(read(&image, place), marked(place), "{place}");
    }
    for hole in [512 * 1024, 2 * GIB] {
        assert_eq!(read(&image, hole), [0; 4096], "{hole}");
    }
}

/// Its arithmetic forgets that each chunk of the BAT ends with an entry of another kind. Should this test fail because the
/// crate was mended, ARCHITECTURE.md has a sentence too many.
#[test]
fn the_crate_goes_wrong_beyond_4_gib() {
    let folder = Folder::new();
    let place = 4 * GIB + 2 * MIB;
    let image = made(&folder, 6 * GIB, &[place]);
    let found = std::panic::catch_unwind(|| read(&image, place));
    assert!(found.is_err() || found.is_ok_and(|bytes| bytes != marked(place)));
    let raw = folder.file("back.raw");
    run_ok(&["convert", s(&image), s(&raw)]);
    let mut bytes = vec![0; 4096];
    let file = std::fs::File::open(&raw).expect("open");
    file.read_exact_at(&mut bytes, place).expect("read");
    assert_eq!(bytes, marked(place));
}
