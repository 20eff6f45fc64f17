//! Small VMDKs of every kind, made byte by byte from what the format says, never with the code under test.

pub mod delta;
pub mod stream;

use std::ffi::OsString;
use std::sync::{Arc, OnceLock};

use formats::{ErrorKind, Format, MemoryStorage, StorageRef};

use self::delta::SeSparse;
use super::{Random, le32, le64, patch};

/// Bytes of a sector.
pub const SECTOR: usize = 512;

pub const NEWLINE_TEST: u32 = 1;
pub const REDUNDANT: u32 = 2;
pub const ZERO_GRAINS: u32 = 4;
pub const COMPRESSED: u32 = 0x1_0000;
pub const MARKERS: u32 = 0x2_0000;

/// "Only the footer says where the grain directory is."
pub const GD_AT_END: u64 = u64::MAX;

/// Sectors that are kept for a descriptor.
const ROOM: usize = 20;

/// What a grain of the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grain {
    Data,
    Zero,
    /// Given back by SCSI UNMAP: only seSparse tells.
    Unmapped,
}

/// What the guest sees.
#[derive(Debug, Clone)]
pub struct Disk {
    /// Sectors.
    pub capacity: u64,
    /// Sectors of a grain.
    pub grain: u64,
    /// Numbers of grains and what they are, ascending; the others are absent.
    pub grains: Vec<(u64, Grain)>,
}

impl Disk {
    /// A disk for two tables of `entries` entries, and of that a few grains; the last one is cut short by the disk's
    /// end unless grains are single sectors.
    pub fn new(grain: u64, entries: u64, with_zeros: bool) -> Disk {
        let mut grains: Vec<_> = [0, 1, 4, 5, entries - 1, entries, entries + 2]
            .map(|index| (index, Grain::Data))
            .to_vec();
        if with_zeros {
            grains.insert(2, (2, Grain::Zero));
        }
        Disk {
            capacity: (entries + 2) * grain + grain.div_ceil(2),
            grain,
            grains,
        }
    }

    pub fn grain_bytes(&self) -> usize {
        self.grain as usize * SECTOR
    }

    /// The whole grain `index`: every second one cannot be compressed. Zeros behind the end of the disk.
    pub fn data(&self, index: u64) -> Vec<u8> {
        let len = self.grain_bytes();
        let mut bytes = if index % 2 == 1 {
            Random::new(index).bytes(len)
        } else {
            (0..len)
                .map(|i| (i / 9 + index as usize + 1) as u8)
                .collect()
        };
        let end = self.capacity as usize * SECTOR;
        let there = end.saturating_sub(index as usize * len).min(len);
        bytes[there..].fill(0);
        bytes
    }

    /// All that the guest sees.
    pub fn content(&self) -> Vec<u8> {
        let mut content = vec![0; self.capacity as usize * SECTOR];
        for (index, _) in self.stored() {
            patch(
                &mut content,
                index as usize * self.grain_bytes(),
                &self.data(index),
            );
        }
        content
    }

    /// The grains that are data.
    pub fn stored(&self) -> impl Iterator<Item = (u64, Grain)> + '_ {
        self.grains
            .iter()
            .copied()
            .filter(|(_, what)| *what == Grain::Data)
    }
}

/// An image, and where in it things stand.
#[derive(Debug, Clone, Default)]
pub struct Built {
    pub bytes: Vec<u8>,
    /// The directory that the header (or the footer) names.
    pub directory: usize,
    /// The other one.
    pub redundant: usize,
    /// The tables of [`Built::directory`].
    pub tables: Vec<usize>,
    /// Number of a grain, and where it stands, with what belongs in front of it.
    pub grains: Vec<(u64, usize)>,
    pub footer: usize,
}

impl Built {
    /// Where grain `index` stands.
    pub fn grain(&self, index: u64) -> usize {
        let found = self.grains.iter().find(|(known, _)| *known == index);
        found.expect("a grain that is there").1
    }

    /// Overwrites what is at byte `at`.
    pub fn with(mut self, at: usize, bytes: &[u8]) -> Built {
        patch(&mut self.bytes, at, bytes);
        self
    }

    /// Cuts the file off at byte `len`.
    pub fn cut(mut self, len: usize) -> Built {
        self.bytes.truncate(len);
        self
    }

    fn pad(&mut self, unit: usize) {
        self.bytes
            .resize(self.bytes.len().next_multiple_of(unit), 0);
    }
}

/// The fields of the header of a hosted sparse extent, as they stand there: offsets and lengths in sectors.
#[derive(Debug, Clone, Copy)]
pub struct Header {
    pub version: u32,
    pub flags: u32,
    pub capacity: u64,
    pub grain: u64,
    pub descriptor: (u64, u64),
    pub entries: u32,
    pub redundant: u64,
    pub directory: u64,
    pub overhead: u64,
}

