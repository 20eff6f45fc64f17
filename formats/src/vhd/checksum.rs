//! The checksum of footer and dynamic header.

use std::ops::Range;

/// One's complement of the sum of all bytes outside `field`, the place of the checksum itself ("File checksum" in
/// Microsoft's VHD specification, appendix).
pub(super) fn checksum(structure: &[u8], field: Range<usize>) -> u32 {
    let sum = structure
        .iter()
        .enumerate()
        .filter(|(index, _)| !field.contains(index))
        .fold(0u32, |sum, (_, byte)| sum.wrapping_add(u32::from(*byte)));
    !sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_itself_does_not_count() {
        assert_eq!(checksum(&[1, 2, 0xFF, 0xFF, 4], 2..4), !7);
        assert_eq!(checksum(&[], 0..4), u32::MAX);
    }
}
