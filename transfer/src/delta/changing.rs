//! An image that is changed where it stands, again and again.

use std::path::PathBuf;

use formats::resize::parts;
use formats::{
    Error, Format, Image, InPlace, InPlaceFile, LayerFile, OpenContext, Plan, Result, StorageRef,
    open,
};

/// Where an image is: what it takes to open it again, and to write to it.
pub trait Place {
    /// The image as it is now.
    ///
    /// # Errors
    /// What is wrong with it.
    fn open(&self) -> Result<Image>;

    /// The file that `storage` reads, for writing.
    ///
    /// # Errors
    /// `Refused` when another program has it in use, `Io`.
    fn writable(&self, storage: &StorageRef) -> Result<Box<dyn InPlace>>;
}

/// An image in the file system.
pub struct InFiles<'c> {
    /// The file that is opened.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// How images are opened.
    pub context: &'c OpenContext,
}

impl Place for InFiles<'_> {
    fn open(&self) -> Result<Image> {
        open(&self.path, Some(self.format), self.context)
    }

    fn writable(&self, storage: &StorageRef) -> Result<Box<dyn InPlace>> {
        Ok(Box::new(InPlaceFile::open(storage.as_ref())?))
    }
}

/// An image, open for writing and locked. Each plan is made for the image as it is by then.
pub struct Changing<'p> {
    image: Image,
    place: &'p dyn Place,
    /// Its files, each with its number in the file system.
    out: Vec<(FileId, Box<dyn InPlace>)>,
    /// Every file that was opened: closing one would give up its lock.
    held: Vec<StorageRef>,
}

type FileId = Option<(u64, u64)>;

impl<'p> Changing<'p> {
    /// Opens and locks the image. None of its files may be opened elsewhere in this process, and closed, as long as this
    /// lives.
    ///
    /// # Errors
    /// `Refused` when another program has it in use; `Io`; what is wrong with the image.
    pub fn new(place: &'p dyn Place) -> Result<Changing<'p>> {
        let image = place.open()?;
        let mut changing = Changing {
            held: image.storages.clone(),
            image,
            place,
            out: Vec::new(),
        };
        for file in parts(changing.layer()?) {
            let out = place.writable(&file)?;
            changing.out.push((file.file_id(), out));
        }
        changing.image.check_unchanged()?;
        Ok(changing)
    }

    /// The image as it is.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The layer that is changed.
    ///
    /// # Errors
    /// `Malformed` for an image without one.
    pub fn layer(&self) -> Result<&LayerFile> {
        let tip = self.image.tip();
        tip.ok_or_else(|| Error::malformed("chain", "has no layer"))
    }

    /// Where its files are written to, in the order in which plans count them.
    pub fn out(&self) -> Vec<&dyn InPlace> {
        self.out.iter().map(|(_, out)| out.as_ref()).collect()
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
        self.image = self.place.open()?;
        self.held.extend(self.image.storages.iter().cloned());
        let files = parts(self.layer()?);
        for (file, (id, out)) in files.iter().zip(&mut self.out) {
            // A descriptor that was replaced is another file.
            if file.file_id() != *id {
                *out = self.place.writable(file)?;
                *id = file.file_id();
            }
        }
        Ok(())
    }

    /// Waits until everything is on stable storage.
    ///
    /// # Errors
    /// Those of the files.
    pub fn sync(&self) -> Result<()> {
        self.out.iter().try_for_each(|(_, out)| out.sync())
    }
}
