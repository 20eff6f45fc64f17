//! Writes images as the engine does, into files that take no more memory than what is written to them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use formats::{
    BlockTarget, Identity, PART, Result, Storage, StorageRef, Summary, WritableStorage, driver,
};
use formats::{Error, Format, Options};

/// The identity of everything that is written here.
pub const IDENTITY: Identity = Identity {
    id: [9; 16],
    unix_time: 1_700_000_000,
};

const PAGE: u64 = 4096;

/// What the guest wrote: offsets and bytes, ascending.
pub type Model = Vec<(u64, Vec<u8>)>;

/// A file in memory with holes.
#[derive(Debug, Clone, Default)]
pub struct SparseFile {
    pages: BTreeMap<u64, Vec<u8>>,
    len: u64,
}

impl SparseFile {
    pub fn write(&mut self, bytes: &[u8], offset: u64) {
        self.len = self.len.max(offset + bytes.len() as u64);
        let mut rest = bytes;
        let mut at = offset;
        while !rest.is_empty() {
            let within = (at % PAGE) as usize;
            let (now, later) = rest.split_at(rest.len().min(PAGE as usize - within));
            let page = self.pages.entry(at / PAGE);
            let page = page.or_insert_with(|| vec![0; PAGE as usize]);
            page[within..within + now.len()].copy_from_slice(now);
            at += now.len() as u64;
            rest = later;
        }
    }

    pub fn set_len(&mut self, len: u64) {
        assert!(len >= self.len, "nothing is written to be cut off again");
        self.len = len;
    }

    /// All of it: for small ones.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len as usize];
        self.read_at(&mut bytes, 0).expect("all of it");
        bytes
    }
}

impl Storage for SparseFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn path(&self) -> &Path {
        Path::new("(written)")
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        if offset
            .checked_add(buf.len() as u64)
            .is_none_or(|end| end > self.len)
        {
            return Err(Error::truncated("file", "ends too early").at(offset));
        }
        let mut rest = buf;
        let mut at = offset;
        while !rest.is_empty() {
            let within = (at % PAGE) as usize;
            let count = rest.len().min(PAGE as usize - within);
            let (now, later) = rest.split_at_mut(count);
            match self.pages.get(&(at / PAGE)) {
                Some(page) => now.copy_from_slice(&page[within..within + count]),
                None => now.fill(0),
            }
            at += count as u64;
            rest = later;
        }
        Ok(())
    }

    fn extent(&self, offset: u64, limit: u64) -> Result<(u64, bool)> {
        let page = offset / PAGE;
        Ok(match self.pages.range(page..).next() {
            Some((next, _)) if *next == page => ((PAGE - offset % PAGE).min(limit), true),
            Some((next, _)) => ((next * PAGE - offset).min(limit), false),
            None => (limit, false),
        })
    }
}

/// The files of an image that is being written, and what was written where.
#[derive(Default)]
pub struct Files {
    parts: Mutex<BTreeMap<u64, SparseFile>>,
    written: Mutex<Vec<Range<u64>>>,
}

impl WritableStorage for Files {
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        if !bytes.is_empty() {
            self.note(offset, bytes.len() as u64);
            self.part(offset, |file| file.write(bytes, offset % PART));
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.part(len, |file| file.set_len(len % PART));
        Ok(())
    }
}

impl Files {
    fn part(&self, offset: u64, change: impl FnOnce(&mut SparseFile)) {
        let mut parts = self.parts.lock().expect("nobody panicked");
        change(parts.entry(offset / PART).or_default());
    }

    fn note(&self, offset: u64, len: u64) {
        let mut written = self.written.lock().expect("nobody panicked");
        written.push(offset..offset + len);
    }

    fn check_disjoint(&self, what: &str) {
        let mut written = self.written.lock().expect("nobody panicked");
        written.sort_by_key(|range| range.start);
        for pair in written.windows(2) {
            assert!(pair[0].end <= pair[1].start, "{what}: {pair:?}");
        }
    }
}

/// An image that was written: the file that the user named, and the others by their names.
pub struct Written {
    pub file: SparseFile,
    pub others: Vec<(std::ffi::OsString, StorageRef)>,
}

