//! Ciphers, their modes, and how each sector gets its initialisation vector (LUKS1 spec, "Cipher and Hash specification
//! registry").

use aes::{Aes128, Aes192, Aes256};
use cbc::cipher::consts::U16;
use cbc::cipher::{
    Array, BlockCipherDecrypt, BlockCipherEncrypt, BlockModeDecrypt, BlockSizeUser, InnerIvInit,
    KeyInit,
};
use serpent::Serpent;
use twofish::Twofish;
use xts_mode::Xts128;

use super::hash::Hash;
use super::header::{Header, SECTOR};
use crate::error::{Error, Result};

/// Decrypts sectors of 512 bytes, each by itself.
pub trait SectorCipher: Send + Sync {
    /// Decrypts `area`, whole sectors of which the first has number `first`.
    fn decrypt(&self, area: &mut [u8], first: u64);
}

/// What a header says about its cipher, understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CipherSpec {
    family: Family,
    mode: Mode,
    iv: Iv,
    /// Hash of PBKDF2 and the splitter.
    pub hash: Hash,
    key_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Aes,
    Serpent,
    Twofish,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Xts,
    Cbc,
    Ecb,
}

/// How the initialisation vector of a sector is made from its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Iv {
    /// Its lower 32 bits, little-endian.
    Plain,
    /// The number, little-endian.
    Plain64,
    /// The number, encrypted with the hash of the key.
    Essiv(Hash),
}

impl CipherSpec {
    /// The cipher of `header`.
    ///
    /// # Errors
    /// `Unsupported` when it, its mode or the hash are not known, `Malformed` for a key of a length that the cipher does
    /// not have.
    pub fn of(header: &Header) -> Result<CipherSpec> {
        let family = match header.cipher.as_str() {
            "aes" => Family::Aes,
            "serpent" => Family::Serpent,
            "twofish" => Family::Twofish,
            _ => {
                return Err(
                    Error::unsupported("LUKS header", "the cipher is not supported")
                        .found(format!("{:?}", header.cipher))
                        .expected("aes, serpent, twofish"),
                );
            }
        };
        let (mode, iv) = mode(&header.mode)?;
        let spec = CipherSpec {
            family,
            mode,
            iv,
            hash: Hash::by_name(&header.hash)?,
            key_bytes: header.key_bytes as usize,
        };
        if !matches!(spec.cipher_key_bytes(), 16 | 24 | 32) {
            return Err(
                Error::malformed("LUKS header", "the cipher has no keys of this length")
                    .found(format!("{} bytes for {}", header.key_bytes, header.mode)),
            );
        }
        if let Iv::Essiv(hash) = iv
            && !matches!(hash.len(), 16 | 24 | 32)
        {
            return Err(Error::unsupported(
                "LUKS header",
                "the cipher has no keys as long as the hash of its ESSIV",
            )
            .found(format!("{:?}", header.mode)));
        }
        Ok(spec)
    }

    /// Bytes of one key of the cipher; XTS takes two. No key has an odd length.
    fn cipher_key_bytes(&self) -> usize {
        match self.mode {
            Mode::Xts if self.key_bytes.is_multiple_of(2) => self.key_bytes / 2,
            Mode::Xts => 0,
            Mode::Cbc | Mode::Ecb => self.key_bytes,
        }
    }

    /// The cipher with `key`, as many bytes as the header says.
    ///
    /// # Errors
    /// `Malformed` for a key of another length.
    pub fn with_key(&self, key: &[u8]) -> Result<Box<dyn SectorCipher>> {
        match (self.family, self.cipher_key_bytes()) {
            (Family::Aes, 16) => self.build::<Aes128>(key),
            (Family::Aes, 24) => self.build::<Aes192>(key),
            (Family::Aes, _) => self.build::<Aes256>(key),
            (Family::Serpent, _) => self.build::<Serpent>(key),
            (Family::Twofish, _) => self.build::<Twofish>(key),
        }
    }

    fn build<C: Block16>(&self, key: &[u8]) -> Result<Box<dyn SectorCipher>> {
        let iv = self.iv_maker(key)?;
        Ok(match self.mode {
            Mode::Xts => {
                let (data, tweak) = key.split_at(key.len() / 2);
                let xts = Xts128::new(cipher::<C>(data)?, cipher::<C>(tweak)?);
                Box::new(Xts { xts, iv })
            }
            Mode::Cbc => Box::new(Cbc(cipher::<C>(key)?, iv)),
            Mode::Ecb => Box::new(Ecb(cipher::<C>(key)?)),
        })
    }

