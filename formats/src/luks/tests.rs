//! Headers, whole or damaged, and the passphrases that open them. Images of another program: `cli/tests/encrypted.rs`.

use std::sync::Arc;

use super::cipher::CipherSpec;
use super::*;
use crate::ErrorKind;
use crate::error::Result;
use crate::storage::{MemoryStorage, Storage, StorageRef};

/// Where key slots stand, and their length.
const SLOTS: usize = 208;
const SLOT: usize = 48;
/// Where the key material of slot 0 stands.
const MATERIAL: usize = 1024;

/// A place for a header, which key material of zeros stands behind: with some passphrase that is some master key.
struct Place {
    bytes: Vec<u8>,
}

impl Place {
    fn new(cipher: &str, mode: &str, hash: &str, key_bytes: u32) -> Place {
        let material = (key_bytes as usize * 4000).next_multiple_of(512);
        let mut place = Place {
            bytes: vec![0; MATERIAL + material],
        };
        place.put(0, b"LUKS\xba\xbe\0\x01");
        place.put(8, cipher.as_bytes());
        place.put(40, mode.as_bytes());
        place.put(72, hash.as_bytes());
        place.put32(108, key_bytes);
        place.put(132, &[7; 32]);
        place.put32(164, 3);
        for slot in 0..8 {
            place.put32(SLOTS + slot * SLOT, 0x0000_DEAD);
        }
        place.use_slot(0, 5);
        place
    }

    fn usual() -> Place {
        Place::new("aes", "xts-plain64", "sha256", 64)
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn put32(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_be_bytes());
    }

    fn use_slot(&mut self, slot: usize, iterations: u32) {
        let at = SLOTS + slot * SLOT;
        self.put32(at, 0x00AC_71F3);
        self.put32(at + 4, iterations);
        self.put(at + 8, &[slot as u8; 32]);
        self.put32(at + 40, MATERIAL as u32 / 512);
        self.put32(at + 44, 4000);
    }

    fn storage(&self) -> MemoryStorage {
        MemoryStorage::new(self.bytes.clone())
    }

    fn read(&self) -> Result<Header> {
        Header::read(&self.storage(), 0, self.bytes.len() as u64)
    }

    fn kind(&self) -> ErrorKind {
        self.read().unwrap_err().kind()
    }

    /// Makes `passphrase` the one that opens `slot`.
    fn lock(&mut self, slot: usize, passphrase: &[u8]) {
        let header = self.read().unwrap();
        let spec = CipherSpec::of(&header).unwrap();
        let slot = &header.slots[slot];
        let mut key = vec![0; header.key_bytes as usize];
        spec.hash
            .pbkdf2(passphrase, &slot.salt, slot.iterations, &mut key);
        let mut material = self.bytes[MATERIAL..].to_vec();
        spec.with_key(&key).unwrap().decrypt(&mut material, 0);
        material.truncate(header.material_bytes());
        let key = split::merge(spec.hash, header.key_bytes as usize, &material);
        let mut digest = [0; 20];
        spec.hash.pbkdf2(&key, &[7; 32], 3, &mut digest);
        self.put(112, &digest);
    }

    fn unlock(&self, passphrase: &Passphrase) -> Result<Box<dyn cipher::SectorCipher>> {
        unlock(&self.read()?, &self.storage(), 0, passphrase)
    }

    fn refusal(&self) -> crate::Error {
        let passphrase = Passphrase::new(b"a".to_vec());
        self.unlock(&passphrase).err().expect("an error")
    }
}

#[test]
fn the_passphrase_of_any_slot_opens_it() {
    let mut place = Place::usual();
    place.use_slot(3, 9);
    let opens = |place: &Place, passphrase: &[u8]| {
        let unlocked = place.unlock(&Passphrase::new(passphrase.to_vec()));
        unlocked.map(|_| ()).map_err(|e| e.kind())
    };
    for slot in [0, 1] {
        place.lock(slot, b"geheim");
        assert_eq!(opens(&place, b"geheim"), Ok(()));
        assert_eq!(opens(&place, b"geheim\n"), Ok(()));
        for wrong in [&b"geheim\n\n"[..], b"geheim ", b"Geheim", b""] {
            assert_eq!(opens(&place, wrong), Err(ErrorKind::Refused));
        }
    }
    place.lock(0, b"geheim\n");
    assert_eq!(opens(&place, b"geheim\n"), Ok(()));
    assert_eq!(opens(&place, b"geheim"), Err(ErrorKind::Refused));
}

