//! What there is to tell when several disks were written.

use std::path::Path;
use std::process::ExitCode;

use packages::write::{DiskOut, Made};
use serde::Serialize;
use transfer::Losses;

use super::outcome::say_losses;
use crate::args;
use crate::failure::Failure;
use crate::{render, report};

#[derive(Serialize)]
struct Answer<'a> {
    source: String,
    target: String,
    format: &'static str,
    machines: &'a [String],
    file_size: u64,
    disks: Vec<DiskAnswer<'a>>,
    seconds: f64,
    verified: bool,
    notes: &'a [String],
    lost_bytes: u64,
}

#[derive(Serialize)]
struct DiskAnswer<'a> {
    name: &'a str,
    virtual_size: u64,
    target_size: u64,
    stored: u64,
    data: u64,
    zero: u64,
    digest: Option<String>,
}

/// What there is to tell at the end.
pub struct Told<'a> {
    /// What was asked for.
    pub arguments: &'a args::Convert,
    /// What was made: the kind of package, or the format of the disks.
    pub format: &'static str,
    /// Where it went.
    pub target: &'a Path,
    /// The names of the machines.
    pub machines: Vec<String>,
    /// What was written.
    pub made: Made,
    /// What could not be read.
    pub losses: Losses,
    /// How long it took.
    pub seconds: f64,
}

impl Told<'_> {
    /// Tells it: on standard output, unless the package goes there.
    ///
    /// # Errors
    /// Those of standard output.
    pub fn tell(&self, to_stdout: bool) -> Result<ExitCode, Failure> {
        say_losses(&self.losses);
        self.made.notes.iter().for_each(|note| report::note(note));
        let arguments = self.arguments;
        if arguments.output.json {
            report::json(&self.answer())?;
        } else if to_stdout {
            self.text().lines().for_each(report::line);
        } else {
            report::text(&self.text())?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn text(&self) -> String {
        let arguments = self.arguments;
        let mut text = format!(
            "{} → {} ({}, {}, {:.1} s)\n",
            arguments.source.display(),
            self.target.display(),
            self.format,
            render::size(self.made.file_size),
            self.seconds,
        );
        for disk in &self.made.disks {
            text += &format!(
                "{}: disk {}, data {}, zeros {}; {} stored\n",
                disk.name,
                render::size(disk.target_size),
                render::size(disk.data_bytes),
                render::size(disk.zero_bytes),
                render::size(disk.stored),
            );
            if let Some(digest) = digest(disk) {
                text += &format!("{digest}\n");
            }
        }
        if arguments.verify {
            text += "verified: the target was read back and holds the same\n";
        }
        text
    }

    fn answer(&self) -> Answer<'_> {
        let arguments = self.arguments;
        let disks = self.made.disks.iter().map(|disk| DiskAnswer {
            name: &disk.name,
            virtual_size: disk.source_size,
            target_size: disk.target_size,
            stored: disk.stored,
            data: disk.data_bytes,
            zero: disk.zero_bytes,
            digest: digest(disk),
        });
        Answer {
            source: arguments.source.display().to_string(),
            target: self.target.display().to_string(),
            format: self.format,
            machines: &self.machines,
            file_size: self.made.file_size,
            disks: disks.collect(),
            seconds: self.seconds,
            verified: arguments.verify,
            notes: &self.made.notes,
            lost_bytes: self.losses.bytes,
        }
    }
}

/// The digest of a disk's content: the one asked for, or the one that verifying yields.
fn digest(disk: &DiskOut) -> Option<String> {
    let asked = disk.digests.first();
    let asked = asked.map(|(algorithm, digest)| format!("{algorithm} {digest}"));
    let verified = disk.verified_digest.as_ref();
    asked.or_else(|| verified.map(|digest| format!("blake3 {digest}")))
}
