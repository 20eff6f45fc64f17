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
        match self.codec {
            Codec::Zstd => Box::new(Zstd {
                context: CCtx::create(),
                level: self.level,
            }),
            _ => Box::new(Deflate {
                stream: Compress::new_with_window_bits(
                    Compression::new(self.level.unsigned_abs()),
                    false,
                    WINDOW_BITS,
                ),
            }),
        }
    }
}

/// The cluster as it is, where compressing does not make it smaller.
fn plain(block: &[u8], start: usize, out: &mut Vec<u8>) -> Form {
    out.truncate(start);
    out.extend(block);
    Form::Plain
}

fn adopt(block: &[u8], stream: &[u8], out: &mut Vec<u8>) -> Form {
    if stream.len() >= block.len() {
        return plain(block, out.len(), out);
    }
    out.extend(stream);
    Form::Packed
}

struct Deflate {
    stream: Compress,
}

impl PackWorker for Deflate {
    fn pack(&mut self, _guest_offset: u64, block: &[u8], out: &mut Vec<u8>) -> Result<Form> {
        let start = out.len();
        // Room for any stream to its end: zlib-rs 0.6.8 panics when a stream is reset that had no room to end.
        out.resize(start + block.len() + block.len() / 4 + 1024, 0);
        self.stream.reset();
        let status = self
            .stream
            .compress(block, &mut out[start..], FlushCompress::Finish);
        let len = self.stream.total_out() as usize;
        if !matches!(status, Ok(Status::StreamEnd)) || len >= block.len() {
            return Ok(plain(block, start, out));
        }
        out.truncate(start + len);
        Ok(Form::Packed)
    }

    fn adopt(
        &mut self,
        _guest_offset: u64,
        block: &[u8],
        _codec: Codec,
        stream: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Form> {
        Ok(adopt(block, stream, out))
    }
}

struct Zstd {
    context: CCtx<'static>,
    level: i32,
}

impl PackWorker for Zstd {
    fn pack(&mut self, _guest_offset: u64, block: &[u8], out: &mut Vec<u8>) -> Result<Form> {
        let start = out.len();
        out.resize(start + zstd_safe::compress_bound(block.len()), 0);
        let len = self
            .context
            .compress(&mut out[start..], block, self.level)
            .map_err(|code| {
                Error::limit("cluster", "cannot be compressed")
                    .found(zstd_safe::get_error_name(code))
            })?;
        if len >= block.len() {
            return Ok(plain(block, start, out));
        }
        out.truncate(start + len);
        Ok(Form::Packed)
    }

    fn adopt(
        &mut self,
        _guest_offset: u64,
        block: &[u8],
        _codec: Codec,
        stream: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Form> {
        Ok(adopt(block, stream, out))
    }
}
