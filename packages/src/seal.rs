//! What vouches for the files of a package: its manifest, and the signature over that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use formats::{Error, ErrorKind, Result, StorageRef};
use machines::certificate::{self, Certificate, Signer};
use machines::manifest::{self, Entry, Manifest, hex};

use crate::files::Files;
use crate::read_at_most;

/// The manifest of a package and who signed it.
#[derive(Default)]
pub struct Seal {
    /// The name of the manifest, and what it says; its files by their names in the package.
    pub manifest: Option<(String, Manifest)>,
    /// Who signed it. The signature is right; whether the signer can be trusted is for people to say.
    pub signer: Option<Signer>,
    /// What is odd about it.
    pub warnings: Vec<String>,
    /// What is wrong with it.
    pub damage: Vec<String>,
    /// Lines of the manifest by the name of the file, as [`Files::own_name`] has it.
    by_name: BTreeMap<String, Vec<Entry>>,
}

impl Seal {
    /// Reads the manifest and the certificate that belong to the descriptor `name` (`web.ovf`), where there are any.
    ///
    /// # Errors
    /// Those of the storage; what is wrong with their content is told in [`Seal::damage`].
    pub fn read(files: &Files, name: &str) -> Result<Seal> {
        let mut seal = Seal::default();
        let base = name.rsplit_once('.').map_or(name, |(base, _)| base);
        let certificate = beside(files, base, "cert")?;
        if certificate.is_none() {
            seal.warn_of_strangers(files, name, "cert", "certificates", "signature");
        }
        let Some((manifest_name, storage)) = beside(files, base, "mf")? else {
            seal.warn_of_strangers(files, name, "mf", "manifests", "digest");
            if certificate.is_some() {
                seal.damage
                    .push("there is a certificate, but no manifest that it could speak for".into());
            }
            return Ok(seal);
        };
        let bytes = read_at_most(&storage, manifest::MAX_LEN, "manifest")?;
        match Manifest::parse(&bytes) {
            Ok(mut manifest) => {
                seal.warnings.extend(manifest.warnings.iter().cloned());
                for entry in &mut manifest.entries {
                    entry.name = files.own_name(&entry.name).to_owned();
                    let lines = seal.by_name.entry(entry.name.clone());
                    lines.or_default().push(entry.clone());
                }
                seal.manifest = Some((manifest_name.clone(), manifest));
            }
            Err(error) => seal.damage.push(error.in_file(storage.path()).to_string()),
        }
        if let Some((_, storage)) = certificate {
            seal.read_certificate(files, &storage, &manifest_name, &bytes)?;
        }
        Ok(seal)
    }

    /// Reads the certificate in `storage`, and holds `manifest`, the file `name`, against it.
    fn read_certificate(
        &mut self,
        files: &Files,
        storage: &StorageRef,
        name: &str,
        manifest: &[u8],
    ) -> Result<()> {
        let text = match read_at_most(storage, certificate::MAX_LEN, "certificate") {
            // What is that long is none.
            Err(error) if error.kind() == ErrorKind::Limit => {
                self.damage.push(error.to_string());
                return Ok(());
            }
            other => other?,
        };
        let in_file = |e: Error| e.in_file(storage.path()).to_string();
        let certificate = match Certificate::parse(&text) {
            Ok(certificate) => certificate,
            Err(error) => {
                self.damage.push(in_file(error));
                return Ok(());
            }
        };
        if files.own_name(&certificate.manifest) != name {
            self.warnings.push(format!(
                "the certificate speaks for {}, and the manifest is {}: many importers refuse that",
                certificate.manifest.escape_debug(),
                name.escape_debug()
            ));
        }
        match certificate.verify(manifest) {
            Ok(signer) => {
                self.warnings.extend(signer.warnings_at(SystemTime::now()));
                self.signer = Some(signer);
            }
            Err(error) => self.damage.push(in_file(error)),
        }
        Ok(())
    }

    /// Warns of files with this extension none of which belongs to the descriptor `name`.
    fn warn_of_strangers(
        &mut self,
        files: &Files,
        name: &str,
        extension: &str,
        what: &str,
        unchecked: &str,
    ) {
        let others: Vec<&str> = strangers(files, extension).map(String::as_str).collect();
        if !others.is_empty() {
            self.warnings.push(format!(
                "none of its {what} belongs to {name}, so that no {unchecked} was checked: {}",
                others.join(", ").escape_debug()
            ));
        }
    }

    /// What is said of the file `name`: a digest by each algorithm.
    pub fn entries(&self, name: &str) -> Vec<Entry> {
        self.by_name.get(bare(name)).cloned().unwrap_or_default()
    }

    /// Fails when `bytes`, the file `name`, are not what the manifest says.
    ///
    /// # Errors
    /// `Malformed`.
    pub fn check(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut entries = self.entries(name).into_iter();
        entries.try_for_each(|entry| compare(&entry, &entry.algorithm.digest(bytes)))
    }

    /// Which of `names` the manifest says nothing of, and which files it names that are not among them. Itself and its
    /// certificate do not count.
    pub fn differences<'n>(
        &self,
        names: impl IntoIterator<Item = &'n str>,
    ) -> (Vec<String>, Vec<String>) {
        let Some((own, manifest)) = &self.manifest else {
            return Default::default();
        };
        let said: BTreeSet<&str> = manifest.entries.iter().map(|e| e.name.as_str()).collect();
        let is_seal = |name: &str| name == own || name.ends_with(".cert");
        let present: BTreeSet<&str> = names.into_iter().filter(|n| !is_seal(n)).collect();
        let only = |a: &BTreeSet<&str>, b: &BTreeSet<&str>| {
            a.difference(b).map(ToString::to_string).collect()
        };
        (only(&present, &said), only(&said, &present))
    }
}

/// Fails when a file with the digest `found` is not the one that `entry` speaks of.
///
/// # Errors
/// `Malformed`.
pub fn compare(entry: &Entry, found: &[u8]) -> Result<()> {
    if entry.digest == found {
        return Ok(());
    }
    let what = format!("{} of {:?}", entry.algorithm.name(), entry.name);
    Err(
        Error::malformed("manifest", "a file is not what the manifest says")
            .found(format!("{what} is {}", hex(found)))
            .expected(hex(&entry.digest))
            .hint("the package was damaged or changed on its way: fetch it again; --salvage goes on with it"),
    )
}

/// A name without `./` in front.
pub(crate) fn bare(name: &str) -> &str {
    name.strip_prefix("./").unwrap_or(name)
}

/// The file with this extension that belongs to the descriptor called `base`: in an archive without one of that name, the
/// only one that there is.
fn beside(files: &Files, base: &str, extension: &str) -> Result<Option<(String, StorageRef)>> {
    let name = format!("{base}.{extension}");
    if let Some(storage) = files.find(&name)? {
        return Ok(Some((name, storage)));
    }
    let Files::Archive(archive) = files else {
        return Ok(None);
    };
    let mut such = strangers(files, extension);
    Ok(match (such.next(), such.next()) {
        (Some(name), None) => archive.member(name).map(|s| (name.clone(), s.clone())),
        _ => None,
    })
}

/// The files of an archive that have this extension.
fn strangers<'f>(files: &'f Files, extension: &'f str) -> impl Iterator<Item = &'f String> {
    let names = match files {
        Files::Archive(archive) => archive.names.as_slice(),
        Files::Folder(_) => &[],
    };
    names.iter().filter(move |name| {
        let found = name.rsplit_once('.').map(|(_, e)| e);
        found.is_some_and(|e| e.eq_ignore_ascii_case(extension)) && !name.starts_with("._")
    })
}
