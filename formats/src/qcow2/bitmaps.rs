//! Persistent bitmaps: the extension that points to their directory, and the directory (qcow2 spec, "Bitmaps").

use std::ops::Range;

use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::header::Header;
use super::l1::OFFSET_MASK;
use crate::error::{Error, Result};
use crate::storage::{Storage, StorageRef, read_array};
use crate::table::PagedTable;

/// Most bitmaps that an image has: a limit of QEMU.
const BITMAPS_MAX: u32 = 65_535;
/// Most bytes that the directory has: a limit of QEMU.
const DIRECTORY_MAX_BYTES: u64 = 1024 * BITMAPS_MAX as u64;
/// Most entries that a bitmap's table has: a limit of QEMU.
const TABLE_MAX_ENTRIES: u32 = 1 << 27;
/// Most bytes of a name (qcow2 spec, "Bitmap directory").
const NAME_MAX: u16 = 1023;
/// The only type there is: dirty tracking.
const DIRTY_TRACKING: u8 = 1;
const IN_USE: u32 = 1 << 0;
const AUTO: u32 = 1 << 1;
const EXTRA_COMPATIBLE: u32 = 1 << 2;
/// Bytes of a directory entry in front of its extra data.
const FIXED: usize = 24;

/// The bitmaps extension as it stands on disk.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ExtensionFields {
    count: U32,
    reserved: U32,
    directory_bytes: U64,
    directory_offset: U64,
}

/// The fields that each directory entry has, as they stand on disk.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct EntryFields {
    table_offset: U64,
    table_entries: U32,
    flags: U32,
    kind: u8,
    granularity_bits: u8,
    name_length: U16,
    extra_length: U32,
}

/// Where an image says that its bitmaps are listed. Nothing of it is checked before [`Bitmaps::new`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BitmapDirectory {
    /// Must be 0.
    pub reserved: u32,
    /// Number of bitmaps.
    pub count: u32,
    /// File offset of the directory.
    pub offset: u64,
    /// Bytes of the directory.
    pub bytes: u64,
}

impl BitmapDirectory {
    /// Takes the data of the extension, which stands in the file at `at`.
    ///
    /// # Errors
    /// `Malformed` when it is too short.
    pub fn parse(data: &[u8], at: u64) -> Result<BitmapDirectory> {
        let (fields, _) = ExtensionFields::read_from_prefix(data).map_err(|_| {
            Error::malformed("bitmaps extension", "is too short")
                .at(at)
                .found(format!("{} bytes", data.len()))
                .expected("24 bytes")
        })?;
        Ok(BitmapDirectory {
            reserved: fields.reserved.get(),
            count: fields.count.get(),
            offset: fields.directory_offset.get(),
            bytes: fields.directory_bytes.get(),
        })
    }
}

/// A persistent bitmap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bitmap {
    /// What it is called.
    pub name: String,
    /// `log2` of the guest bytes that a bit stands for, at most 63.
    pub granularity_bits: u8,
    /// Whether somebody did not finish writing to it: it says nothing.
    pub in_use: bool,
    /// Whether it records what is written.
    pub auto: bool,
    /// Whether it has extra data, and does not say that who does not know them may use it all the same.
    pub has_unknown_data: bool,
    /// File offset of its table, a multiple of the cluster size.
    pub table_offset: u64,
    /// Entries of its table, at most 2^27.
    pub table_entries: u32,
}

/// The bitmap directory of an image, read entry by entry. After an error there are no more.
pub struct Bitmaps<'a> {
    storage: &'a dyn Storage,
    cluster_size: u64,
    at: u64,
    end: u64,
    left: u32,
}

