//! The writing side of a format: where the bytes of a guest range go, and the tables that say so.

use std::borrow::Cow;
use std::ffi::OsString;
use std::ops::Range;
use std::sync::Arc;

use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::storage::WritableStorage;

/// File offsets of an image of several files: those of part `n` (0 is the file that the user named) start at `n` times
/// this.
pub const PART: u64 = 1 << 48;

/// Where a copy goes: the layout of an image that is being written.
///
/// `place` and `zero` are called in ascending guest order from one thread at a time; they touch memory only, and what
/// they answer depends on the sequence of calls alone, so that the same content makes the same file. The storage reads
/// as zeros wherever nothing is written.
pub trait BlockTarget: Send {
    /// Guest-visible size in bytes that the image will have: never less than was asked for.
    fn size(&self) -> u64;

    /// Unit in which the image allocates, in bytes.
    fn block_size(&self) -> u64;

    /// Logical sector size in bytes that the guest will see; none where the format does not say.
    fn sector_size(&self) -> Option<u32> {
        Some(512)
    }

    /// Whether everything, tables included, is written in ascending file order, so that a pipe can take it.
    fn is_sequential(&self) -> bool;

    /// The file length of the finished image, where it does not depend on the content.
    fn exact_length(&self) -> Option<u64> {
        None
    }

    /// What the user should know about an image of this format and size.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// The names of further files, beside the one that the user named: parts 1, 2, … of the image (see [`PART`]).
    fn further_parts(&self) -> Vec<OsString> {
        Vec::new()
    }

    /// Whether zeros can be told from what the image below holds without storing them.
    fn says_zeros(&self) -> bool {
        true
    }

    /// What is allocated that nothing is stored in.
    fn preallocation(&self) -> Preallocation {
        Preallocation::Off
    }

    /// What is done to blocks before they have a place; `None`: they are stored as they are, by [`BlockTarget::place`].
    fn packer(&self) -> Option<Arc<dyn Packer>> {
        None
    }

    /// What stands at the very front of the file and is known before any block is. To a pipe it goes first, to a file
    /// last: without it nobody takes the file for an image.
    ///
    /// # Errors
    /// When something has no room in it.
    fn head(&self, _identity: &Identity) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }

    /// Finds the place for the `len` guest bytes at `guest_offset`, none of them placed before. The answer may cover
    /// only a first part; it is asked again for the rest. What a block has besides stays zero.
    ///
    /// # Errors
    /// `Limit` when the format cannot hold more.
    fn place(&mut self, guest_offset: u64, len: u64) -> Result<Placement>;

    /// Finds the place for `len` bytes that the packer made of the block at `guest_offset`: a file offset.
    ///
    /// # Errors
    /// `Limit` when the format cannot hold more.
    fn place_packed(&mut self, guest_offset: u64, len: u64, form: Form) -> Result<u64> {
        Err(Error::unsupported("target", "takes no packed blocks")
            .at(guest_offset)
            .found(format!("{len} bytes, {form:?}")))
    }

    /// Notes that the `len` guest bytes at `guest_offset` read as zeros. Answers the file range that must be made to
    /// read as zeros for that, if the format keeps one (a raw image does, a table entry that says "zero" does not).
    ///
    /// # Errors
    /// `Limit` when the format cannot hold more.
    fn zero(&mut self, guest_offset: u64, len: u64) -> Result<Option<Range<u64>>>;

    /// Tables that are complete by now and can be stored. Asked after every `place` and `zero`, so that a target never
    /// has to keep the tables of a whole disk in memory.
    fn take_tables(&mut self) -> Vec<TableWrite> {
        Vec::new()
    }

    /// Writes tables, headers, footer; then the image is whole. All blocks are stored by then.
    ///
    /// # Errors
    /// Those of the storage.
    fn finish(self: Box<Self>, identity: &Identity, out: &dyn WritableStorage) -> Result<Summary>;
}

/// What a packer made of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Something that has to be unpacked.
    Packed,
    /// The block as it is: packing would not have made it smaller.
    Plain,
}

/// What of a target is allocated although nothing is stored there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preallocation {
    /// Nothing.
    Off,
    /// Every block has its place in the tables.
    Metadata,
    /// The file system keeps the room free, too.
    Reserved,
    /// Zeros are stored like everything else.
    Full,
}

/// Packs blocks before they have a place.
pub trait Packer: Send + Sync {
    /// Guest bytes of a block: a power of two, at most 2 MiB. The last block of a disk is filled up with zeros.
    fn unit(&self) -> u32;

    /// The most that a block may become: bytes, and what they are then.
    fn most(&self) -> (usize, Form);

    /// Whether a block that the source holds packed with `codec` can be taken as it is.
    fn takes(&self, codec: Codec) -> bool;

    /// What one thread needs to pack.
    fn worker(&self) -> Box<dyn PackWorker>;
}

/// One thread's part of a [`Packer`]. What it makes depends on its arguments alone.
pub trait PackWorker: Send {
    /// Appends to `out` what is stored for `block`, the whole unit at `guest_offset`.
    ///
    /// # Errors
    /// When the block cannot be packed.
    fn pack(&mut self, guest_offset: u64, block: &[u8], out: &mut Vec<u8>) -> Result<Form>;

    /// The same for a block whose stream the source has already: `stream`, with nothing behind its end.
    ///
    /// # Errors
    /// As [`PackWorker::pack`].
    fn adopt(
        &mut self,
        guest_offset: u64,
        block: &[u8],
        codec: Codec,
        stream: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Form>;
}

/// Where placed guest bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// File offset of the first byte.
    pub offset: u64,
    /// Bytes that the answer covers, at least 1.
    pub len: u64,
}

/// A piece of metadata that is ready to be stored.
#[derive(Debug, Clone)]
pub struct TableWrite {
    /// File offset of the first byte.
    pub offset: u64,
    /// What to store there.
    pub bytes: Cow<'static, [u8]>,
}

/// The ids and times of a new image: random and now, or made from its content.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// A UUID in the order in which it is printed.
    pub id: [u8; 16],
    /// Seconds since 1970-01-01T00:00:00Z.
    pub unix_time: u64,
}

/// What a finished image is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Length of the file in bytes.
    pub file_size: u64,
}
