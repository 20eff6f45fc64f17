//! Partition tables: where partitions lie, and what the tables count in.
//!
//! | file | what it reads |
//! |---|---|
//! | `gpt.rs` | the GUID partition table, both copies |
//! | `mbr.rs` | the master boot record, and the chain of logical partitions |
//!
//! A table counts in sectors of the size that it was made for. On a disk with other sectors nobody finds the partitions.

pub mod gpt;
mod mbr;

use std::fmt;
use std::ops::Range;

use formats::reader::read_guest;
use formats::{BlockSource, BlockTarget, Result};

use self::gpt::Gpt;

/// Sizes of logical sectors that disks have, in bytes.
const SECTOR_SIZES: [u32; 2] = [512, 4096];

/// What stands at the front of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Table {
    /// A GUID partition table, in sectors of this size (UEFI specification, 5.3).
    Gpt(u32),
    /// A master boot record with partitions. It does not say what it counts in.
    Mbr,
}

/// A partition that a table names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// The table, and the number that the operating system gives it.
    pub table: &'static str,
    /// Its number, from 1.
    pub number: u32,
    /// Where it lies, in bytes.
    pub bytes: Range<u64>,
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Range { start, end } = self.bytes;
        let (table, number) = (self.table, self.number);
        write!(
            f,
            "partition {number} of the {table}, bytes {start} to {end}"
        )
    }
}

/// What the tables at the front of a disk say.
#[derive(Debug, Clone, Default)]
pub struct Partitions {
    /// The GUID partition table.
    pub gpt: Option<Gpt>,
    /// All partitions of both tables; the one that only protects a GPT is none.
    pub all: Vec<Partition>,
}

impl Partitions {
    /// Reads the tables of `source`.
    ///
    /// # Errors
    /// Those of reading the disk. A table that makes no sense is none.
    pub fn read(source: &dyn BlockSource) -> Result<Partitions> {
        let mut gpt = None;
        for size in SECTOR_SIZES {
            if gpt.is_none() {
                gpt = Gpt::read(source, size.into())?;
            }
        }
        let mut all = mbr::partitions(source, source.sector_size().into())?;
        if let Some(gpt) = &gpt {
            all.extend(gpt.partitions());
        }
        Ok(Partitions { gpt, all })
    }
}

/// `len` bytes of `source` at `offset`, if it has them.
fn bytes_at(source: &dyn BlockSource, offset: u64, len: u64) -> Result<Option<Vec<u8>>> {
    if offset
        .checked_add(len)
        .is_none_or(|end| end > source.size())
    {
        return Ok(None);
    }
    let mut bytes = vec![0; len as usize];
    read_guest(source, offset, &mut bytes)?;
    Ok(Some(bytes))
}

/// What the user should know when the disk gets other sectors than it had.
///
/// # Errors
/// Those of reading the front of the disk.
pub fn sector_notes(source: &dyn BlockSource, target: &dyn BlockTarget) -> Result<Vec<String>> {
    let before = source.sector_size();
    let Some(after) = target.sector_size().filter(|after| *after != before) else {
        // A raw disk has the sectors that it is attached with.
        let is_unsaid = target.sector_size().is_none() && before != 512;
        return Ok(is_unsaid
            .then(|| format!("the disk has sectors of {before} bytes: the target does not say so, attach it with them"))
            .into_iter()
            .collect());
    };
    let mut notes = vec![format!(
        "the disk has sectors of {before} bytes, and sectors of {after} bytes in the target"
    )];
    let counted = match find(source)? {
        Some(Table::Gpt(size)) if size == after => None,
        Some(Table::Gpt(size)) => Some(format!("its GPT counts in sectors of {size} bytes")),
        Some(Table::Mbr) => Some(format!(
            "its MBR probably counts in sectors of {before} bytes"
        )),
        None => None,
    };
    notes.extend(counted.map(|counted| {
        format!(
            "{counted}: a guest will not find the partitions, and will not start from this copy"
        )
    }));
    Ok(notes)
}

fn find(source: &dyn BlockSource) -> Result<Option<Table>> {
    let mut front = vec![0; source.size().min(8192) as usize];
    read_guest(source, 0, &mut front)?;
    let gpt = SECTOR_SIZES.into_iter().find(|size| {
        front
            .get(*size as usize..)
            .is_some_and(|at| at.starts_with(b"EFI PART"))
    });
    // Four entries of 16 bytes; the fifth byte is the type of the partition.
    let is_mbr = front.get(510..512) == Some(&[0x55, 0xAA])
        && (0..4).any(|entry| {
            front
                .get(446 + 16 * entry + 4)
                .is_some_and(|kind| *kind != 0)
        });
    Ok(gpt.map(Table::Gpt).or(is_mbr.then_some(Table::Mbr)))
}
