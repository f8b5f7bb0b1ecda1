//! What containerd is told to mount: pure functions of a snapshot's shape.
//!
//! - [`plain`]: one `overlay` or one `bind` over layers that we mounted ourselves. Any caller of mount(2) can use it:
//!   containerd from 1.6 on, dockerd, buildkit.
//! - [`managed`]: the arrays of containerd's own EROFS snapshotter (plugins/snapshots/erofs), for its mount manager
//!   from 2.2 on, and for shims that want the images themselves.

use std::collections::BTreeSet;

use erolith_verity::dmverity::sidecar::SUFFIX;

use crate::layerdir::{IMAGE, RWLAYER, UPPER, WORK};
use crate::lowers::{IdMaps, LowerId};
use crate::mounts::plan::{MAX_API_OPTION_BYTES, MAX_LAYERS, OVERLAY_OPTIONS};
use crate::store::Kind;
use crate::uppers::{IMAGE_UPPER, IMAGE_WORK, Upper};
use crate::{Error, MountError, Result};

use super::{Mount, OverlayDir};

/// Mounts that one activation of the mount manager takes: their number is one byte, and the overlay is one of them.
const MAX_MANAGED: usize = 254;

/// What decides the mounts of a snapshot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SnapshotShape<'a> {
    pub(crate) kind: Kind,
    pub(crate) id: u64,
    /// An active snapshot whose layer is already there.
    pub(crate) applied: bool,
    /// A layer is unpacked into it beside those below it, by a differ that may not be ours.
    pub(crate) beside: bool,
    /// Where what is written goes.
    pub(crate) upper: Upper,
    /// The nearest first.
    pub(crate) parents: &'a [u64],
    pub(crate) maps: Option<&'a IdMaps>,
}

/// Where things are. Paths hold no character that an option string or a template would read as its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places<'a> {
    /// `<root>/snapshots`.
    pub(crate) snapshots: &'a str,
    /// The directory of mounted layers, `<state>/<space>`.
    pub(crate) lowers: &'a str,
    /// The directory of mounted writable layers, `<state>/w`.
    pub(crate) uppers: &'a str,
    /// An empty directory.
    pub(crate) nothing: &'a str,
    /// Appended to the options of every overlay.
    pub(crate) overlay_options: &'a [String],
    /// Layers whose images others are to mount with dm-verity.
    pub(crate) verity: &'a BTreeSet<u64>,
}

/// Mounts, and the layers that must be mounted for them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) mounts: Vec<Mount>,
    pub(crate) lowers: Vec<LowerId>,
}

impl Places<'_> {
    fn of(&self, id: u64, name: &str) -> String {
        format!("{}/{id}/{name}", self.snapshots)
    }

    fn lower(&self, lower: LowerId) -> String {
        format!("{}/{}", self.lowers, lower.name())
    }
}

/// The mounts of the profile `plain`.
///
/// A snapshot whose layer is there has it on top of its parents and is read-only: what would be written into its
/// upper directory now would never become part of the layer.
pub(crate) fn plain(shape: &SnapshotShape<'_>, places: &Places<'_>) -> Result<Planned> {
    let is_writable = shape.kind == Kind::Active && !shape.applied;
    let own = shape.applied.then_some(shape.id);
    let stack: Vec<u64> = own.into_iter().chain(shape.parents.iter().copied()).collect();
    let (mount, bare) = match (is_writable, stack.as_slice()) {
        (true, []) if shape.beside => (over_nothing(shape, places), false),
        (_, []) => (bind(upper_and_work(shape, places).0, is_writable), false),
        (false, &[id]) => (bind(places.lower(LowerId { id, bare: true }), false), true),
        _ => (plain_overlay(shape, places, is_writable, &stack)?, false),
    };
    let lowers = stack.into_iter().map(|id| LowerId { id, bare }).collect();
    Ok(Planned { mounts: vec![mount], lowers })
}

fn plain_overlay(
    shape: &SnapshotShape<'_>,
    places: &Places<'_>,
    is_writable: bool,
    stack: &[u64],
) -> Result<Mount> {
    let (count, limit) = (stack.len(), MAX_LAYERS);
    if count > limit {
        return Err(Error::Mount(MountError::TooManyLayers { count, limit }));
    }
    let mut options: Vec<String> =
        OVERLAY_OPTIONS.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if is_writable {
        options.extend(upper_options(shape, places));
    }
    let lowers: Vec<_> =
        stack.iter().map(|&id| places.lower(LowerId { id, bare: false })).collect();
    options.push(OverlayDir::Lower.option(lowers.join(":")));
    options.extend_from_slice(places.overlay_options);
    let bytes = options.iter().map(|option| option.len() + 1).sum::<usize>();
    if bytes > MAX_API_OPTION_BYTES {
        let (layers, limit) = (count, MAX_API_OPTION_BYTES);
        return Err(Error::Mount(MountError::OptionsTooLong { layers, bytes, limit }));
    }
    Ok(overlay("overlay", options))
}

/// An upper directory over nothing, for a layer whose parent comes with the commit. Seeing an overlay, containerd's differ
/// writes what the layer deletes as overlayfs has it, which it does not in a bare directory. So does containerd's unpacker
/// see to it for overlayfs (`bindToOverlay` in core/unpack), and for no other snapshotter.
fn over_nothing(shape: &SnapshotShape<'_>, places: &Places<'_>) -> Mount {
    let mut options = upper_options(shape, places).to_vec();
    options.push(OverlayDir::Lower.option(places.nothing));
    options.extend_from_slice(places.overlay_options);
    overlay("overlay", options)
}

