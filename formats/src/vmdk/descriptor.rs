//! The descriptor: the text that says what a VMDK is made of.
//!
//! Virtual Disk Format 5.0, "The Descriptor File". Keys and keywords in any case, `key = value` with or without spaces
//! and quotes, lines ending in LF or CRLF; a NUL ends an embedded one.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use encoding_rs::{Encoding, UTF_8};

use super::extent_line::ExtentLine;
use crate::error::{Error, Result};

/// Most bytes that are read as a descriptor. Real ones have less than a kilobyte for each extent.
pub const MAX_DESCRIPTOR: u64 = 1 << 20;

/// The id that says "there is none", or "there is no parent".
pub const NO_CID: u32 = u32::MAX;

/// The id that says "look at the long one".
pub const LONG_CID: u32 = u32::MAX - 1;

/// A descriptor, line by line.
#[derive(Debug, Clone, Default)]
pub struct Descriptor {
    /// Keys in lower case, without those of the disk database.
    header: BTreeMap<String, String>,
    /// The disk database: keys in lower case, without `ddb.`.
    database: BTreeMap<String, String>,
    /// The extents, in the order of the disk.
    pub extents: Vec<ExtentLine>,
    /// What a user should hear about.
    pub warnings: Vec<String>,
}

/// Whether the first bytes of a file are a descriptor's: its comment line, or `version=` as the first thing said.
pub fn recognises(first: &[u8]) -> bool {
    let text = first.strip_prefix(b"\xef\xbb\xbf").unwrap_or(first);
    for line in text.split(|b| *b == b'\n') {
        let line = line.trim_ascii();
        if let Some(comment) = line.strip_prefix(b"#") {
            let comment = comment.trim_ascii();
            if starts_with(comment, b"disk descriptor") {
                return true;
            }
        } else if !line.is_empty() {
            return starts_with(line, b"version") && line[7..].trim_ascii_start().starts_with(b"=");
        }
    }
    false
}

fn starts_with(text: &[u8], word: &[u8]) -> bool {
    text.get(..word.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(word))
}

impl Descriptor {
    /// Parses the text in `bytes`, up to the first NUL.
    ///
    /// # Errors
    /// `Malformed` for a line that is neither an extent nor `key=value`, and for keys that are said twice with
    /// different values; `Unsupported` for a version or an encoding that is not known, and for encrypted disks.
    pub fn parse(bytes: &[u8]) -> Result<Descriptor> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        let bytes = &bytes[..end];
        let mut descriptor = Descriptor::default();
        let encoding = descriptor.encoding(bytes)?;
        let mut at = 0;
        for line in bytes.split(|b| *b == b'\n') {
            descriptor
                .line(line.trim_ascii(), encoding)
                .map_err(|e| e.at(at))?;
            at += line.len() as u64 + 1;
        }
        descriptor.check()?;
        Ok(descriptor)
    }

    /// The encoding that the text says it has: looked for before the text can be decoded, in bytes that are ASCII.
    fn encoding(&mut self, bytes: &[u8]) -> Result<&'static Encoding> {
        if std::str::from_utf8(bytes).is_ok() {
            return Ok(UTF_8);
        }
        let named = bytes.split(|b| *b == b'\n').find_map(|line| {
            let (key, value) = key_value(std::str::from_utf8(line.trim_ascii()).ok()?)?;
            key.eq_ignore_ascii_case("encoding")
                .then(|| value.to_owned())
        });
        match named {
            Some(name) => Encoding::for_label(name.as_bytes()).ok_or_else(|| {
                Error::unsupported("descriptor", "is in an encoding that is not known")
                    .found(format!("{name:?}"))
            }),
            None => {
                self.warnings.push(
                    "the descriptor does not say in which encoding its names are: taken for windows-1252"
                        .to_owned(),
                );
                Ok(encoding_rs::WINDOWS_1252)
            }
        }
    }

    fn line(&mut self, line: &[u8], encoding: &'static Encoding) -> Result<()> {
        if line.is_empty() || line.starts_with(b"#") {
            return Ok(());
        }
        let (text, _) = encoding.decode_without_bom_handling(line);
        if let Some(extent) = ExtentLine::parse(&text, line)? {
            self.extents.push(extent);
            return Ok(());
        }
        let Some((key, value)) = key_value(&text) else {
            return Err(Error::malformed(
                "descriptor",
                "a line is neither an extent nor key=value",
            )
            .found(format!("{:?}", shortened(&text))));
        };
        let key = key.to_ascii_lowercase();
        let (list, key) = match key.strip_prefix("ddb.") {
            Some(key) => (&mut self.database, key.to_owned()),
            None => (&mut self.header, key),
        };
        match list.entry(key) {
            Entry::Occupied(known) if known.get() != value => Err(Error::malformed(
                "descriptor",
                format!("says {:?} twice", shortened(known.key())),
            )
            .found(format!(
                "{:?} and {:?}",
                shortened(known.get()),
                shortened(value)
            ))),
            Entry::Occupied(_) => Ok(()),
            Entry::Vacant(place) => {
                place.insert(value.to_owned());
                Ok(())
            }
        }
    }

    fn check(&mut self) -> Result<()> {
        match self.value("version") {
            Some("1" | "2" | "3") => {}
            Some("4") => self
                .warnings
                .push("the descriptor has version 4, which is not documented".to_owned()),
            version => {
                return Err(
                    Error::unsupported("descriptor", "has a version that is not known")
                        .found(version.map_or("none".to_owned(), |v| format!("{v:?}")))
                        .expected("1, 2 or 3"),
                );
            }
        }
        let filters = self.database("iofilters").unwrap_or_default();
        let encrypted = self
            .header
            .iter()
            .any(|(key, _)| key.starts_with("encryption") || key == "keyid");
        if encrypted || filters.to_ascii_lowercase().contains("crypt") {
            return Err(Error::unsupported(
                "descriptor",
                "the disk is encrypted; encrypted VMDKs are not supported",
            )
            .hint("decrypt it in the product that made it"));
        }
        Ok(())
    }

    /// The value of a key of the header, in any case.
    pub fn value(&self, key: &str) -> Option<&str> {
        find(&self.header, key)
    }

    /// The value of a key of the disk database, without its `ddb.`.
    pub fn database(&self, key: &str) -> Option<&str> {
        find(&self.database, key)
    }

    /// The content id, if it says one.
    ///
    /// # Errors
    /// `Malformed` when it is no number of 32 bits.
    pub fn cid(&self) -> Result<Option<u32>> {
        self.hex("cid")
    }

    /// The content id that the parent must have, if there is a parent.
    ///
    /// # Errors
    /// As [`Descriptor::cid`].
    pub fn parent_cid(&self) -> Result<Option<u32>> {
        Ok(self.hex("parentcid")?.filter(|cid| *cid != NO_CID))
    }

    fn hex(&self, key: &'static str) -> Result<Option<u32>> {
        let Some(text) = self.value(key) else {
            return Ok(None);
        };
        u32::from_str_radix(text, 16)
            .map(Some)
            .map_err(|_| bad_value(key, text, "up to 8 hexadecimal digits"))
    }
}

