//! Every image that diskferry writes, read by programs that nobody here wrote.

mod common;

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use common::peers::{Readers, qemu_check, qemu_finds_equal, qemu_img, qemu_size, seven_zip_agrees};
use common::{Folder, convert, have, make_disk, noise};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Streams of this size at most are read to the end by 7-Zip.
const STREAMED: u64 = 2 << 30;
/// Disks of this size at most are read whole by the Python readers.
const HASHED: u64 = 64 * MIB;

/// One kind of target: format, and options for it.
struct Kind {
    format: &'static str,
    options: String,
}

impl Kind {
    fn new(format: &'static str, options: impl Into<String>) -> Kind {
        Kind {
            format,
            options: options.into(),
        }
    }

    fn make(&self, raw: &Path, folder: &Folder) -> PathBuf {
        let name = self.options.replace(['=', ','], "-");
        let target = folder.file(&format!("{name}.{}", self.format));
        let mut arguments = vec!["-f", "raw", "-O", self.format, "--force"];
        if !self.options.is_empty() {
            arguments.extend(["-o", &self.options]);
        }
        convert(raw, &target, &arguments);
        target
    }
}

/// What is made of a disk of any size.
fn main_kinds() -> Vec<Kind> {
    vec![
        Kind::new("vhd", "subformat=dynamic"),
        Kind::new("vhd", "subformat=fixed"),
        Kind::new("qcow2", ""),
        Kind::new("vdi", "subformat=dynamic"),
        Kind::new("vdi", "subformat=fixed"),
    ]
}

/// Every cluster size and block size.
fn all_granularities() -> Vec<Kind> {
    let clusters = (9..=21).map(|bits| Kind::new("qcow2", format!("cluster_size={}", 1 << bits)));
    let blocks = ["512k", "1M", "2M"]
        .map(|size| Kind::new("vhd", format!("subformat=dynamic,block_size={size}")));
    clusters.chain(blocks).collect()
}

fn vmdks(subformats: &[&str]) -> Vec<Kind> {
    subformats
        .iter()
        .map(|subformat| Kind::new("vmdk", format!("subformat={subformat}")))
        .collect()
}

fn all_vmdks() -> Vec<Kind> {
    let flat = vmdks(&["monolithicFlat", "twoGbMaxExtentFlat", "vmfs"]);
    growing_vmdks().into_iter().chain(flat).collect()
}

/// Those whose size follows their content.
fn growing_vmdks() -> Vec<Kind> {
    vmdks(&[
        "monolithicSparse",
        "twoGbMaxExtentSparse",
        "streamOptimized",
    ])
}

/// Those that are cut at [`SPLIT`].
fn split_vmdks() -> Vec<Kind> {
    vmdks(&["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"])
}

/// Block sizes from end to end, and both kinds.
fn vhdxs() -> Vec<Kind> {
    [
        "",
        "block_size=1M",
        "block_size=16M,physical_sector_size=512",
        "subformat=fixed",
    ]
    .map(|options| Kind::new("vhdx", options))
    .into()
}

/// Bytes of an extent of a split VMDK.
const SPLIT: u64 = 4_192_256 * 512;

/// Where `common::make_disk` puts something, with what lies around it: enough of a disk that is too large to hash.
fn samples(size: u64) -> Vec<(u64, u64)> {
    let starts = [0, 5 * MIB, 600 * MIB - MIB, 4 * GIB - MIB, 130 * GIB - MIB];
    let mut ranges: Vec<_> = starts
        .into_iter()
        .filter(|start| *start < size)
        .map(|start| (start, (4 * MIB).min(size - start)))
        .collect();
    ranges.push((size.saturating_sub(MIB), MIB.min(size)));
    ranges
}

fn qemu_agrees(kinds: &[Kind], sizes: &[u64]) {
    if have("qemu-img") {
        sizes.iter().for_each(|size| qemu_agrees_at(kinds, *size));
    }
}

fn qemu_agrees_at(kinds: &[Kind], size: u64) {
    let folder = Folder::new();
    make_disk(&folder.file("disk.raw"), size);
    qemu_agrees_in(&folder, kinds);
}

/// What is made of the raw disk in `folder`.
fn qemu_agrees_in(folder: &Folder, kinds: &[Kind]) {
    let raw = folder.file("disk.raw");
    let size = raw.metadata().expect("its length").len();
    for kind in kinds {
        let image = kind.make(&raw, folder);
        // qemu takes an odd raw disk as whole sectors, padded with zeros: what the targets hold.
        assert_eq!(
            qemu_size(kind.format, &image),
            size.next_multiple_of(512),
            "{}",
            image.display()
        );
        assert!(
            qemu_finds_equal(kind.format, &image, "raw", &raw),
            "{}",
            image.display()
        );
        // It has no check for VHDs.
        if kind.format != "vhd" {
            qemu_check(kind.format, &image);
        }
    }
}

