//! Writing around the page cache where that pays, through it where it must.
//!
//! Large aligned writes go straight to the storage: no copy into the cache, no writeback to wait for at the end. Small
//! or unaligned ones go through the cache. The two never meet in one page: callers place tables and data on pages of
//! their own, and only the last, odd bytes of a disk are split off here.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{Advice, OFlags};

use crate::buffer::ALIGNMENT;

/// Writes shorter than this are left to the page cache, which joins them: a direct write waits for the storage.
const WORTH_IT: usize = 64 << 10;

/// Bytes that gather in the page cache before they are sent to storage.
const WRITEBACK: u64 = 64 << 20;

/// A file that is written both ways.
#[derive(Debug)]
pub struct DualFile {
    buffered: File,
    direct: Option<File>,
    direct_works: AtomicBool,
    /// Bytes that went through the page cache since it was last told to store them.
    cached: AtomicU64,
}

impl DualFile {
    /// `file`, and a second descriptor for direct I/O if the file system has it.
    pub fn new(file: File) -> DualFile {
        let direct = open_direct(&file);
        DualFile {
            direct_works: AtomicBool::new(direct.is_some()),
            buffered: file,
            direct,
            cached: AtomicU64::new(0),
        }
    }

    /// The descriptor that goes through the page cache.
    pub fn file(&self) -> &File {
        &self.buffered
    }

    /// The same file for reading, with what the cache holds of it dropped: that would prove nothing about the storage.
    pub fn read_back(&self) -> io::Result<File> {
        self.buffered.sync_data()?;
        let _ = rustix::fs::fadvise(&self.buffered, 0, None, Advice::DontNeed);
        self.buffered.try_clone()
    }

    /// Writes all of `pieces` from `offset` on.
    pub fn write_pieces(&self, pieces: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let total: usize = pieces.iter().map(|p| p.len()).sum();
        let aligned = |value: u64| value.is_multiple_of(ALIGNMENT);
        let direct = match &self.direct {
            Some(direct)
                if total >= WORTH_IT
                    && aligned(offset)
                    && self.direct_works.load(Ordering::Relaxed) =>
            {
                direct
            }
            _ => {
                write_all(&self.buffered, pieces, offset)?;
                return self.start_writeback(total as u64);
            }
        };
        // The longest run of pieces from the front that direct I/O can take; the rest (an odd end) is buffered.
        let mut taken = 0;
        let mut at = offset;
        let mut tail = None;
        for piece in pieces {
            if !aligned(piece.as_ptr() as u64) {
                break;
            }
            if !aligned(piece.len() as u64) {
                let whole = piece.len() - piece.len() % ALIGNMENT as usize;
                tail = Some(&piece[..whole]);
                break;
            }
            at += piece.len() as u64;
            taken += 1;
        }
        let (front, rest) = pieces.split_at(taken);
        if !front.is_empty() && !self.try_direct(direct, front, offset)? {
            return write_all(&self.buffered, pieces, offset);
        }
        let Some((odd, behind)) = rest.split_first() else {
            return Ok(());
        };
        let whole = match tail {
            Some(whole)
                if whole.len() >= WORTH_IT
                    && self.try_direct(direct, &[IoSlice::new(whole)], at)? =>
            {
                whole.len()
            }
            _ => 0,
        };
        self.buffered
            .write_all_at(&odd[whole..], at + whole as u64)?;
        write_all(&self.buffered, behind, at + odd.len() as u64)
    }

    /// Sees to it that `written` more bytes in the page cache do not wait there until the end: then everybody would wait
    /// for the storage. Only the thread that has gathered enough waits now.
    fn start_writeback(&self, written: u64) -> io::Result<()> {
        let before = self.cached.fetch_add(written, Ordering::Relaxed);
        if before < WRITEBACK && before + written >= WRITEBACK {
            self.buffered.sync_data()?;
            self.cached.store(0, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Writes with direct I/O; `false` when the file system turns out not to take it, and nothing may have been written.
    fn try_direct(&self, direct: &File, pieces: &[IoSlice<'_>], offset: u64) -> io::Result<bool> {
        match write_all(direct, pieces, offset) {
            Ok(()) => Ok(true),
            Err(e) if matches!(e.raw_os_error(), Some(22 | 95)) => {
                self.direct_works.store(false, Ordering::Relaxed);
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }
}

/// Writes all of `pieces`, however many calls that takes.
fn write_all(file: &File, pieces: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
    let total: u64 = pieces.iter().map(|p| p.len() as u64).sum();
    // More vectors than a call may have are written in several calls; so is the rest of a short write, piece by piece.
    let mut at = offset;
    for group in pieces.chunks(512) {
        let len: usize = group.iter().map(|p| p.len()).sum();
        let mut written = rustix::io::retry_on_intr(|| rustix::io::pwritev(file, group, at))?;
        if written < len {
            let mut start = at;
            for piece in group {
                let skip = written.min(piece.len());
                written -= skip;
                file.write_all_at(&piece[skip..], start + skip as u64)?;
                start += piece.len() as u64;
            }
        }
        at += len as u64;
    }
    debug_assert_eq!(at, offset + total);
    Ok(())
}

/// A second descriptor of the same file with `O_DIRECT`. The path goes through `/proc`, because the file may have no
/// name yet.
fn open_direct(file: &File) -> Option<File> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    File::options()
        .write(true)
        .custom_flags(OFlags::DIRECT.bits() as i32)
        .open(path)
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::AlignedBuffer;

    #[test]
    fn odd_ends_and_odd_memory_arrive_whole() {
        let file = tempfile::tempfile().unwrap();
        let dual = DualFile::new(file);
        let mut buffer = AlignedBuffer::new(1 << 20).unwrap();
        for (i, byte) in buffer.iter_mut().enumerate() {
            *byte = (i * 7 + i / 4096) as u8;
        }
        let lead = AlignedBuffer::new(4096).unwrap();
        for (start, len) in [
            (0, 1 << 20),
            (0, 100_001),
            (4096, 200_000),
            (1, 300_000),
            (0, 10),
            (0, 66_000),
        ] {
            let piece = &buffer[start..][..len - start];
            dual.write_pieces(&[IoSlice::new(&lead), IoSlice::new(piece)], 8192)
                .unwrap();
            let mut back = vec![0xEE; 4096 + piece.len()];
            dual.file().read_exact_at(&mut back, 8192).unwrap();
            assert!(back[..4096].iter().all(|b| *b == 0));
            assert!(&back[4096..] == piece, "{start} {len}");
        }
    }
}
