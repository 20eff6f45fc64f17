//! Page-aligned memory, as direct I/O wants it.

use std::io;

use memmap2::{MmapMut, MmapOptions};

/// Alignment of offsets, lengths and memory that direct I/O is used with: a multiple of every logical block size.
pub const ALIGNMENT: u64 = 4096;

/// A zeroed, page-aligned buffer of a fixed length.
#[derive(Debug)]
pub struct AlignedBuffer(MmapMut);

impl AlignedBuffer {
    /// A buffer of `len` bytes.
    ///
    /// # Errors
    /// When the kernel gives no memory.
    pub fn new(len: usize) -> io::Result<AlignedBuffer> {
        MmapOptions::new()
            .len(len.max(1))
            .map_anon()
            .map(AlignedBuffer)
    }
}

impl std::ops::Deref for AlignedBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl std::ops::DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
