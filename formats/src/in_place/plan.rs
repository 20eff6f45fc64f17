//! A change of files as data: steps in their order.

use std::collections::BTreeSet;

use super::planned::PlannedStorage;
use super::{Guest, InPlace, fill, pieces};
use crate::error::{Error, Result};
use crate::reader::read_guest;
use crate::storage::StorageRef;
use crate::target::PART;

/// What is done to the files of an image. Offsets are those of [`PART`]: the parts are the image itself and then its
/// further files, in the order of [`crate::LayerFile::further`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Writes `bytes` at `offset`. 512 bytes that start on a sector are written as a whole or not at all; of more,
    /// any sectors may be there after a crash.
    Write {
        /// File offset of the first byte.
        offset: u64,
        /// What to write.
        bytes: Vec<u8>,
    },
    /// Writes one byte over and over.
    Fill {
        /// File offset of the first byte.
        offset: u64,
        /// Number of bytes.
        len: u64,
        /// What to write.
        byte: u8,
    },
    /// Copies what stood at `from` before the first step. Both places are in one file.
    Copy {
        /// File offset of the first byte to read.
        from: u64,
        /// File offset of the first byte to write.
        to: u64,
        /// Number of bytes.
        len: u64,
    },
    /// Copies what a disk holds. Nothing that the plan writes before is a part of it.
    CopyGuest {
        /// The disk.
        guest: Guest,
        /// Offset on the disk of the first byte to read.
        from: u64,
        /// File offset of the first byte to write.
        to: u64,
        /// Number of bytes.
        len: u64,
    },
    /// Makes a file longer, with zeros, or shorter.
    SetLen {
        /// The number of the file.
        part: u64,
        /// Its new length.
        len: u64,
    },
    /// Puts a new file in the place of an old one. Nothing else may be done to it before or afterwards.
    Replace {
        /// The number of the file.
        part: u64,
        /// Its content.
        bytes: Vec<u8>,
    },
    /// Waits until everything so far is on stable storage.
    Sync,
}

/// Steps that change an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Guest-visible size in bytes that the image has afterwards.
    pub size: u64,
    /// Whether what stands behind the old end may have other users: it is not to be cleared.
    pub is_shared: bool,
    /// What the user should know.
    pub notes: Vec<String>,
    steps: Vec<Step>,
}

