//! The key and the certificate of `--sign` and `--cert`.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::SystemTime;

use formats::Error;
use machines::certificate::{Certificate, MAX_LEN, sign};
use machines::manifest::Algorithm;
use packages::write::Signing;

use crate::failure::Failure;
use crate::report;

/// Reads both, and tries them: what is wrong with them is told before a disk is read. Warns of a certificate that is not valid now.
///
/// # Errors
/// `Limit` for files of more than 1 MiB; `Malformed`, `Unsupported` and `Usage` for keys and certificates that do not sign.
pub fn read(key: &Path, certificate: &Path) -> Result<Signing, Failure> {
    let signing = Signing {
        key: text_of(key, "--sign")?,
        certificate: text_of(certificate, "--cert")?,
    };
    let signed = sign(
        b"",
        "manifest",
        Algorithm::Sha256,
        &signing.key,
        &signing.certificate,
    );
    let signed = signed.map_err(|error| match error.structure() {
        "key" => error.in_file(key),
        "certificate" => error.in_file(certificate),
        _ => error,
    })?;
    let signer = Certificate::parse(signed.as_bytes())?.verify(b"")?;
    for warning in signer.warnings_at(SystemTime::now()) {
        report::warning(&format!("{}: {warning}", certificate.display()));
    }
    Ok(signing)
}

/// The text of a file that may be a pipe, and never end.
fn text_of(path: &Path, option: &'static str) -> Result<String, Failure> {
    let failed = |e| Error::io("read", e).in_file(path);
    let file = File::open(path).map_err(|e| Error::io("open", e).in_file(path))?;
    let mut bytes = Vec::new();
    file.take(MAX_LEN + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > MAX_LEN {
        return Err(
            Error::limit(option, "the file is too long for a key or a certificate")
                .expected(format!("at most {MAX_LEN} bytes"))
                .in_file(path)
                .into(),
        );
    }
    String::from_utf8(bytes).map_err(|_| {
        Error::malformed(option, "the file is no text, and PEM is expected")
            .hint("openssl pkey -inform DER and openssl x509 -inform DER make PEM of DER")
            .in_file(path)
            .into()
    })
}
