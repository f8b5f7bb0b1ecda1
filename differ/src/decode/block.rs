//! Buffers of one size that go round: filled by one stage, read by several, back to the first when the last is done.

use std::sync::mpsc::{Receiver, Sender, channel};

use crate::error::ProcessError;
use crate::{Error, Result};

/// A fixed set of buffers.
pub(super) struct Pool {
    free: Receiver<Box<[u8]>>,
    home: Sender<Box<[u8]>>,
}

impl Pool {
    /// `count` buffers of `size` bytes.
    pub(super) fn new(count: usize, size: usize) -> Self {
        let (home, free) = channel();
        for _ in 0..count {
            // The receiver is right here.
            let _ = home.send(vec![0; size].into_boxed_slice());
        }
        Self { free, home }
    }

    /// A free buffer, waiting for one if need be: this is what bounds the memory of a pipeline.
    pub(super) fn take(&self) -> Result<Block> {
        let bytes = self
            .free
            .recv()
            .map_err(|_| Error::Process(ProcessError::ThreadDied { stage: "buffer" }))?;
        Ok(Block { bytes, len: 0, home: self.home.clone() })
    }
}

/// A buffer of a [`Pool`], which it goes back to when dropped.
pub(super) struct Block {
    bytes: Box<[u8]>,
    len: usize,
    home: Sender<Box<[u8]>>,
}

impl Block {
    /// The bytes filled so far.
    pub(super) fn filled(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// The room behind them.
    pub(super) fn room(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.len..).unwrap_or_default()
    }

    /// Counts `n` bytes of the room as filled.
    pub(super) fn advance(&mut self, n: usize) {
        self.len = self.bytes.len().min(self.len.saturating_add(n));
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // The receiver is gone when the pipeline is over.
        let _ = self.home.send(std::mem::take(&mut self.bytes));
    }
}
