//! Dirty bitmaps: which parts of the disk were written since some moment (qcow2 spec, "Bitmaps extension").

use std::ops::Range;

use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::extensions::BitmapsExtension;
use super::header::Header;
use super::l1::OFFSET_MASK;
use crate::error::{Error, Result};
use crate::storage::StorageRef;
use crate::table::PagedTable;

const DIRECTORY: &str = "bitmap directory";
const TABLE: &str = "bitmap table";

/// Most bitmaps of an image, a limit of QEMU.
const MOST: u32 = 65535;
/// Most bytes of the directory, a limit of QEMU.
const MOST_BYTES: u64 = 64 << 20;

/// The bitmap was not saved properly, or belongs to somebody who is running.
const IN_USE: u32 = 1;
/// QEMU goes on with it by itself.
const AUTO: u32 = 2;

/// The fixed part of an entry of the directory.
#[derive(Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    table_offset: U64,
    table_entries: U32,
    flags: U32,
    kind: u8,
    granularity_bits: u8,
    name_length: U16,
    extra_length: U32,
}

const FIXED: usize = size_of::<Raw>();

/// A bitmap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bitmap {
    /// Its name.
    pub name: String,
    /// `log2` of the guest bytes that a bit stands for.
    pub granularity_bits: u32,
    /// Whether it was not saved properly: what it says is not to be trusted.
    pub in_use: bool,
    /// Whether QEMU goes on with it by itself.
    pub auto: bool,
    /// File offset of its table.
    pub table_offset: u64,
    /// Entries of its table.
    pub table_entries: u32,
}

/// The bitmaps that `extension` leads to.
///
/// # Errors
/// `Truncated`, `Malformed` or `Limit` when the directory is not what it must be.
pub fn read(
    storage: &StorageRef,
    header: &Header,
    extension: &BitmapsExtension,
) -> Result<Vec<Bitmap>> {
    let BitmapsExtension {
        count,
        size,
        offset,
    } = *extension;
    if count > MOST || size > MOST_BYTES {
        return Err(Error::limit(DIRECTORY, "is too large")
            .at(offset)
            .found(format!("{count} bitmaps in {size} bytes"))
            .expected(format!("at most {MOST} in {MOST_BYTES}")));
    }
    if !offset.is_multiple_of(header.cluster_size()) {
        return Err(Error::malformed(DIRECTORY, "does not start with a cluster").at(offset));
    }
    if offset
        .checked_add(size)
        .is_none_or(|end| end > storage.len())
    {
        return Err(Error::truncated(DIRECTORY, "runs out of the file")
            .at(offset)
            .found(format!("{size} bytes")));
    }
    let mut directory = vec![0; size as usize];
    storage.read_at(&mut directory, offset)?;
    let mut bitmaps = Vec::new();
    let mut at = 0;
    for _ in 0..count {
        let (bitmap, len) = entry(&directory, at).map_err(|e| e.at(offset + at as u64))?;
        bitmaps.push(bitmap);
        at += len;
    }
    Ok(bitmaps)
}

fn entry(directory: &[u8], at: usize) -> Result<(Bitmap, usize)> {
    let short = || Error::malformed(DIRECTORY, "an entry runs out of it");
    let rest = directory.get(at..).ok_or_else(short)?;
    let (raw, rest) = Raw::read_from_prefix(rest).map_err(|_| short())?;
    if raw.kind != 1 {
        return Err(
            Error::unsupported(DIRECTORY, "a bitmap is of an unknown type")
                .found(raw.kind)
                .expected("1 (dirty tracking)"),
        );
    }
    if raw.granularity_bits > 63 {
        return Err(
            Error::malformed(DIRECTORY, "a bitmap has an impossible granularity")
                .found(format!("2^{}", raw.granularity_bits)),
        );
    }
    let (extra, name) = (
        raw.extra_length.get() as usize,
        raw.name_length.get() as usize,
    );
    let end = extra.checked_add(name).ok_or_else(short)?;
    let name = rest.get(extra..end).ok_or_else(short)?;
    let bitmap = Bitmap {
        name: String::from_utf8_lossy(name).into_owned(),
        granularity_bits: raw.granularity_bits.into(),
        in_use: raw.flags.get() & IN_USE != 0,
        auto: raw.flags.get() & AUTO != 0,
        table_offset: raw.table_offset.get(),
        table_entries: raw.table_entries.get(),
    };
    Ok((bitmap, (FIXED + end).next_multiple_of(8)))
}

impl Bitmap {
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
        let table = PagedTable::new(storage.clone(), TABLE, self.table_offset, entries, 8)?;
        // Guest bytes that a cluster of bits covers: more than any disk has, where it does not fit.
        let coverage = (cluster_size * 8).checked_shl(self.granularity_bits);
        let coverage = coverage.filter(|c| c >> self.granularity_bits == cluster_size * 8);
        let coverage = coverage.unwrap_or(u64::MAX);
        for index in 0..size.div_ceil(coverage) {
            if index >= entries {
                return Err(Error::malformed(TABLE, "is too short for the disk")
                    .at(self.table_offset)
                    .found(format!("{entries} entries")));
            }
            let start = index * coverage;
            let end = start.saturating_add(coverage).min(size);
            let entry = table.be64(index)?;
            match (entry & OFFSET_MASK, entry & 1 != 0) {
                (0, false) => {}
                (0, true) => visit(start..end),
                (offset, _) => self.bits(storage, offset, cluster_size, start..end, visit)?,
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
