//! The `-o key=value` options of a format: declared once as data, parsed in one place.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::driver::{Format, ImageId};
use crate::error::{Error, Result};

/// One option of a format.
#[derive(Debug, Clone, Copy)]
pub struct OptionSpec {
    /// Its key.
    pub key: &'static str,
    /// Its values, as a person reads them.
    pub values: &'static str,
    /// What it is without being given.
    pub default: &'static str,
    /// What it does.
    pub help: &'static str,
}

/// Options as given, each known to the format.
#[derive(Debug, Clone, Default)]
pub struct Options {
    values: BTreeMap<&'static str, String>,
    compress: bool,
    backing: Option<Backing>,
    source_sector_size: Option<u32>,
    kept: (Option<ImageId>, Option<Uuid>),
}

/// The image that a new one stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backing {
    /// Its name, as it will stand in the new image.
    pub name: String,
    /// Its format.
    pub format: Format,
    /// The id that a child refers to it by.
    pub identity: Option<ImageId>,
    /// The id of the disk, where the format keeps one through a chain.
    pub disk_id: Option<Uuid>,
    /// Guest-visible size in bytes.
    pub size: u64,
    /// Its logical sector size in bytes.
    pub sector_size: u32,
    /// Unit in which it allocates, in bytes.
    pub block_size: u64,
    /// When it was last written to, in seconds since 1970; `None`: the new image is not to say.
    pub modified: Option<u64>,
}

impl Options {
    /// Takes `key=value` pairs, each known by `specs`; a later one replaces an earlier one.
    ///
    /// # Errors
    /// `Usage` for a key that the format does not have or a pair without `=`.
    pub fn new(specs: &'static [OptionSpec], pairs: &[String]) -> Result<Options> {
        let mut map = BTreeMap::new();
        for pair in pairs.iter().flat_map(|p| p.split(',')) {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| Error::usage("-o", "wants key=value").found(format!("{pair:?}")))?;
            let spec = specs.iter().find(|s| s.key == key).ok_or_else(|| {
                let known: Vec<_> = specs.iter().map(|s| s.key).collect();
                Error::usage("-o", "the format has no such option")
                    .found(format!("{key:?}"))
                    .expected(if known.is_empty() {
                        "none: the format has no options".to_owned()
                    } else {
                        known.join(", ")
                    })
            })?;
            map.insert(spec.key, value.to_owned());
        }
        Ok(Options {
            values: map,
            compress: false,
            backing: None,
            kept: (None, None),
            source_sector_size: None,
        })
    }

    /// The same, for a disk that has sectors of this many bytes by now.
    pub fn for_sectors(self, size: u32) -> Options {
        Options {
            source_sector_size: Some(size),
            ..self
        }
    }

    /// Logical sector size in bytes of the disk so far: what a format keeps that has several.
    pub fn source_sector_size(&self) -> u32 {
        self.source_sector_size.unwrap_or(512)
    }

    /// The same, with `-c`.
    pub fn compressed(self, compress: bool) -> Options {
        Options { compress, ..self }
    }

    /// The same, for an image that stands on another one (`-B`).
    pub fn over(self, backing: Option<Backing>) -> Options {
        Options { backing, ..self }
    }

    /// The same, for an image that takes the place of one with these ids: its own, and that of its disk.
    pub fn keeping(self, identity: Option<ImageId>, disk: Option<Uuid>) -> Options {
        Options {
            kept: (identity, disk),
            ..self
        }
    }

    /// The ids of the image whose place the new one takes, where a format has more than one.
    pub fn kept(&self) -> (Option<ImageId>, Option<Uuid>) {
        self.kept
    }

    /// The image that the new one stands on.
    pub fn backing(&self) -> Option<&Backing> {
        self.backing.as_ref()
    }

    /// Fails when the image is to stand on another one, in a format that has no such thing, or not yet.
    ///
    /// # Errors
    /// `Usage`.
    pub fn check_alone(&self, format: &str) -> Result<()> {
        if self.backing.is_some() {
            return Err(Error::usage(
                "-B",
                format!("{format} images cannot be written over another image"),
            )
            .hint("qcow2, VHD and VHDX can"));
        }
        Ok(())
    }

    /// Whether blocks are to be compressed (`-c`).
    pub fn compress(&self) -> bool {
        self.compress
    }

    /// Fails when compression is asked for of a format that has none.
    ///
    /// # Errors
    /// `Usage`.
    pub fn check_uncompressed(&self, format: &str) -> Result<()> {
        if self.compress {
            return Err(Error::usage("-c", format!("{format} cannot be compressed"))
                .hint("qcow2 and streamOptimized VMDK can"));
        }
        Ok(())
    }

    /// The value of `key`, if it was given.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// The value of `key` as a size (`64k`, `2M`), or `default`.
    ///
    /// # Errors
    /// `Usage` when it is no size.
    pub fn size(&self, key: &'static str, default: u64) -> Result<u64> {
        match self.get(key) {
            None => Ok(default),
            Some(text) => parse_size(text).ok_or_else(|| bad_value(key, text, "a size like 64k")),
        }
    }

    /// The value of `key`, one of `choices` (a name and what it means), or the first of them.
    ///
    /// # Errors
    /// `Usage` when it is none of them.
    pub fn choice<T: Copy>(&self, key: &'static str, choices: &[(&'static str, T)]) -> Result<T> {
        let names = || choices.iter().map(|c| c.0).collect::<Vec<_>>().join(", ");
        let text = self.get(key).or(choices.first().map(|c| c.0)).unwrap_or("");
        choices
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, value)| *value)
            .ok_or_else(|| bad_value(key, text, &names()))
    }
}

/// An error about the value of an option.
pub fn bad_value(key: &'static str, found: &str, expected: &str) -> Error {
    Error::usage(format!("-o {key}"), "not a possible value")
        .found(format!("{found:?}"))
        .expected(expected)
}

/// A size in bytes: a whole number, or one with `k`, `M`, `G`, `T` (powers of 1024).
pub fn parse_size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text.get(digits.len()..)? {
        "" | "b" | "B" => 0,
        "k" | "K" | "KiB" => 10,
        "M" | "m" | "MiB" => 20,
        "G" | "g" | "GiB" => 30,
        "T" | "t" | "TiB" => 40,
        _ => return None,
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPECS: &[OptionSpec] = &[OptionSpec {
        key: "subformat",
        values: "dynamic|fixed",
        default: "dynamic",
        help: "",
    }];

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!(parse_size("64k"), Some(65536));
        assert_eq!(parse_size("513"), Some(513));
        assert_eq!(parse_size("16T"), Some(16 << 40));
        for bad in ["", "k", "1.5G", "-1", "99999999T", "1x", "1 k"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn unknown_keys_and_values_are_told() {
        assert!(Options::new(SPECS, &["size=1".into()]).is_err());
        assert!(Options::new(SPECS, &["subformat".into()]).is_err());
        let options = Options::new(SPECS, &["subformat=fixed".into()]).unwrap();
        let choices = [("dynamic", 1), ("fixed", 2)];
        assert_eq!(options.choice("subformat", &choices).unwrap(), 2);
        let options = Options::new(SPECS, &["subformat=thin".into()]).unwrap();
        assert!(options.choice("subformat", &choices).is_err());
    }
}
