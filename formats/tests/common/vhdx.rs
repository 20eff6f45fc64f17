//! Small VHDXs, made byte by byte from what [MS-VHDX] says, never with the code under test.
//!
//! The file from front to back: identifier, two headers, two region tables (copies), log, metadata, BAT, then blocks
//! and sector bitmaps in the order in which they are first needed. Anything can be spoiled afterwards with
//! [`Built::with`], and made to look sound again with [`Built::summed`].

pub mod built;
pub mod log;
pub mod seen;
pub mod wrong;

use std::collections::BTreeMap;

pub use self::built::Built;
pub use self::seen::Content;
use super::{Random, patch};

pub const KIB: usize = 1 << 10;
pub const MIB: usize = 1 << 20;

/// Where the fixed part stands.
pub const HEADERS: [usize; 2] = [64 * KIB, 128 * KIB];
pub const REGIONS: [usize; 2] = [192 * KIB, 256 * KIB];

/// Where everything else stands here; in blocks of a MiB.
pub const LOG: usize = MIB;

/// States of blocks.
pub const NOT_PRESENT: u64 = 0;
pub const UNDEFINED: u64 = 1;
pub const ZERO: u64 = 2;
pub const UNMAPPED: u64 = 3;
pub const FULL: u64 = 6;
pub const PARTIAL: u64 = 7;

pub const BAT_GUID: &str = "2dc27766-f623-4200-9d64-115e9bfd4a08";
pub const METADATA_GUID: &str = "8b7ca206-4790-4b9a-b8fe-575f050f886e";

/// The ids of the images made here.
pub const FILE_WRITE: &str = "11111111-0000-4000-8000-000000000001";
pub const DATA_WRITE: &str = "22222222-0000-4000-8000-000000000002";
pub const DISK_ID: &str = "33333333-0000-4000-8000-000000000003";
pub const LOG_GUID: &str = "44444444-0000-4000-8000-000000000004";

const LOCATOR_TYPE: &str = "b04aefb7-d19e-4a81-b789-25b8e9445913";

/// A GUID as it stands on disk.
pub fn guid(text: &str) -> [u8; 16] {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'-').collect();
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        let pair = std::str::from_utf8(pair).expect("ASCII");
        *byte = u8::from_str_radix(pair, 16).expect("hexadecimal");
    }
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    bytes
}

/// A GUID as locators have it.
pub fn braced(text: &str) -> String {
    format!("{{{text}}}")
}

/// What the BAT says of a block.
#[derive(Debug, Clone)]
pub enum Block {
    /// A state without data, 0 to 3.
    State(u64),
    /// All of it is in this file.
    Full,
    /// These sectors are in this file: first and count.
    Partial(Vec<(u64, u64)>),
}

/// A metadata item.
#[derive(Debug, Clone)]
pub struct Item {
    pub guid: &'static str,
    pub flags: u32,
    pub data: Vec<u8>,
}

/// What an image is made of.
#[derive(Debug, Clone)]
pub struct Vhdx {
    pub size: u64,
    pub block_size: u32,
    /// Bytes of a logical sector.
    pub sector: u32,
    /// Whether blocks are to be left allocated.
    pub is_fixed: bool,
    /// What blocks there are; of all others nothing is said.
    pub blocks: BTreeMap<u64, Block>,
    /// The keys and values of the parent locator.
    pub parent: Option<Vec<(String, String)>>,
    pub data_write: &'static str,
    /// Makes the data of blocks different from that of other images.
    pub seed: u64,
    pub log_len: usize,
    /// Entries of the log, already as bytes, and where in it they start; they wrap.
    pub log: Vec<(usize, Vec<u8>)>,
    pub log_guid: [u8; 16],
    /// Sequence numbers of the two headers.
    pub sequences: [u64; 2],
    /// Metadata besides what every image has.
    pub further_items: Vec<Item>,
}

impl Vhdx {
    /// A dynamic image with sectors of 512 bytes that has these blocks of a MiB.
    pub fn new(size: u64, blocks: &[(u64, Block)]) -> Vhdx {
        Vhdx {
            size,
            block_size: MIB as u32,
            sector: 512,
            is_fixed: false,
            blocks: blocks.iter().cloned().collect(),
            parent: None,
            data_write: DATA_WRITE,
            seed: 0,
            log_len: MIB,
            log: Vec::new(),
            log_guid: [0; 16],
            sequences: [7, 8],
            further_items: Vec::new(),
        }
    }

