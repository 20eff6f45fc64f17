//! The one error of this crate: a kind that code can match on, and what a person needs to act on it.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure it is. Few, stable, and what exit codes are made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The image contradicts its format: a checksum, an offset, a magic, a value out of range.
    Malformed,
    /// The image is legal, but uses something that is not supported.
    Unsupported,
    /// Bytes that the image promises are not in the file.
    Truncated,
    /// The operating system failed to read or write.
    Io,
    /// Not done because it would not be safe: a reference out of the folder, a name that contradicts the content.
    Refused,
    /// Larger than the format, or than the cap on tables, allows.
    Limit,
    /// The caller asked for an option or a value that does not exist.
    Usage,
}

impl ErrorKind {
    /// The kind in one lower-case word, as JSON output names it.
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::Malformed => "malformed",
            ErrorKind::Unsupported => "unsupported",
            ErrorKind::Truncated => "truncated",
            ErrorKind::Io => "io",
            ErrorKind::Refused => "refused",
            ErrorKind::Limit => "limit",
            ErrorKind::Usage => "usage",
        }
    }
}

/// An error with its place: file, offset, structure, what was found, what was expected, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.render())]
pub struct Error(Box<Detail>);

#[derive(Debug)]
struct Detail {
    kind: ErrorKind,
    message: Cow<'static, str>,
    structure: Cow<'static, str>,
    path: Option<PathBuf>,
    offset: Option<u64>,
    found: Option<String>,
    expected: Option<String>,
    hint: Option<Cow<'static, str>>,
    source: Option<io::Error>,
}

impl Detail {
    fn render(&self) -> String {
        let mut text = String::new();
        if let Some(path) = &self.path {
            text += &format!("{}: ", path.display());
        }
        text += &self.structure;
        if let Some(offset) = self.offset {
            text += &format!(" at offset {offset}");
        }
        text += &format!(": {}", self.message);
        match (&self.found, &self.expected) {
            (Some(found), Some(expected)) => {
                text += &format!(" (found {found}, expected {expected})")
            }
            (Some(found), None) => text += &format!(" (found {found})"),
            (None, Some(expected)) => text += &format!(" (expected {expected})"),
            (None, None) => {}
        }
        if let Some(source) = &self.source {
            text += &format!(": {source}");
        }
        if let Some(hint) = &self.hint {
            text += &format!("; {hint}");
        }
        text
    }
}

impl Error {
    /// An error of `kind` about `structure` (the field's own name for it: "footer", "L2 table").
    pub fn new(
        kind: ErrorKind,
        structure: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Error(Box::new(Detail {
            kind,
            message: message.into(),
            structure: structure.into(),
            path: None,
            offset: None,
            found: None,
            expected: None,
            hint: None,
            source: None,
        }))
    }

    /// The image contradicts its format.
    pub fn malformed(
        structure: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::new(ErrorKind::Malformed, structure, message)
    }

    /// Legal, but not supported.
    pub fn unsupported(
        structure: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::new(ErrorKind::Unsupported, structure, message)
    }

    /// The file ends before what the image promises.
    pub fn truncated(
        structure: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::new(ErrorKind::Truncated, structure, message)
    }

    /// Not done because it would not be safe.
    pub fn refused(
        structure: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::new(ErrorKind::Refused, structure, message)
    }

    /// Over a limit of the format or of this program.
    pub fn limit(
        structure: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::new(ErrorKind::Limit, structure, message)
    }

    /// An option or a value that does not exist.
    pub fn usage(
        structure: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::new(ErrorKind::Usage, structure, message)
    }

    /// The operating system's answer `source` to `operation` ("read", "open").
    pub fn io(operation: impl Into<Cow<'static, str>>, source: io::Error) -> Self {
        let mut error = Self::new(ErrorKind::Io, operation, "failed");
        error.0.source = Some(source);
        error
    }

    /// Byte offset in the file at which the structure stands.
    pub fn at(mut self, offset: u64) -> Self {
        self.0.offset = Some(offset);
        self
    }

    /// As [`Error::at`], unless an offset was set closer to the cause.
    pub fn near(mut self, offset: u64) -> Self {
        self.0.offset.get_or_insert(offset);
        self
    }

    /// The file it is about; a path that was set closer to the cause stays.
    pub fn in_file(mut self, path: &Path) -> Self {
        self.0.path.get_or_insert_with(|| path.to_owned());
        self
    }

    /// The value that was found.
    pub fn found(mut self, value: impl fmt::Display) -> Self {
        self.0.found = Some(value.to_string());
        self
    }

    /// The value, or range of values, that would have been right.
    pub fn expected(mut self, value: impl fmt::Display) -> Self {
        self.0.expected = Some(value.to_string());
        self
    }

    /// What the user can do about it.
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The file it is about, where known.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// Byte offset in that file, where known.
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }

    /// The on-disk structure or the operation it is about.
    pub fn structure(&self) -> &str {
        &self.0.structure
    }

    /// The value found, where one was.
    pub fn found_value(&self) -> Option<&str> {
        self.0.found.as_deref()
    }

    /// The value expected, where one was.
    pub fn expected_value(&self) -> Option<&str> {
        self.0.expected.as_deref()
    }

    /// The operating system's error behind it, where there is one.
    pub fn io_source(&self) -> Option<&io::Error> {
        self.0.source.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_file_offset_structure_found_expected_and_hint() {
        let error = Error::malformed("dynamic header", "checksum does not match")
            .at(512)
            .found("0x1")
            .expected("0x2")
            .hint("--salvage reads on")
            .in_file(Path::new("a.vhd"));
        assert_eq!(
            error.to_string(),
            "a.vhd: dynamic header at offset 512: checksum does not match (found 0x1, expected 0x2); --salvage reads on"
        );
    }
}
