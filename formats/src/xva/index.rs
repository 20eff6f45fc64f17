//! Where the blocks of each disk stand: found by going through the headers of the archive once.

use super::checksum::Checksum;
use super::{BLOCK, DESCRIPTION};
use crate::error::{Error, Result};
use crate::storage::{Storage, StorageRef};
use crate::tar::{Member, Members};

/// Stretches of blocks that an archive may have: 48 bytes each. A disk of 2 TiB of which every other block is zeros has
/// as many.
const STRETCHES_MAX: usize = 1 << 20;

/// Largest block, in bytes. Nobody writes others than of 1 MiB.
const BLOCK_MAX: u64 = 2 << 20;

/// Disks that an archive may have.
const DISKS_MAX: u64 = 1024;

/// Fails for an archive of so many disks: what could not be read again is not written.
///
/// # Errors
/// `Limit`.
pub fn check_disks(count: u64) -> Result<()> {
    if count <= DISKS_MAX {
        return Ok(());
    }
    Err(Error::limit("XVA", "has too many disks")
        .found(count)
        .expected(format!("at most {DISKS_MAX}")))
}

/// Blocks that follow each other on the disk and in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// Guest offset of the first one.
    pub guest: u64,
    /// File offset of the data of the first one.
    pub file: u64,
    /// Bytes from one block to the next in the file.
    pub stride: u64,
    /// Number of blocks.
    pub count: u64,
    /// Bytes of each block.
    pub len: u64,
    /// How they are summed, if they are.
    pub checksum: Option<Checksum>,
}

impl Stretch {
    /// Guest offset of what follows.
    pub fn end(&self) -> u64 {
        self.guest + self.count * self.len
    }

    fn takes(&self, other: &Stretch) -> bool {
        self.end() == other.guest
            && self.len == other.len
            && self.checksum == other.checksum
            && self.file + self.count * self.stride == other.file
            && self.stride == other.stride
    }
}

/// The blocks of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The reference of its VDI: the folder of its blocks.
    pub reference: String,
    /// Stretches in guest order.
    pub stretches: Vec<Stretch>,
    /// Guest offset of the end of the last block.
    pub end: u64,
    /// Whether the first block is there.
    pub has_first: bool,
}

impl Disk {
    /// Bytes that its blocks and what stands around them take in the file.
    pub fn stored(&self) -> u64 {
        self.stretches.iter().map(|s| s.count * s.stride).sum()
    }
}

/// What an archive holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// The member `ova.xml`.
    pub description: Member,
    /// The disks, in the order of the archive.
    pub disks: Vec<Disk>,
    /// What a user should hear about.
    pub warnings: Vec<String>,
}

impl Index {
    /// Goes through the archive in `storage`.
    ///
    /// # Errors
    /// Those of the archive; `Malformed` when `ova.xml` is not first, for blocks that come twice or out of their order,
    /// and for checksums that do not follow their blocks; `Unsupported` for members of other kinds.
    pub fn read(storage: &StorageRef) -> Result<Index> {
        let mut members = Members::new(storage.as_ref());
        let first = members.next_file()?;
        let description = first
            .filter(|member| member.name.trim_start_matches("./") == DESCRIPTION)
            .ok_or_else(|| {
                Error::malformed("XVA", "does not begin with ova.xml").in_file(storage.path())
            })?;
        let mut builder = Builder {
            storage: storage.as_ref(),
            first_len: None,
            disks: Vec::new(),
            previous: None,
            unsummed: 0,
            stretches: 0,
        };
        let mut next = members.next_file()?;
        while let Some(member) = next {
            let in_place = |e: Error| e.at(member.header).in_file(storage.path());
            let (reference, number) = block_name(&member.name).map_err(in_place)?;
            next = members.next_file()?;
            let checksum = next
                .as_ref()
                .map(|next| builder.checksum(&member, next))
                .transpose()
                .map_err(in_place)?
                .flatten();
            let end = match checksum {
                Some(_) => {
                    let end = members.position();
                    next = members.next_file()?;
                    end
                }
                None => member.offset + member.len.next_multiple_of(crate::tar::BLOCK),
            };
            builder
                .block(&member, reference, number, checksum, end)
                .map_err(in_place)?;
        }
        let mut warnings = Vec::new();
        if !members.is_closed() {
            warnings.push("the archive has no end: it may have been cut off".to_owned());
        }
        if builder.unsummed > 0 {
            warnings.push(format!(
                "{} blocks have no checksum: nobody can tell whether they are what they were",
                builder.unsummed
            ));
        }
        Ok(Index {
            description,
            disks: builder.disks,
            warnings,
        })
    }
}

struct Builder<'a> {
    storage: &'a dyn Storage,
    /// Bytes of the first block of all: what a number that is left out stands for.
    first_len: Option<u64>,
    disks: Vec<Disk>,
    /// Number of the last block of the last disk.
    previous: Option<u64>,
    unsummed: u64,
    stretches: usize,
}

