//! Telling what a file is: by its content, with its name as a witness.
//!
//! Raw is never guessed against the evidence. A guest can write any header it likes into the first sector of its raw
//! disk; whoever then trusts the header hands that guest a file of the host. So a name that says "raw" over a head that
//! says otherwise is refused, and so is the reverse, until the user settles it.

use std::path::Path;

use crate::driver::{DRIVERS, Format, Head};
use crate::error::{Error, Result};
use crate::storage::Storage;
use crate::vhd::in_place::{half_converted, is_half_converted};

/// Extensions by which people name raw disks.
const RAW_EXTENSIONS: &[&str] = &["raw", "img", "dd"];

/// Image formats that are recognised so that they are not taken for raw: name, offset of the magic, magic.
const KNOWN_BUT_UNSUPPORTED: &[(&str, usize, &[u8])] = &[
    ("QED", 0, b"QED\0"),
    ("Parallels", 0, b"WithoutFreeSpace"),
    ("Parallels", 0, b"WithouFreSpacExt"),
    ("qcow version 1", 0, b"QFI\xfb\x00\x00\x00\x01"),
    ("tar package (OVA, XVA)", 257, b"ustar"),
    ("gzip", 0, b"\x1f\x8b\x08"),
    ("xz", 0, b"\xfd7zXZ\0"),
    ("zstd", 0, b"\x28\xb5\x2f\xfd"),
    ("bzip2", 0, b"BZh"),
];

/// Extensions of files that describe a machine or vouch for one: never a disk.
const NO_DISKS: &[&str] = &[
    "ovf", "ova", "xva", "vmx", "vmxf", "vmsd", "mf", "cert", "vbox", "nvram", "toml", "xml",
];

/// Finds the format of `storage` from its content, and holds it against its name.
///
/// # Errors
/// `Refused` for a half-converted VHD, `Malformed` when name and content, or two parts of the content, contradict each other, `Unsupported` for a format that is known by name only.
pub fn probe(storage: &dyn Storage) -> Result<Format> {
    let head = Head::read(storage)?;
    let path = storage.path();
    if is_half_converted(&head) {
        return Err(half_converted()
            .hint(
                "run \"diskferry convert --replace --in-place FILE -o subformat=dynamic\" again, which finishes it; say \
                 -f raw if it is a raw disk that only looks like one",
            )
            .in_file(path));
    }
    let named_raw = is_named_raw(path) || storage.is_device();
    let found = recognised(&head);
    if let Some(format) = found.first() {
        if named_raw {
            return Err(contradiction(path, format.name()));
        }
        return one_of(&found, path);
    }
    if let Some((name, _, _)) = KNOWN_BUT_UNSUPPORTED
        .iter()
        .find(|(_, offset, magic)| head.has(*offset, magic))
    {
        // Compressed bytes and tar headers are no disk image's magic: under a raw name they are content.
        if named_raw {
            return Err(contradiction(path, name));
        }
        return Err(
            Error::unsupported("format", format!("{name} is not supported yet"))
                .hint("say -f raw if the file is a raw disk that only looks like one")
                .in_file(path),
        );
    }
    if NO_DISKS.contains(&extension(path).as_str()) {
        return Err(
            Error::unsupported("format", "the name says that it is no disk")
                .hint("say -f raw if it is one all the same")
                .in_file(path),
        );
    }
    match format_by_extension(path) {
        Some(format) if format != Format::Raw => Err(Error::malformed(
            "format",
            format!("the name says {format}, but the content has no {format} magic"),
        )
        .hint(format!(
            "the image is damaged or cut off; say -f raw if it is a raw disk, -f {format} to see what is wrong"
        ))
        .in_file(path)),
        _ => Ok(Format::Raw),
    }
}

/// The format among those that the content speaks for. The head of a fixed VHD and the last cluster of a qcow2 are
/// written by guests: where a file has the magic of two formats, its name decides, which no guest can write.
fn one_of(found: &[Format], path: &Path) -> Result<Format> {
    let named = format_by_extension(path);
    match found {
        [format] => Ok(*format),
        _ => found
            .iter()
            .copied()
            .find(|format| Some(*format) == named)
            .ok_or_else(|| {
                let names: Vec<_> = found.iter().map(|format| format.name()).collect();
                Error::malformed("format", "the content looks like several formats at once")
                    .found(names.join(" and "))
                    .hint("say with -f which of them it is")
                    .in_file(path)
            }),
    }
}

fn contradiction(path: &Path, magic: &str) -> Error {
    Error::malformed(
        "format",
        format!("the name says raw, but the content looks like {magic}"),
    )
    .hint("say -f raw if it is a raw disk, or -f with the format if the name is wrong")
    .in_file(path)
}

/// The formats that the content speaks for.
fn recognised(head: &Head) -> Vec<Format> {
    DRIVERS
        .iter()
        .filter(|d| d.format() != Format::Raw && d.recognises(head))
        .map(|d| d.format())
        .collect()
}

/// The formats that the content of `storage` speaks for, whatever its name says.
///
/// # Errors
/// Those of the storage.
pub(crate) fn recognised_in(storage: &dyn Storage) -> Result<Vec<Format>> {
    Ok(recognised(&Head::read(storage)?))
}

/// Whether `storage` is a disk, by its name or by its content, so that it is not to be taken for anything else: the first
/// bytes of a fixed VHD or of a raw disk are its guest's, who may make them look like an archive.
///
/// # Errors
/// Those of the storage.
pub fn is_disk(storage: &dyn Storage) -> Result<bool> {
    let is_named = format_by_extension(storage.path()).is_some();
    Ok(is_named || storage.is_device() || !recognised(&Head::read(storage)?).is_empty())
}

/// Whether the name of a file says that it is a raw disk.
fn is_named_raw(path: &Path) -> bool {
    RAW_EXTENSIONS.contains(&extension(path).as_str())
}

/// The format that a file name ends in, if it does.
pub fn format_by_extension(path: &Path) -> Option<Format> {
    let extension = extension(path);
    DRIVERS
        .iter()
        .find(|d| d.extensions().contains(&extension.as_str()))
        .map(|d| d.format())
}

fn extension(path: &Path) -> String {
    path.extension()
        .map(|e| e.to_string_lossy().to_ascii_lowercase())
        .unwrap_or_default()
}
