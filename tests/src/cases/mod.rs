//! The catalogue of crafted archives: what a layer may look like and what must come of it.
//!
//! Every case has an id. The letter is the theme: framing (F), numbers (N), extension headers (X), paths (P), structure
//! (T), whiteouts (W), extended attributes (A), sparse files (S). An id may have several variants.
//!
//! The rule behind all verdicts: the tree that containerd's own apply makes, or a typed error, and never a third tree.
//! Where we take more or refuse more than containerd on purpose, `tests/differential.rs` lists the case and the reason.

pub(crate) mod attributes;
mod framing;
mod numbers;
mod paths;
mod pax;
mod sparse;
mod structure;
mod whiteouts;

pub use framing::extension_headers;

use crate::listing::Listing;
use crate::listing::make::{Item, listing};

/// What must come of an archive.
#[derive(Debug, Clone)]
pub enum Expect {
    /// This tree.
    Tree(Listing),
    /// A refusal with this code, and no image.
    Refused(&'static str),
}

/// One crafted archive.
#[derive(Debug, Clone)]
pub struct Case {
    /// Id of the case.
    pub id: &'static str,
    /// Which of several archives of that id, in words.
    pub variant: &'static str,
    /// The archive.
    pub archive: Vec<u8>,
    /// Whether it is the lowest layer of its image.
    pub base: bool,
    /// What must come of it.
    pub expect: Expect,
}

impl Case {
    /// An archive that must become this tree.
    fn tree(
        id: &'static str,
        variant: &'static str,
        archive: Vec<u8>,
        items: impl IntoIterator<Item = Item>,
    ) -> Self {
        let expect = Expect::Tree(listing(items));
        Self { id, variant, archive, base: false, expect }
    }

    /// An archive that must be refused.
    fn refused(
        id: &'static str,
        variant: &'static str,
        archive: Vec<u8>,
        code: &'static str,
    ) -> Self {
        Self { id, variant, archive, base: false, expect: Expect::Refused(code) }
    }

    /// The same as the lowest layer of an image.
    fn base(mut self) -> Self {
        self.base = true;
        self
    }

    /// Id and variant.
    pub fn name(&self) -> String {
        format!("{} ({})", self.id, self.variant)
    }
}

/// All cases, sections in the order of their letters, ids ascending.
pub fn all() -> Vec<Case> {
    [
        attributes::cases,
        framing::cases,
        numbers::cases,
        paths::cases,
        sparse::cases,
        structure::cases,
        whiteouts::cases,
        pax::cases,
    ]
    .iter()
    .flat_map(|section| section())
    .collect()
}

/// The variants of one id.
///
/// # Panics
/// When there is none: the id is misspelled.
pub fn of(id: &str) -> Vec<Case> {
    let found: Vec<_> = all().into_iter().filter(|case| case.id == id).collect();
    assert!(!found.is_empty(), "no case {id}");
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique() {
        let mut seen = BTreeSet::new();
        for case in all() {
            assert!(seen.insert(case.name()), "{} appears twice", case.name());
        }
    }
}
