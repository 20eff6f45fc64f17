//! The file identifier: the first 64 KiB of the file ([MS-VHDX] 2.2.1).

use crate::error::Result;
use crate::storage::{Storage, read_array};
use crate::utf16;

/// What every VHDX starts with.
pub const SIGNATURE: [u8; 8] = *b"vhdxfile";

/// Bytes of the creator, in UTF-16LE.
const CREATOR_LEN: usize = 512;

/// The program that made the file, if it says so in readable text.
///
/// # Errors
/// Those of the storage.
pub fn creator(storage: &dyn Storage) -> Result<Option<String>> {
    let bytes: [u8; CREATOR_LEN] = read_array(storage, SIGNATURE.len() as u64)?;
    Ok(utf16::decode(&bytes, u16::from_le_bytes))
}

/// The identifier of a file that `creator` makes, cut where it has no more room.
pub fn to_bytes(creator: &str) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend(utf16::encode_le(creator).into_iter().take(CREATOR_LEN));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    #[test]
    fn the_creator_is_what_was_written() {
        let mut bytes = to_bytes("diskferry 1");
        bytes.resize(65536, 0);
        let found = creator(&MemoryStorage::new(bytes)).unwrap();
        assert_eq!(found.as_deref(), Some("diskferry 1"));
        assert_eq!(to_bytes(&"x".repeat(300)).len(), 8 + CREATOR_LEN);
    }

    #[test]
    fn no_creator_and_one_that_is_no_text_are_none() {
        let mut bytes = to_bytes("");
        bytes.resize(65536, 0);
        assert_eq!(creator(&MemoryStorage::new(bytes.clone())).unwrap(), None);
        bytes[8..12].copy_from_slice(&[0, 0xD8, 1, 0]);
        assert_eq!(creator(&MemoryStorage::new(bytes)).unwrap(), None);
    }
}
