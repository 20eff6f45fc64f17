//! What a new image is to be: its options.

use super::features::{COMPRESSION_TYPE, EXTENDED_L2, EXTERNAL_DATA, LAZY_REFCOUNTS, RAW_EXTERNAL};
use super::header::{CLUSTER_BITS, EXTENDED_L2_CLUSTER_BITS};
use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::options::{Backing, OptionSpec, Options, bad_value};
use crate::target::Preallocation;

/// The options of a new image.
pub const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        key: "cluster_size",
        values: "512..2M, a power of two",
        default: "64k",
        help: "unit in which the image allocates",
    },
    OptionSpec {
        key: "compat",
        values: "1.1|0.10",
        default: "1.1",
        help: "version 3, or version 2 for programs from before 2012",
    },
    OptionSpec {
        key: "compression_type",
        values: "zlib|zstd",
        default: "zlib",
        help: "what -c compresses with; zstd is faster and smaller, and needs QEMU 5.1 or later",
    },
    OptionSpec {
        key: "level",
        values: "1..9 (zlib), 1..19 (zstd)",
        default: "6 (zlib), 3 (zstd)",
        help: "how hard -c compresses",
    },
    OptionSpec {
        key: "refcount_bits",
        values: "1..64, a power of two",
        default: "16",
        help: "width of a refcount",
    },
    OptionSpec {
        key: "lazy_refcounts",
        values: "on|off",
        default: "off",
        help: "lets QEMU bring refcounts up to date late",
    },
    OptionSpec {
        key: "extended_l2",
        values: "on|off",
        default: "off",
        help: "allocates parts of clusters, a 32nd each: large clusters without their waste (QEMU 5.2 or later)",
    },
    OptionSpec {
        key: "preallocation",
        values: "off|metadata|falloc|full",
        default: "off",
        help: "gives every cluster its place; falloc reserves the room, full writes the zeros",
    },
    OptionSpec {
        key: "data_file",
        values: "NAME",
        default: "none",
        help: "keeps the clusters in this new file beside the image",
    },
    OptionSpec {
        key: "data_file_raw",
        values: "on|off",
        default: "off",
        help: "the data file stays a raw image of the disk",
    },
];

/// What a new image is to be.
#[derive(Debug, Clone)]
pub struct NewImage {
    /// 2 or 3.
    pub version: u32,
    /// `log2` of the cluster size.
    pub cluster_bits: u32,
    /// `log2` of the bits of a refcount.
    pub refcount_order: u32,
    /// What compressed clusters are packed with.
    pub codec: Codec,
    /// How hard.
    pub level: i32,
    /// Whether clusters are compressed.
    pub compress: bool,
    /// Whether refcounts may be brought up to date late.
    pub lazy_refcounts: bool,
    /// Whether parts of clusters are allocated.
    pub extended_l2: bool,
    /// What is allocated that nothing is stored in.
    pub preallocation: Preallocation,
    /// The file beside the image that holds the clusters.
    pub data_file: Option<String>,
    /// Whether that is a raw image of the disk.
    pub data_file_raw: bool,
    /// The image that it stands on.
    pub backing: Option<Backing>,
}

const SWITCH: [(&str, bool); 2] = [("off", false), ("on", true)];

