//! From a passphrase to the master key (LUKS1 spec, "Master key recovery").

use zeroize::Zeroizing;

use super::cipher::{CipherSpec, SectorCipher};
use super::header::{Header, KeySlot, SECTOR};
use super::passphrase::Passphrase;
use super::split::merge;
use crate::error::{Error, Result};
use crate::storage::Storage;

/// The cipher of the data, if `passphrase` opens one of the key slots of `header`, which stands in `storage` at `start`.
///
/// # Errors
/// `Refused` when it opens none, `Unsupported` and `Malformed` as [`CipherSpec::of`], `Limit` when the slots ask for more
/// iterations than the passphrase is worth, and those of the storage.
pub fn unlock(
    header: &Header,
    storage: &dyn Storage,
    start: u64,
    passphrase: &Passphrase,
) -> Result<Box<dyn SectorCipher>> {
    let spec = CipherSpec::of(header)?;
    check_work(header, &spec, passphrase.patience())?;
    for candidate in passphrase.candidates() {
        for slot in &header.slots {
            let key = open_slot(header, &spec, slot, storage, start, candidate)?;
            if is_master_key(header, &spec, &key) {
                return spec.with_key(&key);
            }
        }
    }
    Err(
        Error::refused("LUKS header", "the passphrase opens no key slot")
            .at(start)
            .found(format!("{} key slots in use", header.slots.len()))
            .hint("the key file is taken as it is, all of its bytes"),
    )
}

/// Fails when trying all slots takes longer than anybody waits.
fn check_work(header: &Header, spec: &CipherSpec, patience: u64) -> Result<()> {
    let hash = spec.hash;
    let digest = hash.pbkdf2_work(header.digest_iterations, header.digest.len());
    let of_slot = |slot: &KeySlot| hash.pbkdf2_work(slot.iterations, header.key_bytes as usize);
    // Each at most 2^34.
    let work: u64 = header.slots.iter().map(|slot| of_slot(slot) + digest).sum();
    if work > patience {
        return Err(Error::limit(
            "LUKS header",
            "asks for more PBKDF2 iterations than are done",
        )
        .found(format!("{work} over all key slots"))
        .expected(format!("at most {patience}")));
    }
    Ok(())
}

/// What `candidate` makes of the key material of `slot`: the master key, or nonsense.
fn open_slot(
    header: &Header,
    spec: &CipherSpec,
    slot: &KeySlot,
    storage: &dyn Storage,
    start: u64,
    candidate: &[u8],
) -> Result<Zeroizing<Vec<u8>>> {
    let mut slot_key = Zeroizing::new(vec![0; header.key_bytes as usize]);
    spec.hash
        .pbkdf2(candidate, &slot.salt, slot.iterations, &mut slot_key);
    let length = header.material_bytes();
    let mut material = Zeroizing::new(vec![0; length.next_multiple_of(SECTOR as usize)]);
    storage.read_at(&mut material, start.saturating_add(slot.material))?;
    // Sectors of the material count from 0.
    spec.with_key(&slot_key)?.decrypt(&mut material, 0);
    let stripes = material.get(..length).unwrap_or_default();
    Ok(merge(spec.hash, header.key_bytes as usize, stripes))
}

fn is_master_key(header: &Header, spec: &CipherSpec, key: &[u8]) -> bool {
    let mut digest = [0; 20];
    let iterations = header.digest_iterations;
    spec.hash
        .pbkdf2(key, &header.digest_salt, iterations, &mut digest);
    digest == header.digest
}
