//! `check`: whether an image or a package is whole; with `--repair` the one verb that writes to an image that is there.

mod package;

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use formats::open::open_storage_alone;
use formats::{
    CheckReport, Driver, Error, ErrorKind, InPlaceFile, LayerFile, OpenContext, StorageRef, driver,
    probe,
};
use serde::Serialize;
use transfer::{Losses, Setting, Unpack};

use crate::args;
use crate::failure::Failure;
use crate::source::Found;
use crate::work::Work;
use crate::{open, report, source};

/// Damaged ranges that people are shown one by one.
const RANGES_SHOWN: usize = 50;

#[derive(Default, Serialize)]
struct Answer {
    file: String,
    format: Option<String>,
    damaged: bool,
    damage: Vec<String>,
    /// Guest ranges that cannot be read.
    lost: Vec<Range>,
    lost_bytes: u64,
    warnings: Vec<String>,
    /// Those of them that may come again.
    #[serde(skip)]
    warned: BTreeSet<String>,
    /// Whether looking at the map would tell nothing new.
    #[serde(skip)]
    is_map_sound: bool,
    /// What was counted on the way.
    counts: BTreeMap<&'static str, u64>,
    /// The first file offsets of each sort of finding.
    places: BTreeMap<&'static str, Vec<u64>>,
    /// What `--repair` put right.
    repaired: Option<BTreeMap<&'static str, u64>>,
    /// Why `--repair` wrote nothing.
    not_repaired: Option<String>,
}

#[derive(Serialize)]
struct Range {
    offset: u64,
    length: u64,
    reason: String,
}

/// Runs the verb. What keeps the image from being opened is damage, too.
pub fn run(arguments: &args::Check) -> Result<ExitCode, Failure> {
    let mut answer = Answer {
        file: arguments.image.display().to_string(),
        ..Answer::default()
    };
    look(arguments, &mut answer)?;
    answer.damaged = !answer.damage.is_empty() || !answer.lost.is_empty();
    if arguments.output.json {
        report::json(&answer)?;
    } else {
        report::text(&text(&answer))?;
    }
    Ok(ExitCode::from(u8::from(answer.damaged)))
}

fn look(arguments: &args::Check, answer: &mut Answer) -> Result<(), Failure> {
    let context = open::context_for_tables(&arguments.opening)?;
    if context.layer.is_some() {
        return Err(Error::usage("--layer", "goes with what reads a chain")
            .hint("check looks at one file: name that of the layer")
            .into());
    }
    let found = match Found::open(&arguments.image, arguments.source_format.as_deref()) {
        Ok(found) => Ok(found),
        Err(Failure(transfer::Error::Image(error))) => Err(error),
        Err(other) => return Err(other),
    };
    let Some(found) = answer.unless_damage(found)? else {
        return Ok(());
    };
    if let Some(kind) = found.kind {
        return package::look(arguments, &found, kind, answer);
    }
    source::refuse_choice(&arguments.opening, &arguments.image)?;
    let (named, storage) = (found.format, found.file);
    let format = match named {
        Some(format) => Ok(format),
        None => probe(storage.as_ref()),
    };
    let Some(format) = answer.unless_damage(format)? else {
        return Ok(());
    };
    answer.format = Some(format.to_string());
    let opened = open_storage_alone(storage.clone(), Some(format), &context);
    let work = Work::new(arguments.jobs)?;
    let driver = driver(format);
    // An image that does not open is looked at all the same: more can be said than the first thing that is wrong.
    if opened.as_ref().map_or_else(is_damage, |_| true) {
        let setting = work.setting();
        let look = Look {
            driver,
            storage: &storage,
            context: &context,
            setting: &setting,
        };
        let layer = opened.as_ref().ok().map(|(layer, _)| layer);
        let checked = structures(arguments, &look, layer, answer);
        match (checked, &opened) {
            (Err(Failure(transfer::Error::Image(_))), Err(_)) => {}
            (Err(Failure(transfer::Error::Image(error))), Ok(_)) if is_damage(&error) => {
                answer.damage.push(error.to_string());
            }
            (checked, _) => checked?,
        }
    }
    let (layer, _) = match opened {
        Ok(opened) => opened,
        // Said in better words.
        Err(error) if is_damage(&error) && !answer.damage.is_empty() => return Ok(()),
        Err(error) => return answer.unless_damage(Err(error)).map(|_: Option<()>| ()),
    };
    answer.warnings.extend(layer.info.warnings);
    let unpack = match arguments.unpack {
        true => Unpack::All,
        false => Unpack::Checksummed,
    };
    if answer.is_map_sound && !arguments.unpack {
        return Ok(());
    }
    let losses = work.watched(&arguments.output, |setting| {
        transfer::check(&layer.source, unpack, setting)
    })?;
    answer.take_losses(&losses);
    Ok(())
}

/// What looking at an image takes.
struct Look<'a> {
    driver: &'a dyn Driver,
    storage: &'a StorageRef,
    context: &'a OpenContext,
    setting: &'a Setting<'a>,
}

