//! A disk as the blocks of an XVA.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::BLOCK;
use super::checksum::Checksum;
use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::storage::WritableStorage;
use crate::tar;
use crate::target::{
    BlockTarget, Form, Identity, PackWorker, Packer, Placement, Summary, TableWrite,
};

/// What a disk is written as.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Layout {
    reference: String,
    checksum: Checksum,
    /// Seconds since 1970, of all members.
    unix_time: u64,
}

impl Layout {
    /// Bytes of a block with its checksum, and the headers of both.
    const RECORD: u64 = tar::BLOCK + BLOCK + tar::BLOCK + tar::BLOCK;

    /// Appends the members of the block at `guest_offset`.
    fn record(&self, guest_offset: u64, block: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let name = format!("{}/{:08}", self.reference, guest_offset / BLOCK);
        let start = out.len();
        out.extend(tar::Header::for_file(&name, BLOCK, self.unix_time)?);
        out.extend(block);
        let sum = self.checksum.of(block);
        let name = name + self.checksum.suffix();
        out.extend(tar::Header::for_file(
            &name,
            sum.len() as u64,
            self.unix_time,
        )?);
        out.extend(sum.as_bytes());
        out.resize(start + Layout::RECORD as usize, 0);
        Ok(())
    }
}

/// The layout of one disk. Nothing is written in front of its first block and behind its last one.
pub struct XvaTarget {
    layout: Arc<Layout>,
    size: u64,
    /// File offset of the first block.
    start: u64,
    /// File offset of what comes next.
    end: u64,
    ready: Vec<TableWrite>,
}

impl XvaTarget {
    /// The disk of the VDI `reference`, which is `size` bytes long and is rounded up to whole blocks, at least one; its
    /// blocks begin at byte `start` of the file.
    ///
    /// # Errors
    /// `Limit` when the disk has more blocks than numbers of eight digits.
    pub fn new(
        reference: &str,
        size: u64,
        start: u64,
        checksum: Checksum,
        unix_time: u64,
    ) -> Result<XvaTarget> {
        const BLOCKS_MAX: u64 = 100_000_000;
        let blocks = size.div_ceil(BLOCK).max(1);
        if blocks > BLOCKS_MAX {
            return Err(Error::limit("XVA", "the disk is too large")
                .found(format!("{size} bytes"))
                .expected(format!("at most {} bytes", BLOCKS_MAX * BLOCK)));
        }
        Ok(XvaTarget {
            layout: Arc::new(Layout {
                reference: reference.to_owned(),
                checksum,
                unix_time,
            }),
            size: blocks * BLOCK,
            start,
            end: start,
            ready: Vec::new(),
        })
    }

    /// Stores the block of zeros at `guest_offset`.
    fn store_zeros(&mut self, guest_offset: u64) -> Result<()> {
        let mut bytes = Vec::with_capacity(Layout::RECORD as usize);
        self.layout
            .record(guest_offset, &vec![0; BLOCK as usize], &mut bytes)?;
        self.ready.push(TableWrite {
            offset: self.end,
            bytes: Cow::Owned(bytes),
        });
        self.end += Layout::RECORD;
        Ok(())
    }
}

impl BlockTarget for XvaTarget {
    fn size(&self) -> u64 {
        self.size
    }

    fn block_size(&self) -> u64 {
        BLOCK
    }

    fn is_sequential(&self) -> bool {
        true
    }

    fn packer(&self) -> Option<Arc<dyn Packer>> {
        Some(Arc::new(BlockPacker(self.layout.clone())))
    }

    fn place(&mut self, guest_offset: u64, len: u64) -> Result<Placement> {
        Err(Error::unsupported("XVA", "takes whole blocks only")
            .at(guest_offset)
            .found(format!("{len} bytes")))
    }

    fn place_packed(&mut self, _guest_offset: u64, len: u64, _form: Form) -> Result<u64> {
        let offset = self.end;
        self.end += len;
        Ok(offset)
    }

    /// Blocks of zeros are left out, but for the first one and the last one, without which xapi does not know where the
    /// disk begins and ends.
    fn zero(&mut self, guest_offset: u64, len: u64) -> Result<Option<Range<u64>>> {
        let last = self.size - BLOCK;
        if guest_offset == 0 && len > 0 {
            self.store_zeros(0)?;
        }
        if last > 0 && guest_offset.saturating_add(len) > last {
            self.store_zeros(last)?;
        }
        Ok(None)
    }

    fn take_tables(&mut self) -> Vec<TableWrite> {
        std::mem::take(&mut self.ready)
    }

    fn finish(mut self: Box<Self>, _: &Identity, out: &dyn WritableStorage) -> Result<Summary> {
        // A disk without any byte was never asked about.
        if self.end == self.start {
            self.store_zeros(0)?;
        }
        for table in self.take_tables() {
            out.write_at(&table.bytes, table.offset)?;
        }
        Ok(Summary {
            file_size: self.end,
        })
    }
}

struct BlockPacker(Arc<Layout>);

impl Packer for BlockPacker {
    fn unit(&self) -> u32 {
        BLOCK as u32
    }

    fn most(&self) -> (usize, Form) {
        (Layout::RECORD as usize, Form::Packed)
    }

    fn takes(&self, _codec: Codec) -> bool {
        false
    }

    fn worker(&self) -> Box<dyn PackWorker> {
        Box::new(BlockWorker(self.0.clone()))
    }
}

struct BlockWorker(Arc<Layout>);

impl PackWorker for BlockWorker {
    fn pack(&mut self, guest_offset: u64, block: &[u8], out: &mut Vec<u8>) -> Result<Form> {
        self.0.record(guest_offset, block, out)?;
        Ok(Form::Packed)
    }

    fn adopt(
        &mut self,
        guest_offset: u64,
        block: &[u8],
        _codec: Codec,
        _stream: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Form> {
        self.pack(guest_offset, block, out)
    }
}
