//! Damaged and hostile VHDs: exit code 3, the place of the damage, no target, no litter, the source untouched.

mod common;

use common::damage::images::vhd::{BLOCK, TABLE, child, dynamic, fix_checksums, fixed};
use common::damage::images::{be32, patch};
use common::damage::{Damaged, fails, place};
use common::{Folder, convert, make_disk, run_ok, s, testdata};

/// A VHD that diskferry itself made, of a disk of 4 MiB in blocks of 64 KiB.
fn made(options: &str) -> Vec<u8> {
    let folder = Folder::new();
    let (raw, vhd) = (folder.file("disk.raw"), folder.file("disk.vhd"));
    make_disk(&raw, 4 << 20);
    convert(&raw, &vhd, &["-o", options]);
    std::fs::read(&vhd).expect("read the VHD")
}

/// A dynamic VHD with `bytes` at `at` and its checksums right.
fn changed(at: usize, bytes: &[u8]) -> Damaged {
    let mut image = dynamic();
    patch(&mut image, at, bytes);
    if at < 512 {
        let end = image.len() - 512;
        patch(&mut image, end + at, bytes);
    }
    fix_checksums(&mut image);
    Damaged::new("bad.vhd", &image)
}

#[test]
fn the_undamaged_ones_are_read() {
    for image in [dynamic(), fixed(), made("block_size=64k")] {
        let whole = Damaged::new("good.vhd", &image);
        run_ok(&["digest", s(&whole.path)]);
    }
}

#[test]
fn a_dynamic_disk_cut_anywhere_is_truncated() {
    let image = made("block_size=64k");
    let bitmap = be32(&image, TABLE) as usize * 512;
    for len in [
        image.len() * 6 / 10,
        512 + 300,
        TABLE + 100,
        bitmap + 100,
        bitmap + 512 + 1000,
        image.len() - 512,
        image.len() - 256,
    ] {
        let cut = Damaged::new("cut.vhd", &image[..len]);
        let error = cut.is("truncated");
        assert!(
            error["message"].as_str().unwrap().contains("cut off"),
            "{error}"
        );
    }
    // Of the copy of the footer half is left: not even that says what it was.
    Damaged::new("cut.vhd", &image[..256]).is("malformed");
}

#[test]
fn a_vhd_of_other_software_cut_at_60_percent_is_truncated() {
    let image = std::fs::read(testdata("small.vhd")).expect("testdata");
    Damaged::new("cut.vhd", &image[..image.len() * 6 / 10]).is("truncated");
}

#[test]
fn a_fixed_disk_that_lost_its_end_is_not_taken_for_raw() {
    let image = made("subformat=fixed");
    for len in [image.len() * 6 / 10, image.len() - 512, image.len() - 100] {
        let cut = Damaged::new("cut.vhd", &image[..len]);
        cut.is("malformed");
        assert_eq!(
            cut.is_when(&["-f", "vhd"], "malformed")["structure"],
            "footer"
        );
    }
}

#[test]
fn a_fixed_disk_that_lost_its_beginning_is_truncated() {
    let image = made("subformat=fixed");
    Damaged::new("cut.vhd", &image[4096..]).is("truncated");
}

#[test]
fn damaged_checksums_are_malformed() {
    let mut image = dynamic();
    let end = image.len() - 512;
    for footer in [0, end] {
        image[footer + 100] ^= 1;
    }
    let error = Damaged::new("bad.vhd", &image).is("malformed");
    assert_eq!(place(&error), ("footer", end as u64));
    assert!(error["found"].is_string() && error["expected"].is_string());

    let mut image = dynamic();
    image[512 + 700] ^= 1;
    let error = Damaged::new("bad.vhd", &image).is("malformed");
    assert_eq!(place(&error), ("dynamic header", 512));

    let mut image = fixed();
    *image.last_mut().unwrap() ^= 1;
    let error = Damaged::new("bad.vhd", &image).is_when(&["-f", "vhd"], "malformed");
    assert_eq!(place(&error), ("footer", 8192));
}

#[test]
fn a_block_past_the_end_is_truncated() {
    let sectors = dynamic().len() as u32 / 512;
    for entry in [sectors, sectors - 2, 0x7FFF_FFFF, 0xFFFF_FFFE] {
        let error = changed(TABLE + 12, &entry.to_be_bytes()).is("truncated");
        assert_eq!(place(&error), ("BAT", TABLE as u64 + 12), "{entry}");
    }
}

#[test]
fn a_block_in_the_headers_or_the_bat_is_malformed() {
    for entry in [0u32, 1, 2, 3] {
        let error = changed(TABLE + 12, &entry.to_be_bytes()).is("malformed");
        assert_eq!(place(&error), ("BAT", TABLE as u64 + 12), "{entry}");
    }
}