impl Header {
    pub fn to_bytes(self) -> Vec<u8> {
        let mut bytes = b"KDMV".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.flags.to_le_bytes());
        for field in [
            self.capacity,
            self.grain,
            self.descriptor.0,
            self.descriptor.1,
        ] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.extend(self.entries.to_le_bytes());
        for field in [self.redundant, self.directory, self.overhead] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.push(0);
        bytes.extend(b"\n \r\n");
        bytes.extend(u16::from(self.flags & COMPRESSED != 0).to_le_bytes());
        bytes.resize(SECTOR, 0);
        bytes
    }
}

/// A hosted sparse extent whose grains stand there as they are.
#[derive(Debug, Clone)]
pub struct Sparse {
    pub version: u32,
    pub flags: u32,
    pub disk: Disk,
    /// Entries of a grain table.
    pub entries: u64,
    pub descriptor: Option<String>,
}

impl Default for Sparse {
    /// Version 2, so that zeros can have an entry; two directories.
    fn default() -> Sparse {
        Sparse::of(8, 512)
    }
}

impl Sparse {
    /// As the default, with grains of `grain` sectors in tables of `entries` entries.
    pub fn of(grain: u64, entries: u64) -> Sparse {
        let disk = Disk::new(grain, entries, true);
        Sparse {
            version: 2,
            flags: NEWLINE_TEST | REDUNDANT | ZERO_GRAINS,
            descriptor: Some(descriptor("monolithicSparse", disk.capacity, "SPARSE")),
            disk,
            entries,
        }
    }

    /// A piece of a split disk: version 1, one directory, no descriptor inside.
    pub fn piece() -> Sparse {
        Sparse {
            version: 1,
            flags: NEWLINE_TEST,
            disk: Disk::new(8, 512, false),
            entries: 512,
            descriptor: None,
        }
    }

    pub fn build(&self) -> Built {
        let mut built = Built {
            bytes: vec![0; SECTOR],
            ..Built::default()
        };
        if let Some(text) = &self.descriptor {
            put_descriptor(&mut built, text);
        }
        let tables = self.disk.capacity.div_ceil(self.disk.grain * self.entries) as usize;
        let room = (tables * 4).next_multiple_of(SECTOR);
        let table_room = (self.entries as usize * 4).next_multiple_of(SECTOR);
        let copies = if self.flags & REDUNDANT == 0 { 1 } else { 2 };
        for copy in 0..copies {
            let directory = built.bytes.len();
            (built.redundant, built.directory) = match copy {
                0 => (directory, directory),
                _ => (built.redundant, directory),
            };
            built.tables = (0..tables)
                .map(|n| directory + room + n * table_room)
                .collect();
            built
                .bytes
                .resize(directory + room + tables * table_room, 0);
            put_directory(&mut built.bytes, directory, &built.tables);
        }
        built.pad(self.disk.grain_bytes());
        let overhead = built.bytes.len();
        for (index, _) in self.disk.stored() {
            built.grains.push((index, built.bytes.len()));
            built.bytes.extend(self.disk.data(index));
        }
        self.fill_tables(&mut built);
        let header = Header {
            version: self.version,
            flags: self.flags,
            capacity: self.disk.capacity,
            grain: self.disk.grain,
            descriptor: match self.descriptor {
                Some(_) => (1, ROOM as u64),
                None => (0, 0),
            },
            entries: self.entries as u32,
            redundant: if copies == 2 {
                sector(built.redundant)
            } else {
                0
            },
            directory: sector(built.directory),
            overhead: sector(overhead),
        };
        built.with(0, &header.to_bytes())
    }

    fn fill_tables(&self, built: &mut Built) {
        let zeros = self
            .disk
            .grains
            .iter()
            .filter(|(_, what)| *what == Grain::Zero);
        let mut entries: Vec<_> = zeros.map(|(index, _)| (*index, 1)).collect();
        entries.extend(built.grains.iter().map(|(index, at)| (*index, sector(*at))));
        // The redundant tables stand as far behind their directory as the others.
        for directory in [built.redundant, built.directory] {
            for (index, value) in &entries {
                let table =
                    built.tables[(index / self.entries) as usize] - built.directory + directory;
                let at = table + (index % self.entries) as usize * 4;
                patch(&mut built.bytes, at, &(*value as u32).to_le_bytes());
            }
        }
    }
}

/// The sector that byte `at` is the first of.
pub fn sector(at: usize) -> u64 {
    (at / SECTOR) as u64
}

/// The descriptor of a disk in one file.
pub fn descriptor(create_type: &str, capacity: u64, kind: &str) -> String {
    descriptor_of(create_type, &[&format!("RW {capacity} {kind} \"a.vmdk\"")])
}

/// The descriptor of a disk with these extent lines.
pub fn descriptor_of(create_type: &str, extents: &[&str]) -> String {
    format!(
        "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID=12345678\nparentCID=ffffffff\n\
         createType=\"{create_type}\"\n\n# Extent description\n{}\n\n# The Disk Data Base\n#DDB\n\n\
         ddb.adapterType = \"lsilogic\"\nddb.geometry.cylinders = \"1\"\nddb.virtualHWVersion = \"4\"\n",
        extents.join("\n")
    )
}

fn put_descriptor(built: &mut Built, text: &str) {
    let end = built.bytes.len() + ROOM * SECTOR;
    built.bytes.extend(text.as_bytes());
    assert!(built.bytes.len() <= end, "the descriptor has no room");
    built.bytes.resize(end, 0);
}

