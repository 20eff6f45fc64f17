//! VHDs made by hand, from the description of the format and not with diskferry's own writer: the kinds that nothing else
//! here can make, such as differencing disks whose sector bitmaps are mixed.

use std::collections::BTreeMap;
use std::path::Path;

const SECTOR: usize = 512;
const BAT_OFFSET: usize = 1536;
const FIXED: u32 = 2;
const DYNAMIC: u32 = 3;
const DIFFERENCING: u32 = 4;

/// A dynamic or differencing disk.
pub struct Vhd {
    pub size: u64,
    pub block_size: usize,
    pub id: [u8; 16],
    /// Id and file name of the parent: this makes a differencing disk.
    pub parent: Option<([u8; 16], String)>,
    blocks: BTreeMap<u32, Block>,
}

/// What stands in one block of the file.
struct Block {
    /// One for each sector: whether its bit is set.
    present: Vec<bool>,
    data: Vec<u8>,
}

impl Vhd {
    pub fn new(size: u64, block_size: usize, id: u8) -> Vhd {
        Vhd {
            size,
            block_size,
            id: [id; 16],
            parent: None,
            blocks: BTreeMap::new(),
        }
    }

    /// As [`Vhd::new`], on the parent with the id `parent` that is called `name`.
    pub fn on(size: u64, block_size: usize, id: u8, parent: &Vhd, name: &str) -> Vhd {
        let mut child = Vhd::new(size, block_size, id);
        child.parent = Some((parent.id, name.to_owned()));
        child
    }

    /// Allocates block `index` with `data` in all of it; `present` tells for each sector whether its bit is set. What
    /// `data` holds in other sectors stands in the file, stale.
    pub fn block(&mut self, index: u32, data: Vec<u8>, present: impl Fn(usize) -> bool) {
        assert_eq!(data.len(), self.block_size);
        let present = (0..self.block_size / SECTOR).map(present).collect();
        self.blocks.insert(index, Block { present, data });
    }

    /// What the guest sees, over `parent` (what the guest sees of the parent; zeros for a dynamic disk).
    pub fn guest(&self, parent: &[u8]) -> Vec<u8> {
        let mut disk = parent.to_vec();
        disk.resize(self.size as usize, 0);
        for (index, block) in &self.blocks {
            let start = *index as usize * self.block_size;
            for (sector, present) in block.present.iter().enumerate() {
                let at = start + sector * SECTOR;
                if *present && at < disk.len() {
                    let from = sector * SECTOR;
                    disk[at..at + SECTOR].copy_from_slice(&block.data[from..from + SECTOR]);
                }
            }
        }
        disk
    }

    pub fn write(&self, path: &Path) {
        std::fs::write(path, self.bytes()).expect("write a VHD");
    }

    fn bytes(&self) -> Vec<u8> {
        let entries = self.size.div_ceil(self.block_size as u64) as usize;
        let bat_len = (entries * 4).next_multiple_of(SECTOR);
        let locator_offset = BAT_OFFSET + bat_len;
        let kind = match self.parent {
            Some(_) => DIFFERENCING,
            None => DYNAMIC,
        };
        let footer = footer(self.size, kind, SECTOR as u64, self.id);
        let mut bat = vec![0xFF; bat_len];
        let mut file = footer.to_vec();
        file.extend(self.header(entries as u32, locator_offset as u64));
        file.resize(locator_offset + SECTOR, 0);
        if let Some((_, name)) = &self.parent {
            let locator = relative_name(name);
            file[locator_offset..locator_offset + locator.len()].copy_from_slice(&locator);
        }
        for (index, block) in &self.blocks {
            let at = *index as usize * 4;
            bat[at..at + 4].copy_from_slice(&((file.len() / SECTOR) as u32).to_be_bytes());
            file.extend(bitmap(&block.present));
            file.extend(&block.data);
        }
        file[BAT_OFFSET..BAT_OFFSET + bat_len].copy_from_slice(&bat);
        file.extend(footer);
        file
    }

