use super::*;
use crate::ErrorKind;
use crate::source::Mapping;
use crate::target::BlockTarget;

fn target(size: u64, options: &[&str]) -> Result<Box<dyn BlockTarget>> {
    let driver = driver(Format::Qcow2);
    let pairs: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
    driver.target(size, &Options::new(driver.options(), &pairs)?, "a".as_ref())
}

#[test]
fn what_is_written_is_read_back_at_every_cluster_size() {
    for bits in 9..=21 {
        let cluster_size = 1u64 << bits;
        let size = (3 << 20) + 512;
        let (a, b, c) = (noise(300_000, 1), noise(700, 2), noise(512, 3));
        let blocks: [(u64, &[u8]); 3] = [(4096, &a), (1 << 20, &b), (size - 512, &c)];
        let sample = Sample::new(size, cluster_size, &blocks);
        let mut expected = vec![0; size as usize];
        for (offset, bytes) in blocks {
            expected[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        assert!(sample.read().unwrap() == expected, "{cluster_size}");
    }
}

#[test]
fn a_cluster_placed_in_parts_is_allocated_once() {
    let mut target = target(1 << 20, &[]).unwrap();
    let first = target.place(512, 512).unwrap();
    let cluster = first.offset - 512;
    assert_eq!(cluster % 65536, 0);
    let second = target.place(4096, 1000).unwrap();
    assert_eq!(second.offset, cluster + 4096);
    // And a run that starts in it goes on into the next.
    let third = target.place(65536 - 512, 1024).unwrap();
    assert_eq!((third.offset, third.len), (cluster + 65536 - 512, 1024));
}

#[test]
fn a_placement_ends_where_the_l2_table_does() {
    let mut target = target(1 << 20, &["cluster_size=512"]).unwrap();
    let placed = target.place(0, 1 << 20).unwrap();
    assert_eq!(placed.len, 64 * 512);
    assert!(target.take_tables().is_empty());
    let next = target.place(placed.len, 512).unwrap();
    // The next table's cluster lies between.
    assert_eq!(next.offset, placed.offset + placed.len + 512);
    let tables = target.take_tables();
    assert_eq!(tables.len(), 1);
    assert_eq!(tables[0].bytes.len(), 512);
}

#[test]
fn sizes_are_rounded_up_to_sectors() {
    for (size, expected) in [(0, 0), (1, 512), (512, 512), (1_000_000_513, 1_000_001_024)] {
        assert_eq!(target(size, &[]).unwrap().size(), expected);
    }
}

#[test]
fn an_empty_disk_is_small_whatever_its_size() {
    let sample = Sample::new(64 << 40, 65536, &[]);
    assert!(sample.bytes.len() < 2 << 20);
    let image = sample.open().unwrap();
    let run = image.source.map(0, 64 << 40).unwrap();
    assert_eq!(run.len, 64 << 40);
    assert!(matches!(run.mapping, Mapping::Absent));
    assert!(Sample::new(0, 65536, &[]).read().unwrap().is_empty());
}

#[test]
fn a_disk_that_the_tables_cannot_hold_is_refused_before_writing() {
    for (size, options) in [
        (u64::MAX, &[][..]),
        (u64::MAX - 1000, &["cluster_size=2M"]),
        ((2 << 50) + 1, &[]),
        (1 << 40, &["cluster_size=512"]),
    ] {
        let error = target(size, options).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Limit, "{size}");
    }
    assert!(target(1 << 50, &[]).is_ok());
    assert!(target(100 << 30, &["cluster_size=512"]).is_ok());
}

#[test]
fn impossible_cluster_sizes_are_refused() {
    for bad in ["0", "256", "1000", "4M", "big"] {
        let option = format!("cluster_size={bad}");
        let error = target(1 << 20, &[&option]).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Usage, "{bad}");
    }
}

#[test]
fn blocks_out_of_order_or_outside_are_refused() {
    let mut target = target(1 << 20, &["cluster_size=512"]).unwrap();
    target.place(0, 512).unwrap();
    target.place(512 << 10, 512).unwrap();
    assert!(target.place(1024, 512).is_err());
    assert!(target.place(1 << 20, 1).is_err());
    assert!(target.place(u64::MAX, 2).is_err());
}

#[test]
fn every_cluster_is_counted_once() {
    let sample = Sample::new(10 << 20, 512, &[(0, &noise(5 << 20, 7))]);
    let clusters = sample.bytes.len() as u64 / 512;
    let table = sample.be64(48);
    for cluster in 0..clusters.next_multiple_of(256) {
        let block = sample.be64(table + cluster / 256 * 8);
        let at = (block + cluster % 256 * 2) as usize;
        let expected = u8::from(cluster < clusters);
        assert_eq!(sample.bytes[at..at + 2], [0, expected], "{cluster}");
    }
}
