//! Writing differencing disks: blocks that hold something else than the parent's, each with a bitmap of the sectors
//! that do.

use std::borrow::Cow;
use std::ops::Range;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::dynamic_header::DynamicHeader;
use super::footer::{DiskType, FOOTER_LEN, Footer, timestamp};
use super::geometry;
use super::locator::ParentLocator;
use super::new_blocks::{NewBlocks, PAGE, TABLE_OFFSET};
use crate::driver::{Format, ImageId};
use crate::error::{Error, Result};
use crate::options::Backing;
use crate::reference::relative_windows_path;
use crate::storage::WritableStorage;
use crate::target::{BlockTarget, Identity, Placement, Summary, TableWrite};
use crate::utf16;

/// Platforms whose names of the parent are written: the relative path, and in the place of the absolute one the same,
/// as XenServer does. What the parent's path is on Windows nobody knows here.
const PLATFORMS: [[u8; 4]; 2] = [*b"W2ru", *b"W2ku"];

/// What a new disk stands on.
pub struct Parent {
    id: Uuid,
    /// Guest-visible size in bytes.
    size: u64,
    /// Its path from the child's folder on, with `\` between folders.
    path: String,
    /// When it was last written to; 0, as Windows 10 writes it, where that is not to be said.
    timestamp: u32,
}

impl Parent {
    /// The disk below, if a VHD can stand on it.
    ///
    /// # Errors
    /// `Refused` for what is no VHD or has no relative name, `Limit` for a name that is too long.
    pub fn new(backing: &Backing) -> Result<Parent> {
        if backing.format != Format::Vhd {
            return Err(Error::refused("-B", "a VHD can stand on another VHD only")
                .found(backing.format)
                .hint("convert the image below first, or write a qcow2"));
        }
        let Some(ImageId::Uuid(id)) = backing.identity else {
            return Err(Error::refused("-B", "the image below has no id"));
        };
        Ok(Parent {
            id,
            size: backing.size,
            path: relative_windows_path(&backing.name)?,
            timestamp: backing.modified.map_or(0, timestamp),
        })
    }

    /// The last part of its path, as the dynamic header has it.
    fn unicode_name(&self) -> Result<[u8; 512]> {
        let last = self.path.rsplit('\\').next().unwrap_or_default();
        let units = last.encode_utf16().flat_map(u16::to_be_bytes);
        let bytes: Vec<u8> = units.collect();
        let mut name = [0; 512];
        // A NUL stays behind it.
        match name.get_mut(..bytes.len()).filter(|_| bytes.len() < 511) {
            Some(start) => start.copy_from_slice(&bytes),
            None => {
                return Err(
                    Error::limit("dynamic header", "the parent's name is too long")
                        .found(format!("{} characters", bytes.len() / 2))
                        .expected("at most 255"),
                );
            }
        }
        Ok(name)
    }
}

/// The layout of a differencing disk.
pub struct DifferencingTarget {
    size: u64,
    blocks: NewBlocks,
    parent: Parent,
    parent_name: [u8; 512],
    /// The path as it stands in a locator, in whole sectors.
    locator: Vec<u8>,
    block: Option<OpenBlock>,
    ready: Vec<TableWrite>,
}

/// The block that the guest offset is in.
struct OpenBlock {
    number: u64,
    /// Byte offset of its data.
    data: u64,
    /// A bit for every sector that is not the parent's, the first one in the most significant bit.
    sectors: [u8; 512],
    /// How many those are.
    count: u64,
}

impl OpenBlock {
    fn new(number: u64, data: u64) -> OpenBlock {
        OpenBlock {
            number,
            data,
            sectors: [0; 512],
            count: 0,
        }
    }

    /// Notes that sectors `range` are not the parent's.
    fn define(&mut self, range: Range<u64>) {
        for sector in range {
            let bit = 0x80 >> (sector % 8);
            if let Some(byte) = self.sectors.get_mut((sector / 8) as usize)
                && *byte & bit == 0
            {
                *byte |= bit;
                self.count += 1;
            }
        }
    }
}