impl<'a> Bitmaps<'a> {
    /// The directory of the image in `storage`.
    ///
    /// # Errors
    /// `Limit` for more than anybody makes, `Malformed` and `Truncated` when it is not in clusters of the file.
    pub fn new(
        storage: &'a dyn Storage,
        directory: BitmapDirectory,
        cluster_size: u64,
    ) -> Result<Bitmaps<'a>> {
        let BitmapDirectory {
            reserved,
            count,
            offset,
            bytes,
        } = directory;
        if count == 0 || reserved != 0 {
            return Err(Error::malformed(
                "bitmaps extension",
                "lists no bitmaps, or uses what is reserved",
            )
            .found(format!("{count} bitmaps, {reserved:#x} where 0 belongs")));
        }
        if count > BITMAPS_MAX || bytes > DIRECTORY_MAX_BYTES {
            return Err(Error::limit("bitmap directory", "is too large")
                .at(offset)
                .found(format!("{count} bitmaps in {bytes} bytes"))
                .expected(format!("at most {BITMAPS_MAX} in {DIRECTORY_MAX_BYTES}")));
        }
        if offset == 0 || !offset.is_multiple_of(cluster_size) {
            return Err(
                Error::malformed("bitmap directory", "does not start with a cluster")
                    .at(offset)
                    .expected(format!("a multiple of {cluster_size}")),
            );
        }
        let end = offset.saturating_add(bytes);
        if end > storage.len() {
            return Err(
                Error::truncated("bitmap directory", "runs past the end of the file")
                    .at(offset)
                    .found(format!("{bytes} bytes in a file of {}", storage.len())),
            );
        }
        Ok(Bitmaps {
            storage,
            cluster_size,
            at: offset,
            end,
            left: count,
        })
    }

    fn read(&mut self) -> Result<Bitmap> {
        let out_of_place = || {
            Error::malformed("bitmap directory", "an entry runs out of the directory")
                .expected(format!("an end at offset {}", self.end))
        };
        let room = self.end - self.at;
        if room < FIXED as u64 {
            return Err(out_of_place());
        }
        let first: [u8; FIXED] = read_array(self.storage, self.at)?;
        let fields = EntryFields::read_from_bytes(&first).map_err(|_| out_of_place())?;
        let (extra, name) = (fields.extra_length.get(), fields.name_length.get());
        let len = FIXED as u64 + u64::from(extra) + u64::from(name);
        if len.next_multiple_of(8) > room {
            return Err(out_of_place());
        }
        let mut text = vec![0; name.into()];
        // Inside the directory, which is inside the file.
        self.storage
            .read_at(&mut text, self.at + FIXED as u64 + u64::from(extra))?;
        self.check(&fields)?;
        self.at += len.next_multiple_of(8);
        let flags = fields.flags.get();
        Ok(Bitmap {
            name: String::from_utf8_lossy(&text).into_owned(),
            granularity_bits: fields.granularity_bits,
            in_use: flags & IN_USE != 0,
            auto: flags & AUTO != 0,
            has_unknown_data: extra > 0 && flags & EXTRA_COMPATIBLE == 0,
            table_offset: fields.table_offset.get(),
            table_entries: fields.table_entries.get(),
        })
    }

    fn check(&self, fields: &EntryFields) -> Result<()> {
        let wrong = if fields.kind != DIRTY_TRACKING {
            "a bitmap has an unknown type"
        } else if fields.granularity_bits > 63 {
            "a bitmap has an impossible granularity"
        } else if fields.name_length.get() == 0 || fields.name_length.get() > NAME_MAX {
            "a bitmap has no name of 1 to 1023 bytes"
        } else if fields.flags.get() & !(IN_USE | AUTO | EXTRA_COMPATIBLE) != 0 {
            "a bitmap has reserved flags set"
        } else if fields.table_offset.get() == 0
            || !fields.table_offset.get().is_multiple_of(self.cluster_size)
        {
            "a bitmap's table does not start with a cluster"
        } else if !(1..=TABLE_MAX_ENTRIES).contains(&fields.table_entries.get()) {
            "a bitmap's table is empty or too large"
        } else {
            return Ok(());
        };
        Err(Error::malformed("bitmap directory", wrong))
    }
}

