//! From the extent lines of a descriptor to pieces of a disk.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::ops::Range;
use std::sync::Arc;

use super::descriptor::Descriptor;
use super::extent_line::{Access, ExtentFile, ExtentLine, ExtentType};
use super::layer::{Kind, in_sectors};
use super::{cowd, hosted, sesparse};
use crate::driver::OpenContext;
use crate::error::{Error, Result};
use crate::raw::RawSource;
use crate::source::{BlockSource, Run, mapped};
use crate::stack::Zeros;
use crate::storage::StorageRef;

const STRUCTURE: &str = "extent";

/// The extent that the descriptor stands in.
pub struct Own {
    /// Its map.
    pub source: Arc<dyn BlockSource>,
    /// Guest bytes.
    pub capacity: u64,
}

/// What the extent lines of a descriptor lead to.
#[derive(Default)]
pub struct Extents {
    /// The pieces of the disk: how long each is, and what it is made of.
    pub pieces: Vec<(u64, Arc<dyn BlockSource>)>,
    /// The files that were opened.
    pub storages: Vec<StorageRef>,
    /// What a user should hear about.
    pub warnings: Vec<String>,
}

impl Extents {
    /// Opens all that `descriptor`, which stands in `image`, names. `own` is the extent around the descriptor, if it
    /// stands in one.
    ///
    /// # Errors
    /// What is wrong with any extent; `Refused` for names that the policy does not allow.
    pub fn open(
        image: &StorageRef,
        descriptor: &Descriptor,
        own: Option<Own>,
        context: &OpenContext,
    ) -> Result<Extents> {
        if descriptor.extents.is_empty() {
            return Err(Error::malformed("descriptor", "names no extent"));
        }
        let mut opener = Opener {
            image,
            context,
            single: descriptor.extents.len() == 1,
            is_delta: descriptor.parent_cid()?.is_some(),
            own,
            files: HashMap::new(),
            sparse: HashMap::new(),
            found: Extents::default(),
        };
        for line in &descriptor.extents {
            let piece = opener.open(line)?;
            opener.found.pieces.push(piece);
        }
        if opener.own.is_some() {
            return Err(Error::malformed(
                "descriptor",
                "does not name the extent that it stands in",
            ));
        }
        let closed = descriptor
            .extents
            .iter()
            .filter(|line| line.access == Access::None);
        let closed = closed.count();
        if closed > 0 {
            opener.found.warnings.push(format!(
                "{closed} extents are marked NOACCESS: their content is read all the same"
            ));
        }
        Ok(opener.found)
    }
}

struct Opener<'a> {
    image: &'a StorageRef,
    context: &'a OpenContext,
    /// Whether there is only one line.
    single: bool,
    /// Whether the descriptor names a parent.
    is_delta: bool,
    own: Option<Own>,
    /// Files that were opened, by their names.
    files: HashMap<String, StorageRef>,
    /// Sparse files that were opened, by their identities.
    sparse: HashMap<(u64, u64), ()>,
    found: Extents,
}

