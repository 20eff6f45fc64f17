//! The certificate (`.cert`): a signature over the manifest, and who made it.
//!
//! DSP0243, "Integrity of a package". First a line in the grammar of manifests whose file is the manifest and whose digest is
//! the signature, then X.509 certificates in PEM, the signer's first. It is what `openssl dgst -sha256 -sign` makes, in hex.
//! What is proved is that the holder of the certificate's key signed this manifest, and that nobody changed a certificate whose
//! issuer is at hand: itself, or one that follows. Whether to trust whoever that is, is for people to say.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use formats::{Error, Result};
use x509_cert::name::Name;

use crate::manifest::{Algorithm, hex, parse_any};
use crate::text::decode_text;

mod chain;
mod key;
mod pem;

use chain::Chain;
use key::{PrivateKey, PublicKey};
use pem::Held;

const WHAT: &str = "certificate";

/// Longest `.cert` file, in bytes: 32 certificates take a tenth of that.
pub const MAX_LEN: u64 = 1 << 20;

/// A parsed `.cert` file.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The file that is signed: the manifest, as the package calls it.
    pub manifest: String,
    /// The digest under the signature.
    pub algorithm: Algorithm,
    signature: Vec<u8>,
    chain: Vec<Held>,
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
    /// How many certificates of its issuers come with it, each proved by the next.
    pub issuers: usize,
    /// What that proves of the name.
    pub standing: Standing,
    /// What is odd about the certificates.
    pub warnings: Vec<String>,
    /// When the certificate and those of its issuers are valid.
    lifetimes: Vec<Lifetime>,
}

/// What the certificates prove of the signer's name. None of it says that the signer can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The certificate is signed with its own key.
    SelfSigned,
    /// Its issuers come with it, up to one that is signed with its own key.
    Chain,
    /// An issuer is not at hand, so that anybody could have written the name.
    IssuerMissing,
    /// A certificate is signed in a way that is not supported.
    Unsupported,
}

impl Standing {
    /// In one lower-case word or two, as JSON output has it.
    pub fn name(self) -> &'static str {
        match self {
            Standing::SelfSigned => "self-signed",
            Standing::Chain => "chain",
            Standing::IssuerMissing => "issuer-missing",
            Standing::Unsupported => "unsupported",
        }
    }

    /// For people.
    pub fn describe(self) -> &'static str {
        match self {
            Standing::SelfSigned => "self-signed",
            Standing::Chain => "proved by the certificates of its issuers",
            Standing::IssuerMissing => "issuer not at hand: unverified name",
            Standing::Unsupported => "signed in a way that is not supported: unverified name",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Lifetime {
    subject: String,
    not_before: (Duration, String),
    not_after: (Duration, String),
}

impl Lifetime {
    fn of(held: &Held) -> Lifetime {
        let body = held.parsed.tbs_certificate();
        let times = body.validity();
        let moment = |time: x509_cert::time::Time| (time.to_unix_duration(), time.to_string());
        Lifetime {
            subject: shown_name(body.subject()),
            not_before: moment(times.not_before),
            not_after: moment(times.not_after),
        }
    }
}

impl Signer {
    /// What a user should hear about at the time `now`: what is odd, and which certificates are not valid then.
    pub fn warnings_at(&self, now: SystemTime) -> Vec<String> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut warnings = self.warnings.clone();
        for lifetime in &self.lifetimes {
            let subject = &lifetime.subject;
            if now < lifetime.not_before.0 {
                let from = &lifetime.not_before.1;
                warnings.push(format!(
                    "the certificate of {subject} is not valid before {from}"
                ));
            }
            if now > lifetime.not_after.0 {
                let until = &lifetime.not_after.1;
                warnings.push(format!("the certificate of {subject} expired at {until}"));
            }
        }
        warnings
    }
}

