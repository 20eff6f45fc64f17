//! A package that was opened: its description read, its files known, none of its disks touched.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use formats::tar::Member;
use formats::unpacked::Pool;
use formats::{Error, OpenContext, Result, SliceStorage, StorageRef, xva};
use machines::xva::{Streamed, Version};
use machines::{Package, ovf, toml_file, vmx};

use crate::files::{Archive, Files};
use crate::kind::{Kind, is_descriptor};
use crate::read_text;
use crate::seal::Seal;

/// An opened package.
pub struct Opened {
    /// What sort it is.
    pub kind: Kind,
    /// The file that was named: the archive, or the description.
    pub file: StorageRef,
    /// The file that was opened for it: the same, unless that is packed.
    pub outermost: StorageRef,
    /// What the description is called in the package.
    pub description: String,
    /// What the description says.
    pub package: Package,
    /// Manifest and certificate, of OVF packages.
    pub seal: Seal,
    /// Who wrote it, of XVAs.
    pub version: Option<Version>,
    /// What a user should hear about.
    pub warnings: Vec<String>,
    pub(crate) files: Files,
    pub(crate) streams: BTreeMap<String, Stream>,
    /// For its packed files.
    pub(crate) pool: Pool,
}

/// The blocks of a disk in an XVA.
pub(crate) struct Stream {
    pub(crate) disk: Arc<xva::Disk>,
    pub(crate) virtual_size: u64,
}

impl Opened {
    /// The file that was named.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// What the package calls the file at `path`: its name from the description's folder on.
    pub(crate) fn name_of(&self, path: &Path) -> String {
        let folder = match &self.files {
            Files::Archive(_) => Some(self.path()),
            Files::Folder(_) => self.path().parent(),
        };
        let own = folder.and_then(|folder| path.strip_prefix(folder).ok());
        let name = own.unwrap_or_else(|| Path::new(path.file_name().unwrap_or_default()));
        name.to_string_lossy().into_owned()
    }

    /// The file of this name, if it is there.
    ///
    /// # Errors
    /// `Refused` for names that lead elsewhere, `Io`.
    pub fn find(&self, name: &str) -> Result<Option<StorageRef>> {
        self.files.find(name)
    }

    /// The files that the package is made of, as far as they can be told: none of them is a place for anything new.
    pub fn own_files(&self, context: &OpenContext) -> Vec<PathBuf> {
        let own = self.path();
        let mut files = vec![own.to_owned(), self.outermost.path().to_owned()];
        if self.archive().is_some() || self.kind == Kind::Xva {
            return files;
        }
        files.extend(["mf", "cert"].map(|extension| own.with_extension(extension)));
        for (index, machine) in self.package.machines.iter().enumerate() {
            let media = machine.cd_drives.iter().flat_map(|drive| &drive.medium);
            let images = machine.disks.iter().flat_map(|disk| &disk.image.file);
            let names = media.chain(images).flat_map(|file| file.href.relative());
            files.extend(names.map(|name| own.with_file_name(name)));
            // What a disk that can be opened is made of it knows best.
            let disks = 0..machine.disks.len();
            let opened = disks.flat_map(|disk| self.disk(index, disk, context));
            let storages = opened.flat_map(|disk| disk.image.storages);
            files.extend(storages.map(|storage| storage.path().to_owned()));
        }
        files
    }

    /// Files of the package by their names, if it is an archive.
    pub fn archive(&self) -> Option<&Archive> {
        match &self.files {
            Files::Archive(archive) => Some(archive),
            Files::Folder(_) => None,
        }
    }
}

/// Opens the package of this kind in `file`. With `salvage` of the context, a description that is not the one of the
/// manifest is a warning.
///
/// # Errors
/// What is wrong with the archive, the description or the manifest's digest of it; `Refused` for names that lead elsewhere.
pub fn open(file: StorageRef, kind: Kind, context: &OpenContext) -> Result<Opened> {
    match kind {
        Kind::Xva => open_xva(file),
        Kind::Ova => {
            let mut archive = Archive::read(&file)?;
            let mut name = descriptor(&archive, &file)?;
            let mut warnings = Vec::new();
            if let Some((folder, own)) = name.clone().rsplit_once('/') {
                warnings.push(format!(
                    "its files are in the folder {folder}: many importers do not find them"
                ));
                archive.enter(&format!("{folder}/"))?;
                name = own.to_owned();
            }
            if !archive.is_closed {
                warnings.push("the archive has no end: it may have been cut off".to_owned());
            }
            if archive.names.first() != Some(&name) {
                warnings.push(format!(
                    "{name} is not the first file of the archive: many importers do not find it"
                ));
            }
            let storage = archive.member(&name).cloned();
            let storage = storage.unwrap_or_else(|| file.clone());
            let found = Found {
                kind,
                file,
                name,
                storage,
            };
            found.open(Files::Archive(archive), warnings, context)
        }
        Kind::Ovf | Kind::Vmx | Kind::Toml => {
            let files = Files::around(file.path(), context);
            let name = file.path().file_name().unwrap_or_default();
            let found = Found {
                kind,
                name: name.to_string_lossy().into_owned(),
                storage: file.clone(),
                file,
            };
            found.open(files, Vec::new(), context)
        }
    }
}

