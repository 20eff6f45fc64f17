//! From the bytes of a description to its text: encodings, byte order marks, caps, and which characters names may have.

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};
use formats::{Error, Result};

/// Most bytes of a description that are read: OVF descriptors with embedded texts stay below 5 MiB.
pub const MAX_DESCRIPTION: usize = 16 << 20;

/// Most bytes that a name, an id or a key may have.
pub const MAX_NAME: usize = 1024;

/// Decodes an XML document: a byte order mark first, then the declaration's `encoding`, UTF-8 without either.
///
/// A document that declares UTF-16 and is none is UTF-8: XenCenter writes such ones.
///
/// # Errors
/// `Limit` above 16 MiB; `Unsupported` for an encoding that nobody knows, by its name; `Malformed` for bytes that are
/// not what the encoding says.
pub fn decode_xml(bytes: &[u8], what: &str) -> Result<String> {
    check_size(bytes, what)?;
    if let Some(text) = decode_marked(bytes, what)? {
        return Ok(text);
    }
    match bytes {
        [b'<', 0, ..] => return decode(UTF_16LE, bytes, what),
        [0, b'<', ..] => return decode(UTF_16BE, bytes, what),
        _ => {}
    }
    let encoding = match declared_encoding(bytes) {
        Some(label) => encoding_for(&label, what)?,
        None => UTF_8,
    };
    let is_utf16 = encoding == UTF_16LE || encoding == UTF_16BE;
    decode(if is_utf16 { UTF_8 } else { encoding }, bytes, what)
}

/// Decodes a text whose encoding is `label`, unless a byte order mark says something else.
///
/// # Errors
/// As [`decode_xml`].
pub fn decode_text(bytes: &[u8], label: Option<&str>, what: &str) -> Result<String> {
    check_size(bytes, what)?;
    if let Some(text) = decode_marked(bytes, what)? {
        return Ok(text);
    }
    let encoding = match label {
        Some(label) => encoding_for(label, what)?,
        None => UTF_8,
    };
    decode(encoding, bytes, what)
}

fn check_size(bytes: &[u8], what: &str) -> Result<()> {
    if bytes.len() > MAX_DESCRIPTION {
        return Err(
            Error::limit(what.to_owned(), "larger than a description may be")
                .found(format!("{} bytes", bytes.len()))
                .expected(format!("at most {MAX_DESCRIPTION}")),
        );
    }
    Ok(())
}

fn decode_marked(bytes: &[u8], what: &str) -> Result<Option<String>> {
    match Encoding::for_bom(bytes) {
        Some((encoding, mark)) => {
            decode(encoding, bytes.get(mark..).unwrap_or_default(), what).map(Some)
        }
        None => Ok(None),
    }
}

fn encoding_for(label: &str, what: &str) -> Result<&'static Encoding> {
    Encoding::for_label(label.as_bytes()).ok_or_else(|| {
        Error::unsupported(what.to_owned(), "encoding is not known").found(format!("{label:?}"))
    })
}

fn decode(encoding: &'static Encoding, bytes: &[u8], what: &str) -> Result<String> {
    encoding
        .decode_without_bom_handling_and_without_replacement(bytes)
        .map(|text| text.into_owned())
        .ok_or_else(|| {
            let error = Error::malformed(what.to_owned(), "bytes that its encoding does not have")
                .expected(encoding.name());
            match std::str::from_utf8(bytes) {
                Err(e) if encoding == UTF_8 => error.at(e.valid_up_to() as u64),
                _ => error,
            }
        })
}

/// The `encoding` of an XML declaration, which is ASCII up to there in all encodings but UTF-16.
fn declared_encoding(bytes: &[u8]) -> Option<String> {
    let head = bytes.get(..bytes.len().min(256))?;
    let declaration = head.strip_prefix(b"<?xml")?;
    let end = declaration.windows(2).position(|w| w == b"?>")?;
    let text = std::str::from_utf8(declaration.get(..end)?).ok()?;
    let after = text.split_once("encoding")?.1.trim_start();
    let value = after.strip_prefix('=')?.trim_start();
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    Some(value.get(1..)?.split_once(quote)?.0.to_owned())
}

/// A name as it may be shown and stored: blanks at its ends and line breaks inside removed.
///
/// # Errors
/// `Malformed` for control characters, `Limit` for more than [`MAX_NAME`] bytes.
pub fn clean_name(name: &str, what: &str) -> Result<String> {
    let mut clean = String::new();
    for word in name.split_ascii_whitespace() {
        if !clean.is_empty() {
            clean.push(' ');
        }
        clean += word;
    }
    check_characters(&clean, what)?;
    Ok(clean)
}