impl Certificate {
    /// Reads a `.cert` file.
    ///
    /// # Errors
    /// `Malformed` for what has no signature line or no certificate that X.509 knows; `Unsupported` for an unknown digest; `Limit`
    /// for more than [`MAX_LEN`] bytes and for too many certificates.
    pub fn parse(bytes: &[u8]) -> Result<Certificate> {
        if bytes.len() as u64 > MAX_LEN {
            return Err(Error::limit(WHAT, "is too long")
                .found(format!("{} bytes", bytes.len()))
                .expected(format!("at most {MAX_LEN}")));
        }
        let text = decode_text(bytes, None, WHAT)?;
        let (mut number, mut rest) = (0, text.as_str());
        let line = loop {
            if rest.is_empty() {
                return Err(Error::malformed(WHAT, "nothing in it"));
            }
            number += 1;
            let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
            rest = after;
            if !line.trim().is_empty() {
                break line.trim();
            }
        };
        let (algorithm, manifest, signature) = parse_any(line, number)?;
        let algorithm = Algorithm::by_name(&algorithm).ok_or_else(|| {
            Error::unsupported(WHAT, "a digest that is not known").found(format!("{algorithm:?}"))
        })?;
        Ok(Certificate {
            manifest,
            algorithm,
            signature,
            chain: pem::certificates(rest)?,
        })
    }

    /// Who signed, by the first certificate, and what those behind it prove of that.
    ///
    /// # Errors
    /// `Malformed` for a certificate that is not what its issuer signed; `Unsupported` for keys that are neither RSA nor ECDSA on
    /// P-256 or P-384.
    pub fn signer(&self) -> Result<Signer> {
        let first = first(&self.chain)?;
        let key = PublicKey::of(&first.parsed)?;
        let body = first.parsed.tbs_certificate();
        let Chain {
            path,
            standing,
            warnings,
        } = chain::follow(&self.chain)?;
        Ok(Signer {
            subject: shown_name(body.subject()),
            issuer: shown_name(body.issuer()),
            not_before: body.validity().not_before.to_string(),
            not_after: body.validity().not_after.to_string(),
            key: key.describe(),
            issuers: path.len().saturating_sub(1),
            standing,
            warnings,
            lifetimes: path.into_iter().map(Lifetime::of).collect(),
        })
    }

    /// Checks that the key of the certificate signed `manifest`, the bytes of the manifest as they are stored.
    ///
    /// # Errors
    /// `Malformed` if it did not; those of [`Certificate::signer`].
    pub fn verify(&self, manifest: &[u8]) -> Result<Signer> {
        let key = PublicKey::of(&first(&self.chain)?.parsed)?;
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
}

fn first(chain: &[Held]) -> Result<&Held> {
    chain
        .first()
        .ok_or_else(|| Error::malformed(WHAT, "no certificate in it"))
}

/// A distinguished name for a message.
fn shown_name(name: &Name) -> String {
    name.to_string().escape_debug().to_string()
}

/// The text of a `.cert` file: `manifest`, the bytes of the file `name`, signed with a key in PEM for a certificate in PEM.
/// It was read again and verified.
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
    let chain = pem::certificates(certificates)?;
    let public = PublicKey::of(&first(&chain)?.parsed)?;
    let digest = algorithm.digest(manifest);
    let signature = PrivateKey::from_pem(key)?.sign(algorithm, &digest)?;
    if !public.verifies(algorithm, &digest, &signature) {
        return Err(Error::usage(
            "signing",
            "the key is not the one of the certificate",
        ));
    }
    let mut text = format!("{}({name})= {}\n", algorithm.name(), hex(&signature));
    for held in &chain {
        text += &held.to_pem()?;
    }
    let written = Certificate::parse(text.as_bytes())?;
    written.verify(manifest)?;
    if written.manifest != name {
        return Err(
            Error::usage("signing", "the manifest has a name that cannot be signed")
                .found(format!("{name:?}")),
        );
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
