//! Disks for packages, made by hand where the last byte counts.

use std::path::Path;

use libdeflater::{CompressionLvl, Compressor};

use super::super::peers::qemu_img;
use super::super::{Folder, s};

const SECTOR: usize = 512;
const GRAIN: usize = 128 * SECTOR;
const TABLE_ENTRIES: usize = 512;

/// Content that looks random, between holes: whole MiB.
pub fn content(seed: u64, mib: usize) -> Vec<u8> {
    let mut disk = vec![0; mib << 20];
    let mut put = |at: usize, bytes: &[u8]| {
        let end = (at + bytes.len()).min(disk.len());
        if at < end {
            disk[at..end].copy_from_slice(&bytes[..end - at]);
        }
    };
    put(0, &super::super::noise(seed, 70_000));
    put(1_000_000, &super::super::noise(seed + 1, 200_000));
    put(3 << 20, &[0x41; 300_000]);
    put((6 << 20) - 5, b"across a border");
    put((mib << 20) - 700, &super::super::noise(seed + 2, 700));
    disk
}

/// `content` as a streamOptimized VMDK, as vSphere exports it: version 3, tables behind the grains, a footer, and one sector
/// that says that it ends. Its name in the descriptor is "disk.vmdk".
pub fn stream(content: &[u8]) -> Vec<u8> {
    let capacity = content.len().div_ceil(SECTOR);
    let descriptor = stream_descriptor(capacity);
    let overhead = (SECTOR + 20 * SECTOR).next_multiple_of(GRAIN);
    let mut file = vec![0; overhead];
    file[SECTOR..SECTOR + descriptor.len()].copy_from_slice(descriptor.as_bytes());
    let mut compressor = Compressor::new(CompressionLvl::default());
    let mut grains = vec![0u32; content.len().div_ceil(GRAIN)];
    for (index, data) in content.chunks(GRAIN).enumerate() {
        if data.iter().all(|b| *b == 0) {
            continue;
        }
        let mut grain = data.to_vec();
        grain.resize(GRAIN, 0);
        let mut packed = vec![0; compressor.zlib_compress_bound(GRAIN)];
        let len = compressor.zlib_compress(&grain, &mut packed).expect("zlib");
        grains[index] = (file.len() / SECTOR) as u32;
        file.extend(((index * 128) as u64).to_le_bytes());
        file.extend((len as u32).to_le_bytes());
        file.extend(&packed[..len]);
        pad(&mut file);
    }
    let mut directory = Vec::new();
    for table in grains.chunks(TABLE_ENTRIES) {
        if table.iter().all(|entry| *entry == 0) {
            directory.push(0);
            continue;
        }
        marker(&mut file, 4, 1);
        directory.push((file.len() / SECTOR) as u32);
        let end = file.len() + TABLE_ENTRIES * 4;
        table.iter().for_each(|e| file.extend(e.to_le_bytes()));
        file.resize(end, 0);
    }
    let sectors = (directory.len() * 4).div_ceil(SECTOR);
    marker(&mut file, sectors as u64, 2);
    let at = (file.len() / SECTOR) as u64;
    directory.iter().for_each(|e| file.extend(e.to_le_bytes()));
    pad(&mut file);
    marker(&mut file, 1, 3);
    file.extend(stream_header(capacity as u64, overhead, at));
    file.resize(file.len() + SECTOR, 0);
    let header = stream_header(capacity as u64, overhead, u64::MAX);
    file[..SECTOR].copy_from_slice(&header);
    file
}

fn stream_descriptor(capacity: usize) -> String {
    format!(
        "# Disk DescriptorFile\nversion=1\nCID=7b3c9a51\nparentCID=ffffffff\ncreateType=\"streamOptimized\"\n\n\
         # Extent description\nRDONLY {capacity} SPARSE \"disk.vmdk\"\n\n# The Disk Data Base\n#DDB\n\n\
         ddb.adapterType = \"lsilogic\"\nddb.geometry.cylinders = \"{}\"\nddb.geometry.heads = \"255\"\n\
         ddb.geometry.sectors = \"63\"\nddb.longContentID = \"0123456789abcdef012345677b3c9a51\"\n\
         ddb.virtualHWVersion = \"10\"\n",
        capacity.div_ceil(255 * 63)
    )
}

