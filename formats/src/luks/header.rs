//! The header: 592 bytes that name cipher and hash, and hold eight key slots (LUKS1 spec, "Partition header").

use zerocopy::byteorder::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{Error, Result};
use crate::storage::{Storage, read_array};

/// What a LUKS header starts with.
const MAGIC: [u8; 6] = *b"LUKS\xba\xbe";
/// Bytes of the header.
pub const LENGTH: usize = 592;
/// Where the first key slot stands in the header.
const SLOTS_AT: u64 = 208;
/// Bytes of a key slot.
const SLOT_LENGTH: u64 = 48;
/// A slot that holds a key.
const ENABLED: u32 = 0x00AC_71F3;
/// A slot that holds none.
const DISABLED: u32 = 0x0000_DEAD;
/// Parts that the master key is split into in each slot. Nobody writes another number, and QEMU reads no other.
pub const STRIPES: u32 = 4000;
/// Most bytes that a master key has: two keys of 256 bits for XTS.
const KEY_BYTES_MAX: u32 = 64;
/// Bytes of a sector: offsets are counted in them.
pub const SECTOR: u64 = 512;

/// The header as it stands on disk.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Fields {
    magic: [u8; 6],
    version: U16,
    cipher: [u8; 32],
    mode: [u8; 32],
    hash: [u8; 32],
    payload_sector: U32,
    key_bytes: U32,
    digest: [u8; 20],
    digest_salt: [u8; 32],
    digest_iterations: U32,
    uuid: [u8; 40],
    slots: [SlotFields; 8],
}

/// A key slot as it stands on disk.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct SlotFields {
    state: U32,
    iterations: U32,
    salt: [u8; 32],
    material_sector: U32,
    stripes: U32,
}

const _: () = assert!(size_of::<Fields>() == LENGTH);

/// A header whose fields were checked against each other and the place it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Name of the cipher: "aes".
    pub cipher: String,
    /// Its mode and how initialisation vectors are made: "xts-plain64".
    pub mode: String,
    /// Name of the hash of PBKDF2 and the splitter: "sha256".
    pub hash: String,
    /// Bytes of the master key, 1 to 64.
    pub key_bytes: u32,
    /// What PBKDF2 makes of the master key.
    pub digest: [u8; 20],
    /// Salt of the digest.
    pub digest_salt: [u8; 32],
    /// PBKDF2 iterations of the digest, at least 1.
    pub digest_iterations: u32,
    /// The slots that hold a key.
    pub slots: Vec<KeySlot>,
}

/// A key slot in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySlot {
    /// PBKDF2 iterations from the passphrase to the key of the slot, at least 1.
    pub iterations: u32,
    /// Salt of the passphrase.
    pub salt: [u8; 32],
    /// Where the split master key stands, in bytes from the start of the header; all of it is there.
    pub material: u64,
}

impl Header {
    /// Reads the header at `start` of `storage`, whose place ends `len` bytes later, inside the storage.
    ///
    /// Which cipher it is does not matter here: `CipherSpec` looks at that.
    ///
    /// # Errors
    /// `Truncated` or `Malformed`, `Unsupported` for other versions.
    pub fn read(storage: &dyn Storage, start: u64, len: u64) -> Result<Header> {
        if len < LENGTH as u64 {
            return Err(Error::malformed("LUKS header", "has too little room")
                .at(start)
                .found(format!("{len} bytes"))
                .expected(format!("at least {LENGTH} bytes")));
        }
        let bytes: [u8; LENGTH] = read_array(storage, start)?;
        // What is wrong with a slot says where that is.
        Header::parse(&bytes, len).map_err(|e| {
            let within = e.offset().unwrap_or(0);
            e.at(start.saturating_add(within))
        })
    }

