//! Progress bars, on a terminal; nothing elsewhere.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use erolith_differ::convert::{Event, Progress};
use erolith_differ::decode::OnBytes;
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

/// How often a line is drawn on which nothing may happen for long.
const TICK: Duration = Duration::from_millis(100);

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

/// In what it is counted how far something is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Count {
    /// Bytes of so many.
    BytesOf(u64),
    /// Bytes, with an unknown total.
    Bytes,
    /// Names, with an unknown total.
    Names,
    /// In nothing: the work reports nothing before its end.
    Nothing,
}

impl Count {
    fn template(self) -> &'static str {
        match self {
            Self::BytesOf(_) => BYTES,
            Self::Bytes => "{spinner} {msg} {bytes} {binary_bytes_per_sec} {elapsed}",
            Self::Names => "{spinner} {msg} {human_pos} names {elapsed}",
            Self::Nothing => "{spinner} {msg} {elapsed}",
        }
    }

    fn total(self) -> Option<u64> {
        match self {
            Self::BytesOf(total) => Some(total),
            Self::Bytes | Self::Names | Self::Nothing => None,
        }
    }
}

/// One line for work in steps, which goes away with this. What else is to be on the screen has to wait for that.
#[derive(Debug)]
pub(crate) struct Line(ProgressBar);

impl Line {
    /// A line on standard error, hidden where that is no terminal or when `quiet`.
    pub(crate) fn new(quiet: bool) -> Self {
        Self(ProgressBar::with_draw_target(None, target(quiet)))
    }

    /// From now on `what` is done.
    pub(crate) fn step(&self, what: impl Into<Cow<'static, str>>, count: Count) {
        let Self(bar) = self;
        // These are not drawn: what is drawn first is all of the new step.
        let bar =
            bar.clone().with_style(style(count.template())).with_message(what).with_position(0);
        match count.total() {
            Some(total) => bar.set_length(total),
            None => bar.unset_length(),
        }
        bar.reset();
        if !bar.is_hidden() {
            bar.enable_steady_tick(TICK);
        }
    }

    /// Does something that writes to the screen, with the line out of the way.
    pub(crate) fn hide<T>(&self, work: impl FnOnce() -> T) -> T {
        self.0.suspend(work)
    }

    /// So much of it more was done.
    pub(crate) fn advance(&self, by: u64) {
        self.0.inc(by);
    }

    /// The same for who works in other threads.
    pub(crate) fn on_bytes(&self) -> OnBytes {
        let bar = self.0.clone();
        OnBytes::new(move |bytes| bar.inc(bytes))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_counted_from_its_own_beginning() {
        let line = Line::new(true);
        line.step("reading", Count::BytesOf(10));
        line.advance(10);
        let at = |line: &Line| (line.0.message(), line.0.position(), line.0.length());
        assert_eq!(at(&line), ("reading".to_owned(), 10, Some(10)));
        line.step("writing", Count::Bytes);
        line.advance(3);
        assert_eq!(at(&line), ("writing".to_owned(), 3, None));
    }

    #[test]
    fn templates_are_well_formed() {
        for count in [Count::BytesOf(1), Count::Bytes, Count::Names, Count::Nothing] {
            assert!(ProgressStyle::with_template(count.template()).is_ok(), "{count:?}");
        }
    }
}
