//! VMDKs taken apart, and descriptors written by hand. Sparse extents and streams are made by
//! [`images::vmdk`](super::damage::images::vmdk).

use super::damage::images::{le32, le64};

pub const SECTOR: usize = 512;

/// A descriptor with these extent lines. `parent`: the id of the parent, and its name.
pub fn descriptor(
    create_type: &str,
    cid: u32,
    parent: Option<(u32, &str)>,
    extents: &[&str],
) -> Vec<u8> {
    let (parent_cid, hint) = match parent {
        Some((cid, name)) => (cid, format!("parentFileNameHint=\"{name}\"\n")),
        None => (u32::MAX, String::new()),
    };
    let extents = extents.join("\n");
    format!(
        "# Disk DescriptorFile\nversion=1\nCID={cid:08x}\nparentCID={parent_cid:08x}\n{hint}\
         createType=\"{create_type}\"\n\n# Extent description\n{extents}\n\n\
         # The Disk Data Base\n#DDB\n\nddb.adapterType = \"ide\"\nddb.virtualHWVersion = \"4\"\n"
    )
    .into_bytes()
}

/// What stands in a stream, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// Guest sector, and the deflated bytes.
    Grain(u64, Vec<u8>),
    Table,
    Directory,
    /// Where the footer itself stands.
    Footer(usize),
    /// A sector of zeros.
    End,
}

/// Walks over a stream from the first grain to its last byte, from marker to marker.
pub fn walk(stream: &[u8]) -> Vec<Item> {
    let mut at = le64(stream, 64) as usize * SECTOR;
    let mut items = Vec::new();
    while at < stream.len() {
        let (value, size, kind) = (
            le64(stream, at),
            le32(stream, at + 8),
            le32(stream, at + 12),
        );
        let (item, len) = match (size, kind) {
            (0, 0) => (Item::End, 0),
            (0, 1) => (Item::Table, value as usize),
            (0, 2) => (Item::Directory, value as usize),
            (0, 3) => (Item::Footer(at + SECTOR), value as usize),
            (0, other) => panic!("a marker of type {other} at {at}"),
            _ => {
                let (start, len) = (at + 12, size as usize);
                items.push(Item::Grain(value, stream[start..start + len].to_vec()));
                at = (start + len).next_multiple_of(SECTOR);
                continue;
            }
        };
        assert!(item != Item::End || stream[at..at + SECTOR].iter().all(|b| *b == 0));
        items.push(item);
        at += SECTOR + len * SECTOR;
    }
    assert_eq!(at, stream.len(), "the stream ends inside of something");
    items
}

/// The grains of a stream: where in the guest, and deflated.
pub fn grains(stream: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let items = walk(stream).into_iter();
    items
        .filter_map(|item| match item {
            Item::Grain(sector, bytes) => Some((sector, bytes)),
            _ => None,
        })
        .collect()
}
