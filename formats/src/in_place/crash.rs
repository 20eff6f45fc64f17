//! What a crash leaves: files in memory that remember which writes are not on stable storage yet. For tests of whatever
//! changes files where they stand.
//!
//! ```text
//!   let log = CrashLog::new();
//!   let file = log.file("a.vhd", bytes);          // a Storage and an InPlace
//!   change(&file)?;                               // what is tested
//!   log.crashes(|files| … open files[0] …);       // every state in which it can be found
//! ```
//!
//! At every point of the way each write that was not synced may have happened or not, in any order; writes of several
//! sectors in part, by sectors of 512 bytes. So it is with holes. A [`CrashLog`] that [fails](CrashLog::fail_after) is a disk that is full or
//! gone.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::InPlace;
use crate::error::{Error, Result};
use crate::storage::{Storage, check_range};

/// What a disk writes as a whole, in bytes.
const SECTOR: usize = 512;

/// Something that was done to a file.
#[derive(Debug, Clone)]
enum Op {
    Write { offset: u64, bytes: Vec<u8> },
    SetLen(u64),
    Replace(Vec<u8>),
    Punch { offset: u64, len: u64 },
    Sync,
}

#[derive(Debug, Default)]
struct Log {
    /// The files as they were.
    before: Vec<Vec<u8>>,
    /// The files as they are.
    now: Vec<Vec<u8>>,
    ops: Vec<(usize, Op)>,
    /// How many more changes succeed.
    left: Option<usize>,
}

/// Everything that was done to some files, in its order.
#[derive(Debug, Clone, Default)]
pub struct CrashLog(Arc<Mutex<Log>>);

/// A file of a [`CrashLog`].
#[derive(Debug)]
pub struct CrashFile {
    log: CrashLog,
    index: usize,
    path: PathBuf,
}

impl CrashLog {
    /// An empty one.
    pub fn new() -> CrashLog {
        CrashLog::default()
    }

    /// A file that holds `bytes` on stable storage.
    pub fn file(&self, name: &str, bytes: Vec<u8>) -> Arc<CrashFile> {
        let mut log = self.lock();
        log.before.push(bytes.clone());
        log.now.push(bytes);
        Arc::new(CrashFile {
            log: self.clone(),
            index: log.now.len() - 1,
            path: PathBuf::from(name),
        })
    }

    /// Lets only the next `count` changes succeed: the rest fail as those of a disk that is full.
    pub fn fail_after(&self, count: usize) {
        self.lock().left = Some(count);
    }

    /// The files as they are.
    pub fn files(&self) -> Vec<Vec<u8>> {
        self.lock().now.clone()
    }

    /// How many changes were made, syncs included.
    pub fn changes(&self) -> usize {
        self.lock().ops.len()
    }

