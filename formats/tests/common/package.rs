//! Archives as packages are, and a look at what a damaged one leads to.

use formats::tar::{self, Header, Members};
use formats::xva::{Checksum, Index, XvaSource};
use formats::{Error, StorageRef, reader::read_guest};

use super::{look_through, vmdk};

const BLOCK: usize = tar::BLOCK as usize;

/// Where a header has its checksum.
const SUM: std::ops::Range<usize> = 148..156;

/// Where a header has its type.
const TYPE: usize = 156;

/// A plain member with its data.
pub fn member(name: &str, data: &[u8]) -> Vec<u8> {
    let header = Header::for_file(name, data.len() as u64, 0).expect("a name");
    let mut bytes = [&header, data].concat();
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

/// The same of another type.
pub fn special(name: &str, flag: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = member(name, data);
    bytes[TYPE] = flag;
    sum(&mut bytes);
    bytes
}

/// Makes the checksum of the header at the front of `bytes` right.
fn sum(bytes: &mut [u8]) {
    let Some(header) = bytes.get_mut(..BLOCK) else {
        return;
    };
    header[SUM].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[SUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// A block of a disk in an XVA, and its checksum.
pub fn block(reference: &str, number: u64, data: &[u8], checksum: Checksum) -> Vec<u8> {
    let name = format!("{reference}/{number:08}");
    let said = checksum.of(data);
    let sum = member(&(name.clone() + checksum.suffix()), said.as_bytes());
    [member(&name, data), sum].concat()
}

/// An archive with a member of every kind that is taken.
pub fn archive() -> Vec<u8> {
    let long = "a/".repeat(80) + "b.vmdk";
    [
        special("dir/", b'5', b""),
        special("global", b'g', b"13 comment=x\n"),
        member("web.ovf", b"<Envelope/>"),
        special("././@LongLink", b'L', long.as_bytes()),
        member("cut", &[7; 513]),
        special("pax", b'x', b"17 path=c d.vmdk\n10 size=3\n"),
        member("c", b"123"),
        vec![0; 2 * BLOCK],
    ]
    .concat()
}

/// An XVA with two disks of small blocks, some of which are missing, empty, or without a checksum.
pub fn export() -> Vec<u8> {
    let data = |byte: u8, len: usize| vec![byte; len];
    [
        member("ova.xml", b"<value/>"),
        block("Ref:3", 0, &data(1, 1024), Checksum::Sha1),
        block("Ref:3", 1, &data(2, 1024), Checksum::Sha1),
        block("Ref:3", 2, b"", Checksum::Sha1),
        block("Ref:3", 6, &data(3, 1024), Checksum::Xxhash),
        member("Ref:3/00000007", &data(4, 700)),
        block("Ref:12", 0, &data(5, 512), Checksum::Xxhash),
        vec![0; 2 * BLOCK],
    ]
    .concat()
}

/// Makes the checksums of all headers right that can be found, and with `blocks` those of the blocks.
pub fn seal(bytes: &mut [u8], blocks: bool) {
    let (mut at, mut before) = (0, None);
    while let Some(header) = bytes.get_mut(at..)
        && header.len() >= BLOCK
    {
        if header[..BLOCK].iter().any(|byte| *byte != 0) {
            sum(header);
        }
        let parsed = header.first_chunk().map(Header::parse);
        let Some(Ok(Some(header))) = parsed else {
            return;
        };
        let data = at + BLOCK;
        let len = header.len.min(bytes.len() as u64) as usize;
        if let (true, Some(range)) = (blocks, before) {
            seal_block(bytes, range, &header.name, data);
        }
        before = Some((data, len));
        at = (data as u64).saturating_add(header.padded_len()) as usize;
    }
}

/// Makes the checksum at `at`, if the member `name` is one, that of the block in front of it: offset and length.
fn seal_block(bytes: &mut [u8], (start, len): (usize, usize), name: &[u8], at: usize) {
    let Some(block) = bytes.get(start..start.saturating_add(len)) else {
        return;
    };
    let is_it = |kind: &Checksum| name.ends_with(kind.suffix().as_bytes());
    if let Some(kind) = Checksum::ALL.into_iter().find(is_it) {
        let said = kind.of(block);
        super::patch(bytes, at, said.as_bytes());
    }
}

/// Goes through an archive, and through the disks in it if it is an XVA. Answers the members and the bytes of disks that
/// could be read.
pub fn look(bytes: Vec<u8>) -> (usize, u64) {
    let storage = vmdk::memory(bytes);
    let members = walk(&storage);
    let mut read = 0;
    match Index::read(&storage) {
        Ok(index) => {
            assert!(members > 0);
            assert!(index.disks.len() <= 1024 && !index.description.name.is_empty());
            for disk in index.disks {
                let size = disk.end;
                let shorter =
                    XvaSource::new(storage.clone(), std::sync::Arc::new(disk.clone()), size / 2);
                assert!(shorter.is_err() || size == 0);
                match XvaSource::new(storage.clone(), std::sync::Arc::new(disk), size) {
                    Ok(source) => read += contents(&source, &storage),
                    Err(error) => located(&error),
                }
            }
        }
        Err(error) => located(&error),
    }
    (members, read)
}

fn located(error: &Error) {
    assert!(error.path().is_some(), "no file: {error}");
}

fn walk(storage: &StorageRef) -> usize {
    let mut members = Members::new(storage.as_ref());
    let (mut count, mut end) = (0, 0);
    loop {
        match members.next_file() {
            Ok(Some(member)) => {
                assert!(member.header >= end && member.offset > member.header);
                end = member.offset + member.len;
                assert!(end <= storage.len());
                count += 1;
            }
            Ok(None) => return count,
            Err(error) => {
                located(&error);
                assert!(error.offset().is_some(), "no offset: {error}");
                assert!(matches!(members.next_file(), Ok(None)));
                return count;
            }
        }
    }
}

/// Looks through a disk. What of it can be read stands in the file as it is.
fn contents(source: &XvaSource, storage: &StorageRef) -> u64 {
    let seen = look_through(source);
    let mut bytes = vec![0; 4096.min(formats::BlockSource::size(source)) as usize];
    if read_guest(source, 0, &mut bytes).is_ok() && !bytes.is_empty() {
        let mut file = vec![0; storage.len() as usize];
        storage.read_at(&mut file, 0).expect("all of it");
        let first = &bytes[..bytes.len().min(16)];
        assert!(file.windows(first.len()).any(|window| window == first) || first.contains(&0));
    }
    seen.bytes
}
