//! What the tests of spoiled images share.

use formats::reader::read_guest;
use formats::{ErrorKind, OpenContext, ReferencePolicy, StorageRef, open_storage};

use super::{Block, Built, DATA_WRITE, MIB, Vhdx};

const MB: u64 = MIB as u64;

/// Guest bytes that are read at once.
const PIECE: u64 = 8 << 20;

/// The kind of the first error on the way through the disk in `storage`.
pub fn kind_of(storage: StorageRef) -> Option<ErrorKind> {
    let context = OpenContext {
        references: ReferencePolicy::only(Vec::new()),
        ..OpenContext::default()
    };
    let image = match open_storage(storage, None, &context) {
        Ok(image) => image,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return Some(error.kind());
        }
    };
    let size = image.source.size().min(64 << 20);
    let mut disk = vec![0; PIECE as usize];
    for at in (0..size).step_by(PIECE as usize) {
        let piece = &mut disk[..(size - at).min(PIECE) as usize];
        if let Err(error) = read_guest(image.source.as_ref(), at, piece) {
            return Some(error.kind());
        }
    }
    None
}

pub fn kind(built: &Built) -> Option<ErrorKind> {
    kind_of(built.storage())
}

#[track_caller]
pub fn is(built: Built, expected: ErrorKind, what: &str) {
    assert_eq!(kind(&built), Some(expected), "{what}");
}

#[track_caller]
pub fn malformed(built: Built, what: &str) {
    is(built, ErrorKind::Malformed, what);
}

/// Four blocks, of which two are there.
pub fn sound() -> Vhdx {
    Vhdx::new(4 * MB, &[(0, Block::Full), (2, Block::Full)])
}

/// The same, over a parent, with a partial block.
pub fn child() -> Vhdx {
    let blocks = [(0, Block::Full), (1, Block::Partial(vec![(0, 1)]))];
    Vhdx::new(4 * MB, &blocks).over("base.vhdx", DATA_WRITE)
}
