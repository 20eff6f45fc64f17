//! Compressed clusters that are taken as the source has them: only where every program reads them. The frames are made by
//! hand, as no program writes them but the format allows them.

mod common;

use common::damage::images::qcow2::{Builder, Pack};
use common::peers::{have_qemu, qemu_check, qemu_finds_equal};
use common::{Folder, convert, run_ok, s};

/// A block of a Zstandard frame (RFC 8878, 3.1.1.2).
enum Block<'a> {
    Raw(&'a [u8]),
    /// So many of this byte.
    Run(usize, u8),
}

/// Every run of equal bytes in `content`.
fn runs(content: &[u8]) -> Vec<Block<'_>> {
    let runs = content.chunk_by(|a, b| a == b);
    runs.map(|run| Block::Run(run.len(), run[0])).collect()
}

/// A frame with a window of 2^`window_log` bytes, neither of a known length nor with a checksum (RFC 8878, 3.1.1).
fn frame(window_log: u8, blocks: &[Block]) -> Vec<u8> {
    let mut frame = vec![0x28, 0xB5, 0x2F, 0xFD, 0, (window_log - 10) << 3];
    for (index, block) in blocks.iter().enumerate() {
        let last = u32::from(index + 1 == blocks.len());
        let (kind, len, bytes) = match block {
            Block::Raw(bytes) => (0, bytes.len(), *bytes),
            Block::Run(len, byte) => (1, *len, std::slice::from_ref(byte)),
        };
        let head = (len as u32) << 3 | kind << 1 | last;
        frame.extend(&head.to_le_bytes()[..3]);
        frame.extend(bytes);
    }
    frame
}

/// A frame that decoders pass over (RFC 8878, 3.1.2).
fn skippable() -> Vec<u8> {
    let mut frame = 0x184D_2A50u32.to_le_bytes().to_vec();
    frame.extend(10u32.to_le_bytes());
    frame.extend([0x28; 10]);
    frame
}

/// Two frames, half of `content` in each, with these windows.
fn halves(content: &[u8], windows: [u8; 2]) -> [Vec<u8>; 2] {
    let (first, second) = content.split_at(content.len() / 2);
    [
        frame(windows[0], &runs(first)),
        frame(windows[1], &runs(second)),
    ]
}

const CLUSTER: usize = 4096;

fn kinds() -> Vec<(&'static str, Pack)> {
    vec![
        ("a window of 2^17", |content| frame(17, &runs(content))),
        ("a window of 2^27", |content| frame(27, &runs(content))),
        ("a window of 2^28", |content| frame(28, &runs(content))),
        ("a window of 2^31", |content| frame(31, &runs(content))),
        ("small blocks in a small window", |content| {
            frame(10, &runs(content))
        }),
        ("a window smaller than a block", |content| {
            let (first, second) = content.split_at(1500);
            let mut blocks = vec![Block::Raw(first)];
            blocks.extend(runs(second));
            frame(10, &blocks)
        }),
        ("something to skip first", |content| {
            [skippable(), frame(17, &runs(content))].concat()
        }),
        ("something to skip in the middle", |content| {
            let [first, second] = halves(content, [17, 17]);
            [first, skippable(), second].concat()
        }),
        ("something to skip behind", |content| {
            [frame(17, &runs(content)), skippable()].concat()
        }),
        ("two frames", |content| halves(content, [17, 17]).concat()),
        ("a second frame with a window of 2^28", |content| {
            halves(content, [17, 28]).concat()
        }),
        ("an empty frame first", |content| {
            [frame(17, &[Block::Raw(&[])]), frame(17, &runs(content))].concat()
        }),
    ]
}

#[test]
fn frames_that_others_do_not_read_are_packed_anew() {
    if !have_qemu() {
        return;
    }
    for (kind, pack) in kinds() {
        let folder = Folder::new();
        let [source, raw, target] =
            ["source.qcow2", "disk.raw", "new.qcow2"].map(|name| folder.file(name));
        let builder = Builder {
            zstd: true,
            cluster_bits: CLUSTER.ilog2(),
            size: 70 * CLUSTER as u64,
            pack,
            ..Builder::default()
        };
        std::fs::write(&source, builder.build()).expect("write");
        convert(&source, &raw, &[]);
        let content = std::fs::read(&raw).expect("read");
        // What the builder has in its compressed clusters.
        for guest in [4, 5] {
            let expected: Vec<u8> = (0..CLUSTER).map(|i| (i / 9 + guest) as u8).collect();
            assert!(content[guest * CLUSTER..][..CLUSTER] == expected, "{kind}");
        }
        let options = "compression_type=zstd,cluster_size=4k";
        convert(&source, &target, &["-c", "-o", options, "--verify"]);
        qemu_check("qcow2", &target);
        assert!(qemu_finds_equal("qcow2", &target, "raw", &raw), "{kind}");
        let map = run_ok(&["map", s(&target), "--json"]).json();
        let runs = map["runs"].as_array().expect("runs");
        assert!(runs.iter().any(|run| run["type"] == "compressed"), "{kind}");
    }
}
