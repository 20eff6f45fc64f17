//! Text in UTF-16, as Microsoft's formats have it.

/// The text in `bytes` up to the first NUL, each pair of bytes made a unit by `unit`; `None` when it is not well-formed
/// or empty.
pub fn decode(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Option<String> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let units = pairs.iter().map(|pair| unit(*pair)).take_while(|u| *u != 0);
    let text: Result<String, _> = char::decode_utf16(units).collect();
    text.ok().filter(|text| !text.is_empty())
}

/// `text` in UTF-16LE.
pub fn encode_le(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// The Windows path `text` with `/` between folders.
pub fn windows_path(text: String) -> String {
    text.replace('\\', "/")
}
