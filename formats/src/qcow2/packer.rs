//! Compresses clusters.

use flate2::{Compress, Compression, FlushCompress, Status};
use zstd_safe::CCtx;

use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::target::{Form, PackWorker, Packer};

/// `log2` of the window that deflate may reach back: what QEMU's own writer keeps to, and decoders rely on.
const WINDOW_BITS: u8 = 12;

/// Compresses the clusters of an image.
pub struct ClusterPacker {
    /// Bytes of a cluster.
    pub cluster_size: u32,
    /// What with.
    pub codec: Codec,
    /// How hard.
    pub level: i32,
}

impl Packer for ClusterPacker {
    fn unit(&self) -> u32 {
        self.cluster_size
    }

    /// A cluster that does not shrink is stored as it is.
    fn most(&self) -> (usize, Form) {
        (self.cluster_size as usize, Form::Plain)
    }

    /// A zlib stream of a VMDK is deflate, too, but it may reach back further than [`WINDOW_BITS`].
    fn takes(&self, codec: Codec) -> bool {
        codec == self.codec
    }

    fn worker(&self) -> Box<dyn PackWorker> {
        let compressor = match self.codec {
            Codec::Zstd => Compressor::Zstd(CCtx::create(), self.level),
            _ => Compressor::Deflate(Compress::new_with_window_bits(
                Compression::new(self.level.unsigned_abs()),
                false,
                WINDOW_BITS,
            )),
        };
        Box::new(Worker { compressor })
    }
}

/// What one thread compresses with.
struct Worker {
    compressor: Compressor,
}

enum Compressor {
    Deflate(Compress),
    /// With its level.
    Zstd(CCtx<'static>, i32),
}

impl PackWorker for Worker {
    fn pack(&mut self, _guest_offset: u64, block: &[u8], out: &mut Vec<u8>) -> Result<Form> {
        let start = out.len();
        let len = match &mut self.compressor {
            Compressor::Deflate(stream) => deflate(stream, block, out),
            Compressor::Zstd(context, level) => Some(zstd(context, *level, block, out)?),
        };
        match len.filter(|len| *len < block.len()) {
            Some(len) => {
                out.truncate(start + len);
                Ok(Form::Packed)
            }
            None => Ok(plain(block, start, out)),
        }
    }

    fn adopt(
        &mut self,
        guest_offset: u64,
        block: &[u8],
        codec: Codec,
        stream: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Form> {
        if codec == Codec::Zstd && !is_common_frame(stream) {
            return self.pack(guest_offset, block, out);
        }
        if stream.len() >= block.len() {
            return Ok(plain(block, out.len(), out));
        }
        out.extend(stream);
        Ok(Form::Packed)
    }
}

/// Whether `stream` is one Zstandard frame, and one that every decoder takes (RFC 8878, 3.1.1.1): without a window of its own,
/// or with a window that is not larger than what libraries allow and not smaller than a block.
fn is_common_frame(stream: &[u8]) -> bool {
    const MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];
    const SINGLE_SEGMENT: u8 = 1 << 5;
    let [a, b, c, d, descriptor, window, ..] = stream else {
        return false;
    };
    // 10 more than the exponent is the log2 of the window.
    let window_bits = 10 + (window >> 3);
    [*a, *b, *c, *d] == MAGIC
        && zstd_safe::find_frame_compressed_size(stream) == Ok(stream.len())
        && (descriptor & SINGLE_SEGMENT != 0 || (17..27).contains(&window_bits))
}

/// The cluster as it is, where compressing does not make it smaller.
fn plain(block: &[u8], start: usize, out: &mut Vec<u8>) -> Form {
    out.truncate(start);
    out.extend(block);
    Form::Plain
}

/// Appends the deflated block and more; the bytes that count, if it could be done.
fn deflate(stream: &mut Compress, block: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    let start = out.len();
    // Room for any stream to its end: zlib-rs 0.6.8 panics when a stream is reset that had no room to end.
    out.resize(start + block.len() + block.len() / 4 + 1024, 0);
    stream.reset();
    let status = stream.compress(block, &mut out[start..], FlushCompress::Finish);
    matches!(status, Ok(Status::StreamEnd)).then_some(stream.total_out() as usize)
}

/// Appends the block as a Zstandard frame and more; the bytes that count.
fn zstd(context: &mut CCtx<'static>, level: i32, block: &[u8], out: &mut Vec<u8>) -> Result<usize> {
    let start = out.len();
    out.resize(start + zstd_safe::compress_bound(block.len()), 0);
    context
        .compress(&mut out[start..], block, level)
        .map_err(|code| {
            Error::limit("cluster", "cannot be compressed").found(zstd_safe::get_error_name(code))
        })
}
