//! A machine into a package: OVA, OVF, XVA, VMX.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use formats::xva::Checksum;
use formats::{Error, OpenContext};
use machines::Machine;
use machines::profiles::{Container, Profile, WIDEST, by_name};
use packages::write::{self, DiscIn, DiskIn, Input, Made, WriteOptions};
use packages::{Kind, Opened};
use transfer::Place;

use super::told::Told;
use super::{copy_options, described, is_folder, reproducible, signing};
use crate::args::{self, BlockChecksum, Manifest};
use crate::failure::Failure;
use crate::source::{self, Source};
use crate::work::Work;
use crate::{open, report};

/// Disks that are named.
const SHARED_MOST: usize = 100;

/// Makes a package of the kind from what `arguments` name.
///
/// # Errors
/// What is wrong with the source or the target. Nothing is left behind then.
pub fn run(
    arguments: &args::Convert,
    kind: Kind,
    profile: Option<&'static Profile>,
    context: &OpenContext,
) -> Result<ExitCode, Failure> {
    let job = PackageJob {
        arguments,
        kind,
        profile: suited(kind, profile)?,
        context,
    };
    let to_stdout = arguments.target().as_os_str() == "-";
    if to_stdout && !matches!(kind, Kind::Ova | Kind::Xva) {
        return Err(Error::usage("standard output", "takes one file: an OVA or an XVA").into());
    }
    refuse_meaningless(arguments, kind)?;
    let work = match to_stdout {
        true => Work::into_pipe(arguments.reading.jobs)?,
        false => Work::new(arguments.reading.jobs)?,
    };
    let work = work.salvaging(context.salvage);
    let started = Instant::now();
    let inputs = job.inputs()?;
    let names: Vec<String> = inputs.iter().map(|i| i.machine.name.clone()).collect();
    let target = Target::find(&job, names.first().map_or("", String::as_str))?;
    let made = job.write(inputs, &target, &work);
    let made = made.inspect_err(|_| target.undo())?;
    let done = Told {
        arguments,
        format: kind.name(),
        target: &target.path,
        machines: names,
        made,
        losses: work.losses(),
        seconds: started.elapsed().as_secs_f64(),
    };
    done.tell(to_stdout)
}

/// Fails for an option that says nothing about a package of this kind.
fn refuse_meaningless(arguments: &args::Convert, kind: Kind) -> Result<(), Failure> {
    let said = &arguments.packaging;
    let is_xva = kind == Kind::Xva;
    let has_manifest = matches!(kind, Kind::Ova | Kind::Ovf);
    let meaningless = [
        (
            "-B",
            arguments.backing.is_some(),
            "is for disks that are not in a package",
        ),
        (
            "-c",
            arguments.compress && is_xva,
            "the disks of an XVA are not compressed: pack it with zstd or gzip",
        ),
        (
            "-c",
            arguments.compress && kind == Kind::Vmx,
            "the disks of a VMX are not compressed",
        ),
        (
            "-o",
            !arguments.options.is_empty() && is_xva,
            "the disks of an XVA have no options",
        ),
        (
            "--manifest",
            said.manifest.is_some() && !has_manifest,
            "is for OVA and OVF: others have none",
        ),
        (
            "--checksum",
            said.checksum.is_some() && !is_xva,
            "is for the blocks of an XVA: --manifest chooses the digests of an OVA or OVF",
        ),
    ];
    match meaningless.into_iter().find(|(_, is, _)| *is) {
        Some((option, _, why)) => Err(Error::usage(option, why).into()),
        None => Ok(()),
    }
}

/// The row for a package of this kind.
fn suited(kind: Kind, profile: Option<&'static Profile>) -> Result<&'static Profile, Failure> {
    let Some(profile) = profile else {
        return Ok(match kind {
            Kind::Xva => by_name("xenserver").unwrap_or(&WIDEST),
            _ => &WIDEST,
        });
    };
    let why = match (profile.container, kind) {
        (Container::Disks, _) => "takes disks, no packages",
        (Container::Ovf, Kind::Xva) => "takes no XVA",
        (Container::Xva, Kind::Vmx) => "takes no VMX",
        _ => return Ok(profile),
    };
    Err(Error::usage("--for", format!("{} {why}", profile.title))
        .hint("leave out --for, or name another target")
        .into())
}

struct PackageJob<'a> {
    arguments: &'a args::Convert,
    kind: Kind,
    profile: &'static Profile,
    context: &'a OpenContext,
}

