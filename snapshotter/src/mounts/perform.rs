//! Performing a plan: the thin part that calls the kernel.
//!
//! Every mount is made detached and only the finished tree is attached, by one call. Whatever fails or is
//! killed before that leaves no mount, no loop device, no directory and no state to clean up; and after it one
//! unmount frees everything, since overlayfs alone holds its layers and the layers alone hold their loop devices.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountFlags, OpenTreeFlags};

use super::fscontext::{self, FsContext};
use super::image::{self, ImageFacts};
use super::options::MountOptions;
use super::plan::{
    Backing, LayerStep, MountPlan, OVERLAY_OPTIONS, OVERLAY_SOURCE, OverlayRoute, OverlayStep,
    scratch_name,
};
use crate::kernel::directio;
use crate::sys::loopdev::{self, Access};
use crate::sys::namespace;
use crate::{Error, IntegrityError, KernelError, MountError, Result};

/// A layer as it comes in: open files, so that what is checked is what is mounted.
#[derive(Debug)]
pub struct MountLayer {
    /// What errors call it: a path, or a digest.
    pub name: String,
    /// The image, open for reading.
    pub image: File,
    /// Extra devices in slot order; empty for an image without a device table, or a flattened one.
    pub devices: Vec<File>,
}

/// A structural check of one layer, given by the caller because this crate reads no trees.
pub type Check<'a> =
    &'a dyn Fn(&MountLayer) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// What shall be mounted.
#[derive(Debug)]
pub struct Request {
    /// Bottom first.
    pub layers: Vec<MountLayer>,
    /// An existing directory.
    pub target: PathBuf,
    /// How images get under the filesystem.
    pub backing: Backing,
    /// Options of the final mount.
    pub options: MountOptions,
    /// How overlayfs is given layers; `None` finds out by trying.
    pub route: Option<OverlayRoute>,
}

/// What was mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Bottom first.
    pub layers: Vec<MountedLayer>,
    /// How overlayfs got them, when there are several.
    pub overlay: Option<OverlayRoute>,
}

/// One layer of what was mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountedLayer {
    /// Its name.
    pub name: String,
    /// Its loop devices, the primary's first; none when it is mounted from the file itself.
    pub loops: Vec<MountedLoop>,
}

/// A loop device under a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountedLoop {
    /// Its node.
    pub path: PathBuf,
    /// Reads bypass the page cache of the image file, so that content is cached once.
    pub direct_io: bool,
}

/// Checks every layer and mounts them as one read-only tree at the target.
///
/// # Errors
/// Everything in [`Error`]; nothing is mounted then.
pub fn mount(request: Request, check: Check<'_>) -> Result<Mounted> {
    let Request { layers, target, backing, options, route } = request;
    let target_fd = open_target(&target)?;
    let mut facts = Vec::with_capacity(layers.len());
    for layer in &layers {
        facts.push((layer.name.clone(), examine(layer, check)?));
    }
    let plan = MountPlan::new(&facts, backing, &options, || match route {
        Some(route) => Ok(route),
        None => crate::kernel::overlay_route(),
    })?;
    let (tree, mounted) = assemble(&plan, layers)?;
    fscontext::attach(tree.as_fd(), target_fd.as_fd())
        .map_err(Error::kernel_on("attach at", &target))?;
    Ok(mounted)
}

fn examine(layer: &MountLayer, check: Check<'_>) -> Result<ImageFacts> {
    let facts = image::inspect(&layer.name, &layer.image, &layer.devices)?;
    check(layer).map_err(|source| {
        Error::Integrity(IntegrityError::Check { image: layer.name.clone(), source })
    })?;
    Ok(facts)
}

fn open_target(target: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(target, flags, Mode::empty()).map_err(Error::kernel_on("open", target))
}

/// The finished tree as one detached mount.
fn assemble(plan: &MountPlan, layers: Vec<MountLayer>) -> Result<(OwnedFd, Mounted)> {
    let overlay = plan.overlay.as_ref().map(|overlay| overlay.route);
    let mut mounted = Mounted { layers: Vec::with_capacity(layers.len()), overlay };
    let mut mounts = Vec::with_capacity(layers.len());
    // Each layer's files are closed as soon as its mount holds them: 500 layers stay far below 1024 files.
    for (step, layer) in plan.layers.iter().zip(layers) {
        let (mount, loops) = mount_layer(step, &layer)?;
        mounted.layers.push(MountedLayer { name: layer.name, loops });
        mounts.push(mount);
    }
    let tree = match &plan.overlay {
        None => mounts.pop().ok_or(Error::Mount(MountError::NoLayers))?,
        Some(step) => mount_overlay(step, &mounts)?,
    };
    Ok((tree, mounted))
}

