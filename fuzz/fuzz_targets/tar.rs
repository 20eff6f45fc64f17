//! Archives. The first byte: bit 0 makes the checksums of headers right.
#![no_main]

#[path = "../../formats/tests/common/mod.rs"]
mod common;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Some((how, archive)) = data.split_first() {
        let mut archive = archive.to_vec();
        if how & 1 != 0 {
            common::package::seal(&mut archive, false);
        }
        common::package::look(archive);
    }
});
