//! What this kernel and the filesystem of a directory can do, found by trying.
//!
//! Nothing is concluded from a version number: distributions carry features back and leave others out; but for one
//! defect that no attempt shows ([`directio`]). Each
//! attempt uses files without a name, mounts that are attached nowhere and loop devices that clear themselves,
//! so nothing is left behind, also when the process is killed in between; but for the directory `.erolith-probe-*` that an
//! overlay needs to be written through.

pub(crate) mod directio;
mod feature;
mod images;
mod limits;
mod overlay;
mod probe;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use feature::{ALL, Feature};
pub(crate) use limits::{project_quota, sized_image};
pub(crate) use overlay::overlay_route;

use crate::Result;

/// What to do where nothing could be tried.
const RIGHTS: &str = "run as root: mounting needs CAP_SYS_ADMIN";

/// The outcome of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It worked.
    Present,
    /// The kernel refused.
    Missing,
    /// We had no right to try.
    Denied,
    /// What it builds upon is not there, or it was not tried.
    Untried,
}

/// What an attempt found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The outcome.
    pub state: State,
    /// What was done and, when it failed, what the kernel answered.
    pub evidence: String,
}

/// A finding in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The feature.
    pub feature: Feature,
    /// The outcome.
    pub state: State,
    /// What was done, and what the kernel answered.
    pub evidence: String,
    /// What to do about it, when something can be done.
    pub advice: Option<&'static str>,
}

/// Where something was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeDir {
    /// Release of the kernel, only to be shown.
    pub release: String,
    /// The directory.
    pub dir: PathBuf,
    /// Type of its filesystem.
    pub fs_type: String,
}

/// What a kernel and a directory can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelCaps {
    place: ProbeDir,
    findings: BTreeMap<Feature, Finding>,
}

impl KernelCaps {
    /// Tries everything, with images and files in `dir`.
    ///
    /// # Errors
    /// [`crate::KernelError::Call`] when `dir` cannot be opened. What the attempts give is not an error.
    pub fn probe(dir: &Path) -> Result<Self> {
        probe::probe(dir)
    }

    /// Capabilities as values, for plans and tests. A feature that is not named was not tried.
    #[must_use]
    pub fn from_parts(
        place: ProbeDir,
        findings: impl IntoIterator<Item = (Feature, Finding)>,
    ) -> Self {
        Self { place, findings: findings.into_iter().collect() }
    }

    /// Where this was found.
    #[must_use]
    pub fn place(&self) -> &ProbeDir {
        &self.place
    }

    /// Whether an attempt at `feature` worked.
    #[must_use]
    pub fn has(&self, feature: Feature) -> bool {
        self.findings.get(&feature).is_some_and(|finding| finding.state == State::Present)
    }

    /// Whether images can be mounted at all: everything required is there, and a way to get at an image.
    #[must_use]
    pub fn can_mount(&self) -> bool {
        let required = ALL.iter().filter(|feature| feature.is_required());
        let way = self.has(Feature::FileBacked) || self.has(Feature::Loop);
        way && required.into_iter().all(|&feature| self.has(feature))
    }

    /// Every feature with its evidence, and with advice where it is missing.
    #[must_use]
    pub fn explain(&self) -> Vec<Explanation> {
        let explain = |&feature: &Feature| {
            let (state, evidence) = match self.findings.get(&feature) {
                Some(finding) => (finding.state, finding.evidence.clone()),
                None => (State::Untried, "not tried".to_owned()),
            };
            let advice = match state {
                State::Missing => Some(feature.advice()),
                State::Denied => Some(RIGHTS),
                State::Present | State::Untried => None,
            };
            Explanation { feature, state, evidence, advice }
        };
        ALL.iter().map(explain).collect()
    }
}

/// The type of the filesystem that `dir` is on, as the mount table has it; `unknown` where that cannot be told.
#[must_use]
pub fn fs_type(dir: &Path) -> String {
    let opened = crate::files::open_dir(dir);
    opened.map_or_else(|_| "unknown".to_owned(), |dir| probe::fs_type(&dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caps(present: &[Feature]) -> KernelCaps {
        let place = ProbeDir {
            release: "6.1".to_owned(),
            dir: PathBuf::from("/x"),
            fs_type: "ext4".to_owned(),
        };
        let found =
            |&f: &Feature| (f, Finding { state: State::Present, evidence: "worked".into() });
        KernelCaps::from_parts(place, present.iter().map(found))
    }

    #[test]
    fn mounting_needs_erofs_overlay_and_one_way_to_the_image() {
        use Feature as F;
        let base = [F::Erofs, F::Overlay, F::Block(12)];
        let with = |more: &[F]| caps(&[&base[..], more].concat());
        assert!(!with(&[]).can_mount());
        assert!(with(&[F::Loop]).can_mount());
        assert!(with(&[F::FileBacked]).can_mount());
        assert!(!caps(&[F::Erofs, F::Loop]).can_mount());
    }

    #[test]
    fn what_is_missing_or_denied_comes_with_advice() {
        let mut caps = caps(&[Feature::Erofs]);
        for (feature, state) in [(Feature::Lz4, State::Missing), (Feature::Loop, State::Denied)] {
            caps.findings.insert(feature, Finding { state, evidence: "EPERM".to_owned() });
        }
        let explained = caps.explain();
        assert_eq!(explained.len(), ALL.len());
        for row in explained {
            let advice = match row.feature {
                Feature::Lz4 => Some(Feature::Lz4.advice()),
                Feature::Loop => Some(RIGHTS),
                _ => None,
            };
            assert_eq!(row.advice, advice, "{}", row.feature.name());
            assert_eq!(row.state == State::Untried, row.evidence == "not tried");
        }
    }
}
