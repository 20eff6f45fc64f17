//! What only looking at all of a sparse extent shows: tables against markers, and both directories against each other.

use super::SECTOR;
use super::descriptor::Descriptor;
use super::directory::{Directory, TablePlace};
use super::extent_line::ExtentType;
use super::extents::open_file;
use super::header::SparseHeader;
use super::hosted::{self, Tables};
use super::layer::{Kind, descriptor_text};
use super::marker::{GRAIN_MARKER, Marker};
use crate::driver::{Finding, OpenContext};
use crate::error::{Error, Result};
use crate::findings::Findings;
use crate::overlap::Areas;
use crate::storage::{Storage, StorageRef, read_array};

/// Checks the sparse extents of the VMDK in `storage`.
///
/// # Errors
/// What keeps an extent from being looked at.
pub fn check(storage: &StorageRef, context: &OpenContext) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    match Kind::read(storage.as_ref())? {
        Kind::Hosted => check_extent(storage, context, &mut findings)?,
        Kind::Descriptor => {
            let descriptor = Descriptor::parse(&descriptor_text(storage.as_ref())?)?;
            for line in &descriptor.extents {
                if let (ExtentType::Sparse, Some(file)) = (line.kind, &line.file) {
                    let extent = open_file(storage, file, context)?;
                    check_extent(&extent, context, &mut findings)?;
                }
            }
        }
        // Neither has a second copy of anything.
        Kind::Cowd | Kind::SeSparse => {}
    }
    Ok(findings)
}

fn check_extent(
    storage: &StorageRef,
    context: &OpenContext,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let header = SparseHeader::parse(&read_array(storage.as_ref(), 0)?)?;
    // An extent that holds nothing but a descriptor.
    if header.capacity == 0 {
        return Ok(());
    }
    let tables = Tables::find(storage, &header, context)?;
    let mut checker = Checker {
        storage,
        header: &header,
        directory: &tables.directory,
        findings,
    };
    if let Some(offset) = tables.redundant {
        let redundant = Tables::at(storage, &header, offset, context)?;
        checker.directories(&redundant)?;
    }
    if header.has_markers() {
        checker.stream()?;
    }
    Ok(())
}

struct Checker<'a> {
    storage: &'a StorageRef,
    header: &'a SparseHeader,
    directory: &'a Directory,
    findings: &'a mut Vec<Finding>,
}

