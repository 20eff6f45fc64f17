//! A block device as the target.

use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use formats::{Error, FileStorage, Result, Storage, StorageRef, WritableStorage};
use rustix::fs::{FallocateFlags, OFlags};

use super::Output;
use super::direct::DualFile;
use crate::buffer::ALIGNMENT;
use crate::zero::ZEROS;

/// Bytes at the front of the device that are written last, so that a copy that broke off does not look like a disk.
const HEAD: usize = ALIGNMENT as usize;

/// A block device that is written over.
///
/// Its first 4 KiB are zeroed before anything else and written at the very end: a device has no temporary name, and
/// this is what stands in for it.
#[derive(Debug)]
pub struct DeviceOutput {
    file: DualFile,
    path: PathBuf,
    len: u64,
    head: Mutex<Vec<u8>>,
}

impl DeviceOutput {
    /// Opens the device at `path` for a disk of `size` bytes. Nothing is written yet.
    ///
    /// # Errors
    /// `Refused` when the device is too small, or in use (mounted, part of a volume group, attached elsewhere); `Io`.
    pub fn open(path: &Path, size: u64) -> Result<DeviceOutput> {
        // O_EXCL without O_CREAT: on a block device it means "nobody else".
        let file = File::options()
            .read(true)
            .write(true)
            .custom_flags(OFlags::EXCL.bits() as i32)
            .open(path)
            .map_err(|e| match e.kind() {
                io::ErrorKind::ResourceBusy => {
                    Error::refused("target device", "is in use (mounted or claimed)")
                        .hint("unmount or detach it first")
                        .in_file(path)
                }
                _ => Error::io("open the device", e).in_file(path),
            })?;
        let reading = file
            .try_clone()
            .map_err(|e| Error::io("open the device", e).in_file(path))?;
        let len = FileStorage::from_file(reading, path)?.len();
        if len < size {
            return Err(Error::refused("target device", "is too small for the disk")
                .found(format!("{len} bytes"))
                .expected(format!("at least {size} bytes"))
                .in_file(path));
        }
        Ok(DeviceOutput {
            file: DualFile::new(file),
            path: path.to_owned(),
            len,
            head: Mutex::new(vec![0; HEAD.min(size as usize)]),
        })
    }

    /// Size of the device in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the device has no byte at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Makes the front of the device unusable until [`DeviceOutput::commit`].
    ///
    /// # Errors
    /// `Io`.
    pub fn begin(&self) -> Result<()> {
        let len = self.head().len();
        self.write_through(&ZEROS[..len], 0)?;
        self.sync()
    }

    /// Writes what was held back; then the disk is whole.
    ///
    /// # Errors
    /// `Io`.
    pub fn commit(&self) -> Result<()> {
        // What stands behind must be on the storage before the front says that it is a disk.
        self.sync()?;
        let head = self.head().clone();
        self.write_through(&head, 0)?;
        self.sync()
    }

    fn head(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.head.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn write_through(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.file
            .file()
            .write_all_at(bytes, offset)
            .map_err(|e| self.error("write", e).at(offset))
    }

    fn write_zeros(&self, range: Range<u64>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let len = (range.end - at).min(ZEROS.len() as u64);
            self.write_through(&ZEROS[..len as usize], at)?;
            at += len;
        }
        Ok(())
    }

    fn error(&self, operation: &'static str, e: io::Error) -> Error {
        Error::io(operation, e)
            .hint("the device is not a usable disk now: its front was cleared before the copy")
            .in_file(&self.path)
    }

    /// Keeps what belongs to the head; answers how much of `bytes` that is.
    fn keep_head(&self, bytes: &[u8], offset: u64) -> usize {
        let mut head = self.head();
        let Some(room) = head.get_mut(offset.min(HEAD as u64) as usize..) else {
            return 0;
        };
        let len = room.len().min(bytes.len());
        room[..len].copy_from_slice(&bytes[..len]);
        len
    }
}

impl WritableStorage for DeviceOutput {
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.write_pieces(&[IoSlice::new(bytes)], offset)
    }

    fn set_len(&self, _len: u64) -> Result<()> {
        Ok(())
    }
}

impl Output for DeviceOutput {
    fn write_pieces(&self, pieces: &[IoSlice<'_>], mut offset: u64) -> Result<()> {
        let mut rest = Vec::with_capacity(pieces.len());
        let mut start = offset;
        for piece in pieces {
            let kept = self.keep_head(piece, offset);
            if kept == piece.len() {
                start += kept as u64;
            } else {
                start += kept as u64;
                rest.push(IoSlice::new(&piece[kept..]));
            }
            offset += piece.len() as u64;
        }
        if rest.is_empty() {
            return Ok(());
        }
        self.file
            .write_pieces(&rest, start)
            .map_err(|e| self.error("write", e).at(start))
    }

    /// Zeros that are sure to be zeros: a discard only promises that the old bytes may be gone.
    fn zero_range(&self, range: Range<u64>) -> Result<()> {
        let start = range.start.max(HEAD as u64);
        if start >= range.end {
            return Ok(());
        }
        // Whole blocks by the kernel (BLKZEROOUT behind it), the odd ends by hand.
        let whole = start.next_multiple_of(ALIGNMENT)..range.end / ALIGNMENT * ALIGNMENT;
        if whole.is_empty() {
            return self.write_zeros(start..range.end);
        }
        self.write_zeros(start..whole.start)?;
        let zeroed = rustix::fs::fallocate(
            self.file.file(),
            FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
            whole.start,
            whole.end - whole.start,
        );
        if zeroed.is_err() {
            self.write_zeros(whole.clone())?;
        }
        self.write_zeros(whole.end..range.end)
    }

    fn sync(&self) -> Result<()> {
        self.file
            .file()
            .sync_data()
            .map_err(|e| self.error("sync", e))
    }

    fn read_back(&self) -> Result<StorageRef> {
        let file = self
            .file
            .read_back()
            .map_err(|e| self.error("read back", e))?;
        Ok(Arc::new(FileStorage::from_file(file, &self.path)?))
    }
}
