//! Finding what need not be stored.

use std::ops::Range;

/// A run of zeros to hash or to write from.
pub static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// Whether every byte is zero. Stops at the first 256 bytes that are not.
pub fn is_zero(bytes: &[u8]) -> bool {
    let mut blocks = bytes.chunks_exact(256);
    let any = |block: &[u8]| block.iter().fold(0, |all, byte| all | byte) != 0;
    for block in blocks.by_ref() {
        if any(block) {
            return false;
        }
    }
    !any(blocks.remainder())
}

/// The parts of `bytes` that hold data, in units of `unit` bytes: neighbours joined, the last one cut to the length.
/// `unit` 0 calls everything data. `base` shifts what is appended to `found`.
pub fn data_ranges(bytes: &[u8], unit: usize, base: usize, found: &mut Vec<Range<usize>>) {
    let mut push = |range: Range<usize>| match found.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => found.push(range),
    };
    if bytes.is_empty() {
        return;
    }
    if unit == 0 {
        push(base..base + bytes.len());
        return;
    }
    for (index, block) in bytes.chunks(unit).enumerate() {
        if !is_zero(block) {
            let start = base + index * unit;
            push(start..start + block.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_byte_anywhere_is_seen() {
        for len in [1, 255, 256, 257, 4096, 5000] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes));
            for at in [0, len / 2, len - 1] {
                bytes[at] = 1;
                assert!(!is_zero(&bytes), "{at} of {len}");
                bytes[at] = 0;
            }
        }
        assert!(is_zero(&[]));
    }

    #[test]
    fn data_is_found_in_units_and_joined() {
        let mut bytes = vec![0; 4096 * 5 + 100];
        bytes[4096] = 1;
        bytes[4096 * 3 - 1] = 1;
        bytes[4096 * 5 + 99] = 1;
        let mut found = Vec::new();
        data_ranges(&bytes, 4096, 0, &mut found);
        assert_eq!(found, [4096..4096 * 3, 4096 * 5..4096 * 5 + 100]);
        found.clear();
        data_ranges(&bytes, 0, 7, &mut found);
        assert_eq!(found.first(), Some(&(7..bytes.len() + 7)));
    }
}
