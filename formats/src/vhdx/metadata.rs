//! The metadata: what the disk is like ([MS-VHDX] 2.6.2).

use uuid::Uuid;

use super::guid::{
    self, FILE_PARAMETERS, LOGICAL_SECTOR_SIZE, PARENT_LOCATOR, PHYSICAL_SECTOR_SIZE,
    VIRTUAL_DISK_ID, VIRTUAL_DISK_SIZE,
};
use super::metadata_table::{Entry, MetadataTable, TABLE_LEN};
use super::parent_locator::ParentLocator;
use super::region_table::Region;
use crate::error::{Error, Result};
use crate::storage::Storage;

/// Largest disk in bytes: 64 TiB.
pub const MAX_DISK_SIZE: u64 = 64 << 40;

/// Block sizes in bytes; powers of two only.
pub const BLOCK_SIZES: std::ops::RangeInclusive<u64> = 1 << 20..=256 << 20;

/// Sizes that sectors may have, in bytes.
pub const SECTOR_SIZES: [u32; 2] = [512, 4096];

/// Bit 0 of the file parameters: blocks stay allocated, the disk is a fixed one.
const LEAVE_BLOCKS_ALLOCATED: u32 = 1;
/// Bit 1 of the file parameters: the disk is a differencing one.
const HAS_PARENT: u32 = 2;

/// Items that are known; others may be there, if they are not required.
const KNOWN: [Uuid; 6] = [
    FILE_PARAMETERS,
    VIRTUAL_DISK_SIZE,
    VIRTUAL_DISK_ID,
    LOGICAL_SECTOR_SIZE,
    PHYSICAL_SECTOR_SIZE,
    PARENT_LOCATOR,
];

/// What the items say. All of it was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Guest bytes in a block: a power of two from 1 MiB to 256 MiB.
    pub block_size: u64,
    /// Whether blocks stay allocated: what makes a disk a fixed one.
    pub leaves_blocks_allocated: bool,
    /// Whether the disk stands on another one.
    pub has_parent: bool,
    /// Guest-visible size in bytes: a multiple of the logical sector size, at most 64 TiB.
    pub disk_size: u64,
    /// The id of the disk, the same in all files of a chain.
    pub disk_id: Uuid,
    /// 512 or 4096.
    pub logical_sector_size: u32,
    /// 512 or 4096.
    pub physical_sector_size: u32,
    /// The names of the parent; there whenever there is a parent.
    pub locator: Option<ParentLocator>,
}

impl Metadata {
    /// Reads the metadata in `region` of `storage`.
    ///
    /// # Errors
    /// `Malformed` when an item is missing or cannot be, `Unsupported` for an item that is required but not known,
    /// `Limit` for a disk that is too large, and those of the storage.
    pub fn read(
        storage: &dyn Storage,
        region: &Region,
        warnings: &mut Vec<String>,
    ) -> Result<Metadata> {
        // A region has at least 1 MiB: the table fits.
        let mut bytes = vec![0; TABLE_LEN as usize];
        storage.read_at(&mut bytes, region.offset)?;
        let table = MetadataTable::parse(&bytes, region.length).map_err(|e| e.at(region.offset))?;
        let items = Items {
            storage,
            region,
            entries: table.entries,
        };
        items.check_known()?;
        let [block_size, flags] = items.words(FILE_PARAMETERS, "file parameters")?;
        let has_parent = flags & HAS_PARENT != 0;
        let metadata = Metadata {
            block_size: block_size.into(),
            leaves_blocks_allocated: flags & LEAVE_BLOCKS_ALLOCATED != 0,
            has_parent,
            disk_size: u64::from_le_bytes(items.array(VIRTUAL_DISK_SIZE, "virtual disk size")?),
            disk_id: guid::from_bytes(items.array(VIRTUAL_DISK_ID, "virtual disk id")?),
            logical_sector_size: items.word(LOGICAL_SECTOR_SIZE, "logical sector size")?,
            physical_sector_size: items.word(PHYSICAL_SECTOR_SIZE, "physical sector size")?,
            locator: items.locator(has_parent, warnings)?,
        };
        metadata.check().map_err(|e| e.at(region.offset))?;
        Ok(metadata)
    }

    /// The byte of the file at which the size of the disk stands, for metadata in `region` that were read before.
    ///
    /// # Errors
    /// `Malformed` when it is missing, and those of the storage.
    pub fn disk_size_at(storage: &dyn Storage, region: &Region) -> Result<u64> {
        let mut bytes = vec![0; TABLE_LEN as usize];
        storage.read_at(&mut bytes, region.offset)?;
        let table = MetadataTable::parse(&bytes, region.length).map_err(|e| e.at(region.offset))?;
        let is_size = |entry: &&Entry| !entry.is_user && entry.item_id == VIRTUAL_DISK_SIZE;
        let size = table.entries.iter().find(is_size);
        let size = size.ok_or_else(|| malformed("has no size of the disk").at(region.offset))?;
        Ok(region.offset.saturating_add(size.offset.into()))
    }

