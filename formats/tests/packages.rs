//! Archives that are damaged or hostile: none may panic, hang, or take memory that it has no right to.

mod common;

use std::sync::Arc;

use common::package::{archive, block, export, look, member, seal, special};
use common::{Random, patch};
use formats::tar::Members;
use formats::xva::{Checksum, Index, XvaSource};
use formats::{BlockSource, ErrorKind, MemoryStorage, Storage, StorageRef, run_at};

/// Mutants of each sample.
const ROUNDS: u64 = 20_000;

/// Words that mean something in headers and pax records.
const WORDS: [&[u8]; 16] = [
    b"\0",
    b"/",
    b"..",
    b"0",
    b"77777777777\0",
    b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    b"9223372036854775807",
    b"18446744073709551615",
    b"9999999999999999",
    b"10 size=3\n",
    b"22 GNU.sparse.major=1\n",
    b".checksum",
    b".xxhash",
    b"Ref:12/00000000",
    b"ova.xml",
];

fn change(random: &mut Random, bytes: &mut Vec<u8>) {
    let headers = bytes.len().div_ceil(512).max(1) as u64;
    let header = random.below(headers) as usize * 512;
    // Name, size, type, prefix; and what stands behind a header.
    let field = random.pick(&[0, 0, 124, 124, 156, 345, 512, 1024]);
    match random.below(6) {
        0 => patch(bytes, header + field, random.pick(&WORDS)),
        1 => patch(bytes, header + field, &random.bytes(4)),
        2 => {
            if let Some(byte) = bytes.get_mut(header + random.below(512) as usize) {
                *byte ^= 1 << random.below(8);
            }
        }
        3 => patch(bytes, header + 156, &[random.pick(b"\x000123456xgLKSX")]),
        4 if random.one_in(4) => bytes.truncate(random.below(bytes.len() as u64 + 1) as usize),
        _ => {
            // A member, or some of it, stands elsewhere.
            let end = (header + 512 * (1 + random.below(4) as usize)).min(bytes.len());
            let part: Vec<u8> = bytes.drain(header.min(end)..end).collect();
            let to = (random.below(headers) as usize * 512).min(bytes.len());
            bytes.splice(to..to, part);
        }
    }
}

#[test]
fn random_changes_get_an_answer() {
    for (seed, sample, has_disks) in [(1, archive(), false), (2, export(), true)] {
        let (all, readable) = look(sample.clone());
        assert!(all >= 3 && (readable > 0) == has_disks, "{all}, {readable}");
        let mut random = Random::new(seed);
        let (mut members, mut read) = (0, 0);
        for _ in 0..ROUNDS {
            let mut bytes = sample.clone();
            for _ in 0..1 + random.below(4) {
                change(&mut random, &mut bytes);
            }
            if !random.one_in(8) {
                seal(&mut bytes, !random.one_in(4));
            }
            let found = look(bytes);
            members += found.0;
            read += found.1;
        }
        // Not all of them are lost at the first header.
        assert!(members as u64 > ROUNDS, "{members}");
        assert!(read >= ROUNDS * readable / 20, "{read} of {readable}");
    }
}

#[test]
fn every_cut_of_an_archive_is_survived() {
    for sample in [archive(), export()] {
        for len in 0..sample.len() {
            look(sample[..len].to_vec());
        }
    }
}

#[test]
fn a_hundred_thousand_members_are_gone_through_soon() {
    let empty = member("a", b"");
    let bytes = empty.repeat(100_000);
    assert_eq!(look(bytes).0, 100_000);
    // As many blocks of one byte.
    let mut bytes = member("ova.xml", b"");
    for number in 0..100_000 {
        bytes.extend(block("Ref:1", number, b"x", Checksum::Xxhash));
    }
    let storage: StorageRef = Arc::new(MemoryStorage::new(bytes));
    let mut index = Index::read(&storage).expect("an export");
    let disk = index.disks.pop().expect("a disk");
    assert_eq!((disk.end, disk.stretches.len()), (100_000, 1));
    let source = XvaSource::new(storage, std::sync::Arc::new(disk), 100_000).expect("a disk");
    assert_eq!(run_at(&source, 99_999, u64::MAX).expect("a run").len, 1);
    assert_eq!(source.size(), 100_000);
}

#[test]
fn as_many_disks_as_there_may_be() {
    for (count, expected) in [(1024, None), (1025, Some(ErrorKind::Limit))] {
        let mut bytes = member("ova.xml", b"");
        for disk in 0..count {
            bytes.extend(block(&format!("Ref:{disk}"), 0, b"x", Checksum::Xxhash));
        }
        let storage: StorageRef = Arc::new(MemoryStorage::new(bytes));
        assert_eq!(Index::read(&storage).err().map(|e| e.kind()), expected);
    }
}

/// A storage that counts what is read of it.
#[derive(Debug)]
struct Counted(StorageRef, std::sync::atomic::AtomicU64);

impl Storage for Counted {
    fn len(&self) -> u64 {
        self.0.len()
    }
    fn path(&self) -> &std::path::Path {
        self.0.path()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> formats::Result<()> {
        let order = std::sync::atomic::Ordering::Relaxed;
        self.1.fetch_add(buf.len() as u64, order);
        self.0.read_at(buf, offset)
    }
}

#[test]
fn data_of_members_is_not_read() {
    let bytes = [
        member("a", &[1; 1 << 20]),
        special("b", b'x', b"9 path=b\n"),
    ]
    .concat();
    let inner: StorageRef = Arc::new(MemoryStorage::new(bytes));
    let counted = Counted(inner, 0.into());
    let mut members = Members::new(&counted);
    assert!(members.next_file().expect("a member").is_some());
    assert!(members.next_file().expect("the end").is_none());
    assert!(counted.1.into_inner() < 4096);
}
