//! zstd (RFC 8878): any number of frames, skippable ones among them, nothing else.

use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

use super::{CompressedFormat, DecodeStep, Decoder, Defect};
use crate::error::LayerError;
use crate::{Error, Result};

/// Numbers of `enum ZSTD_ErrorCode` (zstd_errors.h), which libzstd promises to keep.
mod number {
    pub(super) const PREFIX_UNKNOWN: usize = 10;
    pub(super) const WINDOW_TOO_LARGE: usize = 16;
    pub(super) const CHECKSUM_WRONG: usize = 22;
    pub(super) const DICTIONARY_WRONG: usize = 32;
}

/// A zstd decoder.
pub(crate) struct Zstd {
    context: DCtx<'static>,
    window_log: u32,
    /// Bytes of the blob used.
    offset: u64,
    /// Where the frame in work begins; `None` between frames.
    frame: Option<u64>,
    /// Complete frames.
    frames: u64,
}

impl Zstd {
    /// Refuses frames that need a window of more than `2^window_log` bytes.
    pub(crate) fn new(window_log: u32) -> Result<Self> {
        let mut context = DCtx::try_create().ok_or_else(out_of_memory)?;
        context.set_parameter(DParameter::WindowLogMax(window_log)).map_err(|_| out_of_memory())?;
        Ok(Self { context, window_log, offset: 0, frame: None, frames: 0 })
    }

    fn defect(&self, code: usize) -> Defect {
        match 0usize.wrapping_sub(code) {
            number::PREFIX_UNKNOWN if self.frames > 0 => Defect::TrailingGarbage,
            number::PREFIX_UNKNOWN => Defect::BadMagic,
            number::WINDOW_TOO_LARGE => Defect::WindowTooLarge { allowed_log: self.window_log },
            number::CHECKSUM_WRONG => Defect::BadChecksum,
            number::DICTIONARY_WRONG => Defect::NeedsDictionary,
            _ => Defect::BadData,
        }
    }
}

fn out_of_memory() -> Error {
    Error::Io { action: "zstd context".to_owned(), source: std::io::ErrorKind::OutOfMemory.into() }
}

impl Decoder for Zstd {
    fn step(&mut self, input: &[u8], out: &mut [u8]) -> Result<DecodeStep> {
        let mut total = DecodeStep::default();
        loop {
            let rest = input.get(total.used..).unwrap_or_default();
            if rest.is_empty() && self.frame.is_none() {
                return Ok(total);
            }
            let room = out.get_mut(total.made..).unwrap_or_default();
            let start = *self.frame.get_or_insert(self.offset);
            let mut source = InBuffer::around(rest);
            let mut sink = OutBuffer::around(room);
            let hint = self.context.decompress_stream(&mut sink, &mut source);
            let hint = hint.map_err(|code| {
                Error::Layer(LayerError::Corrupt {
                    format: CompressedFormat::Zstd,
                    offset: start,
                    defect: self.defect(code),
                })
            })?;
            let (used, made) = (source.pos(), sink.pos());
            self.offset += used as u64;
            total.used += used;
            total.made += made;
            if hint == 0 {
                self.frame = None;
                self.frames += 1;
            }
            if total.made == out.len() || (hint != 0 && used == 0 && made == 0) {
                return Ok(total);
            }
        }
    }

    fn end(&mut self) -> Result<()> {
        if self.frame.is_none() && self.frames > 0 {
            return Ok(());
        }
        Err(Error::Layer(LayerError::Corrupt {
            format: CompressedFormat::Zstd,
            offset: self.offset,
            defect: Defect::Truncated,
        }))
    }
}