    /// The same, over the parent `file`, which has this id.
    pub fn over(self, file: &str, data_write: &str) -> Vhdx {
        let entries = [
            ("parent_linkage", braced(data_write)),
            ("relative_path", format!(".\\{file}")),
            ("absolute_win32_path", format!("\\\\?\\c:\\vms\\{file}")),
        ];
        let entries = entries.map(|(key, value)| (key.to_owned(), value));
        Vhdx {
            parent: Some(entries.to_vec()),
            ..self
        }
    }

    /// The same with these log entries, which count.
    pub fn logged(self, log: Vec<(usize, Vec<u8>)>) -> Vhdx {
        Vhdx {
            log,
            log_guid: guid(LOG_GUID),
            ..self
        }
    }

    /// Payload blocks that one sector bitmap covers.
    pub fn chunk_ratio(&self) -> u64 {
        (1 << 23) * u64::from(self.sector) / u64::from(self.block_size)
    }

    pub fn block_count(&self) -> u64 {
        self.size.div_ceil(self.block_size.into())
    }

    /// Place in the BAT of payload block `block`.
    pub fn bat_index(&self, block: u64) -> u64 {
        block + block / self.chunk_ratio()
    }

    /// Place in the BAT of the sector bitmap for the chunk of `block`.
    pub fn bitmap_index(&self, block: u64) -> u64 {
        let chunk = block / self.chunk_ratio();
        chunk * (self.chunk_ratio() + 1) + self.chunk_ratio()
    }

    /// Entries that the BAT must have.
    pub fn bat_entries(&self) -> u64 {
        let chunks = self.block_count().div_ceil(self.chunk_ratio());
        match self.parent {
            Some(_) => chunks * (self.chunk_ratio() + 1),
            None => self.block_count() + self.block_count().saturating_sub(1) / self.chunk_ratio(),
        }
    }

    pub fn metadata_at(&self) -> usize {
        LOG + self.log_len
    }

    pub fn bat_at(&self) -> usize {
        self.metadata_at() + MIB
    }

    fn bat_len(&self) -> usize {
        // Room for the larger of both counts.
        let chunks = self.block_count().div_ceil(self.chunk_ratio());
        let entries = self.block_count() + chunks;
        let entries = entries.max(self.bat_entries()) as usize;
        (entries * 8).next_multiple_of(MIB).max(MIB)
    }

    /// Where the first block stands.
    pub fn data_at(&self) -> usize {
        self.bat_at() + self.bat_len()
    }

    /// The pages of 4 KiB that block `block` holds, by their offset in it; the rest of it is zeros.
    pub fn pages(&self, block: u64) -> Vec<(usize, Vec<u8>)> {
        let size = self.block_size as usize;
        let page = |at: usize| {
            let seed = self.seed * 1_000_003 + block * 1009 + (at / 4096) as u64 + 1;
            (at, Random::new(seed).bytes(4096))
        };
        [0, 4096, size / 2 - 4096, size / 2, size - 4096]
            .map(page)
            .to_vec()
    }

    fn items(&self) -> Vec<Item> {
        let parameters = [
            self.block_size.to_le_bytes(),
            (u32::from(self.is_fixed) | u32::from(self.parent.is_some()) << 1).to_le_bytes(),
        ];
        let item = |guid, flags, data: &[u8]| Item {
            guid,
            flags,
            data: data.to_vec(),
        };
        let mut items = vec![
            item(
                "caa16737-fa36-4d43-b3b6-33f0aa44e76b",
                4,
                parameters.as_flattened(),
            ),
            item(
                "2fa54224-cd1b-4876-b211-5dbed83bf4b8",
                6,
                &self.size.to_le_bytes(),
            ),
            item("beca12ab-b2e6-4523-93ef-c309e000c746", 6, &guid(DISK_ID)),
            item(
                "8141bf1d-a96f-4709-ba47-f233a8faab5f",
                6,
                &self.sector.to_le_bytes(),
            ),
            item(
                "cda348c7-445d-4471-9cc9-e9885251c556",
                6,
                &4096u32.to_le_bytes(),
            ),
        ];
        if let Some(entries) = &self.parent {
            let data = locator(entries);
            items.push(item("a8d35f2d-b30b-454d-abf7-d3d84834ab0c", 4, &data));
        }
        items.extend(self.further_items.clone());
        items
    }

