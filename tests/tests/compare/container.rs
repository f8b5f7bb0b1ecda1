//! A container as overlayfs makes it, and what its layers show afterwards.

use std::fs::{self, File};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use erolith_differ::Compression;
use erolith_differ::compare::{Compare, Compared, LayerFormat, upper};
use erolith_mkfs::build::Options;
use erolith_mkfs::check;
use erolith_mkfs::io::Stream;
use erolith_overlay::{Marks, OverlayLayer, Stack};
use erolith_tests::containerd::Oracle;
use erolith_tests::listing::{Blind, Listing};
use erolith_tests::mount::Mounted;
use erolith_tests::{build, tools};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};
use tempfile::TempDir;

/// How overlayfs is mounted.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    pub marks: Marks,
    /// Renamed directories (`redirect_dir`) and changed attributes (`metacopy`) refer to the layers below.
    pub by_reference: bool,
    /// All names of a file below show what is written under one of them (`index`).
    pub index: bool,
    /// The layers below are mounted images instead of directories.
    pub on_images: bool,
}

impl Kind {
    const PLAIN: Self =
        Self { marks: Marks::Trusted, by_reference: false, index: false, on_images: false };

    pub const ALL: [Self; 6] = [
        Self::PLAIN,
        Self { marks: Marks::User, ..Self::PLAIN },
        Self { by_reference: true, index: true, ..Self::PLAIN },
        Self { by_reference: true, index: true, on_images: true, ..Self::PLAIN },
        Self { index: true, on_images: true, ..Self::PLAIN },
        Self { by_reference: true, ..Self::PLAIN },
    ];
}

/// A container: two lower directories, an upper one, and what an overlayfs shows of them.
pub struct Container {
    dir: TempDir,
    pub kind: Kind,
    mount: Option<OwnedFd>,
    /// The images below, the topmost first.
    lowers: Vec<Mounted>,
}

