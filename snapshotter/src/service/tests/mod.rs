//! The service with real images and real mounts. Each test has a mount table of its own.

mod chain;
mod faults;
mod layers;
mod limits;
mod owners;
mod quota;
mod recovery;
mod repair;
mod sound;
mod verity;

use std::ffi::CString;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};
use tempfile::TempDir;

use super::*;
use crate::mounts::{Backing, mounted_at, table};
use crate::store::{Labels, Usage};
use crate::sys::namespace::in_private_mount_namespace;
use crate::{Error, ServiceError};

/// The blob that remembered images are made from.
const BLOB: &str = "sha256:b10b";

/// A caller that knows staged snapshots, and what its namespace has.
struct Stages {
    is_known: bool,
    blob: Option<&'static str>,
}

/// One that has the blob.
const STAGES: Stages = Stages { is_known: true, blob: Some(BLOB) };

impl Staging for Stages {
    fn is_known(&self) -> bool {
        self.is_known
    }

    fn has_blob(&self, blob: &str, _diff_id: &str) -> bool {
        self.blob == Some(blob)
    }
}

/// Directories of one service. The state directory has as many bytes as the default one.
pub(crate) struct Site {
    dir: TempDir,
    state: TempDir,
}

impl Site {
    pub(crate) fn new() -> Self {
        let state = tempfile::Builder::new().prefix("e").rand_bytes(6).tempdir_in("/run").unwrap();
        Self { dir: tempfile::tempdir_in("/var/tmp").unwrap(), state }
    }

