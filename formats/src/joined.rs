//! Joins neighbouring units (clusters, grains) of one kind into one run.

use crate::source::{Mapping, Run};
use crate::storage::StorageRef;

/// Where a piece of the disk stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the parent, if there is one.
    Absent,
    /// Nowhere: zeros.
    Zero,
    /// As it is at this offset of the file that holds the data.
    Stored(u64),
    /// In a compressed unit, this many bytes from its start.
    Packed(PackedRange, u32),
}

/// Where a compressed unit stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedRange {
    /// File offset of its first byte.
    pub offset: u64,
    /// Its length in bytes, or an upper bound of it.
    pub len: u32,
}

/// A run that grows piece by piece until a piece is of another kind or the limit is reached.
#[derive(Debug)]
pub struct Joined {
    offset: u64,
    limit: u64,
    len: u64,
    place: Place,
    closed: bool,
}

impl Joined {
    /// An empty run at guest offset `offset` that may become `limit` bytes long.
    pub fn new(offset: u64, limit: u64) -> Joined {
        Joined {
            offset,
            limit,
            len: 0,
            place: Place::Absent,
            closed: false,
        }
    }

    /// Whether it has no byte yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it can grow.
    pub fn is_open(&self) -> bool {
        !self.closed && self.len < self.limit
    }

    /// Guest offset of the next piece.
    pub fn next(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }

    /// Bytes that may still be added.
    pub fn left(&self) -> u64 {
        self.limit - self.len
    }

    /// Adds the `len` bytes at [`Joined::next`], as many as the limit allows, or closes the run when they stand
    /// elsewhere.
    pub fn push(&mut self, place: Place, len: u64) {
        let fits = match (self.place, place) {
            _ if self.len == 0 => true,
            (Place::Absent, Place::Absent) | (Place::Zero, Place::Zero) => true,
            (Place::Stored(first), Place::Stored(next)) => {
                first.checked_add(self.len) == Some(next)
            }
            _ => false,
        };
        if !fits {
            self.closed = true;
            return;
        }
        if self.len == 0 {
            self.place = place;
        }
        self.len += len.min(self.left());
    }

    /// Adds nothing more.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// The run of an image that has no compressed data.
    pub fn into_plain_run(self, storage: &StorageRef) -> Run {
        self.into_run(storage, storage, crate::Codec::Deflate, 0)
    }

    /// The run, with its compressed data in `image` and its other data in `data`. `codec` and `unit` are the image's.
    pub fn into_run(
        self,
        image: &StorageRef,
        data: &StorageRef,
        codec: crate::Codec,
        unit: u32,
    ) -> Run {
        let mapping = match self.place {
            Place::Absent => Mapping::Absent,
            Place::Zero => Mapping::Zero,
            Place::Stored(offset) => Mapping::Stored {
                storage: data.clone(),
                offset,
            },
            Place::Packed(range, skip) => Mapping::Packed {
                storage: image.clone(),
                offset: range.offset,
                len: range.len,
                codec,
                unit,
                least: unit,
                skip,
            },
        };
        Run::new(self.len, mapping)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_pieces_join_when_they_stand_in_a_row() {
        let mut run = Joined::new(0, 1000);
        run.push(Place::Stored(5000), 100);
        run.push(Place::Stored(5100), 100);
        assert!(run.is_open());
        run.push(Place::Stored(5300), 100);
        assert!(!run.is_open());
        assert_eq!(run.next(), 200);
    }

    #[test]
    fn a_run_keeps_to_its_limit_and_kind() {
        let mut run = Joined::new(7, 150);
        run.push(Place::Absent, 100);
        run.push(Place::Absent, 100);
        assert_eq!((run.next(), run.left(), run.is_open()), (157, 0, false));
        let mut run = Joined::new(0, 150);
        run.push(Place::Absent, 100);
        run.push(Place::Zero, 100);
        assert!(!run.is_open());
        let packed = Place::Packed(PackedRange { offset: 1, len: 2 }, 0);
        let mut run = Joined::new(0, 150);
        run.push(packed, 100);
        run.push(packed, 100);
        assert_eq!(run.next(), 100);
    }
}
