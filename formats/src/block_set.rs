//! Which blocks are allocated: one bit a block, so that huge holes are crossed without reading the BAT again.

/// A set of block indices below a fixed bound. A bit a block, and a bit for 64 of those: the longest hole of the
/// largest disk is crossed in a few thousand steps.
#[derive(Debug)]
pub struct BlockSet {
    words: Vec<u64>,
    /// Bit `i` says whether `words[i]` has any bit.
    summary: Vec<u64>,
    len: u64,
}

impl BlockSet {
    /// An empty set of indices below `bound`.
    pub fn new(bound: u64) -> BlockSet {
        let words = bound.div_ceil(64);
        BlockSet {
            words: vec![0; words as usize],
            summary: vec![0; words.div_ceil(64) as usize],
            len: 0,
        }
    }

    /// Adds `index`; nothing happens when it is out of bounds or there already.
    pub fn insert(&mut self, index: u64) {
        let word = index / 64;
        let Some(bits) = self.words.get_mut(word as usize) else {
            return;
        };
        self.len += u64::from(*bits & bit(index) == 0);
        *bits |= bit(index);
        if let Some(bits) = self.summary.get_mut((word / 64) as usize) {
            *bits |= bit(word);
        }
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.len
    }

    /// Whether `index` is in it.
    pub fn contains(&self, index: u64) -> bool {
        self.words
            .get((index / 64) as usize)
            .is_some_and(|bits| bits & bit(index) != 0)
    }

    /// The first one at `from` or later.
    pub fn next(&self, from: u64) -> Option<u64> {
        let word = from / 64;
        first_from(self.words.get(word as usize)?, from)
            .map(|b| word * 64 + b)
            .or_else(|| {
                let word = next_bit(&self.summary, word + 1)?;
                let bits = self.words.get(word as usize)?;
                first_from(bits, 0).map(|b| word * 64 + b)
            })
    }
}

fn bit(index: u64) -> u64 {
    1 << (index % 64)
}

/// The first bit set in `bits` at `from` (taken modulo 64) or higher.
fn first_from(bits: &u64, from: u64) -> Option<u64> {
    let rest = bits & (u64::MAX << (from % 64));
    (rest != 0).then(|| u64::from(rest.trailing_zeros()))
}

/// The first bit set in `words` at `from` or later.
fn next_bit(words: &[u64], from: u64) -> Option<u64> {
    let first = from / 64;
    if let Some(found) = first_from(words.get(first as usize)?, from) {
        return Some(first * 64 + found);
    }
    let later = words.get(first as usize + 1..)?;
    let skipped = later.iter().position(|bits| *bits != 0)? as u64;
    let word = first + 1 + skipped;
    first_from(words.get(word as usize)?, 0).map(|b| word * 64 + b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_one_is_found_across_words_and_summaries() {
        let members = [0, 63, 64, 4095, 4096, 9000, 300_000, 999_999];
        let mut set = BlockSet::new(1_000_000);
        for member in members {
            set.insert(member);
            set.insert(member);
        }
        set.insert(2_000_000);
        assert_eq!(set.count(), members.len() as u64);
        for from in (0..1_000_000).step_by(61).chain(members) {
            let expected = members.iter().copied().find(|m| *m >= from);
            assert_eq!(set.next(from), expected, "{from}");
            assert_eq!(set.contains(from), members.contains(&from));
        }
        assert_eq!(set.next(1_000_000), None);
        assert_eq!(set.next(u64::MAX), None);
        assert_eq!(BlockSet::new(0).next(0), None);
        assert!(!set.contains(u64::MAX));
    }
}
