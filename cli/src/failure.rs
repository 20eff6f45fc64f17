//! Errors on their way out: text, JSON, exit code.

use std::process::ExitCode;

use formats::ErrorKind;
use serde::Serialize;

use crate::report;

/// Why the command did not do what it was asked to.
#[derive(Debug)]
pub struct Failure(pub transfer::Error);

impl From<transfer::Error> for Failure {
    fn from(error: transfer::Error) -> Self {
        Failure(error)
    }
}

impl From<formats::Error> for Failure {
    fn from(error: formats::Error) -> Self {
        Failure(error.into())
    }
}

/// The `error` object of `--json`.
#[derive(Serialize)]
struct Description<'a> {
    kind: &'static str,
    message: String,
    file: Option<String>,
    offset: Option<u64>,
    structure: Option<&'a str>,
    found: Option<&'a str>,
    expected: Option<&'a str>,
}

impl Failure {
    /// Exit codes of the command's contract.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match (&self.0, self.0.kind()) {
            (transfer::Error::Interrupted, _) => 130,
            (_, Some(ErrorKind::Usage)) => 2,
            (_, Some(ErrorKind::Refused)) => 5,
            (_, Some(ErrorKind::Io)) | (_, None) => 4,
            (_, Some(_)) => 3,
        })
    }

    /// Whether a file could not be read or written.
    pub fn is_io(&self) -> bool {
        self.0.kind() == Some(ErrorKind::Io)
    }

    /// Says it on standard error, and with `json` as an object on standard output.
    pub fn report(&self, json: bool) {
        report::line(&format!("diskferry: {}", self.0));
        if json {
            let _ = report::json(&serde_json::json!({ "error": self.describe() }));
        }
    }

    /// What a program wants to know about it.
    pub fn describe(&self) -> impl Serialize {
        let image = match &self.0 {
            transfer::Error::Image(error) => Some(error),
            _ => None,
        };
        Description {
            kind: match (&self.0, self.0.kind()) {
                (_, Some(kind)) => kind.name(),
                (transfer::Error::Interrupted, None) => "interrupted",
                _ => "verify_failed",
            },
            message: self.0.to_string(),
            file: image
                .and_then(|e| e.path())
                .map(|p| p.display().to_string()),
            offset: image.and_then(|e| e.offset()),
            structure: image.map(|e| e.structure()),
            found: image.and_then(|e| e.found_value()),
            expected: image.and_then(|e| e.expected_value()),
        }
    }
}
