//! What sort of package a file is.

use std::path::Path;

use formats::probe::is_disk;
use formats::storage::read_array;
use formats::tar::{BLOCK, Header, Members};
use formats::{Error, Result, Storage, StorageRef};

/// Bytes at the front of a text that are looked at.
const FRONT: u64 = 4096;

/// Members of an archive that are looked at for a descriptor. It is the first one almost always.
const MEMBERS_MAX: usize = 10_000;

/// A sort of package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A tar archive with an OVF descriptor.
    Ova,
    /// An OVF descriptor beside its files.
    Ovf,
    /// An export of XenServer or XCP-ng.
    Xva,
    /// The description of a VMware machine beside its disks.
    Vmx,
    /// A machine in TOML beside its disks.
    Toml,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 5] = [Kind::Ova, Kind::Ovf, Kind::Xva, Kind::Vmx, Kind::Toml];

    /// Those that are written.
    pub const WRITTEN: [Kind; 4] = [Kind::Ova, Kind::Ovf, Kind::Xva, Kind::Vmx];

    /// `ova`, `ovf`, `xva`, `vmx`, `toml`: also its extension.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Ova => "ova",
            Kind::Ovf => "ovf",
            Kind::Xva => "xva",
            Kind::Vmx => "vmx",
            Kind::Toml => "toml",
        }
    }

    /// The kind of this name.
    pub fn by_name(name: &str) -> Option<Kind> {
        let mut all = Kind::ALL.into_iter();
        all.find(|kind| kind.name().eq_ignore_ascii_case(name))
    }

    /// The kind that a file name ends in.
    pub fn by_extension(path: &Path) -> Option<Kind> {
        path.extension()
            .and_then(|e| Kind::by_name(&e.to_string_lossy()))
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What sort of package stands in `storage`, if it is one: archives by their content, texts by content and name. What is a
/// disk by name or content is none.
///
/// # Errors
/// Those of the storage and of the archive; `Unsupported` for archives that are no package.
pub fn recognise(storage: &StorageRef) -> Result<Option<Kind>> {
    let named = Kind::by_extension(storage.path());
    if named.is_none() && is_disk(storage.as_ref())? {
        return Ok(None);
    }
    if is_archive(storage.as_ref(), named)? {
        return archive(storage).map(Some);
    }
    match named {
        Some(kind @ (Kind::Ovf | Kind::Vmx | Kind::Toml)) => Ok(Some(kind)),
        _ if is_envelope(storage.as_ref())? => Ok(Some(Kind::Ovf)),
        _ => Ok(None),
    }
}

/// Whether it begins like a tar archive. Old ones have no magic: there the name has to say it.
fn is_archive(storage: &dyn Storage, named: Option<Kind>) -> Result<bool> {
    if matches!(named, Some(Kind::Ova | Kind::Xva)) {
        return Ok(true);
    }
    if storage.len() < BLOCK {
        return Ok(false);
    }
    let first: [u8; BLOCK as usize] = read_array(storage, 0)?;
    Ok(first.get(257..262) == Some(b"ustar") && Header::parse(&first).is_ok())
}

fn archive(storage: &StorageRef) -> Result<Kind> {
    let mut members = Members::new(storage.as_ref());
    let mut first = true;
    for _ in 0..MEMBERS_MAX {
        let Some(member) = members.next_file()? else {
            break;
        };
        let name = member.name.trim_start_matches("./");
        if first && name == formats::xva::DESCRIPTION {
            return Ok(Kind::Xva);
        }
        first = false;
        if is_descriptor(name) {
            return Ok(Kind::Ova);
        }
    }
    Err(Error::unsupported(
        "package",
        "an archive with neither an .ovf in it nor ova.xml in front",
    )
    .hint("only OVA and XVA packages are read; unpack other archives first")
    .in_file(storage.path()))
}

/// Whether a member is a descriptor. macOS leaves companions named `._web.ovf`.
pub(crate) fn is_descriptor(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    let extension = file.rsplit_once('.').map(|(_, extension)| extension);
    extension.is_some_and(|e| e.eq_ignore_ascii_case("ovf")) && !file.starts_with("._")
}

/// Whether it begins like an OVF descriptor, in UTF-8 or UTF-16.
fn is_envelope(storage: &dyn Storage) -> Result<bool> {
    let mut front = vec![0; storage.len().min(FRONT) as usize];
    storage.read_at(&mut front, 0)?;
    // Of UTF-16, what is left are its ASCII characters.
    front.retain(|byte| *byte != 0);
    let text = String::from_utf8_lossy(&front);
    let text = text.trim_start_matches(['\u{feff}', '\u{fffd}', ' ', '\t', '\r', '\n']);
    Ok(text.starts_with('<') && text.contains("Envelope") && text.contains("ovf"))
}
