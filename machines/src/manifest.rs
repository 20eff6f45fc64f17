//! The manifest (`.mf`): a digest of each file of a package.
//!
//! DSP0243, "Integrity of a package". Written in the one spelling that every reader takes, `SHA256(web.ovf)= 0f1e…`; read in
//! all that are in use: blanks around every sign, CRLF, digits in either case, `SHA2-256`, names with blanks and parentheses.

use std::collections::HashMap;
use std::fmt;

use formats::{Error, Result};
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use crate::text::{check_characters, decode_text};

const WHAT: &str = "manifest";

/// Warnings that are told.
const MAX_WARNINGS: usize = 1000;

/// Most bytes of one: 100,000 lines of short names.
pub const MAX_LEN: u64 = 8 << 20;

/// A digest algorithm that manifests use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// 160 bits; the only one that vSphere before 6.0 knows, and that new clients refuse.
    Sha1,
    /// 256 bits; what is written unless a profile says otherwise.
    Sha256,
    /// 384 bits; rare.
    Sha384,
    /// 512 bits.
    Sha512,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Algorithm; 4] = [
        Algorithm::Sha1,
        Algorithm::Sha256,
        Algorithm::Sha384,
        Algorithm::Sha512,
    ];

    /// As manifests spell it.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha1 => "SHA1",
            Algorithm::Sha256 => "SHA256",
            Algorithm::Sha384 => "SHA384",
            Algorithm::Sha512 => "SHA512",
        }
    }

    /// Bytes of a digest.
    pub fn digest_len(self) -> usize {
        match self {
            Algorithm::Sha1 => 20,
            Algorithm::Sha256 => 32,
            Algorithm::Sha384 => 48,
            Algorithm::Sha512 => 64,
        }
    }

    /// The algorithm of a name in any of its spellings: `sha1`, `SHA-256`, `SHA2-512`.
    pub fn by_name(name: &str) -> Option<Algorithm> {
        let name = name.trim().to_ascii_uppercase().replace(['-', '_'], "");
        match name.as_str() {
            "SHA1" | "SHA" => Some(Algorithm::Sha1),
            "SHA256" | "SHA2256" => Some(Algorithm::Sha256),
            "SHA384" | "SHA2384" => Some(Algorithm::Sha384),
            "SHA512" | "SHA2512" => Some(Algorithm::Sha512),
            _ => None,
        }
    }

    /// A digest in the making.
    pub fn hasher(self) -> Hasher {
        match self {
            Algorithm::Sha1 => Hasher::Sha1(Sha1::new()),
            Algorithm::Sha256 => Hasher::Sha256(Sha256::new()),
            Algorithm::Sha384 => Hasher::Sha384(Sha384::new()),
            Algorithm::Sha512 => Hasher::Sha512(Sha512::new()),
        }
    }

    /// The digest of `bytes`.
    pub fn digest(self, bytes: &[u8]) -> Vec<u8> {
        let mut hasher = self.hasher();
        hasher.update(bytes);
        hasher.finish()
    }
}

/// A digest of bytes that come in pieces.
#[derive(Clone)]
pub enum Hasher {
    /// SHA-1.
    Sha1(Sha1),
    /// SHA-256.
    Sha256(Sha256),
    /// SHA-384.
    Sha384(Sha384),
    /// SHA-512.
    Sha512(Sha512),
}

impl Hasher {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha1(h) => h.update(bytes),
            Hasher::Sha256(h) => h.update(bytes),
            Hasher::Sha384(h) => h.update(bytes),
            Hasher::Sha512(h) => h.update(bytes),
        }
    }

    /// The digest of all bytes taken.
    pub fn finish(self) -> Vec<u8> {
        match self {
            Hasher::Sha1(h) => h.finalize().to_vec(),
            Hasher::Sha256(h) => h.finalize().to_vec(),
            Hasher::Sha384(h) => h.finalize().to_vec(),
            Hasher::Sha512(h) => h.finalize().to_vec(),
        }
    }
}

/// One line: a file and its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The file, as the package calls it.
    pub name: String,
    /// How the digest was made.
    pub algorithm: Algorithm,
    /// The digest.
    pub digest: Vec<u8>,
}

