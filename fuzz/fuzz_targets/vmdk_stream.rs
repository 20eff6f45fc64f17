//! Compressed extents: grains, tables in front and behind, the footer. The first byte: bit 0 takes the markers away, bit 1
//! is salvage.
#![no_main]

#[path = "../../formats/tests/common/mod.rs"]
mod common;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((how, image)) = data.split_first() else {
        return;
    };
    let mut image = image.to_vec();
    common::patch(&mut image, 0, b"KDMV");
    // Flags in the upper half, and the algorithm.
    common::patch(&mut image, 10, &[3 ^ (how & 1) << 1, 0]);
    common::patch(&mut image, 77, &[1, 0]);
    common::exercise(image, Some(formats::Format::Vmdk), how & 2 != 0);
});
