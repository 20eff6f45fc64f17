//! Hosted sparse extents with deflated grains: streamOptimized in its three layouts, and the one without markers.

use libdeflater::{CompressionLvl, Compressor};

use super::super::patch;
use super::{
    Built, COMPRESSED, Disk, GD_AT_END, Header, MARKERS, NEWLINE_TEST, ROOM, SECTOR, descriptor,
    put_descriptor, put_directory, sector,
};

/// Where the tables stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// In front of the grains; no footer (open-vmdk).
    Front,
    /// Behind the grains, and the footer says where (VirtualBox, vSphere).
    Tail,
    /// Both.
    Both,
    /// In front, and grains have nothing but their length before them.
    Unmarked,
}

/// Packs a grain.
pub type Pack = fn(&[u8]) -> Vec<u8>;

/// What a stream is to be like.
#[derive(Debug, Clone)]
pub struct Stream {
    pub layout: Layout,
    pub disk: Disk,
    pub entries: u64,
    pub pack: Pack,
}

impl Stream {
    pub fn of(layout: Layout) -> Stream {
        Stream {
            layout,
            disk: Disk::new(8, 512, false),
            entries: 512,
            pack: zlib,
        }
    }

    fn has_markers(&self) -> bool {
        self.layout != Layout::Unmarked
    }

    fn tables(&self) -> usize {
        self.disk.capacity.div_ceil(self.disk.grain * self.entries) as usize
    }

    pub fn build(&self) -> Built {
        let mut built = Built {
            bytes: vec![0; SECTOR],
            ..Built::default()
        };
        put_descriptor(
            &mut built,
            &descriptor("streamOptimized", self.disk.capacity, "SPARSE"),
        );
        let table_size = (self.entries as usize * 4).next_multiple_of(SECTOR);
        if self.layout != Layout::Tail {
            built.directory = built.bytes.len();
            let first = built.directory + (self.tables() * 4).next_multiple_of(SECTOR);
            built.tables = (0..self.tables()).map(|n| first + n * table_size).collect();
            built.bytes.resize(first + self.tables() * table_size, 0);
            put_directory(&mut built.bytes, built.directory, &built.tables);
        }
        let overhead = built.bytes.len();
        self.put_grains(&mut built);
        for (table, at) in built.tables.clone().into_iter().enumerate() {
            let bytes = self.table(&built, table);
            patch(&mut built.bytes, at, &bytes);
        }
        let header = |directory: usize| Header {
            version: 3,
            flags: NEWLINE_TEST | COMPRESSED | if self.has_markers() { MARKERS } else { 0 },
            capacity: self.disk.capacity,
            grain: self.disk.grain,
            descriptor: (1, ROOM as u64),
            entries: self.entries as u32,
            redundant: 0,
            directory: if directory == 0 {
                GD_AT_END
            } else {
                sector(directory)
            },
            overhead: sector(overhead),
        };
        patch(&mut built.bytes, 0, &header(built.directory).to_bytes());
        if matches!(self.layout, Layout::Tail | Layout::Both) {
            let front = (built.directory, built.tables.clone());
            self.put_tail(&mut built);
            put_marker(&mut built, 3, 1);
            built.footer = built.bytes.len();
            let tail = built.directory;
            built.bytes.extend(header(tail).to_bytes());
            if self.layout == Layout::Both {
                (built.directory, built.tables) = front;
            }
        }
        if self.has_markers() {
            built.bytes.resize(built.bytes.len() + SECTOR, 0);
        }
        built
    }

    fn put_grains(&self, built: &mut Built) {
        for (index, _) in self.disk.stored() {
            built.grains.push((index, built.bytes.len()));
            let packed = (self.pack)(&self.disk.data(index));
            if self.has_markers() {
                built.bytes.extend((index * self.disk.grain).to_le_bytes());
            }
            built.bytes.extend((packed.len() as u32).to_le_bytes());
            built.bytes.extend(packed);
            built.pad(SECTOR);
        }
    }

    /// The bytes of grain table `table`.
    fn table(&self, built: &Built, table: usize) -> Vec<u8> {
        let mut bytes = vec![0; (self.entries as usize * 4).next_multiple_of(SECTOR)];
        for (index, at) in &built.grains {
            if (index / self.entries) as usize == table {
                let within = (index % self.entries) as usize * 4;
                patch(&mut bytes, within, &(sector(*at) as u32).to_le_bytes());
            }
        }
        bytes
    }

    /// Tables and directory, each behind its marker. They become those that [`Built`] tells of.
    fn put_tail(&self, built: &mut Built) {
        built.tables = Vec::new();
        for table in 0..self.tables() {
            let bytes = self.table(built, table);
            put_marker(built, 1, sector(bytes.len()));
            built.tables.push(built.bytes.len());
            built.bytes.extend(bytes);
        }
        let len = (self.tables() * 4).next_multiple_of(SECTOR);
        put_marker(built, 2, sector(len));
        built.directory = built.bytes.len();
        built.bytes.resize(built.directory + len, 0);
        put_directory(&mut built.bytes, built.directory, &built.tables);
    }
}

fn put_marker(built: &mut Built, kind: u32, sectors: u64) {
    built.bytes.extend(marker(kind, sectors));
}

/// The marker in front of metadata of `sectors` sectors.
pub fn marker(kind: u32, sectors: u64) -> Vec<u8> {
    let mut bytes = sectors.to_le_bytes().to_vec();
    bytes.extend(0u32.to_le_bytes());
    bytes.extend(kind.to_le_bytes());
    bytes.resize(SECTOR, 0);
    bytes
}

/// A zlib stream of `content`.
pub fn zlib(content: &[u8]) -> Vec<u8> {
    let mut compressor = Compressor::new(CompressionLvl::default());
    let mut packed = vec![0; compressor.zlib_compress_bound(content.len())];
    let len = compressor
        .zlib_compress(content, &mut packed)
        .expect("room");
    packed.truncate(len);
    packed
}