    fn check(&self) -> Result<()> {
        if !self.block_size.is_power_of_two() || !BLOCK_SIZES.contains(&self.block_size) {
            return Err(malformed("impossible block size")
                .found(self.block_size)
                .expected("a power of two from 1 MiB to 256 MiB"));
        }
        for (name, size) in [
            ("impossible logical sector size", self.logical_sector_size),
            ("impossible physical sector size", self.physical_sector_size),
        ] {
            if !SECTOR_SIZES.contains(&size) {
                return Err(malformed(name).found(size).expected("512 or 4096"));
            }
        }
        if self.disk_size > MAX_DISK_SIZE {
            return Err(
                Error::limit("metadata", "the disk is larger than a VHDX can be")
                    .found(format!("{} bytes", self.disk_size))
                    .expected("at most 64 TiB"),
            );
        }
        if !self
            .disk_size
            .is_multiple_of(self.logical_sector_size.into())
        {
            return Err(
                malformed("the size of the disk is no whole number of sectors")
                    .found(format!("{} bytes", self.disk_size))
                    .expected(format!("a multiple of {}", self.logical_sector_size)),
            );
        }
        Ok(())
    }

    /// The first bytes of the metadata region, up to the end of its items; the rest is zeros.
    pub fn to_bytes(&self) -> Vec<u8> {
        let flags = u32::from(self.leaves_blocks_allocated) * LEAVE_BLOCKS_ALLOCATED
            + u32::from(self.has_parent) * HAS_PARENT;
        let parameters = (self.block_size as u32).to_le_bytes().into_iter();
        let mut items = vec![
            (
                FILE_PARAMETERS,
                parameters.chain(flags.to_le_bytes()).collect(),
            ),
            (VIRTUAL_DISK_SIZE, self.disk_size.to_le_bytes().to_vec()),
            (VIRTUAL_DISK_ID, self.disk_id.to_bytes_le().to_vec()),
            (
                LOGICAL_SECTOR_SIZE,
                self.logical_sector_size.to_le_bytes().to_vec(),
            ),
            (
                PHYSICAL_SECTOR_SIZE,
                self.physical_sector_size.to_le_bytes().to_vec(),
            ),
        ];
        items.extend(
            self.locator
                .iter()
                .map(|locator| (PARENT_LOCATOR, locator.to_bytes())),
        );
        let mut entries = Vec::new();
        let mut content = Vec::new();
        for (item_id, bytes) in items {
            entries.push(Entry {
                item_id,
                offset: TABLE_LEN.saturating_add(content.len() as u32),
                length: bytes.len() as u32,
                is_user: false,
                // The two that speak of the file only.
                is_virtual_disk: ![FILE_PARAMETERS, PARENT_LOCATOR].contains(&item_id),
                is_required: true,
            });
            content.extend(bytes);
        }
        let mut bytes = MetadataTable { entries }.to_bytes();
        bytes.resize(TABLE_LEN as usize, 0);
        bytes.extend(content);
        bytes
    }
}

/// The items of a region.
struct Items<'a> {
    storage: &'a dyn Storage,
    region: &'a Region,
    entries: Vec<Entry>,
}

impl Items<'_> {
    fn check_known(&self) -> Result<()> {
        let is_unknown = |e: &&Entry| e.is_required && (e.is_user || !KNOWN.contains(&e.item_id));
        match self.entries.iter().find(is_unknown) {
            None => Ok(()),
            Some(entry) => Err(Error::unsupported(
                "metadata table",
                "the file has an item that nobody may ignore, and that is not known",
            )
            .at(self.region.offset)
            .found(entry.item_id)),
        }
    }

    fn find(&self, id: Uuid) -> Option<&Entry> {
        // A user's item may have any id.
        self.entries
            .iter()
            .find(|entry| !entry.is_user && entry.item_id == id)
    }

    fn bytes(&self, entry: &Entry) -> Result<Vec<u8>> {
        let mut bytes = vec![0; entry.length as usize];
        let offset = self.region.offset.saturating_add(entry.offset.into());
        self.storage.read_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// The item that has a fixed length.
    fn array<const N: usize>(&self, id: Uuid, name: &'static str) -> Result<[u8; N]> {
        let wrong = |message: &'static str| Error::malformed(name, message).at(self.region.offset);
        let entry = self.find(id).ok_or_else(|| wrong("is missing"))?;
        if entry.length as usize != N {
            return Err(wrong("has another length")
                .found(format!("{} bytes", entry.length))
                .expected(N));
        }
        self.bytes(entry)?
            .try_into()
            .map_err(|_| wrong("has another length"))
    }

    fn word(&self, id: Uuid, name: &'static str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(id, name)?))
    }

    fn words(&self, id: Uuid, name: &'static str) -> Result<[u32; 2]> {
        let both = u64::from_le_bytes(self.array(id, name)?);
        Ok([both as u32, (both >> 32) as u32])
    }

    fn locator(
        &self,
        has_parent: bool,
        warnings: &mut Vec<String>,
    ) -> Result<Option<ParentLocator>> {
        match (self.find(PARENT_LOCATOR), has_parent) {
            (None, false) => Ok(None),
            (None, true) => Err(Error::malformed(
                "parent locator",
                "is missing, although the disk stands on another one",
            )
            .at(self.region.offset)),
            (Some(_), false) => {
                warnings.push(
                    "the metadata names a parent, but the disk has none: it was not looked at"
                        .to_owned(),
                );
                Ok(None)
            }
            (Some(entry), true) => {
                let offset = self.region.offset.saturating_add(entry.offset.into());
                let locator = ParentLocator::parse(&self.bytes(entry)?);
                Ok(Some(locator.map_err(|e| e.at(offset))?))
            }
        }
    }
}

