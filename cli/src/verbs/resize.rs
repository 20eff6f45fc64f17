//! `resize`: another size for an image where it stands.

use std::process::ExitCode;
use std::sync::Arc;

use formats::resize::{parts, plan};
use formats::{Error, Image, InPlace, InPlaceFile, LayerFile, OpenContext, Plan, driver};
use serde::Serialize;
use transfer::resize::{gpt_note, refuse_loss};

use crate::args;
use crate::failure::Failure;
use crate::source::Found;
use crate::work::Work;
use crate::{open, render, report};

#[derive(Serialize)]
struct Answer {
    file: String,
    format: String,
    /// Bytes of the disk before and after.
    size_before: u64,
    size: u64,
    /// Bytes of all files of the image.
    file_size: u64,
    notes: Vec<String>,
}

/// Runs the verb.
pub fn run(arguments: &args::Resize) -> Result<ExitCode, Failure> {
    let context = open::context(&arguments.opening, false)?;
    let image = opened(arguments, &context)?;
    let tip = tip(&image)?;
    let before = image.source.size();
    let wanted = arguments.size.of(before)?;
    if wanted < before {
        refuse_shrinking(arguments, &image, wanted)?;
    }
    refuse_damage(tip, &context)?;
    let mut plan = plan(&image, wanted, &context)?;
    if plan.size != wanted {
        plan.notes.insert(
            0,
            format!(
                "{wanted} bytes → {}: {} has whole units",
                plan.size, tip.info.format
            ),
        );
    }
    plan.notes
        .extend(gpt_note(image.source.as_ref(), plan.size)?);
    carry_out(&image, tip, &plan)?;
    let answer = answer(arguments, &context, &image, plan)?;
    tell(arguments, &answer)?;
    Ok(ExitCode::SUCCESS)
}

fn opened(arguments: &args::Resize, context: &OpenContext) -> Result<Image, Failure> {
    let path = &arguments.image;
    let found = Found::open(path, arguments.source_format.as_deref())?;
    if found.kind.is_some() || !Arc::ptr_eq(&found.file, &found.outermost) {
        return Err(
            Error::unsupported("resize", "takes disk images, and this is a package")
                .hint("convert --size makes a disk of another size from it")
                .in_file(path)
                .into(),
        );
    }
    if arguments.opening.snapshot.is_some() {
        return Err(Error::usage("--snapshot", "is read only: it keeps its size").into());
    }
    crate::source::refuse_choice(&arguments.opening, path)?;
    let image = formats::open_storage(found.file, found.format, context)?;
    Ok(open::said(image))
}

fn tip(image: &Image) -> Result<&LayerFile, Failure> {
    let tip = image.tip();
    Ok(tip.ok_or_else(|| Error::malformed("chain", "has no layer"))?)
}

fn refuse_shrinking(arguments: &args::Resize, image: &Image, wanted: u64) -> Result<(), Failure> {
    if !arguments.shrink {
        return Err(Error::refused("disk", "would become smaller")
            .found(format!("{wanted} bytes"))
            .expected(format!("at least {}", image.source.size()))
            .hint("--shrink allows it, if nothing lies behind the new end")
            .in_file(&arguments.image)
            .into());
    }
    let refused = refuse_loss(image.source.as_ref(), wanted, false);
    Ok(refused.map_err(|e| e.in_file(&arguments.image))?)
}

/// What is damaged is not changed: nobody knows what else is wrong.
fn refuse_damage(tip: &LayerFile, context: &OpenContext) -> Result<(), Failure> {
    let work = Work::new(None)?;
    let setting = work.setting();
    let driver = driver(tip.info.format);
    let report = transfer::check_structures(driver, &tip.storage, context, &setting)?;
    match report.findings.iter().find(|finding| finding.is_damage) {
        None => Ok(()),
        Some(damage) => Err(Error::refused("image", "is damaged")
            .found(&damage.message)
            .hint("\"diskferry check\" tells all of it")
            .in_file(&tip.path)
            .into()),
    }
}

/// Changes the files. Nothing may be opened any more between locking them and the last write: closing a file gives up its
/// lock.
fn carry_out(image: &Image, tip: &LayerFile, plan: &Plan) -> Result<(), Failure> {
    if plan.is_empty() {
        return Ok(());
    }
    let files = parts(tip);
    let locked = files
        .iter()
        .map(|file| InPlaceFile::open(file.as_ref()))
        .collect::<Result<Vec<_>, _>>()?;
    image.check_unchanged()?;
    let out: Vec<&dyn InPlace> = locked.iter().map(|file| file as &dyn InPlace).collect();
    Ok(plan.run(&files, &out)?)
}

/// Reads the image as it is now.
fn answer(
    arguments: &args::Resize,
    context: &OpenContext,
    image: &Image,
    plan: Plan,
) -> Result<Answer, Failure> {
    let tip = tip(image)?;
    let format = tip.info.format;
    let after = formats::open(&arguments.image, Some(format), context)?;
    Ok(Answer {
        file: arguments.image.display().to_string(),
        format: format.to_string(),
        size_before: image.source.size(),
        size: after.source.size(),
        file_size: after.tip().map_or(0, LayerFile::file_size),
        notes: plan.notes,
    })
}

fn tell(arguments: &args::Resize, answer: &Answer) -> Result<(), Failure> {
    answer.notes.iter().for_each(|note| report::note(note));
    if arguments.json {
        return report::json(answer);
    }
    let sizes = match answer.size == answer.size_before {
        true => format!("has {} bytes already", answer.size),
        false => format!(
            "{} bytes → {} ({} → {})",
            answer.size_before,
            answer.size,
            render::size(answer.size_before),
            render::size(answer.size)
        ),
    };
    report::text(&format!("{}: {sizes}\n", answer.file))
}
