//! The header: what kind of image it is, how large, and where the block map and the blocks stand.

use uuid::Uuid;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, transmute};

use crate::error::{Error, Result};
use crate::storage::Storage;

/// The bytes at [`SIGNATURE_OFFSET`] of every VDI.
pub const SIGNATURE: [u8; 4] = [0x7F, 0x10, 0xDA, 0xBE];

/// Byte offset of the signature, behind the text.
pub const SIGNATURE_OFFSET: usize = 64;

/// Bytes that a disk's size is a multiple of in VirtualBox, which cuts what is left over.
pub const SECTOR: u64 = 512;

/// Bytes of an entry of the block map.
pub const ENTRY: u64 = 4;

/// Length in bytes of everything up to the end of the newer header, with room for the logical geometry.
const LEN: usize = 472;

/// Length in bytes of everything up to the end of the older header.
const OLD_LEN: u64 = 456;

/// What the header size field holds in the older and in the newer header: bytes from that field on.
const OLD_SIZE: u32 = 0x180;
const NEW_SIZE: u32 = 0x190;

/// Version 1.1, the only one since 2007.
const VERSION: u32 = 0x0001_0001;

/// Block sizes that are read, in bytes: multiples of 512.
const BLOCK_SIZES: std::ops::RangeInclusive<u32> = 512..=1 << 30;

/// The text of VirtualBox since 2010. Readers go by the signature; older ones and QEMU have other texts.
const TEXT: &[u8] = b"<<< Oracle VM VirtualBox Disk Image >>>\n";

/// Cylinders, heads, sectors of a track and bytes of a sector.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawGeometry {
    cylinders: U32,
    heads: U32,
    sectors: U32,
    sector_size: U32,
}

impl RawGeometry {
    /// "Not calculated": VirtualBox finds one when it first opens the image.
    const UNKNOWN: RawGeometry = RawGeometry {
        cylinders: U32::ZERO,
        heads: U32::ZERO,
        sectors: U32::ZERO,
        sector_size: U32::new(SECTOR as u32),
    };

    fn known(&self) -> Option<Geometry> {
        let geometry = Geometry {
            cylinders: self.cylinders.get(),
            heads: self.heads.get(),
            sectors: self.sectors.get(),
        };
        (geometry.cylinders != 0).then_some(geometry)
    }
}

/// The header as it stands on disk. UUIDs are in Microsoft's byte order.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    text: [u8; 64],
    signature: [u8; 4],
    version: U32,
    header_size: U32,
    image_type: U32,
    flags: U32,
    comment: [u8; 256],
    map_offset: U32,
    data_offset: U32,
    legacy_geometry: RawGeometry,
    unused: U32,
    disk_size: U64,
    block_size: U32,
    block_extra: U32,
    blocks: U32,
    allocated: U32,
    image_id: [u8; 16],
    modification_id: [u8; 16],
    parent_id: [u8; 16],
    parent_modification_id: [u8; 16],
    geometry: RawGeometry,
}

/// What kind of image it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageType {
    /// Blocks where something was written.
    Dynamic,
    /// All blocks, in their order.
    Static,
    /// Blocks where something differs from the parent, to be thrown away or taken over.
    Undo,
    /// Blocks where something differs from the parent.
    Differencing,
}

impl ImageType {
    const ALL: [(u32, ImageType); 4] = [
        (1, ImageType::Dynamic),
        (2, ImageType::Static),
        (3, ImageType::Undo),
        (4, ImageType::Differencing),
    ];

    /// The word that `info` uses.
    pub fn name(self) -> &'static str {
        match self {
            ImageType::Dynamic => "dynamic",
            ImageType::Static => "fixed",
            ImageType::Undo => "undo",
            ImageType::Differencing => "differencing",
        }
    }

    /// Whether such an image stands on another one.
    pub fn has_parent(self) -> bool {
        matches!(self, ImageType::Undo | ImageType::Differencing)
    }
}

/// A geometry in sectors of 512 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Cylinders, at least 1.
    pub cylinders: u32,
    /// Heads.
    pub heads: u32,
    /// Sectors of a track.
    pub sectors: u32,
}

impl std::fmt::Display for Geometry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.cylinders, self.heads, self.sectors)
    }
}

