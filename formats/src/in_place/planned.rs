//! A file as it will be when a plan was carried out.

use std::collections::BTreeMap;
use std::path::Path;

use super::plan::Step;
use crate::error::Result;
use crate::storage::{Storage, StorageRef, check_range};
use crate::target::PART;

/// What a plan puts somewhere.
#[derive(Debug, Clone)]
enum Content {
    /// Bytes of its own, and where in them the range starts.
    Bytes(std::sync::Arc<[u8]>, usize),
    /// One byte over and over.
    Fill(u8),
    /// What stands at this offset of the old file.
    Old(u64),
}

/// A range of the file, by the offset at which it starts.
#[derive(Debug, Clone)]
struct Edit {
    len: u64,
    content: Content,
}

/// A file with the changes of a plan. It only reads.
#[derive(Debug)]
pub struct PlannedStorage {
    base: StorageRef,
    len: u64,
    /// No two overlap.
    edits: BTreeMap<u64, Edit>,
}

impl PlannedStorage {
    /// `base`, without a change so far.
    pub(super) fn new(base: StorageRef) -> PlannedStorage {
        PlannedStorage {
            len: base.len(),
            base,
            edits: BTreeMap::new(),
        }
    }

    /// Adds what `step` does.
    pub(super) fn apply(&mut self, step: &Step) {
        match step {
            Step::Write { offset, bytes } => {
                let content = Content::Bytes(bytes.as_slice().into(), 0);
                self.put(offset % PART, bytes.len() as u64, content);
            }
            Step::Fill { offset, len, byte } => {
                self.put(offset % PART, *len, Content::Fill(*byte));
            }
            Step::Copy { from, to, len } => self.put(to % PART, *len, Content::Old(from % PART)),
            Step::SetLen { len, .. } => self.set_len(*len),
            Step::Replace { bytes, .. } => {
                self.set_len(0);
                let content = Content::Bytes(bytes.as_slice().into(), 0);
                self.put(0, bytes.len() as u64, content);
            }
            Step::Sync => {}
        }
    }

    fn set_len(&mut self, len: u64) {
        let most = self.len.max(self.base.len());
        if len < most {
            // What is cut off is zeros if the file becomes longer again.
            self.put(len, most - len, Content::Fill(0));
        }
        self.len = len;
    }

    fn put(&mut self, start: u64, len: u64, content: Content) {
        if len == 0 {
            return;
        }
        let end = start.saturating_add(len);
        let overlapping: Vec<u64> = self
            .edits
            .range(..end)
            .rev()
            .take_while(|(at, edit)| at.saturating_add(edit.len) > start)
            .map(|(at, _)| *at)
            .collect();
        for at in overlapping {
            let Some(edit) = self.edits.remove(&at) else {
                continue;
            };
            if at < start {
                let kept = Edit {
                    len: start - at,
                    content: edit.content.clone(),
                };
                self.edits.insert(at, kept);
            }
            let edit_end = at.saturating_add(edit.len);
            if edit_end > end {
                let kept = Edit {
                    len: edit_end - end,
                    content: edit.content.behind(end - at),
                };
                self.edits.insert(end, kept);
            }
        }
        self.edits.insert(start, Edit { len, content });
        self.len = self.len.max(end);
    }

    /// What stands at `offset`: where it comes from, and how long it goes on like that.
    fn at(&self, offset: u64) -> (Content, u64) {
        if let Some((at, edit)) = self.edits.range(..=offset).next_back()
            && offset - at < edit.len
        {
            return (edit.content.behind(offset - at), edit.len - (offset - at));
        }
        let next = self.edits.range(offset..).next().map(|(at, _)| *at);
        let next = next.unwrap_or(u64::MAX);
        match self.base.len() {
            end if offset < end => (Content::Old(offset), end.min(next) - offset),
            _ => (Content::Fill(0), next - offset),
        }
    }
}

impl Content {
    /// What stands `by` bytes behind.
    fn behind(&self, by: u64) -> Content {
        match self {
            Content::Bytes(bytes, start) => Content::Bytes(bytes.clone(), start + by as usize),
            Content::Fill(byte) => Content::Fill(*byte),
            Content::Old(at) => Content::Old(at.saturating_add(by)),
        }
    }
}

impl Storage for PlannedStorage {
    fn len(&self) -> u64 {
        self.len
    }

    fn path(&self) -> &Path {
        self.base.path()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.path(), self.len, offset, buf.len())?;
        let (mut rest, mut at) = (buf, offset);
        while !rest.is_empty() {
            let (content, len) = self.at(at);
            let count = len.min(rest.len() as u64);
            let (now, later) = rest.split_at_mut(count as usize);
            match content {
                Content::Bytes(bytes, start) => {
                    for (to, from) in now.iter_mut().zip(bytes.iter().skip(start)) {
                        *to = *from;
                    }
                }
                Content::Fill(byte) => now.fill(byte),
                Content::Old(from) => self.base.read_at(now, from)?,
            }
            at += count;
            rest = later;
        }
        Ok(())
    }

    fn extent(&self, offset: u64, limit: u64) -> Result<(u64, bool)> {
        let (content, len) = self.at(offset);
        let limit = limit.min(len);
        match content {
            Content::Fill(0) => Ok((limit, false)),
            Content::Bytes(..) | Content::Fill(_) => Ok((limit, true)),
            Content::Old(at) => self.base.extent(at, limit),
        }
    }

    fn check_unchanged(&self) -> Result<()> {
        self.base.check_unchanged()
    }

    fn file_id(&self) -> Option<(u64, u64)> {
        self.base.file_id()
    }

    fn is_device(&self) -> bool {
        self.base.is_device()
    }
}
