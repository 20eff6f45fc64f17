//! What a new VMDK is to be: its options, its ids, and the descriptor that says so.

use std::path::Path;

use super::SECTOR;
use super::descriptor::{LONG_CID, NO_CID};
use super::extent_line::{ExtentLine, ExtentType};
use crate::error::{Error, Result};
use crate::options::{OptionSpec, Options, bad_value};
use crate::reference;
use crate::target::Identity;

/// The options of a new image.
pub const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        key: "subformat",
        values: "monolithicSparse|monolithicFlat|twoGbMaxExtentSparse|twoGbMaxExtentFlat|streamOptimized|vmfs",
        default: "monolithicSparse",
        help: "streamOptimized is what OVF packages hold, vmfs what an ESXi datastore runs, the others are for Workstation and VirtualBox",
    },
    OptionSpec {
        key: "adapter_type",
        values: "lsilogic|ide|buslogic|legacyESX|pvscsi",
        default: "lsilogic",
        help: "the controller that the disk is made for",
    },
    OptionSpec {
        key: "hwversion",
        values: "3 to 99",
        default: "4",
        help: "the virtual hardware version that the descriptor names",
    },
    OptionSpec {
        key: "level",
        values: "1 to 12",
        default: "5",
        help: "how hard streamOptimized is compressed: 1 is fast, 12 is small",
    },
];

/// libdeflate's level that makes a file just smaller than zlib's level 6 does (which QEMU takes), in the least time.
const DEFAULT_LEVEL: u64 = 5;

/// The kinds that can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subformat {
    /// One file that grows.
    MonolithicSparse,
    /// A descriptor and one file of the disk's size.
    MonolithicFlat,
    /// A descriptor and files of at most 2 GiB that grow.
    SplitSparse,
    /// A descriptor and files of at most 2 GiB.
    SplitFlat,
    /// One compressed file, written from front to end.
    StreamOptimized,
    /// A descriptor and one file of the disk's size, for a VMFS datastore.
    Vmfs,
}

const SUBFORMATS: [(&str, Subformat); 6] = [
    ("monolithicSparse", Subformat::MonolithicSparse),
    ("monolithicFlat", Subformat::MonolithicFlat),
    ("twoGbMaxExtentSparse", Subformat::SplitSparse),
    ("twoGbMaxExtentFlat", Subformat::SplitFlat),
    ("streamOptimized", Subformat::StreamOptimized),
    ("vmfs", Subformat::Vmfs),
];

/// Name, heads and sectors of a track that go with it.
const ADAPTERS: [(&str, (&str, u64, u64)); 5] = [
    ("lsilogic", ("lsilogic", 255, 63)),
    ("ide", ("ide", 16, 63)),
    ("buslogic", ("buslogic", 255, 63)),
    ("legacyESX", ("legacyESX", 255, 63)),
    ("pvscsi", ("pvscsi", 255, 63)),
];

