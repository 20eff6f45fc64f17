//! Where unpacking can begin: at the start of a stream, and between two blocks of deflate with the 32 KiB before it.

use super::decoder::{Decoder, State};
use crate::error::Result;
use crate::storage::Storage;

/// Bytes that deflate reaches back (RFC 1951, 2).
pub const WINDOW: usize = 32 << 10;

/// Bytes that have to come out right for a place to be taken for one between two blocks.
pub const PROOF: usize = 16 << 10;

/// Packed bytes in which the proof is looked for: it takes at most 5 bytes a stored block more than its own length.
const PROOF_PACKED: u64 = 32 << 10;

/// Entries that are kept: 4 MiB of windows.
const KEPT: usize = 128;

/// Unpacked bytes from one to the next, at first.
const SPACING: u64 = 4 << 20;

/// A place at which unpacking can begin.
#[derive(Debug)]
pub struct Entry {
    /// Offset in what is unpacked.
    pub out: u64,
    /// Offset in the packed file, behind the last byte that was begun.
    pub at: u64,
    /// What stands there.
    pub kind: Kind,
}

/// What stands at an entry.
#[derive(Debug)]
pub enum Kind {
    /// The start of a stream.
    Stream,
    /// The start of a block of deflate.
    Block(Block),
}

/// A block of deflate that is not the first one.
#[derive(Debug)]
pub struct Block {
    /// Bits of the last byte that belong to what is in front of it: 1 to 7, or 8 when it starts with a byte of its own.
    used: u32,
    /// The byte in front of [`Entry::at`].
    last: u8,
    /// What was unpacked in front of it.
    window: Box<[u8]>,
}

impl Block {
    /// A decoder, and what it must be given before the bytes at [`Entry::at`].
    pub fn begin(&self) -> Option<(Decoder, Vec<u8>)> {
        let decoder = Decoder::behind(&self.window)?;
        Some((decoder, prefix(self.used, self.last)))
    }

    /// Finds the bit at which the block at `at` of `storage` starts: of the eight that it can be, the one from which
    /// `proof` follows on `window`. `None` when that is none of them, or several that are not the same.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn find(
        storage: &dyn Storage,
        at: u64,
        window: &[u8],
        proof: &[u8],
    ) -> Result<Option<Block>> {
        let Some(before) = at.checked_sub(1) else {
            return Ok(None);
        };
        let len = storage.len().saturating_sub(before).min(1 + PROOF_PACKED);
        let mut packed = vec![0; len as usize];
        storage.read_at(&mut packed, before)?;
        let [last, packed @ ..] = packed.as_slice() else {
            return Ok(None);
        };
        let next = packed.first().copied().unwrap_or_default();
        let fitting = |used| {
            let block = Block {
                used,
                last: *last,
                window: window.into(),
            };
            block.yields(packed, proof).then_some(block)
        };
        let found: Vec<Block> = (1..=8).filter_map(fitting).collect();
        let is_same = match found.as_slice() {
            [_] => true,
            [first, others @ ..] => others.iter().all(|other| first.is_stored_as(other, next)),
            [] => false,
        };
        Ok(found.into_iter().next().filter(|_| is_same))
    }

    /// Whether both are stored blocks (RFC 1951, 3.2.4), none the last one, whose lengths stand in one place: what is left
    /// of a byte before them is skipped, so that they cannot be told apart, and need not be. `next` is the byte behind
    /// the last one that was begun.
    fn is_stored_as(&self, other: &Block, next: u8) -> bool {
        let is_stored = |block: &Block| {
            let bits = u32::from(block.last) | u32::from(next) << 8;
            bits >> block.used & 0b111 == 0
        };
        is_stored(self) && is_stored(other) && (self.used <= 5) == (other.used <= 5)
    }

    #[cfg(test)]
    pub fn used(&self) -> u32 {
        self.used
    }

    fn yields(&self, packed: &[u8], proof: &[u8]) -> bool {
        let Some((mut decoder, mut input)) = self.begin() else {
            return false;
        };
        input.extend_from_slice(packed);
        let mut out = vec![0; proof.len()];
        let (mut taken, mut made) = (0, 0);
        while made < out.len() {
            match decoder.step(&input[taken..], &mut out[made..], false) {
                Ok(step) if step.taken > 0 || step.made > 0 => {
                    taken += step.taken;
                    made += step.made;
                    if step.state == State::End {
                        break;
                    }
                }
                _ => return false,
            }
        }
        made == proof.len() && out == proof
    }
}

