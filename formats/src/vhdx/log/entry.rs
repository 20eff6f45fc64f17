//! A log entry: a header with descriptors of what is to be written, then the data ([MS-VHDX] 2.3.1).
//!
//! ```text
//!  sector 0                      1 …                 then, for each data descriptor
//! ┌────────┬──────────────────┬───────────────────┬─────────────────────────────────────────┬───
//! │ header │ 126 descriptors  │ 128 descriptors   │ "data" · sequence high · 4084 bytes · low │ …
//! └────────┴──────────────────┴───────────────────┴─────────────────────────────────────────┴───
//! ```

use uuid::Uuid;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, transmute};

use super::super::checksum::{checksum_append, stored};
use super::super::guid;
use super::ring::{Ring, SECTOR, Sector};
use crate::error::Result;

const SIGNATURE: [u8; 4] = *b"loge";
const ZERO_DESCRIPTOR: [u8; 4] = *b"zero";
const DATA_DESCRIPTOR: [u8; 4] = *b"desc";
const DATA_SECTOR: [u8; 4] = *b"data";

const HEADER_LEN: u64 = 64;
const DESCRIPTOR_LEN: u64 = 32;

/// The header of an entry as it stands on disk.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawHeader {
    pub signature: [u8; 4],
    pub checksum: U32,
    pub entry_length: U32,
    pub tail: U32,
    pub sequence_number: U64,
    pub descriptor_count: U32,
    pub reserved: U32,
    pub log_guid: [u8; 16],
    pub flushed_file_offset: U64,
    pub last_file_offset: U64,
}

/// A descriptor as it stands on disk: of data, `edges` are the last four and the first eight bytes of the sector; of
/// zeros, a reserved word and the length.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawDescriptor {
    pub signature: [u8; 4],
    pub edges: [u8; 12],
    pub file_offset: U64,
    pub sequence_number: U64,
}

/// What the first and the last bytes of a data sector say.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawDataSector {
    signature: [u8; 4],
    sequence_high: U32,
    data: [u8; SECTOR as usize - 12],
    sequence_low: U32,
}

/// An entry that was found whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEntry {
    /// Byte offset in the log.
    pub at: u64,
    /// Length in bytes.
    pub length: u64,
    /// Byte offset in the log of the oldest entry that had to be replayed when this one was written.
    pub tail: u64,
    /// Its number.
    pub sequence_number: u64,
    /// How many descriptors it has.
    pub descriptors: u32,
    /// Length in bytes that the file had for certain when the entry was written.
    pub flushed_file_offset: u64,
    /// Length in bytes that the file must have once the entry was replayed.
    pub last_file_offset: u64,
}

/// What one descriptor tells to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// `length` bytes at `offset` of the file become zeros.
    Zero {
        /// A multiple of 4096.
        offset: u64,
        /// A multiple of 4096.
        length: u64,
    },
    /// The 4096 bytes at `offset` of the file become those of a data sector.
    Data {
        /// A multiple of 4096.
        offset: u64,
        /// The sector's last four bytes, then its first eight: in the data sector, other things stand there.
        edges: [u8; 12],
        /// Where the data sector stands: a byte offset in the log.
        sector_at: u64,
    },
}

