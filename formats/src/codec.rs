//! Unpacking of compressed units. Pure functions over byte slices: no threads, no files.

use std::fmt;

use libdeflater::{DecompressionError, Decompressor};
use zstd_safe::DCtx;

use crate::xva::Checksum;

/// What a unit is compressed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    /// A raw deflate stream without header or checksum (RFC 1951), as in qcow2.
    Deflate,
    /// Deflate between a zlib header and an Adler-32 (RFC 1950), as in VMDK.
    Zlib,
    /// One or several Zstandard frames (RFC 8878).
    Zstd,
    /// Nothing: plain bytes, with their checksum behind them, as in XVA.
    Summed(Checksum),
}

impl Codec {
    /// Whether a unit carries a checksum, so that unpacking it shows any damage.
    pub fn has_checksum(self) -> bool {
        matches!(self, Codec::Zlib | Codec::Summed(_))
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Codec::Deflate => "deflate",
            Codec::Zlib => "zlib",
            Codec::Zstd => "zstd",
            Codec::Summed(_) => "summed",
        })
    }
}

/// Why a unit could not be unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnpackError {
    /// The stream is not one of this codec, or is damaged.
    #[error("the compressed data is damaged")]
    Damaged,
    /// It ended after this many bytes.
    #[error("it inflates to only {0} bytes")]
    TooLittle(usize),
    /// The checksum behind it is another one.
    #[error("its checksum does not match")]
    Checksum,
    /// It holds more than the unit.
    #[error("it inflates to more than a unit")]
    TooMuch,
}

/// Unpacks units; keeps what the codecs want to keep between calls. One a thread.
pub struct Unpacker {
    deflate: Decompressor,
    zstd: DCtx<'static>,
    inflate: Option<Box<flate2::Decompress>>,
}

impl Default for Unpacker {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unpacker")
    }
}

impl Unpacker {
    /// A fresh one.
    pub fn new() -> Unpacker {
        Unpacker {
            deflate: Decompressor::new(),
            zstd: DCtx::create(),
            inflate: None,
        }
    }

    /// Unpacks `packed` into exactly `unit`. Bytes after the end of the stream are ignored: in qcow2 the length of a
    /// unit is known to the sector only.
    ///
    /// # Errors
    /// When the stream is damaged, or yields fewer or more bytes than `unit` has.
    pub fn unpack(
        &mut self,
        codec: Codec,
        packed: &[u8],
        unit: &mut [u8],
    ) -> Result<(), UnpackError> {
        let made = match codec {
            Codec::Deflate => self
                .deflate
                .deflate_decompress(packed, unit)
                .map_err(of_deflate)?,
            Codec::Zlib => self
                .deflate
                .zlib_decompress(packed, unit)
                .map_err(of_deflate)?,
            Codec::Zstd => self.unpack_zstd(packed, unit)?.0,
            Codec::Summed(checksum) => {
                if !checksum.fits(packed, unit.len()) {
                    return Err(UnpackError::Checksum);
                }
                // It is as long, or the checksum would not fit.
                let (data, _) = packed.split_at(unit.len());
                unit.copy_from_slice(data);
                unit.len()
            }
        };
        if made == unit.len() {
            Ok(())
        } else {
            Err(UnpackError::TooLittle(made))
        }
    }

    /// Unpacks `packed` into exactly `unit`, and answers how many bytes its stream has; `None` when that cannot be told
    /// or anything is wrong ([`Unpacker::unpack`] says what). `likely` is where the stream may end: when it is whole up
    /// to there, that is taken for its end.
    pub fn unpack_measured(
        &mut self,
        codec: Codec,
        packed: &[u8],
        likely: Option<usize>,
        unit: &mut [u8],
    ) -> Option<usize> {
        match codec {
            Codec::Deflate => {
                // libdeflate does not tell where a stream ends, but is twice as fast as what does.
                if let Some(head) = likely.and_then(|len| packed.get(..len))
                    && self.unpack(codec, head, unit).is_ok()
                {
                    return likely;
                }
                let inflate = self
                    .inflate
                    .get_or_insert_with(|| Box::new(flate2::Decompress::new(false)));
                inflate.reset(false);
                let status = inflate
                    .decompress(packed, unit, flate2::FlushDecompress::Finish)
                    .ok()?;
                let whole =
                    status == flate2::Status::StreamEnd && inflate.total_out() == unit.len() as u64;
                whole.then_some(inflate.total_in() as usize)
            }
            // The length is known from outside; it is the stream's if the checksum stands at its end.
            Codec::Zlib => {
                self.unpack(codec, packed, unit).ok()?;
                let sum = libdeflater::adler32(unit).to_be_bytes();
                packed.ends_with(&sum).then_some(packed.len())
            }
            Codec::Zstd => {
                let (made, taken) = self.unpack_zstd(packed, unit).ok()?;
                (made == unit.len()).then_some(taken)
            }
            Codec::Summed(_) => {
                self.unpack(codec, packed, unit).ok()?;
                Some(packed.len())
            }
        }
    }

