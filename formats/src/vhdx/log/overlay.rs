//! The file as it would be with its log replayed: the changes lie over it, and nothing is written.

use std::collections::BTreeMap;
use std::path::Path;

use super::entry::Change;
use super::ring::{Ring, SECTOR, Sector};
use super::sequence::too_many;
use crate::budget::Budget;
use crate::error::Result;
use crate::storage::{Storage, StorageRef, check_range, read_array};

/// Bytes that a piece takes in memory, about.
const PIECE_BYTES: u64 = 96;

/// A file over which a log was replayed.
#[derive(Debug)]
pub struct Replayed {
    file: StorageRef,
    len: u64,
    /// What changed, by byte offset; pieces do not overlap.
    pieces: BTreeMap<u64, Piece>,
}

#[derive(Debug, Clone, Copy)]
struct Piece {
    end: u64,
    content: Content,
}

/// What stands in a piece.
#[derive(Debug, Clone, Copy)]
enum Content {
    Zeros,
    /// A sector: most of it is still in the log, at this byte offset of the file.
    Sector {
        at: u64,
        edges: [u8; 12],
    },
}

/// What stands at a place.
enum Found {
    Below,
    Piece(u64, Content),
}

impl Replayed {
    /// `file` as it is.
    pub fn new(file: StorageRef) -> Replayed {
        Replayed {
            len: file.len(),
            file,
            pieces: BTreeMap::new(),
        }
    }

    /// Replays one change of the log in `ring`.
    ///
    /// # Errors
    /// `Limit` when `budget` has no memory left for it.
    pub fn apply(&mut self, ring: &Ring, change: Change, budget: &Budget) -> Result<()> {
        let (offset, length, content) = match change {
            Change::Zero { offset, length } => (offset, length, Content::Zeros),
            Change::Data {
                offset,
                edges,
                sector_at,
            } => {
                let at = ring.file_offset(sector_at);
                (offset, SECTOR, Content::Sector { at, edges })
            }
        };
        if length == 0 {
            return Ok(());
        }
        // Cutting a piece in two makes another one.
        if !budget.take(2 * PIECE_BYTES) {
            return Err(too_many());
        }
        let end = offset.saturating_add(length);
        self.cut(offset, end);
        self.pieces.insert(offset, Piece { end, content });
        self.extend_to(end);
        Ok(())
    }

    /// Makes the file at least `len` bytes long.
    pub fn extend_to(&mut self, len: u64) {
        self.len = self.len.max(len);
    }

    /// Makes room between `start` and `end`.
    fn cut(&mut self, start: u64, end: u64) {
        if let Some((at, piece)) = self.pieces.range(..start).next_back()
            && piece.end > start
        {
            // Sectors stand on whole sectors: only zeros are cut.
            let (at, piece) = (*at, *piece);
            self.pieces.insert(
                at,
                Piece {
                    end: start,
                    ..piece
                },
            );
            if piece.end > end {
                self.pieces.insert(end, piece);
            }
        }
        while let Some((at, piece)) = self.pieces.range(start..end).next() {
            let (at, piece) = (*at, *piece);
            self.pieces.remove(&at);
            if piece.end > end {
                self.pieces.insert(end, piece);
            }
        }
    }

    /// What stands at `offset`, and up to where.
    fn find(&self, offset: u64) -> (u64, Found) {
        if let Some((start, piece)) = self.pieces.range(..=offset).next_back()
            && piece.end > offset
        {
            return (piece.end, Found::Piece(*start, piece.content));
        }
        let next = offset
            .checked_add(1)
            .and_then(|after| self.pieces.range(after..).next());
        (next.map_or(self.len, |(start, _)| *start), Found::Below)
    }

    fn read_below(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let there = self.file.len().saturating_sub(offset).min(buf.len() as u64);
        let (now, past) = buf.split_at_mut(there as usize);
        past.fill(0);
        if now.is_empty() {
            return Ok(());
        }
        self.file.read_at(now, offset)
    }
}

/// The sector whose edges are in its descriptor, and the rest in the data sector at byte `at` of the file.
fn sector(file: &dyn Storage, at: u64, edges: &[u8; 12]) -> Result<Sector> {
    let mut sector: Sector = read_array(file, at)?;
    let [a, b, c, d, leading @ ..] = *edges;
    if let Some(first) = sector.first_chunk_mut() {
        *first = leading;
    }
    if let Some(last) = sector.last_chunk_mut() {
        *last = [a, b, c, d];
    }
    Ok(sector)
}

impl Storage for Replayed {
    fn len(&self) -> u64 {
        self.len
    }

    fn path(&self) -> &Path {
        self.file.path()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.path(), self.len, offset, buf.len())?;
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let (end, found) = self.find(at);
            let len = end.saturating_sub(at).clamp(1, rest.len() as u64);
            let (now, later) = rest.split_at_mut(len as usize);
            match found {
                Found::Below => self.read_below(now, at)?,
                Found::Piece(_, Content::Zeros) => now.fill(0),
                Found::Piece(start, Content::Sector { at: in_log, edges }) => {
                    let sector = sector(self.file.as_ref(), in_log, &edges)?;
                    let within = sector.iter().skip((at - start) as usize);
                    now.iter_mut()
                        .zip(within)
                        .for_each(|(to, from)| *to = *from);
                }
            }
            at += len;
            rest = later;
        }
        Ok(())
    }

    fn extent(&self, offset: u64, limit: u64) -> Result<(u64, bool)> {
        let (end, found) = self.find(offset);
        let limit = limit.min(end.saturating_sub(offset)).max(1);
        match found {
            Found::Piece(_, Content::Zeros) => Ok((limit, false)),
            Found::Piece(..) => Ok((limit, true)),
            Found::Below if offset >= self.file.len() => Ok((limit, false)),
            Found::Below => {
                let limit = limit.min(self.file.len() - offset);
                self.file.extent(offset, limit)
            }
        }
    }

    fn allocated(&self) -> Result<u64> {
        self.file.allocated()
    }

    fn check_unchanged(&self) -> Result<()> {
        self.file.check_unchanged()
    }

    fn file_id(&self) -> Option<(u64, u64)> {
        self.file.file_id()
    }

    fn is_device(&self) -> bool {
        self.file.is_device()
    }
}
