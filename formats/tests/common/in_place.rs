//! Images that are changed where they stand, and crashes on the way.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::ffi::OsString;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use formats::in_place::crash::{CrashFile, CrashLog};
use formats::resize::{allocate, parts, plan};
use formats::{
    Format, Image, InPlace, MemoryStorage, OpenContext, Passphrase, Plan, ReferencePolicy, Result,
    StorageRef, driver, open_storage,
};

use super::{content, luks};

/// An image by its files: the one that is named first.
#[derive(Debug, Clone)]
pub struct Files {
    pub format: Format,
    pub files: Vec<(String, Vec<u8>)>,
    /// What it stands on; never changed.
    pub below: Vec<(String, Vec<u8>)>,
}

impl Files {
    pub fn one(format: Format, bytes: Vec<u8>) -> Files {
        Files {
            format,
            files: vec![("a".to_owned(), bytes)],
            below: Vec::new(),
        }
    }

    /// The same image with other content of its files.
    pub fn with(&self, contents: &[Vec<u8>]) -> Files {
        let names = self.files.iter().map(|(name, _)| name.clone());
        Files {
            files: names.zip(contents.iter().cloned()).collect(),
            ..self.clone()
        }
    }

    fn context(&self, others: Vec<(OsString, StorageRef)>) -> OpenContext {
        let below = self.below.iter().map(|(name, bytes)| {
            let storage: StorageRef = Arc::new(MemoryStorage::new(bytes.clone()));
            (name.into(), storage)
        });
        OpenContext {
            references: ReferencePolicy::only(others.into_iter().chain(below).collect()),
            passphrase: Some(Passphrase::new(luks::PASSPHRASE.to_vec())),
            ..OpenContext::default()
        }
    }

    /// The files, and how the image in them is opened.
    fn logged(&self) -> (CrashLog, Vec<Arc<CrashFile>>, OpenContext) {
        let log = CrashLog::new();
        let files: Vec<_> = self
            .files
            .iter()
            .map(|(name, bytes)| log.file(name, bytes.clone()))
            .collect();
        let others = self.files.iter().zip(&files).skip(1);
        let others = others.map(|((name, _), file)| (name.into(), file.clone() as StorageRef));
        let context = self.context(others.collect());
        (log, files, context)
    }

    pub fn open(&self) -> Result<Image> {
        let (_, files, context) = self.logged();
        open_storage(files[0].clone(), Some(self.format), &context)
    }

    pub fn content(&self) -> Vec<u8> {
        content(&self.open().expect("opens")).expect("reads")
    }

    /// What is wrong with it.
    pub fn damage(&self) -> Vec<String> {
        let (_, files, context) = self.logged();
        let storage: StorageRef = files[0].clone();
        let report = driver(self.format).check(&storage, &context, &AtomicBool::new(false));
        let findings = report.expect("a report").findings.into_iter();
        findings.map(|finding| finding.message).collect()
    }

    /// Gives it another size, as the command does.
    pub fn resize(&self, size: u64) -> Result<(CrashLog, u64)> {
        self.change(|image, context| plan(image, size, context))
    }

    /// Carries out a plan; the size of the disk afterwards.
    pub fn change(
        &self,
        planned: impl FnOnce(&Image, &OpenContext) -> Result<Plan>,
    ) -> Result<(CrashLog, u64)> {
        let (log, files, context) = self.logged();
        let image = open_storage(files[0].clone(), Some(self.format), &context)?;
        let plan = planned(&image, &context)?;
        let parts = parts(image.tip().expect("a layer"));
        let out: Vec<&dyn InPlace> = parts
            .iter()
            .map(|part| {
                let mut files = files.iter();
                let file = files.find(|file| part.path() == formats::Storage::path(&***file));
                &**file.expect("a file of the image") as &dyn InPlace
            })
            .collect();
        plan.run(&parts, &out)?;
        Ok((log, plan.size))
    }

    /// Gives it another size; whatever a crash leaves on the way opens with one of the two sizes, and holds what it held.
    /// Answers the image that it becomes.
    pub fn resizes_safely(&self, size: u64, what: &str) -> Files {
        let resized = self.resize(size);
        self.is_safe(resized, &format!("{what} to {size}"))
    }

    /// Gives a place to all of `range`; no crash on the way changes what the disk holds.
    pub fn allocates_safely(&self, range: Range<u64>, what: &str) -> Files {
        let allocated = self.change(|image, _| allocate(image, range));
        self.is_safe(allocated, what)
    }

    fn is_safe(&self, changed: Result<(CrashLog, u64)>, what: &str) -> Files {
        let before = self.content();
        let (log, new) = changed.unwrap_or_else(|e| panic!("{what}: {e}"));
        let mut seen = HashSet::new();
        log.crashes(|files, when| {
            let mut hasher = DefaultHasher::new();
            files.hash(&mut hasher);
            if seen.insert(hasher.finish()) {
                let image = self.with(files);
                image.is_old_or_new(&before, new, &format!("{what}, {when}"));
            }
        });
        let after = self.with(&log.files());
        after.is_old_or_new(&before, new, what);
        assert_eq!(after.open().expect("opens").source.size(), new, "{what}");
        after
    }

    fn is_old_or_new(&self, before: &[u8], new: u64, what: &str) {
        let image = self.open().unwrap_or_else(|e| panic!("{what}: {e}"));
        let after = content(&image).unwrap_or_else(|e| panic!("{what}: {e}"));
        let old = before.len() as u64;
        let size = after.len() as u64;
        assert!(size == old || size == new, "{what}: {size} bytes");
        let both = before.len().min(after.len());
        assert!(before[..both] == after[..both], "{what}: other content");
        let added = &after[both..];
        assert!(added.iter().all(|byte| *byte == 0), "{what}: no zeros");
    }
}