fn stream_header(capacity: u64, overhead: usize, directory: u64) -> [u8; SECTOR] {
    let mut header = [0; SECTOR];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"KDMV");
    put(4, &3u32.to_le_bytes());
    put(8, &0x0003_0001u32.to_le_bytes());
    put(12, &capacity.to_le_bytes());
    put(20, &128u64.to_le_bytes());
    put(28, &1u64.to_le_bytes());
    put(36, &20u64.to_le_bytes());
    put(44, &(TABLE_ENTRIES as u32).to_le_bytes());
    put(56, &directory.to_le_bytes());
    put(64, &((overhead / SECTOR) as u64).to_le_bytes());
    put(73, b"\n \r\n");
    put(77, &1u16.to_le_bytes());
    header
}

fn pad(file: &mut Vec<u8>) {
    file.resize(file.len().next_multiple_of(SECTOR), 0);
}

fn marker(file: &mut Vec<u8>, sectors: u64, kind: u32) {
    file.extend(sectors.to_le_bytes());
    file.extend([0; 4]);
    file.extend(kind.to_le_bytes());
    pad(file);
}

/// `content` as an image that qemu-img makes: `format` in its words, and options of the format.
pub fn by_qemu(content: &[u8], format: &str, options: &str) -> Vec<u8> {
    let folder = Folder::new();
    let (raw, image) = (folder.file("disk.raw"), folder.file("disk.image"));
    std::fs::write(&raw, content).expect("write");
    let mut arguments = vec!["convert", "-f", "raw", "-O", format];
    if !options.is_empty() {
        arguments.extend(["-o", options]);
    }
    arguments.extend([s(&raw), s(&image)]);
    let (code, said) = qemu_img(&arguments);
    assert_eq!(code, Some(0), "{said}");
    std::fs::read(&image).expect("read")
}

/// An image and one that stands on it: `parent`, and what `child` has over it, as qemu-img writes them. `name` is what the
/// child calls its parent.
pub fn delta_by_qemu(parent: &[u8], child: &[u8], name: &str) -> [Vec<u8>; 2] {
    let folder = Folder::new();
    let folder = folder.path();
    let (base, raw) = (folder.join(name), folder.join("child.raw"));
    let image = folder.join("child.image");
    std::fs::write(&base, by_qemu(parent, "vmdk", "subformat=monolithicSparse")).expect("write");
    std::fs::write(&raw, child).expect("write");
    let arguments = [
        "create",
        "-f",
        "vmdk",
        "-b",
        s(&base),
        "-F",
        "vmdk",
        s(&image),
    ];
    let (code, said) = qemu_img(&arguments);
    assert_eq!(code, Some(0), "{said}");
    for (at, data) in child.chunks(GRAIN).enumerate() {
        let start = at * GRAIN;
        if data != &parent[start..start + data.len()] {
            write_by_qemu(&image, &raw, start, data);
        }
    }
    [base, image].map(|file| std::fs::read(file).expect("read"))
}

/// A delta of qemu's that calls its parent `name`.
pub fn with_parent_hint(delta: &[u8], name: &str) -> Vec<u8> {
    let area = SECTOR..21 * SECTOR;
    let text = String::from_utf8_lossy(&delta[area.clone()]).into_owned();
    let text = text.trim_end_matches('\0');
    let (before, rest) = text.split_once("parentFileNameHint=").expect("a parent");
    let (_, after) = rest.split_once('\n').expect("another line");
    let text = format!("{before}parentFileNameHint=\"{name}\"\n{after}");
    let mut delta = delta.to_vec();
    delta[area.clone()].fill(0);
    delta[area][..text.len()].copy_from_slice(text.as_bytes());
    delta
}

fn write_by_qemu(image: &Path, piece: &Path, at: usize, data: &[u8]) {
    std::fs::write(piece, data).expect("write");
    let command = format!("write -s {} {at} {}", s(piece), data.len());
    super::super::tool("qemu-io", &["-f", "vmdk", "-c", &command, s(image)]);
}
