//! A fixed disk becomes a dynamic one within its own file, on a volume that has no room for both.
//!
//! ```text
//!  fixed     │ block 0 │ zeros │ block 2 │ block 3 │ footer │
//!
//!  half way  │ block 0 │       │▒ block 2 ▒│▒ block 3 ▒│      │ plan · batch · record │
//!                       holes ─┴──────────────────────┘
//!  tables    │ tables │▒ block 0 ▒│▒ block 2 ▒│▒ block 3 ▒│ footer │    │ … record │
//!
//!  dynamic   │ tables │▒ block 0 ▒│▒ block 2 ▒│▒ block 3 ▒│ footer │          ▒ bitmap in front of a block
//! ```
//!
//! Blocks follow each other in their order, as in a dynamic disk that was written anew, and move a few at a time. Each batch
//! is written, synced and read back from the storage before a record says that it moved; only then is its old place made
//! a hole. Where a batch would write over itself, it is kept twice meanwhile.
//!
//! The record is the last sector of the file from the first moment to the last, in the place of the footer: nobody takes the
//! file for a VHD. Whenever it stops, the record says where to go on. The end is one step, too: the file is cut behind its
//! new footer.
//!
//! | file | what it is |
//! |---|---|
//! | `layout.rs` | where blocks go, in which order |
//! | `journal.rs` | the plan and the record on disk |
//! | `scan.rs` | which blocks hold something |
//! | `run.rs` | moving them |

mod journal;
mod layout;
mod run;
mod scan;
#[cfg(test)]
mod tests;

pub use journal::{half_converted, is_half_converted};
pub use run::{Conversion, Resumed, Start, check_holes};
pub use scan::{Scan, Used};

/// Guest bytes in a block of the dynamic disk.
pub const BLOCK_SIZE: u64 = 2 << 20;