impl DifferencingTarget {
    /// A disk of `size` bytes, a multiple of 512 that a footer can hold, over `parent`, in blocks of `block_size` bytes:
    /// a power of two from 64 KiB to 2 MiB.
    ///
    /// # Errors
    /// `Limit` when the disk, written full, would not fit into a file of 2 TiB; `Usage` for another block size.
    pub fn new(size: u64, block_size: u64, parent: Parent) -> Result<DifferencingTarget> {
        let mut locator = utf16::encode_le(&parent.path);
        locator.resize(locator.len().next_multiple_of(512), 0);
        let room = (locator.len() * PLATFORMS.len()) as u64;
        Ok(DifferencingTarget {
            size,
            blocks: NewBlocks::new(size, block_size, room)?,
            parent_name: parent.unicode_name()?,
            parent,
            locator,
            block: None,
            ready: Vec::new(),
        })
    }

    /// Notes that of the `len` bytes at `guest_offset` those that are in its block are not the parent's. Answers the
    /// file offset of the first, and how many they are.
    fn define(&mut self, guest_offset: u64, len: u64) -> Result<(u64, u64)> {
        let block_size = self.blocks.block_size;
        let (number, within) = (guest_offset / block_size, guest_offset % block_size);
        if !within.is_multiple_of(512) {
            return Err(
                Error::malformed("VHD", "a part of a sector cannot be stored alone")
                    .found(guest_offset),
            );
        }
        let len = len.min(block_size - within);
        if self.block.as_ref().is_none_or(|open| open.number != number) {
            self.close_block();
            let place = self.blocks.place(number)?;
            if !place.is_new {
                return Err(
                    Error::malformed("VHD", "a block was placed behind its turn").found(number),
                );
            }
            self.block = Some(OpenBlock::new(number, place.data));
        }
        let Some(block) = &mut self.block else {
            return Err(Error::malformed("VHD", "no block is open"));
        };
        block.define(within / 512..(within + len).div_ceil(512));
        Ok((block.data.saturating_add(within), len))
    }

    /// Hands out the bitmap of the block that is being filled.
    fn close_block(&mut self) {
        let Some(mut block) = self.block.take() else {
            return;
        };
        let start = block.number * self.blocks.block_size;
        let end = start + self.blocks.block_size;
        // Past the end of the parent there are zeros, but not all readers know that by themselves (7-Zip, libvhd).
        block.define((self.parent.size.clamp(start, end) - start) / 512..(end - start) / 512);
        let bytes = if block.count == self.blocks.block_size / 512 {
            Cow::Borrowed(self.blocks.full_gap)
        } else {
            // The whole page: it is not shared with data.
            let padding = vec![0; PAGE as usize - block.sectors.len()];
            Cow::Owned([&padding[..], &block.sectors].concat())
        };
        self.ready.push(TableWrite {
            offset: block.data - PAGE,
            bytes,
        });
    }

    /// Gives the blocks past the end of the parent that have no place one, with nothing in it.
    fn cover_rest(&mut self, out: &dyn WritableStorage) -> Result<()> {
        self.close_block();
        let block_size = self.blocks.block_size;
        for number in self.parent.size / block_size..self.size.div_ceil(block_size) {
            if number * block_size + block_size <= self.parent.size || self.blocks.has(number) {
                continue;
            }
            let place = self.blocks.place(number)?;
            self.block = Some(OpenBlock::new(number, place.data));
            self.close_block();
            for table in self.ready.drain(..) {
                out.write_at(&table.bytes, table.offset)?;
            }
        }
        Ok(())
    }

