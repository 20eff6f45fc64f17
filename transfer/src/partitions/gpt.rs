//! The GUID partition table (UEFI specification, 5.3): a header and entries at the front, and a copy at the end.

use std::ops::Range;

use formats::{BlockSource, Error, Result};
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Partition, bytes_at, mbr};

const SIGNATURE: [u8; 8] = *b"EFI PART";

/// Bytes of the header that the specification defines.
const HEADER_LEN: usize = 92;

/// Most bytes of all entries that are read: 128 entries of 128 bytes are usual.
const MOST_ENTRIES_BYTES: u64 = 1 << 20;

/// The header as it stands on disk.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    signature: [u8; 8],
    revision: U32,
    header_size: U32,
    header_crc: U32,
    reserved: U32,
    my_lba: U64,
    alternate_lba: U64,
    first_usable: U64,
    last_usable: U64,
    disk_guid: [u8; 16],
    entries_lba: U64,
    entry_count: U32,
    entry_size: U32,
    entries_crc: U32,
}

/// One copy of the table, whose checksums are right.
#[derive(Debug, Clone)]
struct Copy {
    header: RawHeader,
    entries: Vec<u8>,
}

/// A table of which at least one copy is whole.
#[derive(Debug, Clone)]
pub struct Gpt {
    /// Bytes of a sector.
    sector: u64,
    /// The copy that counts.
    copy: Copy,
    is_primary: bool,
    has_backup: bool,
    /// Where copies at the end lie, in bytes: the one that is named, and one that was left behind at the end of the disk.
    copies: Vec<Range<u64>>,
}

/// What is written to move a table to another end of the disk. The order matters: one copy is whole at any time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GptMove {
    /// The entries at the end, then the header behind them: offsets in bytes.
    pub backup: Vec<(u64, Vec<u8>)>,
    /// The header at the front, and the protective record, when that is on stable storage.
    pub primary: Vec<(u64, Vec<u8>)>,
    /// Bytes that held the copy before, and are to be zeros when all else is on stable storage.
    pub cleared: Vec<Range<u64>>,
}

impl Gpt {
    /// The table of a disk with sectors of `sector` bytes, if it has one.
    ///
    /// # Errors
    /// Those of reading the disk.
    pub fn read(source: &dyn BlockSource, sector: u64) -> Result<Option<Gpt>> {
        let last = (source.size() / sector).saturating_sub(1);
        let primary = Copy::read(source, sector, 1)?;
        let at = primary
            .as_ref()
            .map_or(last, |copy| copy.header.alternate_lba.get());
        let backup = Copy::read(source, sector, at)?;
        let has_backup = backup.is_some();
        let is_primary = primary.is_some();
        let left_behind = match at == last {
            true => None,
            false => Copy::read(source, sector, last)?,
        };
        let copies = [backup.clone(), left_behind];
        Ok(primary.or(backup).map(|copy| {
            let guid = copy.header.disk_guid;
            let copies = copies.into_iter().flatten();
            Gpt {
                sector,
                copy,
                is_primary,
                has_backup,
                copies: copies
                    .filter(|other| other.header.disk_guid == guid)
                    .filter_map(|other| other.tail(sector))
                    .collect(),
            }
        }))
    }

    /// Where copies lie that nobody needs once the table is moved, in bytes.
    pub fn copies(&self) -> &[Range<u64>] {
        &self.copies
    }

    /// Bytes of a sector.
    pub fn sector(&self) -> u64 {
        self.sector
    }

    /// The partitions that it names.
    pub fn partitions(&self) -> Vec<Partition> {
        let size = self.copy.header.entry_size.get().max(1) as usize;
        let entries = self.copy.entries.chunks_exact(size);
        (1..)
            .zip(entries)
            .filter_map(|(number, entry)| {
                let is_used = entry.get(..16)?.iter().any(|byte| *byte != 0);
                let first = le64(entry, 32)?;
                let last = le64(entry, 40)?;
                let end = last.saturating_add(1).saturating_mul(self.sector);
                is_used.then_some(Partition {
                    table: "GPT",
                    number,
                    bytes: first.saturating_mul(self.sector)..end,
                })
            })
            .collect()
    }

    /// Where the copy at the end of the disk lies, in bytes.
    pub fn backup(&self) -> Range<u64> {
        let header = &self.copy.header;
        let at = match self.is_primary {
            true => header.alternate_lba.get(),
            false => header.my_lba.get(),
        };
        let start = at.saturating_sub(self.entry_sectors());
        start.saturating_mul(self.sector)..at.saturating_add(1).saturating_mul(self.sector)
    }

    /// Whether both copies are whole, and one stands at the end of a disk of `size` bytes.
    pub fn fits(&self, size: u64) -> bool {
        self.is_primary && self.has_backup && self.backup().end == size / self.sector * self.sector
    }

    /// Bytes at the end of a disk of `size` bytes that the copy will take.
    pub fn room(&self, size: u64) -> Range<u64> {
        let end = size / self.sector * self.sector;
        end.saturating_sub((self.entry_sectors() + 1) * self.sector)..end
    }

