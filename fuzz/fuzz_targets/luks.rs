//! LUKS headers with their key material, in a qcow2 image that is sound otherwise. The passphrase opens the seed.
#![no_main]

#[path = "../../formats/tests/common/mod.rs"]
mod common;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut image = common::luks::image();
    let start = common::luks::header_at(&image);
    common::patch(&mut image, start, data);
    common::exercise(image, Some(formats::Format::Qcow2), false);
});
