//! Certificates that OpenSSL made, and back.

use formats::ErrorKind;

use super::*;

const RSA_KEY: &str = include_str!("rsa.key");
const RSA_CERT: &str = include_str!("rsa.cert");
const EC_KEY: &str = include_str!("ec.key");
const EC_CERT: &str = include_str!("ec.cert");

/// What OpenSSL signed.
fn manifest() -> Vec<u8> {
    format!("SHA256(web.ovf)= {}\n", "0".repeat(64)).into_bytes()
}

fn pem(cert: &str) -> &str {
    &cert[cert.find(BEGIN).unwrap()..]
}

#[test]
fn signatures_of_openssl_are_verified() {
    for (text, key) in [(RSA_CERT, "RSA 2048"), (EC_CERT, "ECDSA P-256")] {
        let certificate = Certificate::parse(text.as_bytes()).unwrap();
        assert_eq!(certificate.manifest, "web.mf");
        let signer = certificate.verify(&manifest()).unwrap();
        assert_eq!(signer.key, key);
        assert!(signer.subject.contains("diskferry test"), "{signer:?}");
        assert_eq!(signer.subject, signer.issuer);
        let crlf = text.replace('\n', "\r\n");
        let certificate = Certificate::parse(crlf.as_bytes()).unwrap();
        assert!(certificate.verify(&manifest()).is_ok());
    }
}

#[test]
fn another_manifest_is_not_what_was_signed() {
    for text in [RSA_CERT, EC_CERT] {
        let certificate = Certificate::parse(text.as_bytes()).unwrap();
        let mut other = manifest();
        other[20] ^= 1;
        let error = certificate.verify(&other).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed);
    }
}

#[test]
fn rsa_signatures_are_the_bytes_that_openssl_writes() {
    let text = sign(
        &manifest(),
        "web.mf",
        Algorithm::Sha256,
        RSA_KEY,
        pem(RSA_CERT),
    )
    .unwrap();
    assert_eq!(text, RSA_CERT);
}

#[test]
fn what_is_signed_verifies_with_every_digest() {
    for algorithm in Algorithm::ALL {
        let text = sign(&manifest(), "a.mf", algorithm, RSA_KEY, pem(RSA_CERT)).unwrap();
        let certificate = Certificate::parse(text.as_bytes()).unwrap();
        assert!(certificate.verify(&manifest()).is_ok(), "{algorithm:?}");
    }
    let text = sign(&manifest(), "a.mf", Algorithm::Sha256, EC_KEY, pem(EC_CERT)).unwrap();
    let certificate = Certificate::parse(text.as_bytes()).unwrap();
    assert!(certificate.verify(&manifest()).is_ok());
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let error = sign(
        &manifest(),
        "a.mf",
        Algorithm::Sha256,
        RSA_KEY,
        pem(EC_CERT),
    )
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----";
    let error = sign(
        &manifest(),
        "a.mf",
        Algorithm::Sha256,
        encrypted,
        pem(EC_CERT),
    )
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn a_certificate_on_one_line_is_read() {
    let line = RSA_CERT.lines().next().unwrap();
    let body: String = pem(RSA_CERT)
        .lines()
        .filter(|l| !l.starts_with("-----"))
        .collect();
    let certificate = Certificate::parse(format!("{line}\r\n{body}").as_bytes()).unwrap();
    assert!(certificate.verify(&manifest()).is_ok());
}

#[test]
fn what_is_no_certificate_is_malformed() {
    let line = RSA_CERT.lines().next().unwrap();
    for text in [
        "",
        "hello",
        line,
        &format!("{line}\n{BEGIN}\nAAAA\n{END}"),
        &format!("{line}\n{BEGIN}\nAAAA"),
        &format!("{line}\nno base64 at all!"),
    ] {
        let error = Certificate::parse(text.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed, "{text:?}");
    }
}
