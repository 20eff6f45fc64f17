//! qcow2 images. The first byte: bit 1 is salvage.
#![no_main]

#[path = "../../formats/tests/common/mod.rs"]
mod common;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Some((how, image)) = data.split_first() {
        common::exercise(image.to_vec(), Some(formats::Format::Qcow2), how & 2 != 0);
    }
});
