//! Feature bits of a version 3 header, and the names that an image gives them.

use crate::error::{Error, Result};

/// Incompatible feature 0: the refcounts may be wrong. Reading is not affected.
pub const DIRTY: u64 = 1 << 0;
/// Incompatible feature 1: some structure is damaged; only reading is allowed.
pub const CORRUPT: u64 = 1 << 1;
/// Incompatible feature 2: guest clusters stand in another file.
pub const EXTERNAL_DATA: u64 = 1 << 2;
/// Incompatible feature 3: the compression type is not deflate.
pub const COMPRESSION_TYPE: u64 = 1 << 3;
/// Incompatible feature 4: L2 entries have 16 bytes and clusters have 32 subclusters.
pub const EXTENDED_L2: u64 = 1 << 4;
/// Compatible feature 0: refcounts are brought up to date late.
pub const LAZY_REFCOUNTS: u64 = 1 << 0;
/// Autoclear feature 0: the bitmaps fit to the data.
pub const BITMAPS: u64 = 1 << 0;
/// Autoclear feature 1: the external data file is a raw image on its own.
pub const RAW_EXTERNAL: u64 = 1 << 1;

const READABLE: u64 = DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION_TYPE | EXTENDED_L2;

/// Bytes of one entry of the feature name table: type, bit, 46 bytes of name.
pub const NAME_ENTRY: usize = 48;

/// Which of the three fields of the header a bit stands in, as the feature name table counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeatureKind {
    /// Whoever does not know the bit must not touch the image.
    Incompatible,
    /// Whoever does not know the bit may ignore it.
    Compatible,
    /// Whoever does not know the bit clears it when writing.
    Autoclear,
}

impl FeatureKind {
    fn code(self) -> u8 {
        match self {
            FeatureKind::Incompatible => 0,
            FeatureKind::Compatible => 1,
            FeatureKind::Autoclear => 2,
        }
    }
}

/// The features that this program knows: what a new image's feature name table says.
pub const KNOWN: &[(FeatureKind, u8, &str)] = &[
    (FeatureKind::Incompatible, 0, "dirty bit"),
    (FeatureKind::Incompatible, 1, "corrupt bit"),
    (FeatureKind::Incompatible, 2, "external data file"),
    (FeatureKind::Incompatible, 3, "compression type"),
    (FeatureKind::Incompatible, 4, "extended L2 entries"),
    (FeatureKind::Compatible, 0, "lazy refcounts"),
    (FeatureKind::Autoclear, 0, "bitmaps"),
    (FeatureKind::Autoclear, 1, "raw external data"),
];

/// The feature name table of an image (qcow2 spec, "Feature name table").
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FeatureNames(Vec<(u8, u8, String)>);

impl FeatureNames {
    /// Takes the table as it stands on disk; a part of an entry at its end is left out.
    pub fn parse(table: &[u8]) -> FeatureNames {
        let name = |entry: &[u8]| match entry {
            [kind, bit, name @ ..] => {
                let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
                Some((*kind, *bit, String::from_utf8_lossy(name).into_owned()))
            }
            _ => None,
        };
        FeatureNames(
            table
                .chunks_exact(NAME_ENTRY)
                .filter_map(name)
                .take(3 * 64)
                .collect(),
        )
    }

    /// The table of [`KNOWN`] features as it stands on disk.
    pub fn known_to_bytes() -> Vec<u8> {
        let mut bytes = Vec::with_capacity(KNOWN.len() * NAME_ENTRY);
        for (kind, bit, name) in KNOWN {
            let end = bytes.len() + NAME_ENTRY;
            bytes.extend([kind.code(), *bit]);
            bytes.extend(name.as_bytes());
            bytes.resize(end, 0);
        }
        bytes
    }

    /// What the image calls a bit.
    pub fn name(&self, kind: FeatureKind, bit: u8) -> Option<&str> {
        self.0
            .iter()
            .find(|(k, b, _)| *k == kind.code() && *b == bit)
            .map(|(_, _, name)| name.as_str())
    }
}

/// The incompatible bits of `bits` that this program cannot read.
pub fn unreadable(bits: u64) -> u64 {
    bits & !READABLE
}

/// Refuses incompatible features that are not known, by the names that the image has for them.
///
/// # Errors
/// `Unsupported` when there are any.
pub fn check_readable(bits: u64, names: &FeatureNames) -> Result<()> {
    let unknown = unreadable(bits);
    if unknown == 0 {
        return Ok(());
    }
    let list: Vec<String> = (0..64u8)
        .filter(|bit| unknown & (1 << bit) != 0)
        .map(|bit| match names.name(FeatureKind::Incompatible, bit) {
            Some(name) => format!("bit {bit} ({name:?})"),
            None => format!("bit {bit}"),
        })
        .collect();
    Err(
        Error::unsupported("header", "the image needs features that are not supported")
            .at(72)
            .found(list.join(", ")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn the_known_names_survive_the_disk() {
        let names = FeatureNames::parse(&FeatureNames::known_to_bytes());
        assert_eq!(
            names.name(FeatureKind::Autoclear, 1),
            Some("raw external data")
        );
        assert_eq!(names.name(FeatureKind::Compatible, 7), None);
    }

    #[test]
    fn an_unknown_bit_is_refused_with_its_number_or_name() {
        let error = check_readable(1 << 5 | 1 << 63, &FeatureNames::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(error.found_value(), Some("bit 5, bit 63"));
        let mut entry = [0; NAME_ENTRY];
        entry[1] = 5;
        entry[2..6].copy_from_slice(b"holo");
        let names = FeatureNames::parse(&entry);
        let error = check_readable(1 << 5, &names).unwrap_err();
        assert_eq!(error.found_value(), Some("bit 5 (\"holo\")"));
        assert!(check_readable(READABLE, &names).is_ok());
    }
}
