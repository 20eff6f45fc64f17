//! A streamOptimized VMDK, sector by sector.

use std::collections::BTreeMap;

use libdeflater::Decompressor;

use super::{Bag, CheckedDisk};

const SECTOR: u64 = 512;
const GRAIN_SECTORS: u64 = 128;
const GRAIN: usize = 64 << 10;
/// Disks up to this length have their grains inflated.
const INFLATED: u64 = 256 << 20;

/// Checks the file of a disk.
pub fn check(bag: &Bag, disk: &CheckedDisk) {
    let stream = Stream {
        bag,
        name: &disk.href,
        len: bag.size(&disk.href).expect("a size"),
    };
    assert!(
        stream.len.is_multiple_of(SECTOR),
        "{}: odd length",
        stream.name
    );
    let header = stream.sector(0);
    let directory = stream.header(&header, disk.capacity);
    stream.descriptor(disk);
    let (grains, tables_end) = stream.walk(&header, disk.capacity);
    let directory = match directory {
        u64::MAX => stream.footer(&header),
        front => front,
    };
    assert_eq!(
        tables_end, stream.len,
        "{}: bytes behind the end",
        stream.name
    );
    stream.tables(directory, disk.capacity, &grains);
}

struct Stream<'a> {
    bag: &'a Bag,
    name: &'a str,
    len: u64,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

