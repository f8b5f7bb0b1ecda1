//! Sizes in the configuration: a number of bytes, or a text with a unit.

use serde::Deserialize;

/// A number of bytes, written as an integer or as people write sizes of memory: `10GiB`, `512m`, `1.5 TB`. Every unit
/// is a power of 1024, with or without an `i`, as in containerd's configuration (`RAMInBytes` of docker/go-units).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "SizeRepr")]
pub(crate) struct Size(pub(crate) u64);

/// The two ways to write it.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a size is a number of bytes or a text such as \"10GiB\"")]
enum SizeRepr {
    Bytes(u64),
    Text(String),
}

impl TryFrom<SizeRepr> for Size {
    type Error = String;

    fn try_from(written: SizeRepr) -> Result<Self, String> {
        match written {
            SizeRepr::Bytes(bytes) => Ok(Self(bytes)),
            SizeRepr::Text(text) => parse(&text)
                .map(Self)
                .ok_or_else(|| format!("{text:?} is not a size such as \"10GiB\" or \"512m\"")),
        }
    }
}

/// The bytes that a text means; nothing is none.
fn parse(text: &str) -> Option<u64> {
    if text.is_empty() {
        return Some(0);
    }
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let letter = unit.strip_suffix('b').unwrap_or(&unit);
    let power = match letter.strip_suffix('i').unwrap_or(letter) {
        // `ib` is no unit.
        "" if letter.is_empty() => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    // More digits than the smallest part of a unit has say nothing.
    let digits = u32::try_from(fraction.len()).ok().filter(|digits| (1..=16).contains(digits))?;
    let scale = 10u128.pow(digits);
    let parts = whole.parse::<u64>().ok()?;
    let thousandths = u128::from(fraction.parse::<u64>().ok()?);
    let value = (u128::from(parts) * scale + thousandths) * (1 << (10 * power)) / scale;
    u64::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_go_units_reads_them() {
        for (text, want) in [
            ("", Some(0)),
            ("0", Some(0)),
            ("32", Some(32)),
            ("32b", Some(32)),
            ("32B", Some(32)),
            ("32k", Some(32 << 10)),
            ("32K", Some(32 << 10)),
            ("32kb", Some(32 << 10)),
            ("32KiB", Some(32 << 10)),
            ("32Kib", Some(32 << 10)),
            ("32Mb", Some(32 << 20)),
            ("10GiB", Some(10 << 30)),
            ("10 GB", Some(10 << 30)),
            ("32Tb", Some(32 << 40)),
            ("8Pb", Some(8 << 50)),
            ("1.5g", Some(3 << 29)),
            ("0.3k", Some(307)),
            ("-1", None),
            ("+1", None),
            ("hello", None),
            ("32  kb", None),
            ("32bb", None),
            ("32ib", None),
            ("32i", None),
            ("32mm", None),
            ("32.", None),
            (".5g", None),
            ("1.2.3g", None),
            (" 32m", None),
            ("32m ", None),
            ("99999999999P", None),
        ] {
            assert_eq!(parse(text), want, "{text:?}");
        }
    }
}
