//! The files of a package: their order, names, and digests.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sha1::{Digest, Sha1};
use sha2::{Sha256, Sha512};

use super::super::packages::hex;
use super::super::packages::tarball::{Archive, Dialect};
use super::super::{Folder, have, s, tool};

/// Sizes of ustar end here.
const USTAR_MAX: u64 = 8 << 30;

/// An OVA, or a folder.
pub enum Bag {
    Archive(Archive),
    Folder(PathBuf, Vec<String>),
}

impl Bag {
    pub fn open(package: &Path) -> Bag {
        if !package.is_dir() {
            return Bag::Archive(Archive::open(package));
        }
        let entries = std::fs::read_dir(package).expect("list the folder");
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            let entry = entry.expect("an entry");
            assert!(entry.file_type().expect("a type").is_file(), "{entry:?}");
            entry.file_name().into_string().expect("a name in UTF-8")
        };
        let mut names: Vec<String> = entries.map(name).collect();
        names.sort();
        Bag::Folder(package.to_owned(), names)
    }

    pub fn names(&self) -> Vec<&str> {
        match self {
            Bag::Archive(archive) => archive.names(),
            Bag::Folder(_, names) => names.iter().map(String::as_str).collect(),
        }
    }

    pub fn size(&self, name: &str) -> Option<u64> {
        match self {
            Bag::Archive(archive) => archive.find(name).map(|m| m.size),
            Bag::Folder(folder, _) => folder.join(name).metadata().ok().map(|m| m.len()),
        }
    }

    /// `len` bytes of the file `name` from `offset` on; they must be there.
    pub fn read(&self, name: &str, offset: u64, len: usize) -> Vec<u8> {
        let size = self.size(name).unwrap_or_else(|| panic!("no file {name}"));
        assert!(
            offset + len as u64 <= size,
            "{name}: {len} bytes at {offset}"
        );
        match self {
            Bag::Archive(archive) => {
                let member = archive.find(name).expect("a member");
                archive.bytes(member.offset + offset, len)
            }
            Bag::Folder(folder, _) => {
                let file = File::open(folder.join(name)).expect("open");
                let mut bytes = vec![0; len];
                file.read_exact_at(&mut bytes, offset).expect("read");
                bytes
            }
        }
    }

    pub fn data(&self, name: &str) -> Vec<u8> {
        let size = self.size(name).unwrap_or_else(|| panic!("no file {name}"));
        assert!(size <= 1 << 24, "{name} has {size} bytes");
        self.read(name, 0, size as usize)
    }

    fn digest(&self, algorithm: &str, name: &str) -> String {
        match algorithm {
            "SHA1" => self.digest_by(Sha1::new(), name),
            "SHA256" => self.digest_by(Sha256::new(), name),
            "SHA512" => self.digest_by(Sha512::new(), name),
            other => panic!("Invalid OVF checksum algorithm: {other}"),
        }
    }

    fn digest_by<D: Digest>(&self, mut digest: D, name: &str) -> String {
        let size = self.size(name).unwrap_or_else(|| panic!("no file {name}"));
        for at in (0..size).step_by(1 << 20) {
            digest.update(self.read(name, at, (size - at).min(1 << 20) as usize));
        }
        hex(&digest.finalize())
    }

    /// Order, types, dialect and names of the files. Answers the name that descriptor, manifest and certificate share.
    pub fn check_names(&self) -> String {
        let names = self.names();
        let distinct: BTreeSet<String> = names.iter().map(|n| n.to_lowercase()).collect();
        assert_eq!(
            distinct.len(),
            names.len(),
            "two members of one name: {names:?}"
        );
        for name in &names {
            let is_safe = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
            assert!(
                name.bytes().all(is_safe),
                "a name that importers choke on: {name:?}"
            );
            assert!(!name.starts_with('.') && name.len() <= 100, "{name:?}");
        }
        let descriptors: Vec<&str> = names
            .iter()
            .copied()
            .filter(|n| n.ends_with(".ovf"))
            .collect();
        let [descriptor] = descriptors[..] else {
            panic!("not one descriptor: {names:?}");
        };
        let base = descriptor
            .strip_suffix(".ovf")
            .expect("a descriptor")
            .to_owned();
        if let Bag::Archive(archive) = self {
            check_members(archive, &base);
        }
        for name in names {
            let kind = name.rsplit('.').next().unwrap_or_default();
            if ["mf", "cert"].contains(&kind) {
                assert_eq!(
                    name,
                    format!("{base}.{kind}"),
                    "another name than the descriptor's"
                );
            }
        }
        base
    }

    /// Every line of the manifest to the letter, every file in it, in order. Answers its algorithm, and whether it is signed.
    pub fn check_manifest(&self, base: &str) -> (Option<String>, bool) {
        let manifest = format!("{base}.mf");
        let certificate = format!("{base}.cert");
        let is_signed = self.names().contains(&certificate.as_str());
        if !self.names().contains(&manifest.as_str()) {
            assert!(!is_signed, "a certificate without a manifest");
            return (None, false);
        }
        let text = String::from_utf8(self.data(&manifest)).expect("a manifest in ASCII");
        assert!(
            text.ends_with('\n') && !text.contains('\r'),
            "ends of lines"
        );
        let mut listed = Vec::new();
        let mut algorithms = BTreeSet::new();
        for line in text.lines() {
            let (algorithm, name, digest) = manifest_line(line);
            assert_eq!(digest, self.digest(&algorithm, &name), "{line}");
            listed.push(name);
            algorithms.insert(algorithm);
        }
        let others = [manifest.as_str(), certificate.as_str()];
        let mut expected: Vec<&str> = self.names();
        expected.retain(|name| !others.contains(name));
        if let Bag::Folder(..) = self {
            // A folder has no order.
            assert_eq!(listed.first(), Some(&format!("{base}.ovf")), "{listed:?}");
            listed.sort();
        }
        assert_eq!(listed, expected, "files of the manifest");
        assert_eq!(algorithms.len(), 1, "{algorithms:?}");
        if is_signed {
            self.check_certificate(&manifest, &certificate);
        }
        (algorithms.pop_first(), is_signed)
    }

    /// The signature is one over the bytes of the manifest, by the key of the certificate behind it.
    fn check_certificate(&self, manifest: &str, certificate: &str) {
        let text = String::from_utf8(self.data(certificate)).expect("a certificate in ASCII");
        let (line, pem) = text.split_once('\n').expect("two parts");
        let (algorithm, name, signature) = manifest_line(line);
        assert_eq!(name, manifest, "what is signed");
        assert!(pem.starts_with("-----BEGIN CERTIFICATE-----\n"), "{pem}");
        if !have("openssl") {
            return;
        }
        let folder = Folder::new();
        let [cert, key, sum, signed] = ["cert", "key", "sum", "mf"].map(|name| folder.file(name));
        std::fs::write(&cert, pem).expect("write");
        std::fs::write(&signed, self.data(manifest)).expect("write");
        std::fs::write(&sum, bytes_of(&signature)).expect("write");
        let public = tool("openssl", &["x509", "-in", s(&cert), "-pubkey", "-noout"]);
        std::fs::write(&key, public).expect("write");
        let digest = format!("-{}", algorithm.to_lowercase());
        let arguments = [
            "dgst",
            &digest,
            "-verify",
            s(&key),
            "-signature",
            s(&sum),
            s(&signed),
        ];
        tool("openssl", &arguments);
    }
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    digits
        .map(|pair| {
            let pair = std::str::from_utf8(pair).expect("ASCII");
            u8::from_str_radix(pair, 16).expect("a byte")
        })
        .collect()
}