impl Stream<'_> {
    fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        self.bag.read(self.name, offset, len)
    }

    fn sector(&self, number: u64) -> Vec<u8> {
        self.read(number * SECTOR, SECTOR as usize)
    }

    /// Checks every field; answers where the header says that the directory is.
    fn header(&self, header: &[u8], capacity: u64) -> u64 {
        let name = self.name;
        assert_eq!(&header[..4], b"KDMV", "{name}: not a supported disk format");
        assert_eq!(u32_at(header, 4), 3, "{name}: sparse VMDK version");
        assert_eq!(u32_at(header, 8) & !2, 0x0003_0001, "{name}: flags");
        assert_eq!(u64_at(header, 12) * SECTOR, capacity, "{name}: capacity");
        assert!(capacity.is_multiple_of(1 << 20), "{name}: {capacity} bytes");
        assert_eq!(u64_at(header, 20), GRAIN_SECTORS, "{name}: grain size");
        assert_eq!(
            (u64_at(header, 28), u64_at(header, 36)),
            (1, 20),
            "{name}: descriptor"
        );
        assert_eq!(u32_at(header, 44), 512, "{name}: entries of a grain table");
        assert_eq!(
            header[72..79],
            *b"\0\n \r\n\x01\0",
            "{name}: line ends, deflate"
        );
        assert!(header[79..].iter().all(|b| *b == 0), "{name}: header");
        u64_at(header, 56)
    }

    fn descriptor(&self, disk: &CheckedDisk) {
        let name = self.name;
        let area = self.read(SECTOR, 20 * SECTOR as usize);
        let end = area.iter().position(|b| *b == 0).unwrap_or(area.len());
        assert!(
            area[end..].iter().all(|b| *b == 0),
            "{name}: behind the descriptor"
        );
        let text = std::str::from_utf8(&area[..end]).expect("a descriptor in UTF-8");
        assert!(
            text.starts_with("# Disk DescriptorFile\n"),
            "{name}: {text}"
        );
        let value = |key: &str| {
            let line = text.lines().find_map(|line| {
                let (found, value) = line.split_once('=')?;
                (found.trim() == key).then(|| value.trim().trim_matches('"'))
            });
            line.unwrap_or_else(|| panic!("{name}: no {key} in {text}"))
        };
        assert_eq!(value("version"), "1", "{name}");
        assert_eq!(value("createType"), "streamOptimized", "{name}");
        assert_eq!(value("parentCID"), "ffffffff", "{name}");
        let cid = value("CID");
        assert!(
            cid.len() == 8
                && cid
                    .bytes()
                    .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)),
            "{cid}"
        );
        assert!(
            !["ffffffff", "fffffffe"].contains(&cid),
            "{name}: CID {cid}"
        );
        assert!(
            value("ddb.longContentID").ends_with(cid),
            "{name}: longContentID"
        );
        let extents: Vec<&str> = text.lines().filter(|l| l.contains(" SPARSE ")).collect();
        let [extent] = extents[..] else {
            panic!("{name}: extents {extents:?}");
        };
        let words: Vec<&str> = extent.splitn(4, ' ').collect();
        let sectors = (disk.capacity / SECTOR).to_string();
        assert_eq!(words[1], sectors, "{name}: {extent}");
        let adapter = value("ddb.adapterType");
        let agrees = match disk.bus.as_str() {
            "ide" => adapter == "ide",
            "scsi" => ["lsilogic", "buslogic"].contains(&adapter),
            _ => ["ide", "lsilogic"].contains(&adapter),
        };
        assert!(agrees, "{name}: adapterType {adapter} under {}", disk.bus);
        self.geometry(adapter, disk.capacity / SECTOR, &value);
    }

    fn geometry<'t>(&self, adapter: &str, sectors: u64, value: &dyn Fn(&str) -> &'t str) {
        let number = |key: &str| -> u64 {
            let key = format!("ddb.geometry.{key}");
            value(&key).parse().expect("a number")
        };
        let (cylinders, heads, per_track) =
            (number("cylinders"), number("heads"), number("sectors"));
        let by = heads * per_track;
        let most = if adapter == "ide" { 16383 } else { 65535 };
        let expected = [sectors / by, sectors.div_ceil(by)].map(|c| c.min(most));
        assert!(
            expected.contains(&cylinders),
            "{}: {cylinders} cylinders",
            self.name
        );
    }

    /// From the first grain to the last sector: grains ascend, tables have markers, one sector of zeros ends it. Answers where
    /// each grain is, and where the walk ended.
    fn walk(&self, header: &[u8], capacity: u64) -> (BTreeMap<u64, u64>, u64) {
        let name = self.name;
        let mut grains = BTreeMap::new();
        let mut last = None;
        let mut at = u64_at(header, 64) * SECTOR;
        let mut decompressor = Decompressor::new();
        let mut grain = vec![0; GRAIN];
        loop {
            let marker = self.read(at, SECTOR as usize);
            let (value, size) = (u64_at(&marker, 0), u32_at(&marker, 8));
            if size == 0 {
                let kind = u32_at(&marker, 12);
                at += SECTOR;
                match (value, kind) {
                    (0, 0) => {
                        assert!(marker.iter().all(|b| *b == 0), "{name}: the end");
                        break;
                    }
                    (4, 1) | (_, 2) | (1, 3) | (1, 4) => at += value * SECTOR,
                    _ => panic!("{name}: a marker {kind} of {value} at {at}"),
                }
                continue;
            }
            assert!(size > 10, "{name}: a grain of {size} bytes");
            assert!(
                value.is_multiple_of(GRAIN_SECTORS) && value * SECTOR < capacity,
                "{name}: sector {value}"
            );
            assert!(last < Some(value), "{name}: grain {value} after {last:?}");
            last = Some(value);
            if capacity <= INFLATED {
                let packed = self.read(at + 12, size as usize);
                let len = decompressor.zlib_decompress(&packed, &mut grain);
                assert_eq!(len.expect("a zlib stream"), GRAIN, "{name}: sector {value}");
                assert!(
                    grain.iter().any(|b| *b != 0),
                    "{name}: zeros are stored at {value}"
                );
            }
            grains.insert(value / GRAIN_SECTORS, at / SECTOR);
            let end = at + 12 + u64::from(size);
            at = end.next_multiple_of(SECTOR);
            let padding = self.read(end, (at - end) as usize);
            assert!(
                padding.iter().all(|b| *b == 0),
                "{name}: padding of {value}"
            );
        }
        (grains, at)
    }

    /// The footer is the header with the place of the directory.
    fn footer(&self, header: &[u8]) -> u64 {
        let mut footer = self.sector(self.len / SECTOR - 2);
        let directory = u64_at(&footer, 56);
        footer[56..64].copy_from_slice(&[0xFF; 8]);
        assert!(
            footer == header,
            "{}: the footer is not the header",
            self.name
        );
        directory
    }

    /// The tables lead to each grain, and nowhere else.
    fn tables(&self, directory: u64, capacity: u64, grains: &BTreeMap<u64, u64>) {
        let count = (capacity / SECTOR).div_ceil(GRAIN_SECTORS);
        let tables = count.div_ceil(512);
        let entries = self.read(directory * SECTOR, tables as usize * 4);
        let mut found = BTreeMap::new();
        for table in 0..tables {
            let at = u64::from(u32_at(&entries, table as usize * 4));
            if at == 0 {
                continue;
            }
            let entries = self.read(at * SECTOR, 2048);
            for entry in 0..512 {
                let place = u64::from(u32_at(&entries, entry * 4));
                if place > 1 {
                    found.insert(table * 512 + entry as u64, place);
                }
            }
        }
        assert!(found == *grains, "{}: tables and grains differ", self.name);
    }
}
