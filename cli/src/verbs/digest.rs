//! `digest`: a digest of the guest content.

use std::process::ExitCode;

use serde::Serialize;
use transfer::{Progress, Salvage, Setting};

use super::convert::say_losses;
use crate::args;
use crate::failure::Failure;
use crate::{open, report, watch};

#[derive(Serialize)]
struct Answer<'a> {
    algorithm: &'a str,
    digest: &'a str,
    size: u64,
    lost_bytes: u64,
}

/// Runs the verb.
pub fn run(arguments: &args::Digest) -> Result<ExitCode, Failure> {
    let context = open::context(&arguments.reading.opening, arguments.reading.salvage)?;
    let image = open::image(
        &arguments.image,
        arguments.source_format.as_deref(),
        &context,
    )?;
    open::check_size(&image, arguments.reading.max_size.as_deref())?;
    let cancel = open::cancel_on_signals()?;
    let progress = Progress::default();
    let salvage = Salvage::default();
    let setting = Setting {
        threads: open::threads(arguments.reading.jobs)?,
        cancel: &cancel,
        progress: &progress,
        salvage: arguments.reading.salvage.then_some(&salvage),
    };
    let digests = watch::watched(&arguments.output, &progress, || {
        transfer::digest(&image.source, &[arguments.algorithm.into()], &setting)
    })?;
    image.check_unchanged()?;
    let losses = salvage.losses();
    say_losses(&losses);
    for (algorithm, digest) in &digests {
        if arguments.output.json {
            report::json(&Answer {
                algorithm: algorithm.name(),
                digest,
                size: image.source.size(),
                lost_bytes: losses.bytes,
            })?;
        } else {
            report::text(&format!("{digest}  {}\n", arguments.image.display()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
