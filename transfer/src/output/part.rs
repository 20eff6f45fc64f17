//! A part of another output, with offsets of its own: a member of an archive, a file among several.

use std::io::IoSlice;
use std::ops::Range;
use std::sync::Mutex;

use formats::{Error, Result, StorageRef, WritableStorage};

use super::Output;
use crate::buffer::AlignedBuffer;
use crate::zero::ZEROS;

/// Bytes that are gathered before they are handed on, when they come in order.
const GATHERED: usize = 1 << 20;

/// Bytes of zeros that are left out of a file rather than written.
const HOLE: u64 = 64 << 10;

/// What is asked about all bytes of a part, in their order: a digest.
pub type Observer<'a> = Box<dyn FnMut(&[u8]) + Send + 'a>;

/// A part that is written here and there.
pub struct Part<'a> {
    inner: &'a dyn Output,
    base: u64,
}

impl<'a> Part<'a> {
    /// What of `inner` begins at `base`.
    pub fn new(inner: &'a dyn Output, base: u64) -> Part<'a> {
        Part { inner, base }
    }

    fn place(&self, offset: u64) -> Result<u64> {
        place(self.base, offset)
    }
}

fn place(base: u64, offset: u64) -> Result<u64> {
    base.checked_add(offset)
        .ok_or_else(|| Error::limit("target", "is larger than any file can be").at(offset))
}

impl WritableStorage for Part<'_> {
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.inner.write_at(bytes, self.place(offset)?)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.inner.set_len(self.place(len)?)
    }
}

impl Output for Part<'_> {
    fn write_pieces(&self, pieces: &[IoSlice<'_>], offset: u64) -> Result<()> {
        self.inner.write_pieces(pieces, self.place(offset)?)
    }

    fn zero_range(&self, range: Range<u64>) -> Result<()> {
        self.inner
            .zero_range(self.place(range.start)?..self.place(range.end)?)
    }

    /// The whole is synced by whoever puts it in place.
    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn read_back(&self) -> Result<StorageRef> {
        self.inner.read_back()
    }
}

/// A part that is written in ascending order, while an observer sees all of it. Holes are zeros in a stream, and holes in a
/// file.
pub struct OrderedPart<'a> {
    inner: &'a dyn Output,
    base: u64,
    state: Mutex<State<'a>>,
}

struct State<'a> {
    /// Bytes that came.
    at: u64,
    /// The last of them, not yet handed on.
    buffer: AlignedBuffer,
    filled: usize,
    observer: Observer<'a>,
}

impl<'a> OrderedPart<'a> {
    /// What of `inner` begins at `base`.
    ///
    /// # Errors
    /// `Io` when there is no memory.
    pub fn new(inner: &'a dyn Output, base: u64, observer: Observer<'a>) -> Result<Self> {
        let buffer = AlignedBuffer::new(GATHERED).map_err(|e| Error::io("get memory", e))?;
        Ok(OrderedPart {
            inner,
            base,
            state: Mutex::new(State {
                at: 0,
                buffer,
                filled: 0,
                observer,
            }),
        })
    }

    /// Hands on what is left, and answers how many bytes came.
    ///
    /// # Errors
    /// Those of the output.
    pub fn finish(self) -> Result<u64> {
        let mut state = self.state.into_inner().unwrap_or_else(|e| e.into_inner());
        state.hand_on(self.inner, self.base)?;
        Ok(state.at)
    }

    fn advance(&self, to: u64) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        // What goes into a file is a hole there.
        if to.saturating_sub(state.at) >= HOLE && !self.inner.is_stream() {
            state.hand_on(self.inner, self.base)?;
            let hole = place(self.base, state.at)?..place(self.base, to)?;
            self.inner.zero_range(hole)?;
            while state.at < to {
                let zeros = zeros(to - state.at);
                (state.observer)(zeros);
                state.at += zeros.len() as u64;
            }
        }
        while state.at < to {
            let zeros = zeros(to - state.at);
            state.put(zeros, self.inner, self.base)?;
        }
        Ok(())
    }
}

/// At most so many zeros.
fn zeros(most: u64) -> &'static [u8] {
    &ZEROS[..most.min(ZEROS.len() as u64) as usize]
}

