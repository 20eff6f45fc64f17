//! Files that are packed as a whole: `web.ova.gz`, an XVA under zstd, `web-disk1.vmdk.gz`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use formats::unpacked::{Packing, UnpackedStorage};
use formats::{Result, SliceStorage, StorageRef};

/// Extensions that packed files have besides their own.
const EXTENSIONS: &[&str] = &["gz", "gzip", "zst", "zstd", "bz2"];

/// What `storage` holds when it is unpacked, or itself. It is unpacked once from end to end for that, and must not hold more
/// than `limit` bytes.
///
/// # Errors
/// What is wrong with the stream; `Limit` when it holds more.
pub fn unpacked(storage: StorageRef, limit: u64) -> Result<StorageRef> {
    let Some(packing) = Packing::of(storage.as_ref())? else {
        return Ok(storage);
    };
    let path = storage.path().join(bare_name(storage.path()));
    let unpacked = UnpackedStorage::new(storage, packing, limit, &mut |_| Ok(()))?;
    let unpacked: StorageRef = Arc::new(unpacked);
    let len = unpacked.len();
    Ok(Arc::new(SliceStorage::named(unpacked, 0, len, &path)?))
}

/// Whether `storage` begins like a packed file.
///
/// # Errors
/// Those of the storage.
pub fn is_packed(storage: &StorageRef) -> Result<bool> {
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
