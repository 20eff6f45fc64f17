//! The disks of a package, as sources of the engine.

use std::path::PathBuf;
use std::sync::Arc;

use formats::open::open_over;
use formats::xva::XvaSource;
use formats::{
    BlockSource, Error, Format, Image, Mapping, OpenContext, PartsStorage, Result, Run, Storage,
    StorageRef, open_storage, probe,
};
use machines::href::Href;
use machines::machine::{Compression, Disk, DiskFormat, DiskImage, FileReference};

use crate::integrity::Pending;
use crate::opened::Opened;
use crate::packed::unpacked;

/// Images that may stand on each other by the description.
const DEPTH: usize = 64;

/// Parts that a file may be in.
const CHUNKS_MAX: u64 = 100_000;

/// Bytes that an image in a packed file may have besides its disk, and besides a 64th of that for its tables.
const MOST_TABLES: u64 = 8 << 20;

/// What a disk without a file is stored as.
const EMPTY: &str = "empty";

/// A disk that was opened.
pub struct PackageDisk {
    /// Its content.
    pub image: Image,
    /// The file, and the member of it.
    pub path: PathBuf,
    /// What it is stored as, for people.
    pub format: String,
    /// Bytes that it takes in the package.
    pub file_size: u64,
    /// Whether it has no file at all: it is described, and was never written to.
    pub is_blank: bool,
    /// Digests that its files have to have.
    pub pending: Vec<Pending>,
    /// What a user should hear about.
    pub warnings: Vec<String>,
}

impl Opened {
    /// Opens disk `disk` of machine `machine`, by their indices.
    ///
    /// # Errors
    /// What is wrong with its files.
    pub fn disk(&self, machine: usize, disk: usize, context: &OpenContext) -> Result<PackageDisk> {
        let machine = self.package.machines.get(machine);
        let found = machine.and_then(|machine| machine.disks.get(disk));
        let disk = found.ok_or_else(|| Error::usage("--disk", "there is no such disk"))?;
        let context = OpenContext {
            references: self.files.references(),
            ..context.clone()
        };
        let mut opener = Opener {
            opened: self,
            context: &context,
            pending: Vec::new(),
            warnings: Vec::new(),
        };
        let (mut image, path, format, file_size) = opener.disk(disk)?;
        let own = image.storages.first().and_then(|s| s.file_id());
        if own.is_none() || own != self.outermost.file_id() {
            image.storages.push(self.outermost.clone());
        }
        opener.check_capacity(disk, image.source.size());
        let layers = image.layers.iter().flat_map(|l| &l.info.warnings);
        opener.warnings.extend(layers.cloned());
        Ok(PackageDisk {
            is_blank: disk.image.file.is_none() && image.layers.is_empty() && format == EMPTY,
            image,
            path,
            format,
            file_size,
            pending: opener.pending,
            warnings: opener.warnings,
        })
    }

    /// The file that holds the disc of a drive.
    ///
    /// # Errors
    /// As [`Opened::disk`].
    pub fn medium(&self, file: &FileReference) -> Result<(StorageRef, Vec<Pending>)> {
        let context = OpenContext::default();
        let mut opener = Opener {
            opened: self,
            context: &context,
            pending: Vec::new(),
            warnings: Vec::new(),
        };
        let storage = opener.file(file)?;
        Ok((storage, opener.pending))
    }
}

struct Opener<'a> {
    opened: &'a Opened,
    context: &'a OpenContext,
    pending: Vec<Pending>,
    warnings: Vec<String>,
}

