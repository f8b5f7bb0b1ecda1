//! The daemon's callers: every call that changes something is announced, made, and reported when it is answered.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use erolith_mkfs::build::Options;
use erolith_mkfs::io::Stream;
use erolith_tests::build;
use erolith_tests::node::Setup;
use sha2::{Digest as _, Sha256};
use tonic::Status;

use crate::console::Console;
use crate::content::{self, Tree};
use crate::model::{Kind, Op, Rows};
use crate::rpc::{Answer, Client, Descriptor, attach, detach};

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
/// A layer that is an image already: it is linked.
const NATIVE: &str = "application/vnd.erofs.layer.v1";

/// One caller.
pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) console: Arc<Console>,
    pub(crate) setup: Setup,
    /// Of this life of the machine, for names that never come again.
    pub(crate) boot: u64,
    /// Scratch of this caller, in memory.
    dir: PathBuf,
    calls: AtomicU64,
    who: String,
}

impl World {
    pub(crate) fn new(console: Arc<Console>, setup: &Setup, boot: u64, who: &str) -> Self {
        let client = Client::connect(&setup.socket());
        let dir = Path::new("/run/callers").join(who);
        fs::create_dir_all(&dir).unwrap();
        let (setup, who) = (setup.clone(), who.to_owned());
        Self { client, console, setup, boot, dir, calls: AtomicU64::new(0), who }
    }

    /// A name that was never used.
    pub(crate) fn name(&self, what: &str) -> String {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        format!("{what}{}-{}-{number}", self.boot, self.who)
    }

    /// Makes one call, which must succeed.
    pub(crate) fn act(&self, op: &Op) {
        let id = self.name("");
        self.console.say_now(&format!("+ {id} {op}"));
        self.call(op).unwrap_or_else(|status| panic!("{op}: {status}"));
        self.console.say(&format!(". {id}"));
    }

    fn call(&self, op: &Op) -> Answer<()> {
        match op {
            Op::Prepare { key, parent } => self.client.prepare(key, parent).map(|_| ()),
            Op::View { key, parent } => self.client.view(key, parent).map(|_| ()),
            Op::Apply { key, seed } => self.apply(key, *seed),
            Op::Write { key, seed } => self.write(key, *seed),
            Op::Commit { name, key } => self.client.commit(name, key),
            Op::Remove { key } => self.client.remove(key),
        }
    }

    fn apply(&self, key: &str, seed: u64) -> Answer<()> {
        let (media_type, bytes) = self.blob(seed);
        let digest: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        let path = self.blobs().join(&digest);
        self.put(&path, &bytes);
        let layer = Descriptor {
            media_type: media_type.into(),
            digest: format!("sha256:{digest}"),
            size: i64::try_from(bytes.len()).unwrap(),
            annotations: BTreeMap::new(),
        };
        let applied = self.client.apply(&layer, &self.client.mounts(key)?)?;
        // containerd collects its garbage at any time. Not what others may be about to use.
        if seed.is_multiple_of(2) {
            fs::remove_file(&path).unwrap();
        }
        let same = applied.digest == layer.digest;
        same.then_some(()).ok_or_else(|| Status::internal(format!("{} applied", applied.digest)))
    }

    /// A layer in the form that its number says.
    fn blob(&self, seed: u64) -> (&'static str, Vec<u8>) {
        let tar = content::archive(seed);
        if seed % 4 != 1 {
            return (TAR, tar);
        }
        let path = self.dir.join("native");
        fs::remove_file(&path).ok();
        build::from_tar(Stream(tar.as_slice()), &path, &Options::default()).unwrap();
        (NATIVE, fs::read(&path).unwrap())
    }

    /// A blob as containerd leaves it: whole, durable, with its name. Others may read one of this name now.
    fn put(&self, path: &Path, bytes: &[u8]) {
        let dir = path.parent().unwrap();
        let unfinished = dir.join(&self.who);
        let mut file = File::create(&unfinished).unwrap();
        file.write_all(bytes).unwrap();
        file.sync_all().unwrap();
        fs::rename(&unfinished, path).unwrap();
        File::open(dir).unwrap().sync_all().unwrap();
    }

    /// Where the daemon finds containerd's blobs.
    pub(crate) fn blobs(&self) -> PathBuf {
        self.setup.containerd.1.join("io.containerd.content.v1.content/blobs/sha256")
    }

    /// Writes as a container does.
    fn write(&self, key: &str, seed: u64) -> Answer<()> {
        let target = self.dir.join("mnt");
        attach(&self.client.mounts(key)?, &target).map_err(Status::internal)?;
        fs::create_dir_all(target.join("d")).unwrap();
        for (path, content) in content::layer(seed) {
            let path = target.join(path);
            match content {
                Some(content) => File::create(&path).unwrap().write_all(&content).unwrap(),
                None => drop(fs::remove_file(&path)),
            }
        }
        detach(&target);
        Ok(())
    }

    /// What a container would see of a snapshot.
    pub(crate) fn look(&self, name: &str) -> Tree {
        let key = self.name("look");
        let mounts = self.client.view(&key, name).unwrap_or_else(|s| panic!("view {name}: {s}"));
        let target = self.dir.join("mnt");
        attach(&mounts, &target).unwrap_or_else(|why| panic!("{name}: {why}"));
        let mut out = Tree::new();
        files(&target, &target, &mut out);
        detach(&target);
        self.client.remove(&key).unwrap_or_else(|s| panic!("remove {key}: {s}"));
        out
    }

    pub(crate) fn rows(&self) -> Rows {
        let all = self.client.list(&[]).unwrap_or_else(|s| panic!("list: {s}"));
        let rows = all.into_iter().map(|info| {
            let kind = match info.kind {
                1 => Kind::View,
                2 => Kind::Active,
                _ => Kind::Committed,
            };
            (info.name, (kind, info.parent))
        });
        rows.collect()
    }
}

/// Regular files below a directory, and what is in them. Nothing else but directories may be there.
fn files(dir: &Path, root: &Path, out: &mut Tree) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let kind = path.symlink_metadata().unwrap().file_type();
        if kind.is_dir() {
            files(&path, root, out);
            continue;
        }
        // What the lowest layer removes, where there is nothing to remove: a view of it alone shows the mark.
        if kind.is_char_device() && path.symlink_metadata().unwrap().rdev() == 0 {
            continue;
        }
        assert!(kind.is_file(), "{}: {kind:?}", path.display());
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let content = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        out.insert(name, content);
    }
}
