//! Files of any kind, opened as what they look like. The first byte: bit 1 is salvage.
#![no_main]

#[path = "../../formats/tests/common/mod.rs"]
mod common;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Some((how, image)) = data.split_first() {
        common::exercise(image.to_vec(), None, how & 2 != 0);
    }
});
