//! How much a blob from a stranger may cost.

use std::time::{Duration, Instant};

use erolith_mkfs::io::is_zero;
use serde::{Deserialize, Serialize};

use crate::error::BudgetError;
use crate::{Error, Result};

/// Limits of decoding one blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// Most bytes a blob may expand to.
    pub max_output: u64,
    /// Most bytes of output for a byte of input, once the output is above `ratio_floor`; `None` for any. gzip reaches 1029
    /// on zeros, zstd 32700, real layers stay below 20, zeros aside. Long runs of zeros are not counted: they become
    /// holes, which take no room.
    pub max_ratio: Option<u64>,
    /// Output up to here may have any ratio, in bytes.
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
            max_ratio: Some(200),
            ratio_floor: 16 << 30,
            zstd_window_log: 27,
            max_time: None,
        }
    }
}

impl Budget {
    /// Judges `expanded` bytes, `zeros` of them in long runs, that came out of `compressed` bytes since `start`.
    pub(super) fn check(
        &self,
        compressed: u64,
        expanded: u64,
        zeros: u64,
        start: Instant,
    ) -> Result<()> {
        if expanded > self.max_output {
            return Err(Error::Budget(BudgetError::Output { limit: self.max_output }));
        }
        if let Some(ratio) = self.max_ratio {
            let expanded = expanded.saturating_sub(zeros);
            if expanded > compressed.saturating_mul(ratio).max(self.ratio_floor) {
                return Err(Error::Budget(BudgetError::Ratio { compressed, expanded, ratio }));
            }
        }
        match self.max_time {
            Some(limit) if start.elapsed() > limit => {
                Err(Error::Budget(BudgetError::Time { seconds: limit.as_secs() }))
            }
            _ => Ok(()),
        }
    }
}

/// Counts the zeros of a stream that take no room in an image.
///
/// A run of zeros in a file becomes a hole, but for what it shares a chunk of 128 KiB with at its two ends; so the first
/// [`Zeros::ENDS`] bytes of each run count as any others. Between two files is a header, which ends a run.
#[derive(Debug, Default)]
pub(super) struct Zeros {
    /// Bytes of the run that is not over yet.
    run: u64,
    free: u64,
}

impl Zeros {
    /// Bytes of a run that may not become a hole: two chunks.
    const ENDS: u64 = 256 << 10;

    /// Looks at the next bytes of the stream. Only a block that is all zeros adds to a run.
    pub(super) fn see(&mut self, block: &[u8]) {
        if !is_zero(block) {
            self.run = 0;
            return;
        }
        let before = self.run.saturating_sub(Self::ENDS);
        self.run = self.run.saturating_add(block.len() as u64);
        let now = self.run.saturating_sub(Self::ENDS);
        self.free = self.free.saturating_add(now.saturating_sub(before));
    }

    /// Bytes that take no room.
    pub(super) fn free(&self) -> u64 {
        self.free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1 << 10;

    #[test]
    fn only_long_runs_of_zeros_are_free() {
        let zeros = vec![0; 256 * KIB];
        let mut data = zeros.clone();
        data[77] = 1;
        // Blocks of zeros (0) and others (1), and the zeros that are free in the end, in KiB.
        for (blocks, free) in
            [("", 0), ("0", 0), ("00", 256), ("000", 512), ("0101", 0), ("001001", 512), ("111", 0)]
        {
            let mut seen = Zeros::default();
            for block in blocks.bytes() {
                seen.see(if block == b'0' { &zeros } else { &data });
            }
            assert_eq!(seen.free(), free << 10, "{blocks}");
        }
    }

    #[test]
    fn the_ratio_is_that_of_what_takes_room() {
        let check = |max_ratio, compressed, expanded, zeros| {
            let budget =
                Budget { max_ratio, ratio_floor: 1000, max_output: 1 << 20, ..Budget::default() };
            budget.check(compressed, expanded, zeros, Instant::now()).map_err(crate::testing::code)
        };
        for (max_ratio, compressed, expanded, zeros, result) in [
            (Some(200), 1, 1000, 0, Ok(())),
            (Some(200), 1, 1001, 0, Err("budget-ratio")),
            (Some(200), 1, 100_000, 99_000, Ok(())),
            (Some(200), 1, 100_000, 98_999, Err("budget-ratio")),
            (Some(200), 10, 2000, 0, Ok(())),
            (Some(200), 10, 2001, 0, Err("budget-ratio")),
            (Some(u64::MAX), 10, 1 << 20, 0, Ok(())),
            (None, 1, 1 << 20, 0, Ok(())),
            (None, 1, (1 << 20) + 1, 1 << 20, Err("budget-output")),
        ] {
            let got = check(max_ratio, compressed, expanded, zeros);
            assert_eq!(got, result, "{max_ratio:?} {compressed} {expanded} {zeros}");
        }
    }
}