impl Checker<'_> {
    fn damage(&self, tally: &mut Findings, error: Error) {
        tally.add(error.in_file(self.storage.path()));
    }

    fn oddity(&mut self, message: impl Into<String>) {
        let message = format!("{}: {}", self.storage.path().display(), message.into());
        self.findings.push(Finding::oddity(message));
    }

    fn close(&mut self, tally: &Findings, what: &str) {
        self.findings.extend(tally.told(what, Finding::damage));
    }

    /// The entries of grain table `index` of `directory`, or nothing.
    fn table(&self, directory: &Directory, index: u64) -> Result<Option<Vec<u8>>> {
        // Where tables stand is judged when the disk is read; here only what they say counts.
        match directory.table(index, &Areas::default())? {
            TablePlace::At(offset) => {
                let mut bytes = vec![0; hosted::geometry(self.header).table_size() as usize];
                self.storage.read_at(&mut bytes, offset)?;
                Ok(Some(bytes))
            }
            TablePlace::Absent => Ok(None),
            TablePlace::Zero => Ok(Some(Vec::new())),
        }
    }

    /// Holds the two directories and their tables against each other.
    fn directories(&mut self, redundant: &Directory) -> Result<()> {
        let mut tally = Findings::default();
        for index in 0..self.header.tables() {
            let first = self.table(self.directory, index);
            let second = self.table(redundant, index);
            let (first, second) = match (first, second) {
                (Ok(first), Ok(second)) => (first, second),
                // Of the first one the map tells.
                (Err(_), _) => continue,
                (Ok(_), Err(error)) => {
                    self.damage(&mut tally, error);
                    continue;
                }
            };
            if !same(&first, &second) {
                let error = Error::malformed(
                    "redundant grain directory",
                    "a grain table says something else than its copy",
                );
                self.damage(&mut tally, error.found(format!("grain table {index}")));
            }
        }
        self.close(&tally, "differences between the grain directories");
        Ok(())
    }

    /// Goes from marker to marker, and holds each grain against the tables.
    fn stream(&mut self) -> Result<()> {
        let mut walk = Walk::new(self.header);
        let mut tally = Findings::default();
        while walk.at + SECTOR <= self.storage.len() {
            let marker = Marker::read(self.storage.as_ref(), walk.at)?;
            let zeros = match marker {
                Marker::EndOfStream => is_zero(self.storage.as_ref(), walk.at)?,
                _ => false,
            };
            match marker {
                Marker::Grain { sector, len } => {
                    if let Err(error) = self.grain(&mut walk, sector, len) {
                        self.damage(&mut tally, error.at(walk.at));
                    }
                    let next = walk.at + (GRAIN_MARKER + u64::from(len)).next_multiple_of(SECTOR);
                    if next > self.storage.len() || u64::from(len) > 2 * self.header.grain_size {
                        // The markers behind cannot be found any more.
                        break;
                    }
                    walk.step(next);
                }
                Marker::EndOfStream if zeros => {
                    let sectors = zero_sectors(self.storage.as_ref(), walk.at)?;
                    walk.end_sectors += sectors;
                    walk.at += sectors * SECTOR;
                }
                Marker::EndOfStream => break,
                Marker::GrainTable(sectors)
                | Marker::GrainDirectory(sectors)
                | Marker::Footer(sectors)
                | Marker::Other(sectors) => {
                    let len = sectors.checked_add(1).and_then(|n| n.checked_mul(SECTOR));
                    let next = len.and_then(|len| walk.at.checked_add(len));
                    match next {
                        Some(next) if next <= self.storage.len() => walk.step(next),
                        _ => break,
                    }
                }
            }
        }
        self.unmarked(&walk, &mut tally)?;
        self.close(&tally, "grains that tables and markers do not agree on");
        if walk.descending > 0 {
            self.oddity(format!(
                "{} grains do not follow each other in the order of the disk: VirtualBox and ESXi refuse such streams",
                walk.descending
            ));
        }
        if walk.end_sectors != 1 || walk.at != self.storage.len() {
            self.oddity(format!(
                "the stream ends with {} end-of-stream sectors and {} bytes behind them, not with exactly one: \
                 importers of VMware may refuse it",
                walk.end_sectors,
                self.storage.len().saturating_sub(walk.at)
            ));
        }
        Ok(())
    }

    fn grain(&mut self, walk: &mut Walk, sector: u64, len: u32) -> Result<()> {
        let wrong = |what: &'static str| Err(Error::malformed("grain marker", what));
        let found = format!("sector {sector}, {len} bytes");
        let guest = sector.saturating_mul(SECTOR);
        if guest >= self.header.capacity || !guest.is_multiple_of(self.header.grain_size) {
            return wrong("is for a place that the disk does not have").map_err(|e| e.found(found));
        }
        if walk.last.is_some_and(|last| last >= guest) {
            walk.descending += 1;
        }
        walk.last = Some(guest);
        let index = guest / self.header.coverage();
        if walk.table.as_ref().is_none_or(|(known, _)| *known != index) {
            let bytes = self.table(self.directory, index)?.unwrap_or_default();
            walk.table = Some((index, bytes));
        }
        let within = (guest % self.header.coverage() / self.header.grain_size) as usize * 4;
        let entry = walk.table.as_ref().and_then(|(_, bytes)| {
            let entry: [u8; 4] = bytes.get(within..within + 4)?.try_into().ok()?;
            Some(u64::from(u32::from_le_bytes(entry)) * SECTOR)
        });
        if entry != Some(walk.at) {
            return wrong("the grain table names another place for this grain").map_err(|e| {
                e.found(entry.map_or("none".to_owned(), |at| format!("byte {at}")))
                    .expected(format!("byte {} for sector {sector}", walk.at))
            });
        }
        walk.matched += 1;
        Ok(())
    }

    /// Tells when tables name more grains than there are markers for.
    fn unmarked(&self, walk: &Walk, tally: &mut Findings) -> Result<()> {
        let mut named: u64 = 0;
        for index in 0..self.header.tables() {
            let Ok(Some(bytes)) = self.table(self.directory, index) else {
                continue;
            };
            let entries = bytes.as_chunks::<4>().0;
            // 1 may mean zeros; no grain stands in the sector of the header.
            let grains = entries.iter().filter(|e| u32::from_le_bytes(**e) > 1);
            named += grains.count() as u64;
        }
        if named > walk.matched {
            let error = Error::malformed(
                "grain table",
                "grains have no marker where the tables say that they are",
            );
            let found = format!("{} of {named} grains", named - walk.matched);
            self.damage(tally, error.found(found));
        }
        Ok(())
    }
}

/// How far the markers were followed, and what was met.
struct Walk {
    at: u64,
    /// Guest offset of the grain met last.
    last: Option<u64>,
    /// The grain table looked into last.
    table: Option<(u64, Vec<u8>)>,
    /// Grains that the tables know by the same place.
    matched: u64,
    descending: u64,
    /// Sectors of zeros since the last marker.
    end_sectors: u64,
}

impl Walk {
    fn new(header: &SparseHeader) -> Walk {
        let (offset, room) = header.descriptor;
        Walk {
            at: SECTOR.max(offset.saturating_add(room)).max(header.overhead),
            last: None,
            table: None,
            matched: 0,
            descending: 0,
            end_sectors: 0,
        }
    }

    fn step(&mut self, to: u64) {
        self.at = to;
        self.end_sectors = 0;
    }
}

fn same(first: &Option<Vec<u8>>, second: &Option<Vec<u8>>) -> bool {
    let empty = |table: &Option<Vec<u8>>| {
        table
            .as_ref()
            .is_none_or(|bytes| !bytes.is_empty() && bytes.iter().all(|b| *b == 0))
    };
    first == second || empty(first) && empty(second)
}

/// Sectors from the one at `offset`, which is zero, that are known to be zero too: a hole is passed over in one go.
pub fn zero_sectors(storage: &dyn Storage, offset: u64) -> Result<u64> {
    let left = storage.len().saturating_sub(offset);
    let (len, is_data) = storage.extent(offset, left.max(1))?;
    Ok(if is_data { 1 } else { (len / SECTOR).max(1) })
}

fn is_zero(storage: &dyn Storage, offset: u64) -> Result<bool> {
    let sector: [u8; SECTOR as usize] = read_array(storage, offset)?;
    Ok(sector.iter().all(|b| *b == 0))
}
