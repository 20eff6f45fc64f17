//! Small VDIs, byte by byte: every field can be spoiled.

use formats::StorageRef;

use super::{Random, le32, patch};

/// Entries of the block map that name no block.
pub const UNALLOCATED: u32 = 0xFFFF_FFFF;
pub const DISCARDED: u32 = 0xFFFF_FFFE;

/// The id of the images made here, as it stands in the header.
pub const ID: [u8; 16] = [0x5A; 16];

/// The last modification of the images made here.
pub const MODIFICATION: [u8; 16] = [0x3C; 16];

/// Where the block map stands unless somebody says otherwise.
const MAP: u32 = 512;

/// What an image is made of.
#[derive(Debug, Clone)]
pub struct Builder {
    pub text: &'static str,
    pub version: u32,
    pub header_size: u32,
    pub image_type: u32,
    pub comment: &'static str,
    pub map_offset: u32,
    /// Right behind the map unless somebody says otherwise.
    pub data_offset: Option<u32>,
    pub disk_size: u64,
    pub block_size: u32,
    pub extra: u32,
    pub map: Vec<u32>,
    /// As many as the largest entry of the map needs unless somebody says otherwise.
    pub allocated: Option<u32>,
    pub id: [u8; 16],
    pub modification: [u8; 16],
    pub parent: [u8; 16],
    pub parent_modification: [u8; 16],
}

impl Builder {
    /// A dynamic image of whole blocks of 4 KiB with this map.
    pub fn new(map: &[u32]) -> Builder {
        Builder {
            text: "<<< Oracle VM VirtualBox Disk Image >>>\n",
            version: 0x0001_0001,
            header_size: 0x190,
            image_type: 1,
            comment: "",
            map_offset: MAP,
            data_offset: None,
            disk_size: map.len() as u64 * 4096,
            block_size: 4096,
            extra: 0,
            map: map.to_vec(),
            allocated: None,
            id: ID,
            modification: MODIFICATION,
            parent: [0; 16],
            parent_modification: [0; 16],
        }
    }

    /// The same over the parent with this id.
    pub fn over(map: &[u32], parent: [u8; 16]) -> Builder {
        Builder {
            image_type: 4,
            id: [0xC5; 16],
            parent,
            parent_modification: MODIFICATION,
            ..Builder::new(map)
        }
    }

    /// What stands in the block that is number `index` in the file.
    pub fn block(&self, index: u32) -> Vec<u8> {
        Random::new(u64::from(index) + u64::from(self.id[0]) * 1000).bytes(self.block_size as usize)
    }

    pub fn data_offset(&self) -> u32 {
        let behind = self.map_offset as usize + self.map.len() * 4;
        self.data_offset
            .unwrap_or(behind.next_multiple_of(512) as u32)
    }

    fn allocated(&self) -> u32 {
        let named = self.map.iter().filter(|entry| **entry < DISCARDED);
        self.allocated
            .unwrap_or(named.max().map_or(0, |largest| largest + 1))
    }

    pub fn build(&self) -> Vec<u8> {
        let mut image = vec![0; self.data_offset() as usize];
        patch(&mut image, 0, self.text.as_bytes());
        patch(&mut image, 84, self.comment.as_bytes());
        let numbers = [
            (64, 0xBEDA_107F),
            (68, self.version),
            (72, self.header_size),
            (76, self.image_type),
            (340, self.map_offset),
            (344, self.data_offset()),
            (360, 512),
            (376, self.block_size),
            (380, self.extra),
            (384, self.map.len() as u32),
            (388, self.allocated()),
        ];
        for (at, number) in numbers {
            patch(&mut image, at, &number.to_le_bytes());
        }
        patch(&mut image, 368, &self.disk_size.to_le_bytes());
        let ids = [
            self.id,
            self.modification,
            self.parent,
            self.parent_modification,
        ];
        patch(&mut image, 392, &ids.concat());
        if self.header_size >= 0x190 {
            patch(&mut image, 468, &512u32.to_le_bytes());
        }
        let map: Vec<u8> = self.map.iter().flat_map(|e| e.to_le_bytes()).collect();
        patch(&mut image, self.map_offset as usize, &map);
        for index in 0..self.allocated() {
            image.extend(vec![0xEE; self.extra as usize]);
            image.extend(self.block(index));
        }
        image
    }

    /// What the guest sees of `build`, over `parent`, which is empty for none.
    pub fn content(&self, parent: &[u8]) -> Vec<u8> {
        let block_size = self.block_size as usize;
        let mut disk = Vec::new();
        for entry in &self.map {
            let at = disk.len();
            match *entry {
                UNALLOCATED => {
                    let below = parent.get(at..).unwrap_or_default();
                    disk.extend(&below[..below.len().min(block_size)]);
                }
                DISCARDED => {}
                index => disk.extend(self.block(index)),
            }
            disk.resize(at + block_size, 0);
        }
        disk.resize(self.disk_size as usize, 0);
        disk
    }

    pub fn storage(&self) -> StorageRef {
        super::vmdk::memory(self.build())
    }
}

/// One of each kind.
pub fn kinds() -> [(&'static str, Builder); 4] {
    let free = UNALLOCATED;
    let dynamic = Builder {
        disk_size: 9 * 4096 + 700,
        ..Builder::new(&[2, free, DISCARDED, 0, 3, free, free, free, free, 1])
    };
    [
        ("dynamic.vdi", dynamic),
        (
            "fixed.vdi",
            Builder {
                image_type: 2,
                text: "<<< QEMU VM Virtual Disk Image >>>\n",
                header_size: 0x180,
                ..Builder::new(&[0, 1, 2])
            },
        ),
        (
            "extra.vdi",
            Builder {
                extra: 512,
                comment: "blocks of 1536 bytes with 512 in front of each",
                block_size: 1536,
                disk_size: 3 * 1536,
                ..Builder::new(&[1, free, 0])
            },
        ),
        (
            "differencing.vdi",
            Builder::over(&[free, 0, DISCARDED, 1], [7; 16]),
        ),
    ]
}

/// The header and the block map: offsets and lengths.
pub fn structures(image: &[u8]) -> Vec<(usize, usize)> {
    let map = (le32(image, 340) as usize, le32(image, 384) as usize * 4);
    vec![(64, 24), (340, 64), (340, 64), (392, 80), map, map]
}
