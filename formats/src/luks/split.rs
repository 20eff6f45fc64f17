//! The anti-forensic splitter, backwards: from stripes to a key (LUKS1 spec, "Anti-forensic information splitter").

use zeroize::Zeroizing;

use super::hash::Hash;

/// Joins `material`, stripes of `key_bytes` bytes each, to the key that was split into them.
pub fn merge(hash: Hash, key_bytes: usize, material: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut key = Zeroizing::new(vec![0; key_bytes]);
    let mut stripes = material.chunks_exact(key_bytes.max(1)).peekable();
    while let Some(stripe) = stripes.next() {
        for (byte, other) in key.iter_mut().zip(stripe) {
            *byte ^= other;
        }
        // The last stripe holds the key itself, masked.
        if stripes.peek().is_some() {
            diffuse(hash, &mut key);
        }
    }
    key
}

/// Replaces each part of `block` as long as a digest by the digest of its number and itself.
fn diffuse(hash: Hash, block: &mut [u8]) {
    for (number, part) in (0u32..).zip(block.chunks_mut(hash.len())) {
        let digest = Zeroizing::new(hash.digest(&[&number.to_be_bytes(), part]));
        for (byte, other) in part.iter_mut().zip(digest.iter()) {
            *byte = *other;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The splitter, with stripes that are not random.
    fn split(hash: Hash, key: &[u8], stripes: u8) -> Vec<u8> {
        let mut material = Vec::new();
        let mut mask = vec![0; key.len()];
        for number in 1..stripes {
            let stripe = vec![number.wrapping_mul(37); key.len()];
            mask.iter_mut().zip(&stripe).for_each(|(a, b)| *a ^= b);
            diffuse(hash, &mut mask);
            material.extend(stripe);
        }
        material.extend(key.iter().zip(&mask).map(|(a, b)| a ^ b));
        material
    }

    #[test]
    fn a_key_that_was_split_comes_together_again() {
        let key: Vec<u8> = (0..64).collect();
        for hash in [Hash::Sha1, Hash::Sha256, Hash::Sha512, Hash::Ripemd160] {
            for len in [16, 32, 64] {
                let mut material = split(hash, &key[..len], 9);
                assert_eq!(merge(hash, len, &material)[..], key[..len]);
                material[0] ^= 1;
                assert_ne!(merge(hash, len, &material)[..], key[..len]);
            }
        }
    }
}
