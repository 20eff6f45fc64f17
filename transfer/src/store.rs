//! From placements to writes: neighbours in the file are stored together.

use std::io::IoSlice;

use formats::{Placement, Result, TableWrite};

use crate::buffer::AlignedBuffer;
use crate::output::Output;
use crate::zero::ZEROS;

/// Metadata that is stored together with the data behind it has at most this length.
pub const LEAD: usize = 64 << 10;

/// A placement, and where in the worker's buffer its bytes are.
#[derive(Debug, Clone, Copy)]
pub struct Placed {
    /// Where the bytes go.
    pub placement: Placement,
    /// Index of the first byte in the buffer.
    pub at: usize,
}

impl Placed {
    fn bytes<'a>(&self, buffer: &'a [u8]) -> &'a [u8] {
        &buffer[self.at..self.at + self.placement.len as usize]
    }
}

/// Writes zeros where `placement` says.
///
/// # Errors
/// Those of the output.
pub fn write_zeros(output: &dyn Output, placement: &Placement) -> Result<()> {
    let mut done = 0;
    while done < placement.len {
        let len = (placement.len - done).min(ZEROS.len() as u64);
        let zeros = IoSlice::new(&ZEROS[..len as usize]);
        output.write_pieces(&[zeros], placement.offset + done)?;
        done += len;
    }
    Ok(())
}

/// Stores placed data: neighbours in the file in one write, and with them the metadata that stands right before (it is
/// taken out of `tables`). `lead` is aligned memory of at least [`LEAD`] bytes for that.
///
/// # Errors
/// Those of the output.
pub fn write_data(
    output: &dyn Output,
    buffer: &[u8],
    placed: &[Placed],
    tables: &mut Vec<TableWrite>,
    lead: &mut AlignedBuffer,
) -> Result<()> {
    let mut rest = placed;
    while let Some(first) = rest.first() {
        let mut from = first.placement.offset;
        let mut end = from;
        let mut pieces = Vec::new();
        if let Some(index) = tables.iter().position(|t| stands_before(t, from)) {
            let table = tables.swap_remove(index);
            let bytes = &mut lead[..table.bytes.len()];
            bytes.copy_from_slice(&table.bytes);
            from = table.offset;
            pieces.push(IoSlice::new(bytes));
        }
        while let Some((next, others)) = rest.split_first()
            && next.placement.offset == end
        {
            pieces.push(IoSlice::new(next.bytes(buffer)));
            end += next.placement.len;
            rest = others;
        }
        output.write_pieces(&pieces, from)?;
    }
    Ok(())
}

fn stands_before(table: &TableWrite, offset: u64) -> bool {
    table.bytes.len() <= LEAD && table.offset.checked_add(table.bytes.len() as u64) == Some(offset)
}

/// Stores placed data and metadata in a stream, in the order of the file. Placed data ascends.
///
/// # Errors
/// Those of the output.
pub fn write_stream(
    output: &dyn Output,
    buffer: Option<&[u8]>,
    placed: &[Placed],
    tables: &mut Vec<TableWrite>,
) -> Result<()> {
    tables.sort_unstable_by_key(|table| table.offset);
    let mut tables = tables.drain(..).peekable();
    for one in placed {
        while let Some(table) = tables.next_if(|table| table.offset < one.placement.offset) {
            output.write_at(&table.bytes, table.offset)?;
        }
        match buffer {
            Some(buffer) => {
                let piece = IoSlice::new(one.bytes(buffer));
                output.write_pieces(&[piece], one.placement.offset)?;
            }
            None => write_zeros(output, &one.placement)?,
        }
    }
    tables.try_for_each(|table| output.write_at(&table.bytes, table.offset))
}