impl Plan {
    /// A plan without a step, after which the disk has `size` bytes.
    pub fn new(size: u64) -> Plan {
        Plan {
            size,
            ..Plan::default()
        }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// What is done, in this order.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Adds a write. It must not change what is copied later.
    pub fn write(&mut self, offset: u64, bytes: impl Into<Vec<u8>>) {
        let bytes = bytes.into();
        if !bytes.is_empty() {
            self.steps.push(Step::Write { offset, bytes });
        }
    }

    /// Adds `len` bytes that are all `byte`.
    pub fn fill(&mut self, offset: u64, len: u64, byte: u8) {
        if len > 0 {
            self.steps.push(Step::Fill { offset, len, byte });
        }
    }

    /// Adds zeros.
    pub fn zero(&mut self, offset: u64, len: u64) {
        self.fill(offset, len, 0);
    }

    /// Adds a copy of what stands at `from` by now.
    pub fn copy(&mut self, from: u64, to: u64, len: u64) {
        if len > 0 {
            self.steps.push(Step::Copy { from, to, len });
        }
    }

    /// Adds a copy of what `guest` holds.
    pub fn copy_guest(&mut self, guest: Guest, from: u64, to: u64, len: u64) {
        if len > 0 {
            self.steps.push(Step::CopyGuest {
                guest,
                from,
                to,
                len,
            });
        }
    }

    /// Adds a change of length.
    pub fn set_len(&mut self, part: u64, len: u64) {
        self.steps.push(Step::SetLen { part, len });
    }

    /// Adds a new file in the place of an old one.
    pub fn replace(&mut self, part: u64, bytes: Vec<u8>) {
        self.steps.push(Step::Replace { part, bytes });
    }

    /// Everything before is on stable storage before anything behind is begun.
    pub fn sync(&mut self) {
        if self.steps.last().is_some_and(|step| *step != Step::Sync) {
            self.steps.push(Step::Sync);
        }
    }

    /// Puts the steps of `other` before all others, and waits for them.
    pub fn begin_with(&mut self, mut other: Plan) {
        other.sync();
        other.steps.append(&mut self.steps);
        self.steps = other.steps;
    }

    /// Puts the steps of `other` behind all others.
    pub fn go_on_with(&mut self, mut other: Plan) {
        self.sync();
        self.steps.append(&mut other.steps);
    }

    /// The files as they will be, in place of `files`. Nothing is written.
    ///
    /// # Errors
    /// `Malformed` for a part that there is not.
    pub fn outcome(&self, files: &[StorageRef]) -> Result<Vec<PlannedStorage>> {
        let mut planned: Vec<_> = files.iter().cloned().map(PlannedStorage::new).collect();
        for step in &self.steps {
            let Some(part) = step.part() else { continue };
            let file = usize::try_from(part)
                .ok()
                .and_then(|part| planned.get_mut(part))
                .ok_or_else(|| no_part(part))?;
            file.apply(step);
        }
        Ok(planned)
    }

    /// Carries the steps out: `out` are the same files as `files`, in the same order.
    ///
    /// # Errors
    /// Those of the files. What was done by then stays.
    pub fn run(&self, files: &[StorageRef], out: &[&dyn InPlace]) -> Result<()> {
        let mut changed = BTreeSet::new();
        for step in &self.steps {
            let Some(part) = step.part() else {
                for part in std::mem::take(&mut changed) {
                    file_at(out, part)?.sync()?;
                }
                continue;
            };
            changed.insert(part);
            carry_out(step, file_at(files, part)?, *file_at(out, part)?)?;
        }
        Ok(())
    }
}

impl Step {
    /// The file that it changes.
    fn part(&self) -> Option<u64> {
        match self {
            Step::Write { offset, .. } | Step::Fill { offset, .. } => Some(offset / PART),
            Step::Copy { to, .. } | Step::CopyGuest { to, .. } => Some(to / PART),
            Step::SetLen { part, .. } | Step::Replace { part, .. } => Some(*part),
            Step::Sync => None,
        }
    }
}

/// The file with number `part`.
///
/// # Errors
/// `Malformed` when there is none.
pub fn file_at<T>(files: &[T], part: u64) -> Result<&T> {
    usize::try_from(part)
        .ok()
        .and_then(|part| files.get(part))
        .ok_or_else(|| no_part(part))
}

fn no_part(part: u64) -> Error {
    Error::malformed("plan", "the image has no such file").found(part)
}

fn carry_out(step: &Step, file: &StorageRef, out: &dyn InPlace) -> Result<()> {
    match step {
        Step::Write { offset, bytes } => out.write_at(bytes, offset % PART),
        Step::Fill { offset, len, byte } => fill(out, offset % PART, *len, *byte),
        Step::Copy { from, to, len } => {
            let mut buffer = Vec::new();
            pieces(*len, |at, count| {
                buffer.resize(count as usize, 0);
                file.read_at(&mut buffer, from % PART + at)?;
                out.write_at(&buffer, to % PART + at)
            })
        }
        Step::CopyGuest {
            guest,
            from,
            to,
            len,
        } => {
            let mut buffer = Vec::new();
            pieces(*len, |at, count| {
                buffer.resize(count as usize, 0);
                read_guest(guest.0.as_ref(), from + at, &mut buffer)?;
                out.write_at(&buffer, to % PART + at)
            })
        }
        Step::SetLen { len, .. } => out.set_len(*len),
        Step::Replace { bytes, .. } => out.replace(bytes),
        Step::Sync => Ok(()),
    }
}
