//! `check`: whether an image is whole.

use std::process::ExitCode;
use std::sync::Arc;

use formats::open::open_alone;
use formats::{ErrorKind, FileStorage, Finding, StorageRef, driver, probe};
use serde::Serialize;
use transfer::{Losses, Progress, Setting};

use crate::args;
use crate::failure::Failure;
use crate::{open, report, watch};

/// Damaged ranges that people are shown one by one.
const RANGES_SHOWN: usize = 50;

#[derive(Serialize)]
struct Answer {
    file: String,
    format: Option<String>,
    damaged: bool,
    damage: Vec<String>,
    /// Guest ranges that cannot be read.
    lost: Vec<Range>,
    lost_bytes: u64,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Range {
    offset: u64,
    length: u64,
    reason: String,
}

/// Runs the verb. What keeps the image from being opened is damage, too.
pub fn run(arguments: &args::Check) -> Result<ExitCode, Failure> {
    let mut answer = Answer {
        file: arguments.image.display().to_string(),
        format: None,
        damaged: false,
        damage: Vec::new(),
        lost: Vec::new(),
        lost_bytes: 0,
        warnings: Vec::new(),
    };
    match look(arguments, &mut answer) {
        Err(Failure(transfer::Error::Image(error)))
            if matches!(error.kind(), ErrorKind::Malformed | ErrorKind::Truncated) =>
        {
            answer.damage.push(error.to_string());
        }
        looked => looked?,
    }
    answer.damaged = !answer.damage.is_empty() || !answer.lost.is_empty();
    if arguments.output.json {
        report::json(&answer)?;
    } else {
        report::text(&text(&answer))?;
    }
    Ok(ExitCode::from(u8::from(answer.damaged)))
}

fn look(arguments: &args::Check, answer: &mut Answer) -> Result<(), Failure> {
    let context = open::context_for_tables(&arguments.opening)?;
    let named = open::format(arguments.source_format.as_deref())?;
    let storage: StorageRef = Arc::new(FileStorage::open(&arguments.image)?);
    let format = match named {
        Some(format) => format,
        None => probe(storage.as_ref())?,
    };
    answer.format = Some(format.to_string());
    let (layer, _) = open_alone(&arguments.image, Some(format), &context)?;
    answer.warnings.clone_from(&layer.info.warnings);
    let cancel = open::cancel_on_signals()?;
    let progress = Progress::default();
    let setting = Setting {
        threads: open::threads(arguments.jobs)?,
        cancel: &cancel,
        progress: &progress,
        salvage: None,
    };
    let losses = watch::watched(&arguments.output, &progress, || {
        transfer::check(&layer.source, &setting)
    })?;
    answer.take_losses(&losses);
    answer.take_findings(driver(format).check(&layer.storage, &context)?);
    Ok(())
}

impl Answer {
    fn take_losses(&mut self, losses: &Losses) {
        self.lost_bytes = losses.bytes;
        let ranges = losses.holes.iter().map(|hole| Range {
            offset: hole.offset,
            length: hole.len,
            reason: hole.reason.clone(),
        });
        self.lost.extend(ranges);
    }

    fn take_findings(&mut self, findings: Vec<Finding>) {
        for finding in findings {
            if finding.is_damage {
                self.damage.push(finding.message);
            } else {
                self.warnings.push(finding.message);
            }
        }
    }
}

fn text(answer: &Answer) -> String {
    let mut text = String::new();
    for warning in &answer.warnings {
        text += &format!("warning: {warning}\n");
    }
    for damage in &answer.damage {
        text += &format!("damage: {damage}\n");
    }
    for range in answer.lost.iter().take(RANGES_SHOWN) {
        text += &format!(
            "damage: {} bytes of the disk at {} cannot be read: {}\n",
            range.length, range.offset, range.reason
        );
    }
    if answer.lost.len() > RANGES_SHOWN {
        let more = answer.lost.len() - RANGES_SHOWN;
        text += &format!("damage: {more} more ranges; --json lists them\n");
    }
    let verdict = match (answer.damaged, answer.lost_bytes) {
        (true, 0) => "damaged".to_owned(),
        (true, bytes) => format!("damaged; {bytes} bytes of the disk cannot be read"),
        (false, _) => "no damage found".to_owned(),
    };
    text + &format!("{}: {verdict}\n", answer.file)
}
