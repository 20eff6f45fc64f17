//! DiskSection: the disks that machines may refer to.

use std::cell::Cell;
use std::collections::HashMap;

use formats::{Error, ErrorKind, Result};

use super::formats_uri;
use super::names::{filled, is_ovf};
use super::references::in_line;
use crate::machine::{DiskImage, FileReference};
use crate::text::check_characters;
use crate::units;
use crate::xml::Element;

/// Parents below a disk that are followed.
const MAX_CHAIN: usize = 64;
/// Disks of a package, and images of all its machines with their parents.
const MAX_IMAGES: usize = 10_000;

/// The disks of a package by id.
#[derive(Debug, Default)]
pub(super) struct Disks {
    disks: Vec<Record>,
    by_id: HashMap<String, usize>,
    /// Images given out, parents counted: a disk can be asked for often.
    given_out: Cell<usize>,
}

#[derive(Debug)]
struct Record {
    image: DiskImage,
    parent: Option<String>,
    line: usize,
}

impl Disks {
    /// Reads a section; `property` answers what `${key}` stands for.
    pub(super) fn read(
        &mut self,
        section: Element,
        files: &[FileReference],
        property: &dyn Fn(&str) -> Option<String>,
        violations: &mut Vec<String>,
    ) -> Result<()> {
        let mut last_file = None;
        for disk in section
            .children()
            .filter(|c| is_ovf(c) && c.name() == "Disk")
        {
            if self.disks.len() >= MAX_IMAGES {
                return Err(disk
                    .error(ErrorKind::Limit, "too many disks")
                    .expected(format!("at most {MAX_IMAGES}")));
            }
            let record = read_disk(disk, files, property, violations)?;
            let id = record.image.id.clone().unwrap_or_default();
            let place = record
                .image
                .file
                .as_ref()
                .and_then(|file| files.iter().position(|f| f.id == file.id));
            if place.is_some() && place < last_file {
                violations.push(format!("disk \"{id}\" stands behind one of a later file"));
            }
            last_file = place.or(last_file);
            if self.by_id.insert(id.clone(), self.disks.len()).is_some() {
                return Err(disk
                    .malformed("two disks with one id")
                    .found(format!("{id:?}")));
            }
            self.disks.push(record);
        }
        Ok(())
    }

    /// The image of the disk `id` with all its parents.
    pub(super) fn image(&self, id: &str) -> Option<Result<DiskImage>> {
        let record = self.record(id)?;
        Some(self.with_parents(record))
    }

    /// Ids of disks, in order.
    pub(super) fn ids(&self) -> impl Iterator<Item = &str> {
        self.disks.iter().filter_map(|d| d.image.id.as_deref())
    }

    fn record(&self, id: &str) -> Option<&Record> {
        self.by_id.get(id).and_then(|index| self.disks.get(*index))
    }

    fn with_parents(&self, top: &Record) -> Result<DiskImage> {
        let mut chain = vec![top];
        let mut next = &top.parent;
        while let Some(id) = next {
            let parent = self.record(id).ok_or_else(|| {
                Error::malformed(
                    format!("Disk in line {}", top.line),
                    "a parent that is not there",
                )
                .found(format!("{id:?}"))
            })?;
            if chain.len() >= MAX_CHAIN {
                return Err(Error::limit(
                    format!("Disk in line {}", top.line),
                    "parents in a circle, or too many of them",
                )
                .expected(format!("at most {MAX_CHAIN}")));
            }
            chain.push(parent);
            next = &parent.parent;
        }
        self.given_out.set(self.given_out.get() + chain.len());
        if self.given_out.get() > MAX_IMAGES {
            return Err(Error::limit("DiskSection", "too many disks")
                .expected(format!("at most {MAX_IMAGES}")));
        }
        let mut below = None;
        for record in chain.into_iter().rev() {
            let mut image = record.image.clone();
            image.parent = below.map(Box::new);
            below = Some(image);
        }
        Ok(below.unwrap_or_default())
    }
}

fn read_disk(
    disk: Element,
    files: &[FileReference],
    property: &dyn Fn(&str) -> Option<String>,
    violations: &mut Vec<String>,
) -> Result<Record> {
    let id = filled(disk, "diskId").ok_or_else(|| disk.malformed("a disk without a diskId"))?;
    check_characters(id, "disk id")?;
    let capacity = capacity(disk, property, violations).map_err(|e| in_line(disk, e))?;
    // Negative in files that VMware wrote for disks nobody measured: a hint at best.
    let populated = filled(disk, "populatedSize")
        .and_then(|size| units::bytes(size, filled(disk, "populatedSizeUnits"), 1).ok());
    if let (Some(populated), Some(capacity)) = (populated, capacity)
        && populated > capacity
    {
        violations.push(format!(
            "disk \"{id}\" is populated by more than its capacity"
        ));
    }
    let file = match filled(disk, "fileRef") {
        None => None,
        // oVirt refers to the href.
        Some(reference) => Some(
            files
                .iter()
                .find(|f| f.id.as_deref() == Some(reference))
                .or_else(|| files.iter().find(|f| f.href.as_str() == reference))
                .ok_or_else(|| {
                    disk.malformed("a file that is not in References")
                        .found(format!("{reference:?}"))
                })?
                .clone(),
        ),
    };
    Ok(Record {
        image: DiskImage {
            id: Some(id.to_owned()),
            capacity,
            populated,
            format: filled(disk, "format").map(formats_uri::read),
            file,
            parent: None,
        },
        parent: filled(disk, "parentRef").map(str::to_owned),
        line: disk.line(),
    })
}

/// The capacity in bytes: a number in its unit, or the value of a property.
fn capacity(
    disk: Element,
    property: &dyn Fn(&str) -> Option<String>,
    violations: &mut Vec<String>,
) -> Result<Option<u64>> {
    let id = filled(disk, "diskId").unwrap_or_default();
    let Some(said) = filled(disk, "capacity") else {
        violations.push(format!("disk \"{id}\" has no capacity"));
        return Ok(None);
    };
    let unit = filled(disk, "capacityAllocationUnits");
    let key = said.strip_prefix("${").and_then(|s| s.strip_suffix('}'));
    match key {
        None => units::bytes(said, unit, 1).map(Some),
        Some(key) => match property(key).filter(|value| !value.trim().is_empty()) {
            Some(value) => units::bytes(&value, unit, 1).map(Some),
            None => Ok(None),
        },
    }
}
