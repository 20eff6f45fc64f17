//! VDIs. The first byte: bit 1 is salvage.
#![no_main]

#[path = "../../formats/tests/common/mod.rs"]
mod common;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((how, image)) = data.split_first() else {
        return;
    };
    common::exercise(image.to_vec(), Some(formats::Format::Vdi), how & 2 != 0);
});