impl State<'_> {
    fn put(&mut self, mut bytes: &[u8], inner: &dyn Output, base: u64) -> Result<()> {
        (self.observer)(bytes);
        while !bytes.is_empty() {
            // What is handed on ends where a buffer of the file's own offsets would: such writes can be direct.
            let start = place(base, self.at)?;
            let room = GATHERED - (start % GATHERED as u64) as usize;
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.buffer[self.filled..self.filled + now.len()].copy_from_slice(now);
            self.filled += now.len();
            self.at += now.len() as u64;
            if now.len() == room {
                self.hand_on(inner, base)?;
            }
            bytes = later;
        }
        Ok(())
    }

    fn hand_on(&mut self, inner: &dyn Output, base: u64) -> Result<()> {
        if self.filled > 0 {
            let start = place(base, self.at)? - self.filled as u64;
            inner.write_pieces(&[IoSlice::new(&self.buffer[..self.filled])], start)?;
            self.filled = 0;
        }
        Ok(())
    }
}

impl WritableStorage for OrderedPart<'_> {
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.advance(offset)?;
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        if state.at != offset {
            return Err(Error::refused("package", "cannot go back")
                .at(offset)
                .expected(state.at));
        }
        state.put(bytes, self.inner, self.base)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.advance(len)
    }
}

impl Output for OrderedPart<'_> {
    fn write_pieces(&self, pieces: &[IoSlice<'_>], mut offset: u64) -> Result<()> {
        for piece in pieces {
            self.write_at(piece, offset)?;
            offset += piece.len() as u64;
        }
        Ok(())
    }

    fn zero_range(&self, range: Range<u64>) -> Result<()> {
        self.advance(range.end)
    }

    fn is_stream(&self) -> bool {
        true
    }

    /// The whole is synced by whoever puts it in place.
    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn read_back(&self) -> Result<StorageRef> {
        Err(Error::refused("package", "is not whole yet"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::FileSet;

    #[test]
    fn an_ordered_part_lands_where_it_should_and_is_seen_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let set = FileSet::create(&path, &[], false).unwrap();
        let mut seen = Vec::new();
        let data: Vec<u8> = (0..3_000_000_u32)
            .map(|i| (i * 7 + i / 251) as u8)
            .collect();
        let part = OrderedPart::new(&set, 1536, Box::new(|b| seen.extend_from_slice(b))).unwrap();
        for (index, chunk) in data.chunks(65_537).enumerate() {
            part.write_at(chunk, index as u64 * 65_537).unwrap();
        }
        part.set_len(3_000_100).unwrap();
        assert!(part.write_at(b"x", 5).is_err());
        assert_eq!(part.finish().unwrap(), 3_000_100);
        set.set_len(1536 + 3_000_100).unwrap();
        set.commit(false).unwrap();
        let whole = [data, vec![0; 100]].concat();
        assert!(std::fs::read(&path).unwrap()[1536..] == whole);
        assert!(seen == whole);
    }

    #[test]
    fn what_is_left_out_is_a_hole_and_seen_as_zeros() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let set = FileSet::create(&path, &[], false).unwrap();
        let mut seen = Vec::new();
        let part = OrderedPart::new(&set, 512, Box::new(|b| seen.extend_from_slice(b))).unwrap();
        part.write_at(b"first", 0).unwrap();
        part.write_at(b"second", 5_000_001).unwrap();
        part.zero_range(5_000_007..9_000_000).unwrap();
        part.write_at(b"third", 9_000_000).unwrap();
        part.set_len(12_000_000).unwrap();
        assert_eq!(part.finish().unwrap(), 12_000_000);
        set.set_len(512 + 12_000_000).unwrap();
        set.commit(false).unwrap();
        let mut whole = vec![0; 12_000_000];
        whole[..5].copy_from_slice(b"first");
        whole[5_000_001..5_000_007].copy_from_slice(b"second");
        whole[9_000_000..9_000_005].copy_from_slice(b"third");
        assert!(seen == whole);
        assert!(std::fs::read(&path).unwrap()[512..] == whole);
    }
}