#[test]
fn two_blocks_in_one_place_are_malformed() {
    let first = be32(&dynamic(), TABLE);
    for entry in [first, first + 1, first + BLOCK as u32 / 512, first - 1] {
        let error = changed(TABLE + 12, &entry.to_be_bytes()).is("malformed");
        assert_eq!(error["structure"], "BAT", "{entry}");
    }
}

#[test]
fn a_bat_that_cannot_be_is_an_error() {
    let header = 512;
    // More entries than the file has bytes.
    changed(header + 28, &u32::MAX.to_be_bytes()).is("truncated");
    changed(header + 28, &0x0100_0000u32.to_be_bytes()).is("truncated");
    // Fewer than the disk has blocks.
    changed(header + 28, &9u32.to_be_bytes()).is("malformed");
    changed(header + 28, &0u32.to_be_bytes()).is("malformed");
    // Elsewhere.
    changed(header + 16, &(1u64 << 40).to_be_bytes()).is("truncated");
    changed(header + 16, &(u64::MAX - 511).to_be_bytes()).is("truncated");
    changed(header + 16, &512u64.to_be_bytes()).is("malformed");
    changed(header + 16, &0u64.to_be_bytes()).is("malformed");
    changed(header + 16, &1537u64.to_be_bytes()).is("malformed");
}

#[test]
fn impossible_block_sizes_are_malformed() {
    for size in [0u32, 1, 256, 3 << 12, 1 << 29, u32::MAX] {
        let error = changed(512 + 32, &size.to_be_bytes()).is("malformed");
        assert_eq!(place(&error), ("dynamic header", 512), "{size}");
    }
}

#[test]
fn impossible_sizes_of_the_disk_are_errors() {
    for size in [1u64 << 63, u64::MAX, u64::MAX - 511, (2040 << 30) + 512] {
        changed(48, &size.to_be_bytes()).is("limit");
    }
    changed(48, &(BLOCK as u64 * 9 + 1).to_be_bytes()).is("malformed");
    // A legal size for which the BAT is too short.
    changed(48, &(2040u64 << 30).to_be_bytes()).is("malformed");
}

#[test]
fn a_header_in_an_impossible_place_is_an_error() {
    changed(16, &0u64.to_be_bytes()).is("malformed");
    changed(16, &1000u64.to_be_bytes()).is("malformed");
    changed(16, &u64::MAX.to_be_bytes()).is("malformed");
    changed(16, &(1u64 << 50).to_be_bytes()).is("truncated");
    changed(16, &(TABLE as u64).to_be_bytes()).is("malformed");
}

#[test]
fn other_types_and_versions_are_errors() {
    for retired in [1u32, 5, 6] {
        changed(60, &retired.to_be_bytes()).is("unsupported");
    }
    for unknown in [0u32, 7, u32::MAX] {
        changed(60, &unknown.to_be_bytes()).is("malformed");
    }
    changed(12, &0x0002_0000u32.to_be_bytes()).is("unsupported");
    changed(512 + 24, &0x0002_0000u32.to_be_bytes()).is("unsupported");
}

#[test]
fn a_poisoned_disk_is_refused_by_name() {
    let mut image = dynamic();
    let end = image.len() - 512;
    patch(&mut image, end, b"v_poison");
    let poisoned = Damaged::new("bad.vhd", &image);
    let error = fails(&poisoned.path, &[], 5, "refused");
    assert!(error["message"].as_str().unwrap().contains("v_poison"));
}

#[test]
fn a_child_that_names_no_parent_is_malformed() {
    let mut image = child([7; 16], "base.vhd");
    image[512 + 64..512 + 768].fill(0);
    fix_checksums(&mut image);
    Damaged::new("bad.vhd", &image).is("malformed");
}

#[test]
fn a_disk_too_large_for_a_vhd_is_refused_before_writing() {
    let folder = Folder::new();
    let raw = folder.file("huge.raw");
    let file = std::fs::File::create(&raw).expect("create");
    file.set_len(2041 << 30).expect("a sparse file of 2041 GiB");
    let target = folder.file("new.vhd");
    for options in [&[][..], &["-o", "subformat=fixed"]] {
        common::damage::fails_to(&raw, &target, options, 3, "limit");
    }
    // The last size that fits, and one byte more.
    file.set_len((2040 << 30) + 1).expect("its length");
    common::damage::fails_to(&raw, &target, &[], 3, "limit");
    file.set_len(2040 << 30).expect("its length");
    convert(&raw, &target, &[]);
}
