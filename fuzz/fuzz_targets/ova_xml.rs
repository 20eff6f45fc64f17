//! Descriptions of XVAs. What is read is written again in every way, and that must be read.
#![no_main]

#[path = "../../machines/tests/common/mod.rs"]
mod common;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    match machines::xva::read(data) {
        Ok(appliance) => appliance
            .package
            .machines
            .iter()
            .for_each(common::rewrite::write_all),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
