//! Writes streamOptimized: header and descriptor, deflated grains in the order of the disk, and the tables at the end.
//!
//! ```text
//!  header, descriptor │ marker+grain … │ GT marker, GT … │ GD marker, GD │ footer marker, footer │ end of stream
//!  (GD at the end)      ascending        those not empty                   (header, GD known)      one zero sector
//! ```
//!
//! This is the layout that ESXi, vSphere and VirtualBox write. Version 3, since ESXi takes no other; exactly one zero
//! sector at the end, since importers stop hashing there.

use std::ops::Range;
use std::sync::Arc;

use libdeflater::{CompressionLvl, Compressor};

use super::SECTOR;
use super::extent_line::{Access, ExtentFile, ExtentLine};
use super::header::{
    FLAG_COMPRESSED, FLAG_MARKERS, FLAG_NEWLINE_TEST, SparseHeader, USUAL_TABLE_ENTRIES,
};
use super::marker::{GRAIN_MARKER, Marker};
use super::new_image::NewImage;
use super::sparse_layout::{COVERAGE, DESCRIPTOR, GRAIN, descriptor_area};
use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::storage::WritableStorage;
use crate::target::{BlockTarget, Form, Identity, PackWorker, Packer, Placement, Summary};

/// Where the first grain stands: at a multiple of the grain size, as in the files of VMware's products.
const OVERHEAD: u64 = GRAIN;

/// Bytes of tables that are written at once at the end.
const CHUNK: usize = 1 << 20;

/// A stream that is being written.
pub struct StreamTarget {
    image: NewImage,
    /// File offset behind the last grain.
    end: u64,
    tables: Vec<GrainTable>,
}

/// A grain table while it is not yet written: grains follow each other, so that their lengths say where they are. An
/// eighth of the memory that tables would take matters for disks of many terabytes.
struct GrainTable {
    /// Its entry in the directory.
    index: u64,
    /// Sector of the first grain.
    first: u32,
    /// Sectors of each grain, 0 for none.
    lengths: Box<[u8; USUAL_TABLE_ENTRIES as usize]>,
}

impl GrainTable {
    fn to_bytes(&self) -> Vec<u8> {
        let mut next = self.first;
        let entries = self.lengths.iter().map(|sectors| {
            let entry = if *sectors == 0 { 0 } else { next };
            next += u32::from(*sectors);
            entry
        });
        entries.flat_map(|entry| entry.to_le_bytes()).collect()
    }
}

impl StreamTarget {
    /// The layout of `image`.
    ///
    /// # Errors
    /// `Limit` when the descriptor has no room.
    pub fn new(image: NewImage) -> Result<StreamTarget> {
        let target = StreamTarget {
            image,
            end: OVERHEAD,
            tables: Vec::new(),
        };
        let any = Identity {
            id: [0; 16],
            unix_time: 0,
        };
        descriptor_area(&target.descriptor(&any))?;
        Ok(target)
    }

    fn header(&self, directory: Option<u64>) -> SparseHeader {
        SparseHeader {
            version: 3,
            flags: FLAG_NEWLINE_TEST | FLAG_COMPRESSED | FLAG_MARKERS,
            capacity: self.image.size,
            grain_size: GRAIN,
            descriptor: DESCRIPTOR,
            table_entries: USUAL_TABLE_ENTRIES,
            redundant: None,
            directory,
            overhead: OVERHEAD,
            unclean: false,
        }
    }

    fn descriptor(&self, identity: &Identity) -> String {
        let extent = ExtentLine {
            access: Access::ReadWrite,
            len: self.image.size,
            kind: self.image.extent_type(),
            file: Some(ExtentFile {
                name: self.image.extent_name(1),
                raw_name: None,
            }),
            offset: 0,
        };
        self.image.descriptor(&[extent], identity)
    }

    fn full(&self) -> Error {
        Error::limit("vmdk", "a stream cannot be longer than 2 TiB")
            .at(self.end)
            .hint("choose another subformat")
    }

