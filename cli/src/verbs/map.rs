//! `map`: the runs of an image.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use formats::{BlockSource, Error, Image, Mapping, Run, WritableStorage, driver, run_at};
use serde::Serialize;
use transfer::output::FileOutput;

use super::picture::Picture;
use crate::args;
use crate::failure::Failure;
use crate::{open, report, source};

/// One line of the map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    pub offset: u64,
    pub length: u64,
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// File in which the bytes stand.
    pub file: Option<String>,
    /// Where in that file: for compressed data, the unit that holds it.
    pub file_offset: Option<u64>,
    /// Whether what stands there has to be decrypted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub encrypted: bool,
}

impl Entry {
    fn new(offset: u64, run: &Run) -> Entry {
        let (kind, place) = match &run.mapping {
            Mapping::Absent => ("absent", None),
            Mapping::Zero => ("zero", None),
            Mapping::Stored { storage, offset } => ("data", Some((storage, *offset))),
            Mapping::Packed {
                storage, offset, ..
            } => ("compressed", Some((storage, *offset))),
        };
        Entry {
            offset,
            length: run.len,
            kind,
            file: place.map(|(storage, _)| storage.path().display().to_string()),
            file_offset: place.map(|(_, offset)| offset),
            encrypted: place.is_some_and(|(storage, _)| storage.is_encrypted()),
        }
    }

    /// Takes `next` in when it continues this entry, in the disk and in the file.
    fn join(&mut self, next: &Entry) -> bool {
        let continues = match self.kind {
            "data" => self
                .file_offset
                .and_then(|at| at.checked_add(self.length))
                .is_some_and(|end| next.file_offset == Some(end)),
            "compressed" => false,
            _ => true,
        };
        let joined = self.kind == next.kind && self.file == next.file && continues;
        if joined {
            self.length += next.length;
        }
        joined
    }
}

/// Runs the verb. The map is printed while it is read: it may be larger than memory.
pub fn run(arguments: &args::Map) -> Result<ExitCode, Failure> {
    let context = open::context_for_tables(&arguments.opening)?;
    let source = source::disk(
        &arguments.image,
        arguments.source_format.as_deref(),
        &arguments.opening,
        &context,
    )?;
    let image = &source.image;
    let size = image.source.size();
    if let Some(name) = &arguments.bitmap {
        return print_bitmap(image, name, arguments.json);
    }
    let picture_file = arguments.picture.as_deref().map(new_file).transpose()?;
    let mut picture = arguments.picture.as_ref().map(|_| Picture::new(size));
    let mut printer = Printer::new(arguments.json, size);
    let walked = walk(image.source.as_ref(), |entry| {
        if let Some(picture) = &mut picture {
            picture.add(entry);
        }
        printer.print(entry)
    });
    printer.finish(walked.as_ref().err())?;
    if let Err(failure) = walked {
        // It is part of the object that was begun.
        failure.report(false);
        return Ok(failure.exit_code());
    }
    if let (Some(file), Some(picture)) = (picture_file, picture) {
        let name = arguments.image.display().to_string();
        file.write_at(picture.svg(&name).as_bytes(), 0)?;
        file.commit(false)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the ranges that a bitmap says were written.
fn print_bitmap(image: &Image, name: &str, json: bool) -> Result<ExitCode, Failure> {
    let Some(tip) = image.tip() else {
        return Ok(ExitCode::SUCCESS);
    };
    let mut ranges: Vec<Dirty> = Vec::new();
    driver(tip.info.format).dirty_ranges(
        &tip.storage,
        name,
        &mut |range| match ranges.last_mut() {
            Some(last) if last.offset + last.length == range.start => {
                last.length += range.end - range.start;
            }
            _ => ranges.push(Dirty {
                offset: range.start,
                length: range.end - range.start,
            }),
        },
    )?;
    if json {
        report::json(&serde_json::json!({ "bitmap": name, "ranges": ranges }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = format!("{:>16} {:>16}\n", "offset", "length");
    for range in &ranges {
        text += &format!("{:>16} {:>16}\n", range.offset, range.length);
    }
    report::text(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// A range that was written.
#[derive(Serialize)]
struct Dirty {
    offset: u64,
    length: u64,
}

/// A file that does not exist yet; nothing is ever replaced by a picture.
fn new_file(path: &Path) -> Result<FileOutput, Failure> {
    if std::fs::symlink_metadata(path).is_ok() {
        return Err(Error::refused("picture", "the file exists already")
            .hint("name another file, or remove it")
            .in_file(path)
            .into());
    }
    Ok(FileOutput::create(path)?)
}

/// Guest bytes that the map is asked for at first: layers of a chain are walked anew for each run that is found.
const FIRST_LOOK: u64 = 64 << 20;

/// Calls `take` with each entry of the map, neighbours joined, until it says that nobody listens.
fn walk(source: &dyn BlockSource, mut take: impl FnMut(&Entry) -> bool) -> Result<(), Failure> {
    let mut offset = 0;
    let mut pending: Option<Entry> = None;
    let mut look = FIRST_LOOK;
    while offset < source.size() {
        let run = match run_at(source, offset, look) {
            Ok(run) => run,
            Err(error) => {
                // What was found before is not lost.
                if let Some(last) = pending {
                    take(&last);
                }
                return Err(error.into());
            }
        };
        look = if run.len == look {
            look.saturating_mul(2)
        } else {
            FIRST_LOOK
        };
        let entry = Entry::new(offset, &run);
        offset += run.len;
        if pending.as_mut().is_some_and(|before| before.join(&entry)) {
            continue;
        }
        let complete = pending.replace(entry);
        if complete.is_some_and(|complete| !take(&complete)) {
            return Ok(());
        }
    }
    if let Some(last) = pending {
        take(&last);
    }
    Ok(())
}

/// Prints entries as they come.
struct Printer {
    json: bool,
    first: bool,
    out: std::io::BufWriter<std::io::Stdout>,
}

impl Printer {
    fn new(json: bool, size: u64) -> Printer {
        let mut out = std::io::BufWriter::new(std::io::stdout());
        let _ = if json {
            write!(out, "{{\n  \"size\": {size},\n  \"runs\": [")
        } else {
            writeln!(
                out,
                "{:>16} {:>16} {:<10} {:>16} file",
                "offset", "length", "type", "file offset"
            )
        };
        Printer {
            json,
            first: true,
            out,
        }
    }

    /// Prints one entry; `false` when nobody reads any more.
    fn print(&mut self, entry: &Entry) -> bool {
        if self.json {
            let comma = if self.first { "" } else { "," };
            self.first = false;
            let line = serde_json::to_string(entry).unwrap_or_default();
            return write!(self.out, "{comma}\n    {line}").is_ok();
        }
        let place = match (&entry.file_offset, &entry.file) {
            (Some(offset), Some(file)) if entry.encrypted => {
                format!(" {offset:>16} {file} (encrypted)")
            }
            (Some(offset), Some(file)) => format!(" {offset:>16} {file}"),
            _ => String::new(),
        };
        writeln!(
            self.out,
            "{:>16} {:>16} {:<10}{place}",
            entry.offset, entry.length, entry.kind
        )
        .is_ok()
    }

    fn finish(mut self, failure: Option<&Failure>) -> Result<(), Failure> {
        if self.json {
            let error = failure.map_or(String::new(), |failure| {
                let text = serde_json::to_string(&failure.describe()).unwrap_or_default();
                format!(",\n  \"error\": {text}")
            });
            report::written(writeln!(self.out, "\n  ]{error}\n}}"))?;
        }
        report::written(self.out.flush())
    }
}
