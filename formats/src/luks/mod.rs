//! LUKS version 1, the encryption inside qcow2 images.
//!
//! ```text
//!  header, 592 bytes        key material of slot 0        …  slot 7
//! ┌───────────────────────┬────┬──────────────────────────┬───┬────────┐
//! │ cipher, mode, hash    │    │ the master key, split    │   │        │
//! │ digest of master key  │    │ into 4000 stripes, and   │ … │        │
//! │ 8 key slots           │    │ encrypted                │   │        │
//! └───────────────────────┴────┴──────────────────────────┴───┴────────┘
//!  passphrase ──PBKDF2, a slot's salt──► its key ──decrypts──► stripes ──merged──► master key ──► sectors of 512 bytes
//! ```
//!
//! Everything is big-endian. Where the encrypted sectors stand is the business of the format around it: in qcow2 they
//! are the data clusters, and a sector's number is its place in the file.
//!
//! | file | what it holds |
//! |---|---|
//! | `header` | the first 592 bytes, with the key slots |
//! | `cipher`, `hash` | which ciphers, modes and hashes are known, and what they are in RustCrypto's crates |
//! | `split` | the anti-forensic splitter, backwards |
//! | `unlock` | from a passphrase to the master key |
//! | `passphrase` | what the user gives |
//! | `storage` | a file whose sectors are decrypted when they are read |
//!
//! Source: "LUKS On-Disk Format Specification" 1.2.3 ("LUKS1 spec" in comments).

mod cipher;
mod hash;
mod header;
mod passphrase;
mod split;
mod storage;
mod unlock;

#[cfg(test)]
mod tests;

pub use header::Header;
pub use passphrase::Passphrase;
pub use storage::{DecryptingStorage, LockedStorage};
pub use unlock::unlock;
