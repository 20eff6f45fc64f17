//! One disk into one output: the pass over its content, and what makes the result whole.

use std::sync::Arc;

use formats::{BlockTarget, Error, Identity, Image, Preallocation, Window};

use crate::digest::Algorithm;
use crate::error::Result;
use crate::identity;
use crate::output::{Nowhere, Output};
use crate::overlay::Below;
use crate::packing::{How, Packing};
use crate::partitions::sector_notes;
use crate::pass::{self, Destination, Outcome, Setting, Wanted};
use crate::refusals::check_rest;
use crate::same_storage::Sources;

/// Unit in which zeros are looked for at least, when the user does not say: what file systems allocate.
pub const DEFAULT_SPARSE: u64 = 4096;

/// Inside the block of a target, zeros shorter than this are stored with the data around them: fewer, larger writes.
const SPARSE_INSIDE_BLOCK: u64 = 64 << 10;

/// How a disk is copied.
#[derive(Clone, Default)]
pub struct CopyOptions {
    /// Unit in bytes in which zeros are looked for; 0 stores everything; `None` is [`DEFAULT_SPARSE`].
    pub sparse: Option<u64>,
    /// Digests of the guest content to compute on the way.
    pub digests: Vec<Algorithm>,
    /// Whether to read the target back and compare.
    pub verify: bool,
    /// Whether to compute the BLAKE3 of the guest content, unless hashing zeros would take longer than the data.
    pub affordable_digest: bool,
    /// Ids and times from the content and from this time (seconds since 1970), not random and not now.
    pub reproducible: Option<u64>,
    /// Whether a raw file may become a clone of its source on file systems that can.
    pub reflink: bool,
    /// Whether blocks that the source holds compressed are compressed again, also where the target could take them.
    pub recompress: bool,
    /// The image that the target stands on: only what differs from its disk is stored.
    pub below: Option<Arc<Image>>,
    /// Whether the disk is a delta in units of the target ([`formats::Delta`]): what it maps as absent is left to the image
    /// that the target stands on.
    pub is_delta: bool,
    /// The ids and times of the target, where they were chosen already.
    pub identity: Option<Identity>,
    /// What has to hold besides for the target to be put in place. It is asked when the whole disk has been read.
    pub provided: Option<Condition>,
    /// Files that are read besides the image, or belong to it: the target is none of them.
    pub sources: Sources,
}

/// Fails when something does not hold.
pub type Condition = Arc<dyn Fn() -> Result<()> + Send + Sync>;

/// A disk, and how it is copied.
pub struct Copy<'a> {
    /// What is copied.
    pub image: &'a Image,
    /// How.
    pub options: &'a CopyOptions,
    /// What every pass needs.
    pub setting: &'a Setting<'a>,
}

/// A finished copy.
pub struct Copied {
    /// Guest-visible size of the target in bytes: never less than the source's.
    pub target_size: u64,
    /// Length of the target in its output, in bytes.
    pub file_size: u64,
    /// What the user should know about the target.
    pub notes: Vec<String>,
    /// Digests and counts.
    pub outcome: Outcome,
}