impl Iterator for Bitmaps<'_> {
    type Item = Result<Bitmap>;

    fn next(&mut self) -> Option<Result<Bitmap>> {
        self.left = self.left.checked_sub(1)?;
        let at = self.at;
        let bitmap = self.read().map_err(|e| e.at(at));
        if bitmap.is_err() {
            self.left = 0;
        }
        Some(bitmap)
    }
}

/// What an entry of a bitmap's table says about a part of the bitmap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BitmapPart {
    /// All bits are 0.
    Zeros,
    /// All bits are 1.
    Ones,
    /// The bits stand in the cluster at this offset, a multiple of the cluster size.
    Stored(u64),
}

impl BitmapPart {
    /// Takes an entry as it stands on disk.
    ///
    /// # Errors
    /// `Malformed` for reserved bits that are set and an offset inside a cluster.
    pub fn parse(entry: u64, cluster_size: u64) -> Result<BitmapPart> {
        let offset = entry & OFFSET_MASK;
        let wrong = if entry & !(OFFSET_MASK | 1) != 0 || (offset != 0 && entry & 1 != 0) {
            "has reserved bits set"
        } else if !offset.is_multiple_of(cluster_size) {
            "points into the middle of a cluster"
        } else {
            return Ok(match (offset, entry & 1) {
                (0, 0) => BitmapPart::Zeros,
                (0, _) => BitmapPart::Ones,
                _ => BitmapPart::Stored(offset),
            });
        };
        Err(Error::malformed("bitmap table entry", wrong).found(format!("{entry:#018x}")))
    }
}

impl Bitmap {
    /// Guest bytes that a cluster of bits stands for: more than any disk has, where they are no number of 64 bits.
    fn coverage(&self, cluster_size: u64) -> u64 {
        let coverage = (cluster_size * 8).checked_shl(self.granularity_bits.into());
        let coverage = coverage.filter(|c| c >> self.granularity_bits == cluster_size * 8);
        coverage.unwrap_or(u64::MAX)
    }

    /// Whether nobody knows better than what it says, as far as it tells.
    pub fn is_trustworthy(&self) -> bool {
        !self.in_use && !self.has_unknown_data
    }

    /// Whether its table is long enough for a disk of `size` bytes.
    pub fn covers(&self, size: u64, cluster_size: u64) -> bool {
        size.div_ceil(self.coverage(cluster_size)) <= self.table_entries.into()
    }

    /// Calls `visit` with every dirty range of a disk of `size` bytes, in ascending order; neighbours are not joined.
    ///
    /// # Errors
    /// `Truncated` or `Malformed` when table or data are not what they must be.
    pub fn dirty(
        &self,
        storage: &StorageRef,
        header: &Header,
        size: u64,
        visit: &mut dyn FnMut(Range<u64>),
    ) -> Result<()> {
        let cluster_size = header.cluster_size();
        let entries = u64::from(self.table_entries);
        let table = PagedTable::new(
            storage.clone(),
            "bitmap table",
            self.table_offset,
            entries,
            8,
        )?;
        let coverage = self.coverage(cluster_size);
        for index in 0..size.div_ceil(coverage) {
            if index >= entries {
                return Err(
                    Error::malformed("bitmap table", "is too short for the disk")
                        .at(self.table_offset)
                        .found(format!("{entries} entries")),
                );
            }
            let start = index * coverage;
            let end = start.saturating_add(coverage).min(size);
            match BitmapPart::parse(table.be64(index)?, cluster_size)? {
                BitmapPart::Zeros => {}
                BitmapPart::Ones => visit(start..end),
                BitmapPart::Stored(offset) => {
                    self.bits(storage, offset, cluster_size, start..end, visit)?;
                }
            }
        }
        Ok(())
    }

