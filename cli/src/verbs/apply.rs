//! `apply`: what a delta defines, onto a copy of its parent.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use formats::open::open_storage_alone;
use formats::resize::plan_with;
use formats::{
    BlockSource, Error, Ids, Image, InPlaceFile, LayerFile, OpenContext, ParentReference, Storage,
    Window,
};
use serde::Serialize;
use transfer::delta::{self, Amount, Changing, InFiles};

use crate::args;
use crate::changeable::{refuse_children, refuse_damage, tip};
use crate::failure::Failure;
use crate::receipt::{self, Copy, Origin, Receipt};
use crate::source::Found;
use crate::work::Work;
use crate::{open, render, report};

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

#[derive(Serialize)]
struct Bytes {
    data: u64,
    zero: u64,
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
    if !known.is_done {
        job.check(&copy)?;
    }
    if !arguments.dry_run && !known.is_done {
        job.carry_out(copy, known, &work)?;
    }
    let answer = Answer {
        delta: arguments.child.display().to_string(),
        copy: arguments.copy.display().to_string(),
        size,
        bytes: Bytes {
            data: amount.data,
            zero: amount.zero,
        },
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
        false => report::text(&text(&answer, &amount))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Fails when something else than the present state of a whole image is asked for.
///
/// # Errors
/// `Usage`.
pub fn refuse_parts(opening: &args::Opening) -> Result<(), Failure> {
    let option = match (&opening.snapshot, &opening.layer) {
        (Some(_), _) => "--snapshot",
        (None, Some(_)) => "--layer",
        (None, None) => return Ok(()),
    };
    Err(Error::usage(
        option,
        "is for reading: what is written to is the image as it is",
    )
    .into())
}

/// The delta in the file at `path`, alone, and what it says of the image that it stands on.
///
/// # Errors
/// What is wrong with the file; `Usage` for what is no delta; `Refused` for one that is in use.
pub fn open_delta(
    path: &Path,
    format: Option<&str>,
    context: &OpenContext,
) -> Result<(LayerFile, ParentReference), Failure> {
    let found = Found::open(path, format)?;
    if found.kind.is_some() {
        return Err(Error::usage("CHILD", "is a package, not a delta")
            .in_file(path)
            .into());
    }
    let (layer, parent) = open_storage_alone(found.file, found.format, context)?;
    let Some(parent) = parent else {
        return Err(
            Error::usage("CHILD", "is no delta: it stands on no other image")
                .found(format!("{} {}", layer.info.format, layer.info.subformat))
                .in_file(path)
                .into(),
        );
    };
    for warning in &layer.info.warnings {
        report::warning(&format!("{}: {warning}", path.display()));
    }
    refuse_use(layer.storage.as_ref())?;
    Ok((layer, parent))
}

/// Fails when another program writes to a file that is only read here. Who may not write to it cannot find out.
fn refuse_use(storage: &dyn Storage) -> Result<(), Failure> {
    match InPlaceFile::open(storage) {
        Err(error) if error.kind() == formats::ErrorKind::Refused => Err(error.into()),
        _ => Ok(()),
    }
}

/// Bytes by which formats round the size of a disk up, at most.
const ROUNDING: u64 = 1 << 20;

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

    /// Where the receipt is; nowhere for devices, unless the user says where.
    fn receipt_path(&self) -> Option<PathBuf> {
        let is_file = || self.arguments.copy.is_file();
        let named = self.arguments.receipt.clone();
        named.or_else(|| is_file().then(|| receipt::beside(&self.arguments.copy)))
    }

    /// The receipt to go on with, when it is known that COPY is one of the delta's parent.
    fn known(&self, copy: &Image, work: &Work) -> Result<Known, Failure> {
        let path = self.receipt_path();
        let found = path.as_deref().map(receipt::read).transpose()?.flatten();
        let own = Origin::of(self.delta, self.delta.source.size(), None);
        let now = Copy::of(tip(copy)?)?;
        if let Some((receipt, begun)) = found
            .as_ref()
            .and_then(|found| Some((found, found.applying.as_ref()?)))
        {
            if !receipt.target.has_files_of(&now) {
                let why = "a delta was applied only in part to an image that was in its place";
                return Err(self.unknown(why.to_owned()));
            }
            if !begun.is_same_delta(&own) {
                return Err(Error::refused(
                    "COPY",
                    "another delta, or another state of it, was applied only in part",
                )
                .found(begun.file.display())
                .hint("finish that one first, or make the copy anew")
                .in_file(&self.arguments.copy)
                .into());
            }
            report::note("going on with what was interrupted");
            return Ok(Known {
                receipt: found.clone(),
                found,
                is_done: false,
            });
        }
        let last = found.as_ref().and_then(|found| found.applied.last());
        if let (Some(receipt), Some(last)) = (&found, last)
            && last.is_same_delta(&own)
            && receipt.target.doubt(&now).is_none()
        {
            report::note("all of the delta is in the copy already");
            return Ok(Known {
                receipt: None,
                found,
                is_done: true,
            });
        }
        if let Some(parent) = &self.arguments.parent {
            if path.is_none() {
                return Err(Error::usage(
                    "--receipt",
                    "is needed for a device: what is interrupted is known by it",
                )
                .expected("--receipt FILE")
                .into());
            }
            self.compare(parent, copy, work)?;
        } else if !self.arguments.trust {
            let Some(found) = &found else {
                return Err(self.unknown("there is no receipt of it".to_owned()));
            };
            let is_here = !receipt::says_state(&found.source.format, self.parent)
                && self.is_beside(&found.source);
            if let Some(doubt) = found.source.doubt(self.parent).filter(|_| !is_here) {
                return Err(self.unknown(doubt));
            }
            if let Some(doubt) = found.target.doubt(&now) {
                return Err(self.unknown(format!("it is not as it was left: {doubt}")));
            }
            if tip(copy)?.storage.is_device() {
                report::note(
                    "whether anybody wrote to the device since it was converted is not known",
                );
            }
        }
        let unknown = Origin {
            file: PathBuf::new(),
            format: String::new(),
            identity: None,
            size: now.size,
            length: 0,
            modified_ns: None,
            digest: None,
        };
        let applied = found.as_ref().map(|found| found.applied.clone());
        let receipt = path.map(|_| Receipt {
            applied: applied.unwrap_or_default(),
            // How large the image was that COPY was made from nobody said.
            shrinks: !self.arguments.trust,
            ..Receipt::new(unknown, now)
        });
        Ok(Known {
            receipt,
            found,
            is_done: false,
        })
    }

    /// Whether the file that a delta without ids names is the one that was copied, unchanged since.
    fn is_beside(&self, source: &Origin) -> bool {
        let storage = self.delta.storage.clone();
        let format = Some(self.delta.info.format);
        let chain = formats::open_storage(storage, format, self.context);
        let is_it = |chain: &Image| chain.layers.get(1).is_some_and(|l| source.is_still(l));
        chain.as_ref().is_ok_and(is_it)
    }

    fn unknown(&self, why: String) -> Failure {
        Error::refused("COPY", "is not known as a copy of what the delta stands on")
            .found(why)
            .expected(match self.parent.names.first() {
                Some(name) => format!("a copy of {name}"),
                None => "a copy of its parent".to_owned(),
            })
            .hint("--parent IMAGE compares it with that image first; --trust takes your word for it; \"convert --receipt\" makes it known the next time")
            .in_file(&self.arguments.copy)
            .into()
    }

    /// Fails when COPY holds something else than the parent, or that is none.
    fn compare(&self, path: &Path, copy: &Image, work: &Work) -> Result<(), Failure> {
        let parent = open::image(path, None, self.context)?;
        self.parent.check(tip(&parent)?)?;
        let mut own = parent.layers.iter().map(|layer| layer.storage.file_id());
        let copy_file = tip(copy)?.storage.file_id();
        if own.any(|id| id.is_some() && id == copy_file) {
            return Err(
                Error::refused("COPY", "is the parent itself, no copy of it")
                    .hint("\"merge\" writes a delta into its own parent")
                    .in_file(&self.arguments.copy)
                    .into(),
            );
        }
        let is_device = tip(copy)?.storage.is_device();
        let (size, copied) = (parent.source.size(), copy.source.size());
        if !is_device && copied > size.saturating_add(ROUNDING) {
            return Err(Error::refused("COPY", "is larger than the parent")
                .found(format!("{copied} bytes"))
                .expected(format!("{size} bytes"))
                .hint("--trust leaves it as large as it is")
                .in_file(&self.arguments.copy)
                .into());
        }
        // Behind the disk, a device may hold anything.
        let held: Arc<dyn BlockSource> = match is_device && copied > size {
            true => Arc::new(Window::new(copy.source.clone(), size)),
            false => copy.source.clone(),
        };
        let comparison = work.watched(&self.arguments.output, |setting| {
            transfer::compare(parent.source.as_ref(), held.as_ref(), true, setting)
        })?;
        match comparison.differences.first() {
            None => Ok(()),
            Some(first) => Err(
                Error::refused("COPY", "does not hold what the parent holds")
                    .found(format!(
                        "another content at byte {} of the disk",
                        first.offset
                    ))
                    .hint("convert the parent anew")
                    .in_file(&self.arguments.copy)
                    .into(),
            ),
        }
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
        fit(&mut changing, size, self.context, (Ids::New, true))?;
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
            fit(&mut changing, size, self.context, (Ids::New, false))?;
        } else if changing.image().source.size() > size {
            report::note("COPY stays larger than the disk of the delta");
        }
        changing.sync()?;
        records.end(changing.layer()?)
    }
}