/// An error about the value of a key.
fn bad_value(key: &str, found: &str, expected: &str) -> Error {
    Error::malformed("descriptor", format!("{key} has a wrong value"))
        .found(format!("{:?}", shortened(found)))
        .expected(expected)
}

fn find<'a>(list: &'a BTreeMap<String, String>, key: &str) -> Option<&'a str> {
    list.get(&key.to_ascii_lowercase()).map(String::as_str)
}

/// `key = "value"`, without spaces and quotes.
fn key_value(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once('=')?;
    let (key, value) = (key.trim(), value.trim());
    let value = value
        .strip_prefix('"')
        .and_then(|v| v.strip_suffix('"'))
        .unwrap_or(value);
    (!key.is_empty() && !key.contains('"')).then_some((key, value.trim()))
}

/// The first part of a text from a file, for messages.
pub fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(80).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    const TEXT: &str = "# Disk DescriptorFile\nversion=1\nCID=0123abcd\nparentCID=ffffffff\n\
        createType=\"monolithicFlat\"\n\nRW 2048 FLAT \"a-flat.vmdk\" 0\n\n\
        ddb.adapterType = \"lsilogic\"\nddb.virtualHWVersion = \"4\"\n";

    #[test]
    fn keys_come_in_any_case_and_spacing() {
        let messy = "\u{feff}#disk descriptorfile\r\n VERSION = 2 \r\ncid = \"FE\"\r\nParentCid=12345678\r\n\
            CREATETYPE = \"vmfs\" \r\nDDB.AdapterType=ide\r\n\0garbage";
        let d = Descriptor::parse(messy.as_bytes()).unwrap();
        assert!(recognises(messy.as_bytes()));
        assert_eq!(d.cid().unwrap(), Some(0xfe));
        assert_eq!(d.parent_cid().unwrap(), Some(0x1234_5678));
        assert_eq!(d.value("createType"), Some("vmfs"));
        assert_eq!(d.database("adaptertype"), Some("ide"));
    }

    #[test]
    fn a_usual_one_says_what_it_says() {
        let d = Descriptor::parse(TEXT.as_bytes()).unwrap();
        assert_eq!(d.cid().unwrap(), Some(0x0123_abcd));
        assert_eq!(d.parent_cid().unwrap(), None);
        assert_eq!(d.extents.len(), 1);
        assert!(d.warnings.is_empty());
        assert!(recognises(TEXT.as_bytes()));
        assert!(recognises(b"\n\nversion = 1"));
        for other in [
            &b"versions"[..],
            b"#!/bin/sh\necho",
            b"",
            b"\0\0",
            b"version",
        ] {
            assert!(!recognises(other));
        }
    }

    #[test]
    fn names_in_other_encodings_are_decoded() {
        let text = b"version=1\nencoding=\"GBK\"\nRW 1 FLAT \"\xb4\xc5.vmdk\" 0\n";
        let d = Descriptor::parse(text).unwrap();
        assert_eq!(d.extents[0].file.as_ref().unwrap().name, "\u{78c1}.vmdk");
        let text = b"version=1\nencoding=\"klingon\"\nRW 1 FLAT \"\xb4\xc5.vmdk\" 0\n";
        let error = Descriptor::parse(text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let text = b"version=1\nRW 1 FLAT \"\xe9.vmdk\" 0\n";
        assert_eq!(Descriptor::parse(text).unwrap().warnings.len(), 1);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (text, kind) in [
            ("version=9\n", ErrorKind::Unsupported),
            ("CID=1\n", ErrorKind::Unsupported),
            ("version=1\nCID=1\nCID=2\n", ErrorKind::Malformed),
            ("version=1\nRX 12 FLAT \"a\"\n", ErrorKind::Malformed),
            ("version=1\nencryptionKeys=\"x\"\n", ErrorKind::Unsupported),
            (
                "version=1\nddb.iofilters = \"vmwarevmcrypt\"\n",
                ErrorKind::Unsupported,
            ),
        ] {
            assert_eq!(
                Descriptor::parse(text.as_bytes()).unwrap_err().kind(),
                kind,
                "{text}"
            );
        }
        let d = Descriptor::parse(b"version=1\nCID=xyz\nparentCID=123456789\n").unwrap();
        assert!(d.cid().is_err() && d.parent_cid().is_err());
    }
}
