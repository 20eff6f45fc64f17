//! Lays out a new image: header, L1 table, then L2 tables and data clusters as they come, the refcounts at the end.

use std::borrow::Cow;
use std::ffi::OsString;
use std::ops::Range;
use std::sync::Arc;

use super::extensions;
use super::header::{FULL_LENGTH, Header, L1_MAX_BYTES, REFCOUNT_TABLE_MAX_BYTES};
use super::l1::COPIED;
use super::l2::{self, SUBCLUSTERS};
use super::new_image::NewImage;
use super::packed_space::PackedSpace;
use super::packer::ClusterPacker;
use super::refcount::RefcountLayout;
use crate::driver::Format;
use crate::error::{Error, Result};
use crate::options::Options;
use crate::storage::WritableStorage;
use crate::target::{
    BlockTarget, Form, Identity, PART, Packer, Placement, Preallocation, Summary, TableWrite,
};

/// QEMU drops a partial sector at the end of a disk, so that a new image never has one.
const SECTOR: u64 = 512;
/// Bytes of an L1 or L2 entry.
const ENTRY: u64 = 8;
/// Bits 9 to 55 of an entry hold the offset: no cluster stands behind it.
const FILE_MAX: u64 = 1 << 56;
/// Bytes of the L1 table that are written at once, if any of them is not zero.
const L1_CHUNK: usize = 8192;

/// An image that is being written.
pub struct QcowTarget {
    image: NewImage,
    size: u64,
    cluster_bits: u32,
    /// Next free cluster of the file, unless `packed` says it.
    next: u64,
    /// The clusters of the file, where several compressed ones share one.
    packed: Option<PackedSpace>,
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
    /// Which subclusters of each are allocated (lower half) or zeros, in images that have them.
    allocated: Option<Vec<u64>>,
}

impl OpenL2 {
    fn to_bytes(&self) -> Vec<u8> {
        match &self.allocated {
            None => entries_to_bytes(&self.entries),
            Some(allocated) => {
                let words = self.entries.iter().zip(allocated);
                let words = words.flat_map(|(entry, bits)| [*entry, *bits]);
                entries_to_bytes(&words.collect::<Vec<_>>())
            }
        }
    }
}

impl QcowTarget {
    /// The layout for a disk of `size` bytes.
    ///
    /// # Errors
    /// `Usage` for an impossible cluster size, `Limit` when tables of the allowed size cannot hold the disk.
    pub fn new(size: u64, options: &Options) -> Result<QcowTarget> {
        let image = NewImage::new(options)?;
        let cluster_size = image.cluster_size();
        let size = size
            .checked_next_multiple_of(SECTOR)
            .ok_or_else(|| too_large(size, cluster_size))?;
        let l1_entries = check_limits(size, &image)?;
        let l1_clusters = (l1_entries * ENTRY).div_ceil(cluster_size);
        let used = 1 + l1_clusters;
        Ok(QcowTarget {
            size,
            cluster_bits: image.cluster_bits,
            next: used,
            packed: image
                .compress
                .then(|| PackedSpace::new(cluster_size, image.refcount_order, used)),
            image,
            l1: vec![0; l1_entries as usize],
            l2: None,
            ready: Vec::new(),
        })
    }

    fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    fn l2_entries(&self) -> u64 {
        self.cluster_size() / self.image.l2_entry_size()
    }

    /// Takes the next free cluster of the file; its offset.
    fn allocate(&mut self) -> u64 {
        let cluster = match &mut self.packed {
            Some(space) => space.allocate(),
            None => self.next,
        };
        self.next = cluster + 1;
        cluster << self.cluster_bits
    }

