//! Fetches the bytes that a mapping points at. The one place where runs become guest content.

use std::sync::Arc;

use crate::codec::{Codec, UnpackError, Unpacker};
use crate::error::{Error, Result};
use crate::source::{BlockSource, Mapping, Run, run_at};
use crate::storage::StorageRef;

/// Reads runs. Keeps its buffers between calls and the unit it unpacked last; one a thread.
#[derive(Debug, Default)]
pub struct RunReader {
    unpacker: Unpacker,
    packed: Vec<u8>,
    unit: Vec<u8>,
    unit_is: Option<(StorageRef, u64)>,
}

impl RunReader {
    /// A fresh one.
    pub fn new() -> RunReader {
        RunReader::default()
    }

    /// Fills `out` with the first `out.len()` bytes of `run`.
    ///
    /// # Errors
    /// Those of the storage, and `Malformed` when a compressed unit does not yield what it must.
    pub fn read(&mut self, run: &Run, out: &mut [u8]) -> Result<()> {
        match &run.mapping {
            Mapping::Absent | Mapping::Zero => {
                out.fill(0);
                Ok(())
            }
            Mapping::Stored { storage, offset } => storage.read_at(out, *offset),
            Mapping::Packed { unit, skip, .. } => {
                // The common case, a whole unit, is unpacked where it is wanted.
                if *skip == 0 && out.len() == *unit as usize {
                    return self.unpack(&run.mapping, out);
                }
                self.read_part(&run.mapping, *skip, out)
            }
        }
    }

    /// Fills `out` with a run that is one whole compressed unit, and answers the unit's stream as it stands in the
    /// image, if it can be taken as it is. `starts` are file offsets, ascending, at which other streams are known to
    /// start: in an image that is packed tightly one of them is where this one ends.
    ///
    /// # Errors
    /// As [`RunReader::read`].
    pub fn read_unit(
        &mut self,
        run: &Run,
        starts: &[u64],
        out: &mut [u8],
    ) -> Result<Option<(Codec, &[u8])>> {
        if let Mapping::Packed {
            storage,
            offset,
            len,
            codec,
            unit,
            skip: 0,
            ..
        } = &run.mapping
            && out.len() == *unit as usize
        {
            self.packed.resize(*len as usize, 0);
            storage.read_at(&mut self.packed, *offset)?;
            let following = starts.partition_point(|start| start <= offset);
            let likely = starts.get(following).map(|start| (start - offset) as usize);
            let measured = self
                .unpacker
                .unpack_measured(*codec, &self.packed, likely, out);
            if let Some(len) = measured.filter(|len| *len <= self.packed.len()) {
                return Ok(Some((*codec, &self.packed[..len])));
            }
        }
        self.read(run, out)?;
        Ok(None)
    }

    fn read_part(&mut self, mapping: &Mapping, skip: u32, out: &mut [u8]) -> Result<()> {
        let Mapping::Packed {
            storage,
            offset,
            unit,
            ..
        } = mapping
        else {
            return Ok(());
        };
        let known = self
            .unit_is
            .as_ref()
            .is_some_and(|(of, at)| at == offset && Arc::ptr_eq(of, storage));
        if !known {
            self.unit_is = None;
            let mut buffer = std::mem::take(&mut self.unit);
            buffer.resize(*unit as usize, 0);
            let result = self.unpack(mapping, &mut buffer);
            self.unit = buffer;
            result?;
            self.unit_is = Some((storage.clone(), *offset));
        }
        let start = skip as usize;
        let part = self
            .unit
            .get(start..start.saturating_add(out.len()))
            .ok_or_else(|| {
                Error::malformed("compressed unit", "is shorter than the range asked for")
                    .at(*offset)
                    .found(self.unit.len())
                    .in_file(storage.path())
            })?;
        out.copy_from_slice(part);
        Ok(())
    }

    fn unpack(&mut self, mapping: &Mapping, out: &mut [u8]) -> Result<()> {
        let Mapping::Packed {
            storage,
            offset,
            len,
            codec,
            least,
            ..
        } = mapping
        else {
            return Ok(());
        };
        self.packed.resize(*len as usize, 0);
        storage.read_at(&mut self.packed, *offset)?;
        match self.unpacker.unpack(*codec, &self.packed, out) {
            Ok(()) => Ok(()),
            Err(UnpackError::TooLittle(made)) if made >= *least as usize => {
                out[made..].fill(0);
                Ok(())
            }
            Err(e) => Err(
                Error::malformed(format!("{codec} compressed unit"), e.to_string())
                    .at(*offset)
                    .expected(format!("{} bytes", out.len()))
                    .hint("--salvage reads on with zeros in its place")
                    .in_file(storage.path()),
            ),
        }
    }
}

/// Reads the guest bytes at `offset` one run after the other. For tests, probes and small reads: the engine does better.
///
/// # Errors
/// Those of `map` and of the storage.
pub fn read_guest(source: &dyn BlockSource, mut offset: u64, out: &mut [u8]) -> Result<()> {
    let mut reader = RunReader::new();
    let mut rest = out;
    while !rest.is_empty() {
        let run = run_at(source, offset, rest.len() as u64)?;
        let (now, later) = rest.split_at_mut(run.len as usize);
        reader.read(&run, now)?;
        offset += run.len;
        rest = later;
    }
    Ok(())
}