impl LogEntry {
    /// The entry at byte `at` of the log, if a whole one with the id `log_guid` stands there.
    ///
    /// Sector by sector, so that it stops at the first one that is none of this entry's: entries never share a sector,
    /// and however many there seem to be, each sector of the log is read once for each of its neighbours at most.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn read(ring: &Ring, at: u64, log_guid: Uuid) -> Result<Option<LogEntry>> {
        let first = ring.sector(at)?;
        let Some(entry) = LogEntry::parse(&first, at, ring.size(), log_guid) else {
            return Ok(None);
        };
        let mut sum = checksum_append(0, &first[..4]);
        sum = checksum_append(sum, &[0; 4]);
        sum = checksum_append(sum, &first[8..]);
        let mut data_sectors = match entry.data_descriptors(0, &first) {
            Some(count) => count,
            None => return Ok(None),
        };
        let descriptor_sectors = entry.descriptor_sectors();
        for index in 1..entry.length / SECTOR {
            let sector = ring.sector(at + index * SECTOR)?;
            sum = checksum_append(sum, &sector);
            if index < descriptor_sectors {
                match entry.data_descriptors(index, &sector) {
                    Some(count) => data_sectors += count,
                    None => return Ok(None),
                }
                continue;
            }
            let is_data = index - descriptor_sectors < data_sectors;
            if is_data && !entry.is_data(&sector) || sector.starts_with(&SIGNATURE) {
                return Ok(None);
            }
        }
        let is_whole = descriptor_sectors + data_sectors <= entry.length / SECTOR;
        Ok((is_whole && sum == stored(&first)).then_some(entry))
    }

    fn parse(first: &Sector, at: u64, log_len: u64, log_guid: Uuid) -> Option<LogEntry> {
        let (raw, _) = RawHeader::ref_from_prefix(first).ok()?;
        let entry = LogEntry {
            at,
            length: raw.entry_length.get().into(),
            tail: raw.tail.get().into(),
            sequence_number: raw.sequence_number.get(),
            descriptors: raw.descriptor_count.get(),
            flushed_file_offset: raw.flushed_file_offset.get(),
            last_file_offset: raw.last_file_offset.get(),
        };
        let is_possible = raw.signature == SIGNATURE
            && (SECTOR..=log_len).contains(&entry.length)
            && entry.length.is_multiple_of(SECTOR)
            && entry.tail < log_len
            && entry.tail.is_multiple_of(SECTOR)
            && entry.sequence_number > 0
            && guid::from_bytes(raw.log_guid) == log_guid
            && entry.descriptor_sectors() <= entry.length / SECTOR;
        is_possible.then_some(entry)
    }

    /// Sectors that header and descriptors take.
    fn descriptor_sectors(&self) -> u64 {
        (HEADER_LEN + u64::from(self.descriptors) * DESCRIPTOR_LEN).div_ceil(SECTOR)
    }

    /// The descriptors in sector number `index` of the entry.
    fn raw_descriptors<'a>(&self, index: u64, sector: &'a Sector) -> &'a [RawDescriptor] {
        let header = if index == 0 { HEADER_LEN } else { 0 };
        let before = (index * SECTOR).saturating_sub(HEADER_LEN) / DESCRIPTOR_LEN;
        let room = (SECTOR - header) / DESCRIPTOR_LEN;
        let count = u64::from(self.descriptors).saturating_sub(before).min(room);
        let bytes = sector.get(header as usize..).unwrap_or_default();
        <[RawDescriptor]>::ref_from_prefix_with_elems(bytes, count as usize)
            .map_or(&[], |(descriptors, _)| descriptors)
    }

    /// How many of the descriptors in sector number `index` are of data; `None` when one of them cannot be.
    fn data_descriptors(&self, index: u64, sector: &Sector) -> Option<u64> {
        let mut count = 0;
        for raw in self.raw_descriptors(index, sector) {
            if let Change::Data { .. } = self.change(raw, 0)? {
                count += 1;
            }
        }
        Some(count)
    }

    /// What `raw` tells to do, with the data sector at byte `sector_at` of the log; `None` when that cannot be.
    fn change(&self, raw: &RawDescriptor, sector_at: u64) -> Option<Change> {
        let offset = raw.file_offset.get();
        let [_, _, _, _, length @ ..] = raw.edges;
        let (change, length) = match raw.signature {
            ZERO_DESCRIPTOR => {
                let length = u64::from_le_bytes(length);
                (Change::Zero { offset, length }, length)
            }
            DATA_DESCRIPTOR => {
                let edges = raw.edges;
                let change = Change::Data {
                    offset,
                    edges,
                    sector_at,
                };
                (change, SECTOR)
            }
            _ => return None,
        };
        let is_possible = offset.is_multiple_of(SECTOR)
            && length.is_multiple_of(SECTOR)
            && offset.checked_add(length).is_some()
            && raw.sequence_number.get() == self.sequence_number;
        is_possible.then_some(change)
    }

    fn is_data(&self, sector: &Sector) -> bool {
        let raw: RawDataSector = transmute!(*sector);
        let [high, low] = [raw.sequence_high.get(), raw.sequence_low.get()];
        raw.signature == DATA_SECTOR
            && u64::from(high) << 32 | u64::from(low) == self.sequence_number
    }

    /// Calls `visit` with each change, in order.
    ///
    /// # Errors
    /// Those of the storage and of `visit`.
    pub fn changes(&self, ring: &Ring, mut visit: impl FnMut(Change) -> Result<()>) -> Result<()> {
        let mut data_sector = self.descriptor_sectors();
        for index in 0..self.descriptor_sectors() {
            let sector = ring.sector(self.at + index * SECTOR)?;
            for raw in self.raw_descriptors(index, &sector) {
                let sector_at = ring.wrapped(self.at + data_sector * SECTOR);
                // The entry was found whole. Should the file have changed since, that is noticed later.
                let Some(change) = self.change(raw, sector_at) else {
                    continue;
                };
                data_sector += u64::from(matches!(change, Change::Data { .. }));
                visit(change)?;
            }
        }
        Ok(())
    }
}
