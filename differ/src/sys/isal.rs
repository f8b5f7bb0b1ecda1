//! Raw deflate with ISA-L.
//!
//! ISA-L's own gzip parsing is not used: when a header with several optional fields is split between two input
//! buffers it forgets which fields are still to come, and its errors carry no position.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

use isal_sys::igzip_lib as c;

/// What one call of [`Inflater::inflate`] did.
pub(crate) struct Inflated {
    /// Bytes of input taken.
    pub(crate) used: usize,
    /// Bytes of output written.
    pub(crate) made: usize,
    /// When the stream has ended: bytes that were taken but lie behind its end, and how many they are.
    pub(crate) beyond: Option<([u8; 8], usize)>,
}

/// A deflate stream being decoded, with the CRC-32 of what came out of it.
pub(crate) struct Inflater(Box<c::inflate_state>);

// SAFETY: the two pointers in the state are only set during `inflate`, which holds it exclusively.
unsafe impl Send for Inflater {}

impl std::fmt::Debug for Inflater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inflater").field("block_state", &self.0.block_state).finish()
    }
}

impl Inflater {
    pub(crate) fn new() -> Self {
        let mut state = Box::new(MaybeUninit::<c::inflate_state>::zeroed());
        // SAFETY: the pointer is to memory of the right size; the function only stores into it.
        unsafe { c::isal_inflate_init(state.as_mut_ptr()) };
        // SAFETY: every field is an integer, a raw pointer or an array of integers, for which zero is a value.
        let mut state = unsafe { state.assume_init() };
        state.crc_flag = c::ISAL_GZIP_NO_HDR;
        Self(state)
    }

    /// The whole bytes in the bit buffer of a stream that has ended.
    fn beyond(&self) -> ([u8; 8], usize) {
        let bits = u32::try_from(self.0.read_in_length).unwrap_or(0).min(64);
        let bytes = self.0.read_in.checked_shr(bits % 8).unwrap_or(0).to_le_bytes();
        (bytes, usize::try_from(bits / 8).unwrap_or(0))
    }

    /// Starts a new stream.
    pub(crate) fn reset(&mut self) {
        // SAFETY: the state was initialised by `new`.
        unsafe { c::isal_inflate_reset(&raw mut *self.0) };
    }

    /// CRC-32 of all output of this stream.
    pub(crate) fn crc(&self) -> u32 {
        self.0.crc
    }

    /// Decodes from `input` into `out` until one of them is used up or the stream ends. `None`: no deflate stream.
    pub(crate) fn inflate(&mut self, input: &[u8], out: &mut [u8]) -> Option<Inflated> {
        let avail_in = u32::try_from(input.len()).unwrap_or(u32::MAX);
        let avail_out = u32::try_from(out.len()).unwrap_or(u32::MAX);
        let state = &mut *self.0;
        // The C interface lacks a const; input is only read.
        state.next_in = input.as_ptr().cast_mut();
        state.avail_in = avail_in;
        state.next_out = out.as_mut_ptr();
        state.avail_out = avail_out;
        // SAFETY: the state is initialised; both pointers are valid for the lengths beside them during the call,
        // `out` exclusively, and they do not overlap.
        let code = unsafe { c::isal_inflate(&raw mut *state) };
        let used = avail_in.saturating_sub(state.avail_in);
        let made = avail_out.saturating_sub(state.avail_out);
        state.next_in = std::ptr::null_mut();
        state.next_out = std::ptr::null_mut();
        state.avail_in = 0;
        state.avail_out = 0;
        if code < 0 {
            return None;
        }
        let ended = state.block_state == c::isal_block_state_ISAL_BLOCK_FINISH;
        Some(Inflated {
            used: usize::try_from(used).ok()?,
            made: usize::try_from(made).ok()?,
            beyond: ended.then(|| self.beyond()),
        })
    }
}
