//! Small VHDs, and their checksums made right again after a change.

use formats::vhd::dynamic_header::DynamicHeader;
use formats::vhd::footer::{DiskType, Footer};
use formats::vhd::locator::ParentLocator;

use super::{Random, be64, patch};

/// Guest bytes in a block: small, so that a file of a few KiB has several.
pub const BLOCK: usize = 4096;

/// Where the BAT stands.
pub const TABLE: usize = 1536;

/// The id of the images made here.
pub const ID: [u8; 16] = [0x5A; 16];

/// 8 KiB of disk and a footer.
pub fn fixed() -> Vec<u8> {
    let mut image = Random::new(1).bytes(8192);
    image.extend(Footer::new(DiskType::Fixed, 8192, ID, 1_700_000_000).to_bytes());
    image
}

/// Nine blocks and a half, four of them with a place, two of those written in part.
pub fn dynamic() -> Vec<u8> {
    sparse(
        DiskType::Dynamic,
        DynamicHeader::new(TABLE as u64, 10, BLOCK as u32),
    )
}

/// As [`dynamic`], over a parent "base.vhd" that nobody has.
pub fn differencing() -> Vec<u8> {
    child([7; 16], "base.vhd")
}

/// As [`dynamic`], over the parent `name` that has the id `parent`.
pub fn child(parent: [u8; 16], name: &str) -> Vec<u8> {
    let mut header = DynamicHeader::new(TABLE as u64, 10, BLOCK as u32);
    header.parent_id = parent;
    patch(&mut header.parent_name, 0, &utf16(name, u16::to_be_bytes));
    let mut image = sparse(DiskType::Differencing, header.clone());
    let footer = image.split_off(image.len() - 512);
    let names = [
        (*b"W2ru", utf16(&format!(".\\{name}"), u16::to_le_bytes)),
        (
            *b"W2ku",
            utf16(&format!("C:\\disks\\{name}"), u16::to_le_bytes),
        ),
        (*b"MacX", format!("file://./{name}").into_bytes()),
    ];
    for (locator, (code, name)) in header.locators.iter_mut().zip(names) {
        *locator = ParentLocator {
            code,
            data_space: 512,
            data_length: name.len() as u32,
            data_offset: image.len() as u64,
        };
        image.extend(name);
        image.resize(image.len().next_multiple_of(512), 0);
    }
    patch(&mut image, 512, &header.to_bytes());
    image.extend(footer);
    image
}

fn utf16(text: &str, unit: fn(u16) -> [u8; 2]) -> Vec<u8> {
    text.encode_utf16().flat_map(unit).collect()
}

fn sparse(disk_type: DiskType, header: DynamicHeader) -> Vec<u8> {
    let size = BLOCK as u64 * 9 + 2048;
    let footer = Footer::new(disk_type, size, ID, 1_700_000_000).to_bytes();
    let mut image = footer.to_vec();
    image.extend(header.to_bytes());
    let mut table = [u32::MAX; 128];
    let mut blocks = Vec::new();
    // Index of the block, and which of its eight sectors were written.
    for (index, written) in [(5, 0xFF), (0, 0b1011_0001), (1, 0xFF), (9, 0xF0)] {
        table[index] = ((TABLE + 512 + blocks.len()) / 512) as u32;
        let mut bitmap = [0; 512];
        bitmap[0] = written;
        blocks.extend(bitmap);
        blocks.extend(Random::new(index as u64 + 1).bytes(BLOCK));
    }
    image.extend(table.iter().flat_map(|entry| entry.to_be_bytes()));
    image.extend(blocks);
    image.extend(footer);
    image
}

/// Makes all checksums right: of the footer at the end, of its copy, and of the dynamic header wherever they say.
pub fn fix_checksums(image: &mut [u8]) {
    let Some(end) = image.len().checked_sub(512) else {
        return;
    };
    let mut headers = vec![512];
    for footer in [0, end] {
        if image[footer..].starts_with(b"conectix") {
            headers.push(be64(image, footer + 16) as usize);
            fix(image, footer, 512, 64);
        }
    }
    for header in headers {
        if image
            .get(header..)
            .is_some_and(|rest| rest.starts_with(b"cxsparse"))
        {
            fix(image, header, 1024, 36);
        }
    }
}

fn fix(image: &mut [u8], start: usize, len: usize, field: usize) {
    let Some(bytes) = image.get_mut(start..start + len) else {
        return;
    };
    bytes[field..field + 4].fill(0);
    let sum = !bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    patch(bytes, field, &sum.to_be_bytes());
}
