//! Where the tables of an image stand, apart from L2 tables and refcount blocks: read once, before anything is counted.

use std::collections::{BTreeMap, HashMap};

use super::tally::{Kind, Tally};
use crate::driver::OpenContext;
use crate::error::{Error, Result};
use crate::qcow2::bitmaps::{Bitmap, Bitmaps};
use crate::qcow2::encryption::Encryption;
use crate::qcow2::extensions::Extensions;
use crate::qcow2::features::BITMAPS;
use crate::qcow2::header::{Header, L1_MAX_BYTES};
use crate::qcow2::snapshots::{Snapshot, Snapshots};
use crate::storage::Storage;

/// Bytes of areas standing on others that are counted: of a hostile image they could be any number.
const MOST_OVERLAPPING: u64 = 256 << 20;

/// An L1 table that is in the file, with nothing else in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct L1Table {
    /// File offset.
    pub offset: u64,
    /// Number of entries.
    pub entries: u64,
    /// How many states of the disk it is the table of.
    pub uses: u32,
    /// Whether one of them is the active one.
    pub is_active: bool,
}

/// The tables that others are found through.
#[derive(Debug, Default)]
pub struct Layout {
    /// What takes clusters by itself (header, tables, directories): offset and length, and how often it is named. All of
    /// it is in the file.
    pub areas: BTreeMap<(u64, u64), u64>,
    /// L1 tables, each once.
    pub l1_tables: Vec<L1Table>,
    /// Offset and number of entries of the tables of bitmaps.
    pub bitmap_tables: Vec<(u64, u64)>,
    /// Where in the list an L1 table of this offset and length is.
    known: HashMap<(u64, u64), usize>,
    /// First and last cluster of the areas that are followed.
    claimed: BTreeMap<u64, u64>,
    /// Bytes of areas that stand on others.
    overlapping: u64,
    cluster_bits: u32,
    file_len: u64,
}

impl Layout {
    /// Finds the tables and tells which ones cannot be followed.
    pub fn read(storage: &dyn Storage, header: &Header, tally: &mut Tally) -> Layout {
        let mut layout = Layout {
            cluster_bits: header.cluster_bits,
            file_len: storage.len(),
            ..Layout::default()
        };
        layout.claim("header", 0, header.cluster_size().min(storage.len()), tally);
        layout.add_l1("L1 table", header.l1_offset, header.l1_entries, tally);
        if let Some(active) = layout.l1_tables.first_mut() {
            active.is_active = true;
        }
        let (offset, len) = (header.refcount_table_offset, header.refcount_table_bytes());
        // A table that is not there is told by whoever reads it.
        if len > 0 && offset.saturating_add(len) <= storage.len() {
            layout.claim("refcount table", offset, len, tally);
        }
        layout.add_snapshots(storage, header, tally);
        match Extensions::read(storage, header) {
            Ok(extensions) => layout.add_extensions(storage, header, &extensions, tally),
            Err(error) => tally.note(Kind::Table, 1, error.offset().unwrap_or(0), || error),
        }
        layout
    }

    fn add_snapshots(&mut self, storage: &dyn Storage, header: &Header, tally: &mut Tally) {
        let mut table = match Snapshots::new(storage, header) {
            Ok(table) => table,
            Err(error) => {
                tally.note(Kind::Table, 1, header.snapshots_offset, || error);
                return;
            }
        };
        while let Some(snapshot) = table.next() {
            let at = header.snapshots_offset.saturating_add(table.bytes_read());
            match snapshot {
                Ok(snapshot) => {
                    if let Some(wrong) = wrong_in(&snapshot, header) {
                        tally.note(Kind::Table, 1, at, || {
                            Error::malformed("snapshot table", wrong)
                                .found(format!("{:?}, {:?}", snapshot.id, snapshot.name))
                        });
                    }
                    let (offset, entries) = (snapshot.l1_offset, snapshot.l1_entries);
                    self.add_l1("L1 table of a snapshot", offset, entries, tally);
                }
                Err(error) => tally.note(Kind::Table, 1, at, || error),
            }
        }
        let len = table.bytes_read();
        if len > 0 {
            // An entry is padded even where the file ends.
            let len = len.min(storage.len() - header.snapshots_offset);
            self.claim("snapshot table", header.snapshots_offset, len, tally);
        }
    }