    /// The cipher of ESSIV is of the same family, but has a key as long as the hash.
    fn iv_maker(&self, key: &[u8]) -> Result<IvMaker> {
        let hash = match self.iv {
            Iv::Plain => return Ok(IvMaker::Plain),
            Iv::Plain64 => return Ok(IvMaker::Plain64),
            Iv::Essiv(hash) => hash,
        };
        let salt = zeroize::Zeroizing::new(hash.digest(&[key]));
        Ok(IvMaker::Essiv(match (self.family, salt.len()) {
            (Family::Aes, 16) => Box::new(cipher::<Aes128>(&salt)?),
            (Family::Aes, 24) => Box::new(cipher::<Aes192>(&salt)?),
            (Family::Aes, _) => Box::new(cipher::<Aes256>(&salt)?),
            (Family::Serpent, _) => Box::new(cipher::<Serpent>(&salt)?),
            (Family::Twofish, _) => Box::new(cipher::<Twofish>(&salt)?),
        }))
    }
}

/// Takes "xts-plain64", "cbc-essiv:sha256", "ecb".
fn mode(text: &str) -> Result<(Mode, Iv)> {
    let unsupported = || {
        Error::unsupported("LUKS header", "the cipher mode is not supported")
            .found(format!("{text:?}"))
            .expected("xts, cbc or ecb with plain, plain64 or essiv")
    };
    let (mode, iv) = text.split_once('-').unwrap_or((text, ""));
    // The other generators take no hash, and whoever gives them one is not heard.
    let (iv, hash) = iv.split_once(':').unwrap_or((iv, ""));
    let mode = match mode {
        "xts" => Mode::Xts,
        "cbc" => Mode::Cbc,
        "ecb" => Mode::Ecb,
        _ => return Err(unsupported()),
    };
    let iv = match iv {
        // ECB has no use for one.
        _ if mode == Mode::Ecb => Iv::Plain64,
        "plain" => Iv::Plain,
        "plain64" => Iv::Plain64,
        "essiv" => Iv::Essiv(Hash::by_name(hash)?),
        _ => return Err(unsupported()),
    };
    Ok((mode, iv))
}

/// What all these block ciphers are.
trait Block16:
    BlockCipherEncrypt
    + BlockCipherDecrypt
    + BlockSizeUser<BlockSize = U16>
    + KeyInit
    + Send
    + Sync
    + 'static
{
}

impl<C> Block16 for C where
    C: BlockCipherEncrypt
        + BlockCipherDecrypt
        + BlockSizeUser<BlockSize = U16>
        + KeyInit
        + Send
        + Sync
        + 'static
{
}

fn cipher<C: Block16>(key: &[u8]) -> Result<C> {
    C::new_from_slice(key).map_err(|_| {
        Error::malformed("LUKS header", "the cipher has no keys of this length")
            .found(format!("{} bytes", key.len()))
    })
}

/// Encrypts one block.
trait EncryptBlock: Send + Sync {
    fn encrypt(&self, block: &mut [u8; 16]);
}

impl<C: Block16> EncryptBlock for C {
    fn encrypt(&self, block: &mut [u8; 16]) {
        self.encrypt_block(block.into());
    }
}

/// Makes the initialisation vectors.
enum IvMaker {
    Plain,
    Plain64,
    Essiv(Box<dyn EncryptBlock>),
}

impl IvMaker {
    fn iv(&self, sector: u64) -> [u8; 16] {
        let number = match self {
            IvMaker::Plain => sector & u64::from(u32::MAX),
            IvMaker::Plain64 | IvMaker::Essiv(_) => sector,
        };
        let mut iv = u128::from(number).to_le_bytes();
        if let IvMaker::Essiv(cipher) = self {
            cipher.encrypt(&mut iv);
        }
        iv
    }
}

/// Sectors of an area, with their numbers.
fn sectors(area: &mut [u8], first: u64) -> impl Iterator<Item = (u64, &mut [u8])> {
    (first..).zip(area.chunks_exact_mut(SECTOR as usize))
}

struct Xts<C: Block16> {
    xts: Xts128<C>,
    iv: IvMaker,
}

impl<C: Block16> SectorCipher for Xts<C> {
    fn decrypt(&self, area: &mut [u8], first: u64) {
        for (number, sector) in sectors(area, first) {
            self.xts.decrypt_sector(sector, Array(self.iv.iv(number)));
        }
    }
}

struct Cbc<C>(C, IvMaker);

impl<C: Block16> SectorCipher for Cbc<C> {
    fn decrypt(&self, area: &mut [u8], first: u64) {
        for (number, sector) in sectors(area, first) {
            let iv = Array(self.1.iv(number));
            let mut decryptor = cbc::Decryptor::inner_iv_init(&self.0, &iv);
            let (blocks, _) = Array::slice_as_chunks_mut(sector);
            decryptor.decrypt_blocks(blocks);
        }
    }
}

struct Ecb<C>(C);

impl<C: Block16> SectorCipher for Ecb<C> {
    fn decrypt(&self, area: &mut [u8], _first: u64) {
        let (blocks, _) = Array::slice_as_chunks_mut(area);
        self.0.decrypt_blocks(blocks);
    }
}
