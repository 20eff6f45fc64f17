//! The checksum of headers, region tables and log entries: CRC-32C of the whole structure, with its own field as zero.

/// Byte offset of the field in each of these structures; it has four bytes.
pub const CHECKSUM_AT: usize = 4;

/// The checksum of the structure in `bytes`, whatever its field says.
pub fn checksum(bytes: &[u8]) -> u32 {
    checksum_append(
        start(bytes),
        bytes.get(CHECKSUM_AT + 4..).unwrap_or_default(),
    )
}

/// The checksum that `crc` becomes when `bytes` follow.
pub fn checksum_append(crc: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc, bytes)
}

/// The checksum of the signature and the field.
fn start(bytes: &[u8]) -> u32 {
    let signature = crc32c::crc32c(bytes.get(..CHECKSUM_AT).unwrap_or_default());
    crc32c::crc32c_append(signature, &[0; 4])
}

/// What stands in the field.
pub fn stored(bytes: &[u8]) -> u32 {
    let field = bytes.get(CHECKSUM_AT..).and_then(|b| b.first_chunk());
    u32::from_le_bytes(*field.unwrap_or(&[0; 4]))
}

/// Puts the right checksum into its field.
pub fn seal(bytes: &mut [u8]) {
    let sum = checksum(bytes).to_le_bytes();
    if let Some(field) = bytes.get_mut(CHECKSUM_AT..CHECKSUM_AT + 4) {
        field.copy_from_slice(&sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_crc_of_castagnoli_with_its_field_as_zero() {
        // The check value of CRC-32C, of "123456789".
        assert_eq!(checksum_append(0, b"123456789"), 0xE306_9283);
        let mut bytes = *b"head????and more";
        seal(&mut bytes);
        assert_eq!(stored(&bytes), checksum(&bytes));
        assert_eq!(checksum(&bytes), crc32c::crc32c(b"head\0\0\0\0and more"));
    }
}
