//! Whole images, made in memory: what the tests of writing, reading and checking share.

mod chains;
mod checking;
mod reading;
mod writing;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::bat::{BatEntry, ENTRY};
use super::header::{HEADER_LEN, HEADERS_AT, Header};
use super::metadata::Metadata;
use super::region_table::{RegionTable, TABLES_AT};
use super::*;
use crate::ErrorKind;
use crate::error::Error;
use crate::open::{Image, open_storage};
use crate::options::Backing;
use crate::reader::read_guest;
use crate::source::{BlockSource, Mapping, run_at};
use crate::storage::{MemoryStorage, MemoryTarget, WritableStorage};
use crate::target::Identity;

const MIB: u64 = 1 << 20;
const METADATA_AT: usize = 2 << 20;
const BAT_AT: usize = 3 << 20;
/// Where the first block stands in files with a small BAT.
const DATA_AT: u64 = 4 << 20;
const IDENTITY: Identity = Identity {
    id: [0x5A; 16],
    unix_time: 1_700_000_000,
};

/// What is done to a new image, in guest order.
#[derive(Clone, Copy)]
enum Piece<'a> {
    Data(u64, &'a [u8]),
    Zeros(u64, u64),
}
use Piece::{Data, Zeros};

fn options(pairs: &[&str]) -> Options {
    let pairs: Vec<String> = pairs.iter().map(|p| (*p).to_owned()).collect();
    Options::new(new_image::OPTIONS, &pairs).unwrap()
}

fn target(size: u64, options: &Options) -> Result<Box<dyn BlockTarget>> {
    VhdxDriver.target(size, options, "a.vhdx".as_ref())
}

/// An image of `size` bytes that holds `pieces`.
fn written(size: u64, options: &Options, pieces: &[Piece<'_>]) -> Vec<u8> {
    let mut target = target(size, options).unwrap();
    let out = MemoryTarget::default();
    let take = |target: &mut dyn BlockTarget| {
        for table in target.take_tables() {
            out.write_at(&table.bytes, table.offset).unwrap();
        }
    };
    for piece in pieces {
        match *piece {
            Zeros(offset, len) => {
                target.zero(offset, len).unwrap();
            }
            Data(mut offset, mut rest) => {
                while !rest.is_empty() {
                    let placed = target.place(offset, rest.len() as u64).unwrap();
                    let (now, later) = rest.split_at(placed.len as usize);
                    out.write_at(now, placed.offset).unwrap();
                    offset += placed.len;
                    rest = later;
                }
            }
        }
        take(target.as_mut());
    }
    let promised = target.exact_length();
    let head = target.head(&IDENTITY).unwrap().unwrap();
    let summary = target.finish(&IDENTITY, &out).unwrap();
    out.write_at(&head, 0).unwrap();
    let bytes = out.into_bytes();
    assert_eq!(summary.file_size, bytes.len() as u64);
    assert!(promised.is_none_or(|length| length == summary.file_size));
    bytes
}

/// A disk of 8 MiB in blocks of 1 MiB: block 1 is all ones, block 5 all twos.
fn small() -> Vec<u8> {
    let pieces = [
        Data(MIB, &[1; MIB as usize]),
        Data(5 * MIB, &[2; MIB as usize]),
    ];
    written(8 * MIB, &options(&["block_size=1M"]), &pieces)
}

fn storage(bytes: &[u8]) -> StorageRef {
    Arc::new(MemoryStorage::new(bytes.to_vec()))
}

fn layer_with(bytes: &[u8], salvage: bool) -> Result<Layer> {
    let context = OpenContext {
        salvage,
        ..OpenContext::default()
    };
    VhdxDriver.open(storage(bytes), &context)
}

fn layer(bytes: &[u8]) -> Result<Layer> {
    layer_with(bytes, false)
}

/// What is wrong with the image when it is opened, or else when it is mapped.
fn error(bytes: &[u8]) -> Error {
    let source = match layer(bytes) {
        Ok(layer) => layer.source,
        Err(error) => return error,
    };
    let mut offset = 0;
    while offset < source.size() {
        match run_at(source.as_ref(), offset, u64::MAX) {
            Ok(run) => offset += run.len,
            Err(error) => return error,
        }
    }
    panic!("no error");
}

fn kind(bytes: &[u8]) -> ErrorKind {
    error(bytes).kind()
}

/// The kind of every run: `S`tored, `Z`ero or `A`bsent, and its length in KiB.
fn runs(source: &dyn BlockSource) -> String {
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
        text.push(format!("{letter}{}", run.len as f64 / 1024.0));
        offset += run.len;
    }
    text.join(" ")
}

fn set_entry(image: &mut [u8], index: u64, entry: BatEntry) {
    let at = BAT_AT + (index * ENTRY) as usize;
    image[at..at + 8].copy_from_slice(&entry.0.to_le_bytes());
}

fn entry(image: &[u8], index: u64) -> u64 {
    let at = BAT_AT + (index * ENTRY) as usize;
    u64::from_le_bytes(image[at..at + 8].try_into().unwrap())
}

/// Changes both headers.
fn change_headers(image: &mut [u8], change: impl Fn(&mut Header)) {
    for at in HEADERS_AT {
        let place = &mut image[at as usize..][..HEADER_LEN];
        let mut header = Header::parse((&*place).try_into().unwrap(), at).unwrap();
        change(&mut header);
        place.copy_from_slice(&header.to_bytes());
    }
}

/// Changes both region tables.
fn change_regions(image: &mut [u8], change: impl Fn(&mut RegionTable)) {
    for (index, at) in TABLES_AT.iter().enumerate() {
        let mut table = RegionTable::read_copy(&MemoryStorage::new(image.to_vec()), index).unwrap();
        change(&mut table);
        let bytes = table.to_bytes();
        image[*at as usize..][..bytes.len()].copy_from_slice(&bytes);
    }
}

fn metadata(image: &[u8]) -> Metadata {
    let storage = MemoryStorage::new(image.to_vec());
    let regions = RegionTable::read_copy(&storage, 0).unwrap();
    Metadata::read(&storage, &regions.metadata, &mut Vec::new()).unwrap()
}

fn change_metadata(image: &mut [u8], change: impl Fn(&mut Metadata)) {
    let mut changed = metadata(image);
    change(&mut changed);
    image[METADATA_AT..BAT_AT].fill(0);
    let bytes = changed.to_bytes();
    image[METADATA_AT..][..bytes.len()].copy_from_slice(&bytes);
}
