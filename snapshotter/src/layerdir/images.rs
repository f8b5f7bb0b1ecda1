//! Layers that were converted once, by diffID: whatever the chain, image or namespace, they are not converted again.

use std::path::{Path, PathBuf};

use erolith_verity::dmverity::sidecar::SUFFIX;
use rustix::fs::{AtFlags, CWD, Stat, XattrFlags};
use rustix::io::Errno;

use super::sidecar::sidecar_path;
use crate::fault::point;
use crate::files::{ensure_dir, failed, names, stat, unlink};
use crate::{Error, Result};

/// On an image: the digest of the blob that it was made from. Only root can set it, and no container sees it.
const BLOB: &str = "trusted.erolith.blob";

/// `<root>/images/<algorithm>/<2 hex>/<hex>.erofs`. Each entry is a hard link of the image in some layer
/// directory, so it costs nothing, and goes when it is the last one.
#[derive(Debug)]
pub struct Images {
    dir: PathBuf,
    is_kept: bool,
}

impl Images {
    /// The images of the service at `root`. Unless `is_kept` none is found and none remembered: those of layers that
    /// become immutable have one name each.
    ///
    /// # Errors
    /// [`Error::Storage`] when the directory cannot be made.
    pub fn open(root: &Path, is_kept: bool) -> Result<Self> {
        let dir = root.join("images");
        ensure_dir(&dir, 0o700)?;
        Ok(Self { dir, is_kept })
    }

    /// The image of the layer with this diffID. A caller makes a hard link of it, which fails if it was
    /// removed since.
    #[must_use]
    pub fn find(&self, diff_id: &str) -> Option<PathBuf> {
        let path = self.dir.join(layer_path(diff_id).filter(|_| self.is_kept)?);
        std::fs::symlink_metadata(&path).ok().filter(std::fs::Metadata::is_file)?;
        Some(path)
    }

    /// The image of the layer with this diffID, if it was made from this blob. That a blob contains a layer is the word of
    /// the worker that read it, so it counts for that blob and for no other.
    #[must_use]
    pub fn find_made_from(&self, diff_id: &str, blob: &str) -> Option<PathBuf> {
        self.find(diff_id).filter(|image| blob_of(image).is_some_and(|of| of == blob))
    }

    /// Remembers `image`, which is finished and synced, as the layer with this diffID, made from the blob with this digest.
    /// One that is remembered already stays, unless it does not say from which blob it was made. The link itself is not synced: a power cut may lose it, and then the layer is converted again.
    /// Returns whether images are remembered at all.
    ///
    /// # Errors
    /// [`Error::Storage`].
    ///
    /// An image with a dm-verity sidecar is remembered with it, and in the place of one that has none.
    pub fn keep(&self, diff_id: &str, image: &Path, blob: &str) -> Result<bool> {
        if !self.is_kept {
            return Ok(false);
        }
        rustix::fs::setxattr(image, BLOB, blob.as_bytes(), XattrFlags::empty())
            .map_err(failed("noting the blob of", image))?;
        let Some(relative) = layer_path(diff_id) else {
            let invalid = std::io::Error::from(std::io::ErrorKind::InvalidInput);
            return Err(Error::Storage { action: format!("keeping {diff_id}"), source: invalid });
        };
        let path = self.dir.join(relative);
        let ancestors: Vec<_> = path.ancestors().skip(1).take(2).collect();
        for dir in ancestors.into_iter().rev() {
            ensure_dir(dir, 0o700)?;
        }
        let (sidecar, kept_sidecar) = (sidecar_path(image), sidecar_path(&path));
        let has_sidecar = stat(&sidecar)?.is_some();
        if blob_of(&path).is_none() || (has_sidecar && stat(&kept_sidecar)?.is_none()) {
            // The image first: a sidecar without one means nothing.
            unlink(&path)?;
            unlink(&kept_sidecar)?;
        }
        if has_sidecar {
            link(&sidecar, &kept_sidecar)?;
        }
        link(image, &path)?;
        point("images.after_link").map(|()| true)
    }

