//! `digest`: a digest of the guest content.

use std::process::ExitCode;

use serde::Serialize;

use super::convert::say_losses;
use crate::args;
use crate::failure::Failure;
use crate::work::Work;
use crate::{open, report, source};

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
    let mut source = source::disk(
        &arguments.image,
        arguments.source_format.as_deref(),
        &arguments.reading.opening,
        &context,
    )?;
    open::check_size(&source.image, arguments.reading.max_size.as_deref())?;
    let work = Work::new(arguments.reading.jobs)?.salvaging(arguments.reading.salvage);
    let provided = source.watch(work.cancel());
    let image = &source.image;
    let digests = work.watched(&arguments.output, |setting| {
        let digests = transfer::digest(&image.source, &[arguments.algorithm.into()], setting)?;
        provided.map_or(Ok(()), |holds| holds())?;
        Ok::<_, transfer::Error>(digests)
    })?;
    image.check_unchanged()?;
    let losses = work.losses();
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