impl Opener<'_> {
    fn disk(&mut self, disk: &Disk) -> Result<(Image, PathBuf, String, u64)> {
        let opened = self.opened;
        let stream = disk.image.id.as_ref().and_then(|id| opened.streams.get(id));
        if let Some(stream) = stream {
            let source = XvaSource::new(
                opened.file.clone(),
                stream.disk.clone(),
                stream.virtual_size,
            )?;
            let stored = stream.disk.stored();
            let image = alone(Arc::new(source), opened.file.clone());
            let path = opened.path().join(&stream.disk.reference);
            return Ok((image, path, "xva".to_owned(), stored));
        }
        let Some(file) = &disk.image.file else {
            let size = disk.image.capacity.ok_or_else(|| {
                Error::malformed("package", "a disk has neither a file nor a size")
                    .in_file(opened.path())
            })?;
            let image = alone(Arc::new(Blank { size }), opened.file.clone());
            return Ok((image, opened.path().to_owned(), EMPTY.to_owned(), 0));
        };
        let image = self.image(&disk.image, file, 0)?;
        let tip = image.tip();
        let format = tip.map_or(String::new(), |tip| tip.info.format.to_string());
        let path = tip.map_or_else(|| opened.path().to_owned(), |tip| tip.path.clone());
        let size = tip.map_or(0, |tip| tip.file_size());
        Ok((image, path, format, size))
    }

    fn image(&mut self, image: &DiskImage, file: &FileReference, depth: usize) -> Result<Image> {
        let storage = self.image_bytes(image, file)?;
        let path = storage.path().to_owned();
        let format = sniffed(&storage, image.format.as_ref())?;
        let least = image.capacity.unwrap_or(0);
        if format == Format::Raw && file.chunk_size.is_some() && storage.len() < least {
            return Err(
                Error::truncated("package", "the last parts of a disk are not there")
                    .found(format!("{} bytes", storage.len()))
                    .expected(format!("{least} bytes, the capacity of the disk"))
                    .in_file(&path),
            );
        }
        let parent = match &image.parent {
            Some(_) if depth >= DEPTH => {
                return Err(
                    Error::limit("package", "too many disks stand on each other")
                        .expected(format!("at most {DEPTH}"))
                        .in_file(&path),
                );
            }
            Some(parent) => match &parent.file {
                Some(file) => Some(self.image(parent, file, depth + 1)?),
                None => None,
            },
            None => None,
        };
        // Layers that the description names are watched already; those that the image names itself are not.
        let described = parent.as_ref().map_or(0, |parent| parent.layers.len());
        let opened = match parent {
            Some(parent) => open_over(storage, Some(format), self.context, parent)?,
            None => open_storage(storage, Some(format), self.context)?,
        };
        let named = opened.layers.len().saturating_sub(1 + described);
        let mut layers = opened.layers.iter();
        let own = layers.next().map(|layer| &layer.further);
        let below = layers
            .take(named)
            .flat_map(|layer| std::iter::once(&layer.storage).chain(&layer.further));
        for storage in own.into_iter().flatten().chain(below) {
            self.vouched(storage);
        }
        Ok(opened)
    }

    /// The bytes of a file of the package, watched for its digest.
    fn file(&mut self, file: &FileReference) -> Result<StorageRef> {
        let storage = match file.chunk_size {
            Some(chunk_size) => return self.chunks(file, chunk_size),
            None => self.opened.files.open(&file.href)?,
        };
        if let Some(size) = file.size.filter(|size| *size > 0 && *size != storage.len()) {
            self.warnings.push(format!(
                "the description says that {} has {size} bytes; it has {}",
                file.href,
                storage.len()
            ));
        }
        Ok(self.watched(storage, file.href.as_str()))
    }

    /// The bytes of a file that is stored in parts.
    fn chunks(&mut self, file: &FileReference, chunk_size: u64) -> Result<StorageRef> {
        let mut parts = Vec::new();
        for number in 0..CHUNKS_MAX {
            let name = format!("{}.{number:09}", file.href.as_str());
            let part = match number {
                // The first one has to be there.
                0 => Some(self.opened.files.open(&Href::new(name.clone()))?),
                _ => self.opened.files.find(&name)?,
            };
            let Some(part) = part else {
                let path = self.opened.path().join(file.href.relative()?);
                let whole = PartsStorage::chunks(parts, chunk_size, &path)?;
                let size = file.size.filter(|size| *size > 0);
                if let Some(size) = size.filter(|size| *size < whole.len()) {
                    return Err(Error::malformed(
                        "package",
                        "a file has more parts than it should",
                    )
                    .found(format!("{} bytes in {number} parts", whole.len()))
                    .expected(format!("{size} bytes"))
                    .in_file(&path));
                }
                if let Some(size) = size.filter(|size| *size > whole.len()) {
                    return Err(Error::truncated(
                        "package",
                        "the last parts of a file are not there",
                    )
                    .found(format!("{} bytes in {number} parts", whole.len()))
                    .expected(format!("{size} bytes"))
                    .in_file(&path));
                }
                return Ok(Arc::new(whole));
            };
            parts.push(self.watched(part, &name));
        }
        Err(Error::limit("package", "a file is in too many parts")
            .expected(format!("at most {CHUNKS_MAX}"))
            .in_file(self.opened.path()))
    }

    /// The bytes of the image in a file that may be packed. They are not more than the disk and its tables need.
    fn image_bytes(&mut self, image: &DiskImage, file: &FileReference) -> Result<StorageRef> {
        let storage = self.file(file)?;
        if let Some(Compression::Other(name)) = &file.compression {
            let what = format!("a file is packed with {}", name.escape_debug());
            return Err(Error::unsupported("package", what).in_file(storage.path()));
        }
        if file.compression.is_none() && image.format == Some(DiskFormat::Raw) {
            // The bytes of a guest, whatever they look like.
            return Ok(storage);
        }
        let most = image.capacity.map_or(u64::MAX, |capacity| {
            capacity
                .saturating_add(capacity / 64)
                .saturating_add(MOST_TABLES)
        });
        unpacked(storage, most, &self.opened.pool)
    }

    fn watched(&mut self, storage: StorageRef, href: &str) -> StorageRef {
        let name = href.strip_prefix("./").unwrap_or(href);
        let mut entries = self.opened.seal.entries(name);
        if let (true, Ok(Some(unescaped))) = (entries.is_empty(), Href::new(name).unescaped()) {
            entries = self.opened.seal.entries(&unescaped);
        }
        if entries.is_empty() {
            if self.opened.seal.manifest.is_some() {
                let name = name.escape_debug();
                self.warnings
                    .push(format!("the manifest says nothing of {name}"));
            }
            return storage;
        }
        let (pending, watched) = Pending::new(storage, entries);
        self.pending.push(pending);
        watched
    }

    /// Sees to it that a file that an image names has the digest of the manifest.
    fn vouched(&mut self, storage: &StorageRef) {
        let name = self.opened.name_of(storage.path());
        let entries = self.opened.seal.entries(&name);
        if !entries.is_empty() {
            self.pending
                .push(Pending::unwatched(storage.clone(), entries));
        } else if self.opened.seal.manifest.is_some() {
            let warning = format!("the manifest says nothing of {}", name.escape_debug());
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
        }
    }

    fn check_capacity(&mut self, disk: &Disk, size: u64) {
        let said = disk
            .image
            .capacity
            .filter(|said| *said > 0 && *said != size);
        if let Some(said) = said {
            self.warnings.push(format!(
                "the description says that the disk has {said} bytes; the image says {size}, and it counts"
            ));
        }
    }
}