/// What is known of COPY.
struct Known {
    /// The receipt as it was found.
    found: Option<Receipt>,
    /// The one to go on with; none where there is no place for one.
    receipt: Option<Receipt>,
    /// Whether all of the delta is in it already.
    is_done: bool,
}

/// The receipt, and its copy beside COPY where it is elsewhere: whoever opens COPY looks there.
struct Records {
    receipt: Option<Receipt>,
    path: Option<PathBuf>,
    mark: Option<PathBuf>,
}

impl Records {
    fn new(job: &Job<'_>, known: Known) -> Result<Records, Failure> {
        let path = job.receipt_path();
        let now = path.as_deref().map(receipt::read).transpose()?.flatten();
        if now != known.found {
            return Err(Error::refused(
                "receipt",
                "changed meanwhile: somebody else applies a delta",
            )
            .in_file(&job.arguments.copy)
            .into());
        }
        let copy = &job.arguments.copy;
        let beside = receipt::beside(copy);
        let mark = (copy.is_file() && path.as_ref() != Some(&beside)).then_some(beside);
        Ok(Records {
            receipt: known.receipt,
            path,
            mark,
        })
    }

    fn begin(&mut self, delta: Origin) -> Result<(), Failure> {
        if let Some(receipt) = &mut self.receipt {
            receipt.applying = Some(delta);
        }
        let (Some(receipt), Some(path)) = (&self.receipt, &self.path) else {
            return Ok(());
        };
        receipt.write(path)?;
        self.mark
            .as_ref()
            .map_or(Ok(()), |mark| receipt.write(mark))
    }

