//! Text for the inside of an element or an attribute: the five entities, and nothing that XML cannot say.

/// Text for the inside of an element. Characters that XML 1.0 does not have are left out.
pub fn escape_text(text: &str) -> String {
    escape(text, false)
}

/// Text for the inside of a double-quoted attribute; line breaks and tabs survive.
pub fn escape_attribute(text: &str) -> String {
    escape(text, true)
}

fn escape(text: &str, in_attribute: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' if in_attribute => out += "&quot;",
            '\n' | '\t' if in_attribute => out += &format!("&#{};", c as u32),
            '\r' => out += "&#13;",
            c if is_xml_char(c) => out.push(c),
            _ => {}
        }
    }
    out
}

/// Whether XML 1.0 has this character at all.
pub(super) fn is_xml_char(c: char) -> bool {
    !matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}')
}