#[test]
fn an_image_without_a_key_slot_in_use_is_opened_by_nothing() {
    let mut place = Place::usual();
    place.put32(SLOTS, 0x0000_DEAD);
    assert_eq!(place.refusal().kind(), ErrorKind::Refused);
}

#[test]
fn more_iterations_than_the_passphrase_is_worth_are_refused_before_any() {
    let mut place = Place::usual();
    for iterations in [1 << 29, u32::MAX] {
        place.use_slot(0, iterations);
        assert_eq!(place.refusal().kind(), ErrorKind::Limit);
    }
    place.use_slot(0, 5);
    place.put32(164, u32::MAX);
    assert_eq!(place.refusal().kind(), ErrorKind::Limit);
    // All slots together count, and each of the two blocks of a key.
    let mut place = Place::usual();
    let worth = |iterations| Passphrase::new(b"a".to_vec()).with_patience(iterations);
    place.use_slot(1, 100);
    let kind = |work| place.unlock(&worth(work)).err().map(|e| e.kind());
    let work = 2 * (5 + 100) + 2 * 3;
    assert_eq!(kind(work - 1), Some(ErrorKind::Limit));
    assert_eq!(kind(work), Some(ErrorKind::Refused));
}

#[test]
fn luks_2_is_refused_by_name() {
    let mut place = Place::usual();
    place.put(6, &[0, 2]);
    let error = place.read().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("LUKS version 2"), "{error}");
}

#[test]
fn impossible_fields_are_malformed_and_say_where() {
    let changed = |at: usize, value: u32| {
        let mut place = Place::usual();
        place.put32(at, value);
        place.read().unwrap_err()
    };
    for (at, value) in [(0, 0), (108, 0), (108, 65), (108, u32::MAX), (164, 0)] {
        let error = changed(at, value);
        assert_eq!(error.kind(), ErrorKind::Malformed, "{error}");
    }
    // State, stripes, material in the header and past the end of its place.
    for (at, value) in [
        (0, 0),
        (0, 0xDEAD_0000),
        (44, 0),
        (44, 3999),
        (44, u32::MAX),
        (40, 0),
        (40, 1),
        (40, 3),
        (40, u32::MAX),
    ] {
        let error = changed(SLOTS + at, value);
        assert_eq!(error.kind(), ErrorKind::Malformed, "{error}");
        assert_eq!(error.offset(), Some(SLOTS as u64), "{error}");
    }
    assert_eq!(changed(SLOTS + 4, 0).kind(), ErrorKind::Malformed);
}

#[test]
fn key_material_ends_before_the_payload_starts() {
    let mut place = Place::usual();
    let end = place.bytes.len() as u32 / 512;
    place.put32(104, end);
    assert!(place.read().is_ok());
    place.put32(104, end - 1);
    assert_eq!(place.kind(), ErrorKind::Malformed);
}

#[test]
fn a_place_that_is_too_small_is_malformed() {
    let place = Place::usual();
    let storage = place.storage();
    for len in [0, 591, 592, place.bytes.len() as u64 - 1] {
        let error = Header::read(&storage, 0, len).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed, "{len}");
    }
}

#[test]
fn names_that_are_none_are_malformed() {
    for at in [8, 40, 72] {
        for name in [&b"\0"[..], b"a b\0", b"\xff\0", b"\x1b[2J\0"] {
            let mut place = Place::usual();
            place.put(at, name);
            assert_eq!(place.kind(), ErrorKind::Malformed, "{name:?}");
        }
    }
    let mut place = Place::usual();
    place.put(8, &[b'x'; 32]);
    assert_eq!(place.read().unwrap().cipher, "x".repeat(32));
}