    fn shrinks(&self) -> bool {
        self.receipt.as_ref().is_some_and(|receipt| receipt.shrinks)
    }

    fn end(&mut self, copy: &LayerFile) -> Result<(), Failure> {
        let (Some(receipt), Some(path)) = (&mut self.receipt, &self.path) else {
            return Ok(());
        };
        receipt.target = Copy::of(copy)?;
        if let Some(delta) = receipt.applying.take() {
            receipt.source = delta.clone();
            receipt.applied.push(delta);
        }
        receipt.write(path)?;
        let Some(mark) = &self.mark else {
            return Ok(());
        };
        let removed = std::fs::remove_file(mark);
        Ok(removed.map_err(|e| Error::io("remove", e).in_file(mark))?)
    }
}

/// Gives `image` the size of the delta: more before anything is written, less after everything is. A device keeps what it
/// has.
///
/// # Errors
/// Those of resizing.
pub fn fit(
    image: &mut Changing<'_>,
    size: u64,
    context: &OpenContext,
    (ids, is_before): (Ids, bool),
) -> Result<(), Failure> {
    let now = image.image().source.size();
    let is_device = image.layer()?.storage.is_device();
    if now == size || is_device || (now < size) != is_before {
        return Ok(());
    }
    let plan = plan_with(image.image(), size, ids, context)?;
    if plan.size < now {
        let notes = "what lies behind its new end is lost with the delta: its guest did not see it";
        report::note(&format!(
            "the disk becomes smaller, {now} → {size} bytes: {notes}"
        ));
    }
    image.carry_out(&plan)?;
    Ok(())
}

fn text(answer: &Answer, amount: &Amount) -> String {
    let (data, zero) = (render::size(amount.data), render::size(amount.zero));
    if answer.dry_run {
        return format!(
            "{} → {}: would write {data} of data and {zero} of zeros ({} bytes)\n",
            answer.delta,
            answer.copy,
            amount.data + amount.zero
        );
    }
    let verified = match answer.verified {
        true => "; read back and the same",
        false => "",
    };
    format!(
        "{} → {}: {data} of data and {zero} of zeros in {:.1} s{verified}\n",
        answer.delta, answer.copy, answer.seconds
    )
}
