//! What a new image is to be: its options, and the places of its parts.

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::bat::{BatLayout, ENTRY};
use super::file_identifier;
use super::header::{HEADERS_AT, Header, MIB};
use super::metadata::{BLOCK_SIZES, MAX_DISK_SIZE, Metadata, SECTOR_SIZES};
use super::parent_locator::ParentLocator;
use super::region_table::{RegionTable, TABLE_LEN, TABLES_AT};
use crate::driver::{Format, ImageId};
use crate::error::{Error, Result};
use crate::options::{Backing, OptionSpec, Options, bad_value};
use crate::reference::relative_windows_path;
use crate::storage::WritableStorage;
use crate::target::Identity;

/// The options of a new image.
pub const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        key: "subformat",
        values: "dynamic|fixed",
        default: "dynamic",
        help: "dynamic: only blocks with content take room; fixed: the whole disk does",
    },
    OptionSpec {
        key: "block_size",
        values: "1M to 256M, a power of two",
        default: "2M, over 4 TiB more",
        help: "unit in which a dynamic disk takes room; Hyper-V itself makes disks with 32M",
    },
    OptionSpec {
        key: "logical_sector_size",
        values: "512|4096",
        default: "512",
        help: "unit in which the guest reads and writes: what the disk was partitioned for",
    },
    OptionSpec {
        key: "physical_sector_size",
        values: "512|4096",
        default: "4096",
        help: "unit in which the guest is told that writing is fast",
    },
];

/// Block size of small disks in bytes: what disk2vhd takes, too. Where a guest wrote here and there, small blocks copy
/// less of what it did not write.
const BLOCK_SIZE: u64 = 2 << 20;

/// Blocks that a disk has at most unless the user wants more: a BAT of 16 MiB. Hyper-V keeps the BAT of an attached
/// disk in memory. The largest disk gets 32 MiB, the size of all dynamic disks that Hyper-V makes.
const BLOCKS: u64 = 2 << 20;

const LOG_AT: u64 = MIB;
const LOG_LEN: u32 = MIB as u32;
const METADATA_AT: u64 = LOG_AT + LOG_LEN as u64;
/// Byte offset of the BAT.
pub const BAT_AT: u64 = METADATA_AT + MIB;

/// What a new image is to be.
#[derive(Debug, Clone)]
pub struct NewImage {
    /// Sizes of the disk and its parts.
    pub layout: BatLayout,
    /// Whether all blocks have a place.
    pub is_fixed: bool,
    physical_sector_size: u32,
    parent: Option<Parent>,
    /// The ids of the image whose place it takes: its own, and that of its disk.
    kept: (Option<ImageId>, Option<Uuid>),
}

/// What the image stands on.
#[derive(Debug, Clone)]
struct Parent {
    size: u64,
    disk_id: Option<Uuid>,
    locator: ParentLocator,
}

/// The end of the disk below.
#[derive(Debug, Clone, Copy)]
pub struct ParentEnd {
    /// The block that it is in.
    pub block: u64,
    /// The first sector of that block behind it.
    pub sector: u64,
}

/// The ids of a new image.
struct Ids {
    file_write: Uuid,
    data_write: Uuid,
    disk: Uuid,
}

impl NewImage {
    /// An image for a disk of `size` bytes, rounded up to whole sectors, with `options`.
    ///
    /// # Errors
    /// `Usage` for impossible values, `Limit` for a disk of more than 64 TiB, `Unsupported` for one of no size,
    /// `Refused` when the disk below cannot be the parent.
    pub fn new(size: u64, options: &Options) -> Result<NewImage> {
        options.check_uncompressed("vhdx")?;
        let backing = options.backing();
        backing.map_or(Ok(()), check_format)?;
        let is_fixed = options.choice("subformat", &[("dynamic", false), ("fixed", true)])?;
        if is_fixed && backing.is_some() {
            return Err(Error::usage("-B", "is not possible with subformat=fixed"));
        }
        let sector_size = sector_size(
            options,
            "logical_sector_size",
            backing.map_or(options.source_sector_size(), |backing| backing.sector_size),
        )?;
        let physical_sector_size = sector_size_at_least(options, sector_size)?;
        let disk_size = rounded(size, sector_size)?;
        if backing.is_some() && disk_size != size {
            return Err(Error::refused(
                "disk",
                "does not end with a sector: behind its end, what the image below holds would show",
            )
            .found(format!("{size} bytes"))
            .expected(format!("a multiple of {sector_size}")));
        }
        let default = match backing {
            Some(backing) => backing.block_size,
            None => default_block_size(disk_size),
        };
        let block_size = block_size(options, default)?;
        if let Some(backing) = backing {
            check_same(backing, sector_size, block_size)?;
        }
        Ok(NewImage {
            layout: BatLayout {
                disk_size,
                block_size,
                sector_size: sector_size.into(),
                is_differencing: backing.is_some(),
            },
            is_fixed,
            physical_sector_size,
            parent: backing.map(Parent::new).transpose()?,
            kept: options.kept(),
        })
    }