impl Copy<'_> {
    /// Lays out what [`Copy::run`] would store, and stores nothing. Blocks that would be packed count as large as they can
    /// become.
    ///
    /// # Errors
    /// As [`Copy::run`].
    pub fn measure(&self, target: Box<dyn BlockTarget>) -> Result<Copied> {
        self.run_or_measure(target, &Nowhere, true)
    }

    /// The pass, the tables after it, and everything on stable storage.
    ///
    /// # Errors
    /// Those of the source, the target and the output; `Interrupted`.
    pub fn run(&self, target: Box<dyn BlockTarget>, output: &dyn Output) -> Result<Copied> {
        self.run_or_measure(target, output, false)
    }

    fn run_or_measure(
        &self,
        target: Box<dyn BlockTarget>,
        output: &dyn Output,
        measuring: bool,
    ) -> Result<Copied> {
        let wanted = Wanted {
            digests: self.options.digests.clone(),
            affordable_digest: (self.options.verify || self.options.affordable_digest)
                && self.options.digests.is_empty(),
            fingerprint: self.options.verify
                || (self.options.reproducible.is_some() && self.options.identity.is_none()),
        };
        if target.packer().is_some() && self.options.sparse == Some(0) {
            return Err(
                Error::usage("-S 0", "this kind of image never stores zeros")
                    .hint("leave out -S")
                    .into(),
            );
        }
        let known = match output.is_stream() {
            true => self.write_head(target.as_ref(), output)?,
            false => None,
        };
        let (size, target_size) = (self.image.source.size(), target.size());
        let mut notes = target.notes();
        notes.extend(sector_notes(self.image.source.as_ref(), target.as_ref())?);
        let preallocation = target.preallocation();
        let sparse = match preallocation {
            Preallocation::Full => 0,
            _ => self.scan_unit(target.block_size()),
        };
        let packer = target.packer();
        let says_zeros = target.says_zeros();
        let below = self.options.below.as_ref();
        if let Some(below) = below {
            check_rest(below.source.as_ref(), size..target_size)?;
        }
        let below = below.map(|below| Window::new(below.source.clone(), size));
        let sparse = match below.is_some() || self.options.is_delta {
            // Whole blocks: what an allocated block does not hold is not looked for below it.
            true => target.block_size(),
            false => sparse,
        };
        let how = match (measuring, self.options.recompress) {
            (true, _) => How::Measuring,
            (_, true) => How::Anew,
            _ => How::Adopting,
        };
        let destination = Destination {
            target,
            output: (!measuring).then_some(output),
            sparse,
            packing: packer.map(|packer| Packing::new(packer, how)),
            below: below.as_ref().map(|source| Below { source, says_zeros }),
            is_delta: self.options.is_delta,
        };
        let mut outcome = pass::run(
            self.image.source.as_ref(),
            &wanted,
            Some(destination),
            self.setting,
        )?;
        self.check_source()?;
        let mut file_size = 0;
        if let Some(target) = outcome.target.take() {
            let identity = known.unwrap_or_else(|| self.identity(outcome.fingerprint));
            let head = target.head(&identity)?;
            file_size = target.finish(&identity, output)?.file_size;
            if let (Some(head), None) = (head, known) {
                output.write_at(&head, 0)?;
            }
        }
        if preallocation == Preallocation::Reserved {
            output.reserve()?;
        }
        output.sync()?;
        Ok(Copied {
            target_size,
            file_size,
            notes,
            outcome,
        })
    }

    /// Every file that is read from.
    pub fn sources(&self) -> Sources {
        let below = self.options.below.iter().map(|below| &below.storages);
        let storages = below.chain([&self.image.storages]).flatten();
        let mut sources = self.options.sources.clone();
        sources.extend(storages.map(|storage| storage.path()));
        sources
    }

    /// Fails when what was read is not what it was, or not what it should be.
    ///
    /// # Errors
    /// `Refused` for files that changed meanwhile, and those of [`CopyOptions::provided`].
    pub fn check_source(&self) -> Result<()> {
        self.image.check_unchanged()?;
        if let Some(below) = &self.options.below {
            below.check_unchanged()?;
        }
        self.options
            .provided
            .as_ref()
            .map_or(Ok(()), |holds| holds())
    }

    /// Writes what stands at the front of a pipe, if the target has anything there, and answers the ids in it: they may
    /// have to be made from the content, in a pass of their own.
    fn write_head(
        &self,
        target: &dyn BlockTarget,
        output: &dyn Output,
    ) -> Result<Option<Identity>> {
        if target.head(&identity::random())?.is_none() {
            return Ok(None);
        }
        let identity = self.identity(self.early_fingerprint()?);
        if let Some(head) = target.head(&identity)? {
            output.write_at(&head, 0)?;
        }
        Ok(Some(identity))
    }

    /// Unit of the zero scan for a target that allocates in units of `block`.
    fn scan_unit(&self, block: u64) -> u64 {
        match self.options.sparse {
            Some(0) => 0,
            sparse => sparse
                .unwrap_or(DEFAULT_SPARSE)
                .max(block.min(SPARSE_INSIDE_BLOCK)),
        }
    }

    /// The fingerprint of the source, found in a pass of its own, if ids have to be made from it.
    fn early_fingerprint(&self) -> Result<Option<[u8; 32]>> {
        if self.options.reproducible.is_none() || self.options.identity.is_some() {
            return Ok(None);
        }
        let wanted = Wanted {
            fingerprint: true,
            ..Wanted::default()
        };
        let source = self.image.source.as_ref();
        Ok(pass::run(source, &wanted, None, self.setting)?.fingerprint)
    }

    fn identity(&self, fingerprint: Option<[u8; 32]>) -> Identity {
        if let Some(identity) = self.options.identity {
            return identity;
        }
        match (self.options.reproducible, fingerprint) {
            (Some(unix_time), Some(fingerprint)) => {
                identity::of_content(fingerprint, self.image.source.size(), unix_time)
            }
            _ => identity::random(),
        }
    }
}
