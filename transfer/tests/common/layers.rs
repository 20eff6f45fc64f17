//! Layers of chains, byte for byte in memory, and images of them.

// Each test file uses a part of this.
#![allow(dead_code)]

use std::ops::Range;
use std::sync::Arc;

use formats::open::stacked;
use formats::{
    BlockSource, Format, Image, LayerFile, LayerInfo, Mapping, MemoryStorage, Result, Run,
    StorageRef,
};

/// Numbers that look random and are the same on every machine.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        // xorshift64*, by G. Marsaglia and S. Vigna.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) % end
    }
}

/// Bytes of a sector.
const SECTOR: usize = 512;

/// What a layer defines: sectors that are all of one byte, or nothing. The last one may be cut.
#[derive(Clone)]
pub struct Model {
    sectors: Arc<Vec<Option<u8>>>,
    size: usize,
}

impl Model {
    /// A layer of `size` bytes with these sectors.
    pub fn new(sectors: Vec<Option<u8>>, size: usize) -> Model {
        assert_eq!(sectors.len(), size.div_ceil(SECTOR));
        Model {
            sectors: Arc::new(sectors),
            size,
        }
    }

    /// A layer of `size` bytes that are all the same.
    pub fn filled(byte: Option<u8>, size: usize) -> Model {
        Model::new(vec![byte; size.div_ceil(SECTOR)], size)
    }

    /// One to five layers, the tip first, each of a size of its own: a multiple of `unit` bytes, or by a few bytes less.
    pub fn chain(random: &mut Rng, unit: u64) -> Vec<Model> {
        let count = 1 + random.below(5);
        let usual = 1 + random.below(9000);
        (0..count)
            .map(|_| {
                // Most have the same size, as in life.
                let sectors = match random.below(3) {
                    0 => 1 + random.below(9000),
                    _ => usual,
                };
                let odd = match random.below(4) {
                    0 => random.below(512) / unit * unit,
                    _ => 0,
                };
                Model::layer(random, sectors as usize * SECTOR - odd as usize)
            })
            .collect()
    }

    /// A layer of runs of sectors, short or long: left out, zeros, data.
    fn layer(random: &mut Rng, size: usize) -> Model {
        let longest = [3, 40, 600, 5000][random.below(4) as usize];
        let count = size.div_ceil(SECTOR);
        let mut sectors = Vec::with_capacity(count);
        while sectors.len() < count {
            let end = sectors.len() + 1 + random.below(longest) as usize;
            let byte = match random.below(6) {
                0..3 => None,
                3 => Some(0),
                _ => Some(1 + random.below(255) as u8),
            };
            sectors.resize(end.min(count), byte);
        }
        Model::new(sectors, size)
    }

    pub fn size(&self) -> u64 {
        self.size as u64
    }

    /// The bytes of each sector that it defines; none for the others.
    pub fn sectors(&self) -> impl Iterator<Item = (Range<usize>, Option<u8>)> {
        let starts = (0..self.size).step_by(SECTOR);
        let ranges = starts.map(|start| start..(start + SECTOR).min(self.size));
        ranges.zip(self.sectors.iter().copied())
    }

    /// Whether it leaves anything out.
    pub fn is_delta(&self) -> bool {
        self.sectors.iter().any(Option::is_none)
    }

    /// Whether it defines any sector of `range`, which starts with one.
    pub fn defines(&self, range: Range<u64>) -> bool {
        let end = range.end.min(self.size()).div_ceil(SECTOR as u64);
        let sectors = &self.sectors[range.start as usize / SECTOR..end as usize];
        sectors.iter().any(Option::is_some)
    }

    /// The disk of a chain, the tip first.
    pub fn flat(layers: &[Model]) -> Vec<u8> {
        let mut disk: Vec<u8> = Vec::new();
        for layer in layers.iter().rev() {
            disk.resize(layer.size, 0);
            for (range, byte) in layer.sectors() {
                if let Some(byte) = byte {
                    disk[range].fill(byte);
                }
            }
        }
        disk
    }
}

/// The layer as a disk, with its bytes in memory.
struct Layer {
    model: Model,
    storage: StorageRef,
}

impl BlockSource for Layer {
    fn size(&self) -> u64 {
        self.model.size()
    }

    fn block_size(&self) -> u64 {
        512
    }

    fn map(&self, offset: u64, limit: u64) -> Result<Run> {
        let first = offset as usize / SECTOR;
        let sectors = &self.model.sectors[first..];
        // Zeros that are said, and zeros that are stored.
        let kind = |index: usize, byte: Option<u8>| match byte {
            None => 0,
            Some(0) if index % 7 < 5 => 1,
            Some(_) => 2,
        };
        let own = kind(first, sectors[0]);
        let numbered = (first..).zip(sectors);
        let same = numbered.take_while(|(index, byte)| kind(*index, **byte) == own);
        let end = ((first + same.count()) * SECTOR) as u64;
        let mapping = match own {
            0 => Mapping::Absent,
            1 => Mapping::Zero,
            _ => Mapping::Stored {
                storage: self.storage.clone(),
                offset,
            },
        };
        Ok(Run::new((end - offset).min(limit), mapping))
    }
}

/// The chain as if it were of files, the tip first.
pub fn image_of(models: &[Model]) -> Image {
    let layers: Vec<LayerFile> = models
        .iter()
        .enumerate()
        .map(|(number, model)| {
            let mut bytes = vec![0xEE; model.size];
            for (range, byte) in model.sectors() {
                bytes[range].fill(byte.unwrap_or(0xEE));
            }
            let storage: StorageRef = Arc::new(MemoryStorage::new(bytes));
            LayerFile {
                path: format!("layer{number}").into(),
                info: LayerInfo::new(Format::Raw, "model"),
                source: Arc::new(Layer {
                    model: model.clone(),
                    storage: storage.clone(),
                }),
                storage,
                further: Vec::new(),
                parent: None,
            }
        })
        .collect();
    let sources = layers.iter().map(|layer| layer.source.clone()).collect();
    Image {
        source: stacked(sources).expect("a layer"),
        storages: layers.iter().map(|layer| layer.storage.clone()).collect(),
        layers,
    }
}
