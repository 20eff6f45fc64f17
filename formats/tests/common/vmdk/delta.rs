//! The extents of ESX's deltas: COWD and seSparse.

use super::super::patch;
use super::{Built, Disk, Grain, SECTOR, put_directory, sector};

/// A copy-on-write extent.
#[derive(Debug, Clone)]
pub struct Cowd {
    pub disk: Disk,
    /// 1: no parent.
    pub flags: u32,
}

impl Default for Cowd {
    /// Grains of a sector, as everybody writes them; without a parent.
    fn default() -> Cowd {
        Cowd {
            disk: Disk::new(1, Cowd::ENTRIES, false),
            flags: 3,
        }
    }
}

impl Cowd {
    /// Entries of a grain table.
    pub const ENTRIES: u64 = 4096;

    pub fn build(&self) -> Built {
        let tables = self.disk.capacity.div_ceil(self.disk.grain * Cowd::ENTRIES) as usize;
        let table_size = Cowd::ENTRIES as usize * 4;
        let directory = 4 * SECTOR;
        let first = directory + (tables * 4).next_multiple_of(SECTOR);
        let mut built = Built {
            bytes: vec![0; first + tables * table_size],
            directory,
            tables: (0..tables).map(|n| first + n * table_size).collect(),
            ..Built::default()
        };
        put_directory(&mut built.bytes, directory, &built.tables);
        for (index, _) in self.disk.stored() {
            let at = built.bytes.len();
            built.grains.push((index, at));
            let table = built.tables[(index / Cowd::ENTRIES) as usize];
            let entry = table + (index % Cowd::ENTRIES) as usize * 4;
            patch(&mut built.bytes, entry, &(sector(at) as u32).to_le_bytes());
            built.bytes.extend(self.disk.data(index));
        }
        let fields = [
            1,
            self.flags,
            self.disk.capacity as u32,
            self.disk.grain as u32,
            4,
            tables as u32,
            sector(built.bytes.len()) as u32,
        ];
        patch(&mut built.bytes, 0, b"COWD");
        patch(&mut built.bytes, 4, &fields.map(u32::to_le_bytes).concat());
        built
    }
}

/// A space-efficient sparse extent.
#[derive(Debug, Clone)]
pub struct SeSparse {
    pub disk: Disk,
    /// Number of the first grain in the file: from 4096 on, entries use all of their parts.
    pub first: u64,
}

impl Default for SeSparse {
    fn default() -> SeSparse {
        let mut disk = Disk::new(8, SeSparse::ENTRIES, true);
        disk.grains.insert(3, (3, Grain::Unmapped));
        SeSparse { disk, first: 0 }
    }
}

impl SeSparse {
    /// Entries of a grain table.
    pub const ENTRIES: u64 = 4096;

    /// Where the volatile header stands.
    pub const VOLATILE: usize = SECTOR;

    pub fn build(&self) -> Built {
        let tables = self.disk.capacity.div_ceil(8 * SeSparse::ENTRIES) as usize;
        let table_size = SeSparse::ENTRIES as usize * 8;
        // Header, volatile header, journal header, two sectors of journal, then the directory.
        let directory = 5 * SECTOR;
        let first = directory + SECTOR;
        let bitmap = first + tables * table_size;
        let grains = (bitmap + 2 * SECTOR).next_multiple_of(self.disk.grain_bytes());
        let mut built = Built {
            bytes: vec![0; grains + self.first as usize * self.disk.grain_bytes()],
            directory,
            tables: (0..tables).map(|n| first + n * table_size).collect(),
            ..Built::default()
        };
        for index in 0..tables {
            let entry = 0x1000_0000_u64 << 32 | index as u64;
            patch(
                &mut built.bytes,
                directory + index * 8,
                &entry.to_le_bytes(),
            );
        }
        self.put_grains(&mut built);
        let room = sector(built.bytes.len() - grains);
        let fields: [u64; 26] = [
            0xCAFE_BABE,
            0x2_0000_0001,
            self.disk.capacity,
            8,
            64,
            0,
            0,
            0,
            0,
            0,
            sector(SeSparse::VOLATILE),
            1,
            2,
            1,
            3,
            2,
            sector(directory),
            1,
            sector(first),
            sector(tables * table_size),
            sector(bitmap),
            1,
            sector(bitmap) + 1,
            1,
            sector(grains),
            room,
        ];
        let volatile = [0xCAFE_CAFE, tables as u64, 1, 0_u64];
        let bytes = volatile.map(u64::to_le_bytes).concat();
        built
            .with(0, &fields.map(u64::to_le_bytes).concat())
            .with(SeSparse::VOLATILE, &bytes)
    }

    fn put_grains(&self, built: &mut Built) {
        let mut number = self.first;
        for (index, what) in &self.disk.grains {
            let value = match what {
                Grain::Unmapped => 1 << 60,
                Grain::Zero => 2 << 60,
                Grain::Data => {
                    built.grains.push((*index, built.bytes.len()));
                    built.bytes.extend(self.disk.data(*index));
                    number += 1;
                    SeSparse::entry(number - 1)
                }
            };
            let table = built.tables[(index / SeSparse::ENTRIES) as usize];
            let at = table + (index % SeSparse::ENTRIES) as usize * 8;
            patch(&mut built.bytes, at, &value.to_le_bytes());
        }
    }

    /// The entry for grain `number` of the file.
    pub fn entry(number: u64) -> u64 {
        3 << 60 | (number & 0xFFF) << 48 | number >> 12
    }
}
