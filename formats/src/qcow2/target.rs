//! Lays out a new image: header, L1 table, then L2 tables and data clusters as they come, the refcounts at the end.

use std::borrow::Cow;
use std::ops::Range;

use super::extensions;
use super::header::{
    CLUSTER_BITS, FULL_LENGTH, Header, L1_MAX_BYTES, REFCOUNT_ORDER, REFCOUNT_TABLE_MAX_BYTES,
};
use super::l1::COPIED;
use super::refcount::RefcountLayout;
use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::options::{OptionSpec, Options, bad_value};
use crate::storage::WritableStorage;
use crate::target::{BlockTarget, Identity, Placement, Summary, TableWrite};

/// QEMU drops a partial sector at the end of a disk, so that a new image never has one.
const SECTOR: u64 = 512;
/// Bytes of an L1 or L2 entry.
const ENTRY: u64 = 8;
/// Bits 9 to 55 of an entry hold the offset: no cluster stands behind it.
const FILE_MAX: u64 = 1 << 56;
/// Bytes of the L1 table that are written at once, if any of them is not zero.
const L1_CHUNK: usize = 8192;

/// The options of a new image.
pub const OPTIONS: &[OptionSpec] = &[OptionSpec {
    key: "cluster_size",
    values: "512..2M, a power of two",
    default: "64k",
    help: "unit in which the image allocates",
}];

/// An image that is being written: version 3, uncompressed, without backing file.
pub struct QcowTarget {
    size: u64,
    cluster_bits: u32,
    /// Next free cluster of the file.
    next: u64,
    l1: Vec<u64>,
    /// The L2 table of the range that the guest offset is in.
    l2: Option<OpenL2>,
    ready: Vec<TableWrite>,
}

/// An L2 table that is being filled.
struct OpenL2 {
    /// Its L1 entry.
    index: u64,
    /// File offset of the table.
    offset: u64,
    entries: Vec<u64>,
}

impl QcowTarget {
    /// The layout for a disk of `size` bytes.
    ///
    /// # Errors
    /// `Usage` for an impossible cluster size, `Limit` when tables of the allowed size cannot hold the disk.
    pub fn new(size: u64, options: &Options) -> Result<QcowTarget> {
        let cluster_size = options.size("cluster_size", 64 << 10)?;
        let cluster_bits = cluster_size.trailing_zeros();
        if !cluster_size.is_power_of_two() || !CLUSTER_BITS.contains(&cluster_bits) {
            let found = options.get("cluster_size").unwrap_or_default();
            let expected = "a power of two from 512 to 2M";
            return Err(bad_value("cluster_size", found, expected));
        }
        let size = size
            .checked_next_multiple_of(SECTOR)
            .ok_or_else(|| too_large(size, cluster_size))?;
        let l1_entries = check_limits(size, cluster_size)?;
        let l1_clusters = (l1_entries * ENTRY).div_ceil(cluster_size);
        Ok(QcowTarget {
            size,
            cluster_bits,
            next: 1 + l1_clusters,
            l1: vec![0; l1_entries as usize],
            l2: None,
            ready: Vec::new(),
        })
    }

    fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    fn l2_entries(&self) -> u64 {
        self.cluster_size() / ENTRY
    }

    /// Takes the next free cluster of the file; its offset.
    fn allocate(&mut self) -> u64 {
        let offset = self.next << self.cluster_bits;
        self.next += 1;
        offset
    }

    /// Hands out the L2 table that is being filled.
    fn close_l2(&mut self) {
        if let Some(l2) = self.l2.take() {
            self.ready.push(TableWrite {
                offset: l2.offset,
                bytes: Cow::Owned(entries_to_bytes(&l2.entries)),
            });
        }
    }

    /// The L2 table of L1 entry `index`, which is made when there is none.
    fn open_l2(&mut self, index: u64) -> Result<OpenL2> {
        match self.l2.take() {
            Some(l2) if l2.index == index => return Ok(l2),
            other => self.l2 = other,
        }
        self.close_l2();
        let offset = self.allocate();
        match self.l1.get_mut(index as usize) {
            Some(entry) if *entry == 0 => *entry = offset | COPIED,
            _ => return Err(out_of_order(index)),
        }
        Ok(OpenL2 {
            index,
            offset,
            entries: vec![0; self.l2_entries() as usize],
        })
    }

    fn header(&self, refcounts: &RefcountLayout) -> Header {
        Header {
            version: 3,
            backing_name: None,
            cluster_bits: self.cluster_bits,
            size: self.size,
            l1_entries: self.l1.len() as u32,
            l1_offset: self.cluster_size(),
            refcount_table_offset: refcounts.table_offset(),
            refcount_table_clusters: refcounts.table_clusters as u32,
            snapshots: 0,
            incompatible: 0,
            compatible: 0,
            autoclear: 0,
            refcount_order: REFCOUNT_ORDER,
            header_length: FULL_LENGTH as u32,
            codec: Codec::Deflate,
        }
    }