impl PackageJob<'_> {
    /// The machines that go into the package, with their disks opened.
    fn inputs(&self) -> Result<Vec<Input>, Failure> {
        let arguments = self.arguments;
        let format = arguments.source_format.as_deref();
        let opening = &arguments.reading.opening;
        let Some(opened) = source::package(&arguments.source, format, self.context)? else {
            source::refuse_choice(opening, &arguments.source)?;
            let machine = described::around(arguments, &arguments.source)?;
            let disk = source::disk(&arguments.source, format, opening, self.context)?;
            return Ok(vec![self.input(machine, vec![disk], None)?]);
        };
        if arguments.packaging.machine.is_some() {
            return Err(
                Error::usage("--machine", "the source describes its machine itself")
                    .hint("--name, --cpus, --memory, --firmware and --nic change it")
                    .into(),
            );
        }
        source::say_package(&opened);
        source::judge_package(&opened, self.context.salvage)?;
        let choice = source::choice(opening);
        let chosen = match self.kind {
            Kind::Xva => choice.machines(&opened)?,
            _ => vec![choice.machine(&opened)?],
        };
        if chosen.is_empty() {
            return Err(Error::malformed("package", "describes no machine")
                .in_file(opened.path())
                .into());
        }
        opened
            .package
            .notes
            .iter()
            .for_each(|note| report::note(note));
        if arguments.packaging.name.is_some() && chosen.len() > 1 {
            return Err(
                Error::usage("--name", "names one machine, and there are several")
                    .found(chosen.len())
                    .hint("pick one with --vm")
                    .into(),
            );
        }
        say_shared(&opened, &chosen);
        chosen
            .into_iter()
            .map(|machine| self.machine(&opened, machine))
            .collect()
    }

    fn machine(&self, opened: &Opened, index: usize) -> Result<Input, Failure> {
        let choice = source::choice(&self.arguments.reading.opening);
        let Some(machine) = opened.package.machines.get(index) else {
            return Err(Error::usage("--vm", "there is no such machine").into());
        };
        let mut machine = machine.clone();
        machine.notes.drain(..).for_each(|note| report::note(&note));
        let disks = choice.disks(opened, index)?;
        let kept = disks
            .iter()
            .filter_map(|disk| machine.disks.get(*disk).cloned());
        machine.disks = kept.collect();
        let sources = disks
            .iter()
            .map(|disk| source::disk_of(opened, index, *disk, self.context))
            .collect::<Result<Vec<_>, _>>()?;
        let discs = match self.kind {
            // An XVA has disks only.
            Kind::Xva => None,
            _ => Some(self.discs(opened, &mut machine)?),
        };
        let mut input = self.input(machine, sources, discs)?;
        input.networks.clone_from(&opened.package.networks);
        Ok(input)
    }

    fn discs(
        &self,
        opened: &Opened,
        machine: &mut Machine,
    ) -> Result<Vec<Option<DiscIn>>, Failure> {
        let mut discs = Vec::new();
        for drive in &mut machine.cd_drives {
            let disc = match &drive.medium {
                None => None,
                // A VMX names discs anywhere on its host; they are not part of the machine.
                Some(file) if opened.kind == Kind::Vmx => {
                    report::note(&format!("the disc {} is left out", file.href));
                    drive.medium = None;
                    None
                }
                Some(file) => {
                    let (storage, pending) = opened.medium(file)?;
                    Some(DiscIn { storage, pending })
                }
            };
            discs.push(disc);
        }
        Ok(discs)
    }

    fn input(
        &self,
        mut machine: Machine,
        sources: Vec<Source>,
        discs: Option<Vec<Option<DiscIn>>>,
    ) -> Result<Input, Failure> {
        described::change(self.arguments, &mut machine)?;
        let discs = discs.unwrap_or_else(|| machine.cd_drives.iter().map(|_| None).collect());
        let mut disks = Vec::new();
        let count = machine.disks.len();
        let adapters: Vec<_> = (0..count)
            .map(|index| write::adapter(&machine, index, self.profile))
            .collect();
        let sources = sources.into_iter().zip(adapters);
        for (disk, (mut source, adapter)) in machine.disks.iter_mut().zip(sources) {
            let most = self.arguments.reading.max_size.as_deref();
            open::check_size(&source.image, most)?;
            disk.image.capacity = Some(source.image.source.size());
            disk.image.populated = None;
            disk.image.parent = None;
            disks.push(DiskIn {
                pending: source.take_pending(),
                is_blank: source.is_blank,
                adapter,
                image: source.image,
            });
        }
        Ok(Input {
            machine,
            networks: Vec::new(),
            disks,
            discs,
        })
    }

    fn options<'w>(
        &self,
        inputs: &[Input],
        watch: &'w dyn Fn(Vec<packages::integrity::Pending>) -> Option<transfer::Condition>,
    ) -> Result<WriteOptions<'w>, Failure> {
        let said = &self.arguments.packaging;
        let manifest = match said.manifest {
            None => Some(self.profile.manifest),
            Some(Manifest::None) => None,
            Some(Manifest::Digest(algorithm)) => Some(algorithm),
        };
        let signing = match (&said.sign, &said.cert) {
            (Some(key), Some(certificate)) => Some(signing::read(key, certificate)?),
            _ => None,
        };
        if signing.is_some() && (manifest.is_none() || matches!(self.kind, Kind::Xva | Kind::Vmx)) {
            return Err(Error::usage("--sign", "there is no manifest to sign").into());
        }
        let reproducible = reproducible(self.arguments)?;
        let now = || {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            since.map_or(0, |since| since.as_secs())
        };
        Ok(WriteOptions {
            profile: self.profile,
            copy: copy_options(self.arguments, self.context)?,
            disk_options: self.arguments.options.clone(),
            subformat: "",
            compress: self.arguments.compress,
            size_multiple: self.profile.size_multiple,
            manifest,
            signing,
            checksum: match said.checksum {
                Some(BlockChecksum::Xxhash) => Checksum::Xxhash,
                _ => Checksum::Sha1,
            },
            unix_time: reproducible.unwrap_or_else(now),
            seed: match reproducible {
                None => uuid::Uuid::new_v4().into_bytes().to_vec(),
                Some(_) => described_in_full(inputs)?,
            },
            watch,
        })
    }

    fn write(&self, inputs: Vec<Input>, target: &Target, work: &Work) -> Result<Made, Failure> {
        let salvage = self.context.salvage;
        let watch = |pending| source::watch(pending, work.cancel(), salvage);
        let options = self.options(&inputs, &watch)?;
        let force = self.arguments.force;
        let place = || match target.path.as_os_str() == "-" {
            true => Place::Stream(Box::new(std::io::stdout())),
            false => Place::File {
                path: &target.path,
                force,
            },
        };
        let mut inputs = inputs;
        let made = work.watched(&self.arguments.output, |setting| {
            if self.kind == Kind::Xva {
                return write::xva(inputs, place(), &options, setting);
            }
            let Some(input) = inputs.pop() else {
                return Ok(Made::default());
            };
            match self.kind {
                Kind::Ova => write::ova(input, place(), &target.base, &options, setting),
                Kind::Vmx => write::vmx(input, &target.path, force, &options, setting),
                _ => write::ovf(input, &target.path, force, &options, setting),
            }
        })?;
        Ok(made)
    }
}

