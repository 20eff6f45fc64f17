//! A small qcow2 image that is encrypted with LUKS: AES-128, cbc-plain64, SHA-256, one key slot.
//!
//! Any bytes are the ciphertext of something, and so the key material is zeros. What it decrypts to with the passphrase,
//! and the digest of that, were computed with Python's hashlib and openssl.

use super::{patch, qcow2};

/// What opens it.
pub const PASSPHRASE: &[u8] = b"geheim";

/// Bytes from the start of the LUKS header to the end of its key material.
const LENGTH: usize = 1024 + 16 * 4000;

/// The digest of the master key.
const DIGEST: [u8; 20] = [
    0x4e, 0x2f, 0xa8, 0xe5, 0xe8, 0x49, 0x1d, 0x00, 0x23, 0xda, 0x71, 0x7f, 0x37, 0x1f, 0xc6, 0x77,
    0x63, 0x52, 0x4d, 0x87,
];

/// Where the LUKS header stands in an image.
pub fn header_at(image: &[u8]) -> usize {
    super::be64(image, 120) as usize
}

/// The image of [`qcow2::Builder`], with its data clusters taken for ciphertext.
pub fn image() -> Vec<u8> {
    let mut image = qcow2::Builder::default().build();
    let start = image.len();
    image.extend(header());
    image.resize(start + LENGTH, 0);
    patch(&mut image, 32, &2u32.to_be_bytes());
    patch(&mut image, 112, &0x0537_BE77u32.to_be_bytes());
    patch(&mut image, 116, &16u32.to_be_bytes());
    patch(&mut image, 120, &(start as u64).to_be_bytes());
    patch(&mut image, 128, &(LENGTH as u64).to_be_bytes());
    image
}

/// The LUKS header.
pub fn header() -> Vec<u8> {
    let mut header = vec![0; 592];
    let mut put = |at: usize, bytes: &[u8]| patch(&mut header, at, bytes);
    put(0, b"LUKS\xba\xbe\0\x01");
    put(8, b"aes");
    put(40, b"cbc-plain64");
    put(72, b"sha256");
    put(108, &16u32.to_be_bytes());
    put(112, &DIGEST);
    put(132, &(33..65).collect::<Vec<u8>>());
    put(164, &10u32.to_be_bytes());
    for slot in 0..8 {
        put(208 + slot * 48, &0x0000_DEADu32.to_be_bytes());
    }
    put(208, &0x00AC_71F3u32.to_be_bytes());
    put(212, &10u32.to_be_bytes());
    put(216, &(1..33).collect::<Vec<u8>>());
    put(248, &2u32.to_be_bytes());
    put(252, &4000u32.to_be_bytes());
    header
}