    /// The grain table for `guest_offset`, which is the last one or a new one.
    fn table(&mut self, guest_offset: u64, sector: u32) -> Result<&mut GrainTable> {
        let index = guest_offset / COVERAGE;
        match self.tables.last() {
            Some(last) if last.index > index => {
                return Err(
                    Error::malformed("vmdk", "a block was placed behind its turn")
                        .found(format!("grain table {index}"))
                        .expected("ascending offsets"),
                );
            }
            Some(last) if last.index == index => {}
            _ => self.tables.push(GrainTable {
                index,
                first: sector,
                lengths: Box::new([0; USUAL_TABLE_ENTRIES as usize]),
            }),
        }
        let full = self.full();
        self.tables.last_mut().ok_or(full)
    }
}

impl BlockTarget for StreamTarget {
    fn size(&self) -> u64 {
        self.image.size
    }

    fn block_size(&self) -> u64 {
        GRAIN
    }

    fn is_sequential(&self) -> bool {
        true
    }

    fn packer(&self) -> Option<Arc<dyn Packer>> {
        Some(Arc::new(GrainPacker {
            level: self.image.level,
        }))
    }

    fn head(&self, identity: &Identity) -> Result<Option<Vec<u8>>> {
        let mut head = self.header(None).to_bytes().to_vec();
        head.extend(descriptor_area(&self.descriptor(identity))?);
        head.resize(OVERHEAD as usize, 0);
        Ok(Some(head))
    }

    fn place(&mut self, guest_offset: u64, len: u64) -> Result<Placement> {
        Err(
            Error::unsupported("vmdk", "a stream takes packed grains only")
                .at(guest_offset)
                .found(format!("{len} bytes")),
        )
    }

    fn place_packed(&mut self, guest_offset: u64, len: u64, _form: Form) -> Result<u64> {
        let offset = self.end;
        let sector = u32::try_from(offset / SECTOR).map_err(|_| self.full())?;
        let sectors = u8::try_from(len / SECTOR).map_err(|_| self.full())?;
        let within = (guest_offset % COVERAGE / GRAIN) as usize;
        let table = self.table(guest_offset, sector)?;
        if let Some(length) = table.lengths.get_mut(within) {
            *length = sectors;
        }
        self.end += len;
        Ok(offset)
    }

    /// Grains of zeros are left out.
    fn zero(&mut self, _guest_offset: u64, _len: u64) -> Result<Option<Range<u64>>> {
        Ok(None)
    }

    fn finish(self: Box<Self>, _: &Identity, out: &dyn WritableStorage) -> Result<Summary> {
        let mut tail = Tail {
            out,
            at: self.end,
            waiting: Vec::with_capacity(CHUNK),
        };
        let tables = self.image.size.div_ceil(COVERAGE);
        let mut directory = vec![0; (tables * 4).next_multiple_of(SECTOR) as usize];
        for table in &self.tables {
            let bytes = table.to_bytes();
            tail.put(&Marker::metadata(1, bytes.len() as u64 / SECTOR))?;
            let sector = u32::try_from(tail.position() / SECTOR).map_err(|_| self.full())?;
            let at = (table.index * 4) as usize;
            if let Some(entry) = directory.get_mut(at..at + 4) {
                entry.copy_from_slice(&sector.to_le_bytes());
            }
            tail.put(&bytes)?;
        }
        tail.put(&Marker::metadata(2, directory.len() as u64 / SECTOR))?;
        let directory_offset = tail.position();
        tail.put(&directory)?;
        tail.put(&Marker::metadata(3, 1))?;
        tail.put(&self.header(Some(directory_offset)).to_bytes())?;
        // The end-of-stream marker.
        tail.put(&[0; SECTOR as usize])?;
        let file_size = tail.finish()?;
        out.set_len(file_size)?;
        Ok(Summary { file_size })
    }
}