    fn header(&self, entries: u32, locator_offset: u64) -> [u8; 1024] {
        let mut header = [0; 1024];
        put(&mut header, 0, b"cxsparse");
        put(&mut header, 8, &[0xFF; 8]);
        put(&mut header, 16, &(BAT_OFFSET as u64).to_be_bytes());
        put(&mut header, 24, &0x0001_0000u32.to_be_bytes());
        put(&mut header, 28, &entries.to_be_bytes());
        put(&mut header, 32, &(self.block_size as u32).to_be_bytes());
        if let Some((id, name)) = &self.parent {
            put(&mut header, 40, id);
            let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_be_bytes).collect();
            put(&mut header, 64, &name);
            put(&mut header, 576, b"W2ru");
            put(&mut header, 580, &(SECTOR as u32).to_be_bytes());
            let len = relative_name(&self.parent.as_ref().expect("a parent").1).len();
            put(&mut header, 584, &(len as u32).to_be_bytes());
            put(&mut header, 592, &locator_offset.to_be_bytes());
        }
        let sum = checksum(&header);
        put(&mut header, 36, &sum);
        header
    }
}

/// The footer of a fixed disk of `size` bytes.
pub fn fixed_footer(size: u64, id: u8) -> [u8; SECTOR] {
    footer(size, FIXED, u64::MAX, [id; 16])
}

fn footer(size: u64, kind: u32, data_offset: u64, id: [u8; 16]) -> [u8; SECTOR] {
    let mut footer = [0; SECTOR];
    put(&mut footer, 0, b"conectix");
    put(&mut footer, 8, &2u32.to_be_bytes());
    put(&mut footer, 12, &0x0001_0000u32.to_be_bytes());
    put(&mut footer, 16, &data_offset.to_be_bytes());
    put(&mut footer, 28, b"win ");
    put(&mut footer, 32, &0x0006_0003u32.to_be_bytes());
    put(&mut footer, 36, b"Wi2k");
    put(&mut footer, 40, &size.to_be_bytes());
    put(&mut footer, 48, &size.to_be_bytes());
    let (cylinders, heads, sectors) = geometry(size);
    put(&mut footer, 56, &cylinders.to_be_bytes());
    put(&mut footer, 58, &[heads, sectors]);
    put(&mut footer, 60, &kind.to_be_bytes());
    put(&mut footer, 68, &id);
    let sum = checksum(&footer);
    put(&mut footer, 64, &sum);
    footer
}

/// Cylinders, heads and sectors for a disk of `size` bytes, by the appendix of the specification.
pub fn geometry(size: u64) -> (u16, u8, u8) {
    let total = (size / SECTOR as u64).min(65535 * 16 * 255);
    let (spt, heads, cth) = if total >= 65535 * 16 * 63 {
        (255, 16, total / 255)
    } else {
        let mut cth = total / 17;
        let mut heads = cth.div_ceil(1024).max(4);
        let mut spt = 17;
        if cth >= heads * 1024 || heads > 16 {
            (spt, heads, cth) = (31, 16, total / 31);
        }
        if cth >= heads * 1024 {
            (spt, heads, cth) = (63, 16, total / 63);
        }
        (spt, heads, cth)
    };
    ((cth / heads) as u16, heads as u8, spt as u8)
}

/// Cylinders, heads and sectors that a footer holds.
pub fn geometry_in(footer: &[u8]) -> (u16, u8, u8) {
    (
        u16::from_be_bytes([footer[56], footer[57]]),
        footer[58],
        footer[59],
    )
}

fn relative_name(name: &str) -> Vec<u8> {
    format!(".\\{name}")
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect()
}

/// The most significant bit of the first byte is the first sector.
fn bitmap(present: &[bool]) -> Vec<u8> {
    let mut bytes = vec![0; present.len().div_ceil(8).next_multiple_of(SECTOR)];
    for (sector, present) in present.iter().enumerate() {
        if *present {
            bytes[sector / 8] |= 0x80 >> (sector % 8);
        }
    }
    bytes
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let sum = bytes.iter().fold(0u32, |sum, b| sum + u32::from(*b));
    (!sum).to_be_bytes()
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}
