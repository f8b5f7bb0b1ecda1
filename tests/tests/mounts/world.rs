//! A place for one test: images, directories, and an account of what a mount may leave behind.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use erolith_mkfs::build::{Builder, Finish, Options};
use erolith_mkfs::format::DEFAULT_BLOCK_BITS;
use erolith_mkfs::io::{FileInput, FileSink};
use erolith_mkfs::tar::Limits;
use erolith_mkfs::tree::{LayerOptions, OverlayXattrs, XattrPolicy};
use erolith_snapshotter::Result;
use erolith_snapshotter::kernel::{Feature, KernelCaps};
use erolith_snapshotter::mounts::{
    Backing, MountLayer, MountOptions, Mounted, OverlayRoute, Request, mount, table,
};
use erolith_tests::mount::available;
use erolith_tests::tools::skipped;
use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use tempfile::TempDir;

/// File descriptors and loop devices are counted, so tests of this file run one after the other.
static SERIAL: Mutex<()> = Mutex::new(());

/// A temporary directory on disk with everything of one test inside.
pub(crate) struct World {
    root: TempDir,
    pub(crate) target: PathBuf,
    /// The ways to give overlayfs its layers that this kernel has.
    pub(crate) routes: Vec<OverlayRoute>,
    /// The ways to an image that this kernel and the filesystem have.
    pub(crate) backings: Vec<Backing>,
    /// This kernel finds extra devices behind the image in the same file.
    pub(crate) joined: bool,
    /// There is a way to read images past their page cache.
    pub(crate) reads_directly: bool,
    _serial: MutexGuard<'static, ()>,
}

/// What a test must not change.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Account {
    mounts: Vec<PathBuf>,
    loops: Vec<PathBuf>,
    fds: usize,
    names: Vec<PathBuf>,
}

impl World {
    /// In `/var/tmp`, which is on disk where `/tmp` may not be.
    pub(crate) fn on_disk() -> Option<Self> {
        Self::on("/var/tmp")
    }

    /// `None`, after saying why, when mounts cannot be tested here; a failure where CI must not skip.
    pub(crate) fn on(parent: &str) -> Option<Self> {
        let serial = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(why) = available() {
            skipped(&why);
            return None;
        }
        let root = TempDir::with_prefix_in("erolith-mounts-", parent).unwrap();
        let target = root.path().join("target");
        fs::create_dir(&target).unwrap();
        let caps = KernelCaps::probe(root.path()).unwrap();
        let mut routes = vec![OverlayRoute::Scratch];
        routes.extend(caps.has(Feature::DetachedLayers).then_some(OverlayRoute::Detached));
        let mut backings = vec![Backing::Auto, Backing::Loop];
        backings.extend(caps.has(Feature::FileBacked).then_some(Backing::File));
        let joined = caps.has(Feature::Flattened);
        let reads_directly = caps.has(Feature::DirectFile) || caps.has(Feature::LoopDirectIo);
        Some(Self { root, target, routes, backings, joined, reads_directly, _serial: serial })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// A directory to build a tree in.
    pub(crate) fn tree(&self, name: &str) -> Tree {
        let dir = self.path(name);
        fs::create_dir(&dir).unwrap();
        Tree(dir)
    }

    /// The image of a tree, which is a layer already: whiteouts and overlay xattrs are taken as they are.
    pub(crate) fn image(&self, tree: &Tree) -> PathBuf {
        self.image_with(tree, DEFAULT_BLOCK_BITS)
    }

    pub(crate) fn image_with(&self, tree: &Tree, block_bits: u8) -> PathBuf {
        let xattrs = XattrPolicy {
            keep_trusted: true,
            overlay: OverlayXattrs::Keep,
            ..XattrPolicy::default()
        };
        let layer = LayerOptions { whiteouts: false, xattrs, ..LayerOptions::default() };
        let path = tree.0.with_extension("erofs");
        let mut builder = self.builder(&path, Options { block_bits, layer, ..Options::default() });
        let go_on = || Ok::<_, erolith_overlay::Error>(());
        erolith_overlay::fill_from_dir(&mut builder, File::open(&tree.0).unwrap().as_fd(), go_on)
            .unwrap();
        builder.finish(&Finish::default()).unwrap();
        path
    }

    /// The index of a tar whose files stay in the tar.
    pub(crate) fn tar_index(&self, archive: &Path) -> PathBuf {
        let path = archive.with_extension("index.erofs");
        let options = Options { tar_index: true, ..Options::default() };
        let mut builder = self.builder(&path, options);
        let input = FileInput::new(File::open(archive).unwrap()).unwrap();
        builder.fill_from_tar(input, Limits::default()).unwrap();
        let device_bytes = fs::metadata(archive).unwrap().len();
        builder.finish(&Finish { device_bytes, ..Finish::default() }).unwrap();
        path
    }

    fn builder(&self, path: &Path, options: Options) -> Builder<FileSink> {
        let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
        let dir = File::open(self.root.path()).unwrap();
        Builder::new(FileSink::new(file, dir.into()), options).unwrap()
    }

    /// `count` images, each with a file of its own, `common`, and bottom first.
    pub(crate) fn stack(&self, count: usize) -> Vec<PathBuf> {
        let tree = self.tree("stack");
        (0..count)
            .map(|i| {
                let name = tree.0.join(format!("file{i}"));
                fs::rename(tree.0.join(format!("file{}", i.wrapping_sub(1))), &name).ok();
                tree.file("common", &format!("{i}\n"));
                tree.file(&format!("file{i}"), &format!("{i}\n"));
                let image = self.image(&tree);
                let kept = self.path(&format!("{i}.erofs"));
                fs::rename(image, &kept).unwrap();
                kept
            })
            .collect()
    }

    pub(crate) fn account(&self) -> Account {
        let root = self.root.path();
        let table = table::read().unwrap();
        let mut names: Vec<_> =
            fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        Account {
            mounts: table::below(&table, root).map(|m| m.mount_point.clone()).collect(),
            loops: loops_below(root),
            fds: fs::read_dir("/proc/self/fd").unwrap().count(),
            names,
        }
    }

    /// Waits for the kernel to finish what it does after a process or a namespace is gone.
    pub(crate) fn settles_to(&self, want: &Account) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.account() != *want && Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert_eq!(self.account(), *want);
    }
}

