//! Manifests. What is read is written again, and read as the same.
#![no_main]

use machines::manifest::Manifest;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    match Manifest::parse(data) {
        Ok(manifest) => {
            let again = Manifest::parse(manifest.to_text().as_bytes()).expect("a manifest");
            assert_eq!(again.entries, manifest.entries);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
