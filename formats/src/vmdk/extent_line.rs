//! A line of the descriptor that names a piece of the disk: `RW 4192256 SPARSE "disk-s001.vmdk"`.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;

use super::descriptor::shortened;
use super::{MAX_SECTORS, SECTOR};
use crate::error::{Error, Result};

/// What the guest may do with an extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read and write.
    ReadWrite,
    /// Read.
    ReadOnly,
    /// Nothing. Its bytes are part of the disk all the same.
    None,
}

/// What an extent is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtentType {
    /// The bytes as they are, from an offset on.
    Flat,
    /// A hosted sparse extent (`KDMV`), streamOptimized included.
    Sparse,
    /// Zeros, without a file.
    Zero,
    /// The bytes as they are, on VMFS.
    Vmfs,
    /// A copy-on-write extent (`COWD`).
    VmfsSparse,
    /// A space-efficient sparse extent.
    SeSparse,
    /// A mapping of a raw device.
    VmfsRdm,
    /// A raw device.
    VmfsRaw,
}

const ACCESS: [(&str, Access); 3] = [
    ("RW", Access::ReadWrite),
    ("RDONLY", Access::ReadOnly),
    ("NOACCESS", Access::None),
];

const TYPES: [(&str, ExtentType); 8] = [
    ("FLAT", ExtentType::Flat),
    ("SPARSE", ExtentType::Sparse),
    ("ZERO", ExtentType::Zero),
    ("VMFS", ExtentType::Vmfs),
    ("VMFSSPARSE", ExtentType::VmfsSparse),
    ("SESPARSE", ExtentType::SeSparse),
    ("VMFSRDM", ExtentType::VmfsRdm),
    ("VMFSRAW", ExtentType::VmfsRaw),
];

fn by_word<T: Copy>(words: &[(&str, T)], word: &str) -> Option<T> {
    words
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(word))
        .map(|(_, value)| *value)
}

fn word_of<T: Copy + PartialEq>(words: &[(&'static str, T)], value: T) -> &'static str {
    words
        .iter()
        .find(|(_, known)| *known == value)
        .map_or("", |(word, _)| word)
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(word_of(&ACCESS, *self))
    }
}

impl fmt::Display for ExtentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(word_of(&TYPES, *self))
    }
}

/// The file of an extent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtentFile {
    /// Its name, decoded.
    pub name: String,
    /// Its name byte for byte, if that is something else.
    pub raw_name: Option<OsString>,
}

/// One extent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtentLine {
    /// What the guest may do with it.
    pub access: Access,
    /// Its length in bytes.
    pub len: u64,
    /// What it is made of.
    pub kind: ExtentType,
    /// Its file; none for zeros.
    pub file: Option<ExtentFile>,
    /// Byte offset in the file at which a flat extent starts.
    pub offset: u64,
}

impl fmt::Display for ExtentLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.access, self.len / SECTOR, self.kind)?;
        if let Some(file) = &self.file {
            write!(f, " \"{}\"", file.name)?;
        }
        if self.offset > 0 {
            write!(f, " {}", self.offset / SECTOR)?;
        }
        Ok(())
    }
}

impl ExtentLine {
    /// Parses a line; `None` when it does not start with an access word. `raw` is the line before it was decoded.
    ///
    /// # Errors
    /// `Malformed` for what cannot be, `Unsupported` for an extent type that is not known.
    pub fn parse(line: &str, raw: &[u8]) -> Result<Option<ExtentLine>> {
        let bad = |what: &'static str| {
            Error::malformed("extent", what).found(format!("{:?}", shortened(line)))
        };
        let (word, rest) = cut(line);
        let Some(access) = by_word(&ACCESS, word) else {
            return Ok(None);
        };
        let (sectors, rest) = cut(rest);
        // `RW = value` would be a key.
        if sectors.starts_with('=') {
            return Ok(None);
        }
        let (kind, rest) = cut(rest);
        let sectors: u64 = sectors.parse().map_err(|_| bad("has no length"))?;
        if sectors > MAX_SECTORS {
            return Err(Error::limit("extent", "is too long")
                .found(format!("{sectors} sectors"))
                .expected(format!("at most {MAX_SECTORS}")));
        }
        let kind = by_word(&TYPES, kind).ok_or_else(|| {
            Error::unsupported("extent", "is of a type that is not known")
                .found(format!("{:?}", shortened(kind)))
        })?;
        let (file, rest) = file(rest, raw).ok_or_else(|| bad("has a file name without end"))?;
        let (offset, _) = cut(rest);
        let offset: u64 = match offset {
            "" => 0,
            text => text
                .parse()
                .map_err(|_| bad("has an offset that is no number"))?,
        };
        if offset > MAX_SECTORS {
            return Err(bad("starts too far into its file"));
        }
        if file.is_none() && kind != ExtentType::Zero {
            return Err(bad("names no file"));
        }
        Ok(Some(ExtentLine {
            access,
            len: sectors * SECTOR,
            kind,
            file,
            offset: offset * SECTOR,
        }))
    }
}

