//! What a conversion has to say at its end.

use std::path::Path;

use formats::Format;
use serde::Serialize;
use transfer::{Converted, Losses};

use crate::args;
use crate::source::Source;
use crate::{render, report};

/// Holes that people are shown one by one.
const HOLES_SHOWN: usize = 50;

/// Lists what `--salvage` had to leave out.
pub fn say_losses(losses: &Losses) {
    if losses.count == 0 {
        return;
    }
    for hole in losses.holes.iter().take(HOLES_SHOWN) {
        report::warning(&format!(
            "lost {} bytes at {}: {}",
            hole.len, hole.offset, hole.reason
        ));
    }
    report::warning(&format!(
        "{} ranges, {} bytes, were not readable and are zeros in the result",
        losses.count, losses.bytes
    ));
}

/// What there is to tell.
pub struct Outcome<'a> {
    /// What was asked for.
    pub arguments: &'a args::Convert,
    /// What was read.
    pub source: &'a Source,
    /// Where it went.
    pub target: &'a Path,
    /// As what.
    pub target_format: Format,
    /// What the engine did.
    pub converted: Converted,
    /// What could not be read.
    pub losses: Losses,
    /// How long it took.
    pub seconds: f64,
}

/// The same for programs.
#[derive(Serialize)]
pub struct Answer {
    source: End,
    target: End,
    bytes: Bytes,
    seconds: f64,
    digest: Option<DigestAnswer>,
    verified: bool,
    reflinked: bool,
    notes: Vec<String>,
    lost: Vec<Lost>,
}

#[derive(Serialize)]
struct End {
    file: String,
    format: String,
    virtual_size: u64,
    file_size: u64,
}

#[derive(Serialize)]
struct Bytes {
    data: u64,
    zero: u64,
    /// What an overlay leaves to the image below.
    below: u64,
    lost: u64,
}

#[derive(Serialize)]
struct DigestAnswer {
    algorithm: String,
    digest: String,
}

#[derive(Serialize)]
struct Lost {
    offset: u64,
    length: u64,
    reason: String,
}

impl Outcome<'_> {
    /// Says on standard error what the user should know.
    pub fn say_notes(&self) {
        say_losses(&self.losses);
        let done = &self.converted;
        done.notes.iter().for_each(|note| report::note(note));
        if done.target_size > done.source_size {
            report::note(&format!(
                "{} bytes → {}: {} stores whole sectors, the rest is zeros",
                done.source_size, done.target_size, self.target_format
            ));
        }
        if done.left_on_device > 0 {
            report::note(&format!(
                "the device is {} bytes larger than the disk; what stands there was left alone",
                done.left_on_device
            ));
        }
        if self.arguments.verify && self.digest().is_none() {
            report::note(
                "no digest: hashing the zeros of this disk would take longer than all of its data; \
                 --digest blake3 insists",
            );
        }
    }

    /// Bytes that an overlay leaves to the image below.
    fn below(&self) -> u64 {
        let done = &self.converted;
        let told = done.data_bytes.saturating_add(done.zero_bytes);
        done.source_size.saturating_sub(told)
    }

    fn digest(&self) -> Option<(String, String)> {
        let asked = self.converted.digests.first();
        asked
            .map(|(algorithm, digest)| (algorithm.to_string(), digest.clone()))
            .or_else(|| {
                let digest = self.converted.verified_digest.clone()?;
                Some(("blake3".to_owned(), digest))
            })
    }

    /// The digest in one word, for a receipt.
    pub fn digest_text(&self) -> Option<String> {
        let digest = self.digest();
        digest.map(|(algorithm, digest)| format!("{algorithm} {digest}"))
    }

    /// The result for people.
    pub fn text(&self) -> String {
        let done = &self.converted;
        let mut text = format!(
            "{} ({}, {}) → {} ({}, {})\n",
            self.source.path.display(),
            self.source.format,
            render::size(self.source.file_size),
            self.target.display(),
            self.target_format,
            render::size(done.file_size),
        );
        text += &format!(
            "disk {}: data {}, zeros {}{}; {:.1} s, {}/s{}\n",
            render::size(done.source_size),
            render::size(done.data_bytes),
            render::size(done.zero_bytes),
            match self.below() {
                0 => String::new(),
                bytes => format!(", as below {}", render::size(bytes)),
            },
            self.seconds,
            render::size((done.source_size as f64 / self.seconds.max(0.001)) as u64),
            if done.reflinked { " (reflink)" } else { "" },
        );
        if let Some((algorithm, digest)) = self.digest() {
            text += &format!("{algorithm} {digest}\n");
        }
        if done.verified {
            text += "verified: the target was read back and holds the same\n";
        }
        text
    }

    /// The result for programs.
    pub fn answer(&self) -> Answer {
        let done = &self.converted;
        Answer {
            source: End {
                file: self.source.path.display().to_string(),
                format: self.source.format.clone(),
                virtual_size: done.source_size,
                file_size: self.source.file_size,
            },
            target: End {
                file: self.target.display().to_string(),
                format: self.target_format.to_string(),
                virtual_size: done.target_size,
                file_size: done.file_size,
            },
            bytes: Bytes {
                data: done.data_bytes,
                zero: done.zero_bytes,
                below: self.below(),
                lost: self.losses.bytes,
            },
            seconds: self.seconds,
            digest: self
                .digest()
                .map(|(algorithm, digest)| DigestAnswer { algorithm, digest }),
            verified: done.verified,
            reflinked: done.reflinked,
            notes: done.notes.clone(),
            lost: self
                .losses
                .holes
                .iter()
                .map(|hole| Lost {
                    offset: hole.offset,
                    length: hole.len,
                    reason: hole.reason.clone(),
                })
                .collect(),
        }
    }
}
