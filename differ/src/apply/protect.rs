//! Which dm-verity hash tree and fs-verity digest an image must have, and which it gets.

use std::fs::File;

use erolith_mkfs::image::Super;
use erolith_mkfs::protect::{self, ProtectOptions, Protected};
use erolith_verity::dmverity::{self, CancelCheck, DmVerityTree};
use erolith_verity::fsverity::Digest;

use super::job::Task;
use super::{dm_verity, fsverity};
use crate::Result;
use crate::decode::Cancel;

/// Whether an image gets a hash tree, and what it has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Protect {
    /// The tree that the image came with: it is verified.
    pub promised: Option<DmVerityTree>,
    /// It gets one if it has none.
    pub is_wanted: bool,
    /// The fs-verity digest that the image came with: it is verified.
    pub digest: Option<Digest>,
    /// The digest of what is published is wanted.
    pub is_digest_wanted: bool,
}

impl Protect {
    /// What an image gets while it is written. What a layer that is one comes with has to be verified first.
    pub(crate) fn wanted(&self, task: &Task) -> ProtectOptions {
        match task {
            Task::Tar(_) => {
                ProtectOptions { fs_verity: self.is_digest_wanted, dm_verity: self.is_wanted }
            }
            Task::Native => {
                let is_final = self.digest.is_none() && !self.may_grow();
                ProtectOptions { fs_verity: self.is_digest_wanted && is_final, dm_verity: false }
            }
        }
    }

    /// Whether a layer that is an image may get a tree behind it.
    pub(super) fn may_grow(&self) -> bool {
        self.is_wanted && self.promised.is_none()
    }

    /// Sees to the digest and the tree of the image in `file`. One that is promised must be there, and everything must be
    /// as it says. When a tree is wanted and none promised, one that is there is taken if everything is as it says, else one
    /// is appended. The digest is that of the file as it is then, if it was promised or is known. `known` is what was
    /// computed while the image was written; what is promised is computed again here, because a worker may have written it.
    ///
    /// # Errors
    /// [`crate::error::LayerError::FsVerity`], [`crate::Error::Verity`], [`crate::Error::Cancelled`], and what the storage reports.
    pub(super) fn complete(
        &self,
        file: &File,
        known: Protected,
        cancel: &Cancel,
    ) -> Result<Protected> {
        let is_promised = self.promised.is_some() || self.digest.is_some();
        if known.verity.is_some() && !is_promised {
            return Ok(known);
        }
        fsverity::require(file, self.digest, cancel)?;
        let digest = self.digest.or(known.digest);
        let stop = || cancel.check().is_err();
        let protected = match &self.promised {
            Some(promised) => {
                let verity = verify(file, promised, &stop).map(Some);
                verity.map(|verity| Protected { digest, verity }).map_err(protect::Error::from)
            }
            None if self.is_wanted => take_or_append(file, digest, &stop),
            None => Ok(Protected { digest, verity: None }),
        };
        protected.map_err(dm_verity::failed)
    }
}

fn verify(
    file: &File,
    promised: &DmVerityTree,
    stop: &CancelCheck<'_>,
) -> std::result::Result<DmVerityTree, dmverity::Error> {
    let header = dmverity::verify(file, promised.hash_offset, promised.root, stop)?;
    let found = header.verity(promised.root);
    if found.block_size != promised.block_size {
        let why = "its blocks have another size than the annotations of the layer say";
        return Err(dmverity::Error::Super { offset: promised.hash_offset, why });
    }
    Ok(found)
}

/// `digest` is that of the file as it is.
fn take_or_append(
    file: &File,
    digest: Option<Digest>,
    stop: &CancelCheck<'_>,
) -> std::result::Result<Protected, protect::Error> {
    let Some(header) = protect::find_tree(file, &Super::read(file)?)? else {
        let verity = protect::append_tree(file, stop)?;
        return Ok(Protected { digest: None, verity: Some(verity) });
    };
    let root = header.root(file)?;
    let header = dmverity::verify(file, header.geometry().hash_offset(), root, stop)?;
    Ok(Protected { digest, verity: Some(header.verity(root)) })
}