    pub fn build(&self) -> Built {
        let mut front = vec![0; self.data_at()];
        patch(&mut front, 0, b"vhdxfile");
        patch(&mut front, 8, &utf16("made by hand"));
        for (at, sequence) in HEADERS.into_iter().zip(self.sequences) {
            patch(&mut front, at, &self.header(sequence));
        }
        for at in REGIONS {
            patch(&mut front, at, &self.region_table());
        }
        for (start, entry) in &self.log {
            for (byte, at) in entry.iter().zip(*start..) {
                front[LOG + at % self.log_len] = *byte;
            }
        }
        let items = self.items();
        let mut built = Built {
            items: Vec::new(),
            log: LOG..LOG + self.log_len,
            metadata: self.metadata_at(),
            bat: self.bat_at(),
            len: self.data_at(),
            front,
            blocks: Vec::new(),
        };
        built.put_metadata(&items);
        self.put_blocks(&mut built);
        built.summed()
    }

    fn header(&self, sequence: u64) -> Vec<u8> {
        let mut bytes = b"head\0\0\0\0".to_vec();
        bytes.extend(sequence.to_le_bytes());
        let mut file_write = guid(FILE_WRITE);
        file_write[15] ^= self.seed as u8;
        bytes.extend(file_write);
        bytes.extend(guid(self.data_write));
        bytes.extend(self.log_guid);
        bytes.extend([0, 0, 1, 0]);
        bytes.extend((self.log_len as u32).to_le_bytes());
        bytes.extend((LOG as u64).to_le_bytes());
        bytes
    }

    fn region_table(&self) -> Vec<u8> {
        let mut bytes = b"regi\0\0\0\0\x02\0\0\0\0\0\0\0".to_vec();
        for (name, at, len) in [
            (BAT_GUID, self.bat_at(), self.bat_len()),
            (METADATA_GUID, self.metadata_at(), MIB),
        ] {
            bytes.extend(region(name, at as u64, len as u32, 1));
        }
        bytes
    }

    /// Puts each block behind what is there, and behind the first partial one of a chunk its sector bitmap.
    fn put_blocks(&self, built: &mut Built) {
        let mut bitmaps: BTreeMap<u64, usize> = BTreeMap::new();
        for (index, block) in &self.blocks {
            let entry = match block {
                Block::State(state) => *state,
                Block::Full => built.append(self.block_size as usize) | FULL,
                Block::Partial(_) => built.append(self.block_size as usize) | PARTIAL,
            };
            built.set_bat(self.bat_index(*index), entry);
            let at = (entry & !0xF_FFFF) as usize;
            match block {
                Block::State(_) => {}
                Block::Full => self.put_pages(built, *index, at, |_| true),
                Block::Partial(sectors) => {
                    let chunk = *index / self.chunk_ratio();
                    let bitmap = *bitmaps.entry(chunk).or_insert_with(|| {
                        let bitmap = built.append(MIB);
                        built.set_bat(self.bitmap_index(*index), bitmap | FULL);
                        bitmap as usize
                    });
                    let first = *index % self.chunk_ratio() * u64::from(self.block_size)
                        / u64::from(self.sector);
                    for (start, count) in sectors {
                        for sector in first + start..first + start + count {
                            built.set_bit(bitmap, sector);
                        }
                    }
                    // What is not here stands there all the same, and must not be seen.
                    self.put_pages(built, *index, at, |_| true);
                }
            }
        }
    }

    fn put_pages(&self, built: &mut Built, index: u64, at: usize, wanted: fn(usize) -> bool) {
        for (within, page) in self.pages(index) {
            if wanted(within) {
                built.blocks.push((at + within, page));
            }
        }
    }

