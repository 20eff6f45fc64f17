//! Digests of a package's files, computed beside the conversion that reads them.
//!
//! A thread goes through the file from front to end while the engine reads it here and there. It stays near what the
//! engine read last, so that both find the bytes in the cache and the storage delivers them once.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use formats::{Result as FormatResult, Storage, StorageRef};
use machines::manifest::Entry;
use transfer::{Condition, Result};

use crate::seal::compare;

/// Bytes that are hashed in one go.
const STEP: u64 = 1 << 20;

/// How far the digest may be ahead of what the engine reads: the cache keeps that much.
const AHEAD: u64 = 128 << 20;

/// How long the thread sleeps when it is too far ahead.
const NAP: Duration = Duration::from_millis(2);

/// A file, and the digests that it should have.
pub struct Pending {
    /// What the digests are of.
    file: StorageRef,
    entries: Vec<Entry>,
    /// End of what was read last.
    mark: Arc<AtomicU64>,
}

impl Pending {
    /// The digests `entries` of `file`, and the storage to read it through.
    pub fn new(file: StorageRef, entries: Vec<Entry>) -> (Pending, StorageRef) {
        let mark = Arc::new(AtomicU64::new(0));
        let watched = Arc::new(Watched {
            inner: file.clone(),
            mark: mark.clone(),
        });
        let pending = Pending {
            file,
            entries,
            mark,
        };
        (pending, watched)
    }

    /// The digests `entries` of a file that nobody is watched reading.
    pub fn unwatched(file: StorageRef, entries: Vec<Entry>) -> Pending {
        Pending {
            file,
            entries,
            mark: Arc::new(AtomicU64::new(u64::MAX)),
        }
    }

    /// Computes the digests now, without waiting for anybody.
    ///
    /// # Errors
    /// `Malformed` when one differs, those of the storage, and `Interrupted` when `cancel` is set.
    pub fn check(&self, cancel: &AtomicBool) -> Result<()> {
        self.compute(cancel, &AtomicBool::new(false), &AtomicBool::new(true))
    }

    fn compute(&self, cancel: &AtomicBool, dropped: &AtomicBool, free: &AtomicBool) -> Result<()> {
        let mut hashers: Vec<_> = self.entries.iter().map(|e| e.algorithm.hasher()).collect();
        let (mut buffer, mut at) = (vec![0; STEP as usize], 0);
        while at < self.file.len() {
            if cancel.load(Ordering::Relaxed) || dropped.load(Ordering::Relaxed) {
                return Err(transfer::Error::Interrupted);
            }
            let too_far = self.mark.load(Ordering::Relaxed).saturating_add(AHEAD);
            if at > too_far && !free.load(Ordering::Relaxed) {
                thread::sleep(NAP);
                continue;
            }
            let len = STEP.min(self.file.len() - at);
            let part = &mut buffer[..len as usize];
            self.file.read_at(part, at)?;
            hashers.iter_mut().for_each(|hasher| hasher.update(part));
            at += len;
        }
        for (entry, hasher) in self.entries.iter().zip(hashers) {
            compare(entry, &hasher.finish()).map_err(|e| e.in_file(self.file.path()))?;
        }
        Ok(())
    }
}

/// Starts computing what is `pending`, and answers the condition that all of it is right. Without anything pending there
/// is none.
pub fn watch(pending: Vec<Pending>, cancel: &Arc<AtomicBool>) -> Option<Condition> {
    if pending.is_empty() {
        return None;
    }
    let (free, dropped) = (Arc::new(AtomicBool::new(false)), Arc::default());
    let run = {
        let (free, dropped, cancel) = (free.clone(), Arc::clone(&dropped), cancel.clone());
        move || {
            let mut pending = pending.iter();
            pending.try_for_each(|p| p.compute(&cancel, &dropped, &free))
        }
    };
    let running = Running {
        free,
        dropped,
        thread: Mutex::new(Some(thread::spawn(run))),
    };
    Some(Arc::new(move || running.join()))
}

struct Running {
    /// Set when nothing is read any more: nobody has to be waited for.
    free: Arc<AtomicBool>,
    /// Set when nobody asks any more.
    dropped: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<Result<()>>>>,
}

impl Running {
    fn join(&self) -> Result<()> {
        self.free.store(true, Ordering::Relaxed);
        let thread = self.thread.lock().unwrap_or_else(|e| e.into_inner()).take();
        let Some(thread) = thread else {
            return Ok(());
        };
        thread.join().unwrap_or_else(|_| {
            let died = std::io::Error::other("its thread ended");
            Err(formats::Error::io("compute a digest", died).into())
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::Relaxed);
    }
}

/// A storage that tells how far it was read.
#[derive(Debug)]
struct Watched {
    inner: StorageRef,
    mark: Arc<AtomicU64>,
}

impl Storage for Watched {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> FormatResult<()> {
        self.inner.read_at(buf, offset)?;
        // Small reads are tables, which stand anywhere.
        if buf.len() as u64 >= 4096 {
            let end = offset.saturating_add(buf.len() as u64);
            self.mark.store(end, Ordering::Relaxed);
        }
        Ok(())
    }

    fn extent(&self, offset: u64, limit: u64) -> FormatResult<(u64, bool)> {
        self.inner.extent(offset, limit)
    }

    fn allocated(&self) -> FormatResult<u64> {
        self.inner.allocated()
    }

    fn check_unchanged(&self) -> FormatResult<()> {
        self.inner.check_unchanged()
    }

    fn file_id(&self) -> Option<(u64, u64)> {
        self.inner.file_id()
    }

    fn is_device(&self) -> bool {
        self.inner.is_device()
    }

    fn is_encrypted(&self) -> bool {
        self.inner.is_encrypted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use formats::MemoryStorage;
    use machines::manifest::Algorithm;

    fn pending(said: &[u8]) -> Pending {
        let bytes = vec![7; 3 << 20];
        let entry = Entry {
            name: "disk.raw".to_owned(),
            algorithm: Algorithm::Sha256,
            digest: Algorithm::Sha256.digest(said),
        };
        Pending::unwatched(Arc::new(MemoryStorage::new(bytes)), vec![entry])
    }

    #[test]
    fn a_digest_that_was_not_finished_is_not_right() {
        let cancel = Arc::new(AtomicBool::new(true));
        for said in [&[7; 3 << 20][..], b"else"] {
            let result = watch(vec![pending(said)], &cancel).map(|holds| holds());
            assert!(matches!(result, Some(Err(transfer::Error::Interrupted))));
        }
        let go_on = Arc::new(AtomicBool::new(false));
        let holds =
            |said: &[u8]| watch(vec![pending(said)], &go_on).is_some_and(|holds| holds().is_ok());
        assert!(holds(&[7; 3 << 20]));
        assert!(!holds(b"else"));
    }
}
