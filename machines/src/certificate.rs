//! The certificate (`.cert`): a signature over the manifest, and who made it.
//!
//! DSP0243, "Integrity of a package". First a line in the grammar of manifests whose file is the manifest and whose digest is
//! the signature, then X.509 certificates in PEM, the signer's first. It is what `openssl dgst -sha256 -sign` makes, in hex.
//! What is proved is that the holder of the certificate's key signed this manifest; who that is, is for people to say.

use formats::{Error, Result};
use p256::ecdsa::signature::hazmat::{PrehashSigner, PrehashVerifier};
use rsa::pkcs1::DecodeRsaPrivateKey as _;
use rsa::pkcs8::{DecodePrivateKey as _, DecodePublicKey as _};
use rsa::{Pkcs1v15Sign, RsaPrivateKey, RsaPublicKey};
use sha1::Sha1;
use sha2::{Sha256, Sha384, Sha512};
use x509_cert::Certificate as X509;
use x509_cert::der::{DecodePem as _, Encode as _};

use crate::manifest::{Algorithm, hex, parse_any};
use crate::text::decode_text;

const WHAT: &str = "certificate";
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// Certificates of a chain that are read.
const MAX_CHAIN: usize = 32;

/// A parsed `.cert` file.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The file that is signed: the manifest, as the package calls it.
    pub manifest: String,
    /// The digest under the signature.
    pub algorithm: Algorithm,
    signature: Vec<u8>,
    chain: Vec<X509>,
}

/// Who signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// Whom the certificate is for, as a distinguished name.
    pub subject: String,
    /// Who says so; the subject itself if it is signed by itself.
    pub issuer: String,
    /// First moment at which it is valid.
    pub not_before: String,
    /// Last moment at which it is valid.
    pub not_after: String,
    /// `RSA 2048`, `ECDSA P-256`.
    pub key: String,
    /// How many certificates of its issuers come with it.
    pub issuers: usize,
}

impl Certificate {
    /// Reads a `.cert` file.
    ///
    /// # Errors
    /// `Malformed` for what has no signature line or no certificate that X.509 knows; `Unsupported` for an unknown digest.
    pub fn parse(bytes: &[u8]) -> Result<Certificate> {
        let text = decode_text(bytes, None, WHAT)?;
        let (number, line) = text
            .lines()
            .enumerate()
            .find(|(_, l)| !l.trim().is_empty())
            .ok_or_else(|| Error::malformed(WHAT, "nothing in it"))?;
        let (algorithm, manifest, signature) = parse_any(line.trim(), number + 1)?;
        let algorithm = Algorithm::by_name(&algorithm).ok_or_else(|| {
            Error::unsupported(WHAT, "a digest that is not known").found(format!("{algorithm:?}"))
        })?;
        let rest: Vec<&str> = text.lines().skip(number + 1).collect();
        let chain = certificates(&rest.join("\n"))?;
        Ok(Certificate {
            manifest,
            algorithm,
            signature,
            chain,
        })
    }

    /// Who signed, by the first certificate.
    pub fn signer(&self) -> Result<Signer> {
        let first = self.first()?;
        let body = first.tbs_certificate();
        let key = PublicKey::of(first)?;
        Ok(Signer {
            subject: body.subject().to_string().escape_debug().to_string(),
            issuer: body.issuer().to_string().escape_debug().to_string(),
            not_before: body.validity().not_before.to_string(),
            not_after: body.validity().not_after.to_string(),
            key: key.describe(),
            issuers: self.chain.len().saturating_sub(1),
        })
    }

    /// Checks that the key of the certificate signed `manifest`, the bytes of the manifest as they are stored.
    ///
    /// # Errors
    /// `Malformed` if it did not; `Unsupported` for keys that are neither RSA nor ECDSA on P-256 or P-384.
    pub fn verify(&self, manifest: &[u8]) -> Result<Signer> {
        let key = PublicKey::of(self.first()?)?;
        let digest = self.algorithm.digest(manifest);
        if !key.verifies(self.algorithm, &digest, &self.signature) {
            return Err(
                Error::malformed(WHAT, "the manifest is not what was signed").hint(
                    "the package was changed after it was signed, or the certificate is another's",
                ),
            );
        }
        self.signer()
    }

    fn first(&self) -> Result<&X509> {
        self.chain
            .first()
            .ok_or_else(|| Error::malformed(WHAT, "no certificate in it"))
    }
}

/// The certificates in `text`: PEM, or base64 on a line of its own as XenCenter writes it.
fn certificates(text: &str) -> Result<Vec<X509>> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(BEGIN) {
        let block = rest.get(start..).unwrap_or_default();
        let end = block
            .find(END)
            .ok_or_else(|| Error::malformed(WHAT, "a certificate without its end"))?
            + END.len();
        if found.len() >= MAX_CHAIN {
            return Err(Error::limit(WHAT, "too many certificates")
                .expected(format!("at most {MAX_CHAIN}")));
        }
        found.push(from_pem(block.get(..end).unwrap_or_default())?);
        rest = block.get(end..).unwrap_or_default();
    }
    if found.is_empty() {
        let base64: String = text.split_ascii_whitespace().collect();
        if base64.is_empty() {
            return Err(Error::malformed(WHAT, "no certificate in it"));
        }
        found.push(from_pem(&wrapped(&base64))?);
    }
    Ok(found)
}