fn malformed(message: &'static str) -> Error {
    Error::malformed("metadata", message)
}

#[cfg(test)]
mod tests {
    use super::super::region_table::RegionTable;
    use super::*;
    use crate::ErrorKind;
    use crate::storage::MemoryStorage;

    fn metadata() -> Metadata {
        Metadata {
            block_size: 2 << 20,
            leaves_blocks_allocated: true,
            has_parent: false,
            disk_size: 5 << 30,
            disk_id: Uuid::from_u128(77),
            logical_sector_size: 512,
            physical_sector_size: 4096,
            locator: None,
        }
    }

    fn read_bytes(mut bytes: Vec<u8>) -> Result<(Metadata, Vec<String>)> {
        bytes.resize(1 << 20, 0);
        let mut region = RegionTable::new(0, 0, 0).metadata;
        region.offset = 0;
        let mut warnings = Vec::new();
        let read = Metadata::read(&MemoryStorage::new(bytes), &region, &mut warnings)?;
        Ok((read, warnings))
    }

    fn kind_of(change: impl Fn(&mut Metadata)) -> ErrorKind {
        let mut changed = metadata();
        change(&mut changed);
        read_bytes(changed.to_bytes()).unwrap_err().kind()
    }

    #[test]
    fn metadata_survives_being_written() {
        assert_eq!(read_bytes(metadata().to_bytes()).unwrap().0, metadata());
    }

    #[test]
    fn impossible_values_are_malformed() {
        for block_size in [0, 1 << 19, 3 << 20, 512 << 20] {
            assert_eq!(kind_of(|m| m.block_size = block_size), ErrorKind::Malformed);
        }
        for sector_size in [0, 1, 1024, 8192] {
            let logical = kind_of(|m| m.logical_sector_size = sector_size);
            let physical = kind_of(|m| m.physical_sector_size = sector_size);
            assert_eq!([logical, physical], [ErrorKind::Malformed; 2]);
        }
        assert_eq!(kind_of(|m| m.disk_size += 1), ErrorKind::Malformed);
        assert_eq!(
            kind_of(|m| {
                m.logical_sector_size = 4096;
                m.disk_size += 512;
            }),
            ErrorKind::Malformed
        );
    }

    #[test]
    fn a_disk_over_64_tib_is_over_the_limit() {
        for size in [MAX_DISK_SIZE + 512, !511] {
            assert_eq!(kind_of(|m| m.disk_size = size), ErrorKind::Limit);
        }
        let mut largest = metadata();
        largest.disk_size = MAX_DISK_SIZE;
        read_bytes(largest.to_bytes()).unwrap();
    }

    #[test]
    fn every_item_but_the_locator_must_be_there_in_its_length() {
        for index in 0..5 {
            let mut missing = metadata().to_bytes();
            // Another id, not required.
            missing[32 + index * 32] ^= 0xFF;
            missing[32 + index * 32 + 24] = 0;
            let error = read_bytes(missing).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Malformed, "{index}");
            let mut short = metadata().to_bytes();
            short[32 + index * 32 + 20] -= 1;
            let error = read_bytes(short).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Malformed, "{index}");
        }
    }

    #[test]
    fn an_unknown_item_that_is_required_is_unsupported() {
        let mut unknown = metadata().to_bytes();
        unknown[32 + 4 * 32] ^= 0xFF;
        let error = read_bytes(unknown).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn a_parent_without_locator_is_malformed_and_a_locator_without_parent_is_ignored() {
        assert_eq!(kind_of(|m| m.has_parent = true), ErrorKind::Malformed);
        let mut with_locator = metadata();
        with_locator.locator = Some(ParentLocator::new(Uuid::from_u128(1), ".\\a.vhdx"));
        let (read, warnings) = read_bytes(with_locator.to_bytes()).unwrap();
        assert_eq!((read.locator, warnings.len()), (None, 1));
        with_locator.has_parent = true;
        let (read, warnings) = read_bytes(with_locator.to_bytes()).unwrap();
        assert_eq!((read, warnings.len()), (with_locator, 0));
    }
}