/// The first word, and what comes behind it.
fn cut(text: &str) -> (&str, &str) {
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

/// The name at the front of `text`, in quotes or not, and what comes behind it; `None` for a quote without its end.
fn file<'a>(text: &'a str, raw: &[u8]) -> Option<(Option<ExtentFile>, &'a str)> {
    if text.is_empty() {
        return Some((None, text));
    }
    let Some(quoted) = text.strip_prefix('"') else {
        let (name, rest) = cut(text);
        let file = ExtentFile {
            name: name.to_owned(),
            raw_name: None,
        };
        return Some((Some(file), rest));
    };
    let (name, rest) = quoted.split_once('"')?;
    let raw_name = raw.split(|b| *b == b'"').nth(1)?;
    let file = ExtentFile {
        name: name.to_owned(),
        raw_name: (raw_name != name.as_bytes()).then(|| OsString::from_vec(raw_name.to_vec())),
    };
    Some((Some(file), rest.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn parse(line: &str) -> Result<Option<ExtentLine>> {
        ExtentLine::parse(line, line.as_bytes())
    }

    #[test]
    fn lines_of_all_sorts_are_understood() {
        for (line, shown) in [
            (
                "RW 4192256 SPARSE \"disk-s001.vmdk\"",
                "RW 4192256 SPARSE \"disk-s001.vmdk\"",
            ),
            (
                "rdonly  2048   flat  \"a b.vmdk\"   128",
                "RDONLY 2048 FLAT \"a b.vmdk\" 128",
            ),
            ("NOACCESS 63 ZERO", "NOACCESS 63 ZERO"),
            ("RW\t1\tVMFS\tx.vmdk", "RW 1 VMFS \"x.vmdk\""),
            (
                "RW 63 FLAT \"/dev/sda\" 0 \"9d4e\" 12",
                "RW 63 FLAT \"/dev/sda\"",
            ),
            (
                "RW 8 SESPARSE \"x-sesparse.vmdk\"",
                "RW 8 SESPARSE \"x-sesparse.vmdk\"",
            ),
        ] {
            assert_eq!(parse(line).unwrap().unwrap().to_string(), shown);
        }
        assert_eq!(parse("version=1").unwrap(), None);
        assert_eq!(parse("RWX 12 FLAT \"a\"").unwrap(), None);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (line, kind) in [
            ("RW", ErrorKind::Malformed),
            ("RW x FLAT \"a\" 0", ErrorKind::Malformed),
            ("RW -1 FLAT \"a\" 0", ErrorKind::Malformed),
            ("RW 99999999999999999999 FLAT \"a\" 0", ErrorKind::Malformed),
            ("RW 18446744073709551615 FLAT \"a\" 0", ErrorKind::Limit),
            ("RW 1 FLAT", ErrorKind::Malformed),
            ("RW 1 FLAT \"a", ErrorKind::Malformed),
            ("RW 1 FLAT \"a\" -1", ErrorKind::Malformed),
            ("RW 1 FLAT \"a\" 18446744073709551615", ErrorKind::Malformed),
            ("RW 1 HOLOGRAM \"a\"", ErrorKind::Unsupported),
        ] {
            assert_eq!(parse(line).unwrap_err().kind(), kind, "{line}");
        }
    }
}
