//! Names of parents: the parent locators and the name in the dynamic header of a differencing VHD, whose other parts are
//! sound. The input is the dynamic header from the parent's id to the end (728 bytes), then what the names are made of.
#![no_main]

#[path = "../../formats/tests/common/mod.rs"]
mod common;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let (header, names) = data.split_at(data.len().min(728));
    let mut image = common::vhd::differencing();
    common::patch(&mut image, 552, header);
    let footer = image.split_off(image.len() - 512);
    image.extend(names);
    image.extend(footer);
    common::vhd::fix_checksums(&mut image);
    common::exercise(image, Some(formats::Format::Vhd), false);
});
