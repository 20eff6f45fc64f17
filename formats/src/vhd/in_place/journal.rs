//! What a half-converted file says of itself, behind everything else.
//!
//! ```text
//!   … │ plan: footer to be, which blocks hold something │ one batch, kept twice │ … │ record │
//!     └─ on a page                                      └─ on a page             512 bytes ─┘ end of the file
//! ```
//!
//! The plan never changes. The record is one sector, so that a crash leaves the old or the new one.

use zerocopy::byteorder::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, transmute};

use super::layout::Layout;
use crate::block_set::BlockSet;
use crate::driver::Head;
use crate::error::{Error, Result};
use crate::storage::{Storage, read_array};
use crate::vhd::footer::{DiskType, Footer, MAX_DISK_SIZE};
use crate::vhd::new_blocks::PAGE;

/// What the last sector of a half-converted file starts with.
const MAGIC: [u8; 24] = *b"diskferry-half-converted";

/// Version of all of this.
const VERSION: u32 = 1;

/// Length of the record in bytes.
pub const RECORD_LEN: u64 = 512;

/// Blocks of the largest disk in blocks of 2 MiB: no plan has more.
const MAX_BLOCKS: u64 = MAX_DISK_SIZE.div_ceil(2 << 20);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawRecord {
    magic: [u8; 24],
    version: U32,
    has_plan: U32,
    plan_offset: U64,
    plan_len: U64,
    old_len: U64,
    done: U64,
    is_kept: U64,
    kept_hash: [u8; 32],
    reserved: [u8; 376],
    checksum: [u8; 32],
}

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Whether the plan is written. Before, nothing of the old image has changed but the length of its file.
    pub has_plan: bool,
    /// Byte offset of the plan, on a page.
    pub plan_offset: u64,
    /// Its length in bytes.
    pub plan_len: u64,
    /// Length of the old file in bytes.
    pub old_len: u64,
    /// Batches that have moved.
    pub done: u64,
    /// The BLAKE3 of the next batch, if it is kept behind the plan, because its old place is being written over.
    pub kept: Option<[u8; 32]>,
}

impl Record {
    /// The record as it stands on disk.
    pub fn to_bytes(&self) -> [u8; 512] {
        let mut raw = RawRecord {
            magic: MAGIC,
            version: U32::new(VERSION),
            has_plan: U32::new(self.has_plan.into()),
            plan_offset: U64::new(self.plan_offset),
            plan_len: U64::new(self.plan_len),
            old_len: U64::new(self.old_len),
            done: U64::new(self.done),
            is_kept: U64::new(self.kept.is_some().into()),
            kept_hash: self.kept.unwrap_or_default(),
            reserved: [0; 376],
            checksum: [0; 32],
        };
        raw.checksum = checksum(raw.as_bytes());
        transmute!(raw)
    }

    /// The record at the end of `storage`, if there is one.
    ///
    /// # Errors
    /// `Malformed` for one that is damaged, `Unsupported` for another version.
    pub fn read(storage: &dyn Storage) -> Result<Option<Record>> {
        let len = storage.len();
        let Some(at) = len.checked_sub(RECORD_LEN) else {
            return Ok(None);
        };
        let bytes: [u8; 512] = read_array(storage, at)?;
        if !bytes.starts_with(&MAGIC) {
            return Ok(None);
        }
        let raw: RawRecord = transmute!(bytes);
        if checksum(&bytes) != raw.checksum {
            return Err(damaged("the checksum of the record does not match").at(at));
        }
        if raw.version.get() != VERSION {
            return Err(
                Error::unsupported("journal", "is of another version of diskferry")
                    .at(at)
                    .found(raw.version.get())
                    .expected(VERSION),
            );
        }
        let record = Record {
            has_plan: raw.has_plan.get() != 0,
            plan_offset: raw.plan_offset.get(),
            plan_len: raw.plan_len.get(),
            old_len: raw.old_len.get(),
            done: raw.done.get(),
            kept: (raw.is_kept.get() != 0).then_some(raw.kept_hash),
        };
        if record.old_len > record.plan_offset || !record.plan_offset.is_multiple_of(PAGE) {
            return Err(damaged("the plan cannot stand there").at(at));
        }
        Ok(Some(record))
    }
}

/// Whether a file with this head is half converted.
pub fn is_half_converted(head: &Head) -> bool {
    head.last.len() as u64 == RECORD_LEN && head.last.starts_with(&MAGIC)
}