    fn header(&self) -> DynamicHeader {
        let mut header = DynamicHeader::new(
            TABLE_OFFSET,
            self.blocks.count(),
            self.blocks.block_size as u32,
        );
        header.parent_id = self.parent.id.into_bytes();
        header.parent_timestamp = self.parent.timestamp;
        header.parent_name = self.parent_name;
        let mut data_offset = self.blocks.table_end();
        for (locator, code) in header.locators.iter_mut().zip(PLATFORMS) {
            *locator = ParentLocator {
                code,
                data_space: self.locator.len() as u32,
                data_length: (self.parent.path.encode_utf16().count() * 2) as u32,
                data_offset,
            };
            data_offset += self.locator.len() as u64;
        }
        header
    }

    /// The id of the disk: of a child that holds the same as its parent another one, also where ids are made from the
    /// content.
    fn id(&self, identity: &Identity) -> [u8; 16] {
        let mut hash = Sha256::new();
        hash.update(identity.id);
        hash.update(self.parent.id.as_bytes());
        let digest = hash.finalize();
        let mut id = [0; 16];
        id.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        Uuid::new_v8(id).into_bytes()
    }
}

impl BlockTarget for DifferencingTarget {
    fn size(&self) -> u64 {
        self.size
    }

    /// Child and parent differ by pages: what is stored is whole pages of the file, and there are readers that look at
    /// whole bytes of the bitmap only (libvhdi).
    fn block_size(&self) -> u64 {
        PAGE
    }

    fn is_sequential(&self) -> bool {
        false
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = geometry::notes(self.size);
        if self.size > self.parent.size {
            notes.push(
                "the disk is larger than the one below: the file has a hole for every byte behind the end of that"
                    .to_owned(),
            );
        }
        notes
    }

    fn place(&mut self, guest_offset: u64, len: u64) -> Result<Placement> {
        let (offset, len) = self.define(guest_offset, len)?;
        Ok(Placement { offset, len })
    }

    /// There is no entry for zeros: they are a place where nothing is written.
    fn zero(&mut self, guest_offset: u64, len: u64) -> Result<Option<Range<u64>>> {
        let (mut at, end) = (guest_offset, guest_offset.saturating_add(len));
        while at < end {
            at += self.define(at, end - at)?.1;
        }
        Ok(None)
    }

    fn take_tables(&mut self) -> Vec<TableWrite> {
        std::mem::take(&mut self.ready)
    }

