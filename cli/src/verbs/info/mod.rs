//! `info`: what an image is, or a package and the machines in it.

mod chain;
mod package;

use std::process::ExitCode;

use formats::driver::ParentReference;
use formats::open::{LayerFile, open_storage, open_storage_alone};
use formats::{Detail, Error, Image, OpenContext};
use serde::Serialize;

use crate::args;
use crate::failure::Failure;
use crate::source::Found;
use crate::{open, render, report, source};

#[derive(Serialize)]
struct Answer {
    file: String,
    format: String,
    subformat: String,
    virtual_size: u64,
    sector_size: u32,
    block_size: u64,
    file_size: u64,
    allocated: u64,
    identity: Option<String>,
    parent: Option<Parent>,
    chain: Vec<ChainLink>,
    details: serde_json::Map<String, serde_json::Value>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Parent {
    /// The name that the image holds.
    name: Option<String>,
    /// The file that it leads to, if it may be and could be opened.
    file: Option<String>,
    format: Option<String>,
    identity: Option<String>,
}

#[derive(Serialize)]
struct ChainLink {
    file: String,
    format: String,
    subformat: String,
    virtual_size: u64,
    identity: Option<String>,
}

/// Runs the verb. An image whose parent is missing is shown all the same, with a warning.
pub fn run(arguments: &args::Info) -> Result<ExitCode, Failure> {
    let context = OpenContext {
        detailed: true,
        ..open::context_for_tables(&arguments.opening)?
    };
    let found = Found::open(&arguments.image, arguments.source_format.as_deref())?;
    if let (Some(_), true) = (found.kind, arguments.chain || context.layer.is_some()) {
        return Err(Error::usage(
            "info",
            "--chain and --layer are for disks that are not in a package",
        )
        .in_file(&arguments.image)
        .into());
    }
    if let Some(kind) = found.kind {
        return package::run(arguments, &found, kind, &context);
    }
    source::refuse_choice(&arguments.opening, &arguments.image)?;
    if arguments.toml {
        return Err(
            Error::usage("--toml", "prints a machine, and this is a disk image")
                .in_file(&arguments.image)
                .into(),
        );
    }
    if arguments.chain {
        return chain::run(&found, &context, arguments.json);
    }
    let answer = describe(&found, &context)?;
    if arguments.json {
        report::json(&answer)?;
    } else {
        report::text(&text(&answer))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(found: &Found, context: &OpenContext) -> Result<Answer, Failure> {
    let format = found.format;
    let (tip, reference) = match context.layer {
        None => open_storage_alone(found.file.clone(), format, context)?,
        Some(_) => one_layer(open_storage(found.file.clone(), format, context)?)?,
    };
    let mut warnings = tip.info.warnings.clone();
    let mut parent = reference.as_ref().map(|reference| Parent {
        name: reference.names.first().cloned(),
        file: None,
        format: reference.format.map(|f| f.to_string()),
        identity: reference.identities.first().map(ToString::to_string),
    });
    let mut chain = Vec::new();
    if let Some(parent) = parent.as_mut().filter(|_| context.layer.is_none()) {
        match open_storage(found.file.clone(), format, context) {
            Ok(image) => {
                chain = links(&image);
                parent.file = chain.get(1).map(|link| link.file.clone());
                let above = image.layers.iter().skip(1);
                warnings.extend(above.flat_map(|layer| layer.info.warnings.iter().cloned()));
            }
            Err(error) => warnings.push(format!("the disk cannot be read as it is: {error}")),
        }
    }
    Ok(Answer {
        file: tip.path.display().to_string(),
        format: tip.info.format.to_string(),
        subformat: tip.info.subformat.clone(),
        virtual_size: tip.source.size(),
        sector_size: tip.source.sector_size(),
        block_size: tip.source.block_size(),
        file_size: tip.file_size(),
        allocated: tip.allocated()?,
        identity: tip.info.identity.map(|id| id.to_string()),
        parent,
        chain,
        details: tip
            .info
            .details
            .iter()
            .map(|(name, detail)| (name.to_string(), value(detail)))
            .collect(),
        warnings,
    })
}

/// The only layer of `image`, and what it stands on.
fn one_layer(mut image: Image) -> Result<(LayerFile, Option<ParentReference>), Failure> {
    let layer = image.layers.pop();
    let layer = layer.ok_or_else(|| Error::usage("--layer", "there is no such layer"))?;
    let parent = layer.parent.clone();
    Ok((layer, parent))
}

fn links(image: &Image) -> Vec<ChainLink> {
    image
        .layers
        .iter()
        .map(|layer| ChainLink {
            file: layer.path.display().to_string(),
            format: layer.info.format.to_string(),
            subformat: layer.info.subformat.clone(),
            virtual_size: layer.source.size(),
            identity: layer.info.identity.map(|id| id.to_string()),
        })
        .collect()
}

fn value(detail: &Detail) -> serde_json::Value {
    match detail {
        Detail::Text(text) => text.as_str().into(),
        Detail::Number(number) => (*number).into(),
        Detail::Flag(flag) => (*flag).into(),
        Detail::List(lines) => lines.clone().into(),
        Detail::Records(records) => records
            .iter()
            .map(|record| {
                let fields = record.iter();
                let fields = fields.map(|(name, detail)| (name.to_string(), value(detail)));
                serde_json::Value::Object(fields.collect())
            })
            .collect(),
    }
}

fn text(answer: &Answer) -> String {
    let mut lines = vec![
        ("file", answer.file.clone()),
        (
            "format",
            format!("{} ({})", answer.format, answer.subformat),
        ),
        ("virtual size", both(answer.virtual_size)),
        ("sector size", answer.sector_size.to_string()),
        ("block size", render::size(answer.block_size)),
        ("file size", both(answer.file_size)),
        ("allocated", both(answer.allocated)),
    ];
    if let Some(identity) = &answer.identity {
        lines.push(("id", identity.clone()));
    }
    if let Some(parent) = &answer.parent {
        let known = parent.file.as_ref().or(parent.name.as_ref());
        let known = known.or(parent.identity.as_ref());
        lines.push(("parent", known.cloned().unwrap_or_default()));
    }
    let mut text: String = lines
        .iter()
        .map(|(name, value)| line(name, value))
        .collect();
    for (name, value) in &answer.details {
        let mut name = name.replace('_', " ");
        for shown in shown(value) {
            text += &line(&name, &shown);
            name.clear();
        }
    }
    for (depth, link) in answer.chain.iter().enumerate() {
        let name = if depth == 0 { "chain" } else { "" };
        text += &line(name, &format!("{} ({})", link.file, link.format));
    }
    for warning in &answer.warnings {
        text += &line("warning", warning);
    }
    text
}

/// The lines that a value is shown in.
fn shown(value: &serde_json::Value) -> Vec<String> {
    match value {
        serde_json::Value::String(text) => vec![text.clone()],
        serde_json::Value::Array(lines) => lines.iter().flat_map(shown).collect(),
        serde_json::Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| {
                let name = name.replace('_', " ");
                format!("{name} {}", shown(value).join(" "))
            });
            vec![fields.collect::<Vec<_>>().join(", ")]
        }
        other => vec![other.to_string()],
    }
}

fn both(bytes: u64) -> String {
    format!("{} ({bytes} bytes)", render::size(bytes))
}

fn line(name: &str, value: &str) -> String {
    format!("{name:<20} {}\n", render::printable(value))
}
