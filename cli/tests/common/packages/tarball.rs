//! Tar archives byte by byte: built with everything that the dialects allow and everything that nobody should take, and read
//! back by a reader that forgives nothing.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

pub const BLOCK: usize = 512;
/// The largest size that eleven octal digits say.
const OCTAL_MAX: u64 = 0o77_777_777_777;

/// A header to be.
#[derive(Debug, Clone)]
pub struct Header {
    pub name: Vec<u8>,
    pub size: u64,
    pub kind: u8,
    pub link: Vec<u8>,
    /// Magic and version.
    pub magic: [u8; 8],
    pub prefix: Vec<u8>,
    /// What stands in the field of the size, if that is not `size` in digits.
    pub size_field: Option<[u8; 12]>,
    /// What is added to the sum of the header: not 0 makes it wrong.
    pub sum_error: u32,
}

impl Header {
    pub fn new(name: &str, size: u64) -> Header {
        Header {
            name: name.as_bytes().to_vec(),
            size,
            kind: b'0',
            link: Vec::new(),
            magic: *b"ustar\x0000",
            prefix: Vec::new(),
            size_field: None,
            sum_error: 0,
        }
    }

    pub fn kind(mut self, kind: u8) -> Header {
        self.kind = kind;
        self
    }

    pub fn link(mut self, kind: u8, target: &str) -> Header {
        self.link = target.as_bytes().to_vec();
        self.kind(kind)
    }

    /// The size as a binary number, as GNU writes sizes from 8 GiB on.
    pub fn base256(mut self) -> Header {
        self.magic = *b"ustar  \0";
        self.size_field = Some(base256(self.size));
        self
    }

    pub fn gnu(mut self) -> Header {
        self.magic = *b"ustar  \0";
        self
    }

    /// As tars were before POSIX: no magic at all.
    pub fn v7(mut self) -> Header {
        self.magic = [0; 8];
        self
    }

    /// The magic that VMware's tools write.
    pub fn hybrid(mut self) -> Header {
        self.magic = *b"ustar\0 \0";
        self
    }

    pub fn to_bytes(&self) -> [u8; BLOCK] {
        let mut header = [0; BLOCK];
        put(&mut header[..100], &self.name);
        put(&mut header[100..108], b"0000644\0");
        put(&mut header[108..116], b"0000000\0");
        put(&mut header[116..124], b"0000000\0");
        let size = self.size_field.unwrap_or_else(|| match self.size {
            size if size > OCTAL_MAX => base256(size),
            size => octal(size),
        });
        put(&mut header[124..136], &size);
        put(&mut header[136..148], &octal(1_600_000_000));
        header[156] = self.kind;
        put(&mut header[157..257], &self.link);
        put(&mut header[257..265], &self.magic);
        if self.magic != [0; 8] {
            put(&mut header[265..297], b"root");
            put(&mut header[297..329], b"root");
        }
        put(&mut header[345..500], &self.prefix);
        let sum = sum(&header) + self.sum_error;
        put(&mut header[148..156], format!("{sum:06o}\0 ").as_bytes());
        header
    }
}

fn put(field: &mut [u8], bytes: &[u8]) {
    let len = bytes.len().min(field.len());
    field[..len].copy_from_slice(&bytes[..len]);
}

fn octal(number: u64) -> [u8; 12] {
    let text = format!("{number:011o}\0");
    text.as_bytes().try_into().expect("twelve bytes")
}

fn base256(number: u64) -> [u8; 12] {
    let mut field = [0; 12];
    field[0] = 0x80;
    field[4..].copy_from_slice(&number.to_be_bytes());
    field
}

/// The sum of a header, its own field taken as blanks.
fn sum(header: &[u8; BLOCK]) -> u32 {
    let field = 148..156;
    let bytes = header.iter().enumerate();
    bytes
        .map(|(at, byte)| {
            if field.contains(&at) {
                32
            } else {
                u32::from(*byte)
            }
        })
        .sum()
}

/// An archive in the making.
#[derive(Debug, Clone, Default)]
pub struct Tar {
    bytes: Vec<u8>,
}

impl Tar {
    pub fn new() -> Tar {
        Tar::default()
    }

    /// A plain file of a ustar.
    pub fn file(self, name: &str, data: &[u8]) -> Tar {
        self.member(&Header::new(name, data.len() as u64), data)
    }

    /// Any header, followed by any data.
    pub fn member(mut self, header: &Header, data: &[u8]) -> Tar {
        self.bytes.extend(header.to_bytes());
        self.raw(data)
    }

    /// Bytes as they are, up to the next border of blocks.
    pub fn raw(mut self, data: &[u8]) -> Tar {
        self.bytes.extend(data);
        let len = self.bytes.len().next_multiple_of(BLOCK);
        self.bytes.resize(len, 0);
        self
    }

    /// Records of pax for the next member (`x`) or all that follow (`g`).
    pub fn pax(self, kind: u8, records: &[(&str, &str)]) -> Tar {
        let text: String = records.iter().map(|(k, v)| pax_record(k, v)).collect();
        let header = Header::new("PaxHeaders/x", text.len() as u64).kind(kind);
        self.member(&header, text.as_bytes())
    }

    /// A file whose size, or name, only pax says: the header itself says `size` and a short name.
    pub fn pax_file(self, name: &str, size: u64, data: &[u8]) -> Tar {
        let said = data.len().to_string();
        self.pax(b'x', &[("path", name), ("size", &said)])
            .member(&Header::new("short", size), data)
    }

