//! What is written is what every reader expects.

use super::*;

#[test]
fn what_was_written_is_read_back() {
    let half: Vec<u8> = (0..BLOCK as usize / 2).map(|i| i as u8 | 1).collect();
    let parts: &[(u64, &[u8])] = &[
        (512, &[1; 512]),
        (BLOCK - 512, &half),
        (3 * BLOCK, &[2; 100]),
    ];
    for pairs in [&["block_size=64k"][..], &[], &["subformat=fixed"]] {
        let size = 4 * BLOCK - 512;
        let mut expected = vec![0; size as usize];
        for (offset, bytes) in parts {
            let at = *offset as usize;
            expected[at..at + bytes.len()].copy_from_slice(bytes);
        }
        let image = opened(&written(size, pairs, parts), false).unwrap();
        assert!(content(&image) == expected, "{pairs:?}");
        assert_eq!(warnings(&image), 0, "{:?}", image.layers[0].info.warnings);
        assert_eq!(
            image.layers[0].info.identity,
            Some(ImageId::Uuid(Uuid::from_bytes(IDENTITY.id)))
        );
    }
}

#[test]
fn data_of_every_block_starts_on_a_page() {
    for block_size in ["64k", "128k", "256k", "512k", "1M", "2M"] {
        let option = format!("block_size={block_size}");
        let mut target = target(64 * MIB, &[&option]).unwrap();
        let block = target.block_size();
        for index in [0, 3, 4] {
            let placed = target.place(index * block + 512, u64::MAX).unwrap();
            assert_eq!(placed.offset % 4096, 512);
            assert_eq!(placed.len, block - 512);
            let tables = target.take_tables();
            assert_eq!(tables.len(), 1);
            assert_eq!(tables[0].offset + 4096 + 512, placed.offset);
            let set: u32 = tables[0].bytes.iter().map(|b| b.count_ones()).sum();
            assert_eq!(u64::from(set), block / 512);
            assert!(tables[0].bytes[..3584].iter().all(|b| *b == 0));
            let again = target.place(index * block + 1024, 512).unwrap();
            assert_eq!(again.offset, placed.offset + 512);
            assert!(target.take_tables().is_empty());
        }
        assert!(target.place(64 * MIB, 512).is_err());
    }
}

#[test]
fn blocks_and_end_footer_stand_where_they_must() {
    let bytes = small(&[(0, &[1; 512]), (3 * BLOCK, &[1; 512])]);
    assert_eq!(bytes.len() as u64, 4096 + 2 * (4096 + BLOCK) + 512);
    let empty = small(&[]);
    assert_eq!(empty.len(), 2048 + 512);
    assert_eq!(empty[..512], empty[2048..]);
    // Sixteen bytes of entries, then padding.
    assert!(empty[1536..2048].iter().all(|b| *b == 0xFF));
}

#[test]
fn sizes_are_rounded_up_to_sectors() {
    assert_eq!(target(1, &[]).unwrap().size(), 512);
    assert_eq!(target(10 * MIB + 1, &[]).unwrap().size(), 10 * MIB + 512);
    let fixed = target(10 * MIB, &["subformat=fixed"]).unwrap();
    assert!(fixed.is_sequential());
    assert_eq!(fixed.exact_length(), Some(10 * MIB + 512));
}

#[test]
fn what_the_format_cannot_hold_is_refused_before_writing() {
    let kind = |size, pairs: &[&str]| target(size, pairs).err().expect("an error").kind();
    target(2040 << 30, &[]).unwrap();
    target(2040 << 30, &["subformat=fixed"]).unwrap();
    target(2040 << 30, &["block_size=1M"]).unwrap();
    assert_eq!(kind((2040 << 30) + 1, &[]), ErrorKind::Limit);
    assert_eq!(kind(u64::MAX, &["subformat=fixed"]), ErrorKind::Limit);
    assert_eq!(kind(2040 << 30, &["block_size=128k"]), ErrorKind::Limit);
    assert_eq!(kind(1024 << 30, &["block_size=64k"]), ErrorKind::Limit);
    assert_eq!(kind(0, &[]), ErrorKind::Unsupported);
    for block_size in ["32k", "4M", "96k", "0", "x"] {
        let option = format!("block_size={block_size}");
        assert_eq!(kind(MIB, &[&option]), ErrorKind::Usage, "{block_size}");
    }
    assert_eq!(
        kind(MIB, &["subformat=fixed", "block_size=2M"]),
        ErrorKind::Usage
    );
}
