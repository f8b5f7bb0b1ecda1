//! The attempts.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use erolith_durable::scratch;
use erolith_mkfs::format::{incompat, mode};
use erolith_mkfs::marks;
use rustix::fs::{AtFlags, IFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::images::{self, EMPTY, Node, PLAIN, Spec};
use super::{Feature, Finding, KernelCaps, ProbeDir, State, directio};
use crate::api_mounts::OverlayDir;
use crate::errno::describe;
use crate::files::{make_dir, open_dir};
use crate::layerdir::remove_tree;
use crate::mounts::plan::OverlayStep;
use crate::mounts::{FsContext, OverlayRoute, mount_overlay, table};
use crate::sys::loopdev::{self, Access};
use crate::sys::userns::UserNamespace;
use crate::sys::{fs_verity, idmap};
use crate::{Error, Result};

/// One attempt: what worked, in words, or why it did not.
type Attempt = Result<String, Failure>;

/// Why an attempt did not work.
enum Failure {
    Kernel(Errno, String),
    /// What the attempt builds upon did not work.
    Needs(Feature),
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::Kernel(errno, describe(errno))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Kernel(error.errno().unwrap_or(Errno::INVAL), error.line())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Errno::from_io_error(&error).unwrap_or(Errno::IO).into()
    }
}

impl From<Attempt> for Finding {
    fn from(attempt: Attempt) -> Self {
        let (state, evidence) = match attempt {
            Ok(evidence) => (State::Present, evidence),
            Err(Failure::Needs(feature)) => (State::Untried, format!("needs {}", feature.name())),
            // Without the right to try nothing is known.
            Err(Failure::Kernel(Errno::PERM | Errno::ACCESS, text)) => (State::Denied, text),
            Err(Failure::Kernel(_, text)) => (State::Missing, text),
        };
        Self { state, evidence }
    }
}

/// The directory where things are tried, and what was found so far.
struct Prober {
    dir: OwnedFd,
    caps: KernelCaps,
}

/// Tries every feature in the order of [`super::ALL`], which puts foundations first.
pub(super) fn probe(dir: &Path) -> Result<KernelCaps> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(dir, flags, Mode::empty()).map_err(Error::kernel_on("open", dir))?;
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let place = ProbeDir { release, dir: dir.to_owned(), fs_type: fs_type(&fd) };
    let mut prober = Prober { dir: fd, caps: KernelCaps::from_parts(place, []) };
    for feature in super::ALL {
        let finding = prober.attempt(feature).into();
        prober.caps.findings.insert(feature, finding);
    }
    Ok(prober.caps)
}

pub(super) fn fs_type(dir: &OwnedFd) -> String {
    let id = rustix::fs::statx(dir, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID);
    let table = table::read().unwrap_or_default();
    let entry = id.ok().and_then(|stat| table::by_id(&table, stat.stx_mnt_id));
    entry.map_or_else(|| "unknown".to_owned(), |entry| entry.fs_type.clone())
}

