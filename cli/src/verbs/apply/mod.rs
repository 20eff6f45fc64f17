//! `apply`: what a delta defines, onto a copy of its parent.

mod known;
mod records;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use formats::resize::plan_with;
use formats::{Error, Ids, Image, LayerFile, OpenContext, ParentReference};
use serde::Serialize;
use transfer::delta::{self, Amount, Changing, InFiles};

use self::known::Known;
use self::records::Records;
use super::delta::{Bytes, grow, open_delta, refuse_parts, shrink};
use crate::args;
use crate::changeable::{refuse_children, refuse_damage, tip};
use crate::failure::Failure;
use crate::receipt::Origin;
use crate::source::Found;
use crate::work::Work;
use crate::{open, report};

#[derive(Serialize)]
struct Answer {
    delta: String,
    copy: String,
    /// Bytes of the disk.
    size: u64,
    bytes: Bytes,
    seconds: f64,
    verified: bool,
    dry_run: bool,
    receipt: Option<String>,
}

/// Runs the verb.
pub fn run(arguments: &args::Apply) -> Result<ExitCode, Failure> {
    refuse_parts(&arguments.opening)?;
    let context = open::context(&arguments.opening, false)?;
    let started = Instant::now();
    let (delta, parent) = open_delta(
        &arguments.child,
        arguments.source_format.as_deref(),
        &context,
    )?;
    let job = Job {
        arguments,
        context: &context,
        delta: &delta,
        parent: &parent,
    };
    let copy = job.open_copy()?;
    let work = Work::new(None)?;
    let known = job.known(&copy, &work)?;
    let has_receipt = known.receipt.is_some() || known.found.is_some();
    let amount = match known.is_done {
        true => Amount::default(),
        false => delta::amount(delta.source.as_ref())?,
    };
    let size = delta.source.size();
    match known.is_done {
        true if arguments.dry_run => {}
        true => job.finish(&copy, known, &work)?,
        false => {
            job.check(&copy)?;
            if !arguments.dry_run {
                job.carry_out(copy, known, &work)?;
            }
        }
    }
    let answer = Answer {
        delta: arguments.child.display().to_string(),
        copy: arguments.copy.display().to_string(),
        size,
        bytes: amount.into(),
        seconds: started.elapsed().as_secs_f64(),
        verified: arguments.verify && !arguments.dry_run,
        dry_run: arguments.dry_run,
        receipt: job
            .receipt_path()
            .filter(|_| has_receipt)
            .map(|path| path.display().to_string()),
    };
    match arguments.output.json {
        true => report::json(&answer)?,
        false => report::text(&text(&answer))?,
    }
    Ok(ExitCode::SUCCESS)
}

struct Job<'a> {
    arguments: &'a args::Apply,
    context: &'a OpenContext,
    delta: &'a LayerFile,
    parent: &'a ParentReference,
}

