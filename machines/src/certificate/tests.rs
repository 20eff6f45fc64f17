//! Certificates that OpenSSL made, and back.

use formats::ErrorKind;

use super::pem::{BEGIN, END};
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

const CHAIN_KEY: &str = include_str!("chain.key");
const CHAIN: &str = include_str!("chain.pem");
const PSS_KEY: &str = include_str!("pss.key");
const PSS_CERT: &str = include_str!("pss.pem");
const SIGNED_BY_PSS: &str = include_str!("signed_by_pss.pem");

/// The manifest signed by what a test is about.
fn signed(key: &str, certificates: &str) -> formats::Result<Signer> {
    let text = sign(&manifest(), "web.mf", Algorithm::Sha256, key, certificates)?;
    Certificate::parse(text.as_bytes())?.verify(&manifest())
}

/// `chain.pem`, in its parts.
fn leaf_and_issuer() -> (&'static str, &'static str) {
    CHAIN.split_at(CHAIN.rfind(BEGIN).unwrap())
}

/// A certificate with bit 0 of byte `at` flipped.
fn flipped(certificate: &str, at: usize) -> String {
    let held = pem::certificates(certificate).unwrap();
    let mut der = held[0].der.as_bytes().to_vec();
    der[at] ^= 1;
    let der = x509_cert::der::Document::try_from(der);
    // Lengths and tags that are no longer right are told by the parser.
    der.map_or(String::new(), |der| {
        der.to_pem("CERTIFICATE", x509_cert::der::pem::LineEnding::LF)
            .unwrap()
    })
}

#[test]
fn issuers_that_come_along_prove_the_signer() {
    let (leaf, issuer) = leaf_and_issuer();
    for all in [CHAIN.to_owned(), format!("{leaf}{}{issuer}", pem(EC_CERT))] {
        let signer = signed(CHAIN_KEY, &all).unwrap();
        assert_eq!(signer.standing, Standing::Chain);
        assert_eq!(signer.issuers, 1);
        assert!(signer.subject.contains("leaf"), "{signer:?}");
        assert_eq!(signer.warnings.is_empty(), all == CHAIN, "{signer:?}");
    }
    let alone = signed(CHAIN_KEY, leaf).unwrap();
    assert_eq!(alone.standing, Standing::IssuerMissing);
    assert_eq!(alone.issuers, 0);
    let itself = signed(EC_KEY, pem(EC_CERT)).unwrap();
    assert_eq!(itself.standing, Standing::SelfSigned);
    assert!(itself.warnings.is_empty(), "{itself:?}");
}

#[test]
fn an_unrelated_certificate_is_no_issuer() {
    let both = format!("{}{}", pem(RSA_CERT), pem(EC_CERT));
    let signer = signed(RSA_KEY, &both).unwrap();
    assert_eq!(signer.issuers, 0);
    assert_eq!(signer.standing, Standing::SelfSigned);
    assert_eq!(signer.warnings.len(), 1, "{signer:?}");
}

#[test]
fn no_bit_of_a_self_signed_certificate_can_change() {
    for text in [RSA_CERT, EC_CERT] {
        let line = text.lines().next().unwrap();
        let len = pem::certificates(pem(text)).unwrap()[0]
            .der
            .as_bytes()
            .len();
        for at in 0..len {
            let changed = format!("{line}\n{}", flipped(pem(text), at));
            let verified =
                Certificate::parse(changed.as_bytes()).and_then(|c| c.verify(&manifest()));
            assert!(verified.is_err(), "byte {at}: {verified:?}");
        }
    }
}

