//! The snapshot table: older states of the disk inside the image (qcow2 spec, "Snapshots").

use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::header::Header;
use crate::error::{Error, Result};
use crate::storage::Storage;

const STRUCTURE: &str = "snapshot table";

/// Most snapshots of an image, a limit of QEMU.
const MOST: u32 = 65536;
/// Most bytes of the table, a limit of QEMU.
const MOST_BYTES: usize = 64 << 20;
/// Most bytes of extra data of a snapshot, a limit of QEMU.
const MOST_EXTRA: u32 = 1024;

/// The fixed part of an entry as it stands on disk.
#[derive(Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    l1_offset: U64,
    l1_entries: U32,
    id_length: U16,
    name_length: U16,
    seconds: U32,
    nanoseconds: U32,
    vm_clock: U64,
    vm_state_size: U32,
    extra_size: U32,
}

const FIXED: usize = size_of::<Raw>();

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its id, in practice a number.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was taken: seconds since 1970-01-01T00:00:00Z.
    pub seconds: u32,
    /// Nanoseconds besides.
    pub nanoseconds: u32,
    /// Bytes of the state of the VM that is kept with it, 0 when the VM was off.
    pub vm_state_size: u64,
    /// Guest-visible size in bytes, where the snapshot says it; otherwise it is that of the image.
    pub disk_size: Option<u64>,
    /// File offset of its L1 table.
    pub l1_offset: u64,
    /// Entries of its L1 table.
    pub l1_entries: u32,
}

/// The snapshots of the image with this header.
///
/// # Errors
/// `Truncated` when the table runs out of the file, `Limit` for more than QEMU takes, `Malformed` for what cannot be.
pub fn read(storage: &dyn Storage, header: &Header) -> Result<Vec<Snapshot>> {
    if header.snapshots == 0 {
        return Ok(Vec::new());
    }
    if header.snapshots > MOST {
        return Err(Error::limit(STRUCTURE, "the image has too many snapshots")
            .found(header.snapshots)
            .expected(format!("at most {MOST}")));
    }
    let start = header.snapshots_offset;
    if start == 0 || !start.is_multiple_of(header.cluster_size()) {
        return Err(Error::malformed(STRUCTURE, "does not start with a cluster").at(start));
    }
    let mut table = Reader {
        storage,
        start,
        at: start,
    };
    let mut snapshots = Vec::new();
    for _ in 0..header.snapshots {
        snapshots.push(table.next()?);
    }
    Ok(snapshots)
}

struct Reader<'a> {
    storage: &'a dyn Storage,
    start: u64,
    at: u64,
}

impl Reader<'_> {
    fn take(&mut self, len: usize) -> Result<Vec<u8>> {
        let end = self.at.checked_add(len as u64);
        if end.is_none_or(|end| end > self.storage.len()) {
            return Err(Error::truncated(STRUCTURE, "runs out of the file").at(self.at));
        }
        if end.is_none_or(|end| end - self.start > MOST_BYTES as u64) {
            return Err(Error::limit(STRUCTURE, "is too large")
                .at(self.at)
                .expected(format!("at most {MOST_BYTES} bytes")));
        }
        let mut bytes = vec![0; len];
        self.storage.read_at(&mut bytes, self.at)?;
        self.at += len as u64;
        Ok(bytes)
    }

    fn next(&mut self) -> Result<Snapshot> {
        let at = self.at;
        let fixed = self.take(FIXED)?;
        let raw = Raw::read_from_bytes(&fixed)
            .map_err(|_| Error::malformed(STRUCTURE, "has half an entry").at(at))?;
        let extra_size = raw.extra_size.get();
        if extra_size > MOST_EXTRA {
            return Err(Error::limit(STRUCTURE, "an entry has too much extra data")
                .at(at)
                .found(extra_size)
                .expected(format!("at most {MOST_EXTRA} bytes")));
        }
        let extra = self.take(extra_size as usize)?;
        let id = self.take(raw.id_length.get().into())?;
        let name = self.take(raw.name_length.get().into())?;
        // The next entry starts at a multiple of 8 from the first one.
        self.at = self.start + (self.at - self.start).next_multiple_of(8);
        let word = |index: usize| {
            let bytes: [u8; 8] = extra.get(index * 8..index * 8 + 8)?.try_into().ok()?;
            Some(u64::from_be_bytes(bytes))
        };
        Ok(Snapshot {
            id: String::from_utf8_lossy(&id).into_owned(),
            name: String::from_utf8_lossy(&name).into_owned(),
            seconds: raw.seconds.get(),
            nanoseconds: raw.nanoseconds.get(),
            vm_state_size: word(0).unwrap_or(raw.vm_state_size.get().into()),
            disk_size: word(1),
            l1_offset: raw.l1_offset.get(),
            l1_entries: raw.l1_entries.get(),
        })
    }
}

/// The snapshot that `wanted` names: by its id, or else by its name.
///
/// # Errors
/// `Usage` when there is none, or more than one of that name.
pub fn find<'a>(snapshots: &'a [Snapshot], wanted: &str) -> Result<&'a Snapshot> {
    if let Some(found) = snapshots.iter().find(|s| s.id == wanted) {
        return Ok(found);
    }
    let mut named = snapshots.iter().filter(|s| s.name == wanted);
    match (named.next(), named.next()) {
        (Some(found), None) => Ok(found),
        (Some(_), Some(_)) => Err(
            Error::usage("--snapshot", "several snapshots have this name")
                .found(format!("{wanted:?}"))
                .hint("name it by its id; info lists them"),
        ),
        _ => {
            let known: Vec<_> = snapshots.iter().map(|s| format!("{:?}", s.name)).collect();
            Err(Error::usage("--snapshot", "the image has no such snapshot")
                .found(format!("{wanted:?}"))
                .expected(if known.is_empty() {
                    "none: the image has no snapshots".to_owned()
                } else {
                    known.join(", ")
                }))
        }
    }
}

/// `header`, for the state of the disk that `snapshot` holds.
///
/// # Errors
/// `Malformed` or `Limit` when its L1 table cannot map its disk.
pub fn header_of(header: &Header, snapshot: &Snapshot) -> Result<Header> {
    let header = Header {
        size: snapshot.disk_size.unwrap_or(header.size),
        l1_offset: snapshot.l1_offset,
        l1_entries: snapshot.l1_entries,
        ..header.clone()
    };
    header.check_tables()?;
    Ok(header)
}
