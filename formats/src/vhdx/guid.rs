//! GUIDs as Microsoft stores them: the first three groups little-endian.

use uuid::{Uuid, uuid};

/// The region that holds the BAT ([MS-VHDX] 2.2.3.2).
pub const BAT_REGION: Uuid = uuid!("2dc27766-f623-4200-9d64-115e9bfd4a08");
/// The region that holds the metadata ([MS-VHDX] 2.2.3.2).
pub const METADATA_REGION: Uuid = uuid!("8b7ca206-4790-4b9a-b8fe-575f050f886e");

/// Block size and kind of disk ([MS-VHDX] 2.6.2.1).
pub const FILE_PARAMETERS: Uuid = uuid!("caa16737-fa36-4d43-b3b6-33f0aa44e76b");
/// Size of the disk ([MS-VHDX] 2.6.2.2).
pub const VIRTUAL_DISK_SIZE: Uuid = uuid!("2fa54224-cd1b-4876-b211-5dbed83bf4b8");
/// The disk's own id, the same in all files of a chain ([MS-VHDX] 2.6.2.3).
pub const VIRTUAL_DISK_ID: Uuid = uuid!("beca12ab-b2e6-4523-93ef-c309e000c746");
/// Logical sector size ([MS-VHDX] 2.6.2.4).
pub const LOGICAL_SECTOR_SIZE: Uuid = uuid!("8141bf1d-a96f-4709-ba47-f233a8faab5f");
/// Physical sector size ([MS-VHDX] 2.6.2.5).
pub const PHYSICAL_SECTOR_SIZE: Uuid = uuid!("cda348c7-445d-4471-9cc9-e9885251c556");
/// Names of the parent ([MS-VHDX] 2.6.2.6).
pub const PARENT_LOCATOR: Uuid = uuid!("a8d35f2d-b30b-454d-abf7-d3d84834ab0c");

/// The one type of parent locator that there is: a VHDX ([MS-VHDX] 2.6.2.6.1).
pub const VHDX_LOCATOR_TYPE: Uuid = uuid!("b04aefb7-d19e-4a81-b789-25b8e9445913");

/// The GUID that stands in `bytes`.
pub fn from_bytes(bytes: [u8; 16]) -> Uuid {
    Uuid::from_bytes_le(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_three_groups_are_little_endian() {
        let bytes = BAT_REGION.to_bytes_le();
        assert_eq!(bytes[..8], [0x66, 0x77, 0xC2, 0x2D, 0x23, 0xF6, 0x00, 0x42]);
        assert_eq!(bytes[8..10], [0x9D, 0x64]);
        assert_eq!(from_bytes(bytes), BAT_REGION);
    }
}