#[test]
fn what_is_not_known_is_unsupported_by_name() {
    for (cipher, mode, hash, name) in [
        ("cast5", "cbc-plain64", "sha256", "cast5"),
        ("aes", "ctr-plain64", "sha256", "ctr"),
        ("aes", "xts", "sha256", "xts"),
        ("aes", "xts-random", "sha256", "xts-random"),
        ("aes", "cbc-essiv", "sha256", ""),
        ("aes", "cbc-essiv:sha512", "sha256", "essiv"),
        ("aes", "xts-plain64", "whirlpool", "whirlpool"),
    ] {
        let error = Place::new(cipher, mode, hash, 32).refusal();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn keys_have_the_lengths_of_their_cipher() {
    for cipher in ["aes", "serpent", "twofish"] {
        for (mode, lengths) in [
            ("xts-plain64", [32, 48, 64]),
            ("cbc-essiv:sha256", [16, 24, 32]),
            ("ecb", [16, 24, 32]),
        ] {
            for len in 1..=64 {
                let error = Place::new(cipher, mode, "sha1", len).refusal();
                let expected = if lengths.contains(&len) {
                    ErrorKind::Refused
                } else {
                    ErrorKind::Malformed
                };
                assert_eq!(error.kind(), expected, "{cipher} {mode} {len}");
            }
        }
    }
}

/// A decrypting storage over noise that ends in the middle of a sector.
fn decrypting(len: usize) -> DecryptingStorage {
    let mut place = Place::usual();
    place.lock(0, b"a");
    let cipher = place.unlock(&Passphrase::new(b"a".to_vec())).unwrap();
    let bytes = (0..len).map(|i| (i * i / 7) as u8).collect();
    let inner: StorageRef = Arc::new(MemoryStorage::new(bytes));
    DecryptingStorage::new(inner, cipher)
}

#[test]
fn any_range_reads_what_the_whole_reads() {
    let storage = decrypting(4 * 512 + 100);
    assert_eq!(storage.len(), 4 * 512);
    let mut whole = vec![0; 4 * 512];
    storage.read_at(&mut whole, 0).unwrap();
    for offset in [0, 1, 100, 511, 512, 513, 1500, 2047, 2048] {
        for len in [0, 1, 11, 411, 412, 512, 513, 1024, 1535, 2048] {
            let mut part = vec![0xEE; len];
            let read = storage.read_at(&mut part, offset as u64);
            assert_eq!(read.is_ok(), offset + len <= whole.len());
            if read.is_ok() {
                assert!(part == whole[offset..offset + len], "{offset} {len}");
            }
        }
    }
    assert!(storage.read_at(&mut [0], u64::MAX).is_err());
}

#[test]
fn equal_sectors_differ_by_their_place() {
    let mut place = Place::usual();
    place.lock(0, b"a");
    let cipher = place.unlock(&Passphrase::new(b"a".to_vec())).unwrap();
    let inner: StorageRef = Arc::new(MemoryStorage::new(vec![0; 1024]));
    let storage = DecryptingStorage::new(inner, cipher);
    let mut both = [0; 1024];
    storage.read_at(&mut both, 0).unwrap();
    assert_ne!(both[..512], both[512..]);
}

#[test]
fn an_encrypted_file_has_no_holes_and_no_clones() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let inner = Arc::new(crate::FileStorage::open(file.path()).unwrap());
    let mut place = Place::usual();
    place.lock(0, b"a");
    let cipher = place.unlock(&Passphrase::new(b"a".to_vec())).unwrap();
    let storages: [Box<dyn Storage>; 2] = [
        Box::new(DecryptingStorage::new(inner.clone(), cipher)),
        Box::new(LockedStorage::new(inner)),
    ];
    for storage in storages {
        assert_eq!(storage.extent(0, 1 << 20).unwrap(), (1 << 20, true));
        assert!(storage.whole_file().is_none());
        assert!(storage.is_encrypted());
    }
}

#[test]
fn what_is_locked_is_not_read() {
    let inner: StorageRef = Arc::new(MemoryStorage::new(vec![0; 1024]));
    let error = LockedStorage::new(inner).read_at(&mut [0; 512], 0);
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Unsupported);
}
