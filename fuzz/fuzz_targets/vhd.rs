//! VHDs. The first byte: bit 0 makes the checksums right, so that what is behind them is reached; bit 1 is salvage.
#![no_main]

#[path = "../../formats/tests/common/mod.rs"]
mod common;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((how, image)) = data.split_first() else {
        return;
    };
    let mut image = image.to_vec();
    if how & 1 != 0 {
        common::vhd::fix_checksums(&mut image);
    }
    common::exercise(image, Some(formats::Format::Vhd), how & 2 != 0);
});
