//! What vouches for the files of a package: its manifest, and the signature over that.

use std::collections::{BTreeMap, BTreeSet};

use formats::{Error, Result, StorageRef};
use machines::certificate::{Certificate, Signer};
use machines::manifest::{Entry, Manifest, hex};

use crate::files::Files;
use crate::read_text;

/// The manifest of a package and who signed it.
#[derive(Default)]
pub struct Seal {
    /// The name of the manifest, and what it says.
    pub manifest: Option<(String, Manifest)>,
    /// Who signed it. The signature is right; whether the signer can be trusted is for people to say.
    pub signer: Option<Signer>,
    /// What is odd about it.
    pub warnings: Vec<String>,
    /// What is wrong with it.
    pub damage: Vec<String>,
    /// Lines of the manifest by the name of the file, without `./`.
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
        let Some((manifest_name, storage)) = beside(files, base, "mf")? else {
            let others: Vec<&str> = strangers(files, "mf").map(String::as_str).collect();
            if !others.is_empty() {
                seal.warnings.push(format!(
                    "none of its manifests belongs to {name}, so that no digest was checked: {}",
                    others.join(", ").escape_debug()
                ));
            }
            if beside(files, base, "cert")?.is_some() {
                seal.damage
                    .push("there is a certificate, but no manifest that it could speak for".into());
            }
            return Ok(seal);
        };
        let bytes = read_text(&storage)?;
        match Manifest::parse(&bytes) {
            Ok(manifest) => {
                seal.warnings.extend(manifest.warnings.iter().cloned());
                for entry in &manifest.entries {
                    let lines = seal.by_name.entry(bare(&entry.name).to_owned());
                    lines.or_default().push(entry.clone());
                }
                seal.manifest = Some((manifest_name, manifest));
            }
            Err(error) => seal.damage.push(error.in_file(storage.path()).to_string()),
        }
        if let Some((_, storage)) = beside(files, base, "cert")? {
            let text = read_text(&storage)?;
            match Certificate::parse(&text).and_then(|c| c.verify(&bytes)) {
                Ok(signer) => seal.signer = Some(signer),
                Err(error) => seal.damage.push(error.in_file(storage.path()).to_string()),
            }
        }
        Ok(seal)
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
        let said: BTreeSet<&str> = manifest.entries.iter().map(|e| bare(&e.name)).collect();
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
fn bare(name: &str) -> &str {
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