    fn finish(
        mut self: Box<Self>,
        identity: &Identity,
        out: &dyn WritableStorage,
    ) -> Result<Summary> {
        self.cover_rest(out)?;
        for table in &self.ready {
            out.write_at(&table.bytes, table.offset)?;
        }
        self.blocks.write_table(out)?;
        let header = self.header();
        for locator in header.locators.iter().take(PLATFORMS.len()) {
            out.write_at(&self.locator, locator.data_offset)?;
        }
        out.write_at(&header.to_bytes(), FOOTER_LEN)?;
        let (id, time) = (self.id(identity), identity.unix_time);
        let footer = Footer::new(DiskType::Differencing, self.size, id, time).to_bytes();
        out.write_at(&footer, 0)?;
        out.write_at(&footer, self.blocks.data_end())?;
        let file_size = self.blocks.data_end().saturating_add(FOOTER_LEN);
        out.set_len(file_size)?;
        Ok(Summary { file_size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::storage::{MemoryStorage, MemoryTarget, read_array};

    fn backing(name: &str) -> Backing {
        Backing {
            name: name.to_owned(),
            format: Format::Vhd,
            identity: Some(ImageId::Uuid(Uuid::from_u128(5))),
            disk_id: None,
            size: 1 << 20,
            sector_size: 512,
            block_size: 2 << 20,
            modified: Some(1_700_000_000),
        }
    }

    fn kind(backing: &Backing) -> ErrorKind {
        let made = Parent::new(backing);
        let made = made.and_then(|parent| DifferencingTarget::new(1 << 20, 64 << 10, parent));
        made.err().unwrap().kind()
    }

    #[test]
    fn only_a_vhd_with_a_relative_name_is_a_parent() {
        for name in ["/vm/a.vhd", "c:a.vhd", "a\\b.vhd"] {
            assert_eq!(kind(&backing(name)), ErrorKind::Refused, "{name}");
        }
        assert_eq!(kind(&backing(&"a".repeat(256))), ErrorKind::Limit);
        assert_eq!(kind(&backing(&"a/".repeat(20_000))), ErrorKind::Limit);
        let of = |change: fn(&mut Backing)| {
            let mut backing = backing("a.vhd");
            change(&mut backing);
            kind(&backing)
        };
        assert_eq!(of(|b| b.format = Format::Vhdx), ErrorKind::Refused);
        assert_eq!(of(|b| b.identity = None), ErrorKind::Refused);
    }

    /// A disk of 256 KiB over one of `below` bytes, with 4 KiB at 68 KiB of its own and zeros at 132 KiB.
    fn written(below: u64) -> (MemoryStorage, DynamicHeader) {
        let backing = Backing {
            size: below,
            ..backing("sub/båse.vhd")
        };
        let parent = Parent::new(&backing).unwrap();
        let mut target = DifferencingTarget::new(256 << 10, 64 << 10, parent).unwrap();
        let out = MemoryTarget::default();
        let placement = target.place(68 << 10, 4096).unwrap();
        out.write_at(&[9; 4096], placement.offset).unwrap();
        target.zero(132 << 10, 512).unwrap();
        for table in target.take_tables() {
            out.write_at(&table.bytes, table.offset).unwrap();
        }
        // The bitmap of its block is out of hand by now.
        let late = target.place(64 << 10, 512).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Malformed);
        let identity = Identity {
            id: [3; 16],
            unix_time: 0,
        };
        Box::new(target).finish(&identity, &out).unwrap();
        let storage = MemoryStorage::new(out.into_bytes());
        let header = DynamicHeader::parse(&read_array(&storage, 512).unwrap(), 512).unwrap();
        (storage, header)
    }

    /// The bits of each block that has a place.
    fn bitmaps(storage: &MemoryStorage, header: &DynamicHeader) -> Vec<Option<[u8; 16]>> {
        use crate::storage::Storage;
        let entry = |index: u64| {
            let mut entry = [0; 4];
            storage
                .read_at(&mut entry, header.table_offset + index * 4)
                .unwrap();
            let sector = u32::from_be_bytes(entry);
            let bits = || read_array(storage, u64::from(sector) * 512).unwrap();
            (sector != u32::MAX).then(bits)
        };
        (0..4).map(entry).collect()
    }

    #[test]
    fn the_parent_is_named_as_windows_and_xenserver_do() {
        let (storage, header) = written(256 << 10);
        assert_eq!(header.parent_id, 5u128.to_be_bytes());
        assert_eq!(header.parent_timestamp, 1_700_000_000 - 946_684_800);
        let name = super::super::locator::parent_name_path(&header.parent_name);
        assert_eq!(name.unwrap(), "båse.vhd");
        for locator in &header.locators[..2] {
            assert_eq!(locator.path(&storage).unwrap(), "./sub/båse.vhd");
        }
        assert_eq!(header.locators[2], ParentLocator::default());
    }

    #[test]
    fn bitmaps_tell_what_is_not_the_parents() {
        let (storage, header) = written(256 << 10);
        let mut own = [0; 16];
        own[1] = 0xFF;
        let mut zero = [0; 16];
        zero[1] = 0x80;
        assert_eq!(
            bitmaps(&storage, &header),
            [None, Some(own), Some(zero), None]
        );
    }

    #[test]
    fn past_the_end_of_the_parent_everything_has_a_place() {
        let (storage, header) = written((64 << 10) + 512 * 20);
        let mut own = [0; 16];
        own[1] = 0xFF;
        own[2] = 0x0F;
        own[3..].fill(0xFF);
        let full = Some([0xFF; 16]);
        assert_eq!(bitmaps(&storage, &header), [None, Some(own), full, full]);
    }
}
