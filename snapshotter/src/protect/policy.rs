//! What to do, from what is wanted, what is known and what was found. Nothing here asks the kernel.

use std::fmt;

use rustix::io::Errno;

use super::Digest;
use crate::sys::fs_verity::Measured;

/// Whether layers are to be protected by fs-verity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FsVerityPolicy {
    /// They are not, and nothing is compared.
    Off,
    /// Where kernel and filesystem can do that, and a layer that once had it must keep it. Where they cannot, digests are
    /// computed and kept all the same: `erolith scrub` compares them, and a damaged layer heals.
    #[default]
    IfPossible,
    /// A layer without it is not used.
    Required,
}

/// What is known of the image of a layer since it was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    /// Its fs-verity digest.
    pub digest: Digest,
    /// Whether the kernel enforced it then. Else only `erolith scrub` detects a change.
    pub is_enforced: bool,
}

impl Pin {
    /// Whether an image whose bytes have the digest `computed`, and which the kernel measures as `measured`, is this one.
    pub(crate) fn judge(
        self,
        computed: Digest,
        measured: Option<Measured>,
    ) -> Result<(), FsVerityMismatch> {
        judge(FsVerityPolicy::IfPossible, Some(self), measured)?;
        same(self.digest, Measured::Sha256(computed.bytes()))
    }
}

/// Why the image of a layer is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FsVerityMismatch {
    /// It is another file than the one that was committed. Nothing measured: it has some other algorithm.
    Changed {
        /// What it was.
        pinned: Digest,
        /// What it is.
        measured: Option<Digest>,
    },
    /// It had fs-verity once.
    Lost {
        /// What it was.
        pinned: Digest,
    },
    /// It has no fs-verity, which the configuration wants.
    Missing,
}

impl FsVerityMismatch {
    /// Whether the image is another one than it should be: then it is quarantined and rebuilt.
    pub(crate) fn is_damage(self) -> bool {
        !matches!(self, Self::Missing)
    }
}

erolith_errors::error_codes! {
    FsVerityMismatch {
        Self::Changed { .. } => "verity-mismatch", "the fs-verity digest of an image is another one";
        Self::Lost { .. } => "verity-lost", "an image lost its fs-verity";
        Self::Missing => "verity-missing", "an image without fs-verity where it is required";
    }
}

impl fmt::Display for FsVerityMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed { pinned, measured: Some(measured) } => {
                write!(f, "its fs-verity digest is {measured}, and was {pinned} when it came in")
            }
            Self::Changed { pinned, measured: None } => {
                write!(
                    f,
                    "its fs-verity digest is none of SHA-256, and was {pinned} when it came in"
                )
            }
            Self::Lost { pinned } => write!(
                f,
                "it has no fs-verity any more, and had the digest {pinned} when it came in"
            ),
            Self::Missing => f.write_str("it has no fs-verity, which the configuration requires"),
        }
    }
}

/// Whether a layer may be used that is known as `pin` and that the kernel measures as `measured`.
pub(crate) fn judge(
    verity: FsVerityPolicy,
    pin: Option<Pin>,
    measured: Option<Measured>,
) -> Result<(), FsVerityMismatch> {
    let is_required = verity == FsVerityPolicy::Required;
    match (pin, measured) {
        _ if verity == FsVerityPolicy::Off => Ok(()),
        (Some(pin), Some(measured)) => same(pin.digest, measured),
        (Some(Pin { digest: pinned, is_enforced: true }), None) => {
            Err(FsVerityMismatch::Lost { pinned })
        }
        (_, None) if is_required => Err(FsVerityMismatch::Missing),
        (Some(_), None) | (None, _) => Ok(()),
    }
}

fn same(pinned: Digest, measured: Measured) -> Result<(), FsVerityMismatch> {
    let measured = sha256(measured);
    if measured == Some(pinned) {
        Ok(())
    } else {
        Err(FsVerityMismatch::Changed { pinned, measured })
    }
}

fn sha256(measured: Measured) -> Option<Digest> {
    match measured {
        Measured::Sha256(bytes) => Some(Digest::from_bytes(bytes)),
        Measured::Other => None,
    }
}

/// What a commit does about an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Remembers this.
    Remember(Option<Pin>),
    /// Seals the image first.
    Seal,
    /// Nothing: the image is refused.
    Refuse(FsVerityMismatch),
}

/// What a commit does about an image that carries the note `noted` and is measured as `measured`. `is_shared`: its inode
/// has more names than those that are surely ours.
pub(crate) fn at_commit(
    verity: FsVerityPolicy,
    is_shared: bool,
    noted: Option<Digest>,
    measured: Option<Measured>,
) -> Step {
    let enforced = |digest| Step::Remember(Some(Pin { digest, is_enforced: true }));
    match (measured, noted) {
        _ if verity == FsVerityPolicy::Off => Step::Remember(None),
        (Some(measured), Some(noted)) => match same(noted, measured) {
            Ok(()) => enforced(noted),
            Err(fault) => Step::Refuse(fault),
        },
        // A digest of another kind is enforced too, but cannot be told by us.
        (Some(measured), None) => sha256(measured).map_or(Step::Remember(None), enforced),
        (None, _) if verity == FsVerityPolicy::Required => Step::Seal,
        // It was tried when the image was written.
        (None, Some(digest)) => Step::Remember(Some(Pin { digest, is_enforced: false })),
        // The owner of the other names decides that; reading all of it would delay every request.
        (None, None) if is_shared => Step::Remember(None),
        (None, None) => Step::Seal,
    }
}