/// `base64` as PEM.
fn wrapped(base64: &str) -> String {
    let lines: Vec<String> = base64
        .chars()
        .collect::<Vec<_>>()
        .chunks(64)
        .map(|line| line.iter().collect())
        .collect();
    format!("{BEGIN}\n{}\n{END}\n", lines.join("\n"))
}

fn from_pem(pem: &str) -> Result<X509> {
    let lines: Vec<&str> = pem.lines().map(str::trim).collect();
    X509::from_pem(lines.join("\n")).map_err(|e| {
        Error::malformed(WHAT, "not a certificate that X.509 knows").found(e.to_string())
    })
}

enum PublicKey {
    Rsa(RsaPublicKey),
    P256(p256::ecdsa::VerifyingKey),
    P384(p384::ecdsa::VerifyingKey),
}

impl PublicKey {
    fn of(certificate: &X509) -> Result<PublicKey> {
        let info = certificate.tbs_certificate().subject_public_key_info();
        let der = info
            .to_der()
            .map_err(|e| Error::malformed(WHAT, "a key that is none").found(e.to_string()))?;
        if let Ok(key) = RsaPublicKey::from_public_key_der(&der) {
            return Ok(PublicKey::Rsa(key));
        }
        if let Ok(key) = p256::ecdsa::VerifyingKey::from_public_key_der(&der) {
            return Ok(PublicKey::P256(key));
        }
        if let Ok(key) = p384::ecdsa::VerifyingKey::from_public_key_der(&der) {
            return Ok(PublicKey::P384(key));
        }
        Err(Error::unsupported(
            WHAT,
            "a key that is neither RSA nor ECDSA on P-256 or P-384",
        )
        .found(info.algorithm.oid.to_string()))
    }

    fn describe(&self) -> String {
        match self {
            PublicKey::Rsa(key) => {
                use rsa::traits::PublicKeyParts as _;
                format!("RSA {}", key.size() * 8)
            }
            PublicKey::P256(_) => "ECDSA P-256".to_owned(),
            PublicKey::P384(_) => "ECDSA P-384".to_owned(),
        }
    }

    fn verifies(&self, algorithm: Algorithm, digest: &[u8], signature: &[u8]) -> bool {
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

/// The text of a `.cert` file: `manifest`, the bytes of the file `name`, signed with a key in PEM for a certificate in PEM.
///
/// # Errors
/// `Malformed` for what is no key or no certificate, `Usage` if they do not belong together, `Unsupported` for encrypted keys and kinds
/// of keys that are not known.
pub fn sign(
    manifest: &[u8],
    name: &str,
    algorithm: Algorithm,
    key: &str,
    certificates: &str,
) -> Result<String> {
    let chain = self::certificates(certificates)?;
    let digest = algorithm.digest(manifest);
    let signature = PrivateKey::from_pem(key)?.sign(algorithm, &digest)?;
    let first = chain
        .first()
        .ok_or_else(|| Error::malformed(WHAT, "no certificate in it"))?;
    if !PublicKey::of(first)?.verifies(algorithm, &digest, &signature) {
        return Err(Error::usage(
            "signing",
            "the key is not the one of the certificate",
        ));
    }
    let mut text = format!("{}({name})= {}\n", algorithm.name(), hex(&signature));
    for block in certificates.split(BEGIN).skip(1) {
        let body = block.split(END).next().unwrap_or_default();
        let lines: Vec<&str> = body.split_ascii_whitespace().collect();
        text += &format!("{BEGIN}\n{}\n{END}\n", lines.join("\n"));
    }
    Ok(text)
}

enum PrivateKey {
    Rsa(Box<RsaPrivateKey>),
    P256(p256::ecdsa::SigningKey),
    P384(p384::ecdsa::SigningKey),
}

impl PrivateKey {
    fn from_pem(pem: &str) -> Result<PrivateKey> {
        if pem.contains("ENCRYPTED") {
            return Err(Error::unsupported("key", "it is encrypted")
                .hint("decrypt it with: openssl pkey -in key.pem -out plain.pem"));
        }
        if let Ok(key) = RsaPrivateKey::from_pkcs8_pem(pem) {
            return Ok(PrivateKey::Rsa(Box::new(key)));
        }
        if let Ok(key) = RsaPrivateKey::from_pkcs1_pem(pem) {
            return Ok(PrivateKey::Rsa(Box::new(key)));
        }
        if let Ok(key) = p256::ecdsa::SigningKey::from_pkcs8_pem(pem) {
            return Ok(PrivateKey::P256(key));
        }
        if let Ok(key) = p384::ecdsa::SigningKey::from_pkcs8_pem(pem) {
            return Ok(PrivateKey::P384(key));
        }
        Err(Error::malformed(
            "key",
            "not a key in PEM: RSA, or ECDSA on P-256 or P-384 in PKCS #8",
        )
        .hint("openssl pkcs8 -topk8 -nocrypt -in key.pem makes one of other forms"))
    }

    fn sign(&self, algorithm: Algorithm, digest: &[u8]) -> Result<Vec<u8>> {
        let failed = |e: String| Error::unsupported("key", "signing failed").found(e);
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

#[cfg(test)]
mod tests;
