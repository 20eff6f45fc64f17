//! `check` of a package: archive, description, manifest, certificate, references, and every disk.

use std::collections::BTreeSet;

use formats::{Error, OpenContext};
use machines::href::Href;
use packages::integrity::Pending;
use packages::{Kind, Opened};
use transfer::{Setting, Unpack};

use super::{Answer, is_damage};
use crate::args;
use crate::failure::Failure;
use crate::open;
use crate::source::{self, Found};
use crate::work::Work;

/// Looks at the package in `found`.
///
/// # Errors
/// Those of the storage, and of this program's surroundings; what is wrong with the package goes to `answer`.
pub fn look(
    arguments: &args::Check,
    found: &Found,
    kind: Kind,
    answer: &mut Answer,
) -> Result<(), Failure> {
    answer.format = Some(kind.to_string());
    if arguments.repair {
        return Err(Error::usage("--repair", "is for disk images")
            .hint("convert makes a new package of a bad one")
            .in_file(&arguments.image)
            .into());
    }
    let context = OpenContext {
        // Its digest is looked at below; what else is wrong shall be told, too.
        salvage: true,
        ..open::context_for_tables(&arguments.opening)?
    };
    let opened = match found.package(&context) {
        Err(Failure(transfer::Error::Image(error))) => Err(error),
        other => Ok(other?),
    };
    let Some(Some(opened)) = answer.unless_damage(opened)? else {
        return Ok(());
    };
    let strict = OpenContext {
        salvage: false,
        ..context
    };
    answer.is_map_sound = true;
    answer.warnings.extend(opened.warnings.iter().cloned());
    answer
        .warnings
        .extend(opened.package.violations.iter().cloned());
    answer.damage.extend(opened.seal.damage.iter().cloned());
    let work = Work::new(arguments.jobs)?;
    work.watched(&arguments.output, |setting| {
        references(&opened, &work, answer)?;
        files(&opened, &work, answer)?;
        disks(arguments, &opened, &strict, setting, answer)?;
        work.go_on()
    })
}

/// Looks for files that the description names and that are not there, and for those that it does not name.
fn references(opened: &Opened, work: &Work, answer: &mut Answer) -> Result<(), Failure> {
    let mut known = BTreeSet::new();
    for file in &opened.package.files {
        work.go_on()?;
        let href = file.href.as_str();
        known.insert(href.strip_prefix("./").unwrap_or(href));
        if file.chunk_size.is_some() {
            // Those of disks are looked at when they are read.
            continue;
        }
        let found = opened.find(href);
        if let Some(None) = answer.unless_damage(found)? {
            let name = href.escape_debug();
            answer
                .damage
                .push(format!("the description names {name}, which is not there"));
        }
    }
    let Some(archive) = opened.archive().filter(|_| opened.kind == Kind::Ova) else {
        return Ok(());
    };
    for name in &archive.names {
        let is_seal = [".mf", ".cert"].iter().any(|end| name.ends_with(end));
        let is_chunk = name.rsplit_once('.').is_some_and(|(whole, number)| {
            known.contains(whole) && number.bytes().all(|b| b.is_ascii_digit())
        });
        if *name != opened.description && !is_seal && !is_chunk && !known.contains(name.as_str()) {
            let name = name.escape_debug();
            answer.warn_once(format!("the description says nothing of {name}"));
        }
    }
    Ok(())
}

/// Holds every file against the manifest.
fn files(opened: &Opened, work: &Work, answer: &mut Answer) -> Result<(), Failure> {
    let Some((_, manifest)) = &opened.seal.manifest else {
        if matches!(opened.kind, Kind::Ova | Kind::Ovf) && opened.seal.damage.is_empty() {
            let none = "there is no manifest: nothing vouches for the files";
            answer.warnings.push(none.to_owned());
        }
        return Ok(());
    };
    if let Some(archive) = opened.archive() {
        let names = archive.names.iter().map(String::as_str);
        let (unlisted, _) = opened.seal.differences(names);
        for name in unlisted {
            let warning = format!("the manifest says nothing of {}", name.escape_debug());
            answer.warn_once(warning);
        }
    }
    let mut seen = BTreeSet::new();
    for entry in &manifest.entries {
        work.go_on()?;
        if !seen.insert(entry.name.as_str()) || entry.name == opened.description {
            // The description was looked at when it was opened.
            continue;
        }
        if let Err(error) = Href::new(entry.name.as_str()).relative() {
            // A name that leads elsewhere is none of a file in the package.
            let error = error.in_file(opened.path());
            answer.damage.push(error.to_string());
            continue;
        }
        let Some(file) = answer.unless_damage(opened.find(&entry.name))? else {
            continue;
        };
        let Some(file) = file else {
            let name = entry.name.escape_debug();
            answer
                .damage
                .push(format!("the manifest names {name}, which is not there"));
            continue;
        };
        let entries = opened.seal.entries(&entry.name);
        let checked = Pending::unwatched(file, entries).check(work.cancel());
        match checked {
            Err(transfer::Error::Image(error)) => {
                answer.unless_damage(Err(error)).map(|_: Option<()>| ())?
            }
            other => other?,
        }
    }
    Ok(())
}

/// Opens every disk, and unpacks what carries a mark of being whole.
fn disks(
    arguments: &args::Check,
    opened: &Opened,
    context: &OpenContext,
    setting: &Setting<'_>,
    answer: &mut Answer,
) -> Result<(), Failure> {
    let unpack = match arguments.unpack {
        true => Unpack::All,
        false => Unpack::Checksummed,
    };
    let choice = source::choice(&arguments.opening);
    for machine in choice.machines(opened)? {
        for disk in choice.disks(opened, machine)? {
            let found = opened.disk(machine, disk, context);
            let Some(found) = answer.unless_damage(found)? else {
                continue;
            };
            open::refuse_half_applied(&found.image)?;
            found
                .warnings
                .into_iter()
                .for_each(|warning| answer.warn_once(warning));
            if let Some(tip) = found.image.tip() {
                let driver = formats::driver(tip.info.format);
                let report = transfer::check_structures(driver, &tip.storage, context, setting);
                match report {
                    Ok(report) => answer.take_report(report),
                    Err(transfer::Error::Image(error)) if is_damage(&error) => {
                        answer.damage.push(error.to_string());
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            let losses = transfer::check(&found.image.source, unpack, setting)?;
            let before = answer.lost_bytes;
            answer.take_losses(&losses);
            answer.lost_bytes += before;
        }
    }
    Ok(())
}