/// The result of enabling fs-verity: whether the file is protected, or why it must not be used.
pub(super) fn enabled(verity: FsVerityPolicy, outcome: Result<(), Errno>) -> Result<bool, Errno> {
    match outcome {
        // EEXIST: it has it already.
        Ok(()) | Err(Errno::EXIST) => Ok(true),
        // Then the bytes themselves may be lost.
        Err(errno @ (Errno::IO | Errno::NOSPC | Errno::DQUOT | Errno::UCLEAN)) => Err(errno),
        Err(errno) if verity == FsVerityPolicy::Required => Err(errno),
        Err(_) => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Digest = Digest::from_bytes([1; 32]);
    const B: Digest = Digest::from_bytes([2; 32]);
    const SEEN_A: Option<Measured> = Some(Measured::Sha256([1; 32]));
    const SEEN_B: Option<Measured> = Some(Measured::Sha256([2; 32]));
    const OTHER: Option<Measured> = Some(Measured::Other);

    #[test]
    fn a_layer_is_used_when_it_is_what_it_was() {
        use FsVerityPolicy::{IfPossible, Off, Required};
        let (held, noted) = (
            Some(Pin { digest: A, is_enforced: true }),
            Some(Pin { digest: A, is_enforced: false }),
        );
        let changed = |measured| Err(FsVerityMismatch::Changed { pinned: A, measured });
        let lost = Err(FsVerityMismatch::Lost { pinned: A });
        let table = [
            (held, SEEN_A, Ok(()), Ok(())),
            (held, SEEN_B, changed(Some(B)), changed(Some(B))),
            (held, OTHER, changed(None), changed(None)),
            (held, None, lost, lost),
            (noted, SEEN_A, Ok(()), Ok(())),
            (noted, SEEN_B, changed(Some(B)), changed(Some(B))),
            (noted, None, Ok(()), Err(FsVerityMismatch::Missing)),
            (None, SEEN_B, Ok(()), Ok(())),
            (None, OTHER, Ok(()), Ok(())),
            (None, None, Ok(()), Err(FsVerityMismatch::Missing)),
        ];
        for (pin, seen, if_possible, required) in table {
            assert_eq!(judge(IfPossible, pin, seen), if_possible, "{pin:?} {seen:?}");
            assert_eq!(judge(Required, pin, seen), required, "{pin:?} {seen:?}");
            assert_eq!(judge(Off, pin, seen), Ok(()), "{pin:?} {seen:?}");
        }
        let held = held.unwrap();
        assert_eq!(held.judge(A, SEEN_A), Ok(()));
        assert_eq!(held.judge(B, SEEN_A), changed(Some(B)));
        assert_eq!(held.judge(A, None), lost);
        assert_eq!(noted.unwrap().judge(A, None), Ok(()));
        assert_eq!(noted.unwrap().judge(B, None), changed(Some(B)));
        for fault in [changed(Some(B)), changed(None), lost] {
            let fault = fault.unwrap_err();
            assert!(fault.is_damage() && fault.to_string().contains(&A.to_string()), "{fault}");
        }
        assert!(!FsVerityMismatch::Missing.is_damage());
    }

    #[test]
    fn a_commit_remembers_what_the_kernel_says_or_was_noted() {
        use FsVerityPolicy::{IfPossible, Off, Required};
        let pin = |digest, is_enforced| Step::Remember(Some(Pin { digest, is_enforced }));
        let refuse =
            |pinned, measured| Step::Refuse(FsVerityMismatch::Changed { pinned, measured });
        let nothing = Step::Remember(None);
        let table = [
            (IfPossible, false, Some(A), SEEN_A, pin(A, true)),
            (IfPossible, true, None, SEEN_A, pin(A, true)),
            (IfPossible, false, Some(A), SEEN_B, refuse(A, Some(B))),
            (IfPossible, false, Some(A), OTHER, refuse(A, None)),
            (IfPossible, false, None, OTHER, nothing),
            (IfPossible, true, Some(A), None, pin(A, false)),
            (IfPossible, true, None, None, nothing),
            (IfPossible, false, None, None, Step::Seal),
            (Required, false, Some(A), None, Step::Seal),
            (Required, true, None, None, Step::Seal),
            (Required, true, Some(A), SEEN_A, pin(A, true)),
            (Off, false, Some(A), SEEN_B, nothing),
            (Off, false, None, None, nothing),
        ];
        for (verity, is_shared, noted, seen, want) in table {
            let got = at_commit(verity, is_shared, noted, seen);
            assert_eq!(got, want, "{verity:?} {is_shared} {noted:?} {seen:?}");
        }
    }

    #[test]
    fn what_cannot_be_enabled_matters_where_it_is_required_or_storage_fails() {
        use FsVerityPolicy::{IfPossible, Required};
        for errno in [Errno::OPNOTSUPP, Errno::NOTTY, Errno::TXTBSY, Errno::PERM, Errno::INVAL] {
            assert_eq!(enabled(IfPossible, Err(errno)), Ok(false));
            assert_eq!(enabled(Required, Err(errno)), Err(errno));
        }
        for verity in [IfPossible, Required] {
            assert_eq!(enabled(verity, Ok(())), Ok(true));
            assert_eq!(enabled(verity, Err(Errno::EXIST)), Ok(true));
            for errno in [Errno::IO, Errno::NOSPC, Errno::DQUOT] {
                assert_eq!(enabled(verity, Err(errno)), Err(errno));
            }
        }
    }
}
