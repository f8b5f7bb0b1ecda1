//! The directory of one snapshot: its names, how it is made, and how others find it.
//!
//! ```text
//! <root>/snapshots/<id>/
//!   fs/            0755  the upper directory, or the tree itself when there is no parent
//!   work/          0711  overlayfs' own, of active snapshots
//!   rwlayer.img    0600  instead of work/: a filesystem of limited size that the upper directory is in; fs/ is empty
//!   .erofslayer    0644  says to differs: write the layer here; of active snapshots
//!   layer.erofs          the layer; or a symbolic link into a read-only cache
//!   damaged.erofs        instead of it: what was found to be no layer any more
//!   snapshot.json  0600  what the database says of it, see [`record`]
//!   commit.json    0600  what it will say when the commit that is under way is done
//!   layer.erofs.dmverity 0644  how to open its dm-verity device, when it has a hash tree
//! ```
//!
//! These are the names of containerd's EROFS snapshotter, so that its differ works here and ours there.

mod checked;
mod images;
pub mod record;
mod remove;
mod sidecar;

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use erolith_durable::{Durability, Tmpfile, second_name};
use rustix::io::Errno;

use crate::api_mounts::{self, Mount};
use crate::files::{failed, make_dir, make_file, open_dir, stat, sync_dir, unlink};
use crate::protect;
use crate::store::Kind;
use crate::{Error, IntegrityError, Result};

#[cfg(test)]
pub(crate) use checked::is_marked;
pub use checked::mark_checked;
pub(crate) use checked::{is_link, mark, require_checked};
pub use images::{Images, blob_of, layer_path};
pub(crate) use remove::remove_tree;
pub use sidecar::sidecar_of;
pub(crate) use sidecar::{
    link_sidecar, read_sidecar, remove_sidecar, sidecar_path, signature_of, sync_sidecar, tree_of,
    write_sidecar,
};

/// Below the root: where the directories of snapshots are.
pub(crate) const SNAPSHOTS: &str = "snapshots";
/// The empty file by which a differ knows a directory that wants a layer.
pub const MARKER: &str = ".erofslayer";
/// The image of a layer.
pub const IMAGE: &str = "layer.erofs";
/// What the image of a layer is called once it was found damaged.
pub const DAMAGED: &str = "damaged.erofs";
/// The upper directory.
pub const UPPER: &str = "fs";
/// The work directory of the overlay.
pub const WORK: &str = "work";
/// The filesystem that the upper directory is in, of a snapshot that is limited that way.
pub const RWLAYER: &str = "rwlayer.img";
/// The second name of an image that a commit made from the upper directory, until the commit is done. While it is
/// there and the snapshot is active, the truth is in the upper directory and the image may be old.
pub(crate) const CONVERTED: &str = "commit.erofs";

/// The directory that a differ writes the layer of these mounts to; nothing when they are not of a snapshotter that works
/// with layer directories, which have the marker.
#[must_use]
pub fn of_mounts(mounts: &[Mount]) -> Option<PathBuf> {
    let dir = api_mounts::layer_dir(mounts)?;
    let marker = std::fs::symlink_metadata(dir.join(MARKER)).ok()?;
    marker.is_file().then_some(dir)
}

/// The id of the snapshot whose directory is called so.
pub(crate) fn snapshot_id(name: &str) -> Option<u64> {
    let is_number = !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| name.parse().ok()).flatten()
}

/// Makes what a new snapshot has in its directory, which must not be there yet.
pub(crate) fn make(dir: &Path, kind: Kind) -> Result<()> {
    make_dir(dir, 0o700)?;
    fill(dir, kind)
}

/// Puts an image away that is not what it should be. Returns whether there was one.
pub(crate) fn quarantine(dir: &Path) -> Result<bool> {
    let image = dir.join(IMAGE);
    // It could not be renamed.
    protect::clear_immutable(&image)?;
    protect::remove_image(&dir.join(DAMAGED))?;
    match rustix::fs::rename(&image, dir.join(DAMAGED)) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(failed("putting away", &image)(errno)),
    }
}

/// Gives the directory of a damaged layer `image` for its own, with its sidecar, durably; the quarantined file is removed.
pub(crate) fn replace_image(dir: &Path, image: &Path) -> Result<()> {
    link_sidecar(image, &dir.join(IMAGE))?;
    let file = File::open(image).map_err(failed("opening", image))?;
    let fd = open_dir(dir)?;
    let synced = Tmpfile::linked(file, None).sync(Durability::Unsynced);
    let named = synced.and_then(|file| file.name_exclusively(&fd, IMAGE.as_ref()));
    named.map_err(failed("linking", image))?.unsettled();
    protect::remove_image(&dir.join(DAMAGED))?;
    sync_dir(dir)
}