impl Look<'_> {
    fn report(&self) -> Result<CheckReport, Failure> {
        let report =
            transfer::check_structures(self.driver, self.storage, self.context, self.setting);
        Ok(report?)
    }

    /// Why an image with findings that can be repaired is left alone all the same: what is wrong besides may make things
    /// in use look like leaks.
    fn objection(
        &self,
        report: &CheckReport,
        layer: Option<&LayerFile>,
    ) -> Result<Option<&'static str>, Failure> {
        let Some(layer) = layer else {
            return Ok(Some("the image cannot be opened: nothing was written"));
        };
        let mut damage = report.findings.iter().filter(|finding| finding.is_damage);
        if damage.any(|finding| !finding.is_repairable) || report.is_map_sound {
            // The first is for the driver to refuse, in better words.
            return Ok(None);
        }
        let losses = transfer::check(&layer.source, Unpack::Checksummed, self.setting)?;
        Ok((losses.count > 0).then_some("parts of the disk cannot be read: nothing was written"))
    }
}

/// Looks at what reading does not show, and repairs it if that is wanted. `layer` is the image, if it opens.
fn structures(
    arguments: &args::Check,
    look: &Look<'_>,
    layer: Option<&LayerFile>,
    answer: &mut Answer,
) -> Result<(), Failure> {
    // Locked before the first look, so that what is repaired is what was seen.
    let file = match arguments.repair {
        true => Some(InPlaceFile::open(look.storage.as_ref())?),
        false => None,
    };
    let mut report = look.report()?;
    if let Some(file) = file {
        let is_damaged = report.findings.iter().any(|finding| finding.is_damage);
        if report.findings.iter().any(|finding| finding.is_repairable) {
            if let Some(why) = look.objection(&report, layer)? {
                answer.not_repaired = Some(why.to_owned());
                answer.take_report(report);
                return Ok(());
            }
            match transfer::repair(look.driver, look.storage, &file, look.setting) {
                Ok(repaired) => {
                    answer.repaired = Some(repaired.fixed.into_iter().collect());
                    report = look.report()?;
                }
                Err(transfer::Error::Image(error))
                    if is_damaged && error.kind() == ErrorKind::Refused =>
                {
                    answer.not_repaired = Some(error.to_string());
                }
                Err(error) => return Err(error.into()),
            }
        } else if is_damaged {
            answer.not_repaired = Some("nothing of this can be repaired".to_owned());
        }
    }
    answer.take_report(report);
    Ok(())
}

/// Whether the image is at fault, rather than this program or its surroundings.
fn is_damage(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Malformed | ErrorKind::Truncated)
}

impl Answer {
    /// Notes an error that tells of damage; any other one is passed on.
    fn unless_damage<T>(&mut self, result: Result<T, Error>) -> Result<Option<T>, Failure> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if is_damage(&error) => {
                self.damage.push(error.to_string());
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn warn_once(&mut self, warning: String) {
        if self.warned.insert(warning.clone()) {
            self.warnings.push(warning);
        }
    }

    fn take_losses(&mut self, losses: &Losses) {
        self.lost_bytes = losses.bytes;
        let ranges = losses.holes.iter().map(|hole| Range {
            offset: hole.offset,
            length: hole.len,
            reason: hole.reason.clone(),
        });
        self.lost.extend(ranges);
    }

    fn take_report(&mut self, report: CheckReport) {
        for finding in report.findings {
            if finding.is_damage {
                self.damage.push(finding.message);
            } else {
                self.warnings.push(finding.message);
            }
        }
        self.is_map_sound = report.is_map_sound;
        self.counts = report.counts.into_iter().collect();
        self.places = report.places.into_iter().collect();
    }
}

/// The counts in one line.
fn counts(counts: &BTreeMap<&'static str, u64>) -> String {
    let counts: Vec<String> = counts
        .iter()
        .map(|(name, count)| format!("{} {count}", name.replace('_', " ")))
        .collect();
    counts.join(", ")
}

fn text(answer: &Answer) -> String {
    let mut text = String::new();
    for warning in &answer.warnings {
        text += &format!("warning: {warning}\n");
    }
    for damage in &answer.damage {
        text += &format!("damage: {damage}\n");
    }
    for range in answer.lost.iter().take(RANGES_SHOWN) {
        text += &format!(
            "damage: {} bytes of the disk at {} cannot be read: {}\n",
            range.length, range.offset, range.reason
        );
    }
    if answer.lost.len() > RANGES_SHOWN {
        let more = answer.lost.len() - RANGES_SHOWN;
        text += &format!("damage: {more} more ranges; --json lists them\n");
    }
    if let Some(repaired) = &answer.repaired {
        text += &format!("repaired: {}\n", counts(repaired));
    }
    if let Some(why) = &answer.not_repaired {
        text += &format!("not repaired: {why}\n");
    }
    if !answer.counts.is_empty() {
        text += &format!("counted: {}\n", counts(&answer.counts));
    }
    let verdict = match (answer.damaged, answer.lost_bytes) {
        (true, 0) => "damaged".to_owned(),
        (true, bytes) => format!("damaged; {bytes} bytes of the disk cannot be read"),
        (false, _) => "no damage found".to_owned(),
    };
    text + &format!("{}: {verdict}\n", answer.file)
}
