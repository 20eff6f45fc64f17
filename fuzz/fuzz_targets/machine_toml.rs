//! Machines in TOML. What is read is written again in every way, and that must be read.
#![no_main]

#[path = "../../machines/tests/common/mod.rs"]
mod common;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    match machines::toml_file::read(data) {
        Ok(machine) => common::rewrite::write_all(&machine),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
