//! How much a blob from a stranger may cost.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Limits of decoding one blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// Most bytes a blob may expand to.
    pub max_output: u64,
    /// Most bytes of output for a byte of input, once the output is above `ratio_floor`. gzip reaches 1029 on zeros,
    /// zstd 32700, real layers stay below 20.
    pub max_ratio: u64,
    /// Output up to here may have any ratio: real layers do hold large files of zeros.
    pub ratio_floor: u64,
    /// Largest zstd window, as a power of two: the memory one frame may ask for.
    pub zstd_window_log: u32,
    /// Longest time decoding may take, the consumer's work included.
    pub max_time: Option<Duration>,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            max_output: 128 << 30,
            max_ratio: 200,
            ratio_floor: 4 << 30,
            zstd_window_log: 27,
            max_time: None,
        }
    }
}

impl Budget {
    /// Judges `expanded` bytes that came out of `compressed` bytes since `start`.
    pub(super) fn check(&self, compressed: u64, expanded: u64, start: Instant) -> Result<()> {
        if expanded > self.max_output {
            return Err(Error::OutputBudget { limit: self.max_output });
        }
        let allowed = compressed.saturating_mul(self.max_ratio).max(self.ratio_floor);
        if expanded > allowed {
            return Err(Error::RatioBudget { compressed, expanded, ratio: self.max_ratio });
        }
        match self.max_time {
            Some(limit) if start.elapsed() > limit => {
                Err(Error::TimeBudget { seconds: limit.as_secs() })
            }
            _ => Ok(()),
        }
    }
}
