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
            self.block = Some(OpenBlock {
                number,
                data: place.data,
                sectors: [0; 512],
                count: 0,
            });
        }
        let Some(block) = &mut self.block else {
            return Err(Error::malformed("VHD", "no block is open"));
        };
        block.define(within / 512..(within + len).div_ceil(512));
        Ok((block.data.saturating_add(within), len))
    }

    /// Hands out the bitmap of the block that is being filled.
    fn close_block(&mut self) {
        let Some(block) = self.block.take() else {
            return;
        };
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
        geometry::notes(self.size)
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
        self.close_block();
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
