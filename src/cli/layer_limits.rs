//! What the layers of strangers may cost: the options that commands share which decompress them.

use erolith_differ::decode::Budget;

/// Limits of one layer.
#[derive(Debug, clap::Args)]
pub(crate) struct LayerLimits {
    /// Most bytes that one compressed layer may expand to [default: 128 GiB].
    #[arg(long, value_name = "BYTES")]
    max_layer_bytes: Option<u64>,
    /// Most bytes that one byte of a compressed layer may expand to on average, once 16 GiB came out of it; 0 for any
    /// [default: 200]. Long runs of zeros are not counted: they become holes.
    #[arg(long, value_name = "NUMBER")]
    max_layer_ratio: Option<u64>,
}

impl LayerLimits {
    /// Puts what was asked for into the budget of a layer.
    pub(crate) fn apply(&self, budget: &mut Budget) {
        if let Some(bytes) = self.max_layer_bytes {
            budget.max_output = bytes;
        }
        if let Some(ratio) = self.max_layer_ratio {
            budget.max_ratio = Some(ratio).filter(|ratio| *ratio > 0);
        }
    }
}