/// What comes behind the grains, written in large pieces.
struct Tail<'a> {
    out: &'a dyn WritableStorage,
    at: u64,
    waiting: Vec<u8>,
}

impl Tail<'_> {
    fn position(&self) -> u64 {
        self.at + self.waiting.len() as u64
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.waiting.extend(bytes);
        if self.waiting.len() >= CHUNK {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.out.write_at(&self.waiting, self.at)?;
        self.at += self.waiting.len() as u64;
        self.waiting.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<u64> {
        self.flush()?;
        Ok(self.at)
    }
}

/// Deflates grains.
struct GrainPacker {
    level: i32,
}

impl Packer for GrainPacker {
    fn unit(&self) -> u32 {
        GRAIN as u32
    }

    /// Deflate adds 5 bytes to every 5000 or more that it cannot make smaller, zlib 6 to all.
    fn most(&self) -> (usize, Form) {
        let stream = GRAIN + (GRAIN / 5000 + 1) * 5 + 6;
        let len = (GRAIN_MARKER + stream).next_multiple_of(SECTOR);
        (len as usize, Form::Packed)
    }

    fn takes(&self, codec: Codec) -> bool {
        matches!(codec, Codec::Zlib | Codec::Deflate)
    }

    fn worker(&self) -> Box<dyn PackWorker> {
        let level = CompressionLvl::new(self.level).unwrap_or_default();
        Box::new(GrainWorker {
            compressor: Compressor::new(level),
        })
    }
}

struct GrainWorker {
    compressor: Compressor,
}

impl PackWorker for GrainWorker {
    fn pack(&mut self, guest_offset: u64, block: &[u8], out: &mut Vec<u8>) -> Result<Form> {
        let start = out.len() + GRAIN_MARKER as usize;
        let bound = self.compressor.zlib_compress_bound(block.len());
        out.resize(start + bound, 0);
        let len = self
            .compressor
            .zlib_compress(block, &mut out[start..])
            .map_err(|_| Error::limit("grain", "does not fit where it always fits"))?;
        close(guest_offset, start, len, out);
        Ok(Form::Packed)
    }

    fn adopt(
        &mut self,
        guest_offset: u64,
        block: &[u8],
        codec: Codec,
        stream: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Form> {
        let start = out.len() + GRAIN_MARKER as usize;
        out.resize(start, 0);
        match codec {
            Codec::Zlib => out.extend(stream),
            Codec::Deflate => {
                // RFC 1950: a window of 32 KiB, no dictionary, and the checksum of the content behind.
                out.extend([0x78, 0x01]);
                out.extend(stream);
                out.extend(libdeflater::adler32(block).to_be_bytes());
            }
            Codec::Zstd | Codec::Summed(_) => {
                return self.repack(guest_offset, block, start, out);
            }
        }
        let len = out.len() - start;
        // Longer than what a table can say, or than what readers take: somebody made it so on purpose.
        if len as u64 + GRAIN_MARKER > u64::from(u8::MAX) * SECTOR {
            return self.repack(guest_offset, block, start, out);
        }
        close(guest_offset, start, len, out);
        Ok(Form::Packed)
    }
}

impl GrainWorker {
    fn repack(
        &mut self,
        guest_offset: u64,
        block: &[u8],
        start: usize,
        out: &mut Vec<u8>,
    ) -> Result<Form> {
        out.truncate(start - GRAIN_MARKER as usize);
        self.pack(guest_offset, block, out)
    }
}

/// Puts the marker in front of the `len` bytes at `start` of `out`, and zeros behind them up to the next sector.
fn close(guest_offset: u64, start: usize, len: usize, out: &mut Vec<u8>) {
    let marker = Marker::grain(guest_offset / SECTOR, len as u32);
    out[start - marker.len()..start].copy_from_slice(&marker);
    out.truncate(start + len);
    let whole = (marker.len() + len).next_multiple_of(SECTOR as usize);
    out.resize(start - marker.len() + whole, 0);
}