impl Job<'_> {
    fn open_copy(&self) -> Result<Image, Failure> {
        let path = &self.arguments.copy;
        let found = Found::open_half_applied(path, self.arguments.copy_format.as_deref())?;
        let is_packed = !Arc::ptr_eq(&found.file, &found.outermost);
        if found.kind.is_some() || is_packed {
            return Err(Error::unsupported("apply", "COPY is a package, or packed")
                .hint("apply the delta to the disk, and make the package then")
                .in_file(path)
                .into());
        }
        let present = OpenContext {
            snapshot: None,
            ..self.context.clone()
        };
        let image = formats::open_storage(found.file, found.format, &present)?;
        let image = open::said_half_applied(image);
        let layer = tip(&image)?;
        if image.layers.len() > 1 {
            return Err(Error::refused("COPY", "stands on another image")
                .hint("convert it into an image of its own first")
                .in_file(path)
                .into());
        }
        let id = layer.storage.file_id();
        let chain = formats::open_storage(
            self.delta.storage.clone(),
            Some(self.delta.info.format),
            self.context,
        );
        let mut parents = chain.iter().flat_map(|chain| chain.layers.iter().skip(1));
        if parents.any(|parent| id.is_some() && parent.storage.file_id() == id) {
            return Err(
                Error::refused("COPY", "is what the delta stands on, no copy of it")
                    .hint("\"merge\" writes a delta into its own parent")
                    .in_file(path)
                    .into(),
            );
        }
        if layer.storage.file_id() == self.delta.storage.file_id() {
            return Err(Error::refused("COPY", "is the delta itself")
                .in_file(path)
                .into());
        }
        let (own, other) = (layer.source.sector_size(), self.delta.source.sector_size());
        if own != other && layer.info.format != formats::Format::Raw {
            return Err(Error::refused("COPY", "has sectors of another size")
                .found(own)
                .expected(other)
                .in_file(path)
                .into());
        }
        refuse_children(layer, &present)?;
        refuse_damage(layer, &present)?;
        Ok(image)
    }

    /// Fails when it can be told before that something will not go.
    fn check(&self, copy: &Image) -> Result<(), Failure> {
        let size = self.delta.source.size();
        let (layer, now) = (tip(copy)?, copy.source.size());
        if layer.storage.is_device() && now < size {
            return Err(Error::refused("COPY", "the device is too small")
                .found(format!("{now} bytes"))
                .expected(format!("{size} bytes"))
                .in_file(&self.arguments.copy)
                .into());
        }
        if now < size {
            plan_with(copy, size, Ids::New, self.context)?;
        }
        Ok(delta::check(self.delta.source.as_ref(), copy, Ids::New)?)
    }

    /// Does what is left when all of the delta is in COPY already.
    fn finish(&self, copy: &Image, known: Known, work: &Work) -> Result<(), Failure> {
        Records::new(self, known)?.unmark()?;
        if !self.arguments.verify {
            return Ok(());
        }
        let (delta, image) = (self.delta.source.as_ref(), copy.source.as_ref());
        let verified = work.watched(&self.arguments.output, |setting| {
            setting.progress.begin(delta.size());
            setting.progress.set_verifying();
            delta::verify(delta, image, setting)
        });
        Ok(verified?)
    }

    fn carry_out(&self, copy: Image, known: Known, work: &Work) -> Result<(), Failure> {
        let layer = tip(&copy)?;
        let place = InFiles {
            path: layer.path.clone(),
            format: layer.info.format,
            context: self.context,
        };
        let mut changing = Changing::new(&place)?;
        // What is known of it was true before it was locked.
        copy.check_unchanged()?;
        let mut records = Records::new(self, known)?;
        let size = self.delta.source.size();
        let own = Origin::of(self.delta, size, None);
        records.begin(own)?;
        grow(&mut changing, size, Ids::New, self.context)?;
        let delta = self.delta.source.clone();
        work.watched(&self.arguments.output, |setting| {
            delta::write(delta.as_ref(), &mut changing, Ids::New, setting)?;
            changing.reopen()?;
            if self.arguments.verify {
                setting.progress.set_verifying();
                let image = changing.image().source.clone();
                delta::verify(delta.as_ref(), image.as_ref(), setting)?;
            }
            Ok::<_, transfer::Error>(())
        })?;
        self.delta.storage.check_unchanged()?;
        if records.shrinks() {
            shrink(&mut changing, size, Ids::New, self.context)?;
        } else if changing.image().source.size() > size {
            report::note("COPY stays larger than the disk of the delta");
        }
        changing.sync()?;
        records.end(changing.layer()?)
    }
}

fn text(answer: &Answer) -> String {
    let Answer {
        delta, copy, bytes, ..
    } = answer;
    if answer.dry_run {
        return format!("{delta} → {copy}: {}\n", bytes.planned());
    }
    let verified = match answer.verified {
        true => "; read back and the same",
        false => "",
    };
    let (text, seconds) = (bytes.text(), answer.seconds);
    format!("{delta} → {copy}: {text} in {seconds:.1} s{verified}\n")
}
