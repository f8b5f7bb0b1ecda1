//! Progress bars, on a terminal; nothing elsewhere.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use erolith_differ::convert::{Event, Progress};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// One bar for all bytes and one for each layer at work.
#[derive(Debug)]
pub(crate) struct Bars {
    screen: MultiProgress,
    total: ProgressBar,
    layers: Mutex<BTreeMap<usize, ProgressBar>>,
}

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template);
    style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

/// What shows how far work on many bytes is.
const BYTES: &str = "{msg:14} [{bar:40}] {bytes}/{total_bytes} {binary_bytes_per_sec} eta {eta}";

fn target(quiet: bool) -> ProgressDrawTarget {
    if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() }
}

/// One bar for the bytes of all layers.
pub(crate) fn bytes(quiet: bool, total: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), target(quiet));
    bar.set_style(style(BYTES));
    bar.set_message("all layers");
    bar
}

impl Bars {
    /// Bars on standard error, hidden where that is no terminal or when `quiet`.
    pub(crate) fn new(quiet: bool) -> Self {
        let screen = MultiProgress::with_draw_target(target(quiet));
        let total = screen.add(ProgressBar::new(0));
        total.set_style(style(BYTES));
        total.set_message("all layers");
        Self { screen, total, layers: Mutex::default() }
    }

    /// Takes all bars away.
    pub(crate) fn clear(&self) {
        // A bar that cannot be erased does no harm.
        let _ = self.screen.clear();
    }

    fn with_layer(&self, layer: usize, change: impl FnOnce(&ProgressBar)) {
        let layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = layers.get(&layer) {
            change(bar);
        }
    }
}

impl Progress for Bars {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Planned { bytes, .. } => self.total.set_length(bytes),
            Event::Started { layer, diff_id, bytes } => {
                let bar = self.screen.add(ProgressBar::new(bytes));
                bar.set_style(style("{prefix:14} [{bar:40}] {bytes}/{total_bytes} {msg}"));
                bar.set_prefix(diff_id.hex().chars().take(12).collect::<String>());
                let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
                layers.insert(layer, bar);
            }
            Event::Read { layer, bytes } => {
                self.total.inc(bytes);
                self.with_layer(layer, |bar| bar.inc(bytes));
            }
            Event::Sealing { layer } => self.with_layer(layer, |bar| bar.set_message("sealing")),
            Event::Done { layer, .. } => {
                self.with_layer(layer, ProgressBar::finish_and_clear);
            }
        }
    }
}
