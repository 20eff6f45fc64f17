//! Ids and times of new images.

use std::time::{SystemTime, UNIX_EPOCH};

use formats::Identity;

/// Random and now.
pub fn random() -> Identity {
    Identity {
        id: uuid::Uuid::new_v4().into_bytes(),
        unix_time: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
    }
}

/// Made from the content of a disk of `size` bytes: the same disk has the same ids.
pub fn of_content(fingerprint: [u8; 32], size: u64, unix_time: u64) -> Identity {
    // The fingerprint knows no size: empty disks of two sizes are two disks.
    let mut hasher = blake3::Hasher::new();
    hasher.update(&fingerprint);
    hasher.update(&size.to_le_bytes());
    let mut id = [0; 16];
    id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    Identity {
        id: uuid::Builder::from_custom_bytes(id)
            .into_uuid()
            .into_bytes(),
        unix_time,
    }
}
