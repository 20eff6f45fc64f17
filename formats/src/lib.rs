//! What disk images say: where the bytes of a virtual disk stand, and where the bytes of a copy go.
//!
//! A format is a map. Its reader only answers *where the bytes of this range are*; its writer only answers *where this
//! block goes* and, at the end, writes its tables. Neither opens threads, compresses, looks for zeros or loops over the
//! disk: that is the engine's business (`diskferry-transfer`), done once for every pair of formats.
//!
//! ```text
//!      file name ──probe──► Driver ──open──► Layer ─┐
//!                              │                    ├─ Stack ─► BlockSource: map(offset) → Run { len, Mapping }
//!                              │       parent's Layer ─┘             Absent · Zero · Stored{storage, offset} · Packed{…}
//!                              └──target──► BlockTarget: place(offset, len) → Placement · zero · finish → tables
//! ```
//!
//! The life of a reader: [`open()`] looks at the file ([`mod@probe`]), opens it with its [`Driver`], follows what it stands
//! on under a [`ReferencePolicy`], and answers with an [`Image`], whose `source` is one [`BlockSource`] whatever the
//! number of files. The life of a writer: [`Driver::target`] checks the limits of the format, `place` and `zero` are
//! called in ascending guest order, `finish` writes the tables that were not complete before.
//!
//! **`Absent` and `Zero` are never confused.** Over a parent they mean different things: "ask below" and "zeros".
//!
//! **Images are hostile.** Nothing here panics, loops or allocates without a bound on any input. A structure that
//! exists as a value was checked when it was parsed.
//!
//! | module | what it holds |
//! |---|---|
//! | [`source`], [`target`] | the two traits, [`Run`] and [`Mapping`], [`Placement`] |
//! | [`storage`] | files, block devices, slices of them, memory |
//! | [`in_place`] | changing files where they stand: plans, locks, what a crash leaves |
//! | [`resize`](mod@resize) | another size for an image that is there |
//! | [`parts`], [`unpacked`] | storages one behind the other; what a gzip, zstd or bzip2 file holds |
//! | [`mod@driver`] | the registry: one line a format |
//! | [`probe`](mod@probe), [`open`](mod@open), `chain`, [`reference`](mod@reference) | what a file is; opening chains; which named files are followed |
//! | [`stack`], [`delta`] | chains, pieces in a row, windows: disks made of disks; a layer of a chain alone |
//! | [`reader`], [`codec`] | from a run to its bytes |
//! | [`table`] | big tables, read by pages |
//! | [`options`] | `-o key=value` |
//! | [`budget`], [`slice_cache`] | memory that all layers of a chain share |
//! | `luks` | the encryption inside qcow2 images; [`Passphrase`] is what opens them |
//! | [`tar`], [`xva`] | the archive that packages are; the disks in exports of XenServer |
//! | [`raw`], [`vhd`], [`vhdx`], [`vmdk`], [`qcow2`], [`vdi`] | one folder a format, one file an on-disk structure |

mod block_set;
pub mod budget;
mod chain;
pub mod children;
pub mod codec;
pub mod delta;
pub mod driver;
mod error;
mod findings;
pub mod in_place;
mod joined;
mod luks;
pub mod open;
pub mod options;
mod overlap;
pub mod parts;
pub mod probe;
pub mod qcow2;
pub mod raw;
pub mod reader;
pub mod reference;
pub mod resize;
mod sector_bitmap;
pub mod slice_cache;
pub mod source;
pub mod stack;
pub mod storage;
pub mod table;
pub mod tar;
pub mod target;
pub mod unpacked;
mod utf16;
pub mod vdi;
pub mod vhd;
pub mod vhdx;
pub mod vmdk;
pub mod xva;

pub use codec::Codec;
pub use delta::Delta;
pub use driver::{
    CheckReport, DRIVERS, Detail, Driver, Finding, Format, ImageId, Layer, LayerChoice, LayerInfo,
    OpenContext, ParentReference, Repaired, driver, format_by_name,
};
pub use error::{Error, ErrorKind, Result};
pub use in_place::{Allocation, Ids, InPlace, InPlaceFile, Plan, Step};
pub use luks::Passphrase;
pub use open::{Image, LayerFile, open, open_storage};
pub use options::Options;
pub use parts::PartsStorage;
pub use probe::{format_by_extension, probe};
pub use reader::RunReader;
pub use reference::ReferencePolicy;
pub use source::{BlockSource, Mapping, Run, run_at};
pub use stack::{Concat, Patched, Stack, Window};
pub use storage::{FileStorage, MemoryStorage, SliceStorage, Storage, StorageRef, WritableStorage};
pub use target::{
    BlockTarget, Form, Identity, PART, PackWorker, Packer, Placement, Preallocation, Summary,
    TableWrite,
};
pub use unpacked::{Packing, UnpackedStorage};