/// What a new image is to be.
#[derive(Debug, Clone)]
pub struct NewImage {
    /// Guest bytes: whole sectors.
    pub size: u64,
    /// Its kind.
    pub subformat: Subformat,
    /// How hard to compress, 1 to 12.
    pub level: i32,
    adapter: (&'static str, u64, u64),
    hardware_version: u64,
    /// Its name without the extension.
    stem: String,
}

impl NewImage {
    /// From the options, for a disk of `size` bytes in a file called `file_name`.
    ///
    /// # Errors
    /// `Usage` for impossible options and for names that a descriptor cannot hold, `Limit` for a disk that is too
    /// large, `Unsupported` for one of no size.
    pub fn new(size: u64, options: &Options, file_name: &Path) -> Result<NewImage> {
        let size = match size.checked_next_multiple_of(SECTOR) {
            Some(0) => {
                return Err(
                    Error::unsupported("disk", "a VMDK cannot hold a disk of no size")
                        .found("0 bytes")
                        .expected("at least 1 byte"),
                );
            }
            Some(size) if size <= MAX_DISK => size,
            _ => {
                return Err(Error::limit("vmdk", "the disk is too large")
                    .found(format!("{size} bytes"))
                    .expected(format!("at most {MAX_DISK} bytes")));
            }
        };
        let number = |key: &'static str, default: u64, range: std::ops::RangeInclusive<u64>| {
            let Some(text) = options.get(key) else {
                return Ok(default);
            };
            let value = text.parse().ok().filter(|value| range.contains(value));
            let expected = || format!("{} to {}", range.start(), range.end());
            value.ok_or_else(|| bad_value(key, text, &expected()))
        };
        let subformat = match options.get("subformat") {
            // Of all kinds only one is compressed.
            None if options.compress() => Subformat::StreamOptimized,
            _ => options.choice("subformat", &SUBFORMATS)?,
        };
        if subformat != Subformat::StreamOptimized {
            options.check_uncompressed("a VMDK of this subformat")?;
        }
        let image = NewImage {
            size,
            subformat,
            level: number("level", DEFAULT_LEVEL, 1..=12)? as i32,
            adapter: options.choice("adapter_type", &ADAPTERS)?,
            hardware_version: number("hwversion", 4, 3..=99)?,
            stem: stem(file_name),
        };
        if options.get("level").is_some() && image.subformat != Subformat::StreamOptimized {
            return Err(Error::usage("-o level", "is for streamOptimized only"));
        }
        // A name inside a descriptor is UTF-8 text between quotes.
        let unfit = |c: char| c.is_control() || matches!(c, '"' | char::REPLACEMENT_CHARACTER);
        // Nor is one followed that looks like a URL ("a:b").
        let is_followed = reference::check_name(&image.extent_name(1)).is_ok();
        if image.has_further_files() && (image.stem.contains(unfit) || !is_followed) {
            return Err(
                Error::usage("target", "the descriptor cannot hold this name")
                    .found(format!("{:?}", image.stem))
                    .expected("UTF-8 text without quotes and control characters, and no colon behind its first word"),
            );
        }
        Ok(image)
    }

    /// Whether the disk stands in other files than the descriptor.
    fn has_further_files(&self) -> bool {
        !matches!(
            self.subformat,
            Subformat::MonolithicSparse | Subformat::StreamOptimized
        )
    }

    /// The name of extent `number`, from 1.
    pub fn extent_name(&self, number: usize) -> String {
        let stem = &self.stem;
        match self.subformat {
            Subformat::MonolithicFlat | Subformat::Vmfs => format!("{stem}-flat.vmdk"),
            Subformat::SplitFlat => format!("{stem}-f{number:03}.vmdk"),
            Subformat::SplitSparse => format!("{stem}-s{number:03}.vmdk"),
            Subformat::MonolithicSparse | Subformat::StreamOptimized => {
                let fit = |c: char| if c.is_control() || c == '"' { '_' } else { c };
                format!("{}.vmdk", stem.chars().map(fit).collect::<String>())
            }
        }
    }

    /// What the extents are made of.
    pub fn extent_type(&self) -> ExtentType {
        match self.subformat {
            Subformat::MonolithicFlat | Subformat::SplitFlat => ExtentType::Flat,
            Subformat::Vmfs => ExtentType::Vmfs,
            _ => ExtentType::Sparse,
        }
    }

    /// The text of the descriptor.
    pub fn descriptor(&self, extents: &[ExtentLine], identity: &Identity) -> String {
        let cid = content_id(identity);
        let create_type = SUBFORMATS
            .iter()
            .find(|(_, subformat)| *subformat == self.subformat)
            .map_or("", |(name, _)| name);
        let mut text = format!(
            "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID={cid:08x}\nparentCID=ffffffff\n\
             createType=\"{create_type}\"\n\n# Extent description\n"
        );
        for extent in extents {
            text += &format!("{extent}");
            // VMware says where in the file a flat extent starts, also when that is the front.
            text += match extent.kind {
                ExtentType::Flat => " 0\n",
                _ => "\n",
            };
        }
        let (adapter, heads, track) = self.adapter;
        let long: String = identity.id[..12]
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        let database = [
            ("adapterType", adapter.to_owned()),
            ("geometry.cylinders", self.cylinders().to_string()),
            ("geometry.heads", heads.to_string()),
            ("geometry.sectors", track.to_string()),
            ("longContentID", format!("{long}{cid:08x}")),
            ("toolsInstallType", "4".to_owned()),
            // Tools that the guest's distribution maintains: nobody nags about them.
            ("toolsVersion", "2147483647".to_owned()),
            ("virtualHWVersion", self.hardware_version.to_string()),
        ];
        text += "\n# The Disk Data Base\n#DDB\n\n";
        for (key, value) in database {
            text += &format!("ddb.{key} = \"{value}\"\n");
        }
        text
    }

