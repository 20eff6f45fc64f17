//! Whether COPY is known as a copy of what the delta stands on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use formats::{BlockSource, Error, Image, Window};

use super::Job;
use crate::changeable::tip;
use crate::failure::Failure;
use crate::receipt::{self, Copy, Origin, Receipt};
use crate::work::Work;
use crate::{open, report};

/// Bytes by which formats round the size of a disk up, at most.
const ROUNDING: u64 = 1 << 20;

/// What is known of COPY.
pub(super) struct Known {
    /// The receipt as it was found.
    pub(super) found: Option<Receipt>,
    /// The one to go on with; none where there is no place for one.
    pub(super) receipt: Option<Receipt>,
    /// Whether all of the delta is in it already.
    pub(super) is_done: bool,
}

impl Job<'_> {
    /// Where the receipt is; nowhere for devices, unless the user says where.
    pub(super) fn receipt_path(&self) -> Option<PathBuf> {
        let is_file = || self.arguments.copy.is_file();
        let named = self.arguments.receipt.clone();
        named.or_else(|| is_file().then(|| receipt::beside(&self.arguments.copy)))
    }

    /// The receipt to go on with, when it is known that COPY is one of the delta's parent.
    pub(super) fn known(&self, copy: &Image, work: &Work) -> Result<Known, Failure> {
        let path = self.receipt_path();
        let found = path.as_deref().map(receipt::read).transpose()?.flatten();
        let own = Origin::of(self.delta, self.delta.source.size(), None);
        let now = Copy::of(tip(copy)?)?;
        if let Some((receipt, begun)) = found
            .as_ref()
            .and_then(|found| Some((found, found.applying.as_ref()?)))
        {
            if !receipt.target.has_files_of(&now) {
                let why = "a delta was applied only in part to an image that was in its place";
                return Err(self.unknown(why.to_owned()));
            }
            if !begun.is_same_delta(&own) {
                return Err(Error::refused(
                    "COPY",
                    "another delta, or another state of it, was applied only in part",
                )
                .found(begun.file.display())
                .hint("finish that one first, or make the copy anew")
                .in_file(&self.arguments.copy)
                .into());
            }
            report::note("going on with what was interrupted");
            return Ok(Known {
                receipt: found.clone(),
                found,
                is_done: false,
            });
        }
        let last = found.as_ref().and_then(|found| found.applied.last());
        if let (Some(receipt), Some(last)) = (&found, last)
            && last.is_same_delta(&own)
            && receipt.target.doubt(&now).is_none()
        {
            report::note("all of the delta is in the copy already");
            return Ok(Known {
                receipt: None,
                found,
                is_done: true,
            });
        }
        if let Some(parent) = &self.arguments.parent {
            if path.is_none() {
                return Err(Error::usage(
                    "--receipt",
                    "is needed for a device: what is interrupted is known by it",
                )
                .expected("--receipt FILE")
                .into());
            }
            self.compare(parent, copy, work)?;
        } else if !self.arguments.trust {
            let Some(found) = &found else {
                return Err(self.unknown("there is no receipt of it".to_owned()));
            };
            let is_here = !receipt::says_state(&found.source.format, self.parent)
                && self.is_beside(&found.source);
            if let Some(doubt) = found.source.doubt(self.parent).filter(|_| !is_here) {
                return Err(self.unknown(doubt));
            }
            if let Some(doubt) = found.target.doubt(&now) {
                return Err(self.unknown(format!("it is not as it was left: {doubt}")));
            }
            if tip(copy)?.storage.is_device() {
                report::note(
                    "whether anybody wrote to the device since it was converted is not known",
                );
            }
        }
        let unknown = Origin {
            file: PathBuf::new(),
            format: String::new(),
            identity: None,
            size: now.size,
            length: 0,
            modified_ns: None,
            digest: None,
        };
        let applied = found.as_ref().map(|found| found.applied.clone());
        let receipt = path.map(|_| Receipt {
            applied: applied.unwrap_or_default(),
            // How large the image was that COPY was made from nobody said.
            shrinks: !self.arguments.trust,
            ..Receipt::new(unknown, now)
        });
        Ok(Known {
            receipt,
            found,
            is_done: false,
        })
    }

    /// Whether the file that a delta without ids names is the one that was copied, unchanged since.
    fn is_beside(&self, source: &Origin) -> bool {
        let storage = self.delta.storage.clone();
        let format = Some(self.delta.info.format);
        let chain = formats::open_storage(storage, format, self.context);
        let is_it = |chain: &Image| chain.layers.get(1).is_some_and(|l| source.is_still(l));
        chain.as_ref().is_ok_and(is_it)
    }

    fn unknown(&self, why: String) -> Failure {
        Error::refused("COPY", "is not known as a copy of what the delta stands on")
            .found(why)
            .expected(match self.parent.names.first() {
                Some(name) => format!("a copy of {name}"),
                None => "a copy of its parent".to_owned(),
            })
            .hint("--parent IMAGE compares it with that image first; --trust takes your word for it; \"convert --receipt\" makes it known the next time")
            .in_file(&self.arguments.copy)
            .into()
    }

    /// Fails when COPY holds something else than the parent, or that is none.
    fn compare(&self, path: &Path, copy: &Image, work: &Work) -> Result<(), Failure> {
        let parent = open::image(path, None, self.context)?;
        self.parent.check(tip(&parent)?)?;
        let mut own = parent.layers.iter().map(|layer| layer.storage.file_id());
        let copy_file = tip(copy)?.storage.file_id();
        if own.any(|id| id.is_some() && id == copy_file) {
            return Err(
                Error::refused("COPY", "is the parent itself, no copy of it")
                    .hint("\"merge\" writes a delta into its own parent")
                    .in_file(&self.arguments.copy)
                    .into(),
            );
        }
        let is_device = tip(copy)?.storage.is_device();
        let (size, copied) = (parent.source.size(), copy.source.size());
        if !is_device && copied > size.saturating_add(ROUNDING) {
            return Err(Error::refused("COPY", "is larger than the parent")
                .found(format!("{copied} bytes"))
                .expected(format!("{size} bytes"))
                .hint("--trust leaves it as large as it is")
                .in_file(&self.arguments.copy)
                .into());
        }
        // Behind the disk, a device may hold anything.
        let held: Arc<dyn BlockSource> = match is_device && copied > size {
            true => Arc::new(Window::new(copy.source.clone(), size)),
            false => copy.source.clone(),
        };
        let comparison = work.watched(&self.arguments.output, |setting| {
            transfer::compare(parent.source.as_ref(), held.as_ref(), true, setting)
        })?;
        match comparison.differences.first() {
            None => Ok(()),
            Some(first) => Err(
                Error::refused("COPY", "does not hold what the parent holds")
                    .found(format!(
                        "another content at byte {} of the disk",
                        first.offset
                    ))
                    .hint("convert the parent anew")
                    .in_file(&self.arguments.copy)
                    .into(),
            ),
        }
    }
}