/// A header whose fields make sense. Whether the file holds what it promises is the block map's to check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// What the image says it is, for people.
    pub text: [u8; 64],
    /// Kind of image.
    pub image_type: ImageType,
    /// Flags of VirtualBox, which mean nothing to a reader.
    pub flags: u32,
    /// What the user wrote about the image, in UTF-8, padded with NUL.
    pub comment: [u8; 256],
    /// Byte offset of the block map, behind the header.
    pub map_offset: u64,
    /// Byte offset of the first block, behind the block map.
    pub data_offset: u64,
    /// Guest-visible size in bytes: any value up to [`Header::blocks`] blocks.
    pub disk_size: u64,
    /// Guest bytes in a block: a multiple of 512 up to 1 GiB.
    pub block_size: u32,
    /// Bytes in front of the data of every block, which belong to whoever wrote them.
    pub block_extra: u32,
    /// Entries of the block map.
    pub blocks: u32,
    /// Blocks that have a place in the file: no more than [`Header::blocks`].
    pub allocated: u32,
    /// The id that children refer to.
    pub image_id: Uuid,
    /// A new id whenever a VM begins to write to the image.
    pub modification_id: Uuid,
    /// [`Header::image_id`] of the parent; nil for none.
    pub parent_id: Uuid,
    /// [`Header::modification_id`] that the parent had when this image was made on it; nil when nobody said.
    pub parent_modification_id: Uuid,
    /// The geometry that the guest was shown, if anybody stored one.
    pub geometry: Option<Geometry>,
}

impl Header {
    /// Reads the header of the image in `storage`.
    ///
    /// # Errors
    /// `Truncated` when the file is shorter than a header, and those of [`Header::parse`].
    pub fn read(storage: &dyn Storage) -> Result<Header> {
        if storage.len() < OLD_LEN {
            return Err(Error::truncated("header", "the file is shorter than one")
                .found(format!("{} bytes", storage.len()))
                .expected(format!("at least {OLD_LEN} bytes")));
        }
        let mut bytes = [0; LEN];
        let (there, _) = bytes.split_at_mut(storage.len().min(LEN as u64) as usize);
        storage.read_at(there, 0)?;
        Header::parse(&bytes)
    }

    /// The header in `bytes`, the first ones of the file.
    ///
    /// # Errors
    /// `Malformed` when a field is out of range, `Unsupported` for another version or sector size.
    pub fn parse(bytes: &[u8; LEN]) -> Result<Header> {
        let raw: RawHeader = transmute!(*bytes);
        if raw.signature != SIGNATURE {
            return Err(malformed("has another signature", SIGNATURE_OFFSET)
                .found(format!("{:02x?}", raw.signature))
                .expected(format!("{SIGNATURE:02x?}")));
        }
        check_version(raw.version.get())?;
        let header_size = raw.header_size.get();
        if header_size < OLD_SIZE {
            return Err(malformed("is too short", 72)
                .found(header_size)
                .expected(format!("{OLD_SIZE} or more")));
        }
        let image_type = check_type(raw.image_type.get())?;
        check_blocks(&raw)?;
        check_places(&raw)?;
        let is_new = header_size >= NEW_SIZE;
        check_sector_size(raw.legacy_geometry.sector_size.get(), 360)?;
        if is_new {
            check_sector_size(raw.geometry.sector_size.get(), 468)?;
        }
        let logical = raw.geometry.known().filter(|_| is_new);
        Ok(Header {
            text: raw.text,
            image_type,
            flags: raw.flags.get(),
            comment: raw.comment,
            map_offset: raw.map_offset.get().into(),
            data_offset: raw.data_offset.get().into(),
            disk_size: raw.disk_size.get(),
            block_size: raw.block_size.get(),
            block_extra: raw.block_extra.get(),
            blocks: raw.blocks.get(),
            allocated: raw.allocated.get(),
            image_id: Uuid::from_bytes_le(raw.image_id),
            modification_id: Uuid::from_bytes_le(raw.modification_id),
            parent_id: Uuid::from_bytes_le(raw.parent_id),
            parent_modification_id: Uuid::from_bytes_le(raw.parent_modification_id),
            geometry: logical.or_else(|| raw.legacy_geometry.known()),
        })
    }

    /// The header as it stands on disk, in its newer form, with the offsets cut to 32 bits.
    pub fn to_bytes(&self) -> [u8; LEN] {
        let code = ImageType::ALL.iter().find(|(_, t)| *t == self.image_type);
        let geometry = self.geometry.map_or(RawGeometry::UNKNOWN, |g| RawGeometry {
            cylinders: U32::new(g.cylinders),
            heads: U32::new(g.heads),
            sectors: U32::new(g.sectors),
            sector_size: U32::new(SECTOR as u32),
        });
        transmute!(RawHeader {
            text: self.text,
            signature: SIGNATURE,
            version: U32::new(VERSION),
            header_size: U32::new(NEW_SIZE),
            image_type: U32::new(code.map_or(0, |(code, _)| *code)),
            flags: U32::new(self.flags),
            comment: self.comment,
            map_offset: U32::new(self.map_offset as u32),
            data_offset: U32::new(self.data_offset as u32),
            legacy_geometry: RawGeometry::UNKNOWN,
            unused: U32::ZERO,
            disk_size: U64::new(self.disk_size),
            block_size: U32::new(self.block_size),
            block_extra: U32::new(self.block_extra),
            blocks: U32::new(self.blocks),
            allocated: U32::new(self.allocated),
            image_id: self.image_id.to_bytes_le(),
            modification_id: self.modification_id.to_bytes_le(),
            parent_id: self.parent_id.to_bytes_le(),
            parent_modification_id: self.parent_modification_id.to_bytes_le(),
            geometry,
        })
    }

