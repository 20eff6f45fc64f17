//! A running engine: what a verb gives to `transfer`, and how its progress is shown.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use transfer::{Losses, Progress, Salvage, Setting};

use crate::args::Output;
use crate::failure::Failure;
use crate::open;
use crate::watch;

/// One job of the engine.
pub struct Work {
    threads: usize,
    cancel: Arc<AtomicBool>,
    progress: Progress,
    salvage: Option<Salvage>,
}

impl Work {
    /// A job of `jobs` threads, or as many as are good, that signals stop.
    ///
    /// # Errors
    /// `Usage` for an impossible number.
    pub fn new(jobs: Option<usize>) -> Result<Work, Failure> {
        Work::with(jobs, open::cancel_on_signals)
    }

    /// As [`Work::new`], writing to a pipe.
    ///
    /// # Errors
    /// As [`Work::new`].
    pub fn into_pipe(jobs: Option<usize>) -> Result<Work, Failure> {
        Work::with(jobs, open::end_on_signals)
    }

    fn with(
        jobs: Option<usize>,
        listen: fn() -> Result<Arc<AtomicBool>, Failure>,
    ) -> Result<Work, Failure> {
        Ok(Work {
            threads: open::threads(jobs)?,
            cancel: listen()?,
            progress: Progress::default(),
            salvage: None,
        })
    }

    /// Reads damaged ranges as zeros, if that is wanted, and keeps account of them.
    pub fn salvaging(mut self, wanted: bool) -> Work {
        self.salvage = wanted.then(Salvage::default);
        self
    }

    /// Runs `job` while its progress is shown as `output` says.
    pub fn watched<T>(&self, output: &Output, job: impl FnOnce(&Setting<'_>) -> T) -> T {
        watch::watched(output, &self.progress, || job(&self.setting()))
    }

    /// What the engine wants to know.
    pub fn setting(&self) -> Setting<'_> {
        Setting {
            threads: self.threads,
            cancel: &self.cancel,
            progress: &self.progress,
            salvage: self.salvage.as_ref(),
        }
    }

    /// Set when the user wants it to stop.
    pub fn cancel(&self) -> &Arc<AtomicBool> {
        &self.cancel
    }

    /// Fails when the user wants it to stop.
    ///
    /// # Errors
    /// `Interrupted`.
    pub fn go_on(&self) -> Result<(), Failure> {
        match self.cancel.load(Ordering::Relaxed) {
            true => Err(transfer::Error::Interrupted.into()),
            false => Ok(()),
        }
    }

    /// What was read as zeros.
    pub fn losses(&self) -> Losses {
        self.salvage
            .as_ref()
            .map(Salvage::losses)
            .unwrap_or_default()
    }
}
