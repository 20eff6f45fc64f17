//! The master boot record: four partitions, and the chain of logical ones inside an extended one.

use formats::{BlockSource, Result};

use super::{Partition, bytes_at};

/// Bytes of the record that are looked at, whatever the sectors.
const LEN: u64 = 512;

/// Types of partitions that hold others.
const EXTENDED: [u8; 3] = [0x05, 0x0F, 0x85];

/// The type of the partition that covers a disk with a GPT.
const PROTECTIVE: u8 = 0xEE;

/// Logical partitions that are followed: more than any system numbers.
const MOST_LOGICAL: u32 = 256;

/// One of the four entries.
#[derive(Debug, Clone, Copy)]
struct Entry {
    kind: u8,
    start: u64,
    sectors: u64,
}

/// The partitions of the disk, in sectors of `sector` bytes; none where there is no such table.
pub fn partitions(source: &dyn BlockSource, sector: u64) -> Result<Vec<Partition>> {
    let Some(entries) = record(source, 0)? else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for (number, entry) in (1..).zip(&entries) {
        if entry.kind != 0 && entry.kind != PROTECTIVE && entry.sectors > 0 {
            found.push(partition(number, entry.start, entry.sectors, sector));
        }
    }
    let mut extended = entries.iter().filter(|e| EXTENDED.contains(&e.kind));
    if let Some(extended) = extended.next() {
        logical(source, extended.start, sector, &mut found)?;
    }
    Ok(found)
}

/// Follows the chain of records from sector `base` on. Each has a partition, relative to itself, and the next record,
/// relative to the first.
fn logical(
    source: &dyn BlockSource,
    base: u64,
    sector: u64,
    found: &mut Vec<Partition>,
) -> Result<()> {
    let mut at = base;
    for number in 5..5 + MOST_LOGICAL {
        let Some([inner, next, ..]) = record(source, at * sector)? else {
            return Ok(());
        };
        if inner.kind != 0 && inner.sectors > 0 {
            found.push(partition(number, at + inner.start, inner.sectors, sector));
        }
        // Records follow each other: one that leads back would lead round in circles.
        if !EXTENDED.contains(&next.kind) || base + next.start <= at {
            return Ok(());
        }
        at = base + next.start;
    }
    Ok(())
}

/// `start` and `sectors` are sums of few numbers of 32 bits, `sector` is at most 4096.
fn partition(number: u32, start: u64, sectors: u64, sector: u64) -> Partition {
    Partition {
        table: "MBR",
        number,
        bytes: start * sector..(start + sectors) * sector,
    }
}

/// The entries of the record at byte `offset`, if there is one.
fn record(source: &dyn BlockSource, offset: u64) -> Result<Option<[Entry; 4]>> {
    let Some(bytes) = bytes_at(source, offset, LEN)? else {
        return Ok(None);
    };
    if bytes.get(510..) != Some(&[0x55, 0xAA]) {
        return Ok(None);
    }
    let entries = bytes.get(446..510).unwrap_or_default();
    let (entries, _) = entries.as_chunks::<16>();
    // Boot sectors of file systems end like this too, and have code here.
    if entries.iter().any(|entry| !matches!(entry[0], 0 | 0x80)) {
        return Ok(None);
    }
    let entry = |index: usize| {
        let entry = entries.get(index).copied().unwrap_or_default();
        let [_, _, _, _, kind, _, _, _, a, b, c, d, e, f, g, h] = entry;
        Entry {
            kind,
            start: u32::from_le_bytes([a, b, c, d]).into(),
            sectors: u32::from_le_bytes([e, f, g, h]).into(),
        }
    };
    Ok(Some([0, 1, 2, 3].map(entry)))
}

/// The protective record in `sector`, for a disk of `sectors` sectors, if that is what it is.
pub fn protective(sector: &[u8], sectors: u64) -> Option<Vec<u8>> {
    let entries = sector.get(446..510)?;
    let mut kinds = entries.chunks(16).filter_map(|entry| entry.get(4));
    let is_protective = kinds.next() == Some(&PROTECTIVE) && kinds.all(|kind| *kind == 0);
    if !is_protective || sector.get(510..512) != Some(&[0x55, 0xAA]) {
        return None;
    }
    let count = u32::try_from(sectors.saturating_sub(1)).unwrap_or(u32::MAX);
    let mut changed = sector.to_vec();
    changed
        .get_mut(458..462)?
        .copy_from_slice(&count.to_le_bytes());
    (changed != sector).then_some(changed)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use formats::MemoryStorage;
    use formats::raw::RawSource;

    use super::*;

    fn put(disk: &mut [u8], record: usize, index: usize, kind: u8, start: u32, sectors: u32) {
        let at = record * 512 + 446 + index * 16;
        disk[at + 4] = kind;
        disk[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        disk[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
        disk[record * 512 + 510..][..2].copy_from_slice(&[0x55, 0xAA]);
    }

    fn found(disk: Vec<u8>) -> Vec<(u32, std::ops::Range<u64>)> {
        let source = RawSource::new(Arc::new(MemoryStorage::new(disk)));
        let all = partitions(&source, 512).unwrap().into_iter();
        all.map(|p| (p.number, p.bytes.start / 512..p.bytes.end / 512))
            .collect()
    }

    #[test]
    fn primary_and_logical_partitions_are_found() {
        let mut disk = vec![0; 100 * 512];
        put(&mut disk, 0, 0, 0x83, 1, 9);
        put(&mut disk, 0, 1, 0x0F, 20, 60);
        put(&mut disk, 20, 0, 0x83, 2, 8);
        put(&mut disk, 20, 1, 0x05, 10, 50);
        put(&mut disk, 30, 0, 0x07, 1, 30);
        let expected = [(1, 1..10), (2, 20..80), (5, 22..30), (6, 31..61)];
        assert_eq!(found(disk), expected);
    }

    #[test]
    fn chains_that_lead_back_end() {
        let mut disk = vec![0; 100 * 512];
        put(&mut disk, 0, 0, 0x05, 20, 60);
        put(&mut disk, 20, 0, 0x83, 2, 8);
        put(&mut disk, 20, 1, 0x05, 0, 50);
        assert_eq!(found(disk).len(), 2);
    }

    #[test]
    fn a_boot_sector_of_a_file_system_is_no_table() {
        let mut disk = vec![0x11; 512];
        disk[510..].copy_from_slice(&[0x55, 0xAA]);
        assert!(found(disk).is_empty());
        assert!(found(vec![0; 100]).is_empty());
    }
}
