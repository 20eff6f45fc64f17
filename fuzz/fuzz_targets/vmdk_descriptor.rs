//! Descriptors, with an extent of every kind beside them. The first byte: bit 1 is salvage.
#![no_main]

#[path = "../../formats/tests/common/mod.rs"]
mod common;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((how, image)) = data.split_first() else {
        return;
    };
    // So that every input is taken for one.
    let image = [b"version=1\n", image].concat();
    common::exercise(image, Some(formats::Format::Vmdk), how & 2 != 0);
});
