//! Writes everything but streams: one sparse file, or a descriptor and the flat or sparse extents that it names.

use std::ffi::OsString;
use std::ops::Range;

use super::SECTOR;
use super::descriptor::MAX_DESCRIPTOR;
use super::extent_line::{Access, ExtentFile, ExtentLine, ExtentType};
use super::new_image::{NewImage, Subformat};
use super::sparse_layout::{GRAIN, SparseLayout};
use crate::error::{Error, Result};
use crate::storage::WritableStorage;
use crate::target::{BlockTarget, Identity, PART, Placement, Summary, TableWrite};

/// Guest bytes of an extent of a split disk: what VMware cuts at, so that a sparse extent with its tables stays below
/// 2 GiB.
const SPLIT: u64 = 4_192_256 * SECTOR;

/// An image that is being written.
pub struct ExtentsTarget {
    image: NewImage,
    /// Guest bytes of every extent but the last.
    extent_len: u64,
    extents: Vec<Extent>,
    ready: Vec<TableWrite>,
}

enum Extent {
    /// The bytes as they are, in this part.
    Flat { base: u64, len: u64 },
    /// A hosted sparse extent.
    Sparse { layout: Box<SparseLayout>, len: u64 },
}

impl Extent {
    fn len(&self) -> u64 {
        match self {
            Extent::Flat { len, .. } | Extent::Sparse { len, .. } => *len,
        }
    }
}

impl ExtentsTarget {
    /// The layout of `image`.
    ///
    /// # Errors
    /// `Limit` when the files would be too long, or too many.
    pub fn new(image: NewImage) -> Result<ExtentsTarget> {
        let extent_len = match image.subformat {
            Subformat::SplitFlat | Subformat::SplitSparse => SPLIT,
            _ => image.size,
        };
        let embedded = image.subformat == Subformat::MonolithicSparse;
        let extents = (0..image.size.div_ceil(extent_len))
            .map(|index| {
                let len = (image.size - index * extent_len).min(extent_len);
                // Part 0 is the descriptor.
                let base = if embedded { 0 } else { (index + 1) * PART };
                Ok(match image.extent_type() {
                    ExtentType::Sparse => Extent::Sparse {
                        layout: Box::new(SparseLayout::new(len, base, embedded)?),
                        len,
                    },
                    _ => Extent::Flat { base, len },
                })
            })
            .collect::<Result<_>>()?;
        let target = ExtentsTarget {
            image,
            extent_len,
            extents,
            ready: Vec::new(),
        };
        target.check_descriptor()?;
        Ok(target)
    }

    /// Fails when the disk has more extents than a descriptor that can be read again has lines for.
    fn check_descriptor(&self) -> Result<()> {
        let any = Identity {
            id: [0; 16],
            unix_time: 0,
        };
        let len = self.image.descriptor(&self.lines(), &any).len() as u64;
        if len <= MAX_DESCRIPTOR {
            return Ok(());
        }
        Err(Error::limit("vmdk", "the disk has too many extents")
            .found(format!(
                "a descriptor of {len} bytes for {} extents",
                self.extents.len()
            ))
            .expected(format!("at most {MAX_DESCRIPTOR} bytes"))
            .hint("choose a shorter file name, or -o subformat=vmfs, monolithicFlat or streamOptimized"))
    }

    fn is_embedded(&self) -> bool {
        self.image.subformat == Subformat::MonolithicSparse
    }

    fn lines(&self) -> Vec<ExtentLine> {
        let extents = self.extents.iter().enumerate();
        extents
            .map(|(index, extent)| ExtentLine {
                access: Access::ReadWrite,
                len: extent.len(),
                kind: self.image.extent_type(),
                file: Some(ExtentFile {
                    name: self.image.extent_name(index + 1),
                    raw_name: None,
                }),
                offset: 0,
            })
            .collect()
    }
}

impl BlockTarget for ExtentsTarget {
    fn size(&self) -> u64 {
        self.image.size
    }

    fn block_size(&self) -> u64 {
        match self.image.extent_type() {
            ExtentType::Sparse => GRAIN,
            _ => 4096,
        }
    }

    fn is_sequential(&self) -> bool {
        false
    }

    fn exact_length(&self) -> Option<u64> {
        None
    }

    fn further_parts(&self) -> Vec<OsString> {
        if self.is_embedded() {
            return Vec::new();
        }
        let numbers = 1..=self.extents.len();
        numbers
            .map(|number| self.image.extent_name(number).into())
            .collect()
    }

    fn place(&mut self, guest_offset: u64, len: u64) -> Result<Placement> {
        let index = guest_offset / self.extent_len;
        let within = guest_offset % self.extent_len;
        let extent = self.extents.get_mut(index as usize);
        let left = extent
            .as_ref()
            .map_or(0, |e| e.len().saturating_sub(within));
        let len = len.min(left);
        match extent {
            Some(Extent::Flat { base, .. }) if len > 0 => Ok(Placement {
                offset: *base + within,
                len,
            }),
            Some(Extent::Sparse { layout, .. }) if len > 0 => {
                let placement = layout.place(within, len);
                self.ready.extend(layout.take_tables());
                Ok(placement)
            }
            _ => Err(Error::limit("vmdk", "the disk has no such place")
                .at(guest_offset)
                .expected(format!("a disk of {} bytes", self.image.size))),
        }
    }

    /// Nothing is below a new image, and a new file reads as zeros where nothing is written.
    fn zero(&mut self, _guest_offset: u64, _len: u64) -> Result<Option<Range<u64>>> {
        Ok(None)
    }

    fn take_tables(&mut self) -> Vec<TableWrite> {
        std::mem::take(&mut self.ready)
    }

    fn finish(self: Box<Self>, identity: &Identity, out: &dyn WritableStorage) -> Result<Summary> {
        let descriptor = self.image.descriptor(&self.lines(), identity);
        let embedded = self.is_embedded();
        let mut file_size = 0;
        for extent in self.extents {
            file_size += match extent {
                Extent::Flat { base, len } => {
                    out.set_len(base + len)?;
                    len
                }
                Extent::Sparse { layout, .. } => layout.finish(&descriptor, out)?,
            };
        }
        for table in &self.ready {
            out.write_at(&table.bytes, table.offset)?;
        }
        if !embedded {
            out.write_at(descriptor.as_bytes(), 0)?;
            out.set_len(descriptor.len() as u64)?;
            file_size += descriptor.len() as u64;
        }
        Ok(Summary { file_size })
    }
}