/// The mounts of the profile `managed`. A writable layer that is a filesystem of its own comes first.
pub(crate) fn managed(shape: &SnapshotShape<'_>, places: &Places<'_>) -> Result<Vec<Mount>> {
    let SnapshotShape { id, .. } = *shape;
    let is_writable = shape.kind == Kind::Active && !shape.applied && shape.upper != Upper::None;
    let filesystem = match shape.upper {
        Upper::Image(bytes) if !shape.applied => Some(filesystem(places, id, bytes)),
        Upper::Image(_) | Upper::Directory | Upper::None => None,
    };
    // A layer that is there is on top of its parents.
    let own = shape.applied.then_some(id);
    let layers: Vec<u64> = own.into_iter().chain(shape.parents.iter().copied()).collect();
    let (first, limit) = (usize::from(filesystem.is_some()), MAX_MANAGED);
    if layers.len() + first > limit {
        return Err(Error::Mount(MountError::TooManyLayers {
            count: layers.len(),
            limit: limit - first,
        }));
    }
    if layers.is_empty() {
        return Ok(match filesystem {
            Some(filesystem) => {
                let mut bind = bind(format!("{FIRST}/{IMAGE_UPPER}"), true);
                bind.fs_type = "format/mkdir/bind".to_owned();
                bind.options.insert(0, make_dir_option(IMAGE_UPPER));
                vec![filesystem, bind]
            }
            None if shape.beside => vec![over_nothing(shape, places)],
            None => vec![bind(places.of(id, UPPER), is_writable)],
        });
    }
    let mut options = Vec::new();
    if filesystem.is_some() {
        options.extend([IMAGE_UPPER, IMAGE_WORK].map(make_dir_option));
        options.push(OverlayDir::Work.option(format_args!("{FIRST}/{IMAGE_WORK}")));
        options.push(OverlayDir::Upper.option(format_args!("{FIRST}/{IMAGE_UPPER}")));
    } else if is_writable {
        options.extend(upper_options(shape, places));
    }
    let images = layers.iter().map(|&id| image(places, id));
    let mut mounts: Vec<_> = filesystem.into_iter().chain(images).collect();
    if layers.len() == 1 && !is_writable {
        return Ok(mounts);
    }
    options.extend(shape.maps.map(IdMaps::mount_options).into_iter().flatten());
    options.push(OverlayDir::Lower.option(match (first, mounts.len() - 1) {
        (first, last) if first == last => format!("{{{{ mount {first} }}}}"),
        (first, last) => format!("{{{{ overlay {first} {last} }}}}"),
    }));
    options.extend_from_slice(places.overlay_options);
    mounts.push(overlay("format/mkdir/overlay", options));
    Ok(mounts)
}

/// Where the mount manager has the first mount.
const FIRST: &str = "{{ mount 0 }}";

/// The filesystem of a writable layer. The mount manager would make it if it were not there.
fn filesystem(places: &Places<'_>, id: u64, bytes: u64) -> Mount {
    let options = [
        "X-containerd.mkfs.fs=ext4".to_owned(),
        format!("X-containerd.mkfs.size={bytes}"),
        "rw".to_owned(),
        "loop".to_owned(),
    ];
    let (fs_type, source) = ("mkfs/ext4".to_owned(), places.of(id, RWLAYER));
    Mount { fs_type, source, target: String::new(), options: options.into() }
}

fn make_dir_option(name: &str) -> String {
    format!("X-containerd.mkdir.path={FIRST}/{name}:0755")
}

fn upper_options(shape: &SnapshotShape<'_>, places: &Places<'_>) -> [String; 2] {
    let (upper, work) = upper_and_work(shape, places);
    [OverlayDir::Work.option(work), OverlayDir::Upper.option(upper)]
}

fn upper_and_work(shape: &SnapshotShape<'_>, places: &Places<'_>) -> (String, String) {
    let id = shape.id;
    match shape.upper {
        Upper::Directory | Upper::None => (places.of(id, UPPER), places.of(id, WORK)),
        Upper::Image(_) => {
            let of = |name| format!("{}/{id}/{name}", places.uppers);
            (of(IMAGE_UPPER), of(IMAGE_WORK))
        }
    }
}

fn bind(source: String, is_writable: bool) -> Mount {
    let access = if is_writable { "rw" } else { "ro" };
    let options = vec![access.to_owned(), "rbind".to_owned()];
    Mount { fs_type: "bind".to_owned(), source, target: String::new(), options }
}

fn overlay(fs_type: &str, options: Vec<String>) -> Mount {
    let source = "overlay".to_owned();
    Mount { fs_type: fs_type.to_owned(), source, target: String::new(), options }
}

fn image(places: &Places<'_>, id: u64) -> Mount {
    let mut options = vec!["ro".to_owned(), "loop".to_owned()];
    let source = places.of(id, IMAGE);
    if places.verity.contains(&id) {
        options.push(format!("X-containerd.dmverity={source}{SUFFIX}"));
    }
    Mount { fs_type: "erofs".to_owned(), source, target: String::new(), options }
}

#[cfg(test)]
#[path = "tests/write.rs"]
mod tests;
