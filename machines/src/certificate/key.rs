//! The keys that sign and that verify: RSA by PKCS #1 v1.5, ECDSA on P-256 and P-384.

use formats::{Error, Result};
use p256::ecdsa::signature::hazmat::{PrehashSigner, PrehashVerifier};
use rsa::pkcs1::{DecodeRsaPrivateKey as _, RsaPrivateKey as Pkcs1Private, RsaPublicKeyRef};
use rsa::pkcs8::{DecodePrivateKey as _, DecodePublicKey as _, PrivateKeyInfoRef};
use rsa::traits::PublicKeyParts as _;
use rsa::{Pkcs1v15Sign, RsaPrivateKey, RsaPublicKey};
use sha1::Sha1;
use sha2::{Sha256, Sha384, Sha512};
use x509_cert::Certificate as X509;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::oid::db::DB;
use x509_cert::der::{Decode as _, Encode as _, SecretDocument};

use super::{WHAT, pem};
use crate::manifest::Algorithm;

const KEY: &str = "key";
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const RSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
/// The one that the data base of names does not have.
const K256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.10");

/// What is said of a key that cannot be used.
const SUPPORTED: &str = "use an RSA key of 1024 to 8192 bits, or an ECDSA key on P-256 or P-384";

/// The name of an algorithm or a curve, with its number.
pub(super) fn name_of(oid: &ObjectIdentifier) -> String {
    let curve = (*oid == K256).then_some("secp256k1");
    match curve.or_else(|| DB.by_oid(oid)) {
        Some(name) => format!("{name}, {oid}"),
        None => oid.to_string(),
    }
}

/// Fails for keys of algorithms and curves that are not supported; answers whether it is RSA.
fn is_rsa(
    what: &'static str,
    oid: ObjectIdentifier,
    curve: Option<ObjectIdentifier>,
) -> Result<bool> {
    let refused = |message: &'static str, oid: &ObjectIdentifier| {
        Err(Error::unsupported(what, message)
            .found(name_of(oid))
            .hint(SUPPORTED))
    };
    match (oid, curve) {
        (RSA, _) => Ok(true),
        (EC, Some(P256 | P384)) => Ok(false),
        (EC, Some(other)) => refused("an ECDSA key on a curve that is not supported", &other),
        (RSA_PSS, _) => refused(
            "a key that is for RSA-PSS only, and packages are signed by PKCS #1 v1.5",
            &oid,
        ),
        _ => refused(
            "a key that is neither RSA nor ECDSA on P-256 or P-384",
            &oid,
        ),
    }
}

/// Fails for an RSA key that is too short or too long; `modulus` has no zeros in front.
fn check_length(what: &'static str, modulus: &[u8]) -> Result<()> {
    let unused = modulus.first().map_or(0, |first| first.leading_zeros());
    let bits = (modulus.len() * 8).saturating_sub(unused as usize);
    let message = match bits {
        _ if bits < RsaPublicKey::MIN_SIZE => "an RSA key that is too short",
        _ if bits > RsaPublicKey::MAX_SIZE => "an RSA key that is too long",
        _ => return Ok(()),
    };
    Err(Error::unsupported(what, message)
        .found(format!("{bits} bits"))
        .hint(SUPPORTED))
}

/// The key of a certificate.
pub(super) enum PublicKey {
    Rsa(RsaPublicKey),
    P256(p256::ecdsa::VerifyingKey),
    P384(p384::ecdsa::VerifyingKey),
}

impl PublicKey {
    /// The key that `certificate` is for.
    ///
    /// # Errors
    /// `Unsupported` for other keys than RSA and ECDSA on P-256 and P-384, `Malformed` for what is no key.
    pub(super) fn of(certificate: &X509) -> Result<PublicKey> {
        let wrong = |e: String| Error::malformed(WHAT, "a key that is none").found(e);
        let info = certificate.tbs_certificate().subject_public_key_info();
        let parameters = info.algorithm.parameters.as_ref();
        let curve = parameters.and_then(|any| any.decode_as::<ObjectIdentifier>().ok());
        let is_rsa = is_rsa(WHAT, info.algorithm.oid, curve)?;
        let der = info.to_der().map_err(|e| wrong(e.to_string()))?;
        if is_rsa {
            let bytes = info.subject_public_key.raw_bytes();
            if let Ok(key) = RsaPublicKeyRef::from_der(bytes) {
                check_length(WHAT, key.modulus.as_bytes())?;
            }
            let key = RsaPublicKey::from_public_key_der(&der);
            return key.map(PublicKey::Rsa).map_err(|e| wrong(e.to_string()));
        }
        let key = match curve {
            Some(P256) => p256::ecdsa::VerifyingKey::from_public_key_der(&der).map(PublicKey::P256),
            _ => p384::ecdsa::VerifyingKey::from_public_key_der(&der).map(PublicKey::P384),
        };
        key.map_err(|e| wrong(e.to_string()))
    }

    /// `RSA 2048`, `ECDSA P-256`.
    pub(super) fn describe(&self) -> String {
        match self {
            PublicKey::Rsa(key) => format!("RSA {}", key.size() * 8),
            PublicKey::P256(_) => "ECDSA P-256".to_owned(),
            PublicKey::P384(_) => "ECDSA P-384".to_owned(),
        }
    }

    pub(super) fn is_rsa(&self) -> bool {
        matches!(self, PublicKey::Rsa(_))
    }

