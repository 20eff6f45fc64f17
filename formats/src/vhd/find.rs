//! Finding the footer: at the end, in its short form, or as the copy at the start.
//!
//! The end counts (libvhd's order): a guest can write what it likes to the start of a fixed disk. The copy at the start
//! stands in only for a damaged footer of a dynamic or differencing disk. A file without any footer at its end was cut
//! off, and is read only on request.

use super::footer::{
    COOKIE, DiskType, FOOTER_LEN, Footer, POISON, has_known_version, has_right_checksum,
    looks_fixed,
};
use super::in_place::{half_converted, is_half_converted};
use crate::driver::Head;
use crate::error::{Error, Result};
use crate::storage::{Storage, read_array};

/// Length in bytes of the footer that early versions of Virtual PC wrote: its last byte is missing.
const SHORT_LEN: u64 = 511;

const SALVAGE: &str = "--salvage reads on with what is left";

/// The footer of an image, and where it was found.
#[derive(Debug)]
pub struct Found {
    /// The footer.
    pub footer: Footer,
    /// Byte offset at which blocks must end: where the end footer stands, or the end of the file without one.
    pub data_end: u64,
    /// What a user should hear about.
    pub warnings: Vec<String>,
}

/// 512 bytes that start with a cookie, and their byte offset in the file.
struct Candidate {
    bytes: [u8; 512],
    offset: u64,
}

impl Candidate {
    fn is_poisoned(&self) -> bool {
        self.bytes.starts_with(&POISON)
    }

    fn is_sound(&self) -> bool {
        has_right_checksum(&self.bytes)
    }
}

/// Whether a file with this `head` is a VHD: a cookie at the start, or a whole footer at the end.
pub fn recognises(head: &Head) -> bool {
    if is_half_converted(head) || head.has(0, &COOKIE) || head.has(0, &POISON) {
        return true;
    }
    end_candidate(&head.last, head.len)
        .is_some_and(|end| end.is_sound() || (end.is_poisoned() && has_known_version(&end.bytes)))
}

/// Finds the footer in `storage`. With `salvage`, takes one that is damaged too, and does without the one at the end.
///
/// # Errors
/// `Truncated` when the file has no footer at its end, `Malformed` when no footer is whole, `Refused` when XenServer
/// marked the image as dead or it is half converted, and those of [`Footer::parse`].
pub fn find(storage: &dyn Storage, salvage: bool) -> Result<Found> {
    let len = storage.len();
    let head = Head::read(storage)?;
    if is_half_converted(&head) {
        return Err(half_converted());
    }
    let end = end_candidate(&head.last, len);
    let copy = start_candidate(storage)?;
    let fixed = end.as_ref().is_some_and(|end| looks_fixed(&end.bytes));
    refuse_poison(end.as_ref(), copy.as_ref(), fixed)?;
    // What stands at the start of a fixed disk was written by its guest.
    let copy = copy.filter(|_| !fixed);
    match end {
        Some(end) if end.is_sound() => from_end(&end, copy.as_ref()),
        Some(end) => from_damaged_end(&end, copy.as_ref(), salvage),
        None => without_end(copy.as_ref(), len, salvage),
    }
}

fn from_end(end: &Candidate, copy: Option<&Candidate>) -> Result<Found> {
    let footer = Footer::parse(&end.bytes, end.offset)?;
    let mut warnings = Vec::new();
    let same = copy.is_some_and(|copy| {
        // The short footer has no last byte to compare.
        copy.bytes.iter().take(511).eq(end.bytes.iter().take(511))
    });
    if footer.disk_type != DiskType::Fixed && !same {
        warnings.push(
            "the copy of the footer at the start is damaged or differs; the footer at the end was used"
                .to_owned(),
        );
    }
    Ok(Found {
        footer,
        data_end: end.offset,
        warnings,
    })
}

fn from_damaged_end(end: &Candidate, copy: Option<&Candidate>, salvage: bool) -> Result<Found> {
    if let Some(copy) = copy.filter(|copy| copy.is_sound()) {
        let footer = Footer::parse(&copy.bytes, copy.offset)?;
        if footer.disk_type != DiskType::Fixed {
            return Ok(Found {
                footer,
                data_end: end.offset,
                warnings: vec![
                    "the footer at the end is damaged; its copy at the start was used".to_owned(),
                ],
            });
        }
    }
    if !salvage {
        // Fails with both checksums.
        Footer::parse(&end.bytes, end.offset)?;
    }
    Ok(Found {
        footer: Footer::parse_unsummed(&end.bytes, end.offset)?,
        data_end: end.offset,
        warnings: vec![
            "the checksum of the footer does not match; it was used all the same".into(),
        ],
    })
}

fn without_end(copy: Option<&Candidate>, len: u64, salvage: bool) -> Result<Found> {
    let Some(copy) = copy else {
        return Err(Error::malformed("footer", "there is none")
            .at(len.saturating_sub(FOOTER_LEN))
            .expected("\"conectix\" 512 or 511 bytes before the end, or at the start"));
    };
    if !salvage {
        let footer = Footer::parse(&copy.bytes, copy.offset)?;
        return Err(Error::truncated(
            "footer",
            format!(
                "there is none at the end of this {} disk: the file is cut off",
                footer.disk_type.name()
            ),
        )
        .at(len.saturating_sub(FOOTER_LEN))
        .hint(SALVAGE));
    }
    let footer = Footer::parse_unsummed(&copy.bytes, copy.offset)?;
    if footer.disk_type == DiskType::Fixed {
        return Err(Error::malformed("footer", "stands at the start of a fixed disk").at(0));
    }
    Ok(Found {
        footer,
        data_end: len,
        warnings: vec![
            "the file has no footer at its end: it is cut off; the copy at the start was used"
                .to_owned(),
        ],
    })
}

/// The footer in the `last` bytes (up to 512) of a file of `len` bytes: 512 bytes long, or 511.
fn end_candidate(last: &[u8], len: u64) -> Option<Candidate> {
    let starts = |bytes: &[u8]| bytes.starts_with(&COOKIE) || bytes.starts_with(&POISON);
    if let Some(bytes) = last.first_chunk::<512>().filter(|b| starts(*b)) {
        return Some(Candidate {
            bytes: *bytes,
            offset: len.saturating_sub(FOOTER_LEN),
        });
    }
    let short = last.last_chunk::<511>().filter(|b| starts(*b))?;
    let mut bytes = [0; 512];
    if let Some(all_but_one) = bytes.first_chunk_mut::<511>() {
        *all_but_one = *short;
    }
    Some(Candidate {
        bytes,
        offset: len.saturating_sub(SHORT_LEN),
    })
}

fn start_candidate(storage: &dyn Storage) -> Result<Option<Candidate>> {
    if storage.len() < FOOTER_LEN {
        return Ok(None);
    }
    let bytes: [u8; 512] = read_array(storage, 0)?;
    let known = bytes.starts_with(&COOKIE) || bytes.starts_with(&POISON);
    Ok(known.then_some(Candidate { bytes, offset: 0 }))
}

fn refuse_poison(end: Option<&Candidate>, copy: Option<&Candidate>, fixed: bool) -> Result<()> {
    let copy = copy.filter(|_| !fixed);
    match end.into_iter().chain(copy).find(|c| c.is_poisoned()) {
        None => Ok(()),
        Some(dead) => Err(Error::refused(
            "footer",
            "the image is marked as dead (\"v_poison\", XenServer's mark for one that nobody must use)",
        )
        .at(dead.offset)
        .found("\"v_poison\"")
        .expected("\"conectix\"")),
    }
}
