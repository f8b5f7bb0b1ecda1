//! Raw deflate, by the crate `miniz_oxide`.

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

use super::{CodecError, Share};

/// Decodes a stream that ends with `input`, or its first bytes.
pub(super) fn decode(input: &[u8], out: &mut [u8], share: Share) -> Result<(), CodecError> {
    let flags = TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    let mut state = Box::new(DecompressorOxide::new());
    let (status, consumed, written) = decompress(&mut state, input, out, 0, flags);
    let ends = match share {
        Share::Prefix => matches!(status, TINFLStatus::Done | TINFLStatus::HasMoreOutput),
        Share::Whole => status == TINFLStatus::Done && consumed == input.len(),
    };
    if written != out.len() || !ends {
        return Err(CodecError::corrupt("DEFLATE length or stream end mismatch"));
    }
    Ok(())
}
