//! An image that was put together: what stands where, spoiled as wanted, as a file.

use formats::StorageRef;

use super::super::written::SparseFile;
use super::super::{le32, le64, patch};
use super::{HEADERS, Item, KIB, LOG, MIB, REGIONS, guid};

/// An image, and where in it things stand.
#[derive(Debug, Clone)]
pub struct Built {
    /// All up to the first block.
    pub front: Vec<u8>,
    /// What stands behind it, piece by piece.
    pub blocks: Vec<(usize, Vec<u8>)>,
    /// Length of the file.
    pub len: usize,
    pub log: std::ops::Range<usize>,
    pub metadata: usize,
    pub bat: usize,
    /// Where the entry of each metadata item stands, and its data.
    pub items: Vec<(usize, usize)>,
}

impl Built {
    /// Overwrites what is at byte `at`: anything in front of the blocks.
    pub fn with(mut self, at: usize, bytes: &[u8]) -> Built {
        assert!(at + bytes.len() <= self.front.len());
        patch(&mut self.front, at, bytes);
        self
    }

    /// Overwrites the same place of both headers or both region tables.
    pub fn with_both(self, places: [usize; 2], at: usize, bytes: &[u8]) -> Built {
        self.with(places[0] + at, bytes).with(places[1] + at, bytes)
    }

    /// Makes the checksums of headers and region tables right; those of log entries stay.
    pub fn summed(mut self) -> Built {
        fix_fixed_part(&mut self.front);
        self
    }

    /// With another entry `index` of both region tables.
    pub fn with_region(self, index: usize, entry: &[u8]) -> Built {
        self.with_both(REGIONS, 16 + index * 32, entry).summed()
    }

    /// With another entry `index` of the BAT.
    pub fn with_bat(mut self, index: u64, entry: u64) -> Built {
        self.set_bat(index, entry);
        self
    }

    pub fn bat_entry(&self, index: u64) -> u64 {
        le64(&self.front, self.bat + index as usize * 8)
    }

    /// Cut off, or longer, at byte `len`.
    pub fn cut(mut self, len: usize) -> Built {
        self.len = len;
        self
    }

    pub fn set_bat(&mut self, index: u64, entry: u64) {
        let at = self.bat + index as usize * 8;
        patch(&mut self.front, at, &entry.to_le_bytes());
    }

    /// Room for `len` bytes at the end; where it starts.
    pub fn append(&mut self, len: usize) -> u64 {
        let at = self.len.next_multiple_of(MIB);
        self.len = at + len;
        at as u64
    }

    pub fn set_bit(&mut self, bitmap: usize, sector: u64) {
        let at = bitmap + (sector / 8) as usize;
        let bit = 1 << (sector % 8);
        match self.blocks.iter_mut().find(|(known, _)| *known == at) {
            Some((_, byte)) => byte[0] |= bit,
            None => self.blocks.push((at, vec![bit])),
        }
    }

    pub fn put_metadata(&mut self, items: &[Item]) {
        let mut table = b"metadata\0\0".to_vec();
        table.extend((items.len() as u16).to_le_bytes());
        table.resize(32, 0);
        let mut offset = 64 * KIB;
        for item in items {
            self.items
                .push((self.metadata + table.len(), self.metadata + offset));
            let place = if item.data.is_empty() { 0 } else { offset };
            table.extend(guid(item.guid));
            table.extend((place as u32).to_le_bytes());
            table.extend((item.data.len() as u32).to_le_bytes());
            table.extend(item.flags.to_le_bytes());
            table.extend([0; 4]);
            patch(&mut self.front, self.metadata + offset, &item.data);
            offset += item.data.len().next_multiple_of(64);
        }
        patch(&mut self.front, self.metadata, &table);
    }

    /// The file, with holes where there is nothing.
    pub fn file(&self) -> SparseFile {
        let mut file = SparseFile::default();
        for (at, page) in self.front.chunks(4096).enumerate() {
            let there = self.len.saturating_sub(at * 4096).min(page.len());
            if page[..there].iter().any(|byte| *byte != 0) {
                file.write(&page[..there], at as u64 * 4096);
            }
        }
        for (at, bytes) in &self.blocks {
            let there = self.len.saturating_sub(*at).min(bytes.len());
            if there > 0 {
                file.write(&bytes[..there], *at as u64);
            }
        }
        file.set_len(self.len as u64);
        file
    }

    /// The file as its bytes: for small ones.
    pub fn bytes(&self) -> Vec<u8> {
        self.file().to_bytes()
    }

    pub fn storage(&self) -> StorageRef {
        std::sync::Arc::new(self.file())
    }
}

/// Makes the checksums of headers and region tables right; answers where the log is.
fn fix_fixed_part(image: &mut [u8]) -> (usize, usize) {
    let (mut log, mut log_len) = (LOG, MIB);
    for at in HEADERS {
        if image
            .get(at..)
            .is_some_and(|rest| rest.starts_with(b"head"))
        {
            sum(image, at, 4096);
            (log, log_len) = (le64(image, at + 72) as usize, le32(image, at + 68) as usize);
        }
    }
    for at in REGIONS {
        if image
            .get(at..)
            .is_some_and(|rest| rest.starts_with(b"regi"))
        {
            sum(image, at, 64 * KIB);
        }
    }
    (log, log_len)
}

/// Makes all checksums right: of headers and region tables, and of the log entries that start on a sector of the log.
pub fn fix_checksums(image: &mut [u8]) {
    let (log, log_len) = fix_fixed_part(image);
    let Some(ring) = log
        .checked_add(log_len)
        .and_then(|end| image.get_mut(log..end))
    else {
        return;
    };
    for at in (0..ring.len()).step_by(4096) {
        let len = le32(ring, at + 8) as usize;
        if ring[at..].starts_with(b"loge") && len <= ring.len() {
            // It may wrap.
            ring.rotate_left(at);
            sum(ring, 0, len);
            ring.rotate_right(at);
        }
    }
}

/// Puts the CRC-32C of the `len` bytes at `at` into the field that all structures have at the same place.
fn sum(image: &mut [u8], at: usize, len: usize) {
    let end = at.saturating_add(len);
    if let Some(bytes) = image.get_mut(at..end).filter(|bytes| bytes.len() >= 8) {
        bytes[4..8].fill(0);
        let sum = crc32c::crc32c(bytes);
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
    }
}
