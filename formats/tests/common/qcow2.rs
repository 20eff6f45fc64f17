//! Small qcow2 images of every kind, written by hand: the target writes only one kind.

use libdeflater::{CompressionLvl, Compressor};

use super::{Random, patch};

pub const COPIED: u64 = 1 << 63;
pub const COMPRESSED: u64 = 1 << 62;

/// Clusters in front of the data: header, L1 table, two L2 tables, refcount table, refcount block.
const FIRST_DATA: u64 = 6;

/// The name of the bitmap.
pub const BITMAP: &str = "dirty";

/// Packs a cluster.
pub type Pack = fn(&[u8]) -> Vec<u8>;

/// What an image is to be like.
#[derive(Clone)]
pub struct Builder {
    pub version: u32,
    pub cluster_bits: u32,
    pub zstd: bool,
    pub extended: bool,
    pub size: u64,
    /// Format and name of the backing file.
    pub backing: Option<(String, String)>,
    /// Makes what stands in compressed clusters.
    pub pack: Pack,
    /// Whether there are two snapshots, with ids 1 and 2 and names `one` and `two`, and a bitmap called [`BITMAP`].
    pub history: bool,
}

/// One of each kind.
pub fn kinds() -> impl Iterator<Item = (&'static str, Builder)> {
    let v3 = Builder::default();
    let zstd = Builder {
        zstd: true,
        pack: zstd,
        ..v3.clone()
    };
    let subclusters = Builder {
        extended: true,
        cluster_bits: 14,
        size: 30 << 14,
        ..v3.clone()
    };
    [
        (
            "v2.qcow2",
            Builder {
                version: 2,
                ..v3.clone()
            },
        ),
        ("zlib.qcow2", v3.clone()),
        ("zstd.qcow2", zstd),
        ("subclusters.qcow2", subclusters),
        (
            "history.qcow2",
            Builder {
                history: true,
                ..v3.clone()
            },
        ),
        (
            "backing.qcow2",
            Builder {
                backing: Some(("raw".into(), "base.raw".into())),
                ..v3
            },
        ),
    ]
    .into_iter()
}

impl Default for Builder {
    fn default() -> Builder {
        Builder {
            version: 3,
            cluster_bits: 9,
            zstd: false,
            extended: false,
            size: 70 << 9,
            backing: None,
            pack: deflate,
            history: false,
        }
    }
}

impl Builder {
    /// An image that stands on `name`, a file of this format.
    pub fn over(format: &str, name: &str) -> Builder {
        Builder {
            backing: Some((format.into(), name.into())),
            ..Builder::default()
        }
    }

    pub fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// File offset of the L1 table.
    pub fn l1(&self) -> u64 {
        self.cluster()
    }

    /// File offset of the first L2 table.
    pub fn l2(&self) -> u64 {
        2 * self.cluster()
    }

    /// File offset of the refcount table.
    pub fn refcount_table(&self) -> u64 {
        4 * self.cluster()
    }

    /// File offset of the first data cluster.
    pub fn data(&self) -> u64 {
        FIRST_DATA * self.cluster()
    }

    /// Guest clusters: 0 and 1 stored, 2 zero (from version 3 on), 3 absent, 4 and 5 compressed, 6 stored apart from 1, 7
    /// in part (with subclusters); in the second table, where the disk has one, the last one stored.
    pub fn build(&self) -> Vec<u8> {
        let cluster = self.cluster();
        let mut image = vec![0; self.data() as usize];
        let mut l2 = vec![(0, 0); 8];
        for guest in [0, 1, 6, 7] {
            l2[guest] = (COPIED | image.len() as u64, u64::from(u32::MAX));
            image.extend(Random::new(guest as u64 + 1).bytes(cluster as usize));
            if guest == 1 {
                image.extend(vec![0x11; cluster as usize]);
            }
        }
        l2[7].1 = if self.extended {
            0x0000_00F0_0000_0F03
        } else {
            0
        };
        l2[2] = if self.extended {
            (0, u64::from(u32::MAX) << 32)
        } else {
            (u64::from(self.version > 2), 0)
        };
        for guest in [4, 5] {
            let content: Vec<u8> = (0..cluster).map(|i| (i / 9 + guest) as u8).collect();
            let packed = (self.pack)(&content);
            let (at, len) = (image.len() as u64, packed.len() as u64);
            let more_sectors = (at % 512 + len - 1) / 512;
            l2[guest as usize] = (
                COMPRESSED | more_sectors << (70 - self.cluster_bits) | at,
                0,
            );
            image.extend(packed);
        }
        image.resize(image.len().next_multiple_of(cluster as usize), 0);
        let last = image.len() as u64;
        image.extend(vec![0x22; cluster as usize]);
        if self.history {
            self.history(&mut image);
        }
        self.tables(&mut image, &l2, last);
        self.header(&mut image);
        image
    }