    fn config(&self) -> Config {
        let state = self.state.path().to_owned();
        Config { state, limit_by: limit_by(), ..Config::new(self.root()) }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub(crate) fn open(&self) -> Snapshotter {
        opened(self.config())
    }

    /// A directory to mount at.
    fn target(&self, name: &str) -> PathBuf {
        let target = self.dir.path().join("mnt").join(name);
        fs::create_dir_all(&target).unwrap();
        target
    }

    /// What is mounted below the state directory, relative to it.
    fn lowers(&self) -> Vec<String> {
        let state = self.state.path();
        let mut found: Vec<_> = table::below(&table::read().unwrap(), state)
            .map(|e| e.mount_point.strip_prefix(state).unwrap().to_str().unwrap().to_owned())
            .collect();
        found.sort_unstable();
        found
    }

    /// The names in `snapshots`.
    fn directories(&self) -> Vec<String> {
        let mut names = names_of(&self.dir.path().join("root/snapshots"));
        names.sort_unstable();
        names
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for dir in [self.dir.path(), self.state.path()] {
            unmount_below(dir);
        }
    }
}

fn unmount_below(dir: &Path) {
    let mut table = table::read().unwrap();
    table.reverse();
    for entry in table.iter().filter(|entry| entry.mount_point.starts_with(dir)) {
        rustix::mount::unmount(&entry.mount_point, UnmountFlags::DETACH).ok();
    }
}

/// Runs `work` with mounts that no other process sees; says so where that is not possible.
fn with_mounts(work: impl FnOnce(&Site) + Send) {
    let outcome = in_private_mount_namespace(|| work(&Site::new()));
    if let Err(errno) = outcome {
        assert!(std::env::var_os("CI").is_none(), "no mount namespace: {errno}");
        println!("skipped: no mount namespace: {errno}");
    }
}

/// Opens a service on a root that another process has for a moment at most.
fn opened(config: Config) -> Snapshotter {
    patiently(is_in_use, || Snapshotter::open(config.clone())).unwrap()
}

fn is_in_use(error: &Error) -> bool {
    matches!(error, Error::Service(ServiceError::InUse { .. }))
}

/// Calls again what failed for a reason that passes: the tests are threads of one process, and a program that one of them
/// starts has the descriptors of all between fork and exec.
fn patiently<T, E>(
    is_passing: impl Fn(&E) -> bool,
    call: impl Fn() -> Result<T, E>,
) -> Result<T, E> {
    for _ in 0..200 {
        match call() {
            Err(error) if is_passing(&error) => {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            done => return done,
        }
    }
    call()
}

/// Something mounted, until this is dropped.
struct MountedTree(PathBuf);

impl Drop for MountedTree {
    fn drop(&mut self) {
        let unmount = || rustix::mount::unmount(&self.0, UnmountFlags::empty());
        patiently(|errno| *errno == rustix::io::Errno::BUSY, unmount).unwrap();
    }
}

impl MountedTree {
    /// Does what containerd does with the one mount of the plain profile.
    fn of(mounts: &[Mount], target: PathBuf) -> Self {
        let [mount] = mounts else { panic!("{mounts:?}") };
        let is_ro = mount.options.iter().any(|o| o == "ro");
        if mount.fs_type == "bind" {
            rustix::mount::mount_bind_recursive(&mount.source, &target).unwrap();
            let flags = MountFlags::BIND | MountFlags::RDONLY;
            if is_ro {
                rustix::mount::mount_remount(&target, flags, c"").unwrap();
            }
        } else {
            let data = CString::new(mount.options.join(",")).unwrap();
            let (source, fs_type) = (mount.source.as_str(), mount.fs_type.as_str());
            let done = rustix::mount::mount(source, &target, fs_type, MountFlags::empty(), &*data);
            done.unwrap_or_else(|e| panic!("{e}: {mount:?}"));
        }
        Self(target)
    }

    fn join(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.join(path)).unwrap()
    }

    fn names(&self, path: &str) -> Vec<String> {
        let mut names = names_of(&self.join(path));
        names.sort_unstable();
        names
    }
}

fn names_of(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn write(path: &Path, text: &str) {
    File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// How limits are kept: by images wherever this runs, but where `tests/vm/quota.sh` says that there are quotas.
fn limit_by() -> LimitBy {
    if std::env::var_os(QUOTA).is_some() { LimitBy::Quota } else { LimitBy::Image }
}

/// Set where the filesystem of `/var/tmp` keeps project quotas: `on`, `last` when it does so for
/// the last time, or `off` when it did a moment ago.
const QUOTA: &str = "EROLITH_TEST_QUOTA";

/// Bytes that limited snapshots have in tests.
const LIMIT: u64 = 16 << 20;

/// The label of a limited snapshot.
fn limited() -> Labels {
    labels(&[("containerd.io/snapshot/max-size", &LIMIT.to_string())])
}

fn none() -> Labels {
    Labels::new()
}

/// A layer named `name` on `parent`, with one file called `name` that says `name`.
fn layer(service: &Snapshotter, name: &str, parent: &str) -> u64 {
    let key = format!("making {name}");
    service.prepare(&key, parent, &none()).unwrap();
    let id = service.store.snapshot(&key).unwrap().id;
    write(&service.dir(id).join(layerdir::UPPER).join(name), name);
    service.commit(name, &key, "", &none()).unwrap();
    id
}

/// What these directories take on disk as du(1) counts it: every inode once.
fn on_disk(dirs: &[&Path]) -> Usage {
    let run = |inodes: &[&str]| {
        let out =
            std::process::Command::new("du").args(["-s", "-c"]).args(inodes).args(dirs).output();
        let text = String::from_utf8(out.unwrap().stdout).unwrap();
        text.lines().last().unwrap().split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    Usage { size: run(&["--block-size=512"]) * 512, inodes: run(&["--inodes"]) }
}

/// What a differ of containerd leaves: an image of `tree` in the directory of these mounts.
fn apply(mounts: &[Mount], tree: &Path) -> PathBuf {
    let dir = layerdir::of_mounts(mounts).unwrap();
    let image = dir.join(layerdir::IMAGE);
    // What is there is replaced, and not written over.
    let new = dir.join("new.erofs");
    build_image(tree, &new);
    fs::rename(new, &image).unwrap();
    image
}

fn build_image(tree: &Path, image: &Path) {
    use erolith_mkfs::build::{Builder, Finish, Options};
    use erolith_mkfs::io::FileSink;
    let file = File::create_new(image).unwrap();
    let scratch = File::open(image.parent().unwrap()).unwrap();
    let mut builder =
        Builder::new(FileSink::new(file, scratch.into()), Options::default()).unwrap();
    let tree = File::open(tree).unwrap();
    let go_on = || Ok::<_, erolith_overlay::Error>(());
    erolith_overlay::fill_from_dir(&mut builder, std::os::fd::AsFd::as_fd(&tree), go_on).unwrap();
    builder.finish(&Finish::default()).unwrap();
}

fn status(result: Result<impl std::fmt::Debug>) -> erolith_errors::ErrorStatus {
    result.unwrap_err().status()
}