impl Container {
    /// On disk, where an overlayfs may have its upper.
    pub fn new(kind: Kind) -> Self {
        let dir = TempDir::with_prefix_in("erolith-compare-", "/var/tmp").unwrap();
        for name in ["base", "lower", "upper", "work"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { dir, kind, mount: None, lowers: Vec::new() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The running container: changes go to the upper.
    pub fn start(&mut self) -> Result<PathBuf, String> {
        let fail = |e: rustix::io::Errno| format!("an overlayfs on disk: {e}");
        let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(fail)?;
        if self.kind.on_images {
            let images = ["lower", "base"].map(|name| Mounted::erofs(&self.image(name), &[]));
            self.lowers = images.into_iter().collect::<Result<_, _>>()?;
        }
        for lower in self.lower_dirs() {
            fsconfig_set_string(&fs, "lowerdir+", lower).map_err(fail)?;
        }
        for (key, name) in [("upperdir", "upper"), ("workdir", "work")] {
            fsconfig_set_string(&fs, key, self.path(name)).map_err(fail)?;
        }
        let switch = |is_on: bool| if is_on { "on" } else { "off" };
        match self.kind.marks {
            Marks::User => fsconfig_set_flag(&fs, "userxattr").map_err(fail)?,
            Marks::Trusted => {
                let Kind { by_reference, index, .. } = self.kind;
                let keys = [("redirect_dir", by_reference), ("metacopy", by_reference)];
                for (key, is_on) in keys.into_iter().chain([("index", index)]) {
                    fsconfig_set_string(&fs, key, switch(is_on)).map_err(fail)?;
                }
            }
        }
        fsconfig_create(&fs).map_err(fail)?;
        let flags = FsMountFlags::FSMOUNT_CLOEXEC;
        let fd = fsmount(fs.as_fd(), flags, MountAttrFlags::empty()).map_err(fail)?;
        self.mount = Some(fd);
        Ok(self.root())
    }

    fn root(&self) -> PathBuf {
        let mount = self.mount.as_ref().unwrap();
        PathBuf::from(format!("/proc/self/fd/{}/.", mount.as_raw_fd()))
    }

    /// The directories below that the overlay has, the topmost first.
    fn lower_dirs(&self) -> Vec<PathBuf> {
        match self.lowers.as_slice() {
            [] => ["lower", "base"].map(|name| self.path(name)).into(),
            images => images.iter().map(Mounted::path).collect(),
        }
    }

    /// The layers below and all of them, as directories. The index is found where it is.
    pub fn dirs(&self) -> (Stack, Stack) {
        let dir = |path: PathBuf| OverlayLayer::dir(File::open(path).unwrap().into());
        let lowers = self.lower_dirs().into_iter().map(dir).collect();
        let lowers = Stack::new(lowers, self.kind.marks);
        let all = lowers.with_upper(upper(&self.path("upper"), None).unwrap());
        (lowers, all)
    }

    /// The same with images below, and the work directory named.
    pub fn images(&self) -> (Stack, Stack) {
        let image = |name: &str| {
            OverlayLayer::image(Arc::new(File::open(self.image(name)).unwrap())).unwrap()
        };
        let lowers = Stack::new(vec![image("lower"), image("base")], self.kind.marks);
        let work = self.path("work");
        let all = lowers.with_upper(upper(&self.path("upper"), Some(&work)).unwrap());
        (lowers, all)
    }

    /// Every way in which what changed is found. An index knows files by the inodes that they had below.
    fn ways(&self) -> Vec<(&'static str, (Stack, Stack))> {
        let mut ways = vec![("dirs", self.dirs()), ("mounts", self.mounts())];
        if self.kind.on_images || !self.kind.index {
            ways.push(("images", self.images()));
        }
        ways
    }

    /// Both sides mounted, as a differ that knows nothing of overlays compares them.
    fn mounts(&self) -> (Stack, Stack) {
        let (lowers, _) = self.dirs();
        let seen = OverlayLayer::dir(File::open(self.root()).unwrap().into());
        (lowers, Stack::new(vec![seen], self.kind.marks))
    }

    /// The image of a lower directory.
    fn image(&self, name: &str) -> PathBuf {
        let image = self.path(&format!("{name}.erofs"));
        if !image.exists() {
            let mut options = Options::default();
            options.layer.xattrs.keep_trusted = true;
            // overlayfs knows two layers apart by their UUIDs, and keeps no index of layers without.
            let uuid = [u8::try_from(name.len()).unwrap(); 16];
            build::from_dir_as(&self.path(name), &image, &options, uuid).unwrap();
        }
        image
    }

    /// A layer of what changed in the container.
    pub fn layer(&self, format: LayerFormat) -> (Compared, Vec<u8>) {
        self.try_layer(format).unwrap()
    }

    /// The same of a container that may be writing.
    pub fn try_layer(&self, format: LayerFormat) -> erolith_differ::Result<(Compared, Vec<u8>)> {
        let (old, new) = self.dirs();
        write(&Compare::new(format), &old, &new)
    }

    /// What the container sees.
    pub fn seen(&self) -> Listing {
        Listing::from_dir(&self.root()).unwrap()
    }

    /// What a stack of images shows of its lowers and of a layer.
    pub fn shown(&self, format: LayerFormat, blob: &[u8]) -> Listing {
        let layer = self.path("layer.erofs");
        let _ = fs::remove_file(&layer);
        match format {
            LayerFormat::Tar(_) => {
                build::from_tar(Stream(blob), &layer, &Options::default()).unwrap();
            }
            LayerFormat::Erofs | LayerFormat::ErofsZstd => super::work::write(&layer, blob),
        }
        let file = File::open(&layer).unwrap();
        let report = check::check(&file, &[], &check::Limits::default()).unwrap();
        assert_eq!(report.errors().count(), 0, "{:?}", report.errors().next());
        let layers = [self.image("base"), self.image("lower"), layer];
        let layers = layers.map(|image| Mounted::erofs(&image, &[]).unwrap());
        Listing::from_dir(&Mounted::overlay(&layers).unwrap().path()).unwrap()
    }

    /// What containerd leaves of the lowers, copied to a directory, when it unpacks a layer onto them.
    fn unpacked(&self, oracle: &Oracle, archive: &[u8]) -> Listing {
        let (tree, tar) = (self.path("tree"), self.path("layer.tar"));
        let lowers = [self.image("base"), self.image("lower")];
        let lowers = lowers.map(|image| Mounted::erofs(&image, &[]).unwrap());
        let below = Mounted::overlay(&lowers).unwrap();
        // From inside: its path leads through this process.
        let mut copy = Command::new("cp");
        copy.args(["-a", "."]).arg(&tree).current_dir(below.path());
        assert!(copy.status().unwrap().success());
        super::work::write(&tar, archive);
        oracle.apply_onto(&tar, &tree).unwrap();
        let listing = Listing::from_dir(&tree).unwrap();
        fs::remove_dir_all(&tree).unwrap();
        listing
    }

    /// What the container sees, without what Go's archives cannot say: attributes with an equals sign in their names.
    fn seen_by_go(seen: &Listing) -> Listing {
        let mut seen = seen.clone();
        for node in seen.nodes.values_mut() {
            node.xattrs.retain(|name, _| !name.contains(&b'='));
        }
        seen
    }

    /// Sees to it that the container, the images of its layers, and what containerd unpacks, are the same, but for what an
    /// overlayfs answers of its own accord; whatever the layer is written as, and however what changed is found.
    pub fn judge(&self, context: &str) -> Listing {
        let blind = [Blind::Root, Blind::DirLinks, Blind::Links];
        let (seen, oracle) = (self.seen().blind(&blind), Oracle::find());
        for format in [LayerFormat::Tar(Compression::None), LayerFormat::Erofs] {
            for (way, (old, new)) in self.ways() {
                let (_, blob) = write(&Compare::new(format), &old, &new).unwrap();
                let shown = self.shown(format, &blob).blind(&blind);
                let context = format!("{context}, {:?}, {format:?}, {way}", self.kind);
                seen.assert_eq(&shown, ("container", "layers"), &context);
                match (&oracle, format) {
                    (Ok(oracle), LayerFormat::Tar(_)) => {
                        let unpacked = self.unpacked(oracle, &blob).blind(&blind);
                        let seen = Self::seen_by_go(&seen);
                        seen.assert_eq(&unpacked, ("container", "containerd"), &context);
                    }
                    (Err(why), LayerFormat::Tar(_)) => tools::skipped(why),
                    _ => {}
                }
            }
        }
        seen
    }
}

fn write(how: &Compare, old: &Stack, new: &Stack) -> erolith_differ::Result<(Compared, Vec<u8>)> {
    let mut blob = Vec::new();
    how.write(old, new, &mut blob).map(|compared| (compared, blob))
}
