//! `info --chain`: every layer of a chain, and what it defines itself.

use std::process::ExitCode;

use formats::driver::ParentReference;
use formats::open::{LayerFile, open_chain};
use formats::{BlockSource, Mapping, OpenContext, run_at};
use serde::Serialize;

use super::{both, line};
use crate::failure::Failure;
use crate::source::Found;
use crate::{render, report};

#[derive(Serialize)]
struct Answer<'a, E> {
    chain: &'a [Layer],
    /// What is wrong with the rest of the chain.
    error: Option<E>,
}

/// A layer, for programs and for people.
#[derive(Serialize)]
struct Layer {
    /// Its place in the chain: 0 is the tip.
    layer: usize,
    file: String,
    format: String,
    subformat: String,
    identity: Option<String>,
    disk_id: Option<String>,
    virtual_size: u64,
    sector_size: u32,
    block_size: u64,
    file_size: u64,
    allocated: u64,
    /// Bytes of the disk that are data in this layer; like the next two unknown if its map is damaged.
    data: Option<u64>,
    /// Bytes that it says are zeros, whatever is below.
    zero: Option<u64>,
    /// Bytes that it leaves to what is below.
    absent: Option<u64>,
    parent: Option<Parent>,
    warnings: Vec<String>,
}

/// What a layer knows of the one below.
#[derive(Serialize)]
struct Parent {
    /// The names that it may have, best first.
    names: Vec<String>,
    format: Option<String>,
    /// The ids of which it must have one.
    identities: Vec<String>,
    /// When it was last written to, in seconds since 1970.
    modified: Option<u64>,
}

impl Parent {
    fn new(reference: &ParentReference) -> Parent {
        Parent {
            names: reference.names.clone(),
            format: reference.format.map(|format| format.to_string()),
            identities: reference
                .identities
                .iter()
                .map(ToString::to_string)
                .collect(),
            modified: reference.modified,
        }
    }
}

/// Shows the chain of the image. What can be read of it is shown also when there is something wrong with the rest.
pub(super) fn run(found: &Found, context: &OpenContext, json: bool) -> Result<ExitCode, Failure> {
    let chain = open_chain(found.file.clone(), found.format, context)?;
    let mut failure = chain.failure.map(Failure::from);
    let mut layers = Vec::new();
    for (number, file) in chain.layers.iter().enumerate() {
        let below = chain.layers.get(number + 1);
        let mut layer = describe(number, file, below)?;
        match defined(file.source.as_ref()) {
            Ok([data, zero, absent]) => {
                layer.data = Some(data);
                layer.zero = Some(zero);
                layer.absent = Some(absent);
            }
            Err(error) => {
                failure.get_or_insert(error);
            }
        }
        layers.push(layer);
    }
    if json {
        let error = failure.as_ref().map(Failure::describe);
        report::json(&Answer {
            chain: &layers,
            error,
        })?;
    } else {
        let texts: Vec<String> = layers.iter().map(text).collect();
        report::text(&texts.join("\n"))?;
    }
    // It is part of the object that was printed.
    failure.map_or(Ok(ExitCode::SUCCESS), |failure| {
        failure.report(false);
        Ok(failure.exit_code())
    })
}

fn describe(number: usize, file: &LayerFile, below: Option<&LayerFile>) -> Result<Layer, Failure> {
    let mut warnings = file.info.warnings.clone();
    let known = file.parent.as_ref().and_then(|parent| parent.modified);
    if let (Some(known), Some(found)) = (known, below.and_then(LayerFile::modified))
        && known != found
    {
        warnings.push(format!(
            "the time of the parent's file is {} seconds {} than this layer knows: it was written to since, or copied \
             without its time",
            known.abs_diff(found),
            if found > known { "later" } else { "earlier" },
        ));
    }
    Ok(Layer {
        layer: number,
        file: file.path.display().to_string(),
        format: file.info.format.to_string(),
        subformat: file.info.subformat.clone(),
        identity: file.info.identity.map(|id| id.to_string()),
        disk_id: file.info.disk_id.map(|id| id.to_string()),
        virtual_size: file.source.size(),
        sector_size: file.source.sector_size(),
        block_size: file.source.block_size(),
        file_size: file.file_size(),
        allocated: file.allocated()?,
        data: None,
        zero: None,
        absent: None,
        parent: file.parent.as_ref().map(Parent::new),
        warnings,
    })
}

/// Bytes of data, of zeros and of what is left to the layer below, by the map.
fn defined(source: &dyn BlockSource) -> Result<[u64; 3], Failure> {
    let mut bytes = [0; 3];
    let mut offset = 0;
    while offset < source.size() {
        let run = run_at(source, offset, u64::MAX)?;
        let [data, zero, absent] = &mut bytes;
        *match run.mapping {
            Mapping::Stored { .. } | Mapping::Packed { .. } => data,
            Mapping::Zero => zero,
            Mapping::Absent => absent,
        } += run.len;
        offset += run.len;
    }
    Ok(bytes)
}

fn text(layer: &Layer) -> String {
    let mut text = format!("layer {}\n", layer.layer);
    let mut say = |name: &str, value: &str| text += &line(name, value);
    say("file", &layer.file);
    say("format", &format!("{} ({})", layer.format, layer.subformat));
    for (name, id) in [("id", &layer.identity), ("disk id", &layer.disk_id)] {
        if let Some(id) = id {
            say(name, id);
        }
    }
    say("virtual size", &both(layer.virtual_size));
    say("file size", &both(layer.file_size));
    say("allocated", &both(layer.allocated));
    if let (Some(data), Some(zero), Some(absent)) = (layer.data, layer.zero, layer.absent) {
        say("data", &both(data));
        say("zeros", &both(zero));
        let what = match layer.parent {
            Some(_) => "left to the parent",
            None => "not allocated",
        };
        say(what, &render::size(absent));
    }
    if let Some(parent) = &layer.parent {
        let names = parent.names.first().map(String::as_str);
        say("parent", names.unwrap_or("a file with the right id"));
        if let Some(id) = parent.identities.first() {
            say("parent id", id);
        }
    }
    for warning in &layer.warnings {
        say("warning", warning);
    }
    text
}
