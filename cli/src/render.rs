//! Numbers and words for people.

use std::borrow::Cow;

/// A size in binary units, exact when it is a whole number of them: `8 GiB`, `5.1 GiB`, `513 B`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64;
    let mut unit = "B";
    for name in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = name;
    }
    if value.fract() == 0.0 {
        format!("{value} {unit}")
    } else {
        format!("{value:.1} {unit}")
    }
}

/// `text` with what would move the cursor, hide, or turn around other text written out: it may come from an image.
pub fn printable(text: &str) -> Cow<'_, str> {
    written_out(text, is_harmful, |c| c.escape_default().to_string())
}

/// The same for text of several lines.
pub fn printable_lines(text: &str) -> Cow<'_, str> {
    let is_harmful = |c| c != '\n' && is_harmful(c);
    written_out(text, is_harmful, |c| c.escape_default().to_string())
}

/// The same for JSON, which means what it meant before: what is harmful stands in strings, but for the ends of its lines.
pub fn printable_json(text: &str) -> Cow<'_, str> {
    let is_harmful = |c| c != '\n' && is_harmful(c);
    // None of them takes more than 16 bits.
    written_out(text, is_harmful, |c| format!("\\u{:04x}", u32::from(c)))
}

fn is_harmful(c: char) -> bool {
    c.is_control() && c != '\t'
        || matches!(c, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{2069}' | '\u{FEFF}')
}

fn written_out(
    text: &str,
    is_harmful: impl Fn(char) -> bool,
    escape: impl Fn(char) -> String,
) -> Cow<'_, str> {
    if !text.contains(&is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::new();
    for c in text.chars() {
        match is_harmful(c) {
            true => shown.push_str(&escape(c)),
            false => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_would_trick_a_terminal_is_written_out() {
        assert_eq!(super::printable("Über 9\tµ"), "Über 9\tµ");
        assert_eq!(
            super::printable("a\u{1b}[2J\n\u{202e}b"),
            "a\\u{1b}[2J\\n\\u{202e}b"
        );
        assert_eq!(super::printable_lines("a\n\u{202e}b\n"), "a\n\\u{202e}b\n");
        assert_eq!(
            super::printable_json("{\n\"a\": \"\u{9b}8m\u{202e}\"\n}"),
            "{\n\"a\": \"\\u009b8m\\u202e\"\n}"
        );
    }

    #[test]
    fn sizes_read_well() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (8 << 30, "8 GiB"),
            (64 << 40, "64 TiB"),
        ] {
            assert_eq!(super::size(bytes), text);
        }
    }
}
