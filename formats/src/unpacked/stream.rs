//! Unpacking a file from an entry on, one byte after the other.

use super::decoder::{Decoder, State, Step};
use super::entry::{Block, Entries, Entry, Kind, PROOF, WINDOW};
use super::packing::{Packing, head};
use crate::error::{Error, Result};
use crate::storage::StorageRef;

/// Packed bytes that are read at once.
const INPUT: u64 = 256 << 10;

/// Bytes behind the last block of a gzip member: CRC-32 and length.
const GZIP_TRAILER: u64 = 8;

/// Streams that a file may have however little they hold.
const STREAMS_FREE: u64 = 1 << 16;

/// Bytes that the others hold on average, at least. Whoever packs in parts (bgzip, pigz, pbzip2, pzstd) makes them larger;
/// a file of empty streams takes a second for every few kilobytes.
const STREAM_LEAST: u64 = 4 << 10;

/// A packed file that is being unpacked.
pub struct Stream {
    inner: StorageRef,
    packing: Packing,
    /// `None` between two streams.
    decoder: Option<Decoder>,
    input: Vec<u8>,
    /// Bytes of `input` that were taken.
    taken: usize,
    /// Offset in the file of what comes behind `input`.
    next: u64,
    /// Offset in what is unpacked.
    out: u64,
    /// Streams that were begun.
    streams: u64,
    /// Most bytes that decoders held at their end.
    memory: usize,
}

/// What the first pass over a file finds out on its way.
pub struct Survey<'a> {
    /// Where unpacking can begin later.
    pub entries: Entries,
    /// Told how many packed bytes were read so far; what it fails with ends the pass.
    pub progress: &'a mut dyn FnMut(u64) -> Result<()>,
}

impl Stream {
    /// Begins at the start.
    pub fn new(inner: StorageRef, packing: Packing) -> Stream {
        Stream {
            inner,
            packing,
            decoder: None,
            input: Vec::new(),
            taken: 0,
            next: 0,
            out: 0,
            streams: 0,
            memory: 0,
        }
    }

    /// Begins at `entry`. `None` when the library does not take it.
    pub fn at(inner: StorageRef, packing: Packing, entry: &Entry) -> Option<Stream> {
        let mut stream = Stream {
            next: entry.at,
            out: entry.out,
            ..Stream::new(inner, packing)
        };
        if let Kind::Block(block) = &entry.kind {
            let (decoder, input) = block.begin()?;
            stream.decoder = Some(decoder);
            stream.input = input;
        }
        Some(stream)
    }

    /// Offset of the next byte in what is unpacked.
    pub fn out(&self) -> u64 {
        self.out
    }

    /// Most bytes that its decoders held so far, besides what all of them do.
    pub fn memory(&self) -> usize {
        let now = self.decoder.as_ref().map_or(0, Decoder::memory);
        self.memory.max(now)
    }

    /// Unpacks into `page` until it is full, or all is unpacked; answers the number of bytes.
    ///
    /// # Errors
    /// `Malformed` and `Truncated` for what is wrong with the stream or stands behind it; those of the storage; what
    /// `survey.progress` fails with. After an error, it must not be used again.
    pub fn fill(&mut self, page: &mut [u8], mut survey: Option<&mut Survey>) -> Result<usize> {
        let start = self.out;
        let mut made = 0;
        let mut block = None;
        while made < page.len() {
            if self.decoder.is_none() && !self.begin_stream(survey.as_deref_mut())? {
                break;
            }
            self.refill(survey.as_deref_mut())?;
            let step = self.step(&mut page[made..], survey.is_some())?;
            made += step.made;
            self.out += step.made as u64;
            match step.state {
                State::End => self.end_stream(),
                State::Block if made >= WINDOW && made + PROOF <= page.len() => {
                    block = Some((made, self.position()));
                }
                State::Block | State::Inside => {}
            }
        }
        if let (Some(survey), Some((at, packed))) = (survey, block) {
            self.enter(survey, &page[..made], start, at, packed)?;
        }
        Ok(made)
    }

    /// Offset in the file of the next byte to be taken.
    pub fn position(&self) -> u64 {
        let left = (self.input.len() - self.taken) as u64;
        self.next.saturating_sub(left)
    }

    fn step(&mut self, room: &mut [u8], blocks: bool) -> Result<Step> {
        let position = self.position();
        let Some(decoder) = &mut self.decoder else {
            return Err(self.error("is not open", position));
        };
        let input = self.input.get(self.taken..).unwrap_or_default();
        let step = decoder
            .step(input, room, blocks)
            .map_err(|why| self.wrong(why, position))?;
        self.taken += step.taken;
        if step.taken > 0 || step.made > 0 || step.state == State::End {
            return Ok(step);
        }
        if self.next >= self.inner.len() {
            return Err(
                Error::truncated(self.structure(), "the file ends inside of it")
                    .at(self.inner.len())
                    .hint("the file is cut off; find the whole one")
                    .in_file(self.inner.path()),
            );
        }
        // A library that neither takes nor gives would be asked for ever.
        if self.taken < self.input.len() {
            return Err(self.error("does not go on", position));
        }
        Ok(step)
    }

