//! Descriptor, manifest and certificate of an OVF package.

use formats::{Error, Format};
use machines::certificate::{self, Certificate};
use machines::machine::DiskFormat;
use machines::manifest::Manifest;
use machines::ovf::{self, Contents, Member};
use transfer::Result;

use super::member::Done;
use super::{Input, WriteOptions};

/// The names of a package's files.
#[derive(Debug, Clone)]
pub(super) struct Names {
    pub(super) descriptor: String,
    pub(super) manifest: Option<String>,
    pub(super) certificate: Option<String>,
    /// Of each disk; none for one without a file.
    pub(super) disks: Vec<Option<String>>,
    /// Of the disc in each drive.
    pub(super) discs: Vec<Option<String>>,
}

impl Names {
    pub(super) fn new(base: &str, input: &Input, format: Format, options: &WriteOptions) -> Names {
        let extensions = formats::driver(format).extensions();
        let extension = extensions.first().unwrap_or(&"img");
        let disks = input.disks.iter().enumerate().map(|(index, disk)| {
            (!disk.is_blank).then(|| format!("{base}-disk{}.{extension}", index + 1))
        });
        let discs = input.discs.iter().enumerate().map(|(index, disc)| {
            let name = || format!("{base}-cd{}.iso", index + 1);
            disc.as_ref().map(|_| name())
        });
        let is_signed = options.manifest.is_some() && options.signing.is_some();
        Names {
            descriptor: format!("{base}.ovf"),
            manifest: options.manifest.map(|_| format!("{base}.mf")),
            certificate: is_signed.then(|| format!("{base}.cert")),
            disks: disks.collect(),
            discs: discs.collect(),
        }
    }

    /// Disks and discs, in their order in the package.
    pub(super) fn members(&self) -> impl Iterator<Item = &str> {
        self.disks
            .iter()
            .chain(&self.discs)
            .flatten()
            .map(String::as_str)
    }
}

/// The texts of a package.
pub(super) struct Texts {
    pub(super) descriptor: Vec<u8>,
    pub(super) manifest: Vec<u8>,
    pub(super) certificate: Vec<u8>,
    pub(super) notes: Vec<String>,
}

/// Bytes that the texts may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub(super) descriptor: usize,
    pub(super) manifest: usize,
    pub(super) certificate: usize,
}

/// What the texts of a package are made of.
pub(super) struct Describer<'a> {
    pub(super) input: &'a Input,
    pub(super) names: &'a Names,
    pub(super) format: DiskFormat,
    pub(super) options: &'a WriteOptions<'a>,
    /// Capacity of each disk in the package.
    pub(super) capacities: Vec<u64>,
}

impl Describer<'_> {
    /// How long the texts may become, whatever the disks turn out to be.
    pub(super) fn room(&self) -> Result<Room> {
        let largest = |_: usize| (u64::MAX, u64::MAX);
        let descriptor = self.descriptor(largest)?.text.len();
        let (mut manifest, mut certificate) = (0, 0);
        if let (Some(algorithm), Some(name)) = (self.options.manifest, &self.names.manifest) {
            let files = [self.names.descriptor.as_str()];
            manifest = Manifest::text_len(algorithm, files.into_iter().chain(self.names.members()));
            if let Some(signed) = self.certificate(b"", name)? {
                // Signatures of elliptic curves differ in length by a few bytes.
                let is_fixed = Certificate::parse(&signed)?
                    .signer()?
                    .key
                    .starts_with("RSA");
                certificate = signed.len() + if is_fixed { 0 } else { 16 };
            }
        }
        Ok(Room {
            descriptor,
            manifest,
            certificate,
        })
    }

    /// The texts, once the members `done` are written. With a `room`, each is made as long as that.
    pub(super) fn texts(&self, done: &[Done], room: Option<Room>) -> Result<Texts> {
        let sizes = |index: usize| {
            let done = done.get(index);
            let copied = done.and_then(|done| done.copied.as_ref());
            let populated = copied.map_or(0, |copied| copied.outcome.data_bytes);
            (done.map_or(0, |done| done.len), populated)
        };
        let written = self.descriptor(sizes)?;
        let descriptor = filled(written.text.into_bytes(), room.map(|r| r.descriptor))?;
        let (mut manifest, mut certificate) = (Vec::new(), Vec::new());
        if let (Some(algorithm), Some(name)) = (self.options.manifest, &self.names.manifest) {
            let mut list = Manifest::default();
            let own = algorithm.digest(&descriptor);
            list.add(&self.names.descriptor, algorithm, own);
            for (name, done) in self.names.members().zip(done) {
                list.add(name, algorithm, done.digest.clone());
            }
            manifest = list.to_text().into_bytes();
            if let Some(signed) = self.certificate(&manifest, name)? {
                certificate = filled(signed, room.map(|r| r.certificate))?;
                // Nothing goes out that would be called damaged when it is read.
                Certificate::parse(&certificate)?.verify(&manifest)?;
            }
        }
        Ok(Texts {
            descriptor,
            manifest,
            certificate,
            notes: written.notes,
        })
    }

    /// The descriptor, for members whose length and whose bytes of data `sizes` knows.
    fn descriptor(&self, sizes: impl Fn(usize) -> (u64, u64)) -> Result<machines::Written> {
        let mut next = 0;
        let mut member = |name: &Option<String>, is_disk: bool| {
            name.as_ref().map(|name| {
                let (size, populated) = sizes(next);
                next += 1;
                Member {
                    name: name.clone(),
                    size,
                    populated: is_disk.then_some(populated),
                }
            })
        };
        let disks: Vec<_> = self.names.disks.iter().map(|n| member(n, true)).collect();
        let discs: Vec<_> = self.names.discs.iter().map(|n| member(n, false)).collect();
        let contents = Contents {
            disks: &disks,
            discs: &discs,
            networks: &self.input.networks,
            format: self.format.clone(),
        };
        let mut machine = self.input.machine.clone();
        for (disk, capacity) in machine.disks.iter_mut().zip(&self.capacities) {
            disk.image.capacity = Some(*capacity);
        }
        let written = ovf::write(&machine, &contents, self.options.profile)?;
        readable(ovf::read(written.text.as_bytes()))?;
        Ok(written)
    }

    fn certificate(&self, manifest: &[u8], name: &str) -> Result<Option<Vec<u8>>> {
        let (Some(signing), Some(algorithm)) = (&self.options.signing, self.options.manifest)
        else {
            return Ok(None);
        };
        let (key, chain) = (&signing.key, &signing.certificate);
        let text = certificate::sign(manifest, name, algorithm, key, chain)?;
        Ok(Some(text.into_bytes()))
    }
}

/// Fails when the description that was made is none that anybody reads again.
pub(super) fn readable<T>(read: formats::Result<T>) -> Result<()> {
    read.map_err(|e| {
        Error::refused(
            "package",
            "would have a description that cannot be read again",
        )
        .found(e)
        .hint("the machine has too much of something, or has it too large")
    })?;
    Ok(())
}

/// `text` with line ends behind it, as long as `room`.
fn filled(mut text: Vec<u8>, room: Option<usize>) -> Result<Vec<u8>> {
    match room {
        Some(room) if text.len() > room => Err(Error::limit(
            "package",
            "a text became longer than the room that was kept for it",
        )
        .found(text.len())
        .expected(room)
        .into()),
        Some(room) => {
            text.resize(room, b'\n');
            Ok(text)
        }
        None => Ok(text),
    }
}
