//! What a VHD says about itself, and what its user should hear about.

use uuid::Uuid;

use super::bat::Bat;
use super::dynamic_header::DynamicHeader;
use super::footer::Footer;
use super::locator::parent_name_path;
use crate::driver::{Detail, Format, ImageId, LayerInfo};

/// Programs for which the geometry is the size: Virtual PC, and QEMU for images of both.
const GEOMETRY_READERS: [[u8; 4]; 2] = [*b"vpc ", *b"qemu"];

/// What the footer says, and `warnings` that came up before.
pub(super) fn footer_info(footer: &Footer, mut warnings: Vec<String>) -> LayerInfo {
    let mut info = LayerInfo::new(Format::Vhd, footer.disk_type.name());
    info.identity = Some(ImageId::Uuid(Uuid::from_bytes(footer.unique_id)));
    info.details = vec![
        ("creator_application", word(&footer.creator_application)),
        ("creator_version", version(footer.creator_version)),
        ("creator_os", word(&footer.creator_os)),
        ("geometry", Detail::Text(footer.geometry.to_string())),
        ("timestamp", Detail::Number(footer.timestamp.into())),
        ("original_size", Detail::Number(footer.original_size)),
        ("temporary", Detail::Flag(footer.is_temporary())),
        ("saved_state", Detail::Flag(footer.saved_state)),
        ("hidden", Detail::Flag(footer.hidden)),
    ];
    warnings.extend(footer_warnings(footer));
    info.warnings = warnings;
    info
}

/// Adds what the dynamic header and the BAT say.
pub(super) fn add_header(info: &mut LayerInfo, header: &DynamicHeader, bat: &Bat) {
    info.details.extend([
        ("block_size", Detail::Number(header.block_size.into())),
        (
            "bat_entries",
            Detail::Number(header.max_table_entries.into()),
        ),
        ("allocated_blocks", Detail::Number(bat.allocated())),
    ]);
    if header.parent_id != [0; 16] {
        let id = Uuid::from_bytes(header.parent_id).to_string();
        info.details.push(("parent_id", Detail::Text(id)));
    }
    if let Some(name) = parent_name_path(&header.parent_name) {
        info.details.push(("parent_name", Detail::Text(name)));
    }
}

fn footer_warnings(footer: &Footer) -> Vec<String> {
    let mut warnings = Vec::new();
    if footer.saved_state {
        warnings.push(
            "a saved state of the VM belongs to this disk: its file systems may be in use"
                .to_owned(),
        );
    }
    if footer.has_unknown_features() {
        warnings.push(format!(
            "the footer has unknown feature bits ({:#010x})",
            footer.features
        ));
    }
    let geometry = footer.geometry.bytes();
    if GEOMETRY_READERS.contains(&footer.creator_application)
        && geometry != footer.current_size
        && !footer.geometry.is_largest()
    {
        warnings.push(format!(
            "the current size ({} bytes) was used; programs that go by the geometry see {geometry}",
            footer.current_size
        ));
    }
    warnings
}

fn word(bytes: &[u8; 4]) -> Detail {
    let end = bytes
        .iter()
        .rposition(|b| !matches!(b, 0 | b' '))
        .map_or(0, |last| last + 1);
    let word = bytes.get(..end).unwrap_or_default();
    Detail::Text(word.escape_ascii().to_string())
}

fn version(version: u32) -> Detail {
    Detail::Text(format!("{}.{}", version >> 16, version & 0xFFFF))
}
