//! Standard output, or any other pipe: bytes leave in ascending order, holes as zeros.

use std::io::{IoSlice, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;

use formats::{Error, Result, StorageRef, WritableStorage};

use super::Output;
use crate::zero::ZEROS;

/// A writer that cannot go back.
pub struct StreamOutput<W: Write + Send> {
    inner: Mutex<Position<W>>,
}

struct Position<W> {
    writer: W,
    at: u64,
}

impl<W: Write + Send> StreamOutput<W> {
    /// A stream into `writer`.
    pub fn new(writer: W) -> StreamOutput<W> {
        StreamOutput {
            inner: Mutex::new(Position { writer, at: 0 }),
        }
    }

    fn advance(&self, to: u64) -> Result<()> {
        let mut inner = self.inner.lock().unwrap_or_else(|e| e.into_inner());
        while inner.at < to {
            let len = (to - inner.at).min(ZEROS.len() as u64);
            inner.put(&ZEROS[..len as usize])?;
        }
        Ok(())
    }
}

impl<W: Write> Position<W> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer
            .write_all(bytes)
            .map_err(|e| failed("write", e).at(self.at))?;
        self.at += bytes.len() as u64;
        Ok(())
    }
}

fn failed(operation: &'static str, e: std::io::Error) -> Error {
    Error::io(operation, e).in_file(Path::new("-"))
}

impl<W: Write + Send> WritableStorage for StreamOutput<W> {
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.advance(offset)?;
        let mut inner = self.inner.lock().unwrap_or_else(|e| e.into_inner());
        if inner.at != offset {
            return Err(Error::refused("stream", "cannot go back")
                .at(offset)
                .expected(inner.at)
                .in_file(Path::new("-")));
        }
        inner.put(bytes)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.advance(len)
    }
}

impl<W: Write + Send> Output for StreamOutput<W> {
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

    fn sync(&self) -> Result<()> {
        let mut inner = self.inner.lock().unwrap_or_else(|e| e.into_inner());
        inner.writer.flush().map_err(|e| failed("flush", e))
    }

    fn read_back(&self) -> Result<StorageRef> {
        Err(Error::refused("stream", "cannot be read back")
            .hint("leave out --verify, or write to a file"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_become_zeros_and_going_back_is_refused() {
        let mut bytes = Vec::new();
        let stream = StreamOutput::new(&mut bytes);
        stream.write_at(b"ab", 1).unwrap();
        stream.zero_range(3..5).unwrap();
        assert!(stream.write_at(b"x", 0).is_err());
        stream.set_len(6).unwrap();
        assert_eq!(bytes, [0, b'a', b'b', 0, 0, 0]);
    }
}
