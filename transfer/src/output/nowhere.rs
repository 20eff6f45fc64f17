//! Nothing is stored: for finding out how large a target would become.

use std::io::IoSlice;
use std::ops::Range;

use formats::{Error, Result, StorageRef, WritableStorage};

use super::Output;

/// An output that forgets everything.
pub struct Nowhere;

impl WritableStorage for Nowhere {
    fn write_at(&self, _bytes: &[u8], _offset: u64) -> Result<()> {
        Ok(())
    }

    fn set_len(&self, _len: u64) -> Result<()> {
        Ok(())
    }
}

impl Output for Nowhere {
    fn write_pieces(&self, _pieces: &[IoSlice<'_>], _offset: u64) -> Result<()> {
        Ok(())
    }

    fn zero_range(&self, _range: Range<u64>) -> Result<()> {
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn read_back(&self) -> Result<StorageRef> {
        Err(Error::refused(
            "measuring",
            "stores nothing that could be read back",
        ))
    }
}