/// Whole bytes for a decoder that starts with a byte, when the block starts `used` bits into the byte `last`: empty blocks
/// up to that bit, and then the rest of the byte.
///
/// An empty block with fixed codes has 10 bits. One with codes of its own (RFC 1951, 3.2.7), of which the end of the block
/// is the only one, has 93, which makes the number odd.
fn prefix(used: u32, last: u8) -> Vec<u8> {
    let mut bits: u128 = 0;
    let mut count = 0;
    let mut push = |value: u128, len: u32| {
        bits |= value << count;
        count += len;
        count % 8
    };
    if used % 2 == 1 {
        push(0b100, 3);
        // HLIT 257, HDIST 1, HCLEN 19.
        push(0, 10);
        push(15, 4);
        // Code lengths of the code lengths: 1 bit for 18, the third one, and for 1, the last but one.
        push(1 << 6 | 1 << 51, 57);
        // 138 and 118 zeros; the end of the block, and one distance, have 1 bit.
        push(1 | 127 << 1, 8);
        push(1 | 107 << 1, 8);
        push(0, 2);
        // The end of the block.
        push(0, 1);
    }
    while push(0, 0) != used % 8 {
        push(0b010, 10);
    }
    if used < 8 {
        push(u128::from(last >> used), 8 - used);
    }
    bits.to_le_bytes()[..count as usize / 8].to_vec()
}

/// Entries in ascending order, further and further from each other the more there are.
#[derive(Debug)]
pub struct Entries {
    first: Entry,
    /// The others.
    list: Vec<Entry>,
    spacing: u64,
}

impl Entries {
    /// One, at the start.
    pub fn new() -> Entries {
        Entries {
            first: Entry {
                out: 0,
                at: 0,
                kind: Kind::Stream,
            },
            list: Vec::new(),
            spacing: SPACING,
        }
    }

    /// Whether one more at `out` is of use.
    pub fn wants(&self, out: u64) -> bool {
        let last = self.list.last().map_or(0, |entry| entry.out);
        out >= last.saturating_add(self.spacing)
    }

    /// Keeps `entry`, behind all that are there.
    pub fn push(&mut self, entry: Entry) {
        self.list.push(entry);
        if self.list.len() > KEPT {
            let mut number = 0;
            self.list.retain(|_| {
                number += 1;
                number % 2 == 0
            });
            self.spacing = self.spacing.saturating_mul(2);
        }
    }

    /// The last one at or before `out`.
    pub fn before(&self, out: u64) -> &Entry {
        let after = self.list.partition_point(|entry| entry.out <= out);
        let before = after.checked_sub(1).and_then(|last| self.list.get(last));
        before.unwrap_or(&self.first)
    }

    #[cfg(test)]
    pub fn list(&self) -> &[Entry] {
        &self.list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_at_every_bit() {
        // A last block with fixed codes, of one byte: 1, 01, the literal 0x41 and the end of the block.
        let literal = u32::from(0x30u8 + 0x41).reverse_bits() >> 24;
        let block: u64 = 0b011 | u64::from(literal) << 3;
        for used in 1..=8 {
            let stream = (block << (used % 8) | 0b1 & ((1 << (used % 8)) - 1)).to_le_bytes();
            let (last, rest) = if used == 8 {
                (0xFF, &stream[..])
            } else {
                (stream[0], &stream[1..])
            };
            let mut input = prefix(used, last);
            input.extend_from_slice(rest);
            let mut decoder = Decoder::behind(&[7; WINDOW]).unwrap();
            let mut out = [0; 10];
            let step = decoder.step(&input, &mut out, false).unwrap();
            assert_eq!((step.made, out[0]), (1, 0x41), "{used}");
            assert_eq!(step.state, State::End, "{used}");
        }
    }

    #[test]
    fn entries_stand_further_apart_the_more_there_are() {
        let mut entries = Entries::new();
        for out in (0..1 << 40).step_by(1 << 20) {
            if entries.wants(out) {
                entries.push(Entry {
                    out,
                    at: out / 2,
                    kind: Kind::Stream,
                });
            }
        }
        assert!((KEPT / 4..=KEPT).contains(&entries.list().len()));
        let gaps = entries.list().windows(2).map(|two| two[1].out - two[0].out);
        assert!(gaps.max().unwrap() <= 4 * (1 << 40) / KEPT as u64);
        assert_eq!(entries.before(5).out, 0);
        let last = entries.before(u64::MAX);
        assert!(last.out > 1 << 39);
    }
}