/// Entries of a directory at byte `at`, one for each of the `tables`; 0 for those at byte 0.
fn put_directory(image: &mut [u8], at: usize, tables: &[usize]) {
    for (index, table) in tables.iter().enumerate() {
        patch(
            image,
            at + index * 4,
            &(sector(*table) as u32).to_le_bytes(),
        );
    }
}

/// A descriptor that names an extent of every kind, all of them among [`files`].
pub fn split() -> String {
    let sectors = Sparse::piece().disk.capacity;
    let lines = [
        "RW 16 FLAT \"a-flat.vmdk\" 0".to_owned(),
        format!("RW {sectors} SPARSE \"a-s001.vmdk\""),
        "RW 100 ZERO".to_owned(),
        "RDONLY 8 VMFS \"a-flat.vmdk\" 3".to_owned(),
        format!(
            "RW {} VMFSSPARSE \"a-delta.vmdk\"",
            delta::Cowd::default().disk.capacity
        ),
        format!(
            "RW {} SESPARSE \"a-sesparse.vmdk\"",
            SeSparse::default().disk.capacity
        ),
    ];
    descriptor_of("custom", &lines.each_ref().map(String::as_str))
}

/// The content of `a-flat.vmdk`: 16 sectors.
pub fn flat() -> Vec<u8> {
    Random::new(5).bytes(16 * SECTOR)
}

/// The files that stand beside the images made here.
pub fn files() -> Vec<(OsString, StorageRef)> {
    static FILES: OnceLock<Vec<(OsString, StorageRef)>> = OnceLock::new();
    let made = FILES.get_or_init(|| {
        let files = [
            ("a-flat.vmdk", flat()),
            ("a-s001.vmdk", Sparse::piece().build().bytes),
            ("a-delta.vmdk", delta::Cowd::default().build().bytes),
            ("a-sesparse.vmdk", SeSparse::default().build().bytes),
        ];
        files
            .map(|(name, bytes)| (name.into(), memory(bytes)))
            .to_vec()
    });
    made.clone()
}

/// `bytes` as a file.
pub fn memory(bytes: Vec<u8>) -> StorageRef {
    Arc::new(MemoryStorage::new(bytes))
}

/// One of each kind.
pub fn kinds() -> Vec<(&'static str, Vec<u8>)> {
    use stream::{Layout, Stream};
    let stream = |layout| Stream::of(layout).build().bytes;
    vec![
        ("sparse.vmdk", Sparse::default().build().bytes),
        ("front.vmdk", stream(Layout::Front)),
        ("tail.vmdk", stream(Layout::Tail)),
        ("both.vmdk", stream(Layout::Both)),
        ("unmarked.vmdk", stream(Layout::Unmarked)),
        ("cowd.vmdk", delta::Cowd::default().build().bytes),
        ("sesparse.vmdk", SeSparse::default().build().bytes),
        ("split.vmdk", split().into_bytes()),
    ]
}

/// The first error on the way from the file to the end of the disk.
pub fn kind(image: &[u8]) -> Option<ErrorKind> {
    let image = super::open(image.to_vec(), Some(Format::Vmdk), false);
    let content = image.and_then(|image| super::content(&image));
    content.err().map(|error| error.kind())
}

#[track_caller]
pub fn fails(image: Built, expected: ErrorKind) {
    let (header, _) = image.bytes.split_at(image.bytes.len().min(80));
    assert_eq!(kind(&image.bytes), Some(expected), "{header:02x?}");
}

/// The parts of an image that are headers, tables and markers: offset and length.
pub fn structures(image: &[u8]) -> Vec<(usize, usize)> {
    let bytes = |sectors: u64| sectors.wrapping_mul(SECTOR as u64) as usize;
    let entry = |at: usize| bytes(le32(image, at).into());
    let from_directory = |at: usize| {
        let (table, other) = (entry(at), entry(at + 4));
        vec![(at, 8), (table, 32), (other, 16)]
    };
    match image.get(..4) {
        Some(b"KDMV") => {
            let footer = image.len() - 2 * SECTOR;
            let (header, at_end) = match le64(image, 56) {
                GD_AT_END => (footer, vec![(footer - SECTOR, 16), (footer, 80)]),
                _ => (0, Vec::new()),
            };
            let tables = from_directory(bytes(le64(image, header + 56)));
            let grains = [0, 4].map(|at| (entry(tables[1].0 + at), 20));
            let front = [(0, 80), (0, 80), (SECTOR, 400)];
            front
                .into_iter()
                .chain(at_end)
                .chain(tables)
                .chain(grains)
                .collect()
        }
        Some(b"COWD") => [vec![(0, 32)], from_directory(4 * SECTOR)].concat(),
        Some(b"# Di") => vec![(0, image.len())],
        _ => {
            let [directory, tables] = [16, 18].map(|field| bytes(le64(image, field * 8)));
            vec![
                (0, 208),
                (SeSparse::VOLATILE, 32),
                (directory, 16),
                (tables, 64),
            ]
        }
    }
}
