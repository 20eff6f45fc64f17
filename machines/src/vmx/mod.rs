//! VMX files: what VMware's hosts keep of a machine, one `key = "value"` a line.
//!
//! | file | what it holds |
//! |---|---|
//! | `dictionary.rs` | the lines: encoding, quoting, escapes, keys in any case |
//! | `read.rs`, `devices.rs` | from keys to a machine |
//! | `write.rs` | back |

mod devices;
mod dictionary;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use dictionary::Dictionary;
pub use read::read;
pub use write::write;

/// What a VMX is called in errors.
const WHAT: &str = "VMX file";
