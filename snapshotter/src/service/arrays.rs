//! What containerd is told to mount: pure functions of a snapshot's shape.
//!
//! - [`plain`]: one `overlay` or one `bind` over layers that we mounted ourselves. Any caller of mount(2) can use it:
//!   containerd from 1.6 on, dockerd, buildkit.
//! - [`managed`]: the arrays of containerd's own EROFS snapshotter (plugins/snapshots/erofs), for its mount manager
//!   from 2.2 on, and for shims that want the images themselves.

use crate::layerdir::{IMAGE, UPPER, WORK};
use crate::lowers::{IdMaps, Lower};
use crate::mounts::plan::{MAX_LAYERS, OVERLAY_OPTIONS};
use crate::store::Kind;
use crate::{Error, Result};

use super::Mount;

/// Bytes of options that containerd hands over as they are: a page less what its own parts need
/// (`compactLowerdirOption` in core/mount/mount_linux.go rewrites paths from there on, other callers refuse or cut).
pub(super) const MAX_OPTION_BYTES: usize = 3584;
/// Mounts that one activation of the mount manager takes: their number is one byte, and the overlay is one of them.
const MAX_MANAGED: usize = 254;

/// What decides the mounts of a snapshot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape<'a> {
    pub(super) kind: Kind,
    pub(super) id: u64,
    /// An active snapshot whose layer is already there.
    pub(super) applied: bool,
    /// The nearest first.
    pub(super) parents: &'a [u64],
    pub(super) maps: Option<&'a IdMaps>,
}

/// Where things are. Paths hold no character that an option string or a template would read as its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places<'a> {
    /// `<root>/snapshots`.
    pub(super) snapshots: &'a str,
    /// The directory of mounted layers, `<state>/<space>`.
    pub(super) lowers: &'a str,
    /// Appended to the options of every overlay.
    pub(super) overlay_options: &'a [String],
}

/// Mounts, and the layers that must be mounted for them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Planned {
    pub(super) mounts: Vec<Mount>,
    pub(super) lowers: Vec<Lower>,
}

impl Places<'_> {
    fn of(&self, id: u64, name: &str) -> String {
        format!("{}/{id}/{name}", self.snapshots)
    }

    fn lower(&self, lower: Lower) -> String {
        format!("{}/{}", self.lowers, lower.name())
    }
}

/// The mounts of the profile `plain`.
///
/// A snapshot whose layer is there has it on top of its parents and is read-only: what would be written into its
/// upper directory now would never become part of the layer.
pub(super) fn plain(shape: &Shape<'_>, places: &Places<'_>) -> Result<Planned> {
    let is_writable = shape.kind == Kind::Active && !shape.applied;
    let own = shape.applied.then_some(shape.id);
    let stack: Vec<u64> = own.into_iter().chain(shape.parents.iter().copied()).collect();
    let (mount, bare) = match (is_writable, stack.as_slice()) {
        (_, []) => (bind(places.of(shape.id, UPPER), is_writable), false),
        (false, &[id]) => (bind(places.lower(Lower { id, bare: true }), false), true),
        _ => (plain_overlay(shape, places, is_writable, &stack)?, false),
    };
    let lowers = stack.into_iter().map(|id| Lower { id, bare }).collect();
    Ok(Planned { mounts: vec![mount], lowers })
}

fn plain_overlay(
    shape: &Shape<'_>,
    places: &Places<'_>,
    is_writable: bool,
    stack: &[u64],
) -> Result<Mount> {
    let (count, limit) = (stack.len(), MAX_LAYERS);
    if count > limit {
        return Err(Error::TooManyLayers { count, limit });
    }
    let mut options: Vec<String> =
        OVERLAY_OPTIONS.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if is_writable {
        options.extend(upper_options(shape, places));
    }
    let lowers: Vec<_> = stack.iter().map(|&id| places.lower(Lower { id, bare: false })).collect();
    options.push(format!("lowerdir={}", lowers.join(":")));
    options.extend_from_slice(places.overlay_options);
    let bytes = options.iter().map(|option| option.len() + 1).sum::<usize>();
    if bytes > MAX_OPTION_BYTES {
        return Err(Error::OptionsTooLong { layers: count, bytes, limit: MAX_OPTION_BYTES });
    }
    Ok(overlay("overlay", options))
}

/// The mounts of the profile `managed`.
pub(super) fn managed(shape: &Shape<'_>, places: &Places<'_>) -> Result<Vec<Mount>> {
    let count = shape.parents.len();
    if count > MAX_MANAGED {
        return Err(Error::TooManyLayers { count, limit: MAX_MANAGED });
    }
    let is_active = shape.kind == Kind::Active;
    if count == 0 && shape.applied {
        return Ok(vec![image(places, shape.id)]);
    }
    if count == 0 {
        return Ok(vec![bind(places.of(shape.id, UPPER), is_active)]);
    }
    let mut mounts: Vec<_> = shape.parents.iter().map(|&id| image(places, id)).collect();
    if count == 1 && !is_active {
        return Ok(mounts);
    }
    let mut options = Vec::new();
    if is_active {
        options.extend(upper_options(shape, places));
    }
    options.extend(shape.maps.map(IdMaps::mount_options).into_iter().flatten());
    options.push(match count - 1 {
        0 => "lowerdir={{ mount 0 }}".to_owned(),
        last => format!("lowerdir={{{{ overlay 0 {last} }}}}"),
    });
    options.extend_from_slice(places.overlay_options);
    mounts.push(overlay("format/mkdir/overlay", options));
    Ok(mounts)
}

fn upper_options(shape: &Shape<'_>, places: &Places<'_>) -> [String; 2] {
    let work = places.of(shape.id, WORK);
    [format!("workdir={work}"), format!("upperdir={}", places.of(shape.id, UPPER))]
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
    let options = vec!["ro".to_owned(), "loop".to_owned()];
    let source = places.of(id, IMAGE);
    Mount { fs_type: "erofs".to_owned(), source, target: String::new(), options }
}

#[cfg(test)]
#[path = "tests/arrays.rs"]
mod tests;
