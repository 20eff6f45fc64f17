//! Reading a target back through the reader that anybody would use, and holding it against what the source held.

use std::ffi::OsString;
use std::sync::Arc;

use formats::{
    BlockSource, Format, OpenContext, ReferencePolicy, Stack, StorageRef, Window, driver,
    reader::read_guest,
};

use crate::error::{Error, Result};
use crate::pass::{self, Setting, Wanted};
use crate::zero::is_zero;

/// What was written, read back from storage.
pub struct Written {
    /// Its format.
    pub format: Format,
    /// The file that the user named.
    pub storage: StorageRef,
    /// The other files of the image, by their names.
    pub further: Vec<(OsString, StorageRef)>,
    /// The disk that it stands on.
    pub below: Option<Arc<dyn BlockSource>>,
}

/// What it must hold.
pub struct Expected {
    /// Guest bytes of the source.
    pub size: u64,
    /// The fingerprint of those.
    pub fingerprint: Option<[u8; 32]>,
    /// Guest bytes of the target, all of them zeros behind the source's; `None` for a device, which may be larger.
    pub target_size: Option<u64>,
}

impl Written {
    /// The disk in it, as anybody would read it.
    ///
    /// # Errors
    /// Those of the reader.
    pub fn disk(self) -> Result<Arc<dyn BlockSource>> {
        let context = OpenContext {
            references: ReferencePolicy::only(self.further),
            ..OpenContext::default()
        };
        let layer = driver(self.format).open(self.storage, &context)?;
        Ok(match self.below {
            Some(below) => Arc::new(Stack::new(layer.source, vec![below])),
            None => layer.source,
        })
    }
}

/// Fails when `disk`, which was written, does not hold what is `expected`.
///
/// # Errors
/// `VerifyFailed`, those of the reader, `Interrupted`.
pub fn verify(
    disk: Arc<dyn BlockSource>,
    expected: &Expected,
    setting: &Setting<'_>,
) -> Result<()> {
    setting.progress.set_verifying();
    let size = disk.size();
    let wanted = Wanted {
        fingerprint: true,
        ..Wanted::default()
    };
    let strict = Setting {
        salvage: None,
        ..*setting
    };
    let window = Window::new(disk.clone(), expected.size);
    let found = pass::run(&window, &wanted, None, &strict)?;
    let mut equal = found.fingerprint == expected.fingerprint;
    if let Some(target_size) = expected.target_size {
        // Rounding up adds less than a sector or a cluster; it must read as zeros.
        equal &= size == target_size && size >= expected.size;
        let mut padding = vec![0; size.saturating_sub(expected.size).min(2 << 20) as usize];
        if !padding.is_empty() {
            read_guest(disk.as_ref(), expected.size, &mut padding)?;
        }
        equal &= is_zero(&padding);
    }
    if equal {
        Ok(())
    } else {
        Err(Error::VerifyFailed)
    }
}
