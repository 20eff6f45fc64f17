//! The snapshot table: internal snapshots, each with an L1 table of its own (qcow2 spec, "Snapshots").

use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::header::Header;
use crate::error::{Error, Result};
use crate::storage::{Storage, read_array};

/// Most snapshots that an image has: a limit of QEMU.
const SNAPSHOTS_MAX: u32 = 65_536;
/// Most bytes that the table has: a limit of QEMU.
const TABLE_MAX_BYTES: u64 = 64 << 20;
/// Most bytes of extra data that an entry has: a limit of QEMU.
const EXTRA_MAX: u32 = 1024;
/// Bytes of an entry in front of its extra data.
const FIXED: usize = 40;

/// The fields that each entry has, as they stand on disk.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Fields {
    l1_offset: U64,
    l1_entries: U32,
    id_length: U16,
    name_length: U16,
    seconds: U32,
    nanoseconds: U32,
    vm_clock: U64,
    vm_state_size: U32,
    extra_length: U32,
}

/// An internal snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// What tells it from others.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// When it was made, in seconds since 1970 ...
    pub seconds: u32,
    /// ... and nanoseconds.
    pub nanoseconds: u32,
    /// Bytes of the saved state of the machine; 0 when there is none.
    pub vm_state_size: u64,
    /// Size of the disk in bytes, where the image says it: else that of the image.
    pub disk_size: Option<u64>,
    /// File offset of its L1 table. It is not checked.
    pub l1_offset: u64,
    /// Entries of its L1 table. They are not checked.
    pub l1_entries: u32,
}

/// The snapshot table of an image, read entry by entry. After an error there are no more.
pub struct Snapshots<'a> {
    storage: &'a dyn Storage,
    start: u64,
    at: u64,
    left: u32,
}

impl<'a> Snapshots<'a> {
    /// The table of the image in `storage`.
    ///
    /// # Errors
    /// `Limit` for more snapshots than anybody makes, `Malformed` when the table does not start with a cluster.
    pub fn new(storage: &'a dyn Storage, header: &Header) -> Result<Snapshots<'a>> {
        if header.snapshots > SNAPSHOTS_MAX {
            return Err(Error::limit("snapshot table", "has too many snapshots")
                .at(60)
                .found(header.snapshots)
                .expected(format!("at most {SNAPSHOTS_MAX}")));
        }
        let start = header.snapshots_offset;
        if header.snapshots > 0 && (start == 0 || !start.is_multiple_of(header.cluster_size())) {
            return Err(
                Error::malformed("snapshot table", "does not start with a cluster")
                    .at(64)
                    .found(format!("offset {start}"))
                    .expected(format!("a multiple of {}", header.cluster_size())),
            );
        }
        Ok(Snapshots {
            storage,
            start,
            at: start,
            left: header.snapshots,
        })
    }

    /// Bytes of the table up to the entry that comes next.
    pub fn bytes_read(&self) -> u64 {
        self.at - self.start
    }

    fn read(&mut self) -> Result<Snapshot> {
        let first: [u8; FIXED] = read_array(self.storage, self.at)?;
        let fields = Fields::read_from_bytes(&first)
            .map_err(|_| Error::truncated("snapshot table", "ends inside an entry"))?;
        let extra_length = fields.extra_length.get();
        if extra_length > EXTRA_MAX {
            return Err(Error::limit("snapshot table", "has too much extra data")
                .at(self.at)
                .found(format!("{extra_length} bytes"))
                .expected(format!("at most {EXTRA_MAX}")));
        }
        // At most 1024 and twice 65535.
        let lengths = [
            extra_length as usize,
            fields.id_length.get().into(),
            fields.name_length.get().into(),
        ];
        let mut rest = vec![0; lengths.iter().sum()];
        let len = FIXED as u64 + rest.len() as u64;
        if self.bytes_read() + len > TABLE_MAX_BYTES {
            return Err(Error::limit("snapshot table", "is larger than 64 MiB").at(self.start));
        }
        // The entry's first bytes are in the file: the sum fits.
        self.storage.read_at(&mut rest, self.at + FIXED as u64)?;
        self.at = self.at.saturating_add(len.next_multiple_of(8));
        let (extra, names) = rest.split_at(lengths[0]);
        let (id, name) = names.split_at(lengths[1]);
        let word = |at: usize| {
            let bytes = extra.get(at..)?.first_chunk()?;
            Some(u64::from_be_bytes(*bytes))
        };
        Ok(Snapshot {
            id: String::from_utf8_lossy(id).into_owned(),
            name: String::from_utf8_lossy(name).into_owned(),
            seconds: fields.seconds.get(),
            nanoseconds: fields.nanoseconds.get(),
            vm_state_size: word(0).unwrap_or(fields.vm_state_size.get().into()),
            disk_size: word(8),
            l1_offset: fields.l1_offset.get(),
            l1_entries: fields.l1_entries.get(),
        })
    }
}

impl Iterator for Snapshots<'_> {
    type Item = Result<Snapshot>;