/// The name of the one descriptor in `archive`.
fn descriptor(archive: &Archive, file: &StorageRef) -> Result<String> {
    let mut all = archive.names.iter().filter(|name| is_descriptor(name));
    match (all.next(), all.next()) {
        (Some(name), None) => Ok(name.clone()),
        (None, _) => Err(Error::malformed("OVA", "has no .ovf in it").in_file(file.path())),
        (Some(one), Some(two)) => Err(Error::malformed("OVA", "has several descriptors")
            .found(format!("{one:?} and {two:?}"))
            .hint("which of them is meant nobody can tell: pack it again with one")
            .in_file(file.path())),
    }
}

/// A description that was found.
struct Found {
    kind: Kind,
    file: StorageRef,
    name: String,
    storage: StorageRef,
}

impl Found {
    fn open(
        self,
        files: Files,
        mut warnings: Vec<String>,
        context: &OpenContext,
    ) -> Result<Opened> {
        let text = read_text(&self.storage)?;
        let in_file = |e: Error| e.in_file(self.storage.path());
        let package = match self.kind {
            Kind::Vmx => vmx::read(&text),
            Kind::Toml => toml_file::read(&text).map(|machine| Package {
                standard: "TOML".to_owned(),
                machines: vec![machine],
                ..Package::default()
            }),
            _ => ovf::read(&text),
        }
        .map_err(in_file)?;
        let mut seal = match self.kind {
            Kind::Ova | Kind::Ovf => Seal::read(&files, &self.name)?,
            _ => Seal::default(),
        };
        if let Err(error) = seal.check(&self.name, &text).map_err(in_file) {
            seal.damage.push(error.to_string());
            if !context.salvage {
                return Err(error);
            }
        }
        warnings.append(&mut seal.warnings);
        if seal.manifest.is_some() && seal.entries(&self.name).is_empty() {
            warnings.push(format!("the manifest says nothing of {}", self.name));
        }
        Ok(Opened {
            kind: self.kind,
            outermost: self.file.clone(),
            file: self.file,
            description: self.name,
            package,
            seal,
            version: None,
            warnings,
            files,
            streams: BTreeMap::new(),
            pool: Pool::default(),
        })
    }
}

fn open_xva(file: StorageRef) -> Result<Opened> {
    let index = xva::Index::read(&file)?;
    let text = read_text(&description(&file, &index.description)?)?;
    let in_file = |e: Error| e.in_file(&description_path(&file));
    let appliance = machines::xva::read(&text).map_err(in_file)?;
    if appliance.version.export < 2 && !index.disks.is_empty() {
        return Err(in_file(
            Error::unsupported("XVA", "is of a version whose checksums stand at its end")
                .found(format!("export_vsn {}", appliance.version.export))
                .expected("2, as every version since XenServer 6 writes it"),
        ));
    }
    let mut streams = BTreeMap::new();
    let mut disks = index.disks.into_iter();
    let mut warnings = index.warnings;
    for streamed in &appliance.streamed {
        let disk = disks.next();
        let Some(disk) = disk.filter(|disk| disk.reference == streamed.reference) else {
            return Err(missing(&file, streamed));
        };
        if streamed.is_suspend {
            warnings.push(
                "a machine was suspended: its memory is left behind, and it will start anew".into(),
            );
        }
        let stream = Stream {
            disk: Arc::new(disk),
            virtual_size: streamed.virtual_size,
        };
        streams.insert(streamed.reference.clone(), stream);
    }
    if let Some(stranger) = disks.next() {
        return Err(Error::malformed(
            "XVA",
            "has the blocks of a disk that its description does not stream",
        )
        .found(stranger.reference)
        .in_file(file.path()));
    }
    let machines = appliance.package.machines.iter();
    let disks: Vec<_> = machines
        .flat_map(|m| &m.disks)
        .filter_map(|d| d.image.id.as_deref())
        .collect();
    let lost = appliance.streamed.iter().filter(|s| !s.is_suspend);
    for streamed in lost.filter(|s| !disks.contains(&s.reference.as_str())) {
        let reference = streamed.reference.escape_debug();
        warnings.push(format!(
            "the disk {reference} belongs to no machine, and is left behind"
        ));
    }
    let path = PathBuf::from(file.path());
    Ok(Opened {
        kind: Kind::Xva,
        outermost: file.clone(),
        file,
        description: xva::DESCRIPTION.to_owned(),
        package: appliance.package,
        seal: Seal::default(),
        version: Some(appliance.version),
        warnings,
        files: Files::around(&path, &OpenContext::default()),
        streams,
        pool: Pool::default(),
    })
}

fn missing(file: &StorageRef, streamed: &Streamed) -> Error {
    Error::malformed("XVA", "the blocks of a disk are not where they should be")
        .expected(format!("those of {} next", streamed.reference))
        .hint("the export was cut off, or is not whole: make it again")
        .in_file(file.path())
}

fn description_path(file: &StorageRef) -> PathBuf {
    file.path().join(xva::DESCRIPTION)
}

fn description(file: &StorageRef, member: &Member) -> Result<StorageRef> {
    let path = description_path(file);
    let slice = SliceStorage::named(file.clone(), member.offset, member.len, &path)?;
    Ok(Arc::new(slice))
}