impl fmt::Display for Entry {
    /// The line in the spelling that every reader takes, without its end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}({})= {}",
            self.algorithm.name(),
            self.name,
            hex(&self.digest)
        )
    }
}

/// The lines of a manifest, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The files.
    pub entries: Vec<Entry>,
    /// Lines that were passed over, and why.
    pub warnings: Vec<String>,
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// `Malformed` for a line that is none, a digest of the wrong length, and two digests of one algorithm for one file that
    /// differ; `Limit` above 16 MiB. An unknown algorithm is a warning.
    pub fn parse(bytes: &[u8]) -> Result<Manifest> {
        let text = decode_text(bytes, None, WHAT)?;
        let mut manifest = Manifest::default();
        let mut known = HashMap::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\0');
            if line.is_empty() {
                continue;
            }
            match parse_line(line, number + 1)? {
                Line::Known(entry) => manifest.push(entry, &mut known, number + 1)?,
                Line::UnknownAlgorithm(name) if manifest.warnings.len() < MAX_WARNINGS => {
                    manifest.warnings.push(format!(
                        "line {} of the manifest has an algorithm that is not known: {name:?}",
                        number + 1
                    ));
                }
                Line::UnknownAlgorithm(_) => {}
            }
        }
        Ok(manifest)
    }

    /// Adds an entry; `known` says where that of a file and an algorithm is.
    fn push(
        &mut self,
        entry: Entry,
        known: &mut HashMap<(String, Algorithm), usize>,
        line: usize,
    ) -> Result<()> {
        let index = *known
            .entry((entry.name.clone(), entry.algorithm))
            .or_insert(self.entries.len());
        match self.entries.get(index) {
            Some(before) if before.digest != entry.digest => {
                Err(in_line(line, "another digest for the same file")
                    .found(format!("{:?}", entry.name)))
            }
            Some(_) => Ok(()),
            None => {
                self.entries.push(entry);
                Ok(())
            }
        }
    }

    /// The digests of the file `name`.
    pub fn digests_of<'m>(&'m self, name: &'m str) -> impl Iterator<Item = &'m Entry> {
        self.entries.iter().filter(move |e| e.name == name)
    }

    /// Adds the digest of a file.
    pub fn add(&mut self, name: impl Into<String>, algorithm: Algorithm, digest: Vec<u8>) {
        self.entries.push(Entry {
            name: name.into(),
            algorithm,
            digest,
        });
    }

    /// The text: one line a file, each ending in LF.
    pub fn to_text(&self) -> String {
        self.entries.iter().map(|e| format!("{e}\n")).collect()
    }

    /// Bytes of [`Manifest::to_text`] for these file names: it does not depend on the digests.
    pub fn text_len<'n>(algorithm: Algorithm, names: impl IntoIterator<Item = &'n str>) -> usize {
        let fixed = algorithm.name().len() + "()= \n".len() + 2 * algorithm.digest_len();
        names.into_iter().map(|name| name.len() + fixed).sum()
    }
}

/// What a line says.
pub(crate) enum Line {
    Known(Entry),
    UnknownAlgorithm(String),
}

/// Reads `SHA256(name)= digest`; `line` is its number. The digest may have any length: signatures have the same form.
pub(crate) fn parse_any(text: &str, line: usize) -> Result<(String, String, Vec<u8>)> {
    let wrong = || in_line(line, "not a line of a manifest").expected("SHA256(name)= digest");
    let (algorithm, rest) = text.split_once('(').ok_or_else(wrong)?;
    // Names may have parentheses: the last one that an equals sign follows is the end.
    let (before, digest) = rest.rsplit_once('=').ok_or_else(wrong)?;
    let name = before.trim_end().strip_suffix(')').ok_or_else(wrong)?;
    let name = name.trim();
    check_characters(name, "file name in the manifest")?;
    if name.is_empty() {
        return Err(wrong());
    }
    let digest =
        unhex(digest.trim()).ok_or_else(|| in_line(line, "a digest that is not in hex"))?;
    Ok((algorithm.trim().to_owned(), name.to_owned(), digest))
}

