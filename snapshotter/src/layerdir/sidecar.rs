//! The file beside an image that says how to open its dm-verity device: `layer.erofs.dmverity`, as containerd has it.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use erolith_durable::Durability;
use erolith_verity::dmverity::sidecar::{self, LIMIT, SUFFIX, Sidecar};
use erolith_verity::dmverity::{self, DmVerityTree, Header, Signature};
use rustix::fs::{AtFlags, CWD};
use rustix::io::Errno;

use crate::files::{failed, replace, unlink, with_suffix};
use crate::{Error, IntegrityError, Result};

/// The sidecar of the image called `image`.
pub(crate) fn sidecar_path(image: &Path) -> PathBuf {
    with_suffix(image, SUFFIX)
}

/// The hash tree that the sidecar of an image tells of, when there is one. The image must have that tree: the superblock
/// and the topmost block are read, and the root hash is compared.
///
/// # Errors
/// [`IntegrityError::DmVerity`] for a sidecar or a tree that cannot be used, or that do not belong together;
/// [`Error::Storage`].
pub fn sidecar_of(image: &Path) -> Result<Option<DmVerityTree>> {
    let Some(sidecar) = read_sidecar(image)? else { return Ok(None) };
    let file = File::open(image).map_err(failed("opening", image))?;
    tree_of(image, &file, &sidecar).map(|(header, root)| Some(header.verity(root)))
}

/// Takes away the sidecar of an image that is to be replaced by one without a tree.
pub(crate) fn remove_sidecar(image: &Path) -> Result<bool> {
    unlink(&sidecar_path(image))
}

/// Gives the image that will be called `to` the sidecar of the image `from`, if that has one.
pub(crate) fn link_sidecar(from: &Path, to: &Path) -> Result<()> {
    let [from, to] = [from, to].map(sidecar_path);
    unlink(&to)?;
    match rustix::fs::linkat(CWD, &from, CWD, &to, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(failed("linking", &to)(errno)),
    }
}

/// Writes the sidecar of an image that has this tree and is yet to get its name, durably where that is wanted.
pub(crate) fn write_sidecar(
    image: &Path,
    tree: &DmVerityTree,
    durability: Durability,
) -> Result<()> {
    replace(&sidecar_path(image), &Sidecar::from(tree).to_bytes(None), 0o644, durability)
}

/// Makes the sidecar of an image durable, if there is one.
pub(crate) fn sync_sidecar(image: &Path) -> Result<()> {
    let path = sidecar_path(image);
    match File::open(&path) {
        Ok(file) => file.sync_all().map_err(failed("syncing", &path)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(failed("opening", &path)(e)),
    }
}

/// What the sidecar of an image says, when there is one.
pub(crate) fn read_sidecar(image: &Path) -> Result<Option<Sidecar>> {
    let bytes = read(image)?;
    bytes.map(|bytes| Sidecar::parse(&bytes)).transpose().map_err(bad(image))
}

/// The signature of the root hash of an image, when its sidecar has one.
///
/// # Errors
/// [`IntegrityError::DmVerity`], [`Error::Storage`].
pub(crate) fn signature_of(image: &Path) -> Result<Option<Signature>> {
    let Some(bytes) = read(image)? else { return Ok(None) };
    sidecar::signature(&bytes).map_err(bad(image))
}

fn read(image: &Path) -> Result<Option<Vec<u8>>> {
    let path = sidecar_path(image);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed("opening", &path)(e)),
    };
    let mut bytes = Vec::new();
    file.take(LIMIT + 1).read_to_end(&mut bytes).map_err(failed("reading", &path))?;
    match bytes.len() as u64 {
        0..=LIMIT => Ok(Some(bytes)),
        _ => Err(bad(image)(dmverity::Error::Sidecar { why: "it is too long" })),
    }
}

/// The tree of the image in `file`, which must have the root hash that the sidecar says.
pub(crate) fn tree_of(
    image: &Path,
    file: &File,
    sidecar: &Sidecar,
) -> Result<(Header, dmverity::RootHash)> {
    let header = Header::read(file, sidecar.hash_offset).map_err(bad(image))?;
    let (actual, expected) = (header.root(file).map_err(bad(image))?, sidecar.root);
    if actual != expected {
        return Err(bad(image)(dmverity::Error::Root { expected, actual }));
    }
    Ok((header, actual))
}

fn bad(image: &Path) -> impl Fn(dmverity::Error) -> Error {
    let image = image.display().to_string();
    move |fault| IntegrityError::DmVerity { image: image.clone(), fault }.into()
}