fn seven_zip_reads(kinds: &[Kind], sizes: &[u64]) {
    if have("7zz") {
        sizes
            .iter()
            .for_each(|size| seven_zip_reads_at(kinds, *size));
    }
}

fn seven_zip_reads_at(kinds: &[Kind], size: u64) {
    assert!(size <= STREAMED);
    let folder = Folder::new();
    make_disk(&folder.file("disk.raw"), size);
    seven_zip_reads_in(&folder, kinds);
}

fn seven_zip_reads_in(folder: &Folder, kinds: &[Kind]) {
    let raw = folder.file("disk.raw");
    let size = raw.metadata().expect("its length").len();
    for kind in kinds {
        let image = kind.make(&raw, folder);
        seven_zip_agrees(kind.format, &image, &raw, size.next_multiple_of(512));
    }
}

fn python_readers_agree(kinds: &[Kind], sizes: &[u64]) {
    if let Some(readers) = Readers::find() {
        sizes
            .iter()
            .for_each(|size| python_readers_agree_at(&readers, kinds, *size));
    }
}

fn python_readers_agree_at(readers: &Readers, kinds: &[Kind], size: u64) {
    let folder = Folder::new();
    make_disk(&folder.file("disk.raw"), size);
    python_readers_agree_in(readers, &folder, kinds);
}

fn python_readers_agree_in(readers: &Readers, folder: &Folder, kinds: &[Kind]) {
    let raw = folder.file("disk.raw");
    let size = raw.metadata().expect("its length").len();
    let ranges = if size <= HASHED {
        vec![]
    } else {
        samples(size)
    };
    let made: Vec<_> = kinds
        .iter()
        .map(|kind| (kind, kind.make(&raw, folder)))
        .collect();
    // Only now: targets hold whole sectors, and so must what they are compared with.
    let whole = OpenOptions::new().write(true).open(&raw).expect("open");
    whole.set_len(size.next_multiple_of(512)).expect("pad");
    for (kind, image) in made {
        for reader in ["libyal", "dissect"] {
            // libyal has no module for VDIs.
            if (reader, kind.format) != ("libyal", "vdi") {
                readers.agree(reader, kind.format, &image, &raw, &ranges);
            }
        }
    }
}

#[test]
fn qemu_agrees_just_below_one_mib() {
    qemu_agrees(&main_kinds(), &[MIB - 512]);
}

#[test]
fn qemu_agrees_at_10_mib() {
    qemu_agrees(&main_kinds(), &[10 * MIB]);
}

#[test]
fn qemu_agrees_at_an_odd_size() {
    qemu_agrees(&main_kinds(), &[1_000_000_513]);
}

#[test]
fn qemu_agrees_where_the_geometry_of_vhd_ends() {
    qemu_agrees(&main_kinds(), &[136_899_993_600]);
}

#[test]
fn qemu_agrees_at_the_largest_vhd() {
    qemu_agrees(&main_kinds(), &[2040 * GIB]);
}

#[test]
fn qemu_agrees_at_every_granularity() {
    qemu_agrees(&all_granularities(), &[MIB - 512, 10 * MIB]);
}

#[test]
fn seven_zip_agrees_at_small_sizes() {
    seven_zip_reads(&main_kinds(), &[MIB - 512, 10 * MIB]);
}

#[test]
fn seven_zip_agrees_at_an_odd_size() {
    seven_zip_reads(&main_kinds(), &[1_000_000_513]);
}

#[test]
fn seven_zip_agrees_at_every_granularity() {
    seven_zip_reads(&all_granularities(), &[MIB - 512, 10 * MIB]);
}

#[test]
fn libyal_and_dissect_agree_at_small_sizes() {
    python_readers_agree(&main_kinds(), &[MIB - 512, 10 * MIB]);
}

#[test]
fn libyal_and_dissect_agree_at_an_odd_size() {
    python_readers_agree(&main_kinds(), &[1_000_000_513]);
}

#[test]
fn libyal_and_dissect_agree_where_the_geometry_of_vhd_ends() {
    python_readers_agree(&main_kinds(), &[136_899_993_600]);
}

#[test]
fn libyal_and_dissect_agree_at_the_largest_vhd() {
    python_readers_agree(&main_kinds(), &[2040 * GIB]);
}

#[test]
fn libyal_and_dissect_agree_at_every_granularity() {
    python_readers_agree(&all_granularities(), &[10 * MIB]);
}