#[test]
fn a_link_of_a_chain_that_does_not_verify_is_damage() {
    let (leaf, issuer) = leaf_and_issuer();
    let line = "SHA256(web.mf)= 00";
    let len = pem::certificates(leaf).unwrap()[0].der.as_bytes().len();
    let changed = flipped(leaf, len - 3);
    let text = format!("{line}\n{changed}{issuer}");
    let error = Certificate::parse(text.as_bytes())
        .unwrap()
        .signer()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed);
    let len = pem::certificates(issuer).unwrap()[0].der.as_bytes().len();
    let text = format!("{line}\n{leaf}{}", flipped(issuer, len - 3));
    let error = Certificate::parse(text.as_bytes())
        .unwrap()
        .signer()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed);
}

#[test]
fn a_certificate_signed_in_an_unknown_way_is_warned_of() {
    let signer = signed(RSA_KEY, SIGNED_BY_PSS).unwrap();
    assert_eq!(signer.standing, Standing::Unsupported);
    assert!(signer.warnings[0].contains("cannot be verified"));
}

#[test]
fn keys_for_rsa_pss_only_are_refused_by_name() {
    for (key, certificate) in [
        (PSS_KEY, PSS_CERT),
        (PSS_KEY, pem(RSA_CERT)),
        (RSA_KEY, PSS_CERT),
    ] {
        let error = signed(key, certificate).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("RSA-PSS"), "{error}");
        assert!(error.to_string().contains("P-384"), "{error}");
    }
}

#[test]
fn keys_that_cannot_be_used_say_why() {
    for (key, why) in [
        (include_str!("short.key"), "too short"),
        (include_str!("p521.key"), "curve"),
        (include_str!("k256.key"), "secp256k1"),
        (include_str!("k256_sec1.key"), "curve"),
        (include_str!("ed25519.key"), "Ed25519"),
    ] {
        let error = signed(key, pem(EC_CERT)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        let text = error.to_string();
        assert!(text.contains(why), "{text}");
        assert!(text.contains("ECDSA key on P-256 or P-384"), "{text}");
        assert!(!text.contains("topk8"), "{text}");
    }
    let error = signed(RSA_KEY, include_str!("short.pem")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("too short"), "{error}");
    assert!(error.to_string().contains("512 bits"), "{error}");
    for text in ["", "hello", "-----BEGIN PRIVATE KEY-----\nAAAA\n"] {
        let error = signed(text, pem(EC_CERT)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed, "{text:?}");
    }
}

#[test]
fn a_certificate_is_written_as_pem_whatever_it_came_as() {
    let body: String = pem(RSA_CERT)
        .lines()
        .filter(|l| !l.starts_with("-----"))
        .collect();
    let crlf = format!("Bag Attributes\r\n{}", pem(RSA_CERT).replace('\n', "\r\n"));
    let narrow: String = body.chars().flat_map(|c| [c, '\n']).collect();
    for given in [body, crlf, format!("{BEGIN}\n{narrow}{END}")] {
        let text = sign(&manifest(), "web.mf", Algorithm::Sha256, RSA_KEY, &given).unwrap();
        assert_eq!(text, RSA_CERT);
    }
}

#[test]
fn what_is_longer_than_a_certificate_is_over_the_limit() {
    let mut text = RSA_CERT.as_bytes().to_vec();
    text.resize(MAX_LEN as usize, b'\n');
    assert!(Certificate::parse(&text).is_ok());
    text.push(b'\n');
    let error = Certificate::parse(&text).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit);
}

#[test]
fn certificates_are_warned_of_when_they_are_not_valid() {
    let signer = signed(CHAIN_KEY, CHAIN).unwrap();
    let day = Duration::from_secs(24 * 60 * 60);
    let valid = UNIX_EPOCH + signer.lifetimes[0].not_before.0 + day;
    assert!(signer.warnings_at(valid).is_empty());
    let early = signer.warnings_at(UNIX_EPOCH);
    assert_eq!(early.len(), 2, "{early:?}");
    assert!(early[0].contains("leaf is not valid before"), "{early:?}");
    let late = signer.warnings_at(valid + 36600 * day);
    assert!(late[0].contains("expired"), "{late:?}");
}
