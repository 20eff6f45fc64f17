//! Compressed units. The first byte: bits 0 and 1 are the codec, the others the size of the unit.
#![no_main]

use formats::Codec;
use formats::codec::{UnpackError, Unpacker};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((how, packed)) = data.split_first() else {
        return;
    };
    let codec = [Codec::Deflate, Codec::Zlib, Codec::Zstd, Codec::Zstd][usize::from(how & 3)];
    let mut unit = vec![0; 512 << (how >> 2) % 13];
    match Unpacker::new().unpack(codec, packed, &mut unit) {
        Err(UnpackError::TooLittle(made)) => assert!(made < unit.len()),
        Err(_) => {}
        // What a unit yields depends on nothing that was there before.
        Ok(()) => {
            let mut again = vec![0xEE; unit.len()];
            assert_eq!(Unpacker::new().unpack(codec, packed, &mut again), Ok(()));
            assert!(unit == again);
        }
    }
});