/// Why nobody should read such a file.
pub fn half_converted() -> Error {
    Error::refused(
        "file",
        "is a fixed VHD that is half converted to a dynamic one",
    )
    .hint(
        "run the same command again, which finishes it: diskferry convert --replace --in-place FILE -o subformat=dynamic",
    )
}

fn damaged(message: &'static str) -> Error {
    Error::malformed("journal", message)
}

/// The hash of all but the last 32 bytes.
fn checksum(bytes: &[u8]) -> [u8; 32] {
    let covered = bytes.get(..bytes.len().saturating_sub(32));
    *blake3::hash(covered.unwrap_or_default()).as_bytes()
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawPlan {
    size: U64,
    block_size: U64,
    data_bytes: U64,
    fingerprint: [u8; 32],
    footer: [u8; 512],
}

/// What the new image is to be.
#[derive(Debug)]
pub struct Plan {
    /// Guest bytes that are not zero.
    pub data_bytes: u64,
    /// The fingerprint of the disk.
    pub fingerprint: [u8; 32],
    /// The footer of the dynamic disk.
    pub footer: Footer,
    /// Where its blocks go.
    pub layout: Layout,
}

impl Plan {
    /// The plan as it stands on disk.
    pub fn to_bytes(&self) -> Vec<u8> {
        let raw = RawPlan {
            size: U64::new(self.footer.current_size),
            block_size: U64::new(self.layout.block_size()),
            data_bytes: U64::new(self.data_bytes),
            fingerprint: self.fingerprint,
            footer: self.footer.to_bytes(),
        };
        let mut bytes = raw.as_bytes().to_vec();
        let mut bits = vec![0u8; self.layout.blocks().div_ceil(8) as usize];
        for number in self.layout.used() {
            if let Some(byte) = bits.get_mut((number / 8) as usize) {
                *byte |= 1 << (number % 8);
            }
        }
        bytes.append(&mut bits);
        bytes.extend([0; 32]);
        let sum = checksum(&bytes);
        if let Some(place) = bytes.last_chunk_mut::<32>() {
            *place = sum;
        }
        bytes
    }

    /// The plan that `record` leads to.
    ///
    /// # Errors
    /// `Malformed` when it is damaged.
    pub fn read(storage: &dyn Storage, record: &Record) -> Result<Plan> {
        let at = record.plan_offset;
        let wrong = |message| damaged(message).at(at);
        let fixed = size_of::<RawPlan>() as u64 + 32;
        if !(fixed..=fixed + MAX_BLOCKS.div_ceil(8)).contains(&record.plan_len) {
            return Err(wrong("the plan cannot be so long").found(record.plan_len));
        }
        let mut bytes = vec![0; record.plan_len as usize];
        storage.read_at(&mut bytes, at)?;
        if bytes.last_chunk::<32>() != Some(&checksum(&bytes)) {
            return Err(wrong("the checksum of the plan does not match"));
        }
        let (raw, rest) = RawPlan::read_from_prefix(&bytes).map_err(|_| wrong("is cut off"))?;
        let footer = Footer::parse(&raw.footer, at)?;
        let (size, block_size) = (raw.size.get(), raw.block_size.get());
        let is_possible = footer.disk_type == DiskType::Dynamic
            && footer.current_size == size
            && block_size.is_power_of_two()
            && (PAGE..=2 << 20).contains(&block_size)
            && (1..=MAX_BLOCKS).contains(&size.div_ceil(block_size));
        let bits = rest
            .get(..rest.len().saturating_sub(32))
            .unwrap_or_default();
        if !is_possible || bits.len() as u64 != size.div_ceil(block_size).div_ceil(8) {
            return Err(wrong("the plan is not one of diskferry"));
        }
        let blocks = size.div_ceil(block_size);
        let mut used = BlockSet::new(blocks);
        for (first, byte) in (0..).step_by(8).zip(bits) {
            let set = (0..8).filter(|bit| byte & (1 << bit) != 0);
            set.map(|bit| first + bit)
                .filter(|number| *number < blocks)
                .for_each(|number| used.insert(number));
        }
        Ok(Plan {
            data_bytes: raw.data_bytes.get(),
            fingerprint: raw.fingerprint,
            footer,
            layout: Layout::new(size, block_size, &used)?,
        })
    }
}