    /// Calls `visit` with every state in which a crash can leave the files, and says what was lost; the number of states.
    pub fn crashes(&self, mut visit: impl FnMut(&[Vec<u8>], &str)) -> usize {
        let log = self.lock();
        let mut states = 0;
        let mut show = |files: &[Vec<u8>], what: String| {
            states += 1;
            visit(files, &what);
        };
        show(&log.before, "before all".to_owned());
        // What is on stable storage, and what of the ops is not.
        let mut durable = log.before.clone();
        let mut loose: Vec<(usize, &Op)> = Vec::new();
        for (count, (file, op)) in (1..).zip(&log.ops) {
            if matches!(op, Op::Sync) {
                for (_, op) in loose.iter().filter(|(of, _)| of == file) {
                    apply(&mut durable, *file, op);
                }
                loose.retain(|(of, _)| of != file);
                continue;
            }
            loose.push((*file, op));
            show(&with(&durable, &loose), format!("after {count}"));
            show(&durable, format!("after {count}, nothing unsynced"));
            for lost in 0..loose.len() {
                let mut kept = loose.clone();
                let only = kept.remove(lost);
                show(
                    &with(&durable, &kept),
                    format!("after {count}, without unsynced {lost}"),
                );
                show(
                    &with(&durable, &[only]),
                    format!("after {count}, unsynced {lost} only"),
                );
            }
            for part in torn(op) {
                let mut kept = loose.clone();
                kept.pop();
                kept.push((*file, &part));
                show(&with(&durable, &kept), format!("{count} torn, the rest"));
                show(
                    &with(&durable, &[(*file, &part)]),
                    format!("{count} torn, alone"),
                );
            }
        }
        states
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

fn with(durable: &[Vec<u8>], ops: &[(usize, &Op)]) -> Vec<Vec<u8>> {
    let mut files = durable.to_vec();
    for (file, op) in ops {
        apply(&mut files, *file, op);
    }
    files
}

fn apply(files: &mut [Vec<u8>], file: usize, op: &Op) {
    let Some(file) = files.get_mut(file) else {
        return;
    };
    match op {
        Op::Write { offset, bytes } => {
            let start = *offset as usize;
            let end = start + bytes.len();
            if file.len() < end {
                file.resize(end, 0);
            }
            if let Some(part) = file.get_mut(start..end) {
                part.copy_from_slice(bytes);
            }
        }
        Op::Punch { offset, len } => {
            let end = offset.saturating_add(*len).min(file.len() as u64) as usize;
            if let Some(hole) = file.get_mut(*offset as usize..end) {
                hole.fill(0);
            }
        }
        Op::SetLen(len) => file.resize(*len as usize, 0),
        Op::Replace(bytes) => file.clone_from(bytes),
        Op::Sync => {}
    }
}

/// Parts of a write of more than one sector: the first sectors without the last, the last without the first, the first
/// one alone, all but the first.
fn torn(op: &Op) -> Vec<Op> {
    let (offset, bytes) = match op {
        Op::Write { offset, bytes } => (*offset, bytes),
        Op::Punch { offset, len } => {
            let half = (len / 2) / SECTOR as u64 * SECTOR as u64;
            let part = |offset, len| Op::Punch { offset, len };
            return match half {
                0 => Vec::new(),
                half => vec![part(*offset, half), part(offset + half, len - half)],
            };
        }
        _ => return Vec::new(),
    };
    let to_border = SECTOR - (offset as usize) % SECTOR;
    let sectors = bytes.len().saturating_sub(to_border).div_ceil(SECTOR);
    let mut cuts: Vec<usize> = [0, sectors / 2, sectors.saturating_sub(1)]
        .map(|sectors| to_border + sectors * SECTOR)
        .into();
    cuts.dedup();
    cuts.retain(|cut| *cut < bytes.len());
    let part = |range: std::ops::Range<usize>| Op::Write {
        offset: offset + range.start as u64,
        bytes: bytes.get(range).unwrap_or_default().to_vec(),
    };
    cuts.into_iter()
        .flat_map(|cut| [part(0..cut), part(cut..bytes.len())])
        .collect()
}

impl CrashFile {
    fn change(&self, op: Op) -> Result<()> {
        let mut log = self.log.lock();
        match log.left.as_mut() {
            Some(0) => {
                let full = io::Error::from(io::ErrorKind::StorageFull);
                return Err(Error::io("write", full).in_file(&self.path));
            }
            Some(left) => *left -= 1,
            None => {}
        }
        apply(&mut log.now, self.index, &op);
        log.ops.push((self.index, op));
        Ok(())
    }

    fn with_bytes<T>(&self, look: impl FnOnce(&[u8]) -> T) -> T {
        let log = self.log.lock();
        look(log.now.get(self.index).map_or(&[], Vec::as_slice))
    }
}

impl InPlace for CrashFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let bytes = bytes.to_vec();
        self.change(Op::Write { offset, bytes })
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.change(Op::SetLen(len))
    }

    fn replace(&self, bytes: &[u8]) -> Result<()> {
        self.change(Op::Replace(bytes.to_vec()))
    }

    fn sync(&self) -> Result<()> {
        self.change(Op::Sync)
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.change(Op::Punch { offset, len })
    }
}

impl Storage for CrashFile {
    fn len(&self) -> u64 {
        self.with_bytes(|bytes| bytes.len() as u64)
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.with_bytes(|bytes| {
            check_range(&self.path, bytes.len() as u64, offset, buf.len())?;
            let start = offset as usize;
            if let Some(part) = bytes.get(start..start + buf.len()) {
                buf.copy_from_slice(part);
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_synced_stays_and_what_is_not_may_be_there_or_not() {
        let log = CrashLog::new();
        let file = log.file("a", vec![0; 4]);
        file.write_at(&[1], 0).unwrap();
        file.sync().unwrap();
        file.write_at(&[2], 1).unwrap();
        file.write_at(&[3], 2).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        log.crashes(|files, _| {
            seen.insert(files[0].clone());
        });
        let expected = [
            [0, 0, 0, 0],
            [1, 0, 0, 0],
            [1, 0, 3, 0],
            [1, 2, 0, 0],
            [1, 2, 3, 0],
        ];
        assert!(seen.iter().eq(expected.iter()), "{seen:?}");
    }

    #[test]
    fn sectors_are_whole_and_longer_writes_may_be_torn() {
        let log = CrashLog::new();
        let file = log.file("a", vec![0; 2048]);
        file.write_at(&[1; 1536], 512).unwrap();
        let mut torn = 0;
        log.crashes(|files, _| {
            let sectors = files[0].chunks(512);
            for sector in sectors {
                assert!(sector.iter().all(|byte| *byte == sector[0]));
            }
            torn += usize::from(files[0][512] != files[0][1536]);
        });
        assert!(torn >= 2);
    }

    #[test]
    fn a_disk_that_is_full_fails() {
        let log = CrashLog::new();
        let file = log.file("a", Vec::new());
        log.fail_after(1);
        file.write_at(&[1], 0).unwrap();
        assert!(file.set_len(10).is_err());
        assert_eq!((log.changes(), file.len()), (1, 1));
    }
}