impl Builder<'_> {
    /// How the block `block` is summed, when `next` is its checksum.
    fn checksum(&self, block: &Member, next: &Member) -> Result<Option<Checksum>> {
        let suffix = next.name.strip_prefix(&block.name);
        let known = Checksum::ALL.into_iter();
        let Some(checksum) = known
            .into_iter()
            .find(|checksum| suffix == Some(checksum.suffix()))
        else {
            return Ok(None);
        };
        let expected = block.offset + block.len.next_multiple_of(crate::tar::BLOCK);
        if next.header != expected || next.offset != expected + crate::tar::BLOCK {
            return Err(Error::malformed(
                "XVA block",
                "something stands between it and its checksum",
            ));
        }
        if next.len != checksum.digits() as u64 {
            return Err(Error::malformed("XVA checksum", "has another length")
                .found(format!("{} bytes", next.len))
                .expected(checksum.digits()));
        }
        if block.len == 0 {
            let mut said = vec![0; checksum.digits()];
            self.storage.read_at(&mut said, next.offset)?;
            if !checksum.fits(&said, 0) {
                return Err(Error::malformed("XVA block", "its checksum does not match"));
            }
        }
        Ok(Some(checksum))
    }

    /// Enters a block; `end` is where its record ends in the file.
    fn block(
        &mut self,
        member: &Member,
        reference: &str,
        number: u64,
        checksum: Option<Checksum>,
        end: u64,
    ) -> Result<()> {
        self.begin_disk(reference)?;
        let Some(disk) = self.disks.last_mut() else {
            return Ok(());
        };
        if self.previous.is_some_and(|previous| number <= previous) {
            return Err(Error::malformed("XVA block", "comes out of its order")
                .found(format!("block {number}"))
                .expected(format!("one behind {}", self.previous.unwrap_or_default())));
        }
        if member.len > BLOCK_MAX {
            return Err(Error::limit("XVA block", "is too large")
                .found(format!("{} bytes", member.len))
                .expected(format!("at most {BLOCK_MAX}, usually {BLOCK}")));
        }
        let first_len = *self.first_len.get_or_insert(member.len);
        // Numbers that are left out are zeros, as long as the first block of the archive (xapi, stream_vdi.ml).
        let skipped = number - self.previous.map_or(0, |previous| previous + 1);
        let too_far = || Error::limit("XVA block", "is beyond every disk");
        let guest = skipped
            .checked_mul(first_len)
            .and_then(|zeros| disk.end.checked_add(zeros))
            .filter(|guest| guest.checked_add(member.len).is_some())
            .ok_or_else(too_far)?;
        disk.has_first |= guest == 0 && member.len > 0;
        self.previous = Some(number);
        disk.end = guest + member.len;
        if member.len == 0 {
            return Ok(());
        }
        self.unsummed += u64::from(checksum.is_none());
        let one = Stretch {
            guest,
            file: member.offset,
            stride: end - member.header,
            count: 1,
            len: member.len,
            checksum,
        };
        match disk.stretches.last_mut() {
            Some(last) if last.takes(&one) => last.count += 1,
            _ => {
                self.stretches += 1;
                if self.stretches > STRETCHES_MAX {
                    return Err(Error::limit("XVA", "its blocks are scattered too much")
                        .expected(format!("at most {STRETCHES_MAX} stretches")));
                }
                disk.stretches.push(one);
            }
        }
        Ok(())
    }

    fn begin_disk(&mut self, reference: &str) -> Result<()> {
        if self.disks.last().is_some_and(|d| d.reference == reference) {
            return Ok(());
        }
        if self.disks.iter().any(|d| d.reference == reference) {
            return Err(
                Error::malformed("XVA", "the blocks of a disk do not stand together")
                    .found(reference.to_owned()),
            );
        }
        check_disks(self.disks.len() as u64 + 1)?;
        self.previous = None;
        self.disks.push(Disk {
            reference: reference.to_owned(),
            stretches: Vec::new(),
            end: 0,
            has_first: false,
        });
        Ok(())
    }
}

/// The reference and the number in the name of a block: `Ref:3/00000007`.
fn block_name(name: &str) -> Result<(&str, u64)> {
    let parts = name.split_once('/');
    let block = parts.and_then(|(reference, number)| {
        let is_number =
            (8..=16).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit());
        let number = is_number.then(|| number.parse().ok()).flatten()?;
        (!reference.is_empty()).then_some((reference, number))
    });
    block.ok_or_else(|| {
        Error::malformed(
            "XVA",
            "a member is neither a block nor the checksum of the one before it",
        )
        .found(format!("{name:?}"))
        .expected("Ref:N/00000000")
    })
}
