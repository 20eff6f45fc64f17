//! A streamOptimized image that was written, byte for byte: every byte of it is accounted for.
//!
//! VMware's importers and VirtualBox read streams from front to end, and take no deviation: that our own reader likes one
//! says little.

mod common;

use std::collections::BTreeMap;

use common::vmdk::stream::marker;
use common::vmdk::{COMPRESSED, GD_AT_END, Header, MARKERS, NEWLINE_TEST, SECTOR};
use common::written::{Model, blocks, target, write};
use common::{Random, le32, le64};
use formats::{Codec, Format};
use libdeflater::{CompressionLvl, Compressor, Decompressor};

const GRAIN: usize = 64 << 10;
const ENTRIES: usize = 512;

/// A stream, and how far it was walked.
struct Walker<'a> {
    bytes: &'a [u8],
    at: usize,
    capacity: u64,
}

/// What the walk found.
struct Walked {
    /// Content of the grains that are there, by their numbers.
    grains: BTreeMap<u64, Vec<u8>>,
    /// Grain tables that are there.
    tables: usize,
}

impl<'a> Walker<'a> {
    /// The next `len` bytes.
    fn take(&mut self, len: usize) -> &'a [u8] {
        self.at += len;
        &self.bytes[self.at - len..self.at]
    }

    fn header(&self, directory: u64) -> Vec<u8> {
        let header = Header {
            version: 3,
            flags: NEWLINE_TEST | COMPRESSED | MARKERS,
            capacity: self.capacity,
            grain: 128,
            descriptor: (1, 20),
            entries: ENTRIES as u32,
            redundant: 0,
            directory,
            overhead: 128,
        };
        header.to_bytes()
    }

    fn walk(mut self) -> Walked {
        let header = self.header(GD_AT_END);
        assert_eq!(self.take(SECTOR), header);
        self.descriptor();
        let padding = self.take(128 * SECTOR - 21 * SECTOR);
        assert!(is_zero(padding));
        let mut grains = BTreeMap::new();
        let mut places = BTreeMap::new();
        // A grain's marker has a length where that of a table has 0.
        while le32(self.bytes, self.at + 8) != 0 {
            let place = self.at / SECTOR;
            let (number, content) = self.grain();
            let last = grains.last_key_value().map(|(number, _)| *number);
            assert!(last < Some(number), "{last:?} before {number}");
            places.insert(number, place as u32);
            grains.insert(number, content);
        }
        let tables = self.tables(&places);
        let directory = self.directory(&tables);
        assert_eq!(self.take(SECTOR), marker(3, 1));
        assert_eq!(self.at, self.bytes.len() - 1024);
        let footer = self.header(directory);
        assert_eq!(self.take(SECTOR), footer);
        assert!(is_zero(self.take(SECTOR)));
        assert_eq!(self.at, self.bytes.len());
        Walked {
            grains,
            tables: tables.len(),
        }
    }

    fn descriptor(&mut self) {
        let area = self.take(20 * SECTOR);
        let end = area.iter().position(|byte| *byte == 0).expect("an end");
        assert!(is_zero(&area[end..]));
        let text = std::str::from_utf8(&area[..end]).expect("UTF-8");
        let cylinders = self.capacity.div_ceil(255 * 63).min(65535);
        let expected = format!(
            "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID=09090909\nparentCID=ffffffff\n\
             createType=\"streamOptimized\"\n\n# Extent description\nRW {} SPARSE \"a.vmdk\"\n\n\
             # The Disk Data Base\n#DDB\n\nddb.adapterType = \"lsilogic\"\n\
             ddb.geometry.cylinders = \"{cylinders}\"\nddb.geometry.heads = \"255\"\n\
             ddb.geometry.sectors = \"63\"\nddb.longContentID = \"09090909090909090909090909090909\"\n\
             ddb.toolsInstallType = \"4\"\nddb.toolsVersion = \"2147483647\"\n\
             ddb.virtualHWVersion = \"4\"\n",
            self.capacity
        );
        assert_eq!(text, expected);
    }

    /// A marker, its stream, and zeros up to the next sector: the grain's number and content.
    fn grain(&mut self) -> (u64, Vec<u8>) {
        let sector = le64(self.bytes, self.at);
        let len = le32(self.bytes, self.at + 8) as usize;
        assert!(sector.is_multiple_of(128) && sector < self.capacity);
        let item = self.take((12 + len).next_multiple_of(SECTOR));
        let (stream, padding) = item[12..].split_at(len);
        assert!(is_zero(padding));
        let mut content = vec![0; GRAIN];
        let made = Decompressor::new()
            .zlib_decompress(stream, &mut content)
            .expect("a zlib stream");
        assert_eq!(made, GRAIN);
        // The stream ends where the marker says: with the checksum of its content.
        let sum = libdeflater::adler32(&content).to_be_bytes();
        assert!(stream.ends_with(&sum));
        assert!(!is_zero(&content), "grains of zeros are left out");
        (sector / 128, content)
    }

    /// The tables that have any grain, each behind its marker: number, and the sector it stands at.
    fn tables(&mut self, places: &BTreeMap<u64, u32>) -> BTreeMap<usize, u32> {
        let mut contents: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
        for (number, place) in places {
            let number = *number as usize;
            let table = contents.entry(number / ENTRIES);
            table.or_insert_with(|| vec![0; ENTRIES])[number % ENTRIES] = *place;
        }
        let mut tables = BTreeMap::new();
        for (number, entries) in contents {
            assert_eq!(self.take(SECTOR), marker(1, 4));
            tables.insert(number, (self.at / SECTOR) as u32);
            let bytes: Vec<u8> = entries.into_iter().flat_map(u32::to_le_bytes).collect();
            assert!(self.take(4 * SECTOR) == bytes, "grain table {number}");
        }
        tables
    }

    /// The directory behind its marker: the sector it stands at.
    fn directory(&mut self, tables: &BTreeMap<usize, u32>) -> u64 {
        let count = self.capacity.div_ceil(128 * ENTRIES as u64) as usize;
        let mut bytes = vec![0; (count * 4).next_multiple_of(SECTOR)];
        for (number, place) in tables {
            common::patch(&mut bytes, number * 4, &place.to_le_bytes());
        }
        assert_eq!(self.take(SECTOR), marker(2, (bytes.len() / SECTOR) as u64));
        let at = self.at / SECTOR;
        assert!(self.take(bytes.len()) == bytes);
        at as u64
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// Writes `model` to a disk of `size` bytes, and walks what came of it.
fn walk(size: u64, model: &Model) -> Walked {
    let options = ["subformat=streamOptimized".to_owned()];
    let written = write(Format::Vmdk, size, &options, model, "a stream");
    assert!(written.others.is_empty());
    let bytes = written.file.to_bytes();
    let walker = Walker {
        bytes: &bytes,
        at: 0,
        capacity: size.div_ceil(512),
    };
    let walked = walker.walk();
    assert!(walked.grains == blocks(model, GRAIN));
    walked
}

#[test]
fn an_empty_disk_has_no_grain_and_no_table() {
    for size in [1, 512, 10 << 20, (32 << 20) + 1, 5 << 30, 64 << 40] {
        let walked = walk(size, &Model::new());
        assert_eq!((walked.grains.len(), walked.tables), (0, 0), "{size}");
    }
}

#[test]
fn a_full_disk_has_every_grain() {
    let mut random = Random::new(1);
    for (size, tables) in [(1 << 20, 1), (32 << 20, 1), (36 << 20, 2)] {
        // Half of it cannot be compressed at all.
        let mut bytes = random.bytes(size);
        bytes[size / 2..].fill(0x21);
        let walked = walk(size as u64, &vec![(0, bytes)]);
        assert_eq!((walked.grains.len(), walked.tables), (size / GRAIN, tables));
    }
}

#[test]
fn a_disk_of_odd_size_ends_in_a_grain_that_is_filled_up_with_zeros() {
    for size in [1, 511, 513, GRAIN + 1, 3 * GRAIN - 512, (32 << 20) + 5] {
        let bytes = Random::new(size as u64).bytes(size);
        let walked = walk(size as u64, &vec![(0, bytes)]);
        assert_eq!(walked.grains.len(), size.div_ceil(GRAIN));
    }
}

#[test]
fn grains_far_from_each_other_have_only_the_tables_they_need() {
    let mut random = Random::new(3);
    let model: Model = [0, 40 << 20, 41 << 20, 3 << 40, (4 << 40) - 100]
        .into_iter()
        .map(|offset| (offset, random.bytes(100)))
        .collect();
    let walked = walk(4 << 40, &model);
    assert_eq!((walked.grains.len(), walked.tables), (5, 4));
}

#[test]
fn grains_of_zeros_are_left_out() {
    let mut random = Random::new(2);
    let bytes = [random.bytes(GRAIN), vec![0; 2 * GRAIN], random.bytes(10)].concat();
    let walked = walk(10 << 20, &vec![(0, bytes)]);
    assert_eq!(walked.grains.into_keys().collect::<Vec<_>>(), [0, 3]);
}

/// The stream of a grain that stands packed in another image, in the way that `codec` names.
fn packed(content: &[u8], codec: Codec) -> Vec<u8> {
    let mut out = vec![0; 2 * GRAIN];
    let mut compressor = Compressor::new(CompressionLvl::fastest());
    let len = match codec {
        Codec::Deflate => compressor.deflate_compress(content, &mut out),
        _ => compressor.zlib_compress(content, &mut out),
    };
    out.truncate(len.expect("room"));
    out
}

#[test]
fn a_grain_that_was_packed_already_is_framed_like_any_other() {
    let options = ["subformat=streamOptimized".to_owned()];
    let target = target(Format::Vmdk, 1 << 20, &options).expect("a target");
    let packer = target.packer().expect("a packer");
    assert!(packer.takes(Codec::Deflate) && packer.takes(Codec::Zlib));
    let mut worker = packer.worker();
    let mut random = Random::new(6);
    let text = vec![0x41; GRAIN];
    let noise = random.bytes(GRAIN);
    for content in [text, noise] {
        for codec in [Codec::Deflate, Codec::Zlib] {
            let mut stream = packed(&content, codec);
            // What is longer than any grain is packed anew.
            for more in [0, 2 * GRAIN] {
                if codec == Codec::Zlib {
                    stream.resize(stream.len() + more, 0);
                }
                let mut out = vec![0xEE; 3];
                let at = 5 * GRAIN as u64;
                let adopted = worker.adopt(at, &content, codec, &stream, &mut out);
                adopted.expect("adopted");
                assert_eq!(out[..3], [0xEE; 3]);
                let mut walker = Walker {
                    bytes: &out[3..],
                    at: 0,
                    capacity: 2048,
                };
                assert!(walker.grain() == (5, content.clone()));
                assert_eq!(walker.at, out.len() - 3);
            }
        }
    }
}