    fn add_extensions(
        &mut self,
        storage: &dyn Storage,
        header: &Header,
        extensions: &Extensions,
        tally: &mut Tally,
    ) {
        if let Some((offset, len)) = extensions.encryption {
            self.claim("encryption header", offset, len, tally);
        }
        // Without the way to the keys their clusters look like leaks.
        let locked = OpenContext {
            locked: true,
            ..OpenContext::default()
        };
        if let Err(error) = Encryption::read(storage, header, extensions, &locked) {
            tally.note(Kind::Table, 1, error.offset().unwrap_or(32), || error);
        }
        // Bitmaps that do not fit to the data any more are nobody's: QEMU takes their clusters for leaks, too.
        if header.autoclear & BITMAPS == 0 {
            return;
        }
        let Some(directory) = extensions.bitmaps else {
            tally.note(Kind::Table, 1, 88, || {
                Error::malformed(
                    "header",
                    "says that its bitmaps can be used, but names none",
                )
            });
            return;
        };
        let found = Bitmaps::new(storage, directory, header.cluster_size()).and_then(|bitmaps| {
            self.claim("bitmap directory", directory.offset, directory.bytes, tally);
            bitmaps.collect::<Result<Vec<_>>>()
        });
        match found {
            Ok(bitmaps) => {
                for bitmap in bitmaps {
                    self.add_bitmap(header, &bitmap, tally);
                }
            }
            Err(error) => {
                let at = error.offset().unwrap_or(directory.offset);
                tally.note(Kind::Table, 1, at, || error);
            }
        }
    }

    fn add_bitmap(&mut self, header: &Header, bitmap: &Bitmap, tally: &mut Tally) {
        let (offset, entries) = (bitmap.table_offset, u64::from(bitmap.table_entries));
        if !bitmap.covers(header.size, header.cluster_size()) {
            tally.note(Kind::Table, 1, offset, || {
                Error::malformed("bitmap table", "is too short for the disk")
                    .found(format!("{entries} entries"))
            });
        }
        if self.claim("bitmap table", offset, entries * 8, tally) {
            self.bitmap_tables.push((offset, entries));
        }
    }

    fn add_l1(&mut self, name: &'static str, offset: u64, entries: u32, tally: &mut Tally) {
        let entries = u64::from(entries);
        if entries == 0 {
            return;
        }
        let known = self.known.get(&(offset, entries));
        if let Some(same) = known.and_then(|index| self.l1_tables.get_mut(*index)) {
            same.uses += 1;
            self.add_area(offset, entries * 8);
            return;
        }
        if entries > L1_MAX_BYTES / 8 || !offset.is_multiple_of(1 << self.cluster_bits) {
            tally.note(Kind::Table, 1, offset, || {
                Error::malformed(name, "is too large or does not start with a cluster")
                    .found(format!("{entries} entries"))
            });
            return;
        }
        if self.claim(name, offset, entries * 8, tally) {
            self.known.insert((offset, entries), self.l1_tables.len());
            self.l1_tables.push(L1Table {
                offset,
                entries,
                uses: 1,
                is_active: false,
            });
        }
    }

    /// Enters an area; `false` when it must not be followed, because it is not in the file or not alone in its place.
    fn claim(&mut self, name: &'static str, offset: u64, len: u64, tally: &mut Tally) -> bool {
        let end = offset.saturating_add(len);
        if end > self.file_len {
            tally.note(Kind::Table, 1, offset, || {
                Error::truncated(name, "runs past the end of the file")
                    .found(format!("{len} bytes"))
            });
            return false;
        }
        if len == 0 {
            return true;
        }
        let (first, last) = (offset >> self.cluster_bits, (end - 1) >> self.cluster_bits);
        let before = self.claimed.range(..=last).next_back();
        if before.is_some_and(|(_, known_last)| *known_last >= first) {
            tally.note(Kind::Table, 1, offset, || {
                Error::malformed(name, "stands on another table: it is not followed")
            });
            // The image is damaged beyond repair; what each cluster is used for need not be known to the last one.
            self.overlapping = self.overlapping.saturating_add(len);
            if self.overlapping <= MOST_OVERLAPPING {
                self.add_area(offset, len);
            }
            return false;
        }
        self.add_area(offset, len);
        self.claimed.insert(first, last);
        true
    }

    fn add_area(&mut self, offset: u64, len: u64) {
        *self.areas.entry((offset, len)).or_default() += 1;
    }
}

/// What makes an entry of the snapshot table one that cannot be meant so: a length that is off by a bit reads other
/// entries as names, and what they stand for would look like leaks.
fn wrong_in(snapshot: &Snapshot, header: &Header) -> Option<&'static str> {
    let of_snapshot = Header {
        size: snapshot.disk_size.unwrap_or(header.size),
        ..header.clone()
    };
    let has_nul = |text: &str| text.contains('\0');
    if header.version > 2 && snapshot.disk_size.is_none() {
        Some("an entry does not say the size of its disk")
    } else if u64::from(snapshot.l1_entries) < of_snapshot.l1_entries_needed() {
        Some("the L1 table of an entry is too short for its disk")
    } else if has_nul(&snapshot.id) || has_nul(&snapshot.name) {
        Some("an id or a name has zeros in it")
    } else {
        None
    }
}