/// Makes what is missing in the directory of a snapshot.
pub(crate) fn fill(dir: &Path, kind: Kind) -> Result<()> {
    make_dir(&dir.join(UPPER), 0o755)?;
    if kind == Kind::Active {
        make_dir(&dir.join(WORK), 0o711)?;
        make_file(&dir.join(MARKER), 0o644)?;
    }
    Ok(())
}

/// Whether an active snapshot already has its layer, because a differ wrote it or a cache had it.
pub(crate) fn is_applied(dir: &Path) -> Result<bool> {
    Ok(stat(&dir.join(IMAGE))?.is_some() && stat(&dir.join(CONVERTED))?.is_none())
}

/// Takes back what a commit or a differ made that did not come to its end. Returns whether there was something. The lock
/// of the directory keeps a differ of ours from replacing its image at the same time.
pub(crate) fn undo_converted(dir: &Path) -> Result<bool> {
    let (image, converted) = (dir.join(IMAGE), dir.join(CONVERTED));
    let is_left = record::withdraw(dir)? | unlink(&dir.join(second_name(IMAGE.as_ref())))?;
    let Some(second) = stat(&converted)? else { return Ok(is_left) };
    // A differ may have written another image since.
    if stat(&image)?.is_some_and(|first| first.st_ino == second.st_ino) {
        unlink(&image)?;
    }
    unlink(&converted)
}

/// Opens the image of the layer `id`.
///
/// # Errors
/// [`IntegrityError::Gone`] when it is not there, [`Error::Storage`].
pub(crate) fn open_image(id: u64, path: &Path) -> Result<File> {
    File::open(path).map_err(|source| match source.kind() {
        ErrorKind::NotFound => Error::Integrity(IntegrityError::Gone { id, path: path.to_owned() }),
        _ => failed("opening", path)(source),
    })
}

/// The owner of the upper directory of a snapshot, which its children take over.
pub(crate) fn owner(dir: &Path) -> Result<(u32, u32)> {
    let upper = dir.join(UPPER);
    let stat = stat(&upper)?.ok_or_else(|| {
        let gone = std::io::Error::from(ErrorKind::NotFound);
        let error: Error = failed("examining", &upper)(gone);
        error
    })?;
    Ok((stat.st_uid, stat.st_gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(fs_type: &str, source: &str, options: &[&str]) -> Mount {
        Mount {
            fs_type: fs_type.to_owned(),
            source: source.to_owned(),
            target: String::new(),
            options: options.iter().map(|&o| o.to_owned()).collect(),
        }
    }

    #[test]
    fn only_directories_with_a_marker_are_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let mounts = |name: &str| {
            let source = dir.path().join(name).join(UPPER);
            [mount("bind", source.to_str().unwrap(), &["rw"])]
        };
        make(&dir.path().join("a"), Kind::Active).unwrap();
        make(&dir.path().join("v"), Kind::View).unwrap();
        assert_eq!(of_mounts(&mounts("a")), Some(dir.path().join("a")));
        assert_eq!(of_mounts(&mounts("v")), None);
        assert_eq!(of_mounts(&mounts("missing")), None);
        std::fs::remove_file(dir.path().join("a").join(MARKER)).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("a").join(MARKER)).unwrap();
        assert_eq!(of_mounts(&mounts("a")), None);
    }

    #[test]
    fn what_was_left_half_done_is_taken_back() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let make = |name: &str| make_file(&at(name), 0o600).unwrap();
        let second = second_name(IMAGE.as_ref());
        let second = second.to_str().unwrap();
        // Names that are there, those that are left, and whether something was taken.
        let table: [(&[&str], &[&str], bool); 4] = [
            (&[IMAGE], &[IMAGE], false),
            (&[IMAGE, second], &[IMAGE], true),
            (&[second, CONVERTED], &[], true),
            (&[], &[], false),
        ];
        for (there, left, undone) in table {
            there.iter().for_each(|name| make(name));
            assert_eq!(undo_converted(root.path()).unwrap(), undone, "{there:?}");
            for name in [IMAGE, second, CONVERTED] {
                assert_eq!(at(name).exists(), left.contains(&name), "{there:?}: {name}");
                let _ = std::fs::remove_file(at(name));
            }
        }
    }

    #[test]
    fn modes_do_not_depend_on_the_umask() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1");
        make(&path, Kind::Active).unwrap();
        for (name, mode) in [("", 0o700), (UPPER, 0o755), (WORK, 0o711), (MARKER, 0o644)] {
            let got = std::fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o7777;
            assert_eq!(got, mode, "{name}");
        }
    }
}
