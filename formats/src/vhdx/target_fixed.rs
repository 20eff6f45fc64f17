//! Writing fixed disks: every block has its place, one behind the other.

use std::ops::Range;

use super::bat::{BatEntry, Slot};
use super::bat_writer::BatWriter;
use super::new_image::{BAT_AT, NewImage};
use super::target::check_on_disk;
use crate::error::Result;
use crate::storage::WritableStorage;
use crate::target::{BlockTarget, Identity, Placement, Summary};

/// Unit in which zeros are worth leaving out: the page that file systems allocate.
const PAGE: u64 = 4096;

/// The layout of a fixed disk.
pub struct FixedTarget {
    image: NewImage,
}

impl FixedTarget {
    /// A disk as `image` says.
    pub fn new(image: NewImage) -> FixedTarget {
        FixedTarget { image }
    }

    fn file_size(&self) -> u64 {
        let layout = &self.image.layout;
        self.image.data_at() + layout.blocks() * layout.block_size
    }

    fn write_bat(&self, out: &dyn WritableStorage) -> Result<()> {
        let layout = self.image.layout;
        let mut bat = BatWriter::new(layout, BAT_AT, layout.blocks());
        for index in 0..layout.entries() {
            if let Slot::Block(block) = layout.slot(index) {
                let data = self.image.data_at() + block * layout.block_size;
                bat.set(index, BatEntry::fully_present(data))?;
            }
            for page in bat.take() {
                out.write_at(&page.bytes, page.offset)?;
            }
        }
        bat.finish(out)
    }
}

impl BlockTarget for FixedTarget {
    fn size(&self) -> u64 {
        self.image.layout.disk_size
    }

    fn sector_size(&self) -> Option<u32> {
        Some(self.image.layout.sector_size as u32)
    }

    fn block_size(&self) -> u64 {
        PAGE
    }

    fn is_sequential(&self) -> bool {
        false
    }

    fn exact_length(&self) -> Option<u64> {
        Some(self.file_size())
    }

    fn head(&self, identity: &Identity) -> Result<Option<Vec<u8>>> {
        Ok(Some(self.image.head(identity)))
    }

    fn place(&mut self, guest_offset: u64, len: u64) -> Result<Placement> {
        check_on_disk(&self.image, guest_offset, len)?;
        Ok(Placement {
            offset: self.image.data_at() + guest_offset,
            len,
        })
    }

    fn zero(&mut self, guest_offset: u64, len: u64) -> Result<Option<Range<u64>>> {
        let start = self.image.data_at().saturating_add(guest_offset);
        Ok(Some(start..start.saturating_add(len)))
    }

    fn finish(self: Box<Self>, identity: &Identity, out: &dyn WritableStorage) -> Result<Summary> {
        let file_size = self.file_size();
        self.write_bat(out)?;
        self.image.finish(identity, file_size, out)?;
        Ok(Summary { file_size })
    }
}
