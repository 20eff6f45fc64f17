//! Differencing VHDXs over their parents.

mod common;

use std::path::Path;

use common::vhdx::seen::assert_content;
use common::vhdx::{
    Block, Content, DATA_WRITE, DISK_ID, MIB, UNDEFINED, UNMAPPED, Vhdx, ZERO, braced,
};
use common::written::SparseFile;
use formats::{Image, OpenContext, Result};

const MB: u64 = MIB as u64;

/// A folder with these images.
fn folder(images: &[(&str, &Vhdx)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, image) in images {
        write(&folder.path().join(name), &image.build().file());
    }
    folder
}

/// Writes the parts of a file that are not zeros.
fn write(path: &Path, file: &SparseFile) {
    use formats::Storage;
    use std::os::unix::fs::FileExt;
    let out = std::fs::File::create(path).expect("create");
    out.set_len(file.len()).expect("its length");
    let mut at = 0;
    while at < file.len() {
        let (len, is_data) = file.extent(at, file.len() - at).expect("an extent");
        if is_data {
            let mut bytes = vec![0; len.min(file.len() - at) as usize];
            file.read_at(&mut bytes, at).expect("read");
            out.write_all_at(&bytes, at).expect("write");
        }
        at += len;
    }
}

fn open_in(folder: &tempfile::TempDir, name: &str) -> Result<Image> {
    formats::open(&folder.path().join(name), None, &OpenContext::default())
}

const MIDDLE_ID: &str = "55555555-0000-4000-8000-000000000005";
const TIP_ID: &str = "66666666-0000-4000-8000-000000000006";

/// A base, a middle and a tip of 4 GiB and more, with blocks of every state in both chunks.
fn chain(sector: u32, block_size: u64) -> [Vhdx; 3] {
    let per_block = block_size / u64::from(sector);
    let image = |size: u64, seed, data_write, blocks: &[(u64, Block)]| Vhdx {
        sector,
        block_size: block_size as u32,
        seed,
        data_write,
        ..Vhdx::new(size, blocks)
    };
    let chunk = (1 << 23) * u64::from(sector) / block_size;
    let size = (chunk + 4) * block_size;
    let everywhere: Vec<_> = [0, 1, 2, 3, 4, 5, chunk, chunk + 1, chunk + 2]
        .map(|index| (index, Block::Full))
        .to_vec();
    let base = image(size, 1, DATA_WRITE, &everywhere);
    let partial = [
        (0, Block::Partial(vec![(0, 1), (3, 2), (per_block - 1, 1)])),
        (1, Block::State(ZERO)),
        (2, Block::Full),
        (3, Block::Partial(vec![(per_block / 2 - 1, 2)])),
        (4, Block::State(UNMAPPED)),
        (chunk, Block::Partial(vec![(1, 7)])),
        (chunk + 3, Block::Partial(vec![(0, per_block)])),
    ];
    let middle = image(size, 2, MIDDLE_ID, &partial).over("base.vhdx", DATA_WRITE);
    let partial = [
        (0, Block::Partial(vec![(1, 1), (per_block / 2, 1)])),
        (1, Block::Partial(vec![(0, 2)])),
        (5, Block::State(UNDEFINED)),
        (chunk + 1, Block::Partial(vec![(per_block - 1, 1)])),
    ];
    let tip = image(size, 3, TIP_ID, &partial).over("middle.avhdx", MIDDLE_ID);
    [base, middle, tip]
}

fn content_of(chain: &[Vhdx]) -> Content {
    let bottom = Content::default();
    chain
        .iter()
        .fold(bottom, |below, image| image.content(&below))
}