    /// What the guest sees, as pieces at ascending offsets with zeros between them, over `parent`'s.
    pub fn content(&self, parent: &Content) -> Content {
        let mut content = Content::default();
        let block_size = u64::from(self.block_size);
        for index in self.touched(parent) {
            let start = index * block_size;
            let mut bytes = match self.blocks.get(&index) {
                None | Some(Block::State(NOT_PRESENT)) => parent.read(start, self.block_size),
                Some(Block::State(_)) => continue,
                Some(Block::Full) => self.own(index),
                Some(Block::Partial(sectors)) => {
                    let own = self.own(index);
                    let mut bytes = parent.read(start, self.block_size);
                    for (first, count) in sectors {
                        let from = (first * u64::from(self.sector)) as usize;
                        let to = from + (count * u64::from(self.sector)) as usize;
                        bytes[from..to].copy_from_slice(&own[from..to]);
                    }
                    bytes
                }
            };
            bytes.truncate(self.size.saturating_sub(start).min(block_size) as usize);
            content.0.insert(start, bytes);
        }
        content
    }

    /// Blocks that may hold something.
    fn touched(&self, parent: &Content) -> Vec<u64> {
        let block_size = u64::from(self.block_size);
        let mut touched: Vec<u64> = self.blocks.keys().copied().collect();
        for (start, bytes) in &parent.0 {
            let end = (start + bytes.len() as u64).min(self.size);
            touched.extend(start / block_size..end.div_ceil(block_size));
        }
        touched.sort_unstable();
        touched.dedup();
        touched
    }

    /// All of block `index` as this file has it.
    pub fn own(&self, index: u64) -> Vec<u8> {
        let mut bytes = vec![0; self.block_size as usize];
        for (at, page) in self.pages(index) {
            patch(&mut bytes, at, &page);
        }
        bytes
    }
}

/// An entry of a region table.
pub fn region(name: &str, offset: u64, len: u32, required: u32) -> Vec<u8> {
    let mut bytes = guid(name).to_vec();
    bytes.extend(offset.to_le_bytes());
    bytes.extend(len.to_le_bytes());
    bytes.extend(required.to_le_bytes());
    bytes
}

/// A parent locator with these keys and values.
pub fn locator(entries: &[(String, String)]) -> Vec<u8> {
    let mut bytes = guid(LOCATOR_TYPE).to_vec();
    bytes.extend([0, 0]);
    bytes.extend((entries.len() as u16).to_le_bytes());
    let mut texts = Vec::new();
    let start = 20 + entries.len() * 12;
    for (key, value) in entries {
        let (key, value) = (utf16(key), utf16(value));
        let at = start + texts.len();
        bytes.extend((at as u32).to_le_bytes());
        bytes.extend(((at + key.len()) as u32).to_le_bytes());
        bytes.extend((key.len() as u16).to_le_bytes());
        bytes.extend((value.len() as u16).to_le_bytes());
        texts.extend(key);
        texts.extend(value);
    }
    bytes.extend(texts);
    bytes
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// One of each kind.
pub fn kinds() -> [(&'static str, Vec<u8>); 3] {
    let mib = MIB as u64;
    let blocks = [
        (0, Block::Full),
        (1, Block::State(ZERO)),
        (3, Block::Full),
        (4, Block::State(UNMAPPED)),
    ];
    let dynamic = Vhdx::new(5 * mib + 1536, &blocks);
    let partial = [
        (0, Block::Partial(vec![(0, 3), (9, 1), (2040, 8)])),
        (1, Block::Full),
        (2, Block::State(ZERO)),
    ];
    let child = Vhdx::new(4 * mib, &partial).over("base.vhdx", DISK_ID);
    [
        ("dynamic.vhdx", dynamic.build().bytes()),
        ("logged.vhdx", log::sample().build().bytes()),
        ("differencing.vhdx", child.build().bytes()),
    ]
}

/// The parts that are headers and tables: offset and length.
pub fn structures(image: &[u8]) -> Vec<(usize, usize)> {
    let (metadata, bat) = (2 * MIB, 3 * MIB);
    let items = metadata + 64 * KIB;
    let mut places = vec![
        (HEADERS[0], 96),
        (HEADERS[1], 96),
        (REGIONS[0], 96),
        (REGIONS[1], 96),
        (metadata, 256),
        (items, 384),
        (items, 384),
        (bat, 64),
        (bat, 64),
    ];
    if image.get(LOG..).is_some_and(|log| log.starts_with(b"loge")) {
        places.extend([(LOG, 192), (LOG, 192), (LOG + 4096, 16)]);
    }
    places
}