/// `SHA256(file.ovf)= 0f…`, and not a blank more or less.
fn manifest_line(line: &str) -> (String, String, String) {
    let split = line.split_once('(').and_then(|(algorithm, rest)| {
        let (name, digest) = rest.split_once(")= ")?;
        Some((algorithm, name, digest))
    });
    let (algorithm, name, digest) = split.unwrap_or_else(|| panic!("the line {line:?}"));
    let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    assert!(
        digest.bytes().all(is_hex) && !digest.is_empty(),
        "the line {line:?}"
    );
    (algorithm.to_owned(), name.to_owned(), digest.to_owned())
}

fn check_members(archive: &Archive, base: &str) {
    for member in &archive.members {
        let name = &member.name;
        assert_eq!(member.kind, b'0', "{name} is no plain file, or pax");
        let large = member.size >= USTAR_MAX;
        assert_eq!(
            member.base256, large,
            "{name}: the size of {} bytes",
            member.size
        );
        if !large {
            assert_ne!(member.dialect, Dialect::Other, "{name}: magic");
        }
        assert_eq!(
            member.header[345], 0,
            "{name}: a prefix, which readers overlook"
        );
        let mode = String::from_utf8_lossy(&member.header[100..107]).into_owned();
        assert_eq!(mode, "0000644", "{name}: mode");
    }
    let names = archive.names();
    let mut order = [".ovf", ".mf", ".cert"]
        .map(|kind| format!("{base}{kind}"))
        .to_vec();
    order.retain(|name| names.contains(&name.as_str()));
    assert_eq!(names[..order.len()], order, "the first members");
}
