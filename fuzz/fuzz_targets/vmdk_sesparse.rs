//! Space-efficient sparse extents. The first byte: bit 1 is salvage.
#![no_main]

#[path = "../../formats/tests/common/mod.rs"]
mod common;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((how, image)) = data.split_first() else {
        return;
    };
    let mut image = image.to_vec();
    common::patch(&mut image, 0, &0xCAFE_BABE_u64.to_le_bytes());
    common::exercise(image, Some(formats::Format::Vmdk), how & 2 != 0);
});
