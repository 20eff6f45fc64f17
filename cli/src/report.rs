//! Printing results: to standard output, and quietly when nobody reads it any more.

use std::io::Write;

use serde::Serialize;

/// Prints `text` to standard output. A reader that went away is no error of ours.
pub fn text(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// Prints one JSON object.
pub fn json(value: &impl Serialize) {
    if let Ok(line) = serde_json::to_string_pretty(value) {
        text(&(line + "\n"));
    }
}

/// Says something that the user should know, on standard error.
pub fn note(message: &str) {
    eprintln!("note: {message}");
}

/// Warns, on standard error.
pub fn warning(message: &str) {
    eprintln!("warning: {message}");
}
