//! OVAs and OVF folders, whole, as other software would make them, and as nobody should.

use std::io::Write;
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};

use super::descriptor::{
    Bus, Descriptor, Dialect, DiskEntry, FileEntry, Machine, RAW_URI, STREAM_URI, VHD_URI,
};
use super::tarball::Tar;
use super::{Member, Members};

/// Algorithm of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    Sha1,
    Sha256,
    Sha512,
}

impl Algorithm {
    pub const ALL: [Algorithm; 3] = [Algorithm::Sha1, Algorithm::Sha256, Algorithm::Sha512];

    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha1 => "SHA1",
            Algorithm::Sha256 => "SHA256",
            Algorithm::Sha512 => "SHA512",
        }
    }

    pub fn hex(self, bytes: &[u8]) -> String {
        match self {
            Algorithm::Sha1 => hex(&Sha1::digest(bytes)),
            Algorithm::Sha256 => hex(&Sha256::digest(bytes)),
            Algorithm::Sha512 => hex(&Sha512::digest(bytes)),
        }
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How the lines of a manifest are spelt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grammar {
    /// `SHA256(web.ovf)= 0f…`
    Canonical,
    /// `SHA256 (web.ovf) = 0f…`: BSD's, which vSphere refuses.
    Bsd,
    /// `SHA2-256(web.ovf)= 0f…`: OpenSSL 3's; SHA-1 is as ever.
    OpenSsl3,
    /// `SHA256(web.ovf)=0f…`
    NoBlank,
    /// Blanks everywhere, digits in upper case.
    Loose,
    Crlf,
    /// An empty line after each.
    Gaps,
    /// No end of line after the last one.
    Unended,
    /// With a byte order mark.
    Marked,
}

impl Grammar {
    pub const ALL: [Grammar; 9] = [
        Grammar::Canonical,
        Grammar::Bsd,
        Grammar::OpenSsl3,
        Grammar::NoBlank,
        Grammar::Loose,
        Grammar::Crlf,
        Grammar::Gaps,
        Grammar::Unended,
        Grammar::Marked,
    ];
}

/// The manifest of these files.
pub fn manifest(files: &[Member], algorithm: Algorithm, grammar: Grammar) -> Vec<u8> {
    let name = algorithm.name();
    let lines = files.iter().map(|(file, bytes)| {
        let digest = algorithm.hex(bytes);
        match grammar {
            Grammar::Bsd => format!("{name} ({file}) = {digest}\n"),
            Grammar::OpenSsl3 => {
                let name = name
                    .replace("SHA256", "SHA2-256")
                    .replace("SHA512", "SHA2-512");
                format!("{name}({file})= {digest}\n")
            }
            Grammar::NoBlank => format!("{name}({file})={digest}\n"),
            Grammar::Loose => format!(" {name} ( {file} )  =  {} \n", digest.to_uppercase()),
            Grammar::Crlf => format!("{name}({file})= {digest}\r\n"),
            Grammar::Gaps => format!("{name}({file})= {digest}\n\n"),
            _ => format!("{name}({file})= {digest}\n"),
        }
    });
    let mut text: String = lines.collect();
    match grammar {
        Grammar::Unended => text.truncate(text.len() - 1),
        Grammar::Marked => text.insert(0, '\u{feff}'),
        _ => {}
    }
    text.into_bytes()
}

/// A package to be: a descriptor, and the files that it names.
#[derive(Debug, Clone)]
pub struct Package {
    /// Of the descriptor and the manifest, without an extension.
    pub name: String,
    pub descriptor: Descriptor,
    /// Written in its place.
    pub text: Option<String>,
    pub files: Members,
    pub manifest: Option<(Algorithm, Grammar)>,
}

impl Package {
    /// A package of one machine, "web", without disks.
    pub fn new(dialect: Dialect) -> Package {
        let descriptor = Descriptor {
            dialect,
            files: Vec::new(),
            disks: Vec::new(),
            machines: vec![Machine::new("web")],
        };
        Package {
            name: "web".to_owned(),
            descriptor,
            text: None,
            files: Vec::new(),
            manifest: Some((Algorithm::Sha256, Grammar::Canonical)),
        }
    }

    /// A package with these disks as its producer would store them: streams, VHDs (which qemu-img makes) or raw.
    pub fn of(dialect: Dialect, contents: &[Vec<u8>]) -> Package {
        let mut package = Package::new(dialect);
        for (number, content) in contents.iter().enumerate() {
            let (bytes, extension, format) = match dialect {
                Dialect::XenCenter | Dialect::Microsoft => {
                    let vhd = super::disks::by_qemu(content, "vpc", "force_size=on");
                    (vhd, "vhd", VHD_URI)
                }
                Dialect::Ganeti | Dialect::OVirt => (content.clone(), "raw", RAW_URI),
                _ => (super::disks::stream(content), "vmdk", STREAM_URI),
            };
            let name = format!("web-disk{}.{extension}", number + 1);
            package = package.disk(&name, bytes, content.len() as u64, format);
        }
        package
    }

    /// A package of raw disks, for which no other program is needed.
    pub fn raw(contents: &[Vec<u8>]) -> Package {
        let mut package = Package::new(Dialect::Vmware);
        for (number, content) in contents.iter().enumerate() {
            let name = format!("web-disk{}.raw", number + 1);
            package = package.disk(&name, content.clone(), content.len() as u64, RAW_URI);
        }
        package
    }

    /// Attaches one more disk to the last machine. Its file is `file`, which holds `bytes`.
    pub fn disk(mut self, file: &str, bytes: Vec<u8>, capacity: u64, format: &str) -> Package {
        let number = self.descriptor.disks.len() + 1;
        // oVirt calls files and disks the same; XenCenter does, too.
        let same = matches!(self.descriptor.dialect, Dialect::OVirt | Dialect::XenCenter);
        let id = if same {
            format!("volume{number}")
        } else {
            format!("vmdisk{number}")
        };
        let file_id = if same {
            id.clone()
        } else {
            format!("file{number}")
        };
        self.descriptor.files.push(FileEntry {
            id: file_id.clone(),
            href: file.to_owned(),
            size: Some(bytes.len() as u64),
            ..FileEntry::default()
        });
        self.descriptor.disks.push(DiskEntry {
            id: id.clone(),
            file: Some(file_id),
            capacity,
            format: format.to_owned(),
            parent: None,
        });
        let machine = self.descriptor.machines.last_mut().expect("a machine");
        machine.disks.push(id);
        self.files.push((file.to_owned(), bytes));
        self
    }

    pub fn bus(mut self, bus: Bus) -> Package {
        self.machine().bus = bus;
        self
    }

    pub fn manifest(mut self, manifest: Option<(Algorithm, Grammar)>) -> Package {
        self.manifest = manifest;
        self
    }

    /// With the text of the descriptor changed. `from` must be in it.
    pub fn replace(mut self, from: &str, to: &str) -> Package {
        let text = self.ovf();
        assert!(text.contains(from), "{from:?} is not in {text}");
        self.text = Some(text.replace(from, to));
        self
    }

    /// The last machine.
    pub fn machine(&mut self) -> &mut Machine {
        self.descriptor.machines.last_mut().expect("a machine")
    }

    /// Packs the file `name` with gzip, and says so.
    pub fn gzip_file(mut self, name: &str) -> Package {
        let file = self.files.iter_mut().find(|(n, _)| n == name);
        let bytes = &mut file.expect("a file").1;
        *bytes = gzip(bytes);
        let len = bytes.len() as u64;
        let entry = self.descriptor.files.iter_mut().find(|f| f.href == name);
        let entry = entry.expect("an entry");
        (entry.size, entry.compression) = (Some(len), Some("gzip"));
        self
    }

    /// Cuts the file `name` into parts of `size` bytes, and says so.
    pub fn chunk_file(mut self, name: &str, size: usize) -> Package {
        let at = self.files.iter().position(|(n, _)| n == name);
        let at = at.expect("a file");
        let bytes = self.files.remove(at).1;
        let chunks = bytes.chunks(size).enumerate();
        let chunks = chunks.map(|(number, chunk)| (format!("{name}.{number:09}"), chunk.to_vec()));
        self.files.splice(at..at, chunks);
        let entry = self.descriptor.files.iter_mut().find(|f| f.href == name);
        entry.expect("an entry").chunk_size = Some(size as u64);
        self
    }

    pub fn ovf(&self) -> String {
        self.text.clone().unwrap_or_else(|| self.descriptor.text())
    }

    /// Everything in its order: descriptor, manifest, files.
    pub fn members(&self) -> Members {
        let mut members = vec![(format!("{}.ovf", self.name), self.ovf().into_bytes())];
        members.extend(self.files.clone());
        if let Some((algorithm, grammar)) = self.manifest {
            let text = manifest(&members, algorithm, grammar);
            members.insert(1, (format!("{}.mf", self.name), text));
        }
        members
    }

    pub fn ova(&self) -> Vec<u8> {
        tar_of(&self.members())
    }

    pub fn write_ova(&self, path: &Path) {
        std::fs::write(path, self.ova()).expect("write");
    }

    /// The same as an unpacked folder, which is made.
    pub fn write_folder(&self, folder: &Path) {
        std::fs::create_dir_all(folder).expect("a folder");
        for (name, bytes) in self.members() {
            std::fs::write(folder.join(name), bytes).expect("write");
        }
    }
}

/// An archive of these files.
pub fn tar_of(members: &[Member]) -> Vec<u8> {
    let add = |tar: Tar, (name, bytes): &(String, Vec<u8>)| tar.file(name, bytes);
    members.iter().fold(Tar::new(), add).end()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("gzip");
    encoder.finish().expect("gzip")
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut packed = vec![0; zstd_safe::compress_bound(bytes.len())];
    let len = zstd_safe::compress(&mut packed[..], bytes, 1).expect("zstd");
    packed.truncate(len);
    packed
}
