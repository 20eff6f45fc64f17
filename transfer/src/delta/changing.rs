//! An image that is changed where it stands, again and again.

use std::path::PathBuf;

use formats::resize::parts;
use formats::{
    Error, Format, Image, InPlace, InPlaceFile, LayerFile, OpenContext, Plan, Result, StorageRef,
    open,
};

/// An image, open for writing and locked. Each plan is made for the image as it is by then.
pub struct Changing<'c> {
    image: Image,
    path: PathBuf,
    format: Format,
    context: &'c OpenContext,
    locked: Vec<InPlaceFile>,
    /// Every file that was opened: closing one would give up its lock.
    held: Vec<StorageRef>,
}

impl<'c> Changing<'c> {
    /// Locks the files of the image that was named. Nothing of it may be opened elsewhere, and closed, as long as this
    /// lives.
    ///
    /// # Errors
    /// `Refused` when another program has it in use, or it changed since it was opened; `Io`.
    pub fn new(image: Image, context: &'c OpenContext) -> Result<Changing<'c>> {
        let Some(tip) = image.tip() else {
            return Err(Error::malformed("chain", "has no layer"));
        };
        let locked = parts(tip)
            .iter()
            .map(|file| InPlaceFile::open(file.as_ref()))
            .collect::<Result<Vec<_>>>()?;
        image.check_unchanged()?;
        Ok(Changing {
            path: tip.path.clone(),
            format: tip.info.format,
            held: image.storages.clone(),
            image,
            context,
            locked,
        })
    }

    /// The image as it is.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The layer that is changed.
    ///
    /// # Errors
    /// None that can be: it was there before.
    pub fn layer(&self) -> Result<&LayerFile> {
        let tip = self.image.tip();
        tip.ok_or_else(|| Error::malformed("chain", "has no layer"))
    }

    /// Where its files are written to, in the order in which plans count them.
    pub fn out(&self) -> Vec<&dyn InPlace> {
        let files = self.locked.iter();
        files.map(|file| file as &dyn InPlace).collect()
    }

    /// Carries a plan out, and opens the image as it is afterwards.
    ///
    /// # Errors
    /// Those of the files, and what is wrong with the image then.
    pub fn carry_out(&mut self, plan: &Plan) -> Result<()> {
        if plan.is_empty() {
            return Ok(());
        }
        plan.run(&parts(self.layer()?), &self.out())?;
        self.reopen()
    }

    /// Opens the image again: what was opened before knows nothing of changes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn reopen(&mut self) -> Result<()> {
        self.image = open(&self.path, Some(self.format), self.context)?;
        self.held.extend(self.image.storages.iter().cloned());
        let files = parts(self.layer()?);
        for (file, locked) in files.iter().zip(&mut self.locked) {
            // A descriptor that was replaced is another file.
            if !locked.is_of(file.as_ref()) {
                *locked = InPlaceFile::open(file.as_ref())?;
            }
        }
        Ok(())
    }

    /// Waits until everything is on stable storage.
    ///
    /// # Errors
    /// Those of the files.
    pub fn sync(&self) -> Result<()> {
        self.locked.iter().try_for_each(|file| file.sync())
    }
}