    /// Length of the region of the BAT: room for all bitmaps, so that the disk can become a parent's child.
    fn bat_len(&self) -> u64 {
        let entries = self.layout.entries_with_bitmaps();
        (entries * ENTRY).next_multiple_of(MIB).max(MIB)
    }

    /// The first block that is past the end of the disk below; without one, the first of all.
    pub fn first_past_parent(&self) -> u64 {
        let parent = self.parent.as_ref();
        parent.map_or(0, |parent| parent.size.div_ceil(self.layout.block_size))
    }

    /// Where the disk below ends, if that is inside of a block that goes on: not all readers know by themselves that there
    /// are zeros behind.
    pub fn parent_end(&self) -> Option<ParentEnd> {
        let parent = self.parent.as_ref()?;
        let within = parent.size % self.layout.block_size;
        (within > 0 && parent.size < self.layout.disk_size).then(|| ParentEnd {
            block: parent.size / self.layout.block_size,
            sector: within.div_ceil(self.layout.sector_size),
        })
    }

    /// Byte offset at which blocks start.
    pub fn data_at(&self) -> u64 {
        BAT_AT + self.bat_len()
    }

    /// Identifier, headers and region tables: what stands at the very front of the file.
    pub fn head(&self, identity: &Identity) -> Vec<u8> {
        let ids = self.ids(identity);
        let mut head = vec![0; TABLES_AT[1] as usize + TABLE_LEN];
        let mut put = |at: u64, bytes: &[u8]| {
            let at = at as usize;
            if let Some(place) = head.get_mut(at..at + bytes.len()) {
                place.copy_from_slice(bytes);
            }
        };
        let creator = format!("diskferry {}", env!("CARGO_PKG_VERSION"));
        put(0, &file_identifier::to_bytes(&creator));
        for (sequence_number, at) in (1..).zip(HEADERS_AT) {
            let header = Header {
                sequence_number,
                file_write_guid: ids.file_write,
                data_write_guid: ids.data_write,
                log_guid: Uuid::nil(),
                log_length: LOG_LEN,
                log_offset: LOG_AT,
            };
            put(at, &header.to_bytes());
        }
        let regions = RegionTable::new(BAT_AT, self.bat_len() as u32, METADATA_AT).to_bytes();
        TABLES_AT.iter().for_each(|at| put(*at, &regions));
        head
    }

    /// Writes the metadata, and makes the file `len` bytes long.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn finish(&self, identity: &Identity, len: u64, out: &dyn WritableStorage) -> Result<()> {
        let parent = self.parent.as_ref();
        let metadata = Metadata {
            block_size: self.layout.block_size,
            leaves_blocks_allocated: self.is_fixed,
            has_parent: parent.is_some(),
            disk_size: self.layout.disk_size,
            disk_id: self.ids(identity).disk,
            logical_sector_size: self.layout.sector_size as u32,
            physical_sector_size: self.physical_sector_size,
            locator: parent.map(|parent| parent.locator.clone()),
        };
        out.write_at(&metadata.to_bytes(), METADATA_AT)?;
        out.set_len(len)
    }

    /// All ids come from the one that the image was given, so that they are random when that is.
    fn ids(&self, identity: &Identity) -> Ids {
        let linkage = self.parent.as_ref().map(|p| p.locator.parent_linkage);
        let id = |of: &str| {
            let mut hash = Sha256::new();
            hash.update(identity.id);
            // A child that holds the same as its parent is another image all the same.
            hash.update(linkage.unwrap_or_default().as_bytes());
            hash.update(of);
            let mut bytes = [0; 16];
            let digest = hash.finalize();
            bytes
                .iter_mut()
                .zip(digest)
                .for_each(|(to, from)| *to = from);
            Uuid::new_v8(bytes)
        };
        let disk = self.parent.as_ref().and_then(|parent| parent.disk_id);
        let (kept, kept_disk) = self.kept;
        let disk = disk.or(kept_disk);
        Ids {
            file_write: id("file write"),
            data_write: match kept {
                Some(ImageId::Uuid(id)) => id,
                _ => id("data write"),
            },
            disk: disk.unwrap_or_else(|| id("virtual disk")),
        }
    }
}