fn parse_line(text: &str, line: usize) -> Result<Line> {
    let (algorithm, name, digest) = parse_any(text, line)?;
    let Some(algorithm) = Algorithm::by_name(&algorithm) else {
        return Ok(Line::UnknownAlgorithm(algorithm));
    };
    if digest.len() != algorithm.digest_len() {
        return Err(in_line(line, "a digest of the wrong length")
            .found(format!("{} bytes", digest.len()))
            .expected(format!("{} bytes", algorithm.digest_len())));
    }
    Ok(Line::Known(Entry {
        name,
        algorithm,
        digest,
    }))
}

fn in_line(line: usize, message: &'static str) -> Error {
    Error::malformed(format!("{WHAT} in line {line}"), message)
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Bytes of hex in either case.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    if text.is_empty() || !text.len().is_multiple_of(2) {
        return None;
    }
    text.as_bytes()
        .chunks(2)
        .map(|pair| {
            let [high, low] = pair else { return None };
            let digit = |b: &u8| (*b as char).to_digit(16);
            Some((digit(high)? * 16 + digit(low)?) as u8)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use formats::ErrorKind;

    const ONE: &str = "da39a3ee5e6b4b0d3255bfef95601890afd80709";

    #[test]
    fn every_spelling_in_use_is_read() {
        for line in [
            format!("SHA1(a.ovf)= {ONE}"),
            format!("SHA1 (a.ovf) = {ONE}\r"),
            format!("  sha-1( a.ovf )={}", ONE.to_uppercase()),
            format!("\n\nSHA1(a.ovf)= {ONE}\n\n"),
            format!("\u{feff}SHA1(a.ovf)= {ONE}"),
        ] {
            let manifest = Manifest::parse(line.as_bytes()).unwrap();
            assert_eq!(manifest.entries.len(), 1, "{line:?}");
            assert_eq!(manifest.entries[0].name, "a.ovf");
            assert_eq!(manifest.entries[0].digest, Algorithm::Sha1.digest(b""));
        }
        let odd = format!("SHA1(my disk (1)=2.vmdk)= {ONE}");
        let manifest = Manifest::parse(odd.as_bytes()).unwrap();
        assert_eq!(manifest.entries[0].name, "my disk (1)=2.vmdk");
        let openssl3 = format!("SHA2-256(a)= {}", "0".repeat(64));
        let manifest = Manifest::parse(openssl3.as_bytes()).unwrap();
        assert_eq!(manifest.entries[0].algorithm, Algorithm::Sha256);
    }

    #[test]
    fn unknown_algorithms_are_warned_of() {
        let manifest = Manifest::parse(b"MD5(a)= 00\nBLAKE3(b)= 11").unwrap();
        assert!(manifest.entries.is_empty());
        assert_eq!(manifest.warnings.len(), 2);
    }

    #[test]
    fn what_is_no_manifest_is_malformed() {
        for text in [
            "hello",
            "SHA1 a.ovf = 00",
            "SHA1(a.ovf) 00",
            "SHA1(a.ovf)= 00",
            "SHA1(a.ovf)= zz39a3ee5e6b4b0d3255bfef95601890afd80709",
            &format!("SHA1()= {ONE}"),
            &format!("SHA1(a\u{1b}[2J)= {ONE}"),
            &format!("SHA1(a)= {ONE}\nSHA1(a)= {}", "0".repeat(40)),
        ] {
            let error = Manifest::parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Malformed, "{text:?}");
        }
    }

    #[test]
    fn it_is_written_in_the_one_spelling_that_all_take() {
        let mut manifest = Manifest::default();
        for name in ["web.ovf", "web-disk1.vmdk"] {
            manifest.add(name, Algorithm::Sha256, Algorithm::Sha256.digest(b""));
        }
        let text = manifest.to_text();
        assert!(text.starts_with("SHA256(web.ovf)= e3b0c44298fc1c149afbf4c8996fb924"));
        let names = manifest.entries.iter().map(|e| e.name.as_str());
        assert_eq!(text.len(), Manifest::text_len(Algorithm::Sha256, names));
        assert_eq!(Manifest::parse(text.as_bytes()).unwrap(), manifest);
    }
}