/// An image without layers of its own.
fn alone(source: Arc<dyn BlockSource>, file: StorageRef) -> Image {
    Image {
        source,
        layers: Vec::new(),
        storages: vec![file],
    }
}

/// What the content is; the description is a witness, no more. A disk without any magic is raw only if nobody says otherwise,
/// and one that is said to be raw is no image.
fn sniffed(storage: &StorageRef, said: Option<&DiskFormat>) -> Result<Format> {
    let advice = "take it out of the package and convert it alone, with -f FORMAT";
    let found = probe(storage.as_ref()).map_err(|e| e.hint(advice))?;
    let contradiction = |what: &str| {
        Err(Error::malformed(
            "disk of a package",
            format!("the description says {what}, but the content does not look like it"),
        )
        .found(found)
        .hint(advice)
        .in_file(storage.path()))
    };
    match (found, said) {
        (Format::Raw, Some(DiskFormat::VmdkStream | DiskFormat::Vmdk)) => contradiction("VMDK"),
        (Format::Raw, Some(DiskFormat::Vhd)) => contradiction("VHD"),
        (Format::Raw, Some(DiskFormat::Vhdx)) => contradiction("VHDX"),
        (Format::Raw, Some(DiskFormat::Qcow2)) => contradiction("qcow2"),
        (Format::Raw, Some(DiskFormat::Vdi)) => contradiction("VDI"),
        (Format::Raw, _) => Ok(found),
        (_, Some(DiskFormat::Raw)) => contradiction("raw"),
        _ => Ok(found),
    }
}

/// A disk that is described, and that nothing was ever written to.
struct Blank {
    size: u64,
}

impl BlockSource for Blank {
    fn size(&self) -> u64 {
        self.size
    }

    fn block_size(&self) -> u64 {
        1 << 20
    }

    fn map(&self, _offset: u64, limit: u64) -> Result<Run> {
        Ok(Run::new(limit, Mapping::Zero))
    }
}