type LayerMount = (OwnedFd, Vec<MountedLoop>);

fn mount_layer(step: &LayerStep, layer: &MountLayer) -> Result<LayerMount> {
    match step.backing {
        Backing::File => mount_file(step, layer),
        Backing::Loop => mount_loop(step, layer),
        Backing::Auto if reads_directly(step, layer) => {
            let mounted = mount_direct_file(step, layer);
            mounted.or_else(|_| mount_by_loop_first(step, layer))
        }
        Backing::Auto => mount_by_loop_first(step, layer),
    }
}

/// Through loop devices when they read directly. Where they do not, or there are none, content is in memory twice either
/// way, and the file itself is the shorter one.
fn mount_by_loop_first(step: &LayerStep, layer: &MountLayer) -> Result<LayerMount> {
    let by_loop = mount_loop(step, layer);
    if by_loop.as_ref().is_ok_and(|(_, loops)| loops.iter().all(|device| device.direct_io)) {
        return by_loop;
    }
    match mount_buffered_file(step, layer) {
        // Kernels before 6.12, and backing filesystems without read_folio such as tmpfs.
        Err(error) if error.errno() == Some(Errno::NOTBLK) => by_loop,
        by_file => by_file,
    }
}

fn mount_file(step: &LayerStep, layer: &MountLayer) -> Result<LayerMount> {
    if reads_directly(step, layer)
        && let Ok(mounted) = mount_direct_file(step, layer)
    {
        return Ok(mounted);
    }
    mount_buffered_file(step, layer)
}

/// Whether the files of a layer can be read past their page cache: what is read is cached by the mounted files, once more
/// would be of no use.
fn reads_directly(step: &LayerStep, layer: &MountLayer) -> bool {
    let mut files = std::iter::once(&layer.image).chain(&layer.devices);
    directio::is_sound_here() && files.all(|file| directio::is_aligned(file, step.block))
}

fn mount_direct_file(step: &LayerStep, layer: &MountLayer) -> Result<LayerMount> {
    let context = erofs_context(step)?;
    context.flag("directio")?;
    mount_file_in(&context, step, layer)
}

fn mount_buffered_file(step: &LayerStep, layer: &MountLayer) -> Result<LayerMount> {
    mount_file_in(&erofs_context(step)?, step, layer)
}

fn mount_file_in(context: &FsContext, step: &LayerStep, layer: &MountLayer) -> Result<LayerMount> {
    context.file("source", layer.image.as_fd())?;
    for device in &layer.devices {
        context.file("device", device.as_fd())?;
    }
    let mount = context.mount(step.attributes).map_err(|e| about(&step.name, e))?;
    Ok((mount, Vec::new()))
}

fn mount_loop(step: &LayerStep, layer: &MountLayer) -> Result<LayerMount> {
    let context = erofs_context(step)?;
    // The devices live until the mount holds them.
    let mut devices = Vec::with_capacity(layer.devices.len() + 1);
    for (file, key) in std::iter::once((&layer.image, "source"))
        .chain(layer.devices.iter().map(|device| (device, "device")))
    {
        let device = loopdev::attach(file.as_fd(), step.loop_block, Access::ReadOnly)?;
        context.string(key, &device.path().to_string_lossy())?;
        devices.push(device);
    }
    let mount = context.mount(step.attributes).map_err(|e| about(&step.name, e))?;
    let loops = devices.iter().map(|device| {
        Ok(MountedLoop { path: device.path(), direct_io: device.status()?.direct_io })
    });
    Ok((mount, loops.collect::<Result<_>>()?))
}

fn erofs_context(step: &LayerStep) -> Result<FsContext> {
    let context = FsContext::open("erofs")?;
    context.flag("ro")?;
    for (key, value) in &step.options {
        match value {
            Some(value) => context.string(key, value)?,
            None => context.flag(key)?,
        }
    }
    Ok(context)
}

