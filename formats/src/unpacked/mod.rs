//! A storage that is packed as a whole (a package `.ova.gz`, a member `disk.vmdk.gz`), as what it holds.
//!
//! Nothing is written to a temporary file. Opening unpacks all of it once: that tells the length, checks the checksums
//! of the file, and keeps what later makes reading quick and safe:
//!
//! ```text
//!   head (1 MiB)          entries: here unpacking can begin                  tail (8 MiB)
//!   ├──┤        ▲              ▲      ├── pages used last ──┤ ▲                ├───────┤
//!   ══════════════════════════════════════════════════════════════════════════════════
//! ```
//!
//! * The hash of every page of 1 MiB. What is unpacked later is held against it, because no checksum of the file covers
//!   a part of it.
//! * Which pages are zeros: they are never unpacked again.
//! * Entries: starts of streams and, in gzip, blocks of deflate with the 32 KiB in front of them.
//!
//! Reading from there on is sequential under one lock, into pages that many threads share. They may read up to 32 MiB
//! ahead of each other. Whoever reads further behind makes it begin anew, at an entry; a zstd file of one frame and a
//! bzip2 file of one stream have none but their start. Who does that too often is told to unpack the file.
//!
//! Memory: about 90 MiB, with what zstd holds for files that were packed with windows of more than 8 MiB: at most 180 MiB.
//! Of those that share a [`Pool`], the two that were read last; each of the others 12 MiB.

mod decoder;
mod entry;
mod packing;
mod pages;
mod pool;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use xxhash_rust::xxh64::xxh64;

use crate::error::{Error, Result};
use crate::storage::{Storage, StorageRef, check_range};

pub use packing::Packing;
pub use pool::Pool;

use entry::Entries;
use pages::{PAGE, Pages};
use stream::{Stream, Survey};

/// Pages that are held.
const ROOM: usize = 72;

/// Pages that are held whatever the decoders hold.
const ROOM_MIN: usize = 48;

/// Bytes of a decoder of which there is only one.
const DECODER_LARGE: usize = 16 << 20;

/// Pages that are held on the way to the one that is wanted: others will be asked for them.
const ON_THE_WAY: u64 = 40;

/// Pages at the end that are kept for good: there are the tables of stream-optimized VMDKs.
const TAIL: u64 = 8;

/// Times that all of it may be unpacked after the first.
const TIMES: u64 = 64;

/// Pages that may be unpacked however few there are: a second's worth.
const PAGES_FREE: u64 = 1 << 10;

/// Pages that there may be at all, 16 TiB: their hashes have 64 MiB.
const PAGES_MAX: u64 = 16 << 20;

/// Pages that are looked at to tell how long an extent is.
const EXTENT: u64 = 1 << 10;

/// What a packed storage holds.
pub struct UnpackedStorage {
    inner: StorageRef,
    packing: Packing,
    len: u64,
    /// The hash of each page; 0 for one of zeros.
    hashes: Vec<u32>,
    entries: Entries,
    /// Pages that are kept for good.
    kept: HashMap<u64, Vec<u8>>,
    /// Most bytes that a decoder held.
    decoder: usize,
    state: Arc<Mutex<State>>,
    pool: Option<Pool>,
}

struct State {
    pages: Pages,
    /// The one used last stands last.
    streams: Vec<Stream>,
    /// Pages that were unpacked since opening.
    unpacked: u64,
    /// Times that unpacking was begun anew since opening.
    begun: u64,
}

impl State {
    /// Gives back everything that can be had again.
    fn rest(&mut self) {
        self.pages.clear();
        self.streams.clear();
    }
}

