//! Files that are packed as a whole: `web.ova.gz`, an XVA under zstd, `web-disk1.vmdk.gz`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use formats::probe::is_disk;
use formats::unpacked::{Packing, Pool, UnpackedStorage};
use formats::{Result, SliceStorage, StorageRef};

use crate::kind::Kind;

/// Extensions that packed files have besides their own.
const EXTENSIONS: &[&str] = &["gz", "gzip", "zst", "zstd", "bz2"];

/// What `storage` holds when it is unpacked, or itself. It is unpacked once from end to end for that, and must not hold more
/// than `limit` bytes. What is unpacked with the same `pool` shares memory.
///
/// # Errors
/// What is wrong with the stream; `Limit` when it holds more.
pub fn unpacked(storage: StorageRef, limit: u64, pool: &Pool) -> Result<StorageRef> {
    let Some(packing) = Packing::of(storage.as_ref())? else {
        return Ok(storage);
    };
    let path = storage.path().join(bare_name(storage.path()));
    let unpacked = UnpackedStorage::new(storage, packing, limit, &mut |_| Ok(()))?.sharing(pool);
    let unpacked: StorageRef = Arc::new(unpacked);
    let len = unpacked.len();
    Ok(Arc::new(SliceStorage::named(unpacked, 0, len, &path)?))
}

/// Whether `storage` is a packed file. What is a disk by its name or its content is none, whatever its guest makes it begin
/// with.
///
/// # Errors
/// Those of the storage.
pub fn is_packed(storage: &StorageRef) -> Result<bool> {
    let is_named = Kind::by_extension(storage.path()).is_some()
        || bare_name(storage.path()).as_os_str() != storage.path().file_name().unwrap_or_default();
    if !is_named && is_disk(storage.as_ref())? {
        return Ok(false);
    }
    Ok(Packing::of(storage.as_ref())?.is_some())
}

/// The file's name without the extension that says how it is packed.
fn bare_name(path: &Path) -> PathBuf {
    let path = Path::new(path.file_name().unwrap_or_default());
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    let is_packing = EXTENSIONS.iter().any(|e| extension.eq_ignore_ascii_case(e));
    if is_packing {
        return path.with_extension("");
    }
    match extension.to_ascii_lowercase().as_str() {
        "tgz" => path.with_extension("tar"),
        _ => path.to_owned(),
    }
}
