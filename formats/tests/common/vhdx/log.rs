//! Entries of a VHDX's log.

use super::super::patch;
use super::{Block, LOG_GUID, MIB, Vhdx, guid};

/// Bytes of a sector of the log.
pub const SECTOR: usize = 4096;

/// One change that an entry describes.
#[derive(Debug, Clone)]
pub enum Change {
    /// 4 KiB of the file become these bytes.
    Data(u64, Vec<u8>),
    /// So many bytes of the file become zeros: offset and length.
    Zero(u64, u64),
}

/// An entry as it stands in the log.
#[derive(Debug, Clone)]
pub struct Entry {
    pub guid: [u8; 16],
    pub sequence: u64,
    /// Byte offset in the log of the oldest entry that counts.
    pub tail: u32,
    pub flushed: u64,
    pub last: u64,
    pub changes: Vec<Change>,
}

impl Entry {
    /// An entry of a file of `len` bytes that is the first of its sequence and stands at byte `tail` of the log.
    pub fn new(sequence: u64, tail: usize, len: usize, changes: Vec<Change>) -> Entry {
        Entry {
            guid: guid(LOG_GUID),
            sequence,
            tail: tail as u32,
            flushed: len as u64,
            last: len as u64,
            changes,
        }
    }

    /// Bytes that the entry takes in the log.
    pub fn len(&self) -> usize {
        let data = |change: &&Change| matches!(change, Change::Data(..));
        let sectors = self.changes.iter().filter(data).count();
        self.descriptor_sectors() * SECTOR + sectors * SECTOR
    }

    fn descriptor_sectors(&self) -> usize {
        (64 + self.changes.len() * 32).div_ceil(SECTOR)
    }

    /// The entry without its checksum.
    pub fn unsummed(&self) -> Vec<u8> {
        let mut bytes = b"loge\0\0\0\0".to_vec();
        bytes.extend((self.len() as u32).to_le_bytes());
        bytes.extend(self.tail.to_le_bytes());
        bytes.extend(self.sequence.to_le_bytes());
        bytes.extend((self.changes.len() as u32).to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(self.guid);
        bytes.extend(self.flushed.to_le_bytes());
        bytes.extend(self.last.to_le_bytes());
        let mut sectors = Vec::new();
        for change in &self.changes {
            match change {
                Change::Data(offset, data) => {
                    bytes.extend(b"desc");
                    bytes.extend(&data[SECTOR - 4..]);
                    bytes.extend(&data[..8]);
                    bytes.extend(offset.to_le_bytes());
                    sectors.extend(b"data");
                    sectors.extend(((self.sequence >> 32) as u32).to_le_bytes());
                    sectors.extend(&data[8..SECTOR - 4]);
                    sectors.extend((self.sequence as u32).to_le_bytes());
                }
                Change::Zero(offset, len) => {
                    bytes.extend(b"zero\0\0\0\0");
                    bytes.extend(len.to_le_bytes());
                    bytes.extend(offset.to_le_bytes());
                }
            }
            bytes.extend(self.sequence.to_le_bytes());
        }
        bytes.resize(self.descriptor_sectors() * SECTOR, 0);
        bytes.extend(sectors);
        bytes
    }

    /// The entry as it stands in the log.
    pub fn bytes(&self) -> Vec<u8> {
        summed(self.unsummed())
    }
}

/// An entry with the checksum that it should have.
pub fn summed(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[4..8].fill(0);
    let sum = crc32c::crc32c(&bytes);
    patch(&mut bytes, 4, &sum.to_le_bytes());
    bytes
}

/// An image with two entries in its log: the first one writes to a block, the second one clears another and adds a
/// third to the BAT and to the file.
pub fn sample() -> Vhdx {
    let image = Vhdx::new(4 * MIB as u64, &[(0, Block::Full), (1, Block::Full)]);
    let (bat, data) = (image.bat_at(), image.data_at());
    let len = data + 2 * MIB;
    let built = image.build();
    let mut table = built.front[bat..bat + SECTOR].to_vec();
    patch(&mut table, 16, &(len as u64 | super::FULL).to_le_bytes());
    let first = Entry::new(
        10,
        0,
        len,
        vec![Change::Data(data as u64 + 4096, vec![0x77; SECTOR])],
    );
    let second = Entry {
        sequence: 11,
        last: (len + MIB) as u64,
        changes: vec![
            Change::Zero((data + MIB) as u64, 8192),
            Change::Data(bat as u64, table),
            Change::Data(len as u64 + 8192, vec![0x88; SECTOR]),
            // QEMU makes the file no longer than what is written to it.
            Change::Data((len + MIB - SECTOR) as u64, vec![0x99; SECTOR]),
        ],
        ..first.clone()
    };
    let log = vec![(0, first.bytes()), (first.len(), second.bytes())];
    image.logged(log)
}
