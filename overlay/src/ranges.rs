//! Maps of ids as containerd's labels and its clients write them.

use std::str::FromStr;

/// Ranges that the kernel takes (`UID_GID_MAP_MAX_EXTENTS`).
const MAX_RANGES: usize = 340;

/// Consecutive ids: those from `container` on are those from `host` on outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first inside.
    pub container: u32,
    /// The first outside.
    pub host: u32,
    /// How many.
    pub len: u32,
}

/// What keeps text from being a range, or ranges from being a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadMap(pub &'static str);

impl FromStr for Range {
    type Err = BadMap;

    /// `container:host:length`.
    fn from_str(text: &str) -> Result<Self, BadMap> {
        let form = BadMap("not of the form container:host:length in 32 bits");
        let mut fields = text.split(':').map(number);
        let mut next = || fields.next().flatten().ok_or(form);
        let (container, host, len) = (next()?, next()?, next()?);
        // The last id, 2^32 - 1, means "none".
        let fits = |first: u32| first.checked_add(len).is_some();
        match () {
            () if fields.next().is_some() || !fits(container) || !fits(host) => Err(form),
            () if len == 0 => Err(BadMap("a range of no ids")),
            () => Ok(Self { container, host, len }),
        }
    }
}

impl Range {
    /// Checks that these ranges make a map.
    ///
    /// # Errors
    /// [`BadMap`] for more than the kernel takes, and for an id that is in two of them, inside or outside.
    pub fn check_map(ranges: &[Self]) -> Result<(), BadMap> {
        if ranges.len() > MAX_RANGES {
            return Err(BadMap("more than 340 ranges"));
        }
        if overlap(ranges.iter().map(|r| (r.container, r.len)))
            || overlap(ranges.iter().map(|r| (r.host, r.len)))
        {
            return Err(BadMap("ranges overlap"));
        }
        Ok(())
    }
}

/// Decimal digits and nothing else: `str::parse` would take a sign.
fn number(text: &str) -> Option<u32> {
    let is_plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    is_plain.then(|| text.parse().ok()).flatten()
}

fn overlap(ranges: impl Iterator<Item = (u32, u32)>) -> bool {
    let mut sorted: Vec<_> = ranges.collect();
    sorted.sort_unstable();
    sorted.windows(2).any(|pair| matches!(pair, [(a, len), (b, _)] if b - a < *len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_three_numbers() {
        let range = |container, host, len| Ok(Range { container, host, len });
        assert_eq!("0:100000:65536".parse(), range(0, 100_000, 65_536));
        assert_eq!("10:4294967290:5".parse(), range(10, 4_294_967_290, 5));
        assert_eq!("0:1:0".parse::<Range>(), Err(BadMap("a range of no ids")));
        for text in [
            "",
            "0",
            "0:1",
            "0:1:",
            "0:1:2:3",
            "+0:1:1",
            "-1:0:1",
            "0: 1:1",
            "0:0:1 ",
            "a:b:c",
            "0:0:4294967296",
            "0:4294967295:1",
            "4294967295:0:1",
            "2:0:4294967294",
        ] {
            let error = text.parse::<Range>().unwrap_err().to_string();
            assert!(error.contains("container:host:length"), "{text}: {error}");
        }
    }

    #[test]
    fn no_id_is_in_two_ranges() {
        let map = |texts: &[&str]| {
            let ranges: Vec<Range> = texts.iter().map(|text| text.parse().unwrap()).collect();
            Range::check_map(&ranges)
        };
        assert_eq!(map(&[]), Ok(()));
        assert_eq!(map(&["10:0:10", "0:10:10"]), Ok(()));
        for texts in [["0:0:10", "5:100:1"], ["0:0:10", "20:9:1"], ["0:0:1", "0:0:1"]] {
            assert_eq!(map(&texts), Err(BadMap("ranges overlap")), "{texts:?}");
        }
        let many: Vec<_> = (0..341).map(|id| Range { container: id, host: id, len: 1 }).collect();
        assert_eq!(Range::check_map(many.get(1..).unwrap()), Ok(()));
        assert_eq!(Range::check_map(&many), Err(BadMap("more than 340 ranges")));
    }
}
