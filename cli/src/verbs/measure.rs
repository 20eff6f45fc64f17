//! `measure`: how large the file of a conversion would be.

use std::process::ExitCode;

use formats::{Options, driver};
use serde::Serialize;

use super::convert::sparse;
use crate::args;
use crate::failure::Failure;
use crate::work::Work;
use crate::{open, render, report, source};

#[derive(Serialize)]
struct Answer {
    source: String,
    format: String,
    virtual_size: u64,
    /// Bytes of the target, with all its files.
    file_size: u64,
    /// Whether it will be exactly that; otherwise it will not be more.
    exact: bool,
}

/// Runs the verb.
pub fn run(arguments: &args::Measure) -> Result<ExitCode, Failure> {
    let format = formats::format_by_name(&arguments.target_format)?;
    let options =
        Options::new(driver(format).options(), &arguments.options)?.compressed(arguments.compress);
    let context = open::context(&arguments.opening, false)?;
    let source = source::disk(
        &arguments.source,
        arguments.source_format.as_deref(),
        &arguments.opening,
        &context,
    )?;
    let image = &source.image;
    let sparse = sparse(arguments.sparse.as_deref())?;
    let measured = Work::new(arguments.jobs)?.watched(&arguments.output, |setting| {
        transfer::measure(image, format, &options, sparse, setting)
    })?;
    let answer = Answer {
        source: arguments.source.display().to_string(),
        format: format.to_string(),
        virtual_size: image.source.size(),
        file_size: measured.file_size,
        exact: measured.exact,
    };
    if arguments.output.json {
        report::json(&answer)?;
    } else {
        let most = if answer.exact { "" } else { "at most " };
        report::text(&format!(
            "{} as {}: {most}{} bytes ({})\n",
            answer.source,
            answer.format,
            answer.file_size,
            render::size(answer.file_size)
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
