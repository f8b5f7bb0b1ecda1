//! Sets of byte ranges on several devices.

use std::collections::BTreeMap;

/// Ranges of bytes, merged, in whichever order they were added.
#[derive(Debug, Default)]
pub(crate) struct Ranges {
    /// The end of a range by its device and start. No two of them touch.
    ends: BTreeMap<(u16, u64), u64>,
}

impl Ranges {
    /// Adds `len` bytes from `start`, and returns the ranges among them that were not in the set, in order.
    pub(crate) fn insert(&mut self, device: u16, start: u64, len: u64) -> Vec<(u64, u64)> {
        let end = start.saturating_add(len);
        if start == end {
            return Vec::new();
        }
        let mut news = Vec::new();
        let (mut from, mut whole) = (start, (start, end));
        // The last range that begins before us may reach into us; the others begin inside.
        let before = self.ends.range(..(device, start)).next_back();
        let before = before.filter(|((d, _), e)| *d == device && **e >= start).map(|(k, _)| k.1);
        let first = before.unwrap_or(start);
        let met: Vec<(u64, u64)> =
            self.ends.range((device, first)..=(device, end)).map(|(k, e)| (k.1, *e)).collect();
        for (a, b) in met {
            if from < a {
                news.push((from, a));
            }
            from = from.max(b);
            whole = (whole.0.min(a), whole.1.max(b));
            self.ends.remove(&(device, a));
        }
        if from < end {
            news.push((from, end));
        }
        self.ends.insert((device, whole.0), whole.1);
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_is_returned() {
        let mut ranges = Ranges::default();
        let mut add = |device, start, end: u64| ranges.insert(device, start, end - start);
        assert_eq!(add(0, 10, 20), [(10, 20)]);
        assert_eq!(add(0, 30, 40), [(30, 40)]);
        assert_eq!(add(1, 10, 20), [(10, 20)], "another device");
        assert_eq!(add(0, 12, 18), [], "inside");
        assert_eq!(add(0, 5, 35), [(5, 10), (20, 30)], "across both");
        assert_eq!(add(0, 40, 50), [(40, 50)], "touching");
        assert_eq!(add(0, 0, 60), [(0, 5), (50, 60)]);
        assert_eq!(add(0, 7, 7), []);
        assert_eq!(add(1, 0, 30), [(0, 10), (20, 30)]);
    }
}