    /// Whether `signature` is one by this key over what has this digest.
    pub(super) fn verifies(&self, algorithm: Algorithm, digest: &[u8], signature: &[u8]) -> bool {
        match self {
            PublicKey::Rsa(key) => key.verify(padding(algorithm), digest, signature).is_ok(),
            PublicKey::P256(key) => p256::ecdsa::DerSignature::from_bytes(signature)
                .is_ok_and(|s| key.verify_prehash(digest, &s).is_ok()),
            PublicKey::P384(key) => p384::ecdsa::DerSignature::from_bytes(signature)
                .is_ok_and(|s| key.verify_prehash(digest, &s).is_ok()),
        }
    }
}

/// RSASSA-PKCS1-v1_5 over a digest of this algorithm.
fn padding(algorithm: Algorithm) -> Pkcs1v15Sign {
    match algorithm {
        Algorithm::Sha1 => Pkcs1v15Sign::new::<Sha1>(),
        Algorithm::Sha256 => Pkcs1v15Sign::new::<Sha256>(),
        Algorithm::Sha384 => Pkcs1v15Sign::new::<Sha384>(),
        Algorithm::Sha512 => Pkcs1v15Sign::new::<Sha512>(),
    }
}

/// A key that signs.
pub(super) enum PrivateKey {
    Rsa(Box<RsaPrivateKey>),
    P256(p256::ecdsa::SigningKey),
    P384(p384::ecdsa::SigningKey),
}

impl PrivateKey {
    /// The first private key in `text`: PKCS #8, PKCS #1 or SEC 1.
    ///
    /// # Errors
    /// `Malformed` for what is no key in PEM; `Unsupported` for encrypted ones and those of other algorithms.
    pub(super) fn from_pem(text: &str) -> Result<PrivateKey> {
        if text.contains("ENCRYPTED") {
            return Err(Error::unsupported(KEY, "it is encrypted")
                .hint("decrypt it with: openssl pkey -in key.pem -out plain.pem"));
        }
        let (label, base64) = pem::private_key(text)
            .ok_or_else(|| Error::malformed(KEY, "no private key in PEM").hint(SUPPORTED))?;
        let (_, document) =
            SecretDocument::from_pem(&pem::wrapped(label, base64)).map_err(|e| wrong_key(&e))?;
        let der = document.as_bytes();
        match label {
            "PRIVATE KEY" => PrivateKey::from_pkcs8(der),
            "RSA PRIVATE KEY" => PrivateKey::from_pkcs1(der),
            "EC PRIVATE KEY" => PrivateKey::from_sec1(der),
            _ => Err(Error::unsupported(KEY, "of a kind that is not known")
                .found(format!("{label:?}"))
                .hint(SUPPORTED)),
        }
    }

    fn from_pkcs8(der: &[u8]) -> Result<PrivateKey> {
        let info = PrivateKeyInfoRef::try_from(der).map_err(|e| wrong_key(&e))?;
        let curve = info.algorithm.parameters_oid().ok();
        if is_rsa(KEY, info.algorithm.oid, curve)? {
            return PrivateKey::from_pkcs1(info.private_key.as_bytes());
        }
        match curve {
            Some(P256) => p256::ecdsa::SigningKey::from_pkcs8_der(der).map(PrivateKey::P256),
            _ => p384::ecdsa::SigningKey::from_pkcs8_der(der).map(PrivateKey::P384),
        }
        .map_err(|e| wrong_key(&e))
    }

    fn from_pkcs1(der: &[u8]) -> Result<PrivateKey> {
        if let Ok(key) = Pkcs1Private::<rsa::pkcs1::UintRef<'_>>::from_der(der) {
            check_length(KEY, key.modulus.as_bytes())?;
        }
        let key = RsaPrivateKey::from_pkcs1_der(der).map_err(|e| wrong_key(&e))?;
        Ok(PrivateKey::Rsa(Box::new(key)))
    }

    /// The form names the curve, unless it is left out: a key of that length is tried then.
    fn from_sec1(der: &[u8]) -> Result<PrivateKey> {
        if let Ok(key) = p256::SecretKey::from_sec1_der(der) {
            return Ok(PrivateKey::P256(key.into()));
        }
        if let Ok(key) = p384::SecretKey::from_sec1_der(der) {
            return Ok(PrivateKey::P384(key.into()));
        }
        Err(
            Error::unsupported(KEY, "an ECDSA key on a curve that is not supported")
                .hint(SUPPORTED),
        )
    }

    /// The signature over what has this digest.
    ///
    /// # Errors
    /// `Unsupported` if the key cannot sign that.
    pub(super) fn sign(&self, algorithm: Algorithm, digest: &[u8]) -> Result<Vec<u8>> {
        let failed = |e: String| Error::unsupported(KEY, "signing failed").found(e);
        match self {
            PrivateKey::Rsa(key) => key
                .sign(padding(algorithm), digest)
                .map_err(|e| failed(e.to_string())),
            PrivateKey::P256(key) => {
                let signature: p256::ecdsa::DerSignature = key
                    .sign_prehash(digest)
                    .map_err(|e| failed(e.to_string()))?;
                Ok(signature.as_bytes().to_vec())
            }
            PrivateKey::P384(key) => {
                let signature: p384::ecdsa::DerSignature = key
                    .sign_prehash(digest)
                    .map_err(|e| failed(e.to_string()))?;
                Ok(signature.as_bytes().to_vec())
            }
        }
    }
}

fn wrong_key(error: &dyn std::fmt::Display) -> Error {
    Error::malformed(KEY, "a private key that cannot be read")
        .found(error)
        .hint(SUPPORTED)
}