    fn next(&mut self) -> Option<Result<Snapshot>> {
        self.left = self.left.checked_sub(1)?;
        let at = self.at;
        let snapshot = self.read().map_err(|e| match e.kind() {
            crate::ErrorKind::Truncated => {
                Error::truncated("snapshot table", "runs past the end of the file").at(at)
            }
            _ => e,
        });
        if snapshot.is_err() {
            self.left = 0;
        }
        Some(snapshot)
    }
}

/// All snapshots of the image with this header.
///
/// # Errors
/// As [`Snapshots::new`], and those of the entries.
pub fn all(storage: &dyn Storage, header: &Header) -> Result<Vec<Snapshot>> {
    if header.snapshots == 0 {
        return Ok(Vec::new());
    }
    Snapshots::new(storage, header)?.collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::storage::MemoryStorage;

    const TABLE: u64 = 512;

    fn header(snapshots: u32) -> Header {
        Header {
            snapshots,
            snapshots_offset: TABLE,
            cluster_bits: 9,
            ..super::super::header::tests::sample()
        }
    }

    fn entry(id: &str, name: &str, extra: &[u8]) -> Vec<u8> {
        let mut bytes = 0x2000u64.to_be_bytes().to_vec();
        bytes.extend(3u32.to_be_bytes());
        bytes.extend((id.len() as u16).to_be_bytes());
        bytes.extend((name.len() as u16).to_be_bytes());
        bytes.extend(1_700_000_000u32.to_be_bytes());
        bytes.extend(5u32.to_be_bytes());
        bytes.extend(9u64.to_be_bytes());
        bytes.extend(77u32.to_be_bytes());
        bytes.extend((extra.len() as u32).to_be_bytes());
        bytes.extend(extra);
        bytes.extend(id.as_bytes());
        bytes.extend(name.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    fn read(snapshots: u32, table: &[u8]) -> Result<Vec<Snapshot>> {
        let mut bytes = vec![0; TABLE as usize];
        bytes.extend(table);
        let storage = MemoryStorage::new(bytes);
        Snapshots::new(&storage, &header(snapshots))?.collect()
    }

    #[test]
    fn entries_of_every_length_follow_each_other() {
        let extra = [(8u64 << 32).to_be_bytes(), (6u64 << 20).to_be_bytes()].concat();
        let table = [
            entry("1", "before", &[]),
            entry("22", "after the update", &extra),
        ]
        .concat();
        let found = read(2, &table).unwrap();
        assert_eq!(
            (found[0].vm_state_size, found[0].disk_size, &*found[0].name),
            (77, None, "before")
        );
        assert_eq!((found[0].l1_offset, found[0].l1_entries), (0x2000, 3));
        assert_eq!(
            (found[1].vm_state_size, found[1].disk_size, &*found[1].id),
            (8 << 32, Some(6 << 20), "22")
        );
        assert_eq!(found[1].name, "after the update");
    }

    #[test]
    fn a_table_that_runs_out_of_the_file_is_truncated() {
        let table = entry("1", "one", &[]);
        assert_eq!(read(2, &table).unwrap_err().kind(), ErrorKind::Truncated);
        assert!(read(1, &table[..43]).is_err());
    }

    #[test]
    fn what_nobody_writes_is_over_the_limit() {
        let table = entry("1", "one", &[0; 1025]);
        assert_eq!(read(1, &table).unwrap_err().kind(), ErrorKind::Limit);
        assert_eq!(read(65_537, &table).unwrap_err().kind(), ErrorKind::Limit);
    }
}
