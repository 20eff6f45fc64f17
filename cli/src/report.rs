//! Printing results: to standard output, and quietly when nobody reads it any more.

use std::io::Write;

use serde::Serialize;

use crate::failure::Failure;
use crate::render;

/// Prints lines of an answer to standard output, with what harms terminals written out.
pub fn text(text: &str) -> Result<(), Failure> {
    raw(&render::printable_lines(text))
}

/// Prints `text` as it is. A reader that went away is no error of ours; an answer that is lost otherwise is.
pub fn raw(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    written(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// Prints one JSON object.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    let lines = serde_json::to_string_pretty(value).map_err(std::io::Error::from);
    raw(&(render::printable_json(&lines.map_err(not_written)?).into_owned() + "\n"))
}

/// The result of writing to standard output, as [`text`] sees it.
pub fn written(result: std::io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(not_written),
    }
}

fn not_written(error: std::io::Error) -> Failure {
    formats::Error::io("write the answer to standard output", error).into()
}

/// Prints a line to standard error. There is nobody to tell when that fails.
pub fn line(message: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", render::printable(message));
}

/// Says something that the user should know, on standard error.
pub fn note(message: &str) {
    line(&format!("note: {message}"));
}

/// Warns, on standard error.
pub fn warning(message: &str) {
    line(&format!("warning: {message}"));
}
