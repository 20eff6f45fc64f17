//! Going from member to member.

use crate::error::{Error, Result};
use crate::storage::Storage;
use crate::storage::read_array;

use super::header::{BLOCK, Header, Kind};

/// Most bytes of a name or of attributes that stand in members of their own.
const EXTRA_MAX: u64 = 1 << 20;

/// Members without data that may follow each other before a file comes.
const EXTRA_IN_A_ROW: u32 = 1024;

/// A plain file of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name. What is not UTF-8 in it was replaced.
    pub name: String,
    /// File offset of its header.
    pub header: u64,
    /// File offset of its data.
    pub offset: u64,
    /// Bytes of its data, all of them in the file.
    pub len: u64,
}

/// The plain files of an archive, in its order. After an error there are no more.
pub struct Members<'a> {
    storage: &'a dyn Storage,
    at: u64,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The zeros at the end were met.
    Closed,
    /// The file ended, or was not understood any more.
    Cut,
}

/// What stands in front of a member about it.
#[derive(Debug, Default)]
struct Extra {
    name: Option<Vec<u8>>,
    len: Option<u64>,
}

impl<'a> Members<'a> {
    /// The members of the archive in `storage`.
    pub fn new(storage: &'a dyn Storage) -> Members<'a> {
        Members {
            storage,
            at: 0,
            state: State::Open,
        }
    }

    /// Whether the archive was followed to the zeros that end it.
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// File offset of what comes next.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// The next plain file; none at the end of the archive.
    ///
    /// # Errors
    /// `Malformed` for what is no header, `Truncated` for data that is not in the file, `Refused` for links, devices and
    /// pipes, `Unsupported` for sparse members, `Limit` for names without end.
    pub fn next_file(&mut self) -> Result<Option<Member>> {
        if self.state != State::Open {
            return Ok(None);
        }
        // Until it is known better.
        self.state = State::Cut;
        let mut extra = Extra::default();
        for _ in 0..EXTRA_IN_A_ROW {
            if self.at >= self.storage.len() {
                return Ok(None);
            }
            let start = self.at;
            let bytes = read_array(self.storage, start)?;
            let in_place = |e: Error| e.at(start).in_file(self.storage.path());
            let Some(header) = Header::parse(&bytes).map_err(in_place)? else {
                self.state = State::Closed;
                return Ok(None);
            };
            let offset = start + BLOCK;
            match header.kind {
                Kind::File => {
                    self.state = State::Open;
                    return self.file(header, start, extra).map(Some);
                }
                Kind::LongName | Kind::Attributes => {
                    let data = self.extra_data(&header, offset).map_err(in_place)?;
                    match header.kind {
                        Kind::LongName => extra.name = Some(until_nul(&data).to_vec()),
                        _ => extra.take_attributes(&data).map_err(in_place)?,
                    }
                }
                Kind::Folder => extra = Extra::default(),
                Kind::GlobalAttributes => {}
                Kind::Other(flag) => return Err(in_place(refused(flag, &header.name))),
            }
            self.skip(offset, header.padded_len())?;
        }
        Err(Error::limit(
            "tar header",
            "too many members without data follow each other",
        )
        .at(self.at)
        .in_file(self.storage.path()))
    }

    fn file(&mut self, header: Header, start: u64, extra: Extra) -> Result<Member> {
        let name = extra.name.unwrap_or(header.name);
        let len = extra.len.unwrap_or(header.len);
        let member = Member {
            name: String::from_utf8_lossy(&name).into_owned(),
            header: start,
            offset: start + BLOCK,
            len,
        };
        let end = member.offset.checked_add(len);
        if end.is_none_or(|end| end > self.storage.len()) {
            self.state = State::Cut;
            return Err(Error::truncated("tar member", "is cut off")
                .at(member.offset)
                .found(format!("{:?} of {len} bytes", member.name))
                .expected(format!("an end at or before byte {}", self.storage.len()))
                .in_file(self.storage.path()));
        }
        // The padding of the last member may be missing.
        self.at = member.offset + len.next_multiple_of(BLOCK);
        Ok(member)
    }

    fn extra_data(&self, header: &Header, offset: u64) -> Result<Vec<u8>> {
        if header.len > EXTRA_MAX {
            return Err(
                Error::limit("tar header", "a name or attributes are too long")
                    .found(format!("{} bytes", header.len))
                    .expected(format!("at most {EXTRA_MAX}")),
            );
        }
        let mut data = vec![0; header.len as usize];
        self.storage.read_at(&mut data, offset)?;
        Ok(data)
    }

    fn skip(&mut self, offset: u64, len: u64) -> Result<()> {
        self.at = offset
            .checked_add(len)
            .filter(|end| *end <= self.storage.len())
            .ok_or_else(|| {
                Error::truncated("tar member", "is cut off")
                    .at(offset)
                    .found(format!("{len} bytes"))
                    .in_file(self.storage.path())
            })?;
        Ok(())
    }
}

impl Extra {
    /// Takes pax records: `length key=value\n` (POSIX.1-2001, "pax Extended Header").
    fn take_attributes(&mut self, data: &[u8]) -> Result<()> {
        let mut rest = data;
        while !rest.is_empty() {
            let (key, value, len) = record(rest)
                .ok_or_else(|| Error::malformed("pax header", "is no list of attributes"))?;
            match key {
                b"path" => self.name = Some(value.to_vec()),
                b"size" => {
                    let len = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
                    let len: Option<u64> = len.filter(|len| *len <= i64::MAX as u64);
                    self.len = Some(len.ok_or_else(|| {
                        Error::malformed("pax header", "has an impossible size")
                            .found(format!("{:?}", String::from_utf8_lossy(value)))
                    })?);
                }
                key if key.starts_with(b"GNU.sparse") => return Err(sparse()),
                _ => {}
            }
            rest = rest.get(len..).unwrap_or_default();
        }
        Ok(())
    }
}

/// The first record of `data`: key, value, and bytes of all of it.
fn record(data: &[u8]) -> Option<(&[u8], &[u8], usize)> {
    let blank = data.iter().take(20).position(|byte| *byte == b' ')?;
    let len: usize = std::str::from_utf8(&data[..blank]).ok()?.parse().ok()?;
    let text = data.get(blank + 1..len)?.strip_suffix(b"\n")?;
    let equals = text.iter().position(|byte| *byte == b'=')?;
    Some((&text[..equals], &text[equals + 1..], len))
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn sparse() -> Error {
    Error::unsupported("tar member", "is sparse")
        .hint("pack it again without --sparse: readers of packages do not take this")
}

fn refused(flag: u8, name: &[u8]) -> Error {
    let what = match flag {
        b'1' | b'2' => "is a link",
        b'3' | b'4' => "is a device",
        b'6' => "is a pipe",
        b'S' => return sparse(),
        _ => "is of an unknown type",
    };
    Error::refused("tar member", what)
        .found(format!(
            "{:?}, type {:?}",
            String::from_utf8_lossy(name),
            char::from(flag)
        ))
        .expected("plain files")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ErrorKind, MemoryStorage};

    fn member(name: &str, flag: u8, data: &[u8]) -> Vec<u8> {
        let bytes = Header::for_file(name, data.len() as u64, 0).unwrap();
        let mut header = tar::Header::from_byte_slice(&bytes).clone();
        header.as_mut_bytes()[156] = flag;
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    fn walk(bytes: Vec<u8>) -> (Vec<(String, u64)>, Option<ErrorKind>, bool) {
        let storage = MemoryStorage::new(bytes);
        let mut members = Members::new(&storage);
        let mut found = Vec::new();
        loop {
            match members.next_file() {
                Ok(Some(member)) => found.push((member.name, member.len)),
                Ok(None) => return (found, None, members.is_closed()),
                Err(error) => return (found, Some(error.kind()), members.is_closed()),
            }
        }
    }

    #[test]
    fn plain_files_are_listed_and_the_end_is_known() {
        let long = "a/".repeat(80) + "b.vmdk";
        let archive = [
            member("dir/", b'5', b""),
            member("a.ovf", b'0', b"12345"),
            member("././@LongLink", b'L', long.as_bytes()),
            member("cut", 0, &[7; 513]),
            member("pax", b'x', b"17 path=c d.vmdk\n10 size=3\n"),
            member("c", b'0', b"123"),
        ]
        .concat();
        let expected = [("a.ovf", 5), (&*long, 513), ("c d.vmdk", 3)];
        let expected = expected.map(|(name, len)| (name.to_owned(), len)).to_vec();
        assert_eq!(walk(archive.clone()), (expected.clone(), None, false));
        let closed = [archive, vec![0; 1024]].concat();
        assert_eq!(walk(closed), (expected, None, true));
    }

    #[test]
    fn what_is_no_plain_file_is_refused() {
        for flag in *b"12346" {
            let archive = [member("a", b'0', b""), member("b", flag, b"")].concat();
            let (found, kind, _) = walk(archive);
            assert_eq!((found.len(), kind), (1, Some(ErrorKind::Refused)), "{flag}");
        }
        let sparse = member("pax", b'x', b"22 GNU.sparse.major=1\n");
        for archive in [member("s", b'S', b""), sparse] {
            assert_eq!(walk(archive).1, Some(ErrorKind::Unsupported));
        }
    }

    #[test]
    fn cut_and_damaged_archives_are_errors() {
        let archive = member("a", b'0', &[1; 1000]);
        assert_eq!(walk(archive[..1511].to_vec()).1, Some(ErrorKind::Truncated));
        assert_eq!(walk(archive[..1512].to_vec()).1, None);
        assert_eq!(walk(archive[..100].to_vec()).1, Some(ErrorKind::Truncated));
        assert_eq!(walk(vec![1; 512]).1, Some(ErrorKind::Malformed));
        for pax in [
            "x",
            "5 a=b",
            "9999 path=x\n",
            "11 size=-\n\n",
            "12 size=-1 \n",
        ] {
            let archive = member("pax", b'x', pax.as_bytes());
            assert_eq!(walk(archive).1, Some(ErrorKind::Malformed), "{pax:?}");
        }
        let folders = member("d/", b'5', b"").repeat(2000);
        assert_eq!(walk(folders).1, Some(ErrorKind::Limit));
    }
}