    fn write_l1(&self, out: &dyn WritableStorage) -> Result<()> {
        let mut offset = self.cluster_size();
        for chunk in self.l1.chunks(L1_CHUNK) {
            if chunk.iter().any(|entry| *entry != 0) {
                out.write_at(&entries_to_bytes(chunk), offset)?;
            }
            offset += chunk.len() as u64 * ENTRY;
        }
        Ok(())
    }
}

impl BlockTarget for QcowTarget {
    fn size(&self) -> u64 {
        self.size
    }

    fn block_size(&self) -> u64 {
        self.cluster_size()
    }

    fn is_sequential(&self) -> bool {
        false
    }

    fn place(&mut self, guest_offset: u64, len: u64) -> Result<Placement> {
        let end = guest_offset.saturating_add(len);
        if len == 0 || end > self.size {
            return Err(Error::limit("qcow2", "the disk has no such place")
                .at(guest_offset)
                .found(format!("{len} bytes"))
                .expected(format!("a disk of {} bytes", self.size)));
        }
        let cluster_size = self.cluster_size();
        let index = guest_offset >> self.cluster_bits;
        let mut l2 = self.open_l2(index / self.l2_entries())?;
        let last = (end - 1) >> self.cluster_bits;
        let first_entry = (index % self.l2_entries()) as usize;
        let wanted = (last - index + 1) as usize;
        // Clusters in a row, as long as this L2 table maps them.
        let mut hosts = 0;
        let mut first_host = 0;
        for entry in l2.entries.iter_mut().skip(first_entry).take(wanted) {
            let expected = first_host + hosts * cluster_size;
            if *entry == 0 {
                let free = self.next << self.cluster_bits;
                if hosts > 0 && free != expected {
                    break;
                }
                *entry = self.allocate() | COPIED;
            }
            let host = *entry & !COPIED;
            if hosts == 0 {
                first_host = host;
            } else if host != expected {
                break;
            }
            hosts += 1;
        }
        self.l2 = Some(l2);
        let within = guest_offset % cluster_size;
        Ok(Placement {
            offset: first_host + within,
            len: len.min(hosts * cluster_size - within),
        })
    }

    /// Nothing is below a new image: what is not allocated reads as zeros.
    fn zero(&mut self, _guest_offset: u64, _len: u64) -> Result<Option<Range<u64>>> {
        Ok(None)
    }

    fn take_tables(&mut self) -> Vec<TableWrite> {
        std::mem::take(&mut self.ready)
    }

    fn finish(mut self: Box<Self>, _: &Identity, out: &dyn WritableStorage) -> Result<Summary> {
        self.close_l2();
        for table in &self.ready {
            out.write_at(&table.bytes, table.offset)?;
        }
        let refcounts = RefcountLayout::new(self.next, self.cluster_size());
        refcounts.write(out)?;
        self.write_l1(out)?;
        let file_size = refcounts.total() << self.cluster_bits;
        out.set_len(file_size)?;
        // Last: without it nobody takes the file for an image.
        let mut header = self.header(&refcounts).to_bytes().to_vec();
        header.extend(extensions::for_new_image());
        out.write_at(&header, 0)?;
        Ok(Summary { file_size })
    }
}

/// L1 entries of a disk of `size` bytes, if its tables stay within the limits even when every cluster is used.
fn check_limits(size: u64, cluster_size: u64) -> Result<u64> {
    let l1_entries = size.div_ceil(cluster_size * (cluster_size / ENTRY));
    if l1_entries > L1_MAX_BYTES / ENTRY || size > FILE_MAX {
        return Err(too_large(size, cluster_size));
    }
    let l1_clusters = (l1_entries * ENTRY).div_ceil(cluster_size);
    let used = 1 + l1_clusters + l1_entries + size.div_ceil(cluster_size);
    let refcounts = RefcountLayout::new(used, cluster_size);
    if refcounts.table_clusters * cluster_size > REFCOUNT_TABLE_MAX_BYTES
        || refcounts.total() > FILE_MAX / cluster_size
    {
        return Err(too_large(size, cluster_size));
    }
    Ok(l1_entries)
}

fn too_large(size: u64, cluster_size: u64) -> Error {
    Error::limit("qcow2", "the disk is too large for this cluster size")
        .found(format!("{size} bytes in clusters of {cluster_size} bytes"))
        .hint("choose a larger one, for example -o cluster_size=2M")
}

fn out_of_order(index: u64) -> Error {
    Error::malformed("qcow2", "a block was placed behind its turn")
        .found(format!("L1 entry {index}"))
        .expected("ascending offsets")
}

fn entries_to_bytes(entries: &[u64]) -> Vec<u8> {
    entries.iter().flat_map(|e| e.to_be_bytes()).collect()
}
