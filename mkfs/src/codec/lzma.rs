//! MicroLZMA, by the crate `lzma-rs`: a raw stream of LZMA whose first byte, which is always zero, is the complement of the
//! properties instead.

use std::io::{self, Read as _, Write};

use lzma_rs::decompress::raw::{LzmaDecoder, LzmaParams, LzmaProperties};

use super::{CodecError, Share};

/// Properties are one number: `(pb * 5 + lp) * 9 + lc`.
const LC: u32 = 9;
const LP: u32 = 5;
/// Properties beyond this have no meaning.
const PROPERTIES: u32 = 225;
/// Most that `lc` and `lp` may be together in MicroLZMA.
const LC_LP_MAX: u32 = 4;

/// Decodes a stream that ends with `input`, or its first bytes.
pub(super) fn decode(
    input: &[u8],
    out: &mut [u8],
    share: Share,
    dict_size: u32,
) -> Result<(), CodecError> {
    let (first, rest) =
        input.split_first().ok_or_else(|| CodecError::corrupt("empty compressed cluster"))?;
    // The crate cannot stop within a match, but it hands its dictionary on whenever that is full: one as large as what is
    // wanted ends where that ends. It is no larger than an extent.
    let dict_size = match share {
        Share::Whole => dict_size,
        Share::Prefix => u32::try_from(out.len()).unwrap_or(u32::MAX),
    };
    let params = LzmaParams::new(properties(*first)?, dict_size, Some(out.len() as u64));
    let limit = usize::try_from(dict_size).unwrap_or(usize::MAX);
    let mut decoder = LzmaDecoder::new(params, Some(limit))
        .map_err(|error| CodecError::corrupt(format!("invalid MicroLZMA parameters: {error}")))?;
    let mut stream = [0_u8].as_slice().chain(rest);
    match share {
        Share::Prefix => {
            let mut sink = PrefixSink(out);
            let result = decoder.decompress(&mut stream, &mut sink);
            if sink.0.is_empty() {
                return Ok(());
            }
            Err(CodecError::corrupt(format!("incomplete MicroLZMA prefix: {result:?}")))
        }
        Share::Whole => {
            let mut left = out;
            decoder
                .decompress(&mut stream, &mut left)
                .map_err(|error| CodecError::corrupt(format!("invalid MicroLZMA data: {error}")))?;
            if !left.is_empty() || !stream.get_ref().1.is_empty() {
                return Err(CodecError::corrupt("MicroLZMA length or stream end mismatch"));
            }
            Ok(())
        }
    }
}

fn properties(complement: u8) -> Result<LzmaProperties, CodecError> {
    let number = u32::from(!complement);
    let (lc, lp, pb) = (number % LC, number / LC % LP, number / LC / LP);
    if number >= PROPERTIES || lc.saturating_add(lp) > LC_LP_MAX {
        return Err(CodecError::corrupt("invalid MicroLZMA properties"));
    }
    Ok(LzmaProperties { lc, lp, pb })
}

/// Takes what fits, and fails once it is full, which ends the decoding.
struct PrefixSink<'a>(&'a mut [u8]);

impl Write for PrefixSink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = Write::write(&mut self.0, bytes)?;
        if self.0.is_empty() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