/// The layout of a new image called "a".
pub fn target(format: Format, size: u64, options: &[String]) -> Result<Box<dyn BlockTarget>> {
    let driver = driver(format);
    let options = Options::new(driver.options(), options)?;
    driver.target(size, &options, "a".as_ref())
}

/// Writes `model` as the engine does: pieces and the zeros between them, in order, and tables as they are ready.
pub fn write(format: Format, size: u64, options: &[String], model: &Model, what: &str) -> Written {
    let mut target = target(format, size, options).expect("a target");
    let (exact, names) = (target.exact_length(), target.further_parts());
    assert!(target.size() >= size, "{what}");
    let out = Files::default();
    let mut end = 0;
    match target.packer() {
        Some(_) => put_packed(target.as_mut(), &out, size, model),
        None => end = put_plain(target.as_mut(), &out, size, model, what),
    }
    let head = target.head(&IDENTITY).expect("a head").unwrap_or_default();
    let Summary { file_size } = target.finish(&IDENTITY, &out).expect("finish");
    out.write_at(&head, 0).expect("write");
    out.check_disjoint(what);
    assert!(exact.is_none_or(|exact| exact == file_size), "{what}");
    let mut parts = out.parts.into_inner().expect("nobody panicked");
    let lengths: u64 = parts.values().map(|file| file.len).sum();
    assert_eq!(file_size, lengths, "{what}");
    assert!(
        end == 0 || names.is_empty() || parts.len() == names.len() + 1,
        "{what}"
    );
    let file = parts.remove(&0).expect("the file that the user named");
    let files = parts.into_values().map(|file| Arc::new(file) as StorageRef);
    Written {
        file,
        others: names.into_iter().zip(files).collect(),
    }
}

fn put_plain(
    target: &mut dyn BlockTarget,
    out: &Files,
    size: u64,
    model: &Model,
    what: &str,
) -> u64 {
    let mut done = 0;
    let end = (size, Vec::new());
    for (offset, bytes) in model.iter().chain([&end]) {
        if *offset > done
            && let Some(zeros) = target.zero(done, offset - done).expect("zero")
        {
            out.note(zeros.start, zeros.end - zeros.start);
        }
        done = *offset;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let placed = target.place(done, rest.len() as u64).expect("a place");
            assert!((1..=rest.len() as u64).contains(&placed.len), "{what}");
            let (now, later) = rest.split_at(placed.len as usize);
            out.write_at(now, placed.offset).expect("write");
            done += placed.len;
            rest = later;
            for table in target.take_tables() {
                out.write_at(&table.bytes, table.offset).expect("write");
            }
        }
    }
    done
}

/// The blocks of `unit` bytes, by their numbers, that `model` leaves not all zeros.
pub fn blocks(model: &Model, unit: usize) -> BTreeMap<u64, Vec<u8>> {
    let mut blocks: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    for (offset, bytes) in model {
        let mut at = *offset;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let within = (at % unit as u64) as usize;
            let (now, later) = rest.split_at(rest.len().min(unit - within));
            let block = blocks.entry(at / unit as u64);
            let block = block.or_insert_with(|| vec![0; unit]);
            block[within..within + now.len()].copy_from_slice(now);
            at += now.len() as u64;
            rest = later;
        }
    }
    blocks.retain(|_, block| block.iter().any(|byte| *byte != 0));
    blocks
}

fn put_packed(target: &mut dyn BlockTarget, out: &Files, size: u64, model: &Model) {
    let packer = target.packer().expect("a packer");
    let unit = u64::from(packer.unit());
    let mut worker = packer.worker();
    let mut done = 0;
    for (index, block) in blocks(model, unit as usize) {
        let offset = index * unit;
        if offset > done {
            target.zero(done, offset - done).expect("zero");
        }
        let mut packed = Vec::new();
        let form = worker.pack(offset, &block, &mut packed).expect("packed");
        let place = target
            .place_packed(offset, packed.len() as u64, form)
            .expect("a place");
        out.write_at(&packed, place).expect("write");
        done = offset + unit;
    }
    if size > done {
        target.zero(done, size - done).expect("zero");
    }
}
