//! The engine: moves the bytes that the formats point at.
//!
//! ```text
//!            map                          place
//!  BlockSource ──► segments of 2 MiB, in parallel: ──► in guest order: ──► in parallel: ──► Output
//!                  read · unpack · zero? · hash        BlockTarget::place    store          file · device · pipe
//!                                                      digest
//! ```
//!
//! Every pair of formats goes through the one [`pass`]; converting, digesting and verifying are the same pass with
//! different things asked of it. [`compare`](mod@compare) runs two disks side by side over the same [`pipeline`].
//!
//! What callers may rely on:
//! * **Order.** Blocks are placed in guest order whatever the number of threads: the same content makes the same file.
//! * **Memory.** One segment a worker is in flight; the map is asked for just ahead of the copy.
//! * **Whole or absent.** A target file has its name only when it is complete, synced and, if asked for, verified.
//! * **Stopping.** `cancel` is looked at between segments; every way out removes what was begun.
//!
//! | module | what it does |
//! |---|---|
//! | [`chain`] | every layer of a chain into an image of its own |
//! | [`copy`](mod@copy), [`identity`] | one disk into one output: pass, head, tables |
//! | [`convert`](mod@convert), [`refusals`], [`verify`](mod@verify) | what may be written to; the copy; reading it back; putting it in place |
//! | [`pass`], [`place`], [`store`] | one pass over a disk; telling the target; from placements to writes |
//! | [`packing`], [`overlay`] | blocks that are deflated before they have a place; only what differs from the image below |
//! | [`segments`], [`pipeline`] | cutting a disk into segments; workers and the order among them |
//! | [`mod@digest`], [`affordable`] | BLAKE3 in parallel, other digests in order, the fingerprint of content |
//! | [`compare`](mod@compare), [`count`], [`check`](mod@check) | two disks side by side; how much is data; what is damaged |
//! | [`partitions`], [`resize`](mod@resize) | what partition tables say; what is lost when a disk becomes smaller |
//! | [`output`] | files, devices, pipes; direct I/O |
//! | [`same_storage`] | whether a target is its own source under another name |
//! | [`zero`], [`buffer`], [`reflink`], [`salvage`], [`progress`] | small tools |

pub mod affordable;
pub mod buffer;
pub mod chain;
pub mod check;
pub mod compare;
pub mod convert;
pub mod copy;
pub mod count;
pub mod digest;
mod error;
pub mod identity;
pub mod output;
pub mod overlay;
pub mod packing;
pub mod partitions;
pub mod pass;
pub mod pipeline;
pub mod place;
pub mod progress;
pub mod reflink;
pub mod refusals;
pub mod resize;
pub mod salvage;
pub mod same_storage;
pub mod segments;
pub mod store;
pub mod verify;
pub mod zero;

pub use chain::{ChainPlace, LayerDone, convert_chain};
pub use check::{Unpack, check, check_structures, repair};
pub use compare::{Comparison, Difference, compare};
pub use convert::{Converted, Measured, Place, convert, digest, measure};
pub use copy::{Condition, Copied, Copy, CopyOptions};
pub use digest::Algorithm;
pub use error::{Error, Result};
pub use pass::Setting;
pub use progress::Progress;
pub use salvage::{Hole, Losses, Salvage};
