//! Bytes in memory.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::{Storage, WritableStorage, check_range};
use crate::error::Result;

/// Bytes in memory: tests, fuzzing, and tables that were rebuilt.
#[derive(Debug)]
pub struct MemoryStorage {
    bytes: Vec<u8>,
    name: PathBuf,
}

impl MemoryStorage {
    /// A storage that holds `bytes`.
    pub fn new(bytes: Vec<u8>) -> MemoryStorage {
        MemoryStorage {
            bytes,
            name: PathBuf::from("(memory)"),
        }
    }
}

impl Storage for MemoryStorage {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn path(&self) -> &Path {
        &self.name
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(&self.name, self.len(), offset, buf.len())?;
        let start = offset as usize;
        buf.copy_from_slice(&self.bytes[start..start + buf.len()]);
        Ok(())
    }
}

/// A target in memory, for tests of the formats.
#[derive(Debug, Default)]
pub struct MemoryTarget(Mutex<Vec<u8>>);

impl MemoryTarget {
    /// What has been written.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap_or_else(|e| e.into_inner())
    }
}

impl WritableStorage for MemoryTarget {
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let mut all = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let start = offset as usize;
        let end = start + bytes.len();
        if all.len() < end {
            all.resize(end, 0);
        }
        all[start..end].copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let mut all = self.0.lock().unwrap_or_else(|e| e.into_inner());
        all.resize(len as usize, 0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn reading_past_the_end_is_truncated_not_short() {
        let memory = MemoryStorage::new(vec![7; 10]);
        let mut buf = [0; 4];
        memory.read_at(&mut buf, 6).unwrap();
        assert_eq!(
            memory.read_at(&mut buf, 7).unwrap_err().kind(),
            ErrorKind::Truncated
        );
        assert_eq!(
            memory.read_at(&mut buf, u64::MAX).unwrap_err().kind(),
            ErrorKind::Truncated
        );
    }
}