    /// Reads on when all was taken.
    fn refill(&mut self, survey: Option<&mut Survey>) -> Result<()> {
        if self.taken < self.input.len() {
            return Ok(());
        }
        let len = self.inner.len().saturating_sub(self.next).min(INPUT);
        self.input.resize(len as usize, 0);
        self.taken = 0;
        self.inner.read_at(&mut self.input, self.next)?;
        self.next += len;
        match survey {
            Some(survey) => (survey.progress)(self.position()),
            None => Ok(()),
        }
    }

    /// Whether there is one more stream; it is begun.
    fn begin_stream(&mut self, survey: Option<&mut Survey>) -> Result<bool> {
        let position = self.position();
        if position == self.inner.len() && position > 0 {
            return Ok(false);
        }
        let head = head(self.inner.as_ref(), position)?;
        if Packing::by_magic(&head) != Some(self.packing) {
            return self.check_rest(position, &head).map(|()| false);
        }
        if let Some(survey) = survey
            && survey.entries.wants(self.out)
        {
            survey.entries.push(Entry {
                out: self.out,
                at: position,
                kind: Kind::Stream,
            });
        }
        self.streams += 1;
        if self.streams > STREAMS_FREE + self.out / STREAM_LEAST {
            return Err(
                Error::limit(self.structure(), "is cut into too many small ones")
                    .at(position)
                    .found(format!("{} streams of {} bytes", self.streams, self.out))
                    .hint("unpack the file first")
                    .in_file(self.inner.path()),
            );
        }
        self.decoder = Some(Decoder::new(self.packing));
        Ok(true)
    }

    fn end_stream(&mut self) {
        self.memory = self.memory();
        if let Some(Decoder::Deflate(_)) = self.decoder {
            // Its checksum is not the one of what was unpacked here.
            let position = self.position();
            self.input.clear();
            self.taken = 0;
            self.next = position.saturating_add(GZIP_TRAILER).min(self.inner.len());
        }
        self.decoder = None;
    }

    /// Fails unless what stands at `position`, behind all streams, is the zeros that tapes and block devices leave.
    fn check_rest(&self, position: u64, head: &[u8; 8]) -> Result<()> {
        if position == 0 {
            return Err(Error::malformed(self.structure(), "does not begin as one")
                .at(0)
                .found(format!("{head:02x?}"))
                .in_file(self.inner.path()));
        }
        let mut at = position;
        let mut rest = vec![0; INPUT as usize];
        while at < self.inner.len() {
            let len = (self.inner.len() - at).min(INPUT);
            let rest = &mut rest[..len as usize];
            self.inner.read_at(rest, at)?;
            if let Some(garbage) = rest.iter().position(|byte| *byte != 0) {
                return Err(self
                    .error(
                        "something stands behind it that is no part of it",
                        at + garbage as u64,
                    )
                    .hint("the file is damaged, or two files were joined; unpack it by hand if what is in front will do"));
            }
            at += len;
        }
        Ok(())
    }

    /// Enters the block at `at` of `page`, if one is wanted there.
    fn enter(
        &self,
        survey: &mut Survey,
        page: &[u8],
        start: u64,
        at: usize,
        packed: u64,
    ) -> Result<()> {
        let out = start + at as u64;
        let (Some(window), Some(proof)) = (page.get(at - WINDOW..at), page.get(at..at + PROOF))
        else {
            return Ok(());
        };
        if !survey.entries.wants(out) {
            return Ok(());
        }
        if let Some(block) = Block::find(self.inner.as_ref(), packed, window, proof)? {
            survey.entries.push(Entry {
                out,
                at: packed,
                kind: Kind::Block(block),
            });
        }
        Ok(())
    }

    fn structure(&self) -> String {
        format!("{} stream", self.packing)
    }

    fn error(&self, message: &'static str, position: u64) -> Error {
        Error::malformed(self.structure(), message)
            .at(position)
            .in_file(self.inner.path())
    }

    /// What the library says, at about `position`.
    fn wrong(&self, why: &'static str, position: u64) -> Error {
        // The library has no other stable way to tell ZSTD_error_frameParameter_windowTooLarge and
        // ZSTD_error_dictionary_wrong than by their texts.
        if why.contains("too much memory") {
            return Error::limit(self.structure(), "asks for too much memory")
                .at(position)
                .expected("a window of at most 128 MiB")
                .hint("unpack the file first: zstd -d --long=31")
                .in_file(self.inner.path());
        }
        if why.contains("Dictionary") {
            return Error::unsupported(self.structure(), "was packed with a dictionary")
                .at(position)
                .hint("unpack the file first: zstd -d -D DICTIONARY")
                .in_file(self.inner.path());
        }
        self.error("is damaged", position)
            .found(why)
            .hint("nothing of it can be trusted; find a sound copy")
    }
}