impl Opener<'_> {
    fn open(&mut self, line: &ExtentLine) -> Result<(u64, Arc<dyn BlockSource>)> {
        let Some(file) = &line.file else {
            return Ok((line.len, Arc::new(Zeros(line.len))));
        };
        match line.kind {
            ExtentType::Zero => Ok((line.len, Arc::new(Zeros(line.len)))),
            ExtentType::Flat | ExtentType::Vmfs => Ok((line.len, self.flat(file, line)?)),
            ExtentType::Sparse if self.is_own(file) => self.own(line),
            ExtentType::Sparse | ExtentType::VmfsSparse | ExtentType::SeSparse => {
                self.sparse(file, line)
            }
            ExtentType::VmfsRdm | ExtentType::VmfsRaw => Err(Error::unsupported(
                STRUCTURE,
                "is a mapping of a raw device (RDM); its content is not in files",
            )
            .found(line)
            .hint("copy the device itself, or clone the disk to a VMDK with vmkfstools -i")),
        }
    }

    /// Whether a line means the file that the descriptor stands in. A single line always does: files are renamed.
    fn is_own(&self, file: &ExtentFile) -> bool {
        let name = self.image.path().file_name();
        self.own.is_some() && (self.single || name.is_some_and(|name| name == file.name.as_str()))
    }

    fn own(&mut self, line: &ExtentLine) -> Result<(u64, Arc<dyn BlockSource>)> {
        let Some(own) = self.own.take() else {
            return Err(Error::malformed(STRUCTURE, "is named twice").found(line));
        };
        let len = self.length(line, own.source.as_ref(), own.capacity)?;
        Ok((len, own.source))
    }

    /// What of an extent of `capacity` bytes belongs to the disk: what the line says, and of a single extent all.
    fn length(
        &mut self,
        line: &ExtentLine,
        source: &dyn BlockSource,
        capacity: u64,
    ) -> Result<u64> {
        self.check_capacity(line, capacity)?;
        let what_counts = if self.single {
            "all of it is read"
        } else {
            "the rest is left out"
        };
        // Writers disagree which of the two numbers to round up to a grain; of a single extent no byte may be lost.
        let tolerated = if self.single { 1 } else { source.block_size() };
        if capacity - line.len >= tolerated {
            self.found.warnings.push(format!(
                "the extent has {} and its descriptor says {}: {what_counts}",
                in_sectors(capacity),
                in_sectors(line.len)
            ));
        }
        Ok(if self.single { capacity } else { line.len })
    }

    fn check_capacity(&self, line: &ExtentLine, capacity: u64) -> Result<()> {
        if capacity >= line.len {
            return Ok(());
        }
        Err(
            Error::malformed(STRUCTURE, "holds less than the descriptor says")
                .found(in_sectors(capacity))
                .expected(format!("at least {}", in_sectors(line.len))),
        )
    }

    fn flat(&mut self, file: &ExtentFile, line: &ExtentLine) -> Result<Arc<dyn BlockSource>> {
        let storage = self.file(file)?;
        let all = line.offset..line.offset.saturating_add(line.len);
        if all.end <= storage.len() {
            return Ok(Arc::new(RawSource::part(storage, all)));
        }
        if !self.context.salvage {
            return Err(too_short(&storage, &all));
        }
        let there = all.start..storage.len().max(all.start);
        Ok(Arc::new(CutOff {
            there: RawSource::part(storage.clone(), there),
            line: all,
            storage,
        }))
    }

    fn sparse(
        &mut self,
        file: &ExtentFile,
        line: &ExtentLine,
    ) -> Result<(u64, Arc<dyn BlockSource>)> {
        let storage = self.file(file)?;
        let twice = storage
            .file_id()
            .is_some_and(|id| self.sparse.insert(id, ()).is_some());
        if twice {
            return Err(Error::malformed(STRUCTURE, "two lines name one sparse file").found(line));
        }
        let in_file = |e: Error| e.in_file(storage.path());
        let kind = Kind::read(storage.as_ref()).map_err(in_file)?;
        let source = match (line.kind, kind) {
            (ExtentType::Sparse, Kind::Hosted) => {
                let extent = hosted::open(&storage, self.context).map_err(in_file)?;
                let name = storage.path().display().to_string();
                let warnings = extent.warnings.iter();
                self.found
                    .warnings
                    .extend(warnings.map(|warning| format!("{name}: {warning}")));
                extent.source
            }
            (ExtentType::VmfsSparse, Kind::Cowd) => {
                let extent = cowd::open(&storage, self.context).map_err(in_file)?;
                if !extent.is_root && !self.is_delta {
                    return Err(Error::malformed(
                        STRUCTURE,
                        "is a delta, but the descriptor names no parent",
                    )
                    .in_file(storage.path()));
                }
                extent.source
            }
            (ExtentType::SeSparse, Kind::SeSparse) => {
                sesparse::open(&storage, self.context).map_err(in_file)?
            }
            (_, kind) => {
                return Err(Error::malformed(
                    STRUCTURE,
                    "the file is of another kind than the descriptor says",
                )
                .found(format!("{kind:?}"))
                .expected(line.kind)
                .in_file(storage.path()));
            }
        };
        let len = self.length(line, source.as_ref(), source.size());
        Ok((len.map_err(in_file)?, source))
    }

    fn file(&mut self, file: &ExtentFile) -> Result<StorageRef> {
        if let Some(known) = self.files.get(&file.name) {
            return Ok(known.clone());
        }
        let storage = open_file(self.image, file, self.context)?;
        if storage.file_id().is_some() && storage.file_id() == self.image.file_id() {
            return Err(Error::malformed(STRUCTURE, "names the descriptor itself")
                .found(format!("{:?}", file.name)));
        }
        self.files.insert(file.name.clone(), storage.clone());
        self.found.storages.push(storage.clone());
        Ok(storage)
    }
}

/// Opens the file of an extent that `image` names.
///
/// # Errors
/// Those of the policy and the file system.
pub fn open_file(
    image: &StorageRef,
    file: &ExtentFile,
    context: &OpenContext,
) -> Result<StorageRef> {
    let open = |name: &OsStr| context.references.open(image.path(), name, STRUCTURE);
    match (open(file.name.as_ref()), &file.raw_name) {
        (Ok(storage), _) => Ok(storage),
        // Unpacked by something that did not care for encodings.
        (Err(error), Some(raw)) => open(raw).map_err(|_| error),
        (Err(error), None) => Err(error),
    }
}

fn too_short(storage: &StorageRef, line: &Range<u64>) -> Error {
    Error::truncated(STRUCTURE, "the file is shorter than the descriptor says")
        .found(format!("{} bytes", storage.len()))
        .expected(format!("{} bytes", line.end))
        .hint("the file is cut off; find the whole one, or read what is left with --salvage")
        .in_file(storage.path())
}

/// A part of a file, of which the end is missing.
struct CutOff {
    storage: StorageRef,
    line: Range<u64>,
    there: RawSource,
}

impl BlockSource for CutOff {
    fn size(&self) -> u64 {
        self.line.end - self.line.start
    }

    fn block_size(&self) -> u64 {
        self.there.block_size()
    }

    fn map(&self, offset: u64, limit: u64) -> Result<Run> {
        if offset >= self.there.size() {
            // Always said of the same place, so that what is lost is one hole.
            return Err(too_short(&self.storage, &self.line).at(self.storage.len()));
        }
        mapped(&self.there, offset, limit)
    }
}