impl Parent {
    fn new(backing: &Backing) -> Result<Parent> {
        let Some(ImageId::Uuid(linkage)) = backing.identity else {
            return Err(Error::refused("-B", "the image below has no id"));
        };
        Ok(Parent {
            size: backing.size,
            disk_id: backing.disk_id,
            locator: ParentLocator::new(linkage, &relative_windows_path(&backing.name)?),
        })
    }
}

/// Fails unless `backing` is a VHDX.
fn check_format(backing: &Backing) -> Result<()> {
    if backing.format == Format::Vhdx {
        return Ok(());
    }
    Err(
        Error::refused("-B", "a VHDX can stand on another VHDX only")
            .found(backing.format)
            .hint("convert the image below first, or write a qcow2"),
    )
}

/// Fails when a child with these sizes cannot stand on `backing`.
fn check_same(backing: &Backing, sector_size: u32, block_size: u64) -> Result<()> {
    for (key, found, expected) in [
        (
            "logical_sector_size",
            u64::from(sector_size),
            u64::from(backing.sector_size),
        ),
        ("block_size", block_size, backing.block_size),
    ] {
        if found != expected {
            let of_parent = format!("{expected}, as the image below has it");
            return Err(bad_value(key, &found.to_string(), &of_parent));
        }
    }
    Ok(())
}

fn rounded(size: u64, sector_size: u32) -> Result<u64> {
    match size.checked_next_multiple_of(sector_size.into()) {
        Some(0) => Err(
            Error::unsupported("disk", "a VHDX cannot hold a disk of no size")
                .found("0 bytes")
                .expected("at least 1 byte"),
        ),
        Some(rounded) if rounded <= MAX_DISK_SIZE => Ok(rounded),
        _ => Err(Error::limit("disk", "is too large for a VHDX")
            .found(format!("{size} bytes"))
            .expected(format!("at most {MAX_DISK_SIZE} bytes (64 TiB)"))),
    }
}

fn default_block_size(disk_size: u64) -> u64 {
    let for_blocks = disk_size.div_ceil(BLOCKS).max(1).next_power_of_two();
    for_blocks.clamp(BLOCK_SIZE, *BLOCK_SIZES.end())
}

fn block_size(options: &Options, default: u64) -> Result<u64> {
    let block_size = options.size("block_size", default)?;
    if block_size.is_power_of_two() && BLOCK_SIZES.contains(&block_size) {
        return Ok(block_size);
    }
    let found = options.get("block_size").unwrap_or_default();
    Err(bad_value(
        "block_size",
        found,
        "a power of two from 1M to 256M",
    ))
}

fn sector_size(options: &Options, key: &'static str, default: u32) -> Result<u32> {
    let size = options.size(key, default.into())?;
    let size = u32::try_from(size).ok();
    size.filter(|size| SECTOR_SIZES.contains(size))
        .ok_or_else(|| bad_value(key, options.get(key).unwrap_or_default(), "512 or 4096"))
}