/// What stands in the tables does not depend on how qemu would write them: an image of ours survives its repair.
#[test]
fn qemu_finds_nothing_to_repair() {
    if !have("qemu-img") {
        return;
    }
    let folder = Folder::new();
    let raw = folder.file("disk.raw");
    make_disk(&raw, 10 * MIB);
    let image = Kind::new("qcow2", "").make(&raw, &folder);
    let before = std::fs::read(&image).expect("read");
    let (code, text) = qemu_img(&["check", "-r", "all", "-f", "qcow2", image.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{text}");
    assert!(std::fs::read(&image).expect("read") == before);
}

#[test]
fn qemu_agrees_about_vmdks() {
    let sizes = [1, 512, MIB - 512, 10 * MIB, 100 * MIB + 513];
    qemu_agrees(&all_vmdks(), &sizes);
}

#[test]
fn qemu_agrees_where_the_extents_of_split_vmdks_end() {
    qemu_agrees(&split_vmdks(), &[SPLIT - 512, SPLIT, SPLIT + 512]);
}

#[test]
fn qemu_agrees_about_vmdks_above_4_gib() {
    qemu_agrees(&growing_vmdks(), &[4 * GIB + 5 * MIB + 512]);
}

#[test]
fn seven_zip_agrees_about_vmdks() {
    seven_zip_reads(&all_vmdks(), &[512, MIB - 512, 10 * MIB, 100 * MIB + 513]);
}

#[test]
fn seven_zip_agrees_where_an_extent_of_a_split_vmdk_ends() {
    seven_zip_reads(&split_vmdks()[..1], &[SPLIT + 512]);
}

#[test]
fn libyal_and_dissect_agree_about_vmdks() {
    python_readers_agree(&all_vmdks(), &[MIB - 512]);
    python_readers_agree(&growing_vmdks(), &[100 * MIB + 513]);
}

#[test]
fn libyal_and_dissect_agree_where_the_extents_of_split_vmdks_end() {
    python_readers_agree(&split_vmdks(), &[SPLIT + 512]);
}

#[test]
fn libyal_and_dissect_agree_about_vmdks_above_4_gib() {
    python_readers_agree(&growing_vmdks(), &[4 * GIB + 5 * MIB + 512]);
}

/// No grain at all, and a grain for every place.
#[test]
fn vmdks_of_empty_and_of_full_disks_are_read_by_all() {
    let size = 33 * MIB as usize + 1024;
    for content in [vec![0; size], noise(1, size)] {
        let folder = Folder::new();
        std::fs::write(folder.file("disk.raw"), content).expect("write");
        if have("qemu-img") {
            qemu_agrees_in(&folder, &all_vmdks());
        }
        if have("7zz") {
            seven_zip_reads_in(&folder, &growing_vmdks());
        }
        if let Some(readers) = Readers::find() {
            python_readers_agree_in(&readers, &folder, &growing_vmdks());
        }
    }
}

#[test]
fn qemu_agrees_about_vhdxs() {
    qemu_agrees(&vhdxs(), &[1, MIB - 512, 10 * MIB, 1_000_000_513]);
}

/// Where the entries of sector bitmaps stand between those of blocks.
#[test]
fn qemu_agrees_about_vhdxs_past_the_first_chunks() {
    qemu_agrees(&vhdxs(), &[6 * GIB, 4 * GIB + MIB + 512]);
    let largest = Kind::new("vhdx", "block_size=256M");
    qemu_agrees(&[largest], &[16 * GIB]);
}

/// It refuses VHDXs with an odd number of sectors, whoever made them.
#[test]
fn seven_zip_agrees_about_vhdxs() {
    let mut kinds = vhdxs();
    kinds.push(Kind::new("vhdx", "logical_sector_size=4096"));
    seven_zip_reads(&kinds, &[MIB - 8192, 10 * MIB]);
    seven_zip_reads(&vhdxs(), &[MIB - 1024, 1_000_000_512]);
}

#[test]
fn libyal_and_dissect_agree_about_vhdxs() {
    python_readers_agree(&vhdxs(), &[MIB - 512, 10 * MIB]);
    let wide = "logical_sector_size=4096";
    let wide = [wide.to_owned(), format!("{wide},subformat=fixed")];
    let wide = wide.map(|options| Kind::new("vhdx", options));
    python_readers_agree(&wide, &[MIB, 100 * MIB]);
}

/// Of fixed disks libyal takes the entries of sector bitmaps for those of blocks: it is asked about the others only.
#[test]
fn libyal_and_dissect_agree_about_vhdxs_past_the_first_chunks() {
    let wide = "logical_sector_size=4096,block_size=1M";
    let kinds = ["", "block_size=1M", "block_size=8M", wide];
    let kinds = kinds.map(|options| Kind::new("vhdx", options));
    python_readers_agree(&kinds, &[6 * GIB, 140 * GIB]);
}