/// Refuses control characters and what is too long; the text stays as it is.
///
/// # Errors
/// As [`clean_name`].
pub fn check_characters(name: &str, what: &str) -> Result<()> {
    if name.len() > MAX_NAME {
        return Err(Error::limit(what.to_owned(), "too long")
            .found(format!("{} bytes", name.len()))
            .expected(format!("at most {MAX_NAME}")));
    }
    if let Some(bad) = name.chars().find(|c| is_deceptive(*c)) {
        return Err(
            Error::malformed(what.to_owned(), "a character that names cannot have")
                .found(format!("U+{:04X}", bad as u32)),
        );
    }
    Ok(())
}

/// A text of somebody else for a message: control characters escaped, and not more than a line of it.
pub fn shown(text: &str) -> String {
    let mut chars = text.chars();
    let start: String = chars.by_ref().take(80).collect();
    let rest = if chars.next().is_some() { "…" } else { "" };
    format!("{}{rest}", start.escape_debug())
}

/// A UUID in lower case with hyphens and without braces; `None` if the text is none.
pub fn uuid(text: &str) -> Option<String> {
    let digits: String = text
        .chars()
        .filter(|c| !matches!(c, '{' | '}' | '-' | ' '))
        .collect::<String>()
        .to_ascii_lowercase();
    if digits.len() != 32 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let part = |range| digits.get(range);
    Some(format!(
        "{}-{}-{}-{}-{}",
        part(0..8)?,
        part(8..12)?,
        part(12..16)?,
        part(16..20)?,
        part(20..32)?
    ))
}

/// A MAC as it is written here: `00:0c:29:12:34:56`; `None` if the text is none.
pub fn mac(text: &str) -> Option<String> {
    let digits: String = text
        .trim()
        .chars()
        .filter(|c| !matches!(c, ':' | '-' | '.'))
        .collect();
    if digits.len() != 12 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let pairs: Vec<&str> = (0..6)
        .filter_map(|i| digits.get(i * 2..i * 2 + 2))
        .collect();
    Some(pairs.join(":").to_ascii_lowercase())
}

/// Control characters, and those that turn the direction of what follows them.
fn is_deceptive(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use formats::ErrorKind;

    #[test]
    fn marks_and_labels_say_the_encoding() {
        let utf16: Vec<u8> = [0xff, 0xfe]
            .into_iter()
            .chain("<a>ü</a>".encode_utf16().flat_map(u16::to_le_bytes))
            .collect();
        assert_eq!(decode_xml(&utf16, "OVF").unwrap(), "<a>ü</a>");
        assert_eq!(decode_xml(&utf16[2..], "OVF").unwrap(), "<a>ü</a>");
        let latin = b"<?xml version='1.0' encoding='ISO-8859-1'?><a>\xfc</a>";
        assert!(decode_xml(latin, "OVF").unwrap().ends_with("<a>ü</a>"));
        let wrong_label = "<?xml version=\"1.0\" encoding=\"utf-16\"?><a>ü</a>";
        assert!(
            decode_xml(wrong_label.as_bytes(), "OVF")
                .unwrap()
                .ends_with("<a>ü</a>")
        );
    }

    #[test]
    fn wrong_encodings_are_named() {
        let kind = |bytes: &[u8]| decode_xml(bytes, "OVF").unwrap_err().kind();
        assert_eq!(kind(b"<a>\xfc</a>"), ErrorKind::Malformed);
        assert_eq!(
            kind(b"<?xml version='1.0' encoding='EBCDIC-7'?><a/>"),
            ErrorKind::Unsupported
        );
        assert_eq!(kind(&vec![b' '; MAX_DESCRIPTION + 1]), ErrorKind::Limit);
    }

    #[test]
    fn names_have_no_control_characters() {
        assert_eq!(clean_name("  a\n  b ", "name").unwrap(), "a b");
        for bad in ["a\u{1b}[2J", "a\u{7f}", "a\u{85}", "a\u{202e}fdp"] {
            assert_eq!(
                clean_name(bad, "name").unwrap_err().kind(),
                ErrorKind::Malformed
            );
        }
        assert_eq!(
            clean_name(&"x".repeat(2000), "name").unwrap_err().kind(),
            ErrorKind::Limit
        );
    }
}