    /// What is to be written so that the table fits to a disk of `size` bytes. `front` is the first sector.
    ///
    /// # Errors
    /// `Refused` when partitions lie where the copy has to go, or the copy at the front is damaged.
    pub fn moved(&self, front: &[u8], size: u64) -> Result<GptMove> {
        if !self.is_primary {
            return Err(Error::refused("GPT", "the copy at the front is damaged")
                .hint("repair it with gdisk or parted first"));
        }
        let room = self.room(size);
        let last_usable = (room.start / self.sector).saturating_sub(1);
        if let Some(partition) = self.partitions().iter().find(|p| p.bytes.end > room.start) {
            return Err(
                Error::refused("GPT", "a partition lies where its copy has to go")
                    .found(partition)
                    .expected(format!("an end at or before byte {}", room.start)),
            );
        }
        let sectors = size / self.sector;
        if last_usable < self.copy.header.first_usable.get() {
            return Err(Error::refused("GPT", "has no room on so small a disk").found(size));
        }
        let mut primary = self.copy.header;
        primary.alternate_lba = U64::new(sectors - 1);
        primary.last_usable = U64::new(last_usable);
        let mut backup = primary;
        backup.my_lba = primary.alternate_lba;
        backup.alternate_lba = primary.my_lba;
        backup.entries_lba = U64::new(last_usable + 1);
        let sector = |header: RawHeader| {
            let mut bytes = summed(header);
            bytes.resize(self.sector as usize, 0);
            bytes
        };
        let mut entries = self.copy.entries.clone();
        entries.resize((self.entry_sectors() * self.sector) as usize, 0);
        let mut at_front = vec![(self.sector, sector(primary))];
        at_front.extend(mbr::protective(front, sectors).map(|record| (0, record)));
        Ok(GptMove {
            backup: vec![
                (room.start, entries),
                (room.end - self.sector, sector(backup)),
            ],
            primary: at_front,
            cleared: self.left_of_copies(&room),
        })
    }

    /// What of the copies lies neither in `room`, where the new one goes, nor in a partition.
    fn left_of_copies(&self, room: &Range<u64>) -> Vec<Range<u64>> {
        let partitions = self.partitions();
        let overlap = |a: &Range<u64>, b: &Range<u64>| a.start < b.end && b.start < a.end;
        let is_free = |range: &Range<u64>| {
            !range.is_empty() && !partitions.iter().any(|p| overlap(&p.bytes, range))
        };
        let outside = |copy: &Range<u64>| {
            let Range { start, end } = *copy;
            [start..end.min(room.start), start.max(room.end)..end]
        };
        self.copies
            .iter()
            .flat_map(outside)
            .filter(is_free)
            .collect()
    }

    fn entry_sectors(&self) -> u64 {
        (self.copy.entries.len() as u64).div_ceil(self.sector)
    }
}

impl Copy {
    fn read(source: &dyn BlockSource, sector: u64, lba: u64) -> Result<Option<Copy>> {
        let Some(offset) = lba.checked_mul(sector).filter(|offset| *offset > 0) else {
            return Ok(None);
        };
        let Some(bytes) = bytes_at(source, offset, sector)? else {
            return Ok(None);
        };
        let Ok((header, _)) = RawHeader::read_from_prefix(&bytes) else {
            return Ok(None);
        };
        // Longer headers are allowed, but what would stand in them nobody has said yet.
        let is_whole = header.signature == SIGNATURE
            && header.header_size.get() as usize == HEADER_LEN
            && header.my_lba.get() == lba
            && summed(header) == bytes.get(..HEADER_LEN).unwrap_or_default();
        let len = u64::from(header.entry_count.get()) * u64::from(header.entry_size.get());
        if !is_whole || header.entry_size.get() < 128 || len > MOST_ENTRIES_BYTES {
            return Ok(None);
        }
        let Some(at) = header.entries_lba.get().checked_mul(sector) else {
            return Ok(None);
        };
        let entries = bytes_at(source, at, len)?;
        let entries = entries.filter(|e| libdeflater::crc32(e) == header.entries_crc.get());
        Ok(entries.map(|entries| Copy { header, entries }))
    }

    /// Where it lies, if it stands in one piece with the header last, as at the end of a disk.
    fn tail(&self, sector: u64) -> Option<Range<u64>> {
        let sectors = (self.entries.len() as u64).div_ceil(sector);
        let (first, last) = (self.header.entries_lba.get(), self.header.my_lba.get());
        let is_whole = first.checked_add(sectors) == Some(last);
        is_whole.then_some(first.checked_mul(sector)?..last.checked_add(1)?.checked_mul(sector)?)
    }
}

/// The header with its checksum.
fn summed(mut header: RawHeader) -> Vec<u8> {
    header.header_crc = U32::ZERO;
    header.header_crc = U32::new(libdeflater::crc32(header.as_bytes()));
    header.as_bytes().to_vec()
}

fn le64(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u64::from_le_bytes(*bytes))
}