#[test]
fn a_chain_of_three_is_read_sector_by_sector() {
    for (sector, block_size) in [(512, 2 * MB), (512, 32 * MB), (4096, 32 * MB)] {
        let chain = chain(sector, block_size);
        let folder = folder(&[
            ("base.vhdx", &chain[0]),
            ("middle.avhdx", &chain[1]),
            ("tip.avhdx", &chain[2]),
        ]);
        let what = format!("{sector} {block_size}");
        for (name, layers) in [("base.vhdx", 1), ("middle.avhdx", 2), ("tip.avhdx", 3)] {
            let image = open_in(&folder, name).expect("open");
            assert_eq!(image.layers.len(), layers);
            let content = content_of(&chain[..layers]);
            assert_content(image.source.as_ref(), &content, &format!("{what} {name}"));
        }
    }
}

#[test]
fn either_linkage_will_do() {
    let base = Vhdx::new(2 * MB, &[(0, Block::Full), (1, Block::Full)]);
    for (linkages, fits) in [
        ([TIP_ID, DATA_WRITE], true),
        ([DATA_WRITE, TIP_ID], true),
        ([TIP_ID, MIDDLE_ID], false),
    ] {
        let mut child = Vhdx {
            seed: 4,
            data_write: DISK_ID,
            ..Vhdx::new(2 * MB, &[(0, Block::Partial(vec![(1, 1)]))])
        };
        child.parent = Some(vec![
            ("parent_linkage".to_owned(), braced(linkages[0])),
            ("parent_linkage2".to_owned(), braced(linkages[1])),
            ("relative_path".to_owned(), ".\\base.vhdx".to_owned()),
        ]);
        let folder = folder(&[("base.vhdx", &base), ("child.avhdx", &child)]);
        match open_in(&folder, "child.avhdx") {
            Ok(image) => {
                assert!(fits, "{linkages:?}");
                let content = content_of(&[base.clone(), child]);
                assert_content(image.source.as_ref(), &content, "linkage");
            }
            Err(error) => assert!(!fits, "{linkages:?}: {error}"),
        }
    }
}

#[test]
fn a_parent_may_be_named_in_any_of_three_ways() {
    let base = Vhdx::new(2 * MB, &[(0, Block::Full)]);
    for (key, value) in [
        ("relative_path", "base.vhdx"),
        ("relative_path", ".\\base.vhdx"),
        ("relative_path", "..\\elsewhere\\base.vhdx"),
        ("absolute_win32_path", "\\\\?\\C:\\vms\\base.vhdx"),
        (
            "volume_path",
            "\\\\?\\Volume{26a21bda-a627-11d7-9931-806e6f6e6963}\\vms\\base.vhdx",
        ),
    ] {
        let mut child = Vhdx::new(2 * MB, &[]);
        child.data_write = DISK_ID;
        child.parent = Some(vec![
            (key.to_owned(), value.to_owned()),
            ("parent_linkage".to_owned(), braced(DATA_WRITE)),
        ]);
        let folder = folder(&[("base.vhdx", &base), ("child.avhdx", &child)]);
        let image = open_in(&folder, "child.avhdx").unwrap_or_else(|e| panic!("{value}: {e}"));
        assert_content(
            image.source.as_ref(),
            &content_of(std::slice::from_ref(&base)),
            value,
        );
    }
}

#[test]
fn a_child_may_be_larger_or_smaller_than_its_parent() {
    let base = Vhdx::new(3 * MB, &[(0, Block::Full), (2, Block::Full)]);
    for size in [MB + 512, 3 * MB, 6 * MB] {
        let child = Vhdx {
            seed: 9,
            data_write: DISK_ID,
            ..Vhdx::new(size, &[(1, Block::Partial(vec![(0, 1)]))])
        };
        let child = child.over("base.vhdx", DATA_WRITE);
        let folder = folder(&[("base.vhdx", &base), ("child.avhdx", &child)]);
        let image = open_in(&folder, "child.avhdx").expect("open");
        assert_eq!(image.source.size(), size);
        assert_content(
            image.source.as_ref(),
            &content_of(&[base.clone(), child]),
            "size",
        );
    }
}
