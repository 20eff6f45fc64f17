//! Certificates and keys in PEM (RFC 7468), and bare base64 as XenCenter writes it.

use formats::{Error, Result};
use x509_cert::Certificate as X509;
use x509_cert::der::pem::LineEnding;
use x509_cert::der::{Decode as _, Document, Header, Reader as _, SliceReader};

use super::WHAT;

const LABEL: &str = "CERTIFICATE";
pub(super) const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
pub(super) const END: &str = "-----END CERTIFICATE-----";

/// Certificates of a chain that are read.
const MAX_CHAIN: usize = 32;

/// Characters of a line of base64.
const WIDTH: usize = 64;

/// A certificate, with the bytes that it was read from: what is signed are those, not what one would write again.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) parsed: X509,
    pub(super) der: Document,
}

impl Held {
    fn from_base64(base64: &str) -> Result<Held> {
        let wrong = |e: x509_cert::der::Error| {
            Error::malformed(WHAT, "not a certificate that X.509 knows").found(e.to_string())
        };
        let (_, der) = Document::from_pem(&wrapped(LABEL, base64)).map_err(wrong)?;
        let parsed = X509::from_der(der.as_bytes()).map_err(wrong)?;
        Ok(Held { parsed, der })
    }

    /// The certificate as PEM, in lines of 64 characters.
    pub(super) fn to_pem(&self) -> Result<String> {
        self.der
            .to_pem(LABEL, LineEnding::LF)
            .map_err(|e| Error::malformed(WHAT, "cannot be written as PEM").found(e.to_string()))
    }

    /// The bytes that the issuer signed: `tbsCertificate` (RFC 5280, 4.1).
    pub(super) fn signed_part(&self) -> Result<&[u8]> {
        let part = || {
            let mut reader = SliceReader::new(self.der.as_bytes())?;
            Header::decode(&mut reader)?;
            reader.tlv_bytes()
        };
        part().map_err(|e: x509_cert::der::Error| {
            Error::malformed(WHAT, "not a certificate that X.509 knows").found(e.to_string())
        })
    }
}

/// The certificates in `text`, at least one: PEM, or one in base64.
///
/// # Errors
/// `Malformed` for what is none, `Limit` for more than 32.
pub(super) fn certificates(text: &str) -> Result<Vec<Held>> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, block)) = rest.split_once(BEGIN) {
        let (body, after) = block
            .split_once(END)
            .ok_or_else(|| Error::malformed(WHAT, "a certificate without its end"))?;
        if found.len() >= MAX_CHAIN {
            return Err(Error::limit(WHAT, "too many certificates")
                .expected(format!("at most {MAX_CHAIN}")));
        }
        found.push(Held::from_base64(body)?);
        rest = after;
    }
    if found.is_empty() {
        if text.trim().is_empty() {
            return Err(Error::malformed(WHAT, "no certificate in it"));
        }
        found.push(Held::from_base64(text)?);
    }
    Ok(found)
}

/// The first private key in `text`: its label (`EC PRIVATE KEY`), and what stands between its marks.
pub(super) fn private_key(text: &str) -> Option<(&str, &str)> {
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("-----BEGIN ") {
        let (label, body) = after.split_once("-----")?;
        if label.ends_with("PRIVATE KEY") {
            let end = body.find(&format!("-----END {label}-----"))?;
            return Some((label, body.get(..end)?));
        }
        rest = body;
    }
    None
}

/// `base64` as PEM whose lines have the length that decoders want, whatever length they had.
pub(super) fn wrapped(label: &str, base64: &str) -> String {
    let mut pem = String::with_capacity(base64.len() + base64.len() / WIDTH + 2 * label.len() + 64);
    pem += &format!("-----BEGIN {label}-----");
    let characters = base64.chars().filter(|c| !c.is_ascii_whitespace());
    for (index, character) in characters.enumerate() {
        if index.is_multiple_of(WIDTH) {
            pem.push('\n');
        }
        pem.push(character);
    }
    pem += &format!("\n-----END {label}-----\n");
    pem
}
