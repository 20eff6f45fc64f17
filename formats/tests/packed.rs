//! Images that are packed as a whole are the same disks.

mod common;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use common::written::write;
use common::{Random, vmdk};
use formats::reader::read_guest;
use formats::{
    BlockSource, FileStorage, Format, OpenContext, Packing, SliceStorage, StorageRef,
    UnpackedStorage, open_storage,
};

/// `bytes` in a gzip file, as a member of a package.
fn packed(bytes: &[u8], name: &str) -> StorageRef {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let mut deflate = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(2));
    deflate.write_all(bytes).unwrap();
    file.write_all(&deflate.finish().unwrap()).unwrap();
    let inner: StorageRef = Arc::new(FileStorage::open(file.path()).unwrap());
    assert_eq!(Packing::of(inner.as_ref()).unwrap(), Some(Packing::Gzip));
    let len = bytes.len() as u64;
    let unpacked = UnpackedStorage::new(inner, Packing::Gzip, len, &mut |_| Ok(()));
    let name = Path::new("web.ova").join(name);
    let member = SliceStorage::named(Arc::new(unpacked.unwrap()), 0, len, &name);
    Arc::new(member.unwrap())
}

fn disk(storage: StorageRef) -> Arc<dyn BlockSource> {
    let image = open_storage(storage, None, &OpenContext::default());
    image.unwrap().source
}

fn assert_same(found: &dyn BlockSource, expected: &dyn BlockSource, name: &str) {
    assert_eq!(found.size(), expected.size(), "{name}");
    let (mut one, mut other) = (vec![0; 1 << 20], vec![1; 1 << 20]);
    for offset in (0..found.size()).step_by(1 << 20) {
        let len = (found.size() - offset).min(1 << 20) as usize;
        read_guest(found, offset, &mut one[..len]).unwrap();
        read_guest(expected, offset, &mut other[..len]).unwrap();
        assert!(one[..len] == other[..len], "{name} {offset}");
    }
}

#[test]
fn a_packed_image_is_the_same_disk() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata");
    let stored = ["small.vhd", "small.qcow2", "zstd.qcow2"].map(|name| {
        let bytes = std::fs::read(folder.join(name)).unwrap();
        (name, bytes)
    });
    let made = vmdk::kinds().into_iter();
    let alone =
        made.filter(|(name, _)| !["split.vmdk", "cowd.vmdk", "sesparse.vmdk"].contains(name));
    for (name, bytes) in stored.into_iter().chain(alone) {
        let found = disk(packed(&bytes, name));
        assert_same(found.as_ref(), disk(vmdk::memory(bytes)).as_ref(), name);
    }
}

#[test]
fn a_packed_stream_is_read_from_its_tables_at_the_end() {
    let size = 90 << 20;
    let model = vec![(0, Random::new(4).bytes(size))];
    let options = ["subformat=streamOptimized".to_owned()];
    let written = write(Format::Vmdk, size as u64, &options, &model, "a stream");
    let bytes = written.file.to_bytes();
    let found = disk(packed(&bytes, "web-disk1.vmdk"));
    assert_same(
        found.as_ref(),
        disk(vmdk::memory(bytes)).as_ref(),
        "a stream",
    );
}
