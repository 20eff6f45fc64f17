//! The disks of an XVA: what is written is found again, and what is wrong is noticed.

mod common;

use std::sync::Arc;

use common::package::{self, member};

use formats::xva::{Checksum, Disk, Index, XvaSource, XvaTarget};
use formats::{
    BlockTarget, Error, ErrorKind, Identity, MemoryStorage, Result, StorageRef, WritableStorage,
    reader::read_guest,
};

const MIB: u64 = 1 << 20;

fn block(number: u64, data: &[u8], checksum: Checksum) -> Vec<u8> {
    package::block("Ref:4", number, data, checksum)
}

fn archive(parts: &[Vec<u8>]) -> StorageRef {
    let bytes = [
        member("ova.xml", b"<value/>"),
        parts.concat(),
        vec![0; 1024],
    ]
    .concat();
    Arc::new(MemoryStorage::new(bytes))
}

/// The content of the only disk of an archive.
fn content(storage: &StorageRef, size: u64) -> Result<Vec<u8>> {
    let mut index = Index::read(storage)?;
    let disk: Disk = index.disks.pop().expect("a disk");
    let source = XvaSource::new(storage.clone(), Arc::new(disk), size)?;
    let mut bytes = vec![0xEE; size as usize];
    read_guest(&source, 0, &mut bytes)?;
    Ok(bytes)
}

fn kind(parts: &[Vec<u8>], size: u64) -> Option<ErrorKind> {
    content(&archive(parts), size)
        .err()
        .map(|e: Error| e.kind())
}

/// A storage that nothing is written to but the end of an empty disk.
#[derive(Default)]
struct End(std::sync::Mutex<Vec<(u64, Vec<u8>)>>);

impl WritableStorage for End {
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.0
            .lock()
            .expect("unpoisoned")
            .push((offset, bytes.to_vec()));
        Ok(())
    }

    fn set_len(&self, _: u64) -> Result<()> {
        Ok(())
    }
}

/// Writes `disk` as the engine does: blocks that are not zeros packed, the others told.
fn written(disk: &[u8], checksum: Checksum) -> Vec<u8> {
    let mut target = XvaTarget::new("Ref:4", disk.len() as u64, 0, checksum, 0).expect("a target");
    let mut worker = target.packer().expect("a packer").worker();
    let mut file = Vec::new();
    let put = |file: &mut Vec<u8>, offset: u64, bytes: &[u8]| {
        assert_eq!(offset, file.len() as u64, "in the order of the file");
        file.extend(bytes);
    };
    for (at, piece) in (0..).step_by(MIB as usize).zip(disk.chunks(MIB as usize)) {
        if piece.iter().all(|byte| *byte == 0) {
            target.zero(at, piece.len() as u64).expect("zeros");
        } else {
            let mut whole = piece.to_vec();
            whole.resize(MIB as usize, 0);
            let mut packed = Vec::new();
            let form = worker.pack(at, &whole, &mut packed).expect("packed");
            let offset = target
                .place_packed(at, packed.len() as u64, form)
                .expect("a place");
            put(&mut file, offset, &packed);
        }
        for table in target.take_tables() {
            put(&mut file, table.offset, &table.bytes);
        }
    }
    let end = End::default();
    let identity = Identity {
        id: [1; 16],
        unix_time: 0,
    };
    Box::new(target).finish(&identity, &end).expect("finished");
    for (offset, bytes) in end.0.into_inner().expect("unpoisoned") {
        put(&mut file, offset, &bytes);
    }
    file
}

#[test]
fn what_is_written_is_found_again() {
    for checksum in Checksum::ALL {
        for (len, data) in [
            (0, vec![]),
            (1, vec![0]),
            (MIB, vec![0]),
            (9 * MIB - 7, vec![2, 3, 6]),
        ] {
            let mut disk = vec![0; len as usize];
            for index in data {
                if let Some(byte) = disk.get_mut((index * MIB) as usize + 5) {
                    *byte = 1 + index as u8;
                }
            }
            let size = len.next_multiple_of(MIB).max(MIB);
            let found = content(&archive(&[written(&disk, checksum)]), size).expect("readable");
            disk.resize(size as usize, 0);
            assert!(found == disk, "{len}, {checksum:?}");
        }
    }
}

#[test]
fn signs_of_life_take_a_number_but_no_place() {
    let sum = Checksum::Xxhash;
    let (one, two) = (vec![1; MIB as usize], vec![2; MIB as usize]);
    // As xapi counts: an empty block 1, zeros in the place of block 2, then a block that stands at 2 MiB.
    let parts = [block(0, &one, sum), block(1, b"", sum), block(3, &two, sum)];
    let found = content(&archive(&parts), 3 * MIB).expect("readable");
    assert!(found[..MIB as usize] == one && found[2 * MIB as usize..] == two);
    assert!(
        found[MIB as usize..2 * MIB as usize]
            .iter()
            .all(|byte| *byte == 0)
    );
}

#[test]
fn what_is_wrong_is_noticed() {
    let sum = Checksum::Sha1;
    let (one, two) = (vec![1; MIB as usize], vec![2; MIB as usize]);
    let (first, last) = (block(0, &one, sum), block(3, &two, sum));
    let size = 4 * MIB;
    assert_eq!(kind(&[first.clone(), last.clone()], size), None);
    let malformed = Some(ErrorKind::Malformed);
    assert_eq!(
        kind(std::slice::from_ref(&first), size),
        malformed,
        "no last block"
    );
    assert_eq!(
        kind(std::slice::from_ref(&last), size),
        malformed,
        "no first block"
    );
    assert_eq!(
        kind(&[first.clone(), last.clone()], size - 1),
        malformed,
        "too far"
    );
    assert_eq!(
        kind(&[last.clone(), first.clone()], size),
        malformed,
        "order"
    );
    assert_eq!(
        kind(&[first.clone(), first.clone()], size),
        malformed,
        "twice"
    );
    let mut flipped = first.clone();
    flipped[512 + 77] ^= 1;
    assert_eq!(kind(&[flipped, last.clone()], size), malformed, "checksum");
    let stray = member("Ref:4/readme.txt", b"");
    assert_eq!(
        kind(&[first.clone(), stray, last.clone()], size),
        malformed,
        "stray"
    );
    let other = member("Ref:5/00000000", &one);
    assert_eq!(
        kind(&[first.clone(), other, last.clone()], size),
        malformed,
        "apart"
    );
    let far = block(9_999_999_999_999_999, &one, sum);
    assert_eq!(kind(&[first, far], size), Some(ErrorKind::Limit), "far");
    let no_description: StorageRef = Arc::new(MemoryStorage::new(last));
    assert_eq!(
        Index::read(&no_description).expect_err("no ova.xml").kind(),
        ErrorKind::Malformed
    );
}
