//! `resize`: another size for an image where it stands.

use std::process::ExitCode;
use std::sync::Arc;

use formats::resize::{allocate, overwrite, parts, plan};
use formats::{Error, Format, Image, InPlace, InPlaceFile, LayerFile, OpenContext, Plan};
use serde::Serialize;
use transfer::resize::{check_shrinking, gpt_move, gpt_note};

use crate::args;
use crate::changeable::{refuse_children, refuse_damage, tip};
use crate::failure::Failure;
use crate::source::Found;
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
    if context.layer.is_some() {
        return Err(Error::usage("--layer", "goes with what reads a chain")
            .hint("resize changes one file: name that of the layer")
            .into());
    }
    let job = Job {
        arguments,
        context: &context,
    };
    let image = job.open()?;
    let before = image.source.size();
    let wanted = arguments.size.of(before)?;
    check_shrinking(
        image.source.as_ref(),
        wanted,
        arguments.shrink,
        arguments.fix_gpt,
    )
    .map_err(|e| e.in_file(&arguments.image))?;
    refuse_children(tip(&image)?, &context)?;
    refuse_damage(tip(&image)?, &context)?;
    let format = tip(&image)?.info.format;
    let image = open::said(image)?;
    let plan = plan(&image, wanted, &context)?;
    let mut notes = plan.notes.clone();
    if plan.size != wanted {
        let rounded = format!("{wanted} bytes → {}: {format} has whole units", plan.size);
        notes.insert(0, rounded);
    }
    if !arguments.fix_gpt {
        notes.extend(gpt_note(image.source.as_ref(), plan.size)?);
        carry_out(&image, &plan)?;
    } else if job.resize_with_gpt(image, &plan)? {
        notes.push("the copy of the GPT was moved to the end of the disk".to_owned());
    }
    let after = job.reopen(format)?;
    let answer = Answer {
        file: arguments.image.display().to_string(),
        format: format.to_string(),
        size_before: before,
        size: after.source.size(),
        file_size: after.tip().map_or(0, LayerFile::file_size),
        notes,
    };
    tell(arguments, &answer)?;
    Ok(ExitCode::SUCCESS)
}

/// What an image is opened with, again and again: each change is planned for the files as they are by then.
struct Job<'a> {
    arguments: &'a args::Resize,
    context: &'a OpenContext,
}

impl Job<'_> {
    fn open(&self) -> Result<Image, Failure> {
        let (arguments, path) = (self.arguments, &self.arguments.image);
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
        Ok(formats::open_storage(
            found.file,
            found.format,
            self.context,
        )?)
    }

    fn reopen(&self, format: Format) -> Result<Image, Failure> {
        Ok(formats::open(
            &self.arguments.image,
            Some(format),
            self.context,
        )?)
    }

    /// Moves the copy of the GPT before the disk becomes smaller, or after it became larger; whether it had to.
    fn resize_with_gpt(&self, image: Image, plan: &Plan) -> Result<bool, Failure> {
        let size = plan.size;
        // What is in its way is told before anything is written.
        gpt_move(image.source.as_ref(), size)?;
        if size >= image.source.size() {
            let format = tip(&image)?.info.format;
            carry_out(&image, plan)?;
            return self.fix_gpt(self.reopen(format)?, size);
        }
        let format = tip(&image)?.info.format;
        let is_moved = self.fix_gpt(image, size)?;
        let image = self.reopen(format)?;
        let plan = formats::resize::plan(&image, size, self.context)?;
        carry_out(&image, &plan)?;
        Ok(is_moved)
    }

    fn fix_gpt(&self, mut image: Image, size: u64) -> Result<bool, Failure> {
        let Some(moved) = gpt_move(image.source.as_ref(), size)? else {
            return Ok(false);
        };
        let format = tip(&image)?.info.format;
        let written = moved.backup.iter().chain(&moved.primary);
        let written =
            written.map(|(offset, bytes)| *offset..offset.saturating_add(bytes.len() as u64));
        for range in written.chain(moved.cleared.iter().cloned()) {
            let plan = allocate(&image, range)?;
            if !plan.is_empty() {
                carry_out(&image, &plan)?;
                image = self.reopen(format)?;
            }
        }
        let mut plan = Plan::new(image.source.size());
        for (offset, bytes) in &moved.backup {
            overwrite(tip(&image)?, &mut plan, *offset, bytes)?;
        }
        for (offset, bytes) in &moved.primary {
            plan.sync();
            overwrite(tip(&image)?, &mut plan, *offset, bytes)?;
        }
        plan.sync();
        for old in moved.cleared {
            let zeros = vec![0; old.end.saturating_sub(old.start) as usize];
            overwrite(tip(&image)?, &mut plan, old.start, &zeros)?;
        }
        plan.sync();
        carry_out(&image, &plan)?;
        Ok(true)
    }
}

/// Changes the files. Nothing may be opened any more between locking them and the last write: closing a file gives up its
/// lock.
fn carry_out(image: &Image, plan: &Plan) -> Result<(), Failure> {
    if plan.is_empty() {
        return Ok(());
    }
    let files = parts(tip(image)?);
    let locked = files
        .iter()
        .map(|file| InPlaceFile::open(file.as_ref()))
        .collect::<Result<Vec<_>, _>>()?;
    image.check_unchanged()?;
    let out: Vec<&dyn InPlace> = locked.iter().map(|file| file as &dyn InPlace).collect();
    Ok(plan.run(&files, &out)?)
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
