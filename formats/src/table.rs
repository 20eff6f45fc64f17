//! Big tables of an image (BAT, L1, L2), read page by page and kept in a small cache.
//!
//! The only way tables are read: a table is checked against the length of the file before anything is allocated, and
//! the memory it takes does not depend on how large it claims to be.

use std::sync::{Arc, Mutex};

use crate::error::{Error, Result};
use crate::storage::StorageRef;

/// Bytes of one page.
const PAGE: u64 = 64 << 10;

/// Pages kept in memory for one table: 256 KiB. Conversions go through a disk in order, so that few are enough.
const PAGES_KEPT: usize = 4;

/// A table in an image, read by pages.
#[derive(Debug)]
pub struct PagedTable {
    storage: StorageRef,
    name: &'static str,
    offset: u64,
    len: u64,
    /// Most recently used last.
    cache: Mutex<Vec<(u64, Arc<[u8]>)>>,
}

impl PagedTable {
    /// The table called `name` of `entries` entries of `entry_size` bytes each at `offset`.
    ///
    /// # Errors
    /// `Truncated` when it does not lie inside the file.
    pub fn new(
        storage: StorageRef,
        name: &'static str,
        offset: u64,
        entries: u64,
        entry_size: u64,
    ) -> Result<PagedTable> {
        let len = entries.checked_mul(entry_size);
        let end = len.and_then(|len| offset.checked_add(len));
        match (len, end) {
            (Some(len), Some(end)) if end <= storage.len() => Ok(PagedTable {
                storage,
                name,
                offset,
                len,
                cache: Mutex::new(Vec::new()),
            }),
            _ => Err(Error::truncated(name, "does not fit into the file")
                .at(offset)
                .found(format!(
                    "{entries} entries in a file of {} bytes",
                    storage.len()
                ))
                .hint("the image is cut off or its header is damaged")
                .in_file(storage.path())),
        }
    }

    /// The `N` bytes of the table from byte `at` on.
    ///
    /// # Errors
    /// `Malformed` past the end of the table, and those of the storage. `N` must divide the page size.
    pub fn bytes<const N: usize>(&self, at: u64) -> Result<[u8; N]> {
        let page_index = at / PAGE;
        let page = self.page(page_index)?;
        let within = (at % PAGE) as usize;
        page.get(within..within + N)
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| {
                Error::malformed(self.name, "has no such entry")
                    .at(self.offset.saturating_add(at))
                    .in_file(self.storage.path())
            })
    }

    /// Entry `index` of a table of big-endian 32-bit entries.
    ///
    /// # Errors
    /// As [`PagedTable::bytes`].
    pub fn be32(&self, index: u64) -> Result<u32> {
        Ok(u32::from_be_bytes(self.bytes(index.saturating_mul(4))?))
    }

    /// Entry `index` of a table of big-endian 64-bit entries.
    ///
    /// # Errors
    /// As [`PagedTable::bytes`].
    pub fn be64(&self, index: u64) -> Result<u64> {
        Ok(u64::from_be_bytes(self.bytes(index.saturating_mul(8))?))
    }

    fn page(&self, index: u64) -> Result<Arc<[u8]>> {
        let mut cache = self.cache.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(known) = cache.iter().rposition(|(i, _)| *i == index) {
            let entry = cache.remove(known);
            let page = entry.1.clone();
            cache.push(entry);
            return Ok(page);
        }
        let start = index.saturating_mul(PAGE);
        let len = self.len.saturating_sub(start).min(PAGE);
        let mut bytes = vec![0; len as usize];
        if len > 0 {
            // Inside the file: checked when the table was opened.
            self.storage.read_at(&mut bytes, self.offset + start)?;
        }
        let page: Arc<[u8]> = bytes.into();
        if cache.len() >= PAGES_KEPT {
            cache.remove(0);
        }
        cache.push((index, page.clone()));
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::storage::MemoryStorage;

    #[test]
    fn entries_are_read_across_pages() {
        let bytes: Vec<u8> = (0..100_000u32).flat_map(u32::to_be_bytes).collect();
        let storage: StorageRef = Arc::new(MemoryStorage::new(bytes));
        let table = PagedTable::new(storage, "BAT", 4, 99_999, 4).unwrap();
        for index in [0, 16_383, 16_384, 99_998, 5] {
            assert_eq!(table.be32(index).unwrap(), index as u32 + 1);
        }
        assert!(table.be32(99_999).is_err());
        assert!(table.be32(u64::MAX).is_err());
    }

    #[test]
    fn a_table_that_claims_more_than_the_file_is_truncated() {
        let storage: StorageRef = Arc::new(MemoryStorage::new(vec![0; 100]));
        for (offset, entries) in [(0, 26), (97, 1), (u64::MAX, 1), (0, u64::MAX)] {
            let error = PagedTable::new(storage.clone(), "BAT", offset, entries, 4).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Truncated);
        }
    }
}
