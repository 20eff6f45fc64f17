//! The receipt while a delta is applied.

use std::path::PathBuf;

use formats::{Error, LayerFile};

use super::Job;
use super::known::Known;
use crate::failure::Failure;
use crate::receipt::{self, Copy, Origin, Receipt};

/// The receipt, and its copy beside COPY where it is elsewhere: whoever opens COPY looks there.
pub(super) struct Records {
    receipt: Option<Receipt>,
    path: Option<PathBuf>,
    mark: Option<PathBuf>,
}

impl Records {
    pub(super) fn new(job: &Job<'_>, known: Known) -> Result<Records, Failure> {
        let path = job.receipt_path();
        let now = path.as_deref().map(receipt::read).transpose()?.flatten();
        if now != known.found {
            return Err(Error::refused(
                "receipt",
                "changed meanwhile: somebody else applies a delta",
            )
            .in_file(&job.arguments.copy)
            .into());
        }
        let copy = &job.arguments.copy;
        let beside = receipt::beside(copy);
        let mark = (copy.is_file() && path.as_ref() != Some(&beside)).then_some(beside);
        Ok(Records {
            receipt: known.receipt,
            path,
            mark,
        })
    }

    pub(super) fn begin(&mut self, delta: Origin) -> Result<(), Failure> {
        if let Some(receipt) = &mut self.receipt {
            receipt.applying = Some(delta);
        }
        let (Some(receipt), Some(path)) = (&self.receipt, &self.path) else {
            return Ok(());
        };
        receipt.write(path)?;
        self.mark
            .as_ref()
            .map_or(Ok(()), |mark| receipt.write(mark))
    }

    pub(super) fn shrinks(&self) -> bool {
        self.receipt.as_ref().is_some_and(|receipt| receipt.shrinks)
    }

    pub(super) fn end(&mut self, copy: &LayerFile) -> Result<(), Failure> {
        let (Some(receipt), Some(path)) = (&mut self.receipt, &self.path) else {
            return Ok(());
        };
        receipt.target = Copy::of(copy)?;
        if let Some(delta) = receipt.applying.take() {
            receipt.source = delta.clone();
            receipt.applied.push(delta);
        }
        receipt.write(path)?;
        self.unmark()
    }

    /// Removes the copy beside COPY. Another receipt of it would not be true any more, either.
    pub(super) fn unmark(&self) -> Result<(), Failure> {
        match &self.mark {
            Some(mark) if receipt::read(mark)?.is_some() => {
                let removed = std::fs::remove_file(mark);
                Ok(removed.map_err(|e| Error::io("remove", e).in_file(mark))?)
            }
            _ => Ok(()),
        }
    }
}
