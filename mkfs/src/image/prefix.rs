//! Long prefixes of names of extended attributes.

/// An entry of the long prefix table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LongPrefix {
    /// The short prefix it begins with; 0 for none.
    pub(crate) base: u8,
    /// What follows the short prefix.
    pub(crate) infix: Vec<u8>,
}
