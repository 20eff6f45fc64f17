//! XVAs: blocks of disks and their checksums. The first byte: bit 0 leaves the checksums of blocks as they are.
#![no_main]

#[path = "../../formats/tests/common/mod.rs"]
mod common;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Some((how, archive)) = data.split_first() {
        let mut archive = archive.to_vec();
        common::package::seal(&mut archive, how & 1 == 0);
        common::package::look(archive);
    }
});