fn sector_size_at_least(options: &Options, logical: u32) -> Result<u32> {
    const KEY: &str = "physical_sector_size";
    let physical = sector_size(options, KEY, 4096)?;
    if physical < logical {
        let found = physical.to_string();
        return Err(bad_value(KEY, &found, "no less than logical_sector_size"));
    }
    Ok(physical)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn options(pairs: &[&str]) -> Options {
        let pairs: Vec<String> = pairs.iter().map(|p| (*p).to_owned()).collect();
        Options::new(OPTIONS, &pairs).unwrap()
    }

    fn backing() -> Backing {
        Backing {
            name: "base.vhdx".to_owned(),
            format: Format::Vhdx,
            identity: Some(ImageId::Uuid(Uuid::from_u128(1))),
            disk_id: Some(Uuid::from_u128(2)),
            size: 8192,
            sector_size: 4096,
            block_size: 1 << 20,
            modified: None,
        }
    }

    fn kind(size: u64, options: &Options) -> ErrorKind {
        NewImage::new(size, options).unwrap_err().kind()
    }

    #[test]
    fn the_bat_stays_small_by_default() {
        for (size, block_size) in [
            (1, 2 << 20),
            (4 << 40, 2 << 20),
            ((4 << 40) + 512, 4 << 20),
            (64 << 40, 32 << 20),
        ] {
            let image = NewImage::new(size, &options(&[])).unwrap();
            assert_eq!(image.layout.block_size, block_size, "{size}");
            assert!(image.bat_len() <= 17 << 20);
        }
    }

    #[test]
    fn the_size_is_whole_sectors() {
        let size = |pairs: &[&str]| {
            let image = NewImage::new(513, &options(pairs)).unwrap();
            image.layout.disk_size
        };
        assert_eq!(size(&[]), 1024);
        assert_eq!(size(&["logical_sector_size=4096"]), 4096);
    }

    #[test]
    fn impossible_values_are_usage_errors() {
        for pair in [
            "block_size=512k",
            "block_size=3M",
            "block_size=512M",
            "logical_sector_size=1024",
            "physical_sector_size=0",
            "subformat=thin",
        ] {
            assert_eq!(kind(1 << 20, &options(&[pair])), ErrorKind::Usage, "{pair}");
        }
        let odd = options(&["logical_sector_size=4096", "physical_sector_size=512"]);
        assert_eq!(kind(1 << 20, &odd), ErrorKind::Usage);
        assert_eq!(
            kind(1 << 20, &options(&[]).compressed(true)),
            ErrorKind::Usage
        );
    }

    #[test]
    fn disks_that_do_not_fit_are_over_the_limit() {
        assert_eq!(kind((64 << 40) + 1, &options(&[])), ErrorKind::Limit);
        assert_eq!(kind(u64::MAX, &options(&[])), ErrorKind::Limit);
        assert_eq!(kind(0, &options(&[])), ErrorKind::Unsupported);
    }

    #[test]
    fn a_child_has_the_sizes_of_its_parent() {
        let over = |pairs: &[&str]| options(pairs).over(Some(backing()));
        let image = NewImage::new(8192, &over(&[])).unwrap();
        let layout = image.layout;
        assert_eq!((layout.sector_size, layout.block_size), (4096, 1 << 20));
        assert_eq!(kind(8192, &over(&["block_size=2M"])), ErrorKind::Usage);
        assert_eq!(
            kind(8192, &over(&["logical_sector_size=512"])),
            ErrorKind::Usage
        );
        assert_eq!(kind(8192, &over(&["subformat=fixed"])), ErrorKind::Usage);
        assert_eq!(kind(8191, &over(&[])), ErrorKind::Refused);
    }

    #[test]
    fn only_a_vhdx_with_a_relative_name_is_a_parent() {
        let with = |change: fn(&mut Backing)| {
            let mut changed = backing();
            change(&mut changed);
            kind(8192, &options(&[]).over(Some(changed)))
        };
        assert_eq!(with(|b| b.format = Format::Qcow2), ErrorKind::Refused);
        assert_eq!(with(|b| b.identity = None), ErrorKind::Refused);
        assert_eq!(with(|b| b.name = "/vm/a.vhdx".into()), ErrorKind::Refused);
        assert_eq!(with(|b| b.name = "c:a.vhdx".into()), ErrorKind::Refused);
        assert_eq!(with(|b| b.name = "a".repeat(40_000)), ErrorKind::Limit);
    }
}
