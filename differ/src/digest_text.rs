//! Digests in texts of others: understood, or an error with the text.

use std::str::FromStr;

use crate::error::ContentError;
use crate::{Digest, Error, Result};

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || ContentError::BadDigest { text: text.chars().take(200).collect() };
        Self::parse(text).ok_or_else(|| bad().into())
    }
}

impl TryFrom<String> for Digest {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}