impl Prober {
    fn attempt(&self, feature: Feature) -> Attempt {
        match feature {
            Feature::Erofs => {
                FsContext::open("erofs").map(|_| "fsopen".to_owned()).map_err(Into::into)
            }
            Feature::FileBacked => self.file_backed(&[]),
            Feature::DirectFile => self.direct_file(),
            Feature::Block(block_bits) => self.image(&Spec { block_bits, ..PLAIN }),
            Feature::Lz4 => self.codec(0, &[0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            // A dictionary of 64 KiB.
            Feature::Lzma => self.codec(1, &[0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            // 15 window bits.
            Feature::Deflate => self.codec(2, &[15, 0, 0, 0, 0, 0]),
            // A window of 2^(10 + 10) bytes.
            Feature::Zstd => self.codec(3, &[0, 10, 0, 0, 0, 0]),
            Feature::Flattened => {
                self.image(&Spec { incompat: incompat::DEVICE_TABLE, flattened: true, ..PLAIN })
            }
            Feature::Layout48 => {
                self.image(&Spec { incompat: incompat::LAYOUT_48BIT, wide: true, ..PLAIN })
            }
            Feature::Overlay => {
                FsContext::open("overlay").map(|_| "fsopen".to_owned()).map_err(Into::into)
            }
            Feature::LowerdirPlus => self.lowerdir_plus(),
            Feature::LayerFds => self.layer_fds(),
            Feature::DetachedLayers => self.detached_layers(),
            Feature::XattrEscape => self.xattr_escape(),
            Feature::XattrWhiteout => self.xattr_whiteout(),
            Feature::OverlayUpper => self.overlay_upper(),
            Feature::Loop => self.loop_device().map(|device| device.path().display().to_string()),
            Feature::LoopDirectIo => self.loop_direct_io(),
            Feature::IdMapped => self.id_mapped(),
            Feature::UserNamespace => {
                UserNamespace::new().map(|_| "made one".to_owned()).map_err(Into::into)
            }
            Feature::Fuse => fuse(),
            Feature::Verity => self.verity(),
            Feature::DmVerity => dm_verity(),
            Feature::Immutable => self.immutable(),
            Feature::DirTypes => self.dir_types(),
            Feature::TrustedXattrs => self.trusted_xattrs(),
            Feature::TmpFile => self.tmpfile().map(|_| "made one".to_owned()).map_err(Into::into),
            Feature::Reflink => self.reflink(),
            Feature::CopyFileRange => self.copy_file_range(),
            Feature::ProjectQuota => super::project_quota(self.dir.as_fd()).map_err(Into::into),
            Feature::SizedImage => self.sized_image(),
        }
    }

    fn needs(&self, feature: Feature) -> Result<(), Failure> {
        if self.caps.has(feature) { Ok(()) } else { Err(Failure::Needs(feature)) }
    }

    fn tmpfile(&self) -> Result<File, Errno> {
        scratch(self.dir.as_fd())
    }

    /// An unused name in the directory.
    fn free_name() -> String {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        format!(".erolith-probe-{}-{count}", std::process::id())
    }

    /// A file in the directory that has no name, at the latest when this returns.
    fn file(&self, content: &[u8]) -> Result<File, Failure> {
        let file = match self.tmpfile() {
            Ok(file) => file,
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => {
                let name = Self::free_name();
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
                let fd = rustix::fs::openat(&self.dir, &name, flags, Mode::RUSR | Mode::WUSR)?;
                rustix::fs::unlinkat(&self.dir, &name, AtFlags::empty())?;
                File::from(fd)
            }
            Err(errno) => return Err(errno.into()),
        };
        std::os::unix::fs::FileExt::write_all_at(&file, content, 0)?;
        Ok(file)
    }

    /// Mounts an image from a file, or by a loop device where that is the way.
    fn mount(&self, spec: &Spec<'_>) -> Result<OwnedFd, Failure> {
        let image = self.file(&images::build(spec))?;
        let context = read_only_erofs()?;
        if self.caps.has(Feature::FileBacked) {
            context.file("source", image.as_fd())?;
            return Ok(context.mount(MountAttrFlags::MOUNT_ATTR_RDONLY)?);
        }
        let device = loopdev::attach(image.as_fd(), 512, Access::ReadOnly)?;
        context.string("source", &device.path().to_string_lossy())?;
        Ok(context.mount(MountAttrFlags::MOUNT_ATTR_RDONLY)?)
    }

    fn direct_file(&self) -> Attempt {
        self.needs(Feature::FileBacked)?;
        let unsound = |text: String| Failure::Kernel(Errno::OPNOTSUPP, text);
        if !directio::is_sound_here() {
            let release = &self.caps.place.release;
            return Err(unsound(format!("Linux {release} may have CVE-2026-23224")));
        }
        if !directio::is_aligned(&self.file(&[0; 4096])?, 4096) {
            return Err(unsound(format!("no direct I/O of 4 KiB on {}", self.caps.place.fs_type)));
        }
        self.file_backed(&["directio"])
    }

    fn file_backed(&self, options: &[&str]) -> Attempt {
        self.needs(Feature::Erofs)?;
        let image = self.file(&images::build(&PLAIN))?;
        let context = read_only_erofs()?;
        options.iter().try_for_each(|option| context.flag(option))?;
        context.file("source", image.as_fd())?;
        context.mount(MountAttrFlags::MOUNT_ATTR_RDONLY)?;
        Ok(format!("mounted an image from {}", self.caps.place.fs_type))
    }

    fn image(&self, spec: &Spec<'_>) -> Attempt {
        self.needs(Feature::Erofs)?;
        self.mount(spec).map(|_| "mounted an image".to_owned())
    }

    fn codec(&self, algorithm: u16, config: &[u8]) -> Attempt {
        let incompat = incompat::ZERO_PADDING | incompat::COMPR_CFGS;
        self.image(&Spec { incompat, algorithms: 1 << algorithm, config, ..PLAIN })
    }

    fn lowerdir_plus(&self) -> Attempt {
        self.needs(Feature::Overlay)?;
        FsContext::open("overlay")?.string("lowerdir+", "/")?;
        Ok("accepted".to_owned())
    }

    fn layer_fds(&self) -> Attempt {
        self.needs(Feature::LowerdirPlus)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open("/", flags, Mode::empty())?;
        FsContext::open("overlay")?.fd("lowerdir+", root.as_fd())?;
        Ok("accepted".to_owned())
    }

    fn detached_layers(&self) -> Attempt {
        self.needs(Feature::LayerFds)?;
        match super::overlay_route()? {
            OverlayRoute::Detached => Ok("mounted an overlay of two".to_owned()),
            OverlayRoute::Scratch => Err(Errno::INVAL.into()),
        }
    }

    /// An overlay of two images, by the way that works here.
    fn overlay(&self, lower: &[Node<'_>], upper: &[Node<'_>]) -> Result<OwnedFd, Failure> {
        self.needs(Feature::Overlay)?;
        self.needs(Feature::Erofs)?;
        let layers = [
            self.mount(&Spec { nodes: lower, ..PLAIN })?,
            self.mount(&Spec { nodes: upper, ..PLAIN })?,
        ];
        let route = match self.caps.has(Feature::DetachedLayers) {
            true => OverlayRoute::Detached,
            false => OverlayRoute::Scratch,
        };
        let step = OverlayStep::new(layers.len(), route, MountAttrFlags::MOUNT_ATTR_RDONLY)?;
        Ok(mount_overlay(&step, &layers)?)
    }

    fn xattr_escape(&self) -> Attempt {
        let root = Node { entries: &[("d", 1)], ..EMPTY };
        let escaped = Node { xattr: Some((marks::ESCAPED_OPAQUE, marks::YES)), ..EMPTY };
        let overlay = self.overlay(&[EMPTY], &[root, escaped])?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(&overlay, "d", flags, Mode::empty())?;
        let mut value = [0u8; 8];
        let got = rustix::fs::fgetxattr(&dir, marks::OPAQUE, &mut value)?;
        if value.get(..got) != Some(marks::YES) {
            return Err(Errno::NODATA.into());
        }
        Ok("read an escaped xattr".to_owned())
    }

    fn xattr_whiteout(&self) -> Attempt {
        let file = Node { mode: mode::IFREG | 0o644, xattr: None, entries: &[] };
        let root = Node { entries: &[("d", 1)], ..EMPTY };
        let dir = Node { entries: &[("f", 2)], ..EMPTY };
        let marked = Node { xattr: Some((marks::OPAQUE, marks::HOLDS_WHITEOUTS)), ..dir };
        let whiteout = Node { xattr: Some((marks::WHITEOUT, &[])), ..file };
        let overlay = self.overlay(&[root, dir, file], &[root, marked, whiteout])?;
        match rustix::fs::statat(&overlay, "d/f", AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok("hid a file".to_owned()),
            Err(other) => Err(other.into()),
            Ok(_) => Err(Failure::Kernel(Errno::EXIST, "the file is still seen".to_owned())),
        }
    }

    /// An overlay takes no upper directory without a name, so there is one for a moment.
    fn overlay_upper(&self) -> Attempt {
        self.needs(Feature::Overlay)?;
        let path = self.caps.place.dir.join(Self::free_name());
        make_dir(&path, 0o700)?;
        let tried = written_overlay(&path);
        remove_tree(&path)?;
        tried.map(|()| format!("wrote through an overlay over {}", self.caps.place.fs_type))
    }

    fn dir_types(&self) -> Attempt {
        // Every directory has this name, and overlayfs asks with it too.
        for entry in rustix::fs::Dir::read_from(&self.dir)? {
            let entry = entry?;
            if entry.file_name() == c"." {
                let known = entry.file_type() == rustix::fs::FileType::Directory;
                let unknown = || Failure::Kernel(Errno::NOTSUP, "not told".to_owned());
                return known.then(|| "told".to_owned()).ok_or_else(unknown);
            }
        }
        Err(Failure::Kernel(Errno::NOENT, "the directory does not list itself".to_owned()))
    }

    fn trusted_xattrs(&self) -> Attempt {
        let file = self.file(&[])?;
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::fsetxattr(&file, "trusted.erolith.probe", b"1", flags)?;
        Ok("set on a file".to_owned())
    }

    fn loop_device(&self) -> Result<loopdev::LoopDevice, Failure> {
        let file = self.file(&[0; 4096])?;
        Ok(loopdev::attach(file.as_fd(), 4096, Access::ReadOnly)?)
    }

    fn loop_direct_io(&self) -> Attempt {
        self.needs(Feature::Loop)?;
        if self.loop_device()?.status()?.direct_io {
            return Ok("switched on".to_owned());
        }
        let text = format!("not switched on over {}", self.caps.place.fs_type);
        Err(Failure::Kernel(Errno::OPNOTSUPP, text))
    }

    fn id_mapped(&self) -> Attempt {
        self.needs(Feature::Erofs)?;
        let mount = self.mount(&PLAIN)?;
        let namespace = UserNamespace::new()?;
        idmap::map_ids(mount.as_fd(), namespace.as_fd())?;
        Ok("mapped a mount".to_owned())
    }

    fn verity(&self) -> Attempt {
        let file = self.file(&[0; 4096])?;
        // No descriptor may be open for writing then, so another one takes over.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let read_only = rustix::fs::open(path, flags, Mode::empty())?;
        drop(file);
        fs_verity::enable(read_only.as_fd())?;
        Ok("enabled on a file".to_owned())
    }

    fn immutable(&self) -> Attempt {
        let file = self.file(&[])?;
        let flags = rustix::fs::ioctl_getflags(&file)?;
        rustix::fs::ioctl_setflags(&file, flags | IFlags::IMMUTABLE)?;
        rustix::fs::ioctl_setflags(&file, flags)?;
        Ok("set on a file".to_owned())
    }

    fn reflink(&self) -> Attempt {
        let (from, to) = (self.file(&[1; 4096])?, self.file(&[])?);
        rustix::fs::ioctl_ficlone(&to, &from)?;
        Ok("cloned a file".to_owned())
    }

    fn copy_file_range(&self) -> Attempt {
        let (from, to) = (self.file(&[1; 4096])?, self.file(&[])?);
        let copied = rustix::fs::copy_file_range(&from, Some(&mut 0), &to, Some(&mut 0), 4096)?;
        Ok(format!("copied {copied} bytes"))
    }

    fn sized_image(&self) -> Attempt {
        self.needs(Feature::Loop)?;
        Ok(super::sized_image(&self.file(&[])?)?)
    }
}

/// The filesystem itself has to be read-only too: else the kernel opens a loop device for writing, which it is not for.
fn read_only_erofs() -> Result<FsContext> {
    let context = FsContext::open("erofs")?;
    context.flag("ro")?;
    Ok(context)
}

/// Mounts an overlay over directories in `dir`, and writes a file.
fn written_overlay(dir: &Path) -> Result<(), Failure> {
    let names = OverlayDir::NAMES;
    let context = FsContext::open("overlay")?;
    // Before Linux 6.5 their names are looked up when the overlay is made, and not before.
    let mut dirs = Vec::with_capacity(names.len());
    for name in names {
        make_dir(&dir.join(name), 0o700)?;
        let opened = open_dir(&dir.join(name))?;
        context.file(name, opened.as_fd())?;
        dirs.push(opened);
    }
    let mount = context.mount(MountAttrFlags::empty())?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::openat(&mount, "file", flags, Mode::RUSR)?;
    Ok(())
}

fn dm_verity() -> Attempt {
    match crate::sys::dm::DeviceMapper::with_target("verity")? {
        Some(_) => Ok("the device mapper has the target".to_owned()),
        None => Err(Errno::NODEV.into()),
    }
}

fn fuse() -> Attempt {
    rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    Ok("opened /dev/fuse".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_of_attempts() {
        let table: [(Attempt, State, &str); 4] = [
            (Ok("did".to_owned()), State::Present, "did"),
            (Err(Errno::NOTBLK.into()), State::Missing, "ENOTBLK: Block device required"),
            (Err(Errno::PERM.into()), State::Denied, "EPERM: Operation not permitted"),
            (Err(Failure::Needs(Feature::Erofs)), State::Untried, "needs erofs"),
        ];
        for (attempt, state, evidence) in table {
            let evidence = evidence.to_owned();
            assert_eq!(Finding::from(attempt), Finding { state, evidence });
        }
    }

    #[test]
    fn a_probe_answers_everything_and_leaves_no_file() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let caps = KernelCaps::probe(dir.path()).unwrap();
        for row in caps.explain() {
            assert_ne!(row.evidence, "not tried", "{}", row.feature.name());
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    /// As on a kernel that mounts no files.
    #[test]
    fn images_are_tried_through_loop_devices() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let caps = KernelCaps::probe(dir.path()).unwrap();
        if !(caps.has(Feature::Block(12)) && caps.has(Feature::Loop)) {
            assert!(std::env::var_os("CI").is_none(), "no EROFS, or no loop devices");
            println!("skipped: no EROFS, or no loop devices");
            return;
        }
        let fd = rustix::fs::open(dir.path(), OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let caps = KernelCaps::from_parts(caps.place, [(Feature::Erofs, Ok(String::new()).into())]);
        let prober = Prober { dir: fd.unwrap(), caps };
        assert!(prober.image(&PLAIN).is_ok());
    }

    /// The control of the attempts: an image with something that no kernel has is refused, so an image that
    /// is mounted says something.
    #[test]
    fn unknown_codecs_and_features_are_missing() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let caps = KernelCaps::probe(dir.path()).unwrap();
        if !caps.has(Feature::Block(12)) {
            assert!(std::env::var_os("CI").is_none(), "EROFS cannot be mounted here");
            println!("skipped: EROFS cannot be mounted here");
            return;
        }
        let fd = rustix::fs::open(dir.path(), OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let prober = Prober { dir: fd.unwrap(), caps };
        assert!(prober.codec(12, &[0; 14]).is_err());
        assert!(prober.image(&Spec { incompat: 1 << 30, ..PLAIN }).is_err());
        assert!(prober.image(&Spec { block_bits: 8, ..PLAIN }).is_err());
    }
}
