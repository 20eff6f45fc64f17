//! The lines of a VMX: `key = "value"`, with `|22` for what quotes cannot hold.

use std::collections::BTreeMap;

use formats::{Error, Result};

use super::WHAT;
use crate::text::{check_characters, decode_text};

/// Lines of a VMX that are read. Those of large machines have a few hundred.
const MAX_LINES: usize = 100_000;

/// Keys and values, in order. Keys are found in any case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dictionary {
    lines: Vec<(String, String)>,
    by_key: BTreeMap<String, usize>,
}

impl Dictionary {
    /// Reads the lines of a VMX.
    ///
    /// # Errors
    /// `Malformed` for a line that is no `key = value`, and a key with two values; `Unsupported` for an encoding that is not
    /// known; `Limit` above 16 MiB.
    pub fn parse(bytes: &[u8]) -> Result<Dictionary> {
        let label = encoding(bytes);
        let is_utf8 = std::str::from_utf8(bytes).is_ok();
        // Without a word about it, old hosts wrote the code page of their system.
        let label = label.or_else(|| (!is_utf8).then(|| "windows-1252".to_owned()));
        let text = decode_text(bytes, label.as_deref(), WHAT)?;
        let mut found = Dictionary::default();
        for (number, line) in text.lines().enumerate() {
            if number >= MAX_LINES {
                return Err(
                    Error::limit(WHAT, "too many lines").expected(format!("at most {MAX_LINES}"))
                );
            }
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            found.line(line, number + 1)?;
        }
        Ok(found)
    }

    fn line(&mut self, line: &str, number: usize) -> Result<()> {
        let wrong =
            |message: &'static str| Error::malformed(format!("{WHAT} in line {number}"), message);
        let (key, value) = line
            .split_once('=')
            .ok_or_else(|| wrong("not a line of a VMX").expected("key = \"value\""))?;
        let key = key.trim();
        if key.is_empty() || key.contains([' ', '"', '\t']) {
            return Err(wrong("not a key").found(format!("{key:?}")));
        }
        check_characters(key, "key of a VMX")?;
        let value = unquoted(value.trim()).ok_or_else(|| wrong("a value that does not end"))?;
        let value = unescaped(value);
        match self.get(key) {
            Some(before) if before != value => {
                Err(wrong("a key that has another value already")
                    .found(format!("{key} = {value:?}")))
            }
            Some(_) => Ok(()),
            None => {
                self.set(key, value);
                Ok(())
            }
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        let index = self.by_key.get(&key.to_ascii_lowercase())?;
        self.lines.get(*index).map(|(_, value)| value.as_str())
    }

    /// The value of a key, unless it is empty.
    pub fn filled(&self, key: &str) -> Option<&str> {
        self.get(key).map(str::trim).filter(|v| !v.is_empty())
    }

    /// Whether a key is `TRUE`.
    pub fn is_true(&self, key: &str) -> bool {
        self.flag(key).unwrap_or(false)
    }

    /// What a key that is `TRUE` or `FALSE` says.
    pub fn flag(&self, key: &str) -> Option<bool> {
        match self.filled(key)?.to_ascii_lowercase().as_str() {
            "true" | "yes" | "y" | "on" | "1" => Some(true),
            "false" | "no" | "n" | "off" | "0" => Some(false),
            _ => None,
        }
    }

    /// Sets a key.
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        let lower = key.to_ascii_lowercase();
        match self.by_key.get(&lower).and_then(|i| self.lines.get_mut(*i)) {
            Some(line) => line.1 = value.into(),
            None => {
                self.by_key.insert(lower, self.lines.len());
                self.lines.push((key.to_owned(), value.into()));
            }
        }
    }

    /// Keys and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.lines.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// Keys that begin with `prefix`, in any case, without it, and their values.
    pub fn below<'d>(&'d self, prefix: &str) -> impl Iterator<Item = (&'d str, &'d str)> {
        let prefix = prefix.to_ascii_lowercase();
        let len = prefix.len();
        self.by_key
            .range(prefix.clone()..)
            .take_while(move |(key, _)| key.starts_with(&prefix))
            .filter_map(move |(_, index)| {
                let (key, value) = self.lines.get(*index)?;
                Some((key.get(len..)?, value.as_str()))
            })
    }

    /// The text, in UTF-8.
    pub fn to_text(&self) -> String {
        self.iter()
            .map(|(key, value)| format!("{key} = \"{}\"\n", escaped(value)))
            .collect()
    }
}

/// What `.encoding` says; it is ASCII in every encoding that VMware writes.
fn encoding(bytes: &[u8]) -> Option<String> {
    bytes.split(|b| *b == b'\n').take(200).find_map(|line| {
        let line = std::str::from_utf8(line).ok()?.trim();
        let (key, value) = line.split_once('=')?;
        let is_it = key.trim().eq_ignore_ascii_case(".encoding");
        is_it.then(|| value.trim().trim_matches('"').to_owned())
    })
}

/// What stands between quotes, or all of it without; a comment may follow.
fn unquoted(value: &str) -> Option<&str> {
    match value.strip_prefix('"') {
        Some(rest) => rest.split_once('"').map(|(inside, _)| inside),
        None => Some(value),
    }
}

/// `|22` and the like as the characters they stand for.
fn unescaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let mut rest = value;
    while let Some((before, after)) = rest.split_once('|') {
        out += before;
        let code = after
            .get(..2)
            .filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
            .filter(u8::is_ascii);
        match code {
            Some(code) => {
                out.push(code as char);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                out.push('|');
                rest = after;
            }
        }
    }
    out + rest
}

fn escaped(value: &str) -> String {
    value
        .chars()
        .map(|c| match c {
            '"' | '|' | '#' | '\0'..='\u{1f}' | '\u{7f}' => format!("|{:02X}", c as u32),
            c => c.to_string(),
        })
        .collect()
}