/// A detached overlay over `layers`, bottom first.
pub(crate) fn mount_overlay(step: &OverlayStep, layers: &[OwnedFd]) -> Result<OwnedFd> {
    match &step.option_string {
        None => overlay_of_detached(step.attributes, layers),
        Some(options) => {
            let options = CString::new(options.clone().into_vec())
                .map_err(|_| Error::kernel("overlay: option string", Errno::INVAL))?;
            namespace::in_private_mount_namespace(|| overlay_in_scratch(step, &options, layers))
                .map_err(|errno| Error::kernel("make a private mount namespace", errno))?
        }
    }
}

fn overlay_of_detached(attributes: MountAttrFlags, layers: &[OwnedFd]) -> Result<OwnedFd> {
    let context = FsContext::open("overlay")?;
    context.string("source", OVERLAY_SOURCE)?;
    context.flag("ro")?;
    for (key, value) in OVERLAY_OPTIONS {
        context.string(key, value)?;
    }
    for layer in layers.iter().rev() {
        context.fd("lowerdir+", layer.as_fd())?;
    }
    context.mount(attributes)
}

/// Runs in a mount namespace of its own. The layers are attached to a tmpfs that is the working directory, so
/// that their names are a few digits; the overlay is mounted there, and a detached clone of it is what leaves.
fn overlay_in_scratch(
    step: &OverlayStep,
    options: &CString,
    layers: &[OwnedFd],
) -> Result<OwnedFd> {
    const TREE: &str = "tree";
    let failed =
        |what: &str, errno| Error::kernel(format!("scratch mount namespace: {what}"), errno);
    let scratch = FsContext::open("tmpfs")?.mount(MountAttrFlags::MOUNT_ATTR_NODEV)?;
    let root = open_target(Path::new("/"))?;
    fscontext::attach(scratch.as_fd(), root.as_fd()).map_err(|e| failed("tmpfs", e))?;
    rustix::process::fchdir(&scratch).map_err(|e| failed("fchdir", e))?;
    let directory = |name: &str| -> Result<OwnedFd> {
        rustix::fs::mkdirat(&scratch, name, Mode::RWXU).map_err(|e| failed("mkdir", e))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(&scratch, name, flags, Mode::empty()).map_err(|e| failed("open", e))
    };
    for (index, layer) in layers.iter().enumerate() {
        let place = directory(&scratch_name(index))?;
        fscontext::attach(layer.as_fd(), place.as_fd()).map_err(|e| failed("attach a layer", e))?;
    }
    drop(directory(TREE)?);
    let flags = mount_flags(step.attributes);
    rustix::mount::mount(OVERLAY_SOURCE, TREE, "overlay", flags, options.as_c_str())
        .map_err(|e| failed("overlay", e))?;
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    rustix::mount::open_tree(&scratch, TREE, clone).map_err(|e| failed("clone", e))
}

/// The attributes of fsmount(2) in the words of mount(2).
fn mount_flags(attributes: MountAttrFlags) -> MountFlags {
    let table = [
        (MountAttrFlags::MOUNT_ATTR_RDONLY, MountFlags::RDONLY),
        (MountAttrFlags::MOUNT_ATTR_NODEV, MountFlags::NODEV),
        (MountAttrFlags::MOUNT_ATTR_NOSUID, MountFlags::NOSUID),
        (MountAttrFlags::MOUNT_ATTR_NOEXEC, MountFlags::NOEXEC),
        (MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW, MountFlags::NOSYMFOLLOW),
        (MountAttrFlags::MOUNT_ATTR_NODIRATIME, MountFlags::NODIRATIME),
        (MountAttrFlags::MOUNT_ATTR_NOATIME, MountFlags::NOATIME),
        (MountAttrFlags::MOUNT_ATTR_STRICTATIME, MountFlags::STRICTATIME),
    ];
    let set = table.iter().filter(|(attribute, _)| attributes.contains(*attribute));
    set.fold(MountFlags::empty(), |flags, &(_, flag)| flags | flag)
}

/// Says which layer a failed mount was about.
fn about(name: &str, error: Error) -> Error {
    match error {
        Error::Kernel(KernelError::Call { action, errno, log }) => {
            Error::Kernel(KernelError::Call { action: format!("{name}: {action}"), errno, log })
        }
        other => other,
    }
}
