//! The files of a package, by the names that its description gives them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use formats::tar::Members;
use formats::{Error, ErrorKind, OpenContext, ReferencePolicy, Result, SliceStorage, StorageRef};
use machines::href::Href;

use crate::seal::bare;

/// Members that an archive may have.
const MEMBERS_MAX: usize = 100_000;

/// Bytes of the names of all members.
const NAMES_MAX: usize = 16 << 20;

/// Where the files of a package are.
pub enum Files {
    /// Members of an archive, read in place.
    Archive(Archive),
    /// Files beside the description.
    Folder(Folder),
}

/// The members of an archive.
pub struct Archive {
    path: PathBuf,
    /// Names in the order of the archive.
    pub names: Vec<String>,
    members: BTreeMap<String, StorageRef>,
    /// The folder that is left out in front of names; empty, or with a slash behind it.
    folder: String,
    /// The same for images that name each other; made when it is first asked for.
    references: OnceLock<ReferencePolicy>,
    /// Whether the zeros that end an archive are there.
    pub is_closed: bool,
}

/// The folder of a description.
pub struct Folder {
    description: PathBuf,
    references: ReferencePolicy,
}

impl Archive {
    /// The members of the archive in `storage`.
    ///
    /// # Errors
    /// Those of the archive; `Malformed` for a name that comes twice, `Refused` for names that lead elsewhere.
    pub fn read(storage: &StorageRef) -> Result<Archive> {
        let mut archive = Archive {
            path: storage.path().to_owned(),
            names: Vec::new(),
            members: BTreeMap::new(),
            folder: String::new(),
            references: OnceLock::new(),
            is_closed: false,
        };
        let mut members = Members::new(storage.as_ref());
        let mut total = 0;
        while let Some(member) = members.next_file()? {
            let in_place = |e: Error| e.at(member.header).in_file(storage.path());
            let href = Href::new(member.name.clone());
            let name = href.relative().map_err(in_place)?.to_owned();
            if archive.names.len() >= MEMBERS_MAX {
                let error = Error::limit("package", "has too many members");
                return Err(in_place(error.expected(format!("at most {MEMBERS_MAX}"))));
            }
            total += name.len();
            if total > NAMES_MAX {
                let error = Error::limit("package", "the names of its members are too long");
                return Err(in_place(
                    error.expected(format!("at most {NAMES_MAX} bytes")),
                ));
            }
            let path = storage.path().join(&name);
            let slice = SliceStorage::named(storage.clone(), member.offset, member.len, &path)?;
            let before = archive.members.insert(name.clone(), Arc::new(slice));
            if before.is_some() {
                return Err(in_place(
                    Error::malformed("package", "two members have the same name")
                        .found(format!("{name:?}"))
                        .hint("which of them is meant nobody can tell: pack it again"),
                ));
            }
            archive.names.push(name);
        }
        archive.is_closed = members.is_closed();
        Ok(archive)
    }

    /// Leaves out `folder` (`web/`) in front of the names that have it: where a description stands, its files do.
    ///
    /// # Errors
    /// `Malformed` when a name would come twice then.
    pub fn enter(&mut self, folder: &str) -> Result<()> {
        for name in &mut self.names {
            let Some(bare) = name.strip_prefix(folder).map(str::to_owned) else {
                continue;
            };
            if let Some(member) = self.members.remove(name)
                && self.members.insert(bare.clone(), member).is_some()
            {
                return Err(
                    Error::malformed("package", "a file stands in two places of it")
                        .found(format!("{bare:?} and {name:?}"))
                        .in_file(&self.path),
                );
            }
            *name = bare;
        }
        folder.clone_into(&mut self.folder);
        Ok(())
    }

    /// The member of this name.
    pub fn member(&self, name: &str) -> Option<&StorageRef> {
        self.members.get(name)
    }
}

impl Files {
    /// The files in the folder of `description`, and where `context` allows besides.
    pub fn around(description: &Path, context: &OpenContext) -> Files {
        Files::Folder(Folder {
            description: description.to_owned(),
            references: context.references.clone(),
        })
    }

    /// The file that the description calls `href`.
    ///
    /// # Errors
    /// `Refused` for what is not beside the description, `Malformed` when it is not there, `Io`.
    pub fn open(&self, href: &Href) -> Result<StorageRef> {
        match self.named(href.relative().map_err(|e| e.in_file(self.path()))?) {
            Err(error) if error.kind() == ErrorKind::Malformed => match href.unescaped()? {
                Some(name) => self.named(&name),
                None => Err(error),
            },
            other => other,
        }
    }

    /// The file of this name, if it is there.
    ///
    /// # Errors
    /// As [`Files::open`], unless it is not there.
    pub fn find(&self, name: &str) -> Result<Option<StorageRef>> {
        match self.open(&Href::new(name)) {
            Ok(storage) => Ok(Some(storage)),
            Err(error) if error.kind() == ErrorKind::Malformed => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What the file `name` of a manifest is called here: without `./`, and without the folder of the description.
    pub fn own_name<'n>(&self, name: &'n str) -> &'n str {
        let name = bare(name);
        match self {
            Files::Archive(archive) => name.strip_prefix(&archive.folder).unwrap_or(name),
            Files::Folder(_) => name,
        }
    }

    /// What files named inside the images of this package may be.
    pub fn references(&self) -> ReferencePolicy {
        match self {
            Files::Archive(archive) => {
                let make = || {
                    let named = archive.members.iter();
                    let named = named.map(|(name, file)| (OsString::from(name), file.clone()));
                    ReferencePolicy::only(named.collect())
                };
                archive.references.get_or_init(make).clone()
            }
            Files::Folder(folder) => folder.references.clone(),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Files::Archive(archive) => &archive.path,
            Files::Folder(folder) => &folder.description,
        }
    }

    fn named(&self, name: &str) -> Result<StorageRef> {
        match self {
            Files::Archive(archive) => archive.member(name).cloned().ok_or_else(|| {
                let present: Vec<&str> = archive.names.iter().take(8).map(String::as_str).collect();
                Error::malformed("package", "a file that its description names is not in it")
                    .found(format!("{:?}, among others", present))
                    .expected(format!("{name:?}"))
                    .in_file(&archive.path)
            }),
            Files::Folder(folder) => {
                let (image, what) = (&folder.description, "file of a package");
                folder.references.open(image, name, what)
            }
        }
    }
}