    /// The dirty ranges among `covered` that the cluster of bits at `offset` says.
    fn bits(
        &self,
        storage: &StorageRef,
        offset: u64,
        cluster_size: u64,
        covered: Range<u64>,
        visit: &mut dyn FnMut(Range<u64>),
    ) -> Result<()> {
        if offset
            .checked_add(cluster_size)
            .is_none_or(|end| end > storage.len())
        {
            return Err(Error::truncated("bitmap data", "runs out of the file").at(offset));
        }
        let granule = 1u64 << self.granularity_bits;
        let mut at = covered.start;
        let mut data = vec![0; cluster_size as usize];
        storage.read_at(&mut data, offset)?;
        for bytes in data.as_chunks().0 {
            if at >= covered.end {
                break;
            }
            // Bit 0 of byte 0 comes first.
            let mut bits = u64::from_le_bytes(*bytes);
            while bits != 0 {
                let first = bits.trailing_zeros();
                let run = (bits >> first).trailing_ones();
                let start = at.saturating_add(u64::from(first).saturating_mul(granule));
                let end = start.saturating_add(u64::from(run).saturating_mul(granule));
                if start < covered.end {
                    visit(start..end.min(covered.end));
                }
                bits &= !(u64::MAX >> (64 - run) << first);
            }
            at = at.saturating_add(granule.saturating_mul(64));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::storage::MemoryStorage;

    fn entry(name: &str, flags: u32, table: u64) -> Vec<u8> {
        let mut bytes = table.to_be_bytes().to_vec();
        bytes.extend(2u32.to_be_bytes());
        bytes.extend(flags.to_be_bytes());
        bytes.extend([1, 16]);
        bytes.extend((name.len() as u16).to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(name.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    fn read(count: u32, directory: &[u8]) -> Result<Vec<Bitmap>> {
        let mut bytes = vec![0; 512];
        bytes.extend(directory);
        let directory = BitmapDirectory {
            reserved: 0,
            count,
            offset: 512,
            bytes: directory.len() as u64,
        };
        Bitmaps::new(&MemoryStorage::new(bytes), directory, 512)?.collect()
    }

    #[test]
    fn entries_follow_each_other() {
        let directory = [entry("daily", 2, 1024), entry("a longer name", 1, 2048)].concat();
        let found = read(2, &directory).unwrap();
        assert_eq!((&*found[0].name, found[0].auto), ("daily", true));
        assert_eq!((&*found[1].name, found[1].in_use), ("a longer name", true));
        assert_eq!((found[1].table_offset, found[1].table_entries), (2048, 2));
    }

    #[test]
    fn a_directory_that_is_too_short_or_wrong_is_malformed() {
        let good = entry("daily", 0, 1024);
        assert_eq!(read(2, &good).unwrap_err().kind(), ErrorKind::Malformed);
        assert!(read(1, &good[..good.len() - 8]).is_err());
        assert!(read(1, &entry("", 0, 1024)).is_err());
        assert!(read(1, &entry("daily", 8, 1024)).is_err());
        assert_eq!(read(0, &good).unwrap_err().kind(), ErrorKind::Malformed);
        let mut without_table = good.clone();
        without_table[8..12].fill(0);
        assert!(read(1, &without_table).is_err());
        assert!(read(1, &entry("daily", 0, 1000)).is_err());
        assert_eq!(read(65_536, &good).unwrap_err().kind(), ErrorKind::Limit);
    }

    #[test]
    fn a_directory_past_the_end_of_the_file_is_truncated() {
        let directory = BitmapDirectory {
            reserved: 0,
            count: 1,
            offset: 512,
            bytes: 32,
        };
        let storage = MemoryStorage::new(vec![0; 540]);
        let error = Bitmaps::new(&storage, directory, 512).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Truncated);
    }

    #[test]
    fn parts_of_a_bitmap_are_zeros_ones_or_stored() {
        assert_eq!(BitmapPart::parse(0, 512).unwrap(), BitmapPart::Zeros);
        assert_eq!(BitmapPart::parse(1, 512).unwrap(), BitmapPart::Ones);
        let stored = BitmapPart::parse(0x5000, 512).unwrap();
        assert_eq!(stored, BitmapPart::Stored(0x5000));
        for wrong in [2, 0x5001, 1 << 56, 1 << 63] {
            assert!(BitmapPart::parse(wrong, 512).is_err(), "{wrong:#x}");
        }
        assert!(BitmapPart::parse(0x5200, 4096).is_err());
    }
}