/// Loop devices whose backing file is below `root`.
fn loops_below(root: &Path) -> Vec<PathBuf> {
    let devices = fs::read_dir("/sys/block").unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = devices
        .filter_map(|device| fs::read_to_string(device.join("loop/backing_file")).ok())
        .map(PathBuf::from)
        .filter(|file| file.starts_with(root))
        .collect();
    found.sort();
    found
}

/// A directory that becomes an image.
pub(crate) struct Tree(pub(crate) PathBuf);

impl Tree {
    pub(crate) fn file(&self, name: &str, content: &str) -> &Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "a test's input need not be published atomically"
        )]
        fs::write(self.0.join(name), content).unwrap();
        self
    }

    pub(crate) fn dir(&self, name: &str) -> &Self {
        fs::create_dir(self.0.join(name)).unwrap();
        self
    }

    pub(crate) fn link(&self, name: &str, to: &str) -> &Self {
        symlink(to, self.0.join(name)).unwrap();
        self
    }

    pub(crate) fn device(&self, name: &str, major: u32, minor: u32, permissions: u32) -> &Self {
        let device = rustix::fs::makedev(major, minor);
        let mode = Mode::from_raw_mode(permissions);
        rustix::fs::mknodat(CWD, self.0.join(name), FileType::CharacterDevice, mode, device)
            .unwrap();
        self
    }

    pub(crate) fn whiteout(&self, name: &str) -> &Self {
        self.device(name, 0, 0, 0)
    }

    pub(crate) fn xattr(&self, name: &str, key: &str, value: &str) -> &Self {
        let path = self.0.join(name);
        rustix::fs::lsetxattr(path, key, value.as_bytes(), XattrFlags::empty()).unwrap();
        self
    }
}

/// Mounts images with these choices and no structural check.
pub(crate) fn mount_with(
    images: &[impl AsRef<OsStr>],
    target: &Path,
    backing: Backing,
    route: Option<OverlayRoute>,
) -> Result<Mounted> {
    let request = Request {
        layers: images.iter().map(|image| layer(Path::new(image))).collect(),
        target: target.to_owned(),
        backing,
        options: MountOptions::default(),
        route,
    };
    mount(request, &|_| Ok(()))
}

pub(crate) fn layer(image: &Path) -> MountLayer {
    let name = image.file_name().unwrap().to_string_lossy().into_owned();
    MountLayer { name, image: File::open(image).unwrap(), devices: Vec::new() }
}

/// The whole tree at `dir` as sorted lines: path, type, and content or link target.
pub(crate) fn listing(dir: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(next) = pending.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(dir).unwrap().display();
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            if kind.is_dir() {
                lines.push(format!("{name}/"));
                pending.push(path);
            } else if kind.is_file() {
                lines.push(format!("{name}: {}", fs::read_to_string(&path).unwrap().trim_end()));
            } else if kind.is_symlink() {
                lines.push(format!("{name} -> {}", fs::read_link(&path).unwrap().display()));
            } else {
                lines.push(format!("{name}: {kind:?}"));
            }
        }
    }
    lines.sort();
    lines
}