    /// Appends the tables of snapshots and bitmaps. The first snapshot has no extra data, the second one has, and a
    /// smaller disk. Both share the L2 tables of the present.
    fn history(&self, image: &mut Vec<u8>) {
        let cluster = self.cluster() as usize;
        let append = |image: &mut Vec<u8>, words: &[u64]| {
            let at = image.len() as u64;
            image.extend(words.iter().flat_map(|word| word.to_be_bytes()));
            image.resize(image.len().next_multiple_of(cluster), 0);
            at
        };
        let l1 = append(image, &[self.l2(), self.l2() + self.cluster()]);
        let mut table = Vec::new();
        let extra = [0, self.size / 2];
        for (id, name, extra) in [("1", "one", &extra[..0]), ("2", "two", &extra)] {
            table.extend(l1.to_be_bytes());
            table.extend(2u32.to_be_bytes());
            table.extend((id.len() as u16).to_be_bytes());
            table.extend((name.len() as u16).to_be_bytes());
            table.extend([0; 20]);
            table.extend((extra.len() as u32 * 8).to_be_bytes());
            table.extend(extra.iter().flat_map(|word| word.to_be_bytes()));
            table.extend([id.as_bytes(), name.as_bytes()].concat());
            table.resize(table.len().next_multiple_of(8), 0);
        }
        let snapshots = image.len() as u64;
        image.extend(table);
        image.resize(image.len().next_multiple_of(cluster), 0);
        let bits = append(image, &[0xA5 << 56, 1]);
        // One entry: a cluster of bits stands for 4096 sectors, which is more than the disk has.
        let bitmap_table = append(image, &[bits]);
        let name = u64::from_be_bytes(*b"dirty\0\0\0");
        let kind_and_lengths = 1 << 56 | 9 << 48 | (BITMAP.len() as u64) << 32;
        let directory = append(image, &[bitmap_table, 1 << 32, kind_and_lengths, name]);
        patch(image, 60, &2u32.to_be_bytes());
        patch(image, 64, &snapshots.to_be_bytes());
        // The autoclear bit that says that bitmaps are right, and the extension.
        patch(image, 95, &[1]);
        patch(image, 112, &0x2385_2875u32.to_be_bytes());
        patch(image, 116, &24u32.to_be_bytes());
        patch(image, 120, &(1u64 << 32).to_be_bytes());
        patch(image, 128, &32u64.to_be_bytes());
        patch(image, 136, &directory.to_be_bytes());
    }

    fn tables(&self, image: &mut [u8], l2: &[(u64, u64)], last: u64) {
        let cluster = self.cluster();
        let entry_size = if self.extended { 16 } else { 8 };
        let coverage = cluster * cluster / entry_size;
        let mut put = |at: u64, value: u64| patch(image, at as usize, &value.to_be_bytes());
        put(self.l1(), COPIED | self.l2());
        for (index, (entry, bitmap)) in (0..).zip(l2) {
            put(self.l2() + index * entry_size, *entry);
            if self.extended {
                put(self.l2() + index * entry_size + 8, *bitmap);
            }
        }
        if self.size > coverage {
            let second = self.l2() + cluster;
            put(self.l1() + 8, COPIED | second);
            let index = (self.size - 1) % coverage / cluster;
            put(second + index * entry_size, COPIED | last);
        }
        put(self.refcount_table(), self.refcount_table() + cluster);
        let clusters = image.len() as u64 / cluster;
        for index in 0..clusters {
            let at = self.refcount_table() + cluster + index * 2;
            patch(image, at as usize, &1u16.to_be_bytes());
        }
    }

    fn header(&self, image: &mut [u8]) {
        let cluster = self.cluster();
        let coverage = cluster * cluster / if self.extended { 16 } else { 8 };
        let mut put32 = |at: usize, value: u32| patch(image, at, &value.to_be_bytes());
        put32(0, u32::from_be_bytes(*b"QFI\xfb"));
        put32(4, self.version);
        put32(20, self.cluster_bits);
        put32(36, self.size.div_ceil(coverage) as u32);
        put32(56, 1);
        if self.version > 2 {
            put32(
                76,
                u32::from(self.zstd) << 3 | u32::from(self.extended) << 4,
            );
            put32(96, 4);
            put32(100, 112);
            put32(104, u32::from(self.zstd) << 24);
        }
        patch(image, 24, &self.size.to_be_bytes());
        patch(image, 40, &self.l1().to_be_bytes());
        patch(image, 48, &self.refcount_table().to_be_bytes());
        let Some((format, name)) = &self.backing else {
            return;
        };
        let at = if self.version > 2 { 112 } else { 72 };
        patch(image, at, &0xE279_2ACAu32.to_be_bytes());
        patch(image, at + 4, &(format.len() as u32).to_be_bytes());
        patch(image, at + 8, format.as_bytes());
        let name_at = at + 8 + format.len().next_multiple_of(8) + 8;
        patch(image, name_at, name.as_bytes());
        patch(image, 8, &(name_at as u64).to_be_bytes());
        patch(image, 16, &(name.len() as u32).to_be_bytes());
    }
}

pub fn deflate(content: &[u8]) -> Vec<u8> {
    let mut compressor = Compressor::new(CompressionLvl::default());
    let mut packed = vec![0; compressor.deflate_compress_bound(content.len())];
    let len = compressor
        .deflate_compress(content, &mut packed)
        .expect("room");
    packed.truncate(len);
    packed
}

pub fn zstd(content: &[u8]) -> Vec<u8> {
    let mut packed = vec![0; zstd_safe::compress_bound(content.len())];
    let len = zstd_safe::compress(&mut packed[..], content, 3).expect("room");
    packed.truncate(len);
    packed
}