    fn cylinders(&self) -> u64 {
        let (adapter, heads, track) = self.adapter;
        let most = if adapter == "ide" { 16383 } else { 65535 };
        (self.size / SECTOR).div_ceil(heads * track).min(most)
    }
}

/// The largest disk that ESXi has (62 TiB), and what the other formats here have besides.
pub(super) const MAX_DISK: u64 = 64 << 40;

fn stem(file_name: &Path) -> String {
    let name = file_name.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.rsplit_once('.').map_or(&*name, |(stem, _)| stem);
    match stem {
        // Standard output, and names that are nothing but an extension.
        "" | "-" => "disk".to_owned(),
        stem => stem.to_owned(),
    }
}

/// The content id: 32 bits of the identity that are none of the ids with a meaning.
fn content_id(identity: &Identity) -> u32 {
    let [.., a, b, c, d] = identity.id;
    match u32::from_be_bytes([a, b, c, d]) {
        NO_CID | LONG_CID | 0 => 1,
        cid => cid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::vmdk::descriptor::Descriptor;
    use crate::vmdk::extent_line::{Access, ExtentFile};

    fn new(size: u64, pairs: &[&str], name: &str) -> Result<NewImage> {
        let pairs: Vec<_> = pairs.iter().map(|p| (*p).to_owned()).collect();
        NewImage::new(size, &Options::new(OPTIONS, &pairs)?, name.as_ref())
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let image = new(
            (10 << 20) + 1,
            &[
                "subformat=monolithicFlat",
                "adapter_type=ide",
                "hwversion=13",
            ],
            "dir/web é.vmdk",
        )
        .unwrap();
        let extent = ExtentLine {
            access: Access::ReadWrite,
            len: image.size,
            kind: image.extent_type(),
            file: Some(ExtentFile {
                name: image.extent_name(1),
                raw_name: None,
            }),
            offset: 0,
        };
        let identity = Identity {
            id: [0xff; 16],
            unix_time: 0,
        };
        let text = image.descriptor(std::slice::from_ref(&extent), &identity);
        let read = Descriptor::parse(text.as_bytes()).unwrap();
        assert_eq!(read.extents, [extent]);
        assert_eq!(read.extents[0].len, (10 << 20) + 512);
        assert_eq!(read.cid().unwrap(), Some(1));
        assert_eq!(read.parent_cid().unwrap(), None);
        assert_eq!(read.value("createType"), Some("monolithicFlat"));
        assert_eq!(read.database("geometry.cylinders"), Some("21"));
        assert_eq!(read.database("virtualHWVersion"), Some("13"));
        let long = read.database("longContentID").unwrap();
        assert_eq!((long.len(), &long[24..]), (32, "00000001"));
    }

    #[test]
    fn impossible_wishes_are_refused() {
        for (size, options, name, kind) in [
            (0, &[][..], "a", ErrorKind::Unsupported),
            (u64::MAX, &[], "a", ErrorKind::Limit),
            ((64 << 40) + 1, &[], "a", ErrorKind::Limit),
            (1, &["subformat=thin"], "a", ErrorKind::Usage),
            (1, &["hwversion=0"], "a", ErrorKind::Usage),
            (1, &["hwversion=x"], "a", ErrorKind::Usage),
            (1, &["level=3"], "a", ErrorKind::Usage),
            (
                1,
                &["subformat=streamOptimized", "level=13"],
                "a",
                ErrorKind::Usage,
            ),
            (1, &["subformat=vmfs"], "a\"b.vmdk", ErrorKind::Usage),
            (1, &["subformat=vmfs"], "a:b.vmdk", ErrorKind::Usage),
        ] {
            let error = new(size, options, name).unwrap_err();
            assert_eq!(error.kind(), kind, "{options:?} {name}");
        }
        assert_eq!(new(1, &[], "a\"b.vmdk").unwrap().extent_name(1), "a_b.vmdk");
        assert_eq!(new(1, &[], "-").unwrap().extent_name(1), "disk.vmdk");
    }
}
