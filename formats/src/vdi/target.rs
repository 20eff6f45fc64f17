//! Writing images: laid out as by VirtualBox, with the block map and the blocks each from a MiB on.

use std::borrow::Cow;
use std::ops::Range;

use uuid::Uuid;

use super::block_map::UNALLOCATED;
use super::header::{ENTRY, Header, ImageType};
use crate::error::{Error, Result};
use crate::storage::WritableStorage;
use crate::target::{BlockTarget, Identity, Placement, Summary, TableWrite};

/// Guest bytes of a block: the only size that QEMU takes.
pub const BLOCK: u64 = 1 << 20;

/// Boundary in bytes on which the block map and the blocks start.
const ALIGN: u64 = 1 << 20;

/// Most blocks of a disk: QEMU's limit, which is half of what the format could address.
pub const MAX_BLOCKS: u64 = ((1 << 31) - 512) / ENTRY;

/// Largest disk in bytes: a little less than 512 TiB.
pub const MAX_DISK_SIZE: u64 = MAX_BLOCKS * BLOCK;

/// Bytes of the block map that are stored in one go.
const PAGE: usize = 64 << 10;

/// Entries in a page.
const PAGE_ENTRIES: u64 = PAGE as u64 / ENTRY;

/// A page of the map that has no block.
static NOTHING: [u8; PAGE] = [0xFF; PAGE];

/// What both kinds of images share.
#[derive(Clone, Copy)]
struct Layout {
    size: u64,
    blocks: u64,
}

impl Layout {
    /// Byte offset of the first block.
    fn data_offset(&self) -> u64 {
        ALIGN + (self.blocks * ENTRY).next_multiple_of(ALIGN)
    }

    fn file_size(&self, allocated: u64) -> u64 {
        self.data_offset() + allocated * BLOCK
    }

    /// Writes the header, which makes an image of the file.
    fn finish(
        &self,
        image_type: ImageType,
        allocated: u64,
        identity: &Identity,
        out: &dyn WritableStorage,
    ) -> Result<Summary> {
        let id = Uuid::from_bytes(identity.id);
        let header = Header {
            text: Header::virtualbox_text(),
            image_type,
            flags: 0,
            comment: [0; 256],
            map_offset: ALIGN,
            data_offset: self.data_offset(),
            disk_size: self.size,
            block_size: BLOCK as u32,
            block_extra: 0,
            blocks: self.blocks as u32,
            allocated: allocated as u32,
            image_id: id,
            // VirtualBox takes no image without one; since it was made, nobody has written to it.
            modification_id: id,
            parent_id: Uuid::nil(),
            parent_modification_id: Uuid::nil(),
            geometry: None,
        };
        out.write_at(&header.to_bytes(), 0)?;
        let file_size = self.file_size(allocated);
        out.set_len(file_size)?;
        Ok(Summary { file_size })
    }
}

/// The layout of an image for a disk of `size` bytes, a multiple of 512.
///
/// # Errors
/// `Limit` when QEMU could not read it, `Unsupported` for a disk of no size, which VirtualBox refuses.
pub fn new(size: u64, image_type: ImageType) -> Result<Box<dyn BlockTarget>> {
    if size == 0 {
        return Err(
            Error::unsupported("disk", "a VDI cannot hold a disk of no size")
                .found("0 bytes")
                .expected("at least 1 byte"),
        );
    }
    if size > MAX_DISK_SIZE {
        return Err(Error::limit("disk", "is too large for a VDI")
            .found(format!("{size} bytes"))
            .expected(format!("at most {MAX_DISK_SIZE} bytes (QEMU's limit)")));
    }
    let layout = Layout {
        size,
        blocks: size.div_ceil(BLOCK),
    };
    Ok(match image_type {
        ImageType::Static => Box::new(StaticTarget(layout)),
        _ => Box::new(DynamicTarget::new(layout)),
    })
}

/// Blocks in the order in which they come.
struct DynamicTarget {
    layout: Layout,
    /// Number of the page of the map that is being filled. Those before it are done.
    page: u64,
    entries: Vec<u32>,
    allocated: u64,
    ready: Vec<TableWrite>,
}

impl DynamicTarget {
    fn new(layout: Layout) -> DynamicTarget {
        DynamicTarget {
            layout,
            page: 0,
            entries: Vec::new(),
            allocated: 0,
            ready: Vec::new(),
        }
    }

