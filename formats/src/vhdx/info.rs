//! What a VHDX says about itself.

use super::layer::Structures;
use super::log::LogState;
use super::metadata::Metadata;
use crate::driver::{Detail, Format, ImageId, LayerInfo};

/// What kind of disk it is.
pub(super) fn subformat(metadata: &Metadata) -> &'static str {
    match metadata {
        Metadata {
            has_parent: true, ..
        } => "differencing",
        Metadata {
            leaves_blocks_allocated: true,
            ..
        } => "fixed",
        _ => "dynamic",
    }
}

/// What headers and metadata say.
pub(super) fn describe(structures: &Structures) -> LayerInfo {
    let metadata = &structures.metadata;
    let header = &structures.headers.current;
    let mut info = LayerInfo::new(Format::Vhdx, subformat(metadata));
    info.identity = Some(ImageId::Uuid(header.data_write_guid));
    info.disk_id = Some(metadata.disk_id);
    let text = |value: String| Detail::Text(value);
    info.details = vec![
        (
            "creator",
            text(structures.creator.clone().unwrap_or_default()),
        ),
        ("header", text(structures.headers.choice.clone())),
        ("sequence_number", Detail::Number(header.sequence_number)),
        ("log", text(log_state(structures.log))),
        ("file_write_guid", text(header.file_write_guid.to_string())),
        ("data_write_guid", text(header.data_write_guid.to_string())),
        ("virtual_disk_id", text(metadata.disk_id.to_string())),
        (
            "logical_sector_size",
            Detail::Number(metadata.logical_sector_size.into()),
        ),
        (
            "physical_sector_size",
            Detail::Number(metadata.physical_sector_size.into()),
        ),
        ("block_size", Detail::Number(metadata.block_size)),
    ];
    if let Some(locator) = &metadata.locator {
        let linkages = std::iter::once(locator.parent_linkage).chain(locator.parent_linkage_2);
        let linkages = linkages.map(|linkage| linkage.to_string());
        let paths = locator.paths().map(str::to_owned);
        info.details.extend([
            ("parent_linkage", Detail::List(linkages.collect())),
            ("parent_paths", Detail::List(paths.collect())),
        ]);
    }
    info.warnings = structures.warnings.clone();
    info
}

fn log_state(state: LogState) -> String {
    match state {
        LogState::Empty => "empty".to_owned(),
        LogState::Clean => "clean".to_owned(),
        LogState::Replayed { entries, changes } => {
            format!("replayed in memory: {entries} entries, {changes} changes")
        }
        LogState::Damaged => "damaged, not replayed".to_owned(),
    }
}