impl NewImage {
    /// From the options.
    ///
    /// # Errors
    /// `Usage` for impossible values and combinations.
    pub fn new(options: &Options) -> Result<NewImage> {
        let cluster_size = options.size("cluster_size", 64 << 10)?;
        let cluster_bits = cluster_size.trailing_zeros();
        if !cluster_size.is_power_of_two() || !CLUSTER_BITS.contains(&cluster_bits) {
            let found = options.get("cluster_size").unwrap_or_default();
            return Err(bad_value(
                "cluster_size",
                found,
                "a power of two from 512 to 2M",
            ));
        }
        let version = options.choice("compat", &[("1.1", 3), ("0.10", 2), ("v3", 3), ("v2", 2)])?;
        let codec = options.choice(
            "compression_type",
            &[("zlib", Codec::Deflate), ("zstd", Codec::Zstd)],
        )?;
        let compress = options.compress();
        let image = NewImage {
            version,
            cluster_bits,
            refcount_order: refcount_order(options)?,
            codec,
            level: level(options, codec)?,
            compress,
            lazy_refcounts: options.choice("lazy_refcounts", &SWITCH)?,
            extended_l2: options.choice("extended_l2", &SWITCH)?,
            preallocation: options.choice(
                "preallocation",
                &[
                    ("off", Preallocation::Off),
                    ("metadata", Preallocation::Metadata),
                    ("falloc", Preallocation::Reserved),
                    ("full", Preallocation::Full),
                ],
            )?,
            data_file: options.get("data_file").map(str::to_owned),
            data_file_raw: options.choice("data_file_raw", &SWITCH)?,
            backing: options.backing().cloned(),
        };
        image.check_combinations()?;
        if options.get("level").is_some() && !compress {
            return Err(Error::usage("-o level", "is for -c only"));
        }
        if version == 2 {
            let needs_3 = [
                ("compression_type=zstd", codec == Codec::Zstd),
                ("refcount_bits", image.refcount_order != 4),
                ("lazy_refcounts", image.lazy_refcounts),
                ("extended_l2", image.extended_l2),
                ("data_file", image.data_file.is_some()),
            ];
            if let Some((option, _)) = needs_3.iter().find(|(_, asked)| *asked) {
                return Err(Error::usage(
                    format!("-o {option}"),
                    "is not possible in version 2 (compat=0.10)",
                ));
            }
        }
        Ok(image)
    }

    fn check_combinations(&self) -> Result<()> {
        let usage = |option: &'static str, why: &'static str| Err(Error::usage(option, why));
        if self.extended_l2 && self.cluster_bits < EXTENDED_L2_CLUSTER_BITS {
            return usage("-o extended_l2", "needs clusters of at least 16k");
        }
        if self.compress && self.preallocation != Preallocation::Off {
            return usage("-o preallocation", "is not possible with -c");
        }
        if self.compress && self.data_file.is_some() {
            return usage("-o data_file", "is not possible with -c");
        }
        if self.backing.is_some() && self.data_file_raw {
            return usage("-B", "is not possible with data_file_raw");
        }
        if self.backing.is_some() && self.preallocation != Preallocation::Off {
            return usage("-B", "is not possible with preallocation");
        }
        match &self.data_file {
            None if self.data_file_raw => usage("-o data_file_raw", "needs a data_file"),
            Some(name) if name.is_empty() || name.contains(['/', ':', '\0']) => usage(
                "-o data_file",
                "wants a plain file name, without a colon: the file stands beside the image",
            ),
            _ => Ok(()),
        }
    }

    /// Bytes of an L2 entry.
    pub fn l2_entry_size(&self) -> u64 {
        if self.extended_l2 { 16 } else { 8 }
    }

    /// Bytes of a cluster.
    pub fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// The incompatible features of the header.
    pub fn incompatible(&self) -> u64 {
        let bits = [
            (self.codec == Codec::Zstd, COMPRESSION_TYPE),
            (self.extended_l2, EXTENDED_L2),
            (self.data_file.is_some(), EXTERNAL_DATA),
        ];
        bits.iter()
            .filter(|(set, _)| *set)
            .map(|(_, bit)| bit)
            .sum()
    }

    /// The autoclear features of the header.
    pub fn autoclear(&self) -> u64 {
        if self.data_file_raw { RAW_EXTERNAL } else { 0 }
    }

    /// The compatible features of the header.
    pub fn compatible(&self) -> u64 {
        if self.lazy_refcounts {
            LAZY_REFCOUNTS
        } else {
            0
        }
    }
}

fn refcount_order(options: &Options) -> Result<u32> {
    let text = options.get("refcount_bits").unwrap_or("16");
    let bits = text.parse().ok();
    let bits = bits.filter(|bits: &u32| bits.is_power_of_two() && *bits <= 64);
    bits.map(u32::trailing_zeros)
        .ok_or_else(|| bad_value("refcount_bits", text, "1, 2, 4, 8, 16, 32 or 64"))
}

fn level(options: &Options, codec: Codec) -> Result<i32> {
    let (default, most) = match codec {
        Codec::Zstd => (3, 19),
        _ => (6, 9),
    };
    let Some(text) = options.get("level") else {
        return Ok(default);
    };
    text.parse()
        .ok()
        .filter(|level| (1..=most).contains(level))
        .ok_or_else(|| bad_value("level", text, &format!("1 to {most}")))
}
