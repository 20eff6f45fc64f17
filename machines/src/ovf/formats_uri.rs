//! Format URIs of disks: a hint of what the file is.

use crate::machine::DiskFormat;

/// What URIs begin with, in lower case, and what they mean; the first that fits counts.
const PREFIXES: &[(&str, DiskFormat)] = &[
    (
        "http://www.vmware.com/interfaces/specifications/vmdk.html#streamoptimized",
        DiskFormat::VmdkStream,
    ),
    (
        "http://www.vmware.com/specifications/vmdk.html#streamoptimized",
        DiskFormat::VmdkStream,
    ),
    (
        "http://www.vmware.com/interfaces/specifications/vmdk.html",
        DiskFormat::Vmdk,
    ),
    (
        "http://www.vmware.com/specifications/vmdk.html",
        DiskFormat::Vmdk,
    ),
    (
        "http://www.microsoft.com/technet/virtualserver/downloads/vhdspec.mspx",
        DiskFormat::Vhd,
    ),
    (
        "http://go.microsoft.com/fwlink/?linkid=137171",
        DiskFormat::Vhd,
    ),
    ("http://en.wikipedia.org/wiki/byte", DiskFormat::Raw),
    (
        "http://www.gnome.org/~markmc/qcow-image-format.html",
        DiskFormat::Qcow2,
    ),
    (
        "http://www.ecma-international.org/publications/standards/ecma-119.htm",
        DiskFormat::Iso,
    ),
    ("http://www.osta.org/specs/pdf/udf260.pdf", DiskFormat::Iso),
];

/// What the URI means.
pub fn read(uri: &str) -> DiskFormat {
    let lower = uri.to_ascii_lowercase().replacen("https:", "http:", 1);
    PREFIXES
        .iter()
        .find(|(prefix, _)| lower.starts_with(prefix))
        .map_or_else(|| DiskFormat::Other(uri.to_owned()), |(_, f)| f.clone())
}