    /// Hands out the L2 table that is being filled.
    fn close_l2(&mut self) {
        if let Some(l2) = self.l2.take() {
            self.ready.push(TableWrite {
                offset: l2.offset,
                bytes: Cow::Owned(l2.to_bytes()),
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
            allocated: self
                .image
                .extended_l2
                .then(|| vec![0; self.l2_entries() as usize]),
        })
    }

    /// Says that all clusters of the `len` bytes at `guest_offset` are zeros, whatever stands below.
    fn say_zero(&mut self, guest_offset: u64, len: u64) -> Result<()> {
        let per_table = self.l2_entries();
        let end = guest_offset
            .saturating_add(len)
            .div_ceil(self.cluster_size());
        for cluster in guest_offset >> self.cluster_bits..end {
            let mut l2 = self.open_l2(cluster / per_table)?;
            let index = (cluster % per_table) as usize;
            if l2.allocated.is_none()
                && let Some(entry) = l2.entries.get_mut(index)
            {
                *entry = l2::ZERO;
            }
            if let Some(allocated) = &mut l2.allocated
                && let Some(bits) = allocated.get_mut(index)
            {
                // The upper half of the second word: every subcluster is zeros.
                *bits = u64::from(u32::MAX) << 32;
            }
            self.l2 = Some(l2);
        }
        Ok(())
    }

    fn header(&self, refcounts: &RefcountLayout) -> Header {
        Header {
            version: self.image.version,
            backing_name: None,
            cluster_bits: self.cluster_bits,
            size: self.size,
            encrypted: false,
            l1_entries: self.l1.len() as u32,
            l1_offset: self.cluster_size(),
            refcount_table_offset: refcounts.table_offset(),
            refcount_table_clusters: refcounts.table_clusters as u32,
            snapshots: 0,
            snapshots_offset: 0,
            incompatible: self.image.incompatible(),
            compatible: self.image.compatible(),
            autoclear: self.image.autoclear(),
            refcount_order: self.image.refcount_order,
            header_length: FULL_LENGTH as u32,
            codec: self.image.codec,
        }
    }

    /// Header, extensions, and the name of the image below.
    fn first_cluster(&self, refcounts: &RefcountLayout) -> Result<Vec<u8>> {
        let mut header = self.header(refcounts);
        let backing = self.image.backing.as_ref();
        let format = backing.map(|backing| match backing.format {
            Format::Vhd => "vpc",
            other => other.name(),
        });
        let name = backing.map_or("", |backing| &backing.name);
        let cluster_size = self.cluster_size() as usize;
        let start = header.to_bytes().len();
        // Version 2 has extensions, too.
        let room = cluster_size.saturating_sub(start + name.len());
        let data_file = self.image.data_file.as_deref();
        let extensions = match (self.image.version, backing) {
            (2, None) => Vec::new(),
            (2, Some(_)) => extensions::for_new_image(format, None, 0),
            _ => extensions::for_new_image(format, data_file, room),
        };
        let at = start + extensions.len();
        if backing.is_some() {
            if name.is_empty() || name.len() > 1023 || at + name.len() > cluster_size {
                return Err(
                    Error::limit("backing file name", "does not fit into the header")
                        .found(format!("{} bytes", name.len())),
                );
            }
            header.backing_name = Some((at as u64, name.len() as u32));
        }
        let mut bytes = header.to_bytes();
        bytes.extend(extensions);
        bytes.extend(name.as_bytes());
        Ok(bytes)
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
        // Over another image no cluster is allocated in part.
        if self.image.extended_l2 && self.image.backing.is_none() {
            self.cluster_size() / u64::from(SUBCLUSTERS)
        } else {
            self.cluster_size()
        }
    }

    fn further_parts(&self) -> Vec<OsString> {
        self.image.data_file.iter().map(OsString::from).collect()
    }

    /// A relative data file is looked for in another place by QEMU.
    fn notes(&self) -> Vec<String> {
        let names = self.image.data_file.iter();
        names
            .map(|name| {
                format!(
                    "the image names its data file {name:?} without a folder: QEMU looks for it in its working \
                     directory, so start it there, or give it the node 'data-file'"
                )
            })
            .collect()
    }

    fn preallocation(&self) -> Preallocation {
        self.image.preallocation
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
        let per_table = self.l2_entries();
        let mut l2 = self.open_l2(index / per_table)?;
        let last = (end - 1) >> self.cluster_bits;
        let first_entry = (index % self.l2_entries()) as usize;
        let wanted = (last - index + 1) as usize;
        // Clusters in a row, as long as this L2 table maps them.
        let mut hosts = 0;
        let mut first_host = 0;
        for entry in l2.entries.iter_mut().skip(first_entry).take(wanted) {
            let expected = first_host + hosts * cluster_size;
            if *entry == 0 {
                let free = match self.image.data_file {
                    // In a data file each cluster stands where it stands on the disk.
                    Some(_) => (index + hosts) << self.cluster_bits,
                    None => self.next << self.cluster_bits,
                };
                if hosts > 0 && free != expected {
                    break;
                }
                if self.image.data_file.is_none() {
                    self.allocate();
                }
                *entry = free | COPIED;
            }
            let host = *entry & !COPIED;
            if hosts == 0 {
                first_host = host;
            } else if host != expected {
                break;
            }
            hosts += 1;
        }
        let within = guest_offset % cluster_size;
        let len = len.min(hosts * cluster_size - within);
        if let Some(allocated) = &mut l2.allocated {
            let sub_size = cluster_size / u64::from(SUBCLUSTERS);
            let (first, last) = (guest_offset / sub_size, (guest_offset + len - 1) / sub_size);
            for sub in first..=last {
                let cluster = sub / u64::from(SUBCLUSTERS) % per_table;
                if let Some(bits) = allocated.get_mut(cluster as usize) {
                    *bits |= 1 << (sub % u64::from(SUBCLUSTERS));
                }
            }
        }
        self.l2 = Some(l2);
        let part = match self.image.data_file {
            Some(_) => PART,
            None => 0,
        };
        Ok(Placement {
            offset: part + first_host + within,
            len,
        })
    }

    fn packer(&self) -> Option<Arc<dyn Packer>> {
        self.image.compress.then(|| {
            Arc::new(ClusterPacker {
                cluster_size: self.cluster_size() as u32,
                codec: self.image.codec,
                level: self.image.level,
            }) as Arc<dyn Packer>
        })
    }

    fn place_packed(&mut self, guest_offset: u64, len: u64, form: Form) -> Result<u64> {
        if form == Form::Plain {
            return Ok(self
                .place(guest_offset, len.min(self.size - guest_offset))?
                .offset);
        }
        let index = guest_offset >> self.cluster_bits;
        let mut l2 = self.open_l2(index / self.l2_entries())?;
        let space = self.packed.as_mut().ok_or_else(|| out_of_order(index))?;
        let offset = space.place(len);
        self.next = space.used();
        let entry = l2.entries.get_mut((index % self.l2_entries()) as usize);
        if let Some(entry) = entry {
            *entry = l2::compressed_entry(self.cluster_bits, offset, len);
        }
        self.l2 = Some(l2);
        Ok(offset)
    }

    fn says_zeros(&self) -> bool {
        self.image.version >= 3
    }

    /// Where nothing is below, what is not allocated reads as zeros, and so does what is and was not written.
    fn zero(&mut self, guest_offset: u64, len: u64) -> Result<Option<Range<u64>>> {
        if self.image.backing.is_some() {
            self.say_zero(guest_offset, len)?;
            return Ok(None);
        }
        if self.image.preallocation == Preallocation::Off {
            return Ok(None);
        }
        let (mut at, end) = (guest_offset, guest_offset.saturating_add(len));
        while at < end {
            at += self.place(at, end - at)?.len;
        }
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
        let (used, counts) = match &self.packed {
            Some(space) => (space.used(), space.counts()),
            None => (self.next, &[][..]),
        };
        let order = self.image.refcount_order;
        let refcounts = RefcountLayout::new(used, self.cluster_size(), order);
        refcounts.write(counts, out)?;
        self.write_l1(out)?;
        let image_size = refcounts.total() << self.cluster_bits;
        out.set_len(image_size)?;
        let mut file_size = image_size;
        if self.image.data_file.is_some() {
            out.set_len(PART + self.size)?;
            file_size += self.size;
        }
        // Last: without it nobody takes the file for an image.
        out.write_at(&self.first_cluster(&refcounts)?, 0)?;
        Ok(Summary { file_size })
    }
}

/// L1 entries of a disk of `size` bytes, if its tables stay within the limits even when every cluster is used.
fn check_limits(size: u64, image: &NewImage) -> Result<u64> {
    let cluster_size = image.cluster_size();
    let l1_entries = size.div_ceil(cluster_size * (cluster_size / image.l2_entry_size()));
    if l1_entries > L1_MAX_BYTES / ENTRY || size > FILE_MAX {
        return Err(too_large(size, cluster_size));
    }
    let l1_clusters = (l1_entries * ENTRY).div_ceil(cluster_size);
    let used = 1 + l1_clusters + l1_entries + size.div_ceil(cluster_size);
    let refcounts = RefcountLayout::new(used, cluster_size, image.refcount_order);
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