    /// Lets the pages of the map before `page` go.
    fn advance(&mut self, page: u64) {
        while self.page < page {
            let start = self.page * PAGE_ENTRIES;
            let count = (self.layout.blocks - start).min(PAGE_ENTRIES) as usize;
            let bytes: Cow<'static, [u8]> = if self.entries.is_empty() {
                Cow::Borrowed(NOTHING.get(..count * ENTRY as usize).unwrap_or(&NOTHING))
            } else {
                self.entries.resize(count, UNALLOCATED);
                let entries = self.entries.drain(..);
                Cow::Owned(entries.flat_map(u32::to_le_bytes).collect())
            };
            self.ready.push(TableWrite {
                offset: ALIGN + start * ENTRY,
                bytes,
            });
            self.page += 1;
        }
    }

    /// The place in the file of block `index`, which gets it when it is asked for first.
    fn block(&mut self, index: u64) -> Result<u64> {
        let page = index / PAGE_ENTRIES;
        if index >= self.layout.blocks || page < self.page {
            let error = Error::limit("block map", "the block is past the end of the disk");
            return Err(error.found(index));
        }
        self.advance(page);
        let within = (index % PAGE_ENTRIES) as usize;
        if self.entries.len() <= within {
            self.entries.resize(within + 1, UNALLOCATED);
        }
        match self.entries.get_mut(within) {
            Some(entry) if *entry == UNALLOCATED => {
                *entry = self.allocated as u32;
                self.allocated += 1;
                Ok(self.allocated - 1)
            }
            Some(entry) => Ok(u64::from(*entry)),
            None => Err(Error::limit("block map", "has no such entry").found(index)),
        }
    }
}

impl BlockTarget for DynamicTarget {
    fn size(&self) -> u64 {
        self.layout.size
    }

    fn block_size(&self) -> u64 {
        BLOCK
    }

    fn is_sequential(&self) -> bool {
        false
    }

    fn place(&mut self, guest_offset: u64, len: u64) -> Result<Placement> {
        let within = guest_offset % BLOCK;
        let block = self.block(guest_offset / BLOCK)?;
        Ok(Placement {
            offset: self.layout.file_size(block) + within,
            len: len.min(BLOCK - within),
        })
    }

    fn zero(&mut self, _guest_offset: u64, _len: u64) -> Result<Option<Range<u64>>> {
        // A block without a place, or a part of one that nothing was written to.
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
        self.advance(self.layout.blocks.div_ceil(PAGE_ENTRIES));
        for table in &self.ready {
            out.write_at(&table.bytes, table.offset)?;
        }
        self.layout
            .finish(ImageType::Dynamic, self.allocated, identity, out)
    }
}

/// All blocks, in their order.
struct StaticTarget(Layout);

impl BlockTarget for StaticTarget {
    fn size(&self) -> u64 {
        self.0.size
    }

    fn block_size(&self) -> u64 {
        // Zeros are left out of the file, as far as its file system can.
        4096
    }

    fn is_sequential(&self) -> bool {
        false
    }

    fn exact_length(&self) -> Option<u64> {
        Some(self.0.file_size(self.0.blocks))
    }

    fn place(&mut self, guest_offset: u64, len: u64) -> Result<Placement> {
        Ok(Placement {
            offset: self.0.data_offset().saturating_add(guest_offset),
            len,
        })
    }

    fn zero(&mut self, guest_offset: u64, len: u64) -> Result<Option<Range<u64>>> {
        let start = self.0.data_offset().saturating_add(guest_offset);
        Ok(Some(start..start.saturating_add(len)))
    }

    fn finish(self: Box<Self>, identity: &Identity, out: &dyn WritableStorage) -> Result<Summary> {
        for start in (0..self.0.blocks).step_by(PAGE_ENTRIES as usize) {
            let end = (start + PAGE_ENTRIES).min(self.0.blocks);
            let page: Vec<u8> = (start..end)
                .flat_map(|n| (n as u32).to_le_bytes())
                .collect();
            out.write_at(&page, ALIGN + start * ENTRY)?;
        }
        self.0
            .finish(ImageType::Static, self.0.blocks, identity, out)
    }
}
