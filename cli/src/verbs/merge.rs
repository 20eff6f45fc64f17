//! `merge`: a delta into its own parent.

use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant, UNIX_EPOCH};

use formats::children::children_beside;
use formats::{Detail, Error, Ids, Image, LayerFile, OpenContext, open_storage};
use serde::Serialize;
use transfer::delta::{self, Changing, InFiles};

use super::delta::{Bytes, grow, open_delta, refuse_parts, shrink};
use crate::args;
use crate::changeable::refuse_damage;
use crate::failure::Failure;
use crate::work::Work;
use crate::{open, report};

#[derive(Serialize)]
struct Answer {
    delta: String,
    parent: String,
    /// Bytes of the disk.
    size: u64,
    bytes: Bytes,
    seconds: f64,
    verified: bool,
    dry_run: bool,
    removed: bool,
}

/// Runs the verb.
pub fn run(arguments: &args::Merge) -> Result<ExitCode, Failure> {
    refuse_parts(&arguments.opening)?;
    let context = OpenContext {
        detailed: true,
        ..open::context(&arguments.opening, false)?
    };
    let started = Instant::now();
    let (delta, reference) = open_delta(
        &arguments.child,
        arguments.source_format.as_deref(),
        &context,
    )?;
    refuse_snapshots(&delta)?;
    let format = Some(delta.info.format);
    // The whole chain: that it is one is known then.
    let chain = open_storage(delta.storage.clone(), format, &context)?;
    open::refuse_half_applied(&chain)?;
    let Some(parent) = chain.layers.get(1) else {
        return Err(Error::malformed("chain", "has no parent").into());
    };
    refuse_siblings(parent, &delta, &context)?;
    refuse_damage(parent, &context)?;
    if arguments.remove {
        refuse_grandchildren(&delta, &context)?;
    }
    let amount = delta::amount(delta.source.as_ref())?;
    let parent_path = parent.path.clone();
    if !arguments.dry_run {
        let place = InFiles {
            path: parent_path.clone(),
            format: parent.info.format,
            context: &context,
        };
        carry_out(arguments, &delta, &chain, &place)?;
        delta.storage.check_unchanged()?;
        match arguments.remove {
            true => remove(&delta)?,
            false => keep_time(&parent_path, reference.modified)?,
        }
    }
    let answer = Answer {
        delta: arguments.child.display().to_string(),
        parent: parent_path.display().to_string(),
        size: delta.source.size(),
        bytes: amount.into(),
        seconds: started.elapsed().as_secs_f64(),
        verified: arguments.verify && !arguments.dry_run,
        dry_run: arguments.dry_run,
        removed: arguments.remove && !arguments.dry_run,
    };
    match arguments.output.json {
        true => report::json(&answer)?,
        false => report::text(&text(&answer))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn carry_out(
    arguments: &args::Merge,
    delta: &LayerFile,
    chain: &Image,
    place: &InFiles<'_>,
) -> Result<(), Failure> {
    let context = place.context;
    let size = delta.source.size();
    let work = Work::new(None)?;
    let mut parent = Changing::new(place)?;
    // What is known of it was true before it was locked.
    chain.check_unchanged()?;
    delta::check(delta.source.as_ref(), parent.image(), Ids::Kept)?;
    grow(&mut parent, size, Ids::Kept, context)?;
    work.watched(&arguments.output, |setting| {
        // The ids stay: at any moment the delta shows the same disk on it.
        delta::write(delta.source.as_ref(), &mut parent, Ids::Kept, setting)?;
        parent.reopen()?;
        if arguments.verify {
            setting.progress.set_verifying();
            let image = parent.image().source.clone();
            delta::verify(delta.source.as_ref(), image.as_ref(), setting)?;
        }
        Ok::<_, transfer::Error>(())
    })?;
    shrink(&mut parent, size, Ids::Kept, context)?;
    Ok(parent.sync()?)
}

/// Other images that stand on the parent would show something else afterwards.
fn refuse_siblings(
    parent: &LayerFile,
    delta: &LayerFile,
    context: &OpenContext,
) -> Result<(), Failure> {
    if parent.storage.is_device() {
        return Ok(());
    }
    let children = children_beside(parent, context)?;
    let own = delta
        .path
        .canonicalize()
        .unwrap_or_else(|_| delta.path.clone());
    let mut others = children.iter().filter(|child| {
        child.is_whole || child.path.canonicalize().map_or(true, |path| path != own)
    });
    match others.next() {
        None => Ok(()),
        Some(child) => Err(Error::refused("parent", "another image stands on it, too")
            .found(child.path.display())
            .hint("that one would show something else: convert it into an image of its own first, or remove it")
            .in_file(&parent.path)
            .into()),
    }
}

/// A snapshot inside of the delta stands on the parent as it was.
fn refuse_snapshots(delta: &LayerFile) -> Result<(), Failure> {
    let details = delta.info.details.iter();
    let is_there = |detail: &Detail| matches!(detail, Detail::Records(all) if !all.is_empty());
    let mut snapshots = details.filter(|(name, detail)| *name == "snapshots" && is_there(detail));
    match snapshots.next() {
        None => Ok(()),
        Some(_) => Err(Error::refused(
            "CHILD",
            "has internal snapshots, which would show something else",
        )
        .hint("delete them, or convert them (--snapshot) before")
        .in_file(&delta.path)
        .into()),
    }
}

/// Who removes a delta takes away what others stand on.
fn refuse_grandchildren(delta: &LayerFile, context: &OpenContext) -> Result<(), Failure> {
    let children = children_beside(delta, context)?;
    match children.first() {
        None => Ok(()),
        Some(child) => Err(Error::refused("CHILD", "another image stands on it")
            .found(child.path.display())
            .hint("merge that one first, or leave out --remove")
            .in_file(&delta.path)
            .into()),
    }
}

/// Gives the parent the time at which it was last written to by what the delta knows: Hyper-V takes no other one.
fn keep_time(parent: &Path, modified: Option<u64>) -> Result<(), Failure> {
    let Some(seconds) = modified else {
        return Ok(());
    };
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    let kept = File::options().write(true).open(parent).and_then(|file| {
        time.map_or(Ok(()), |time| file.set_modified(time))?;
        file.sync_all()
    });
    Ok(kept.map_err(|e| Error::io("set the time", e).in_file(parent))?)
}

/// Removes the files of the delta, the one that was named first: without it the others are nothing.
fn remove(delta: &LayerFile) -> Result<(), Failure> {
    for file in formats::resize::parts(delta) {
        let path = file.path();
        std::fs::remove_file(path).map_err(|e| Error::io("remove", e).in_file(path))?;
    }
    Ok(())
}

fn text(answer: &Answer) -> String {
    let Answer {
        delta,
        parent,
        bytes,
        ..
    } = answer;
    if answer.dry_run {
        return format!("{delta} → {parent}: {}\n", bytes.planned());
    }
    let (done, seconds) = (bytes.text(), answer.seconds);
    let mut text = format!("{delta} → {parent}: {done} in {seconds:.1} s\n");
    if answer.verified {
        text += "read back and the same\n";
    }
    if answer.removed {
        text += "the delta was removed\n";
    }
    text
}
