//! Whole images, made in memory: what the tests of writing, reading and of damaged images share.

mod damaged;
mod reading;
mod writing;

use std::sync::Arc;

use super::footer::FOOTER_LEN;
use super::locator::ParentLocator;
use super::*;
use crate::ErrorKind;
use crate::open::{Image, open, open_storage};
use crate::reader::read_guest;
use crate::source::run_at;
use crate::storage::{MemoryStorage, MemoryTarget, WritableStorage};
use crate::target::Identity;

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 64 << 10;
const IDENTITY: Identity = Identity {
    id: [0x5A; 16],
    unix_time: 1_700_000_000,
};

fn target(size: u64, pairs: &[&str]) -> Result<Box<dyn BlockTarget>> {
    let pairs: Vec<String> = pairs.iter().map(|p| (*p).to_owned()).collect();
    VhdDriver.target(size, &Options::new(OPTIONS, &pairs)?, "a".as_ref())
}

/// An image of `size` bytes with each of `parts` at its offset, and zeros elsewhere.
fn written(size: u64, pairs: &[&str], parts: &[(u64, &[u8])]) -> Vec<u8> {
    let mut target = target(size, pairs).unwrap();
    let out = MemoryTarget::default();
    for (offset, bytes) in parts {
        let (mut offset, mut rest) = (*offset, *bytes);
        while !rest.is_empty() {
            let placed = target.place(offset, rest.len() as u64).unwrap();
            for table in target.take_tables() {
                out.write_at(&table.bytes, table.offset).unwrap();
            }
            let (now, later) = rest.split_at(placed.len as usize);
            out.write_at(now, placed.offset).unwrap();
            offset += placed.len;
            rest = later;
        }
    }
    let promised = target.exact_length();
    let summary = target.finish(&IDENTITY, &out).unwrap();
    let bytes = out.into_bytes();
    assert_eq!(summary.file_size, bytes.len() as u64);
    assert!(promised.is_none_or(|length| length == summary.file_size));
    bytes
}

fn small(parts: &[(u64, &[u8])]) -> Vec<u8> {
    written(4 * BLOCK, &["block_size=64k"], parts)
}

fn context(salvage: bool) -> OpenContext {
    OpenContext {
        salvage,
        ..OpenContext::default()
    }
}

fn opened(bytes: &[u8], salvage: bool) -> Result<Image> {
    let storage = Arc::new(MemoryStorage::new(bytes.to_vec()));
    open_storage(storage, Some(Format::Vhd), &context(salvage))
}

fn layer(bytes: &[u8]) -> Result<Layer> {
    VhdDriver.open(
        Arc::new(MemoryStorage::new(bytes.to_vec())),
        &OpenContext::default(),
    )
}

fn content(image: &Image) -> Vec<u8> {
    let mut out = vec![0xEE; image.source.size() as usize];
    read_guest(image.source.as_ref(), 0, &mut out).unwrap();
    out
}

fn kind(bytes: &[u8]) -> ErrorKind {
    opened(bytes, false).err().expect("an error").kind()
}

fn warnings(image: &Image) -> usize {
    image.layers[0].info.warnings.len()
}

/// Replaces bytes of both copies of the footer, checksums made right.
fn patch_footers(image: &mut [u8], at: usize, bytes: &[u8]) {
    let len = image.len();
    for start in [0, len - 512] {
        let footer = image[start..start + 512].try_into().unwrap();
        image[start..start + 512].copy_from_slice(&footer::patched(footer, at, bytes));
    }
}

fn patch_header(image: &mut [u8], at: usize, bytes: &[u8]) {
    let header = image[512..1536].try_into().unwrap();
    image[512..1536].copy_from_slice(&dynamic_header::patched(header, at, bytes));
}

/// Turns a dynamic image into a differencing one with a parent of the id `parent` and a relative locator.
fn made_differencing(image: &mut Vec<u8>, parent: [u8; 16], name: &str) {
    let footer: Vec<u8> = image[image.len() - 512..].to_vec();
    image.truncate(image.len() - 512);
    let data: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let locator = ParentLocator {
        code: *b"W2ru",
        data_space: 512,
        data_length: data.len() as u32,
        data_offset: image.len() as u64,
    };
    image.extend(&data);
    image.resize(image.len().next_multiple_of(512), 0);
    image.extend(footer);
    patch_footers(image, 60, &4u32.to_be_bytes());
    let mut header = DynamicHeader::parse(image[512..1536].try_into().unwrap(), 512).unwrap();
    header.parent_id = parent;
    header.locators[0] = locator;
    image[512..1536].copy_from_slice(&header.to_bytes());
}

/// The kind of every run: `S`tored, `Z`ero or `A`bsent, and its length in sectors.
fn runs(source: &dyn crate::BlockSource) -> String {
    let mut text = Vec::new();
    let mut offset = 0;
    while offset < source.size() {
        let run = run_at(source, offset, u64::MAX).unwrap();
        let letter = match run.mapping {
            Mapping::Stored { .. } => 'S',
            Mapping::Zero => 'Z',
            Mapping::Absent => 'A',
            Mapping::Packed { .. } => 'P',
        };
        text.push(format!("{letter}{}", run.len / 512));
        offset += run.len;
    }
    text.join(" ")
}
