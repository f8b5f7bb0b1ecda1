//! Numbers that were planned to fit where they are written. A fault of the plan is an error, never an image that says
//! something else.

use crate::Error;

/// A number as a narrower type.
///
/// # Errors
/// [`Error::Internal`], naming `what` the number is.
pub(crate) fn exact<N, W>(value: W, what: &'static str) -> Result<N, Error>
where
    N: TryFrom<W>,
{
    N::try_from(value).map_err(|_| Error::Internal(what))
}

/// The low 32 bits of a number whose high bits are written elsewhere.
pub(crate) fn low32(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// The bits above the low 32 of a number of 48 bits.
///
/// # Errors
/// As [`exact`].
pub(crate) fn high16(value: u64, what: &'static str) -> Result<u16, Error> {
    exact(value >> 32, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_an_error_that_names_it() {
        assert_eq!(exact::<u16, u64>(65_535, "links").unwrap(), 65_535);
        let error = exact::<u16, u64>(65_536, "links").unwrap_err();
        assert!(matches!(error, Error::Internal("links")));
        assert_eq!(error.code(), "internal");
        assert_eq!(low32(0x1234_5678_9ABC_DEF0), 0x9ABC_DEF0);
        assert_eq!(high16(0xFFFF_0000_0001, "block").unwrap(), 0xFFFF);
        assert!(high16(0x1_0000_0000_0000, "block").is_err());
    }
}
