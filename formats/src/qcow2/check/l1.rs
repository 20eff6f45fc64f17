//! From L1 tables to L2 tables: each L2 table once, with the number of its uses.

use super::chunks::Chunks;
use super::layout::Layout;
use super::stored::Stored;
use super::tally::{Kind, Tally};
use crate::error::{Error, Result};
use crate::qcow2::header::Header;
use crate::qcow2::l1::{COPIED, OFFSET_MASK};

/// L2 tables that are known at a time: 16 MiB.
const KNOWN: usize = 1 << 20;

/// An L2 table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct L2Table {
    /// File offset, a multiple of the cluster size, inside the file.
    pub offset: u64,
    /// How often all L1 tables together name it.
    pub uses: u32,
    /// How often the active L1 table does.
    pub active: u32,
}

/// The L2 tables of a part of the file.
#[derive(Debug, Default)]
pub struct L2Tables {
    /// In order of their offsets, each once.
    pub list: Vec<L2Table>,
    /// Where the next part starts.
    pub next: Option<u64>,
}

/// Where an L1 entry leads, if to a place in a file of `file_len` bytes.
fn target(entry: u64, header: &Header, file_len: u64) -> Result<Option<u64>, &'static str> {
    let offset = entry & OFFSET_MASK;
    if offset == 0 && entry & COPIED != 0 {
        Err("has a COPIED flag, but leads nowhere")
    } else if offset == 0 {
        Ok(None)
    } else if !offset.is_multiple_of(header.cluster_size()) {
        Err("points into the middle of a cluster")
    } else if offset >= file_len {
        Err("points past the end of the file")
    } else {
        Ok(Some(offset))
    }
}

impl L2Tables {
    /// The L2 tables from file offset `from` on that L1 tables name.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn gather(
        layout: &Layout,
        header: &Header,
        from: u64,
        file_len: u64,
        chunks: &mut Chunks<'_>,
    ) -> Result<L2Tables> {
        let mut found = L2Tables::default();
        for l1 in &layout.l1_tables {
            chunks.entries(l1.offset, l1.entries, |_, entry| {
                if let Ok(Some(offset)) = target(entry, header, file_len)
                    && offset >= from
                {
                    found.push(L2Table {
                        offset,
                        uses: l1.uses,
                        active: l1.is_active.into(),
                    });
                }
                Ok(())
            })?;
        }
        found.sort();
        Ok(found)
    }

    fn push(&mut self, table: L2Table) {
        if self.next.is_some_and(|next| table.offset >= next) {
            return;
        }
        match self.list.last_mut() {
            Some(last) if last.offset == table.offset => last.join(&table),
            _ => self.list.push(table),
        }
        if self.list.len() >= KNOWN {
            self.sort();
            if self.list.len() > KNOWN / 2 {
                self.next = self.list.get(KNOWN / 2).map(|table| table.offset);
                self.list.truncate(KNOWN / 2);
            }
        }
    }

    fn sort(&mut self) {
        self.list.sort_unstable_by_key(|table| table.offset);
        self.list.dedup_by(|later, earlier| {
            let same = later.offset == earlier.offset;
            if same {
                earlier.join(later);
            }
            same
        });
    }
}

impl L2Table {
    fn join(&mut self, other: &L2Table) {
        self.uses = self.uses.saturating_add(other.uses);
        self.active = self.active.saturating_add(other.active);
    }
}

/// Tells what is wrong with L1 entries by themselves, and with the COPIED flags of the active table.
///
/// # Errors
/// Those of the storage.
pub fn check(
    layout: &Layout,
    header: &Header,
    file_len: u64,
    chunks: &mut Chunks<'_>,
    stored: &mut Stored<'_>,
    tally: &mut Tally,
) -> Result<()> {
    for l1 in &layout.l1_tables {
        chunks.entries(l1.offset, l1.entries, |at, entry| {
            let mut wrong = |kind, what| {
                tally.note(kind, l1.uses.into(), at, || {
                    Error::malformed("L1 entry", what).found(format!("{entry:#018x}"))
                });
            };
            if entry & !(OFFSET_MASK | COPIED) != 0 {
                wrong(Kind::Entry, "has reserved bits set");
            }
            match target(entry, header, file_len) {
                Ok(Some(offset)) if l1.is_active => {
                    let count = stored.count(offset >> header.cluster_bits)?;
                    if contradicts(entry, count) {
                        wrong(
                            Kind::Copied,
                            "has a COPIED flag that contradicts the refcount",
                        );
                    }
                }
                Ok(_) => {}
                Err(what) => wrong(Kind::Entry, what),
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Whether the COPIED flag of an L1 or L2 entry says something else than the refcount of its cluster, where that is
/// known.
pub fn contradicts(entry: u64, refcount: Option<u64>) -> bool {
    refcount.is_some_and(|count| (count == 1) != (entry & COPIED != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_l2_table_is_known_once_however_often_it_is_named() {
        let mut tables = L2Tables::default();
        for n in 0..3 * KNOWN as u64 {
            let table = |offset| L2Table {
                offset,
                uses: 2,
                active: 1,
            };
            tables.push(table(512 * (1 + n % 3)));
        }
        tables.sort();
        let uses: Vec<_> = tables.list.iter().map(|t| (t.offset, t.uses)).collect();
        let each = 2 * KNOWN as u32;
        assert_eq!(uses, [(512, each), (1024, each), (1536, each)]);
        assert_eq!(tables.next, None);
    }

    #[test]
    fn what_is_too_much_is_left_for_later() {
        let mut tables = L2Tables::default();
        for n in (0..KNOWN as u64 + 100).rev() {
            tables.push(L2Table {
                offset: n * 512,
                uses: 1,
                active: 0,
            });
        }
        tables.sort();
        let next = tables.next.unwrap();
        assert!(tables.list.iter().all(|table| table.offset < next));
        // None in front of the next part is missing.
        assert_eq!(tables.list.len() as u64, next / 512);
    }
}
