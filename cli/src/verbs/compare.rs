//! `compare`: whether two images hold the same disk.

use std::process::ExitCode;

use formats::OpenContext;
use serde::Serialize;
use transfer::Comparison;

use crate::args;
use crate::failure::Failure;
use crate::work::Work;
use crate::{open, report, source};

/// Ranges that people are shown.
const SHOWN: usize = 16;

#[derive(Serialize)]
struct Answer {
    identical: bool,
    sizes: [u64; 2],
    difference_count: u64,
    different_bytes: u64,
    differences: Vec<Range>,
}

#[derive(Serialize)]
struct Range {
    offset: u64,
    length: u64,
}

/// Runs the verb. Exit code 1: they differ.
pub fn run(arguments: &args::Compare) -> Result<ExitCode, Failure> {
    let context = open::context(&arguments.opening, false)?;
    // A snapshot or a layer is asked for of the first image.
    let present = OpenContext {
        snapshot: None,
        layer: None,
        ..context.clone()
    };
    let choice = source::choice(&arguments.opening);
    let open = |path, format: &Option<String>, context| {
        source::disk_or_image(path, format.as_deref(), &choice, context)
    };
    let mut first = open(&arguments.first, &arguments.first_format, &context)?;
    let mut second = open(&arguments.second, &arguments.second_format, &present)?;
    if !first.is_packaged && !second.is_packaged {
        source::refuse_choice(&arguments.opening, &arguments.first)?;
    }
    let work = Work::new(arguments.jobs)?;
    let provided = [&mut first, &mut second].map(|source| source.watch(work.cancel()));
    let comparison = work.watched(&arguments.output, |setting| {
        let comparison = transfer::compare(
            first.image.source.as_ref(),
            second.image.source.as_ref(),
            arguments.quiet,
            setting,
        )?;
        provided.iter().flatten().try_for_each(|holds| holds())?;
        Ok::<_, transfer::Error>(comparison)
    })?;
    first.image.check_unchanged()?;
    second.image.check_unchanged()?;
    let same_size = comparison.sizes[0] == comparison.sizes[1];
    let identical = comparison.is_equal() && (same_size || !arguments.strict);
    if arguments.output.json {
        print_json(&comparison, identical)?;
    } else if !arguments.quiet {
        print_text(&comparison, identical)?;
    }
    Ok(ExitCode::from(u8::from(!identical)))
}

fn print_json(comparison: &Comparison, identical: bool) -> Result<(), Failure> {
    let differences = comparison
        .differences
        .iter()
        .map(|d| Range {
            offset: d.offset,
            length: d.length,
        })
        .collect();
    report::json(&Answer {
        identical,
        sizes: comparison.sizes,
        difference_count: comparison.count,
        different_bytes: comparison.bytes,
        differences,
    })
}

fn print_text(comparison: &Comparison, identical: bool) -> Result<(), Failure> {
    let mut text = String::new();
    let [first, second] = comparison.sizes;
    if first != second {
        text += &format!("sizes differ: {first} and {second} bytes");
        text += if comparison.is_equal() {
            "; the rest of the longer disk is zeros\n"
        } else {
            "\n"
        };
    }
    for range in comparison.differences.iter().take(SHOWN) {
        text += &format!("differ at {:>16}, {} bytes\n", range.offset, range.length);
    }
    if comparison.count > SHOWN as u64 {
        text += &format!(
            "… {} ranges in all, {} bytes\n",
            comparison.count, comparison.bytes
        );
    }
    text += if identical {
        "identical\n"
    } else {
        "different\n"
    };
    report::text(&text)
}
