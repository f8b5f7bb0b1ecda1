//! What is done to the image of a layer before it gets its name, so that every change of it is detected; and what is
//! compared before it is used.
//!
//! - [`Digest`]: the fs-verity digest of a file, computed from its bytes.
//! - `judge`: every decision, as functions of what is wanted, what is known and what was found.
//! - `seal`: the kernel's part: enabling fs-verity, measuring, and the note on the file.
//! - `immutable`: the flag that keeps even root from writing by accident.
//!
//! A digest of our own goes along with an image: on the file as `trusted.erolith.verity`, from before it has its name,
//! and in the database from the commit on. With fs-verity the kernel holds every page that is read against it, and each
//! mount asks the kernel, on the very descriptor that is mounted, whether it is still that digest. Where a kernel or a
//! filesystem has no fs-verity the digest is what `erolith scrub` compares.

mod enable;
mod immutable;
mod policy;

pub use enable::Protector;
pub(crate) use enable::{FsVerityState, try_out};
pub use erolith_verity::fsverity::Digest;
#[cfg(test)]
pub(crate) use immutable::is_immutable;
pub(crate) use immutable::{clear as clear_immutable, remove_image, set_immutable};
pub use policy::{FsVerityMismatch, FsVerityPolicy, Pin};
pub(crate) use policy::{Step, at_commit, judge};