/// Says which disks several machines have: each of them gets its own copy.
fn say_shared(opened: &Opened, chosen: &[usize]) {
    let mut owners: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    for index in chosen {
        let machine = opened.package.machines.get(*index);
        for disk in machine.iter().flat_map(|machine| &machine.disks) {
            let file = disk.image.file.as_ref().map(|file| file.href.as_str());
            if let Some(image) = disk.image.id.as_deref().or(file) {
                owners.entry(image).or_default().insert(*index);
            }
        }
    }
    let shared = owners.into_iter().filter(|(_, owners)| owners.len() > 1);
    for (image, owners) in shared.take(SHARED_MOST) {
        report::note(&format!(
            "the disk {} is shared by {} machines: each of them gets its own copy",
            image.escape_debug(),
            owners.len()
        ));
    }
}

/// The machines in words that do not depend on the moment.
fn described_in_full(inputs: &[Input]) -> Result<Vec<u8>, Failure> {
    let mut all = Vec::new();
    for input in inputs {
        all.extend(machines::toml_file::write(&input.machine)?.into_bytes());
    }
    Ok(all)
}

/// Where the package goes.
struct Target {
    /// The file: archive or description.
    path: PathBuf,
    /// What the names of its files begin with.
    base: String,
    /// A folder that was made for it.
    made: Option<PathBuf>,
}

impl Target {
    fn find(job: &PackageJob<'_>, machine: &str) -> Result<Target, Failure> {
        let named = job.arguments.target();
        let has_extension = Kind::by_extension(named) == Some(job.kind);
        let goes_into =
            is_folder(named) || (matches!(job.kind, Kind::Ovf | Kind::Vmx) && !has_extension);
        if !goes_into {
            let stem = named.file_stem().unwrap_or_default().to_string_lossy();
            let from = if named.as_os_str() == "-" {
                machine
            } else {
                &stem
            };
            return Ok(Target {
                path: named.to_owned(),
                base: job.profile.file_name(from),
                made: None,
            });
        }
        let made = !named.exists();
        if made {
            std::fs::create_dir(named).map_err(|e| Error::io("create", e).in_file(named))?;
        }
        let base = job.profile.file_name(machine);
        Ok(Target {
            path: named.join(format!("{base}.{}", job.kind)),
            base,
            made: made.then(|| named.to_owned()),
        })
    }

    /// Takes away the folder that was made: only if it is empty.
    fn undo(&self) {
        if let Some(folder) = &self.made {
            let _ = std::fs::remove_dir(folder);
        }
    }
}
