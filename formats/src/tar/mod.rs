//! The archive that OVA and XVA packages are: read by its headers alone, never unpacked.
//!
//! ```text
//!  ┌────────┬──────────────┬────────┬──────────────┬─────┬───────┬───────┐
//!  │ header │ data, padded │ header │ data, padded │  …  │ zeros │ zeros │     in blocks of 512 bytes
//!  └────────┴──────────────┴────────┴──────────────┴─────┴───────┴───────┘
//! ```
//!
//! Names of members are never used as names of files. Only plain members count: links, devices, pipes and sparse members
//! have no business in a package and are refused.

pub mod header;
pub mod members;

pub use header::{BLOCK, Header, Kind};
pub use members::{Member, Members};
