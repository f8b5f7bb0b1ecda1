//! Raw deflate behind one interface, so that gzip framing is written once.

use flate2::{Crc, Decompress, FlushDecompress, Status};

/// What one call of [`RawInflate::inflate`] did.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InflateProgress {
    /// Bytes of input taken.
    pub(crate) used: usize,
    /// Bytes of output written.
    pub(crate) made: usize,
    /// When the stream has ended: bytes that were taken but lie behind its end.
    pub(crate) end: Option<StreamEnd>,
}

/// Up to eight bytes that a decoder took from its input and did not need: a gzip trailer at most.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct StreamEnd {
    /// The bytes.
    pub(crate) bytes: [u8; 8],
    /// How many of them.
    pub(crate) len: usize,
}

/// A decoder of one raw deflate stream (RFC 1951) after another.
pub(crate) trait RawInflate: Send {
    /// Decodes from `input` into `out` until one of them is used up or the stream ends. `None`: no deflate stream.
    fn inflate(&mut self, input: &[u8], out: &mut [u8]) -> Option<InflateProgress>;

    /// CRC-32 of all output of this stream.
    fn crc(&self) -> u32;

    /// Starts a new stream.
    fn reset(&mut self);
}

/// The inflater that is always there.
#[derive(Debug)]
pub(crate) struct ZlibRs {
    stream: Decompress,
    crc: Crc,
}

impl ZlibRs {
    pub(crate) fn new() -> Self {
        Self { stream: Decompress::new(false), crc: Crc::new() }
    }
}

impl RawInflate for ZlibRs {
    fn inflate(&mut self, input: &[u8], out: &mut [u8]) -> Option<InflateProgress> {
        let (before_in, before_out) = (self.stream.total_in(), self.stream.total_out());
        let status = self.stream.decompress(input, out, FlushDecompress::None).ok()?;
        let used = usize::try_from(self.stream.total_in().checked_sub(before_in)?).ok()?;
        let made = usize::try_from(self.stream.total_out().checked_sub(before_out)?).ok()?;
        self.crc.update(out.get(..made)?);
        let end = (status == Status::StreamEnd).then(StreamEnd::default);
        Some(InflateProgress { used, made, end })
    }

    fn crc(&self) -> u32 {
        self.crc.sum()
    }

    fn reset(&mut self) {
        self.stream.reset(false);
        self.crc.reset();
    }
}

#[cfg(all(feature = "isal", target_arch = "x86_64"))]
impl RawInflate for crate::sys::isal::Inflater {
    fn inflate(&mut self, input: &[u8], out: &mut [u8]) -> Option<InflateProgress> {
        let crate::sys::isal::Inflated { used, made, beyond } = Self::inflate(self, input, out)?;
        let end = beyond.map(|(bytes, len)| StreamEnd { bytes, len });
        Some(InflateProgress { used, made, end })
    }

    fn crc(&self) -> u32 {
        Self::crc(self)
    }

    fn reset(&mut self) {
        Self::reset(self);
    }
}

/// The fastest inflater there is here.
pub(crate) fn fastest() -> Box<dyn RawInflate> {
    #[cfg(all(feature = "isal", target_arch = "x86_64"))]
    if has_vectors() {
        return Box::new(crate::sys::isal::Inflater::new());
    }
    Box::new(ZlibRs::new())
}

/// Whether this processor has the instructions that ISA-L's gain comes from; without them zlib-rs is as good.
#[cfg(all(feature = "isal", target_arch = "x86_64"))]
fn has_vectors() -> bool {
    is_x86_feature_detected!("sse4.2") && is_x86_feature_detected!("pclmulqdq")
}

/// There is no ISA-L in this build.
#[cfg(not(all(feature = "isal", target_arch = "x86_64")))]
fn has_vectors() -> bool {
    false
}

/// The library that inflates gzip in this build on this processor, with the reason where it is not the fastest.
pub fn inflater() -> &'static str {
    if cfg!(not(target_arch = "x86_64")) {
        "zlib-rs"
    } else if cfg!(not(feature = "isal")) {
        "zlib-rs (built without the feature isal)"
    } else if has_vectors() {
        "ISA-L"
    } else {
        "zlib-rs (ISA-L needs SSE 4.2 and PCLMULQDQ)"
    }
}
