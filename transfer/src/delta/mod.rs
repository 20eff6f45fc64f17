//! What a delta defines, written into another image where it stands: `apply` and `merge`.
//!
//! ```text
//!   delta ──► pieces (data, zeros) ──► places for all that has none ──► data into its places ──► synced
//!   (one layer)                        a Plan: no crash changes more    over and over until the end
//!                                      than what the delta defines
//! ```
//!
//! Nothing but what the delta defines changes, and it changes to what the delta says: whoever is interrupted begins anew
//! and ends with the same.
//!
//! | file | what it does |
//! |---|---|
//! | `pieces.rs` | what a delta defines |
//! | `changing.rs` | an image that is changed again and again, locked all the time |
//! | `write.rs` | the delta into the image; reading it back |

mod changing;
mod pieces;
mod write;

pub use changing::{Changing, InFiles, Place};
pub use pieces::{Amount, Piece, Pieces, amount};
pub use write::{check, verify, write};
