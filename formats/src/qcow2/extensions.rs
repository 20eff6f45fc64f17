//! Header extensions: what stands between the header and the backing file's name (qcow2 spec, "Header extensions").

use super::bitmaps::BitmapDirectory;
use super::features::FeatureNames;
use super::header::Header;
use crate::error::{Error, Result};
use crate::storage::Storage;

const END: u32 = 0;
const BACKING_FORMAT: u32 = 0xe279_2aca;
const FEATURE_NAMES: u32 = 0x6803_f857;
const BITMAPS: u32 = 0x2385_2875;
const ENCRYPTION: u32 = 0x0537_be77;
const DATA_FILE: u32 = 0x4441_5441;

/// What the extensions say; those of types that are not known are skipped, as the specification wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extensions {
    /// Format of the backing file, in QEMU's words.
    pub backing_format: Option<String>,
    /// Name of the external data file.
    pub data_file: Option<String>,
    /// Names of feature bits.
    pub feature_names: Option<FeatureNames>,
    /// Where the persistent bitmaps are listed.
    pub bitmaps: Option<BitmapDirectory>,
    /// File offset and length in bytes of the encryption header.
    pub encryption: Option<(u64, u64)>,
}

impl Extensions {
    /// Reads the extensions that follow `header`: up to the backing file's name, or to the end of cluster 0.
    ///
    /// # Errors
    /// As [`Extensions::parse`], and those of the storage.
    pub fn read(storage: &dyn Storage, header: &Header) -> Result<Extensions> {
        let start = u64::from(header.header_length);
        let end = match header.backing_name {
            Some((offset, _)) => offset,
            None => header.cluster_size(),
        };
        let end = end.min(storage.len());
        // At most a cluster, 2 MiB, and no more than the file has.
        let mut area = vec![0; end.saturating_sub(start) as usize];
        storage.read_at(&mut area, start)?;
        Extensions::parse(&area, start)
    }

    /// Takes the extensions in `area`, which stands in the file at `start`.
    ///
    /// # Errors
    /// `Malformed` for one that is longer than the area, that comes twice, or whose text is not UTF-8.
    pub fn parse(area: &[u8], start: u64) -> Result<Extensions> {
        let mut found = Extensions::default();
        let mut rest = area;
        while let Some((kind, length, after)) = head(rest) {
            let at = start.saturating_add((area.len() - rest.len()) as u64);
            if kind == END {
                break;
            }
            let data = after.get(..length as usize).ok_or_else(|| {
                Error::malformed("header extension", "is longer than its place")
                    .at(at)
                    .found(format!("type {kind:#x} with {length} bytes"))
                    .expected(format!("at most {} bytes", after.len()))
            })?;
            found.take(kind, data, at)?;
            rest = after
                .get((length as usize).next_multiple_of(8)..)
                .unwrap_or_default();
        }
        Ok(found)
    }

    fn take(&mut self, kind: u32, data: &[u8], at: u64) -> Result<()> {
        let twice = match kind {
            BACKING_FORMAT => self.backing_format.replace(text(data, at)?).is_some(),
            DATA_FILE => self.data_file.replace(text(data, at)?).is_some(),
            FEATURE_NAMES => self
                .feature_names
                .replace(FeatureNames::parse(data))
                .is_some(),
            BITMAPS => self
                .bitmaps
                .replace(BitmapDirectory::parse(data, at)?)
                .is_some(),
            ENCRYPTION => self.encryption.replace(pointer(data, at)?).is_some(),
            _ => false,
        };
        if twice {
            return Err(Error::malformed("header extension", "comes twice")
                .at(at)
                .found(format!("type {kind:#x}")));
        }
        Ok(())
    }
}

/// The extensions of a new image: the format of the image below, the name of its data file, the feature name table,
/// and the end. At most `room` bytes: the names are left out where there is no place for them.
pub fn for_new_image(
    backing_format: Option<&str>,
    data_file: Option<&str>,
    room: usize,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(format) = backing_format {
        append(&mut bytes, BACKING_FORMAT, format.as_bytes());
    }
    if let Some(name) = data_file {
        append(&mut bytes, DATA_FILE, name.as_bytes());
    }
    let names = FeatureNames::known_to_bytes();
    // The head of the names, and of the end.
    if bytes.len() + names.len() + 16 <= room {
        append(&mut bytes, FEATURE_NAMES, &names);
    }
    append(&mut bytes, END, &[]);
    bytes
}