    /// `bytes`, the start of a file, with the size of this header's disk and the places of its map and blocks. Everything
    /// else stays as it is. All of it is in the first sector.
    pub fn over(&self, bytes: &[u8; LEN]) -> [u8; LEN] {
        let mut raw: RawHeader = transmute!(*bytes);
        raw.map_offset = U32::new(self.map_offset as u32);
        raw.data_offset = U32::new(self.data_offset as u32);
        raw.disk_size = U64::new(self.disk_size);
        raw.blocks = U32::new(self.blocks);
        raw.allocated = U32::new(self.allocated);
        transmute!(raw)
    }

    /// What VirtualBox writes in front of the signature.
    pub fn virtualbox_text() -> [u8; 64] {
        let mut text = [0; 64];
        for (to, from) in text.iter_mut().zip(TEXT) {
            *to = *from;
        }
        text
    }

    /// Blocks that the guest sees; the map may have more entries.
    pub fn guest_blocks(&self) -> u64 {
        self.disk_size.div_ceil(self.block_size.into())
    }

    /// Bytes that a block takes in the file.
    pub fn stride(&self) -> u64 {
        u64::from(self.block_size) + u64::from(self.block_extra)
    }

    /// Byte offset of the data of the block that stands at `index` in the file; past the end of any file when that is
    /// no number of 64 bits.
    pub fn block_offset(&self, index: u32) -> u64 {
        u64::from(index)
            .saturating_mul(self.stride())
            .saturating_add(self.data_offset + u64::from(self.block_extra))
    }

    /// Where the last block that is counted ends.
    pub fn file_end(&self) -> u64 {
        u64::from(self.allocated)
            .saturating_mul(self.stride())
            .saturating_add(self.data_offset)
    }

    /// Bytes of the block map.
    pub fn map_len(&self) -> u64 {
        u64::from(self.blocks) * ENTRY
    }
}

fn malformed(message: &'static str, offset: usize) -> Error {
    Error::malformed("header", message).at(offset as u64)
}

fn check_version(version: u32) -> Result<()> {
    let (major, minor) = (version >> 16, version & 0xFFFF);
    if version == VERSION {
        return Ok(());
    }
    let message = match major {
        0 => "a VDI of version 0, from before VirtualBox 1.1",
        _ => "a VDI of an unknown version",
    };
    Err(Error::unsupported("header", message)
        .at(68)
        .found(format!("version {major}.{minor}"))
        .expected("version 1.1")
        .hint("VirtualBox can clone it into a new one: VBoxManage clonemedium"))
}

fn check_type(code: u32) -> Result<ImageType> {
    let known = ImageType::ALL.iter().find(|(known, _)| *known == code);
    known.map(|(_, image_type)| *image_type).ok_or_else(|| {
        malformed("unknown image type", 76)
            .found(code)
            .expected("1 (dynamic), 2 (static), 3 (undo) or 4 (differencing)")
    })
}

fn check_sector_size(size: u32, offset: u64) -> Result<()> {
    if matches!(u64::from(size), 0 | SECTOR) {
        return Ok(());
    }
    let error = Error::unsupported("header", "another sector size");
    Err(error.at(offset).found(size).expected(SECTOR))
}

fn check_blocks(raw: &RawHeader) -> Result<()> {
    let (block_size, blocks) = (raw.block_size.get(), raw.blocks.get());
    if !BLOCK_SIZES.contains(&block_size) || !u64::from(block_size).is_multiple_of(SECTOR) {
        return Err(malformed("impossible block size", 376)
            .found(block_size)
            .expected("a multiple of 512 up to 1073741824"));
    }
    let most = u64::from(blocks) * u64::from(block_size);
    if raw.disk_size.get() > most {
        return Err(malformed("the disk is larger than all of its blocks", 368)
            .found(format!("{} bytes", raw.disk_size.get()))
            .expected(format!("at most {most}, in {blocks} blocks")));
    }
    if raw.allocated.get() > blocks {
        return Err(malformed("more blocks are allocated than there are", 388)
            .found(raw.allocated.get())
            .expected(format!("at most {blocks}")));
    }
    Ok(())
}

fn check_places(raw: &RawHeader) -> Result<()> {
    let header_end = match raw.header_size.get() {
        NEW_SIZE.. => LEN as u64,
        _ => OLD_LEN,
    };
    let map = u64::from(raw.map_offset.get());
    if map < header_end {
        return Err(malformed("the block map overlaps the header", 340)
            .found(format!("offset {map}"))
            .expected(format!("{header_end} or more")));
    }
    let map_end = map + u64::from(raw.blocks.get()) * ENTRY;
    let data = u64::from(raw.data_offset.get());
    if data < map_end {
        return Err(malformed("the blocks overlap the block map", 344)
            .found(format!("offset {data}"))
            .expected(format!("{map_end} or more")));
    }
    Ok(())
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;
