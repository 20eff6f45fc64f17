//! What is written.

use super::*;

fn parsed_header(image: &[u8], index: usize) -> Header {
    let at = HEADERS_AT[index];
    Header::parse(image[at as usize..][..HEADER_LEN].try_into().unwrap(), at).unwrap()
}

#[test]
fn both_headers_and_region_tables_are_there() {
    let image = small();
    let [first, second] = [0, 1].map(|index| parsed_header(&image, index));
    assert_eq!((first.sequence_number, second.sequence_number), (1, 2));
    assert!(first.log_guid.is_nil() && first.log_length == 1 << 20);
    assert_ne!(first.file_write_guid, first.data_write_guid);
    let storage = MemoryStorage::new(image);
    let tables = [0, 1].map(|index| RegionTable::read_copy(&storage, index).unwrap());
    assert_eq!(tables[0], tables[1]);
    assert!(tables[0].all.iter().all(|region| region.is_required));
    let creator = file_identifier::creator(&storage).unwrap().unwrap();
    assert!(creator.starts_with("diskferry "));
}

#[test]
fn holes_are_zero_entries_without_a_place() {
    let image = small();
    assert_eq!([entry(&image, 0), entry(&image, 4)], [2, 2]);
    assert_eq!(entry(&image, 1), DATA_AT | 6);
    assert_eq!(entry(&image, 5), (DATA_AT + MIB) | 6);
    assert_eq!(entry(&image, 8), 0);
}

#[test]
fn the_bat_has_room_for_the_bitmaps_of_a_child() {
    let size = 64 << 40;
    let image = NewImage::new(size, &options(&["block_size=256M"])).unwrap();
    assert!(image.data_at() - BAT_AT as u64 >= image.layout.entries_with_bitmaps() * ENTRY);
    let plain = written(MIB, &options(&[]), &[]);
    assert_eq!(plain.len() as u64, DATA_AT);
}

#[test]
fn a_fixed_disk_has_all_its_blocks_in_a_row() {
    let fixed = options(&["subformat=fixed", "block_size=1M"]);
    let image = written(3 * MIB + 512, &fixed, &[Data(MIB, &[1; 512])]);
    assert_eq!(image.len() as u64, DATA_AT + 4 * MIB);
    for block in 0..4 {
        assert_eq!(entry(&image, block), (DATA_AT + block * MIB) | 6);
    }
    let layer = layer(&image).unwrap();
    assert_eq!(layer.info.subformat, "fixed");
    assert_eq!(runs(layer.source.as_ref()), "S3072.5");
    assert!(metadata(&image).leaves_blocks_allocated);
}

#[test]
fn blocks_past_the_first_chunk_are_found_again() {
    let at = [0, (4 << 30) - 4096, 4 << 30, 9 << 30, (16 << 30) - 4096];
    for block_size in ["block_size=1M", "block_size=2M", "block_size=4M"] {
        let content: Vec<[u8; 4096]> = (1..6).map(|n| [n; 4096]).collect();
        let pieces: Vec<_> = at
            .iter()
            .zip(&content)
            .map(|(at, c)| Data(*at, c))
            .collect();
        let image = written(16 << 30, &options(&[block_size]), &pieces);
        let layer = layer(&image).unwrap();
        for (at, expected) in at.iter().zip(&content) {
            let mut out = [0; 4096];
            read_guest(layer.source.as_ref(), *at, &mut out).unwrap();
            assert_eq!(out, *expected, "{block_size} {at}");
        }
    }
}

#[test]
fn sectors_of_4096_bytes_make_larger_chunks() {
    let with = options(&["logical_sector_size=4096", "block_size=1M"]);
    let pieces = [Data((33 << 30) + 4096, &[7; 4096])];
    let image = written(40 << 30, &with, &pieces);
    let layer = layer(&image).unwrap();
    assert_eq!(layer.source.sector_size(), 4096);
    let mut out = [0; 4096];
    read_guest(layer.source.as_ref(), (33 << 30) + 4096, &mut out).unwrap();
    assert_eq!(out, [7; 4096]);
    // Behind the bitmap of the first chunk of 32768 blocks.
    assert_eq!(entry(&image, 33 * 1024 + 1), DATA_AT | 6);
}

#[test]
fn ids_come_from_the_identity_alone() {
    let ids = |identity: &Identity| {
        let target = target(MIB, &options(&[])).unwrap();
        target.head(identity).unwrap().unwrap()
    };
    let other = Identity {
        id: [1; 16],
        ..IDENTITY
    };
    assert_eq!(ids(&IDENTITY), ids(&IDENTITY));
    assert_ne!(ids(&IDENTITY), ids(&other));
}

#[test]
fn nothing_is_placed_past_the_end_of_the_disk() {
    for pairs in [&[][..], &["subformat=fixed"]] {
        let mut target = target(MIB, &options(pairs)).unwrap();
        for (offset, len) in [(MIB, 1), (MIB - 1, 2), (u64::MAX, 1), (0, 0)] {
            let error = target.place(offset, len).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Limit);
        }
    }
}

#[test]
fn what_was_said_behind_its_turn_is_an_error() {
    let mut target = target(1 << 40, &options(&["block_size=1M"])).unwrap();
    target.place(0, 512).unwrap();
    target.place(1 << 39, 512).unwrap();
    let error = target.place(MIB, 512).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed);
}
