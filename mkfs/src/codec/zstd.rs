//! One Zstandard frame, by the crate `ruzstd`.

use ruzstd::decoding::StreamingDecoder;
use ruzstd::io::Read as _;

use super::{CodecError, Share};

/// Where a frame has its descriptor: behind the magic number (RFC 8878, 3.1.1.1.1).
const DESCRIPTOR_AT: usize = 4;
/// The bit of the descriptor that must be zero.
const RESERVED: u8 = 0x08;
/// The bits of the descriptor of which one is set where the frame says how large its content is.
const HAS_SIZE: u8 = 0xE0;

/// Decodes a frame that ends with `input`, or its first bytes. Its window is `window_size` bytes at most.
pub(super) fn decode(
    input: &[u8],
    out: &mut [u8],
    share: Share,
    window_size: u64,
) -> Result<(), CodecError> {
    let mut decoder = StreamingDecoder::new_with_max_window_size(input, window_size)
        .map_err(|error| CodecError::corrupt(format!("invalid Zstd frame: {error}")))?;
    // The crate reads the size of the content and the reserved bit, and judges neither.
    let descriptor = input.get(DESCRIPTOR_AT).copied().unwrap_or(RESERVED);
    let (said, wanted) = (decoder.decoder.content_size(), out.len() as u64);
    let is_other = match share {
        Share::Prefix => said < wanted,
        Share::Whole => said != wanted,
    };
    if descriptor & RESERVED != 0 || (descriptor & HAS_SIZE != 0 && is_other) {
        return Err(CodecError::corrupt("invalid Zstd frame descriptor or content size"));
    }
    decoder
        .read_exact(out)
        .map_err(|error| CodecError::corrupt(format!("invalid Zstd data: {error}")))?;
    if share == Share::Whole {
        let more = decoder
            .read(&mut [0])
            .map_err(|error| CodecError::corrupt(format!("invalid Zstd end: {error}")))?;
        if more != 0 || !decoder.get_ref().is_empty() || !decoder.decoder.is_finished() {
            return Err(CodecError::corrupt("Zstd length or stream end mismatch"));
        }
    }
    // The crate computes the checksum of what was taken out, and compares it with nothing.
    let stored = decoder.decoder.get_checksum_from_data();
    let is_all = decoder.decoder.can_collect() == 0;
    if is_all && stored.is_some() && stored != decoder.decoder.get_calculated_checksum() {
        return Err(CodecError::corrupt("Zstd checksum mismatch"));
    }
    Ok(())
}
