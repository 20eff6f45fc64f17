//! The one error of this crate.

use formats::ErrorKind;

/// Result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a transfer did not end well.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An image, or a file that is read or written, is at fault.
    #[error(transparent)]
    Image(#[from] formats::Error),
    /// The user stopped it.
    #[error("interrupted")]
    Interrupted,
    /// What was read back from the target is not what was read from the source.
    #[error(
        "verification failed: the target's content differs from what was read from the source; \
         the storage, or the memory of this machine, returned other bytes than were written"
    )]
    VerifyFailed,
}

impl Error {
    /// What sort of failure it is, if an image or a file is at fault.
    pub fn kind(&self) -> Option<ErrorKind> {
        match self {
            Error::Image(error) => Some(error.kind()),
            _ => None,
        }
    }
}
