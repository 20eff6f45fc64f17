//! VHDXs that were made byte by byte: other programs read in them what diskferry does, and QEMU's repair of a copy makes
//! of a log what diskferry makes of it in memory.

mod common;

use std::fs;
use std::process::Command;

use common::damage::images::vhdx::log::{Change, Entry, SECTOR, sample};
use common::damage::images::vhdx::{Block, DATA_WRITE, DISK_ID, LOG, MIB, Vhdx, ZERO};
use common::damage::snapshot;
use common::peers::{diskferry_content, qemu_content, qemu_img};
use common::{Folder, folder_of, have, s};

const MB: u64 = MIB as u64;

#[test]
fn qemu_reads_what_was_put_in() {
    if !have("qemu-img") {
        return;
    }
    for block_size in [MIB, 2 * MIB, 32 * MIB] {
        let blocks = [(0, Block::Full), (1, Block::State(ZERO)), (3, Block::Full)];
        let image = Vhdx {
            block_size: block_size as u32,
            ..Vhdx::new(4 * block_size as u64 - 1536, &blocks)
        };
        let folder = folder_of(&[("a.vhdx", image.build().bytes())]);
        let file = folder.file("a.vhdx");
        let content = diskferry_content(&file, &folder);
        assert!(content == qemu_content(&file, "vhdx", &folder));
        assert!(content.starts_with(&image.pages(0)[0].1));
    }
}

/// The image's log is replayed by both; the source stays as it is.
fn replayed_alike(image: &Vhdx, what: &str) {
    let folder = folder_of(&[("a.vhdx", image.build().bytes())]);
    let file = folder.file("a.vhdx");
    let before = snapshot(folder.path());
    let content = diskferry_content(&file, &folder);
    assert!(snapshot(folder.path()) == before, "{what}");
    let repaired = Folder::new();
    let copy = repaired.file("copy.vhdx");
    fs::copy(&file, &copy).expect("copy");
    let (code, text) = qemu_img(&["check", "-r", "all", "-f", "vhdx", s(&copy)]);
    assert_eq!(code, Some(0), "{what}: {text}");
    assert!(fs::read(&copy).expect("read") != fs::read(&file).expect("read"));
    assert!(content == qemu_content(&copy, "vhdx", &folder), "{what}");
    assert!(
        content == diskferry_content(&copy, &folder),
        "{what}, repaired"
    );
}

#[test]
fn a_log_replayed_in_memory_is_what_qemu_makes_of_a_copy() {
    if !have("qemu-img") {
        return;
    }
    replayed_alike(&sample(), "BAT, data and zeros");
    let image = Vhdx::new(4 * MB, &[(0, Block::Full), (1, Block::Full)]);
    let (data, len) = (image.data_at() as u64, image.data_at() + 2 * MIB);
    let page = |byte: u8| (0..SECTOR).map(|i| byte ^ (i % 251) as u8).collect();
    let start = image.log_len - 2 * SECTOR;
    let first = Entry::new(
        9,
        start,
        len,
        (0..3u8)
            .map(|n| Change::Data(data + u64::from(n) * 8192, page(n)))
            .collect(),
    );
    // One entry only: of a sequence that wraps between two, QEMU replays the second alone, whatever its tail says.
    let log = vec![(start, first.bytes())];
    replayed_alike(&image.clone().logged(log), "wrapped");
    // With a descriptor more the first sector of the entry is full, and QEMU opens the image no longer.
    let many = (0..126u64).map(|n| Change::Data(data + n * 4096, page(n as u8)));
    let entry = Entry::new(3, 0, len, many.collect());
    let image = image.logged(vec![(0, entry.bytes())]);
    assert_eq!(image.build().log.start, LOG);
    replayed_alike(&image, "many descriptors");
}

/// 7-Zip finds the parents itself, and reads partial blocks sector by sector.
#[test]
fn seven_zip_reads_the_same_in_a_chain() {
    if !have("7zz") {
        return;
    }
    for sector in [512, 4096] {
        let image = |blocks: &[(u64, Block)], seed, data_write| Vhdx {
            sector,
            seed,
            data_write,
            ..Vhdx::new(4 * MB, blocks)
        };
        let all: Vec<_> = (0..4).map(|index| (index, Block::Full)).collect();
        let base = image(&all, 1, DATA_WRITE);
        let last = MB / u64::from(sector) - 1;
        let partial = [
            (0, Block::Partial(vec![(0, 1), (3, 5), (last, 1)])),
            (1, Block::State(ZERO)),
            (3, Block::Partial(vec![(last / 2, 2)])),
        ];
        let middle = image(&partial, 2, DISK_ID).over("base.vhdx", DATA_WRITE);
        let partial = [(0, Block::Partial(vec![(1, 1), (4, 1)])), (2, Block::Full)];
        let id = "66666666-0000-4000-8000-000000000006";
        let tip = image(&partial, 3, id).over("middle.avhdx", DISK_ID);
        let folder = folder_of(&[
            ("base.vhdx", base.build().bytes()),
            ("middle.avhdx", middle.build().bytes()),
            ("tip.avhdx", tip.build().bytes()),
        ]);
        let file = folder.file("tip.avhdx");
        let output = Command::new("7zz")
            .args(["e", "-so", "-bd", "-tVHDX", s(&file)])
            .output()
            .expect("7zz");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{told}");
        assert!(
            diskferry_content(&file, &folder) == output.stdout,
            "{sector}"
        );
    }
}