    /// Frame by frame until the unit is full. Each frame is unpacked in one shot straight into its place, so that the
    /// window a frame claims is never allocated. Answers the bytes that were made and those that were taken.
    fn unpack_zstd(
        &mut self,
        packed: &[u8],
        unit: &mut [u8],
    ) -> Result<(usize, usize), UnpackError> {
        let (mut taken, mut made) = (0, 0);
        while made < unit.len() && taken < packed.len() {
            let rest = &packed[taken..];
            let frame = zstd_safe::find_frame_compressed_size(rest).map_err(|_| {
                if made == 0 {
                    UnpackError::Damaged
                } else {
                    UnpackError::TooLittle(made)
                }
            })?;
            // A frame is at least its magic number long, so the loop ends.
            let frame_bytes = rest.get(..frame.max(4)).ok_or(UnpackError::Damaged)?;
            made += self
                .zstd
                .decompress(&mut unit[made..], frame_bytes)
                .map_err(of_zstd)?;
            taken += frame_bytes.len();
        }
        Ok((made, taken))
    }
}

fn of_deflate(error: DecompressionError) -> UnpackError {
    match error {
        DecompressionError::BadData => UnpackError::Damaged,
        DecompressionError::InsufficientSpace => UnpackError::TooMuch,
    }
}

fn of_zstd(code: zstd_safe::ErrorCode) -> UnpackError {
    // The library has no other stable way to tell: ZSTD_error_dstSize_tooSmall by its text.
    if zstd_safe::get_error_name(code).contains("Destination buffer is too small") {
        UnpackError::TooMuch
    } else {
        UnpackError::Damaged
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libdeflater::{CompressionLvl, Compressor};

    fn deflated(data: &[u8]) -> Vec<u8> {
        let mut out = vec![0; data.len() + 100];
        let len = Compressor::new(CompressionLvl::default())
            .deflate_compress(data, &mut out)
            .unwrap();
        out.truncate(len);
        out
    }

    fn zstd(data: &[u8]) -> Vec<u8> {
        let mut out = vec![0; zstd_safe::compress_bound(data.len())];
        let len = zstd_safe::compress(&mut out[..], data, 3).unwrap();
        out.truncate(len);
        out
    }

    #[test]
    fn a_unit_comes_out_whole_and_trailing_bytes_are_ignored() {
        let data: Vec<u8> = (0..4096u32).map(|i| (i / 7) as u8).collect();
        let mut unit = vec![0; 4096];
        for (codec, mut packed) in [
            (Codec::Deflate, deflated(&data)),
            (Codec::Zstd, zstd(&data)),
        ] {
            packed.extend([0x55; 300]);
            unit.fill(0);
            Unpacker::new()
                .unpack(codec, &packed, &mut unit)
                .unwrap_or_else(|e| panic!("{codec}: {e}"));
            assert_eq!(unit, data);
        }
    }

    #[test]
    fn a_stream_is_measured_and_a_wrong_guess_of_its_end_does_no_harm() {
        let data: Vec<u8> = (0..4096u32).map(|i| (i / 7) as u8).collect();
        let stream = deflated(&data);
        let mut packed = stream.clone();
        packed.extend([0x55; 300]);
        for likely in [None, Some(stream.len()), Some(stream.len() - 1), Some(0)] {
            let mut unit = vec![0; 4096];
            let len = Unpacker::new().unpack_measured(Codec::Deflate, &packed, likely, &mut unit);
            assert_eq!(
                (len, unit),
                (Some(stream.len()), data.clone()),
                "{likely:?}"
            );
        }
    }

    #[test]
    fn several_zstd_frames_make_one_unit() {
        let data = vec![9; 4096];
        let mut packed = zstd(&data[..1000]);
        packed.extend(zstd(&data[1000..]));
        let mut unit = vec![0; 4096];
        Unpacker::new()
            .unpack(Codec::Zstd, &packed, &mut unit)
            .unwrap();
        assert_eq!(unit, data);
    }

    #[test]
    fn too_little_too_much_and_damage_are_told_apart() {
        let data = vec![3; 4096];
        let mut unit = vec![0; 4096];
        let mut unpacker = Unpacker::new();
        for (codec, pack) in [
            (Codec::Deflate, deflated as fn(&[u8]) -> Vec<u8>),
            (Codec::Zstd, zstd),
        ] {
            assert_eq!(
                unpacker.unpack(codec, &pack(&data[..4095]), &mut unit),
                Err(UnpackError::TooLittle(4095))
            );
            assert_eq!(
                unpacker.unpack(codec, &pack(&vec![3; 4097]), &mut unit),
                Err(UnpackError::TooMuch)
            );
            assert!(unpacker.unpack(codec, &[0xff; 64], &mut unit).is_err());
            assert!(unpacker.unpack(codec, &[], &mut unit).is_err());
        }
    }
}
