//! The libraries that unpack, step by step, behind one face.

use zlib_rs::{Inflate, InflateFlush};
use zstd_safe::{DCtx, InBuffer, OutBuffer};

use super::packing::Packing;

/// Unpacks one stream (a member, a frame) after the other, each given to a fresh one or where the last one ended.
pub enum Decoder {
    /// A gzip member, with its header and trailer.
    Gzip(Box<Inflate>),
    /// The rest of a gzip member, from the start of a block to the end of the last one.
    Deflate(Box<Inflate>),
    /// Zstandard frames.
    Zstd(Box<DCtx<'static>>),
    /// A bzip2 stream.
    Bzip2(Box<bzip2::Decompress>),
}

/// What a step did.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Bytes that were taken from the input.
    pub taken: usize,
    /// Bytes that were written to the output.
    pub made: usize,
    /// Where it stands now.
    pub state: State,
}

/// Where a decoder stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Inside a stream: it wants more input, or room.
    Inside,
    /// Between two blocks of deflate.
    Block,
    /// Behind a stream, whose checksum was right, if it has one.
    End,
}

impl Decoder {
    /// One for a stream of its own.
    pub fn new(packing: Packing) -> Decoder {
        match packing {
            // 15 bits of window, and 16 for a gzip header.
            Packing::Gzip => Decoder::Gzip(Box::new(Inflate::new(true, 15 + 16))),
            Packing::Zstd => Decoder::Zstd(Box::new(DCtx::create())),
            Packing::Bzip2 => Decoder::Bzip2(Box::new(bzip2::Decompress::new(false))),
        }
    }

    /// One for the rest of a deflate stream, behind `window`, the 32 KiB in front of it. `None` when the library does not
    /// take the window.
    pub fn behind(window: &[u8]) -> Option<Decoder> {
        let mut inflate = Inflate::new(false, 15);
        inflate.set_dictionary(window).ok()?;
        Some(Decoder::Deflate(Box::new(inflate)))
    }

    /// Unpacks `input` into `output`. With `blocks`, it stops between the blocks of deflate.
    ///
    /// # Errors
    /// What is wrong with the stream, in the library's words.
    pub fn step(
        &mut self,
        input: &[u8],
        output: &mut [u8],
        blocks: bool,
    ) -> Result<Step, &'static str> {
        match self {
            Decoder::Gzip(inflate) | Decoder::Deflate(inflate) => {
                step_deflate(inflate, input, output, blocks)
            }
            Decoder::Zstd(context) => {
                let mut packed = InBuffer::around(input);
                let mut room = OutBuffer::around(output);
                let left = context
                    .decompress_stream(&mut room, &mut packed)
                    .map_err(zstd_safe::get_error_name)?;
                Ok(Step {
                    taken: packed.pos(),
                    made: room.pos(),
                    state: if left == 0 { State::End } else { State::Inside },
                })
            }
            Decoder::Bzip2(bunzip) => {
                let before = (bunzip.total_in(), bunzip.total_out());
                let state = match bunzip.decompress(input, output) {
                    Ok(bzip2::Status::StreamEnd) => State::End,
                    Ok(bzip2::Status::MemNeeded) => return Err("no memory left"),
                    Ok(_) => State::Inside,
                    Err(_) => return Err("the data is damaged"),
                };
                Ok(Step {
                    taken: (bunzip.total_in() - before.0) as usize,
                    made: (bunzip.total_out() - before.1) as usize,
                    state,
                })
            }
        }
    }

    /// Bytes that it holds, besides what every one of them does.
    pub fn memory(&self) -> usize {
        match self {
            Decoder::Zstd(context) => context.sizeof(),
            _ => 0,
        }
    }
}

fn step_deflate(
    inflate: &mut Inflate,
    input: &[u8],
    output: &mut [u8],
    blocks: bool,
) -> Result<Step, &'static str> {
    let before = (inflate.total_in(), inflate.total_out());
    let flush = if blocks {
        InflateFlush::Block
    } else {
        InflateFlush::NoFlush
    };
    let status = inflate
        .decompress(input, output, flush)
        .map_err(|error| match error {
            zlib_rs::InflateError::DataError => {
                inflate.error_message().unwrap_or("the data is damaged")
            }
            other => other.as_str(),
        })?;
    let taken = (inflate.total_in() - before.0) as usize;
    let made = (inflate.total_out() - before.1) as usize;
    let state = match status {
        zlib_rs::Status::StreamEnd => State::End,
        // With input and room left, there is no other reason to stop.
        zlib_rs::Status::Ok if blocks && taken < input.len() && made < output.len() => State::Block,
        _ => State::Inside,
    };
    Ok(Step { taken, made, state })
}
