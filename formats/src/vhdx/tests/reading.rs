//! What images say, and what is wrong with those that cannot be right.

use super::*;

#[test]
fn blocks_are_stored_or_zero() {
    let image = small();
    let layer = layer(&image).unwrap();
    assert_eq!(runs(layer.source.as_ref()), "Z1024 S1024 Z3072 S1024 Z2048");
    assert_eq!(layer.info.subformat, "dynamic");
    assert!(layer.info.warnings.is_empty() && layer.parent.is_none());
    let mut out = vec![0xEE; 2 * MIB as usize];
    read_guest(layer.source.as_ref(), MIB / 2, &mut out).unwrap();
    let (zeros, rest) = out.split_at((MIB / 2) as usize);
    assert!(zeros.iter().all(|byte| *byte == 0));
    assert!(rest[..MIB as usize].iter().all(|byte| *byte == 1));
}

#[test]
fn states_without_a_place_are_zeros() {
    for state in [0, 1, 2, 3, 5] {
        let mut image = small();
        // With an offset, too: nobody looks there.
        for index in 0..8 {
            set_entry(&mut image, index, BatEntry(state | 0xFFFF << 20));
        }
        assert_eq!(runs(layer(&image).unwrap().source.as_ref()), "Z8192");
    }
}

#[test]
fn blocks_in_a_row_are_one_run() {
    let pieces = [Data(2 * MIB, &[3; 3 * MIB as usize])];
    let image = written(8 * MIB, &options(&["block_size=1M"]), &pieces);
    assert_eq!(
        runs(layer(&image).unwrap().source.as_ref()),
        "Z2048 S3072 Z3072"
    );
}

#[test]
fn states_that_do_not_exist_are_malformed() {
    for state in [4, 7] {
        let mut image = small();
        set_entry(&mut image, 3, BatEntry(DATA_AT | state));
        let error = error(&image);
        assert_eq!(error.kind(), ErrorKind::Malformed);
        assert_eq!(error.offset(), Some(BAT_AT as u64 + 24));
    }
}

#[test]
fn blocks_stand_apart_from_everything_else() {
    // Headers, log, metadata, BAT; and another block.
    for place in [0, 1, 2, 3, 4] {
        let mut image = small();
        set_entry(&mut image, 6, BatEntry::fully_present(place << 20));
        assert_eq!(kind(&image), ErrorKind::Malformed, "{place}");
    }
}

#[test]
fn a_block_past_the_end_is_truncated() {
    for place in [6, 7, 1 << 40] {
        let mut image = small();
        set_entry(&mut image, 6, BatEntry::fully_present(place << 20));
        assert_eq!(kind(&image), ErrorKind::Truncated, "{place}");
    }
    let mut image = small();
    image.truncate(image.len() - 512);
    assert_eq!(kind(&image), ErrorKind::Truncated);
}

#[test]
fn what_is_left_of_a_block_is_salvaged() {
    let mut image = small();
    image.truncate(image.len() - 512 * 1024);
    let layer = layer_with(&image, true).unwrap();
    let source = layer.source.as_ref();
    let run = run_at(source, 5 * MIB, MIB).unwrap();
    assert_eq!(run.len, MIB / 2);
    let past = run_at(source, 5 * MIB + MIB / 2, MIB).unwrap_err();
    assert_eq!(past.kind(), ErrorKind::Truncated);
}

#[test]
fn of_the_last_block_only_what_the_guest_sees_must_be_there() {
    let size = 7 * MIB + 512;
    let pieces = [Data(7 * MIB, &[9; 512])];
    let mut image = written(size, &options(&["block_size=1M"]), &pieces);
    image.truncate(DATA_AT as usize + 512);
    assert_eq!(runs(layer(&image).unwrap().source.as_ref()), "Z7168 S0.5");
    image.truncate(DATA_AT as usize + 511);
    assert_eq!(kind(&image), ErrorKind::Truncated);
}

#[test]
fn a_bat_too_short_for_the_disk_is_malformed() {
    let mut image = small();
    change_metadata(&mut image, |metadata| metadata.disk_size = 64 << 40);
    assert_eq!(kind(&image), ErrorKind::Malformed);
}

#[test]
fn regions_outside_of_the_file_or_on_the_log_are_errors() {
    let mut image = small();
    change_regions(&mut image, |table| table.all[1].length = 512 << 20);
    assert_eq!(kind(&image), ErrorKind::Truncated);
    let mut image = small();
    change_headers(&mut image, |header| header.log_offset = 2 << 20);
    assert_eq!(kind(&image), ErrorKind::Malformed);
    let mut image = small();
    change_headers(&mut image, |header| header.log_offset = 500 << 20);
    assert_eq!(kind(&image), ErrorKind::Truncated);
}

#[test]
fn a_damaged_copy_is_told() {
    for at in [HEADERS_AT[0], HEADERS_AT[1], TABLES_AT[0]] {
        let mut image = small();
        image[at as usize + 20] ^= 1;
        assert_eq!(layer(&image).unwrap().info.warnings.len(), 1, "{at}");
    }
    let mut image = small();
    HEADERS_AT.iter().for_each(|at| image[*at as usize] = 0);
    assert_eq!(kind(&image), ErrorKind::Malformed);
}

#[test]
fn a_log_that_is_not_there_is_salvaged_as_empty() {
    let mut image = small();
    change_headers(&mut image, |header| {
        header.log_guid = uuid::Uuid::from_u128(1);
    });
    assert_eq!(kind(&image), ErrorKind::Malformed);
    let layer = layer_with(&image, true).unwrap();
    assert_eq!(layer.info.warnings.len(), 1);
    assert_eq!(runs(layer.source.as_ref()), "Z1024 S1024 Z3072 S1024 Z2048");
}

#[test]
fn garbage_in_bitmap_entries_of_a_disk_without_parent_is_left_alone() {
    // 6 GiB in blocks of 1 MiB: the bitmap of the first chunk of 4096 blocks is in between.
    let pieces = [Data(5 << 30, &[4; 4096])];
    let mut image = written(6 << 30, &options(&["block_size=1M"]), &pieces);
    set_entry(&mut image, 4096, BatEntry(u64::MAX));
    let layer = layer(&image).unwrap();
    assert_eq!(runs(layer.source.as_ref()), "Z5242880 S1024 Z1047552");
    let mut out = [0; 4096];
    read_guest(layer.source.as_ref(), 5 << 30, &mut out).unwrap();
    assert_eq!(out, [4; 4096]);
}

#[test]
fn a_file_that_is_no_vhdx_is_malformed() {
    let mut image = small();
    image[7] = b'f';
    assert_eq!(kind(&image), ErrorKind::Malformed);
    for len in [0, 7, 100, 70_000, 200_000, 300_000, 1 << 20, 3 << 20] {
        assert_eq!(kind(&small()[..len]), ErrorKind::Truncated, "{len}");
    }
}
