//! Certificates of packages, with which a manifest is verified.
#![no_main]

use machines::certificate::Certificate;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let verified = Certificate::parse(data).and_then(|certificate| {
        let _ = certificate.signer();
        certificate.verify(b"SHA1(a.ovf)= da39a3ee5e6b4b0d3255bfef95601890afd80709\n")
    });
    if let Err(error) = verified {
        assert!(!error.to_string().is_empty());
    }
});