fn append(bytes: &mut Vec<u8>, kind: u32, data: &[u8]) {
    bytes.extend(kind.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}

fn head(rest: &[u8]) -> Option<(u32, u32, &[u8])> {
    let (kind, rest) = rest.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    Some((u32::from_be_bytes(*kind), u32::from_be_bytes(*length), rest))
}

/// The two numbers of the encryption header's pointer (qcow2 spec, "Full disk encryption header pointer").
fn pointer(data: &[u8], at: u64) -> Result<(u64, u64)> {
    let halves = data.split_first_chunk().and_then(|(offset, rest)| {
        let length = <[u8; 8]>::try_from(rest).ok()?;
        Some((u64::from_be_bytes(*offset), u64::from_be_bytes(length)))
    });
    halves.ok_or_else(|| {
        Error::malformed("encryption header pointer", "has the wrong length")
            .at(at)
            .found(format!("{} bytes", data.len()))
            .expected("16 bytes")
    })
}

fn text(data: &[u8], at: u64) -> Result<String> {
    match std::str::from_utf8(data) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(Error::malformed("header extension", "is not UTF-8 text").at(at)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::qcow2::features::FeatureKind;

    fn extension(kind: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = kind.to_be_bytes().to_vec();
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    #[test]
    fn known_ones_are_taken_and_others_skipped() {
        // The last but one type is what crosvm writes by mistake: unknown, not a backing format.
        let area = [
            extension(BACKING_FORMAT, b"raw"),
            extension(0xe279_268f, b"qcow2"),
            extension(DATA_FILE, b"disk.data"),
            extension(
                BITMAPS,
                &[
                    [0, 0, 0, 7],
                    [0; 4],
                    [0; 4],
                    [0, 0, 1, 0],
                    [0; 4],
                    [0, 5, 0, 0],
                ]
                .concat(),
            ),
            extension(END, &[]),
            extension(DATA_FILE, b"behind the end"),
        ]
        .concat();
        let found = Extensions::parse(&area, 104).unwrap();
        assert_eq!(found.backing_format.as_deref(), Some("raw"));
        assert_eq!(found.data_file.as_deref(), Some("disk.data"));
        let expected = BitmapDirectory {
            reserved: 0,
            count: 7,
            offset: 0x50000,
            bytes: 256,
        };
        assert_eq!(found.bitmaps, Some(expected));
    }

    #[test]
    fn one_that_runs_over_its_place_is_malformed() {
        let area = extension(DATA_FILE, b"disk.data");
        let error = Extensions::parse(&area[..area.len() - 8], 104).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed);
        let mut area = extension(0x1234, b"");
        area[4..8].fill(0xff);
        assert!(Extensions::parse(&area, 104).is_err());
    }

    #[test]
    fn the_pointer_to_the_encryption_header_has_16_bytes() {
        let pointer = [0x10000u64.to_be_bytes(), 592u64.to_be_bytes()].concat();
        let found = Extensions::parse(&extension(ENCRYPTION, &pointer), 112).unwrap();
        assert_eq!(found.encryption, Some((0x10000, 592)));
        for len in [0, 8, 15] {
            assert!(Extensions::parse(&extension(ENCRYPTION, &pointer[..len]), 112).is_err());
        }
        let longer = [&pointer[..], &[0]].concat();
        assert!(Extensions::parse(&extension(ENCRYPTION, &longer), 112).is_err());
    }

    #[test]
    fn a_name_that_comes_twice_is_malformed() {
        let area = [extension(DATA_FILE, b"a"), extension(DATA_FILE, b"b")].concat();
        assert!(Extensions::parse(&area, 104).is_err());
        assert!(Extensions::parse(&extension(DATA_FILE, b"\xff"), 104).is_err());
        assert!(Extensions::parse(&extension(BITMAPS, b"\0"), 104).is_err());
    }

    #[test]
    fn an_area_without_end_marker_ends_where_it_ends() {
        assert_eq!(Extensions::parse(&[], 104).unwrap(), Extensions::default());
        let area = extension(BACKING_FORMAT, b"raw");
        assert!(
            Extensions::parse(&area, 104)
                .unwrap()
                .backing_format
                .is_some()
        );
        assert!(Extensions::parse(&[1, 2, 3], 104).is_ok());
    }

    #[test]
    fn a_new_image_names_its_features() {
        let found = Extensions::parse(&for_new_image(None, None, 4096), 112).unwrap();
        let names = found.feature_names.unwrap();
        assert_eq!(
            names.name(FeatureKind::Incompatible, 4),
            Some("extended L2 entries")
        );
    }
}