    /// Forgets an image that was found damaged, by whatever diffIDs it is known.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub(crate) fn forget(&self, image: &Path) -> Result<()> {
        let Some(damaged) = stat(image)? else { return Ok(()) };
        self.each(&mut |path, stat| {
            let is_same = (stat.st_dev, stat.st_ino) == (damaged.st_dev, damaged.st_ino);
            if is_same { unlink(path).map(drop) } else { Ok(()) }
        })
    }

    /// Forgets the images that no layer directory has any more. Returns how many. One that is linked at
    /// the same time keeps its other name.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn sweep(&self) -> Result<u64> {
        let mut gone = 0;
        self.each(&mut |path, stat| {
            gone += u64::from(stat.st_nlink == 1 && unlink(path)?);
            Ok(())
        })?;
        Ok(gone)
    }

    /// Every image that is still there. Sidecars go with their images.
    fn each(&self, work: &mut dyn FnMut(&Path, &Stat) -> Result<()>) -> Result<()> {
        for algorithm in names(&self.dir)? {
            let algorithm = self.dir.join(algorithm);
            for prefix in names(&algorithm)? {
                let dir = algorithm.join(prefix);
                let (sidecars, images): (Vec<_>, Vec<_>) =
                    names(&dir)?.into_iter().partition(|name| name.ends_with(SUFFIX));
                for path in images.iter().map(|name| dir.join(name)) {
                    if let Some(stat) = stat(&path)? {
                        work(&path, &stat)?;
                    }
                }
                // One goes with its image, whose layers may have sidecars of their own.
                for name in sidecars {
                    let image = name.strip_suffix(SUFFIX).unwrap_or_default();
                    if stat(&dir.join(image))?.is_none() {
                        unlink(&dir.join(name))?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The digest of the blob that a remembered image was made from, if it says so.
#[must_use]
pub fn blob_of(image: &Path) -> Option<String> {
    let mut buffer = [0; 256];
    let length = rustix::fs::lgetxattr(image, BLOB, &mut buffer).ok()?;
    String::from_utf8(buffer.get(..length)?.to_vec()).ok()
}

/// Gives a file a second name, unless that is taken.
fn link(file: &Path, name: &Path) -> Result<()> {
    match rustix::fs::linkat(CWD, file, CWD, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(failed("linking", name)(errno)),
    }
}

/// Where a cache keyed by diffID has a layer, relative to its root: that of containerd's `layer_content_caches`.
/// Nothing for what is no digest, so that no text of a caller becomes a path of its choice.
#[must_use]
pub fn layer_path(diff_id: &str) -> Option<PathBuf> {
    let (algorithm, hex) = diff_id.split_once(':')?;
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if algorithm.is_empty() || algorithm.len() > 32 || !algorithm.bytes().all(is_word) {
        return None;
    }
    let is_hex = |b: u8| b.is_ascii_digit() || matches!(b, b'a'..=b'f');
    if !(32..=128).contains(&hex.len()) || !hex.bytes().all(is_hex) {
        return None;
    }
    Some(Path::new(algorithm).join(hex.get(..2)?).join(format!("{hex}.erofs")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOB: &str = "sha256:b10b";
    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn only_digests_become_paths() {
        let path = layer_path(&format!("sha256:{HEX}")).unwrap();
        assert_eq!(path, Path::new("sha256/e3").join(format!("{HEX}.erofs")));
        let upper = HEX.to_uppercase();
        for bad in [HEX, "sha256:", "sha256:e3", "../x:", ":", "", "sha256:zz"] {
            assert_eq!(layer_path(bad), None, "{bad}");
        }
        for bad in [format!("../..:{HEX}"), format!("sha256:{upper}"), format!("sha256:/{HEX}")] {
            assert_eq!(layer_path(&bad), None, "{bad}");
        }
    }

    #[test]
    fn images_stay_as_long_as_a_layer_has_them() {
        let root = tempfile::tempdir().unwrap();
        let images = Images::open(root.path(), true).unwrap();
        let none = Images::open(root.path(), false).unwrap();
        let diff_id = format!("sha256:{HEX}");
        let layer = root.path().join("layer.erofs");
        std::fs::File::create(&layer).unwrap();
        assert_eq!(images.find(&diff_id), None);
        assert!(!none.keep(&diff_id, &layer, BLOB).unwrap());
        assert_eq!(images.find(&diff_id), None);
        assert!(images.keep(&diff_id, &layer, BLOB).unwrap());
        assert!(images.keep(&diff_id, &layer, BLOB).unwrap());
        assert_eq!(none.find(&diff_id), None);
        // An image stands for its own blob, also once another blob says that it contains the same.
        let other = root.path().join("other.erofs");
        std::fs::File::create(&other).unwrap();
        images.keep(&diff_id, &other, "sha256:07e5").unwrap();
        assert_eq!(images.find_made_from(&diff_id, BLOB), images.find(&diff_id));
        assert_eq!(images.find_made_from(&diff_id, "sha256:07e5"), None);
        assert_eq!(images.sweep().unwrap(), 0);
        images.forget(&root.path().join("none")).unwrap();
        images.forget(root.path()).unwrap();
        assert!(images.find(&diff_id).is_some());
        images.forget(&layer).unwrap();
        assert_eq!(images.find(&diff_id), None);
        images.keep(&diff_id, &layer, BLOB).unwrap();
        assert!(images.find(&diff_id).is_some());
        std::fs::remove_file(&layer).unwrap();
        assert_eq!(images.sweep().unwrap(), 1);
        assert_eq!(images.find(&diff_id), None);
        assert!(images.keep("sha256:../../x", &layer, BLOB).is_err());
    }
}