impl fmt::Debug for UnpackedStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnpackedStorage")
            .field("inner", &self.inner)
            .field("packing", &self.packing)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl UnpackedStorage {
    /// Unpacks all of `inner` once, which is packed with `packing` ([`Packing::of`]). More than `limit` bytes (or 16 TiB)
    /// are refused as soon as they come out. `progress` is told how many bytes of `inner` were read so far, every few
    /// hundred kilobytes; an error that it answers with ends the work.
    ///
    /// # Errors
    /// `Malformed` when the stream is damaged, its checksum does not match, or something other than zeros follows it;
    /// `Truncated` when it has no end; `Limit` when it holds more than `limit`, or asks for more than 128 MiB of memory;
    /// those of the storage and of `progress`.
    pub fn new(
        inner: StorageRef,
        packing: Packing,
        limit: u64,
        progress: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<UnpackedStorage> {
        let limit = limit.min(PAGES_MAX * PAGE as u64);
        let mut survey = Survey {
            entries: Entries::new(),
            progress,
        };
        let mut stream = Stream::new(inner.clone(), packing);
        let mut pages = Pages::new(ROOM);
        let mut kept = HashMap::new();
        let mut hashes = Vec::new();
        let mut decoder = 0;
        loop {
            let mut page = pages.buffer();
            let made = stream.fill(&mut page, Some(&mut survey))?;
            page.truncate(made);
            if stream.out() > limit {
                return Err(too_much(&inner, packing, limit));
            }
            if made == 0 {
                break;
            }
            (survey.progress)(stream.position())?;
            let number = hashes.len() as u64;
            let hash = hash(&page);
            hashes.push(hash);
            if hash == 0 {
                pages.give_back(page);
            } else if number == 0 {
                kept.insert(number, page);
            } else {
                pages.put(number, page);
            }
            decoder = decoder.max(stream.memory());
            pages.set_room(room(decoder));
        }
        let count = hashes.len() as u64;
        for number in count.saturating_sub(TAIL)..count {
            kept.extend(pages.take(number).map(|page| (number, page)));
        }
        Ok(UnpackedStorage {
            inner,
            packing,
            len: stream.out(),
            hashes,
            entries: survey.entries,
            kept,
            decoder,
            state: Arc::new(Mutex::new(State {
                pages,
                streams: Vec::new(),
                unpacked: 0,
                begun: 0,
            })),
            pool: None,
        })
    }

    /// The same, with the room for its pages shared with others that are open.
    pub fn sharing(self, pool: &Pool) -> UnpackedStorage {
        pool.wake(&self.state);
        UnpackedStorage {
            pool: Some(pool.clone()),
            ..self
        }
    }

    /// What it is packed with.
    pub fn packing(&self) -> Packing {
        self.packing
    }

    /// The storage that is packed.
    pub fn inner(&self) -> &StorageRef {
        &self.inner
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Whether all of this page is zeros.
    fn is_zero(&self, page: u64) -> bool {
        self.hashes.get(page as usize) == Some(&0)
    }

    /// Fills `out` with what stands `inside` bytes into a page.
    fn read_page(&self, page: u64, inside: usize, out: &mut [u8]) -> Result<()> {
        if self.is_zero(page) {
            out.fill(0);
            return Ok(());
        }
        let part = inside..inside + out.len();
        if let Some(bytes) = self.kept.get(&page).and_then(|kept| kept.get(part.clone())) {
            out.copy_from_slice(bytes);
            return Ok(());
        }
        if let Some(pool) = &self.pool {
            pool.wake(&self.state);
        }
        let mut state = self.lock();
        if state.pages.get(page).is_none() {
            self.bring(&mut state, page)?;
        }
        let held = state.pages.get(page).and_then(|held| held.get(part));
        match held {
            Some(bytes) => {
                out.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(self.changed(page)),
        }
    }

    /// Unpacks up to `wanted`, which is no page of zeros. A stream that failed is not used again.
    fn bring(&self, state: &mut State, wanted: u64) -> Result<()> {
        let mut stream = self.stream(state, wanted)?;
        loop {
            let page = stream.out() / PAGE as u64;
            let start = page * PAGE as u64;
            let len = (self.len - start).min(PAGE as u64);
            let missing = stream.out() - start;
            let mut buffer = state.pages.buffer();
            let part = buffer.get_mut(missing as usize..len as usize);
            let part = part.unwrap_or_default();
            let wanted_len = part.len();
            let made = stream.fill(part, None).map_err(|e| self.doubt(e))?;
            buffer.truncate(len as usize);
            state.unpacked += 1;
            // What was begun in the middle of a page cannot be checked, and is not used.
            let is_whole = missing == 0;
            let is_same = || self.hashes.get(page as usize) == Some(&hash(&buffer));
            if made < wanted_len || page > wanted || is_whole && !is_same() {
                return Err(self.doubt(self.changed(page)));
            }
            let is_kept = self.is_zero(page) || self.kept.contains_key(&page);
            if is_whole && !is_kept && wanted - page <= ON_THE_WAY {
                state.pages.put(page, buffer);
            } else {
                state.pages.give_back(buffer);
            }
            if is_whole && page == wanted {
                break;
            }
        }
        state.streams.push(stream);
        Ok(())
    }

    /// The stream that has least to go to `page`, or a new one.
    fn stream(&self, state: &mut State, page: u64) -> Result<Stream> {
        let times = TIMES * self.hashes.len() as u64;
        if state.unpacked > times + PAGES_FREE {
            return Err(Error::limit(
                format!("{} file", self.packing),
                "is read in too many places to unpack it on the way",
            )
            .hint("unpack the file first")
            .in_file(self.path()));
        }
        let start = page * PAGE as u64;
        let entry = self.entries.before(start);
        let ready = state.streams.iter().map(Stream::out).enumerate();
        let nearest = ready
            .filter(|(_, out)| *out <= start)
            .max_by_key(|(_, out)| *out);
        if let Some((index, out)) = nearest
            && (out >= entry.out || start - out <= ON_THE_WAY * PAGE as u64)
        {
            return Ok(state.streams.remove(index));
        }
        state.begun += 1;
        while state.streams.len() >= streams(self.decoder) {
            state.streams.remove(0);
        }
        Stream::at(self.inner.clone(), self.packing, entry).ok_or_else(|| self.changed(page))
    }

    /// `error`, unless the reason for it is that somebody writes to the file.
    fn doubt(&self, error: Error) -> Error {
        self.inner.check_unchanged().err().unwrap_or(error)
    }

    fn changed(&self, page: u64) -> Error {
        Error::malformed(
            format!("{} file", self.packing),
            format!(
                "holds something else at byte {} of its content than when it was opened",
                page * PAGE as u64
            ),
        )
        .hint("the storage it stands on is not reliable")
        .in_file(self.path())
    }
}

impl Storage for UnpackedStorage {
    fn len(&self) -> u64 {
        self.len
    }

    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn read_at(&self, buf: &mut [u8], mut offset: u64) -> Result<()> {
        check_range(self.path(), self.len, offset, buf.len())?;
        let mut rest = buf;
        while !rest.is_empty() {
            let inside = (offset % PAGE as u64) as usize;
            let now = rest.len().min(PAGE - inside);
            let (head, later) = rest.split_at_mut(now);
            self.read_page(offset / PAGE as u64, inside, head)?;
            offset += now as u64;
            rest = later;
        }
        Ok(())
    }

    /// Pages of zeros are known since opening.
    fn extent(&self, offset: u64, limit: u64) -> Result<(u64, bool)> {
        let end = offset.saturating_add(limit).min(self.len);
        if offset >= end {
            return Ok((limit, true));
        }
        let first = offset / PAGE as u64;
        let is_zero = self.is_zero(first);
        let same = (first + 1..first + EXTENT)
            .take_while(|page| page * (PAGE as u64) < end && self.is_zero(*page) == is_zero);
        let last = same.last().unwrap_or(first);
        Ok((((last + 1) * PAGE as u64).min(end) - offset, !is_zero))
    }

    fn allocated(&self) -> Result<u64> {
        self.inner.allocated()
    }

    fn check_unchanged(&self) -> Result<()> {
        self.inner.check_unchanged()
    }

    fn file_id(&self) -> Option<(u64, u64)> {
        self.inner.file_id()
    }

    fn is_encrypted(&self) -> bool {
        self.inner.is_encrypted()
    }
}

/// 0 for zeros, something else for all else.
fn hash(page: &[u8]) -> u32 {
    let is_zero = |part: &[u8]| part.iter().fold(0, |all, byte| all | byte) == 0;
    if page.chunks(256).all(is_zero) {
        0
    } else {
        xxh64(page, 0) as u32 | 1
    }
}

/// Streams that there may be, of which a decoder holds `memory` bytes: one that goes on, and one that looks elsewhere.
fn streams(memory: usize) -> usize {
    if memory < DECODER_LARGE { 2 } else { 1 }
}

/// Pages that there is room for.
fn room(memory: usize) -> usize {
    let decoders = streams(memory) * memory / PAGE;
    ROOM.saturating_sub(decoders).max(ROOM_MIN)
}

fn too_much(inner: &StorageRef, packing: Packing, limit: u64) -> Error {
    Error::limit(format!("{packing} stream"), "holds more than it should")
        .found(format!("more than {limit} bytes"))
        .expected(format!("at most {limit} bytes"))
        .hint("it may be made to fill memory or disks; unpack it by hand if you trust it")
        .in_file(inner.path())
}