    /// A file with a name of any length, as GNU writes it.
    pub fn gnu_long(self, name: &str, data: &[u8]) -> Tar {
        let long = [name.as_bytes(), &[0]].concat();
        let header = Header::new("././@LongLink", long.len() as u64).gnu();
        self.member(&header.kind(b'L'), &long)
            .member(&Header::new(name, data.len() as u64).gnu(), data)
    }

    /// A file of `size` bytes of which the archive holds only `data`, from `offset` on: GNU's sparse member.
    pub fn gnu_sparse(mut self, name: &str, size: u64, offset: u64, data: &[u8]) -> Tar {
        let header = Header::new(name, data.len() as u64).gnu().kind(b'S');
        let mut bytes = header.to_bytes();
        put(&mut bytes[386..398], &octal(offset));
        put(&mut bytes[398..410], &octal(data.len() as u64));
        put(&mut bytes[483..495], &octal(size));
        let sum = sum(&bytes);
        put(&mut bytes[148..156], format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend(bytes);
        self.raw(data)
    }

    /// The archive with its two blocks of zeros.
    pub fn end(mut self) -> Vec<u8> {
        self.bytes.extend([0; 2 * BLOCK]);
        self.bytes
    }

    /// The archive as it is, without its end.
    pub fn cut(self) -> Vec<u8> {
        self.bytes
    }
}

/// A record counts itself.
fn pax_record(key: &str, value: &str) -> String {
    let rest = format!(" {key}={value}\n");
    let mut len = rest.len();
    while format!("{len}{rest}").len() != len {
        len += 1;
    }
    format!("{len}{rest}")
}

/// How a header is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Ustar,
    Gnu,
    Other,
}

/// A member that was found.
#[derive(Debug, Clone)]
pub struct Found {
    pub name: String,
    pub kind: u8,
    pub dialect: Dialect,
    /// Whether the size is a binary number.
    pub base256: bool,
    /// Where its data are in the archive.
    pub offset: u64,
    pub size: u64,
    pub header: [u8; BLOCK],
}

/// An archive that is read.
pub struct Archive {
    file: File,
    pub len: u64,
    pub members: Vec<Found>,
    /// How many bytes of zeros end it.
    pub tail: u64,
}

impl Archive {
    /// Walks through the archive. Every header must be right, padding be zero, and two blocks of zeros end it; panics otherwise.
    pub fn open(path: &Path) -> Archive {
        let file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let len = file.metadata().expect("metadata").len();
        let mut archive = Archive {
            file,
            len,
            members: Vec::new(),
            tail: 0,
        };
        assert!(len.is_multiple_of(BLOCK as u64), "tar: {len} bytes");
        let mut at = 0;
        loop {
            assert!(at + 1024 <= len, "tar: no two zero blocks at its end");
            let header: [u8; BLOCK] = archive.bytes(at, BLOCK).try_into().expect("a block");
            if header == [0; BLOCK] {
                break;
            }
            let found = parse(header, at);
            let end = found.offset + found.size;
            at = end.next_multiple_of(BLOCK as u64);
            assert!(at <= len, "tar: {} goes on past the end", found.name);
            let padding = archive.bytes(end, (at - end) as usize);
            assert!(padding.iter().all(|b| *b == 0), "tar: padding is not zero");
            archive.members.push(found);
        }
        archive.tail = len - at;
        assert!(
            archive.tail <= 64 << 10,
            "tar: {} bytes after",
            archive.tail
        );
        let tail = archive.bytes(at, archive.tail as usize);
        assert!(tail.iter().all(|b| *b == 0), "tar: something after its end");
        archive
    }

    pub fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, offset).expect("read");
        bytes
    }

    pub fn data(&self, member: &Found) -> Vec<u8> {
        assert!(member.size <= 1 << 30, "{} is too large", member.name);
        self.bytes(member.offset, member.size as usize)
    }

    pub fn find(&self, name: &str) -> Option<&Found> {
        self.members.iter().find(|m| m.name == name)
    }

    pub fn names(&self) -> Vec<&str> {
        self.members.iter().map(|m| m.name.as_str()).collect()
    }
}

fn parse(header: [u8; BLOCK], at: u64) -> Found {
    let said = number(&header[148..156]).expect("tar: the sum of a header");
    assert_eq!(said, u64::from(sum(&header)), "tar: wrong sum at {at}");
    let dialect = match &header[257..265] {
        b"ustar\x0000" => Dialect::Ustar,
        b"ustar  \0" => Dialect::Gnu,
        _ => Dialect::Other,
    };
    let text = |field: &[u8]| {
        let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
        String::from_utf8(field[..end].to_vec()).expect("tar: a name in UTF-8")
    };
    let mut name = text(&header[..100]);
    if dialect == Dialect::Ustar && header[345] != 0 {
        name = format!("{}/{name}", text(&header[345..500]));
    }
    let base256 = header[124] & 0x80 != 0;
    let size = if base256 {
        assert_eq!(header[124..128], [0x80, 0, 0, 0], "tar: size of {name}");
        u64::from_be_bytes(header[128..136].try_into().expect("eight bytes"))
    } else {
        number(&header[124..136]).unwrap_or_else(|| panic!("tar: size of {name}"))
    };
    Found {
        name,
        kind: header[156],
        dialect,
        base256,
        offset: at + BLOCK as u64,
        size,
        header,
    }
}

/// Octal digits, ended by zero or a blank.
fn number(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?;
    u64::from_str_radix(text.trim_end_matches(['\0', ' ']), 8).ok()
}
