//! References: the files of the package.

use std::collections::HashSet;

use formats::{Error, ErrorKind, Result};

use super::names::{attribute, filled, is_ovf};
use crate::href::Href;
use crate::machine::{Compression, FileReference};
use crate::text::check_characters;
use crate::units::number;
use crate::xml::Element;

/// Files of a package.
const MAX_FILES: usize = 10_000;
/// Bytes of an `href`: no path is longer.
const MAX_HREF: usize = 4096;

/// The `File`s of `References`.
pub(super) fn read(
    references: Element,
    violations: &mut Vec<String>,
) -> Result<Vec<FileReference>> {
    let mut files = Vec::new();
    let (mut ids, mut hrefs) = (HashSet::new(), HashSet::new());
    for file in references
        .children()
        .filter(|c| is_ovf(c) && c.name() == "File")
    {
        if files.len() >= MAX_FILES {
            return Err(file
                .error(ErrorKind::Limit, "too many files")
                .expected(format!("at most {MAX_FILES}")));
        }
        let read = read_file(file)?;
        if let Some(id) = &read.id
            && !ids.insert(id.clone())
        {
            return Err(file
                .malformed("two files with one id")
                .found(format!("{id:?}")));
        }
        if !hrefs.insert(read.href.clone()) {
            violations.push(format!("two files with the href \"{}\"", read.href));
        }
        files.push(read);
    }
    Ok(files)
}

fn read_file(file: Element) -> Result<FileReference> {
    let id = filled(file, "id").ok_or_else(|| file.malformed("a file without an id"))?;
    check_characters(id, "file id")?;
    let href = attribute(file, "href").ok_or_else(|| file.malformed("a file without an href"))?;
    if href.len() > MAX_HREF {
        return Err(file
            .error(ErrorKind::Limit, "an href that is too long")
            .expected(format!("at most {MAX_HREF} bytes")));
    }
    let size = match filled(file, "size") {
        Some(size) => Some(number(size, "file size").map_err(|e| in_line(file, e))?),
        None => None,
    };
    let chunk_size = match filled(file, "chunkSize") {
        Some(size) => Some(number(size, "chunk size").map_err(|e| in_line(file, e))?),
        None => None,
    };
    if chunk_size == Some(0) {
        return Err(file.malformed("parts of no size").found("chunkSize 0"));
    }
    let compression = match filled(file, "compression") {
        None | Some("identity") => None,
        Some("gzip") => Some(Compression::Gzip),
        Some("bzip2") => Some(Compression::Bzip2),
        Some(other) => Some(Compression::Other(other.to_owned())),
    };
    Ok(FileReference {
        id: Some(id.to_owned()),
        href: Href::new(href.trim()),
        size,
        compression,
        chunk_size,
    })
}

/// `error` with the line of the element it comes from.
pub(super) fn in_line(element: Element, error: Error) -> Error {
    error.hint(format!("it is in line {}", element.line()))
}
