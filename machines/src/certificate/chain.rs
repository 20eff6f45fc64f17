//! Who vouches for the signer: the certificates that come with the first one (RFC 5280, 6.1, without the question of trust).

use formats::{Error, ErrorKind, Result};
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::ext::pkix::{AuthorityKeyIdentifier, SubjectKeyIdentifier};

use super::key::{PublicKey, name_of};
use super::pem::Held;
use super::{Standing, WHAT, shown_name};
use crate::manifest::Algorithm;

/// How certificates are signed.
#[rustfmt::skip]
const SIGNATURES: [(ObjectIdentifier, bool, Algorithm); 8] = [
    (ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.5"), true, Algorithm::Sha1),
    (ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11"), true, Algorithm::Sha256),
    (ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.12"), true, Algorithm::Sha384),
    (ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.13"), true, Algorithm::Sha512),
    (ObjectIdentifier::new_unwrap("1.2.840.10045.4.1"), false, Algorithm::Sha1),
    (ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2"), false, Algorithm::Sha256),
    (ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3"), false, Algorithm::Sha384),
    (ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.4"), false, Algorithm::Sha512),
];

/// What the certificates prove of the first one.
pub(super) struct Chain<'c> {
    /// The first one, its issuer, the issuer of that, and so on: each was proved by the next.
    pub(super) path: Vec<&'c Held>,
    pub(super) standing: Standing,
    pub(super) warnings: Vec<String>,
}

enum Answer {
    Right,
    Wrong,
    /// Nobody here can tell, and why.
    Unknown(String),
}

/// Follows the issuers of the first of `all`, in whatever order they come.
///
/// # Errors
/// `Malformed` when a certificate is not what its issuer signed.
pub(super) fn follow(all: &[Held]) -> Result<Chain<'_>> {
    let mut chain = Chain {
        path: all.iter().take(1).collect(),
        standing: Standing::IssuerMissing,
        warnings: Vec::new(),
    };
    while let Some(last) = chain.path.last().copied() {
        let body = last.parsed.tbs_certificate();
        if body.signature() != last.parsed.signature_algorithm() {
            return Err(changed(last).found("two signature algorithms"));
        }
        let own = is_by_itself(last).then_some(last);
        let is_new = |one: &&Held| !chain.path.iter().any(|held| held.der == one.der);
        let is_issuer = |one: &&Held| one.parsed.tbs_certificate().subject() == body.issuer();
        let others = all.iter().filter(is_new).filter(is_issuer);
        let mut next = None;
        let (mut is_wrong, mut unknown) = (false, None);
        for issuer in own.into_iter().chain(others) {
            match ask(last, issuer)? {
                Answer::Right => {
                    next = Some(issuer);
                    break;
                }
                Answer::Wrong => is_wrong = true,
                Answer::Unknown(why) => unknown = Some(why),
            }
        }
        match (next, unknown) {
            (Some(issuer), _) if issuer.der == last.der => {
                chain.standing = match chain.path.len() {
                    1 => Standing::SelfSigned,
                    _ => Standing::Chain,
                };
                break;
            }
            (Some(issuer), _) => chain.path.push(issuer),
            (None, Some(why)) => {
                chain.standing = Standing::Unsupported;
                chain.warnings.push(format!(
                    "the certificate of {} cannot be verified: {why}",
                    shown_name(body.subject())
                ));
                break;
            }
            (None, None) if is_wrong => return Err(changed(last)),
            (None, None) => break,
        }
    }
    let is_stranger = |one: &&Held| !chain.path.iter().any(|held| held.der == one.der);
    let strangers = all.iter().filter(is_stranger).count();
    if strangers > 0 {
        chain.warnings.push(format!(
            "further certificates that are not those of its issuers count as nothing: {strangers}"
        ));
    }
    Ok(chain)
}

fn changed(held: &Held) -> Error {
    Error::malformed(WHAT, "is not what its issuer signed")
        .expected(shown_name(held.parsed.tbs_certificate().subject()))
        .hint("the certificate was changed after it was made, or comes with another's issuer")
}

/// Whether a certificate says that its own key signed it: by the names, or by the ids of the keys.
fn is_by_itself(held: &Held) -> bool {
    let body = held.parsed.tbs_certificate();
    let own = body.get_extension::<SubjectKeyIdentifier>().ok().flatten();
    let authority = body
        .get_extension::<AuthorityKeyIdentifier>()
        .ok()
        .flatten();
    let authority = authority.and_then(|(_, id)| id.key_identifier);
    let is_same_key = own.is_some_and(|(_, id)| authority == Some(id.0));
    body.subject() == body.issuer() || is_same_key
}

/// Whether the key of `issuer` signed `held`.
fn ask(held: &Held, issuer: &Held) -> Result<Answer> {
    let oid = held.parsed.signature_algorithm().oid;
    let Some((_, is_rsa, algorithm)) = SIGNATURES.iter().find(|(known, ..)| *known == oid) else {
        let why = format!(
            "its signature algorithm is not supported ({})",
            name_of(&oid)
        );
        return Ok(Answer::Unknown(why));
    };
    let key = match PublicKey::of(&issuer.parsed) {
        Ok(key) => key,
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            return Ok(Answer::Unknown(format!("its issuer has {error}")));
        }
        Err(_) => return Ok(Answer::Wrong),
    };
    let digest = algorithm.digest(held.signed_part()?);
    let signature = held.parsed.signature().as_bytes();
    let is_right =
        signature.is_some_and(|s| key.is_rsa() == *is_rsa && key.verifies(*algorithm, &digest, s));
    Ok(if is_right {
        Answer::Right
    } else {
        Answer::Wrong
    })
}
