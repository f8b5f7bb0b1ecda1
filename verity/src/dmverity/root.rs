//! The root hash.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::geometry::DIGEST;

/// The root hash of a tree: SHA-256, written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RootHash(pub [u8; DIGEST]);

impl RootHash {
    /// The UUID of a tree of this root: the first bits of the hash as a UUID of version 8 (RFC 9562, 5.8), so that the
    /// same image has the same tree.
    #[must_use]
    pub fn uuid(&self) -> [u8; 16] {
        let mut uuid = [0; 16];
        for (to, from) in uuid.iter_mut().zip(self.0) {
            *to = from;
        }
        uuid[6] = uuid[6] & 0x0F | 0x80;
        uuid[8] = uuid[8] & 0x3F | 0x80;
        uuid
    }
}

impl fmt::Display for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Digits of either case, with `sha256:` before them or not: tools print the digits, annotations have both.
impl FromStr for RootHash {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::BadRoot { text: text.chars().take(100).collect() };
        let digits = text.strip_prefix("sha256:").unwrap_or(text).as_bytes();
        if digits.len() != 2 * DIGEST {
            return Err(bad());
        }
        let mut hash = [0; DIGEST];
        for (to, pair) in hash.iter_mut().zip(digits.chunks(2)) {
            for digit in pair {
                let value = char::from(*digit).to_digit(16).ok_or_else(bad)?;
                *to = *to << 4 | u8::try_from(value).unwrap_or_default();
            }
        }
        Ok(Self(hash))
    }
}