    fn parse(bytes: &[u8; LENGTH], len: u64) -> Result<Header> {
        let fields = Fields::ref_from_bytes(bytes)
            .map_err(|_| Error::truncated("LUKS header", "the file ends inside it"))?;
        check_version(fields)?;
        let key_bytes = fields.key_bytes.get();
        if !(1..=KEY_BYTES_MAX).contains(&key_bytes) {
            return Err(Error::malformed(
                "LUKS header",
                "the length of the master key is impossible",
            )
            .found(format!("{key_bytes} bytes"))
            .expected(format!("1 to {KEY_BYTES_MAX} bytes")));
        }
        // Payload that starts before the key material ends would overwrite it. In qcow2 nothing stands there.
        let payload = u64::from(fields.payload_sector.get()) * SECTOR;
        let room = if payload == 0 { len } else { payload.min(len) };
        let mut slots = Vec::new();
        for (number, slot) in fields.slots.iter().enumerate() {
            slots.extend(KeySlot::parse(slot, number, key_bytes, room)?);
        }
        Ok(Header {
            cipher: text(&fields.cipher, "cipher name")?,
            mode: text(&fields.mode, "cipher mode")?,
            hash: text(&fields.hash, "hash name")?,
            key_bytes,
            digest: fields.digest,
            digest_salt: fields.digest_salt,
            digest_iterations: iterations(fields.digest_iterations.get())?,
            slots,
        })
    }

    /// Bytes of the split master key in each slot.
    pub fn material_bytes(&self) -> usize {
        // At most 64 times 4000.
        (self.key_bytes * STRIPES) as usize
    }
}

impl KeySlot {
    /// Takes slot `number`; `None` when it holds no key.
    fn parse(
        fields: &SlotFields,
        number: usize,
        key_bytes: u32,
        room: u64,
    ) -> Result<Option<KeySlot>> {
        let malformed = |why| {
            Error::malformed(format!("LUKS key slot {number}"), why)
                .at(SLOTS_AT + number as u64 * SLOT_LENGTH)
        };
        match fields.state.get() {
            DISABLED => return Ok(None),
            ENABLED => {}
            other => {
                return Err(
                    malformed("is neither in use nor free").found(format!("state {other:#010x}"))
                );
            }
        }
        let stripes = fields.stripes.get();
        if stripes != STRIPES {
            return Err(malformed("has an impossible number of stripes")
                .found(stripes)
                .expected(STRIPES));
        }
        let material = u64::from(fields.material_sector.get()) * SECTOR;
        // Whole sectors are encrypted.
        let length = (u64::from(key_bytes) * u64::from(STRIPES)).next_multiple_of(SECTOR);
        if material < LENGTH as u64 || material + length > room {
            return Err(malformed("the key material is not in the place for it")
                .found(format!("{length} bytes at {material}"))
                .expected(format!("between {LENGTH} and {room}")));
        }
        Ok(Some(KeySlot {
            iterations: iterations(fields.iterations.get())?,
            salt: fields.salt,
            material,
        }))
    }
}

fn check_version(fields: &Fields) -> Result<()> {
    if fields.magic != MAGIC {
        return Err(Error::malformed("LUKS header", "has no LUKS magic")
            .found(format!("{:02x?}", fields.magic))
            .expected("\"LUKS\\xba\\xbe\""));
    }
    match fields.version.get() {
        1 => Ok(()),
        other => Err(Error::unsupported(
            "LUKS header",
            format!("LUKS version {other} is not supported"),
        )
        .found(other)
        .expected(1)),
    }
}

fn iterations(number: u32) -> Result<u32> {
    match number {
        0 => Err(Error::malformed("LUKS header", "asks for no iteration at all").found(0)),
        _ => Ok(number),
    }
}

/// A name that ends with a NUL or with its field.
fn text(field: &[u8], what: &'static str) -> Result<String> {
    let name = field.split(|byte| *byte == 0).next().unwrap_or_default();
    if name.is_empty() || !name.iter().all(u8::is_ascii_graphic) {
        return Err(
            Error::malformed("LUKS header", format!("the {what} is no name"))
                .found(format!("{:?}", String::from_utf8_lossy(name))),
        );
    }
    Ok(String::from_utf8_lossy(name).into_owned())
}
