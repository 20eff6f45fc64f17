//! The text of a descriptor for a disk of another size. What does not have to change stays, byte for byte.

use super::descriptor::Descriptor;
use super::extent_line::ExtentLine;
use crate::error::{Error, Result};

/// `text`, the words of `descriptor`, for one extent of `sectors` sectors.
///
/// # Errors
/// `Malformed` when the extent's line is not found.
pub fn resized(text: &[u8], descriptor: &Descriptor, sectors: u64) -> Result<Vec<u8>> {
    let cylinders = cylinders(descriptor, sectors);
    let mut is_found = false;
    let mut lines = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        let words = String::from_utf8_lossy(line);
        let is_extent = !line.trim_ascii().starts_with(b"#")
            && matches!(ExtentLine::parse(words.trim(), line), Ok(Some(_)));
        let number = match (is_extent, cylinders) {
            (true, _) => {
                is_found = true;
                Some(sectors)
            }
            (false, Some(cylinders)) if is_cylinders(&words) => Some(cylinders),
            _ => None,
        };
        lines.push(match number {
            Some(number) => with_first_number(line, number),
            None => line.to_vec(),
        });
    }
    if !is_found {
        return Err(Error::malformed("descriptor", "names no extent"));
    }
    Ok(lines.join(&b'\n'))
}

fn is_cylinders(line: &str) -> bool {
    let key = line.split('=').next().unwrap_or_default().trim();
    key.eq_ignore_ascii_case("ddb.geometry.cylinders")
}

/// Cylinders of a disk of `sectors` sectors, if its geometry makes sense.
fn cylinders(descriptor: &Descriptor, sectors: u64) -> Option<u64> {
    let number = |key| descriptor.database(key)?.parse::<u64>().ok();
    let heads = number("geometry.heads")?;
    let track = number("geometry.sectors")?;
    let adapter = descriptor.database("adapterType").unwrap_or_default();
    let most = match adapter.eq_ignore_ascii_case("ide") {
        true => 16383,
        false => 65535,
    };
    let cylinder = heads.checked_mul(track).filter(|size| *size > 0)?;
    Some(sectors.div_ceil(cylinder).min(most))
}

/// `line` with another number in the place of its first one.
fn with_first_number(line: &[u8], number: u64) -> Vec<u8> {
    let is_digit = |byte: &u8| byte.is_ascii_digit();
    let start = line.iter().position(is_digit).unwrap_or(line.len());
    let (before, rest) = line.split_at(start);
    let end = rest.iter().position(|byte| !is_digit(byte));
    let behind = rest.get(end.unwrap_or(rest.len())..).unwrap_or_default();
    [before, number.to_string().as_bytes(), behind].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sizes_change() {
        let text = "# Disk DescriptorFile\r\nversion=1\r\nCID=1\r\nparentCID=ffffffff\r\n\
             createType=\"vmfs\"\r\n# RW 7 FLAT \"x\"\r\nRW 2048 VMFS \"4 disk-flat.vmdk\"\r\n\
             ddb.adapterType = \"lsilogic\"\r\nddb.geometry.cylinders = \"5\"\r\n\
             ddb.geometry.heads = \"16\"\r\nddb.geometry.sectors = \"63\"\r\n";
        let descriptor = Descriptor::parse(text.as_bytes()).unwrap();
        let changed = resized(text.as_bytes(), &descriptor, 204_800).unwrap();
        let expected = text
            .replace("RW 2048", "RW 204800")
            .replace("cylinders = \"5\"", "cylinders = \"204\"");
        assert_eq!(String::from_utf8(changed).unwrap(), expected);
    }
}
