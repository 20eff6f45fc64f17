//! A file as a description names it, and what of that may be opened.

use std::borrow::Cow;
use std::fmt;

use formats::{Error, Result};
use serde::{Deserialize, Serialize};

/// The `href` of a file: kept as it was written, opened only through [`Href::relative`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Href(String);

impl Href {
    /// An `href` of any text.
    pub fn new(text: impl Into<String>) -> Href {
        Href(text.into())
    }

    /// As it was written. For messages; not for opening.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path below the folder, or in the package, that holds the description: plain names with `/` between them.
    ///
    /// # Errors
    /// `Refused` for URLs, absolute paths, `..`, backslashes and drive letters; `Malformed` for control characters and
    /// empty names.
    pub fn relative(&self) -> Result<&str> {
        let path = self.0.strip_prefix("./").unwrap_or(&self.0);
        checked(path).map(|()| path)
    }

    /// [`Href::relative`] with `%20` and the like read as the characters they stand for, where that is something else.
    ///
    /// # Errors
    /// As [`Href::relative`], for what comes out.
    pub fn unescaped(&self) -> Result<Option<Cow<'_, str>>> {
        let path = self.relative()?;
        let Some(decoded) = percent_decoded(path) else {
            return Ok(None);
        };
        checked(&decoded)?;
        Ok(Some(Cow::Owned(decoded)))
    }

    /// Whether it names something in the folder of the description itself, not in one below.
    pub fn is_flat(&self) -> bool {
        self.relative().is_ok_and(|path| !path.contains('/'))
    }
}

impl fmt::Display for Href {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_debug())
    }
}

fn checked(path: &str) -> Result<()> {
    let refused = |why: &'static str| {
        Err(Error::refused("file reference", why)
            .found(format!("{path:?}"))
            .hint("only files beside the description are opened"))
    };
    if path.chars().any(char::is_control) {
        return Err(
            Error::malformed("file reference", "control characters in it")
                .found(format!("{path:?}")),
        );
    }
    if has_scheme(path) {
        return refused("a URL or a drive");
    }
    if path.starts_with('/') || path.contains('\\') {
        return refused("a path from elsewhere");
    }
    for name in path.split('/') {
        match name {
            ".." => return refused("leads out of the folder"),
            "" | "." => {
                return Err(Error::malformed("file reference", "an empty name in it")
                    .found(format!("{path:?}")));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether it begins like a URL (RFC 3986, 3.1), which a drive letter does too.
fn has_scheme(path: &str) -> bool {
    path.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    })
}

/// `text` with `%xx` decoded; `None` if there is none, or what comes out is no UTF-8.
fn percent_decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    let mut any = false;
    while let Some(b) = bytes.next() {
        let mut ahead = bytes.clone();
        let digits = [ahead.next(), ahead.next()].map(|d| d.and_then(|d| (d as char).to_digit(16)));
        match (b, digits) {
            (b'%', [Some(high), Some(low)]) => {
                out.push((high * 16 + low) as u8);
                bytes = ahead;
                any = true;
            }
            _ => out.push(b),
        }
    }
    any.then(|| String::from_utf8(out).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use formats::ErrorKind;

    #[test]
    fn files_beside_the_description_are_taken() {
        for good in [
            "disk.vmdk",
            "a b.vmdk",
            "./disk.vmdk",
            "ùà.vmdk",
            "{0d71}.vmdk",
        ] {
            assert!(Href::new(good).is_flat(), "{good}");
        }
        assert_eq!(Href::new("data/a.vmdk").relative().unwrap(), "data/a.vmdk");
        assert!(!Href::new("data/a.vmdk").is_flat());
        assert_eq!(
            Href::new("a%20b.vmdk").unescaped().unwrap().as_deref(),
            Some("a b.vmdk")
        );
        assert_eq!(Href::new("100%.vmdk").unescaped().unwrap(), None);
    }

    #[test]
    fn everything_else_is_refused() {
        for bad in [
            "../a.vmdk",
            "a/../../b",
            "/etc/passwd",
            "\\\\host\\share",
            "a\\b",
            "C:a.vmdk",
            "http://host/a.vmdk",
            "file:///etc/passwd",
            "..",
        ] {
            let error = Href::new(bad).relative().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Refused, "{bad}");
        }
        for bad in ["", "a//b", "a\nb", "a\0b", "./"] {
            let error = Href::new(bad).relative().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Malformed, "{bad:?}");
        }
        let hidden = Href::new("%2e%2e%2fpasswd").unescaped().unwrap_err();
        assert_eq!(hidden.kind(), ErrorKind::Refused);
    }
}
