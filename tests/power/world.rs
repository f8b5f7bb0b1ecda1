//! The daemon's callers: every call that changes something is announced, made, and reported when it is answered.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use erolith_mkfs::build::Options;
use erolith_mkfs::io::Stream;
use erolith_tests::build;
use erolith_tests::layout::sha256;
use erolith_tests::node::Setup;
use tonic::Status;

use crate::console::Console;
use crate::content::{self, Tree};
use crate::model::{Kind, Op, Rows};
use crate::rpc::{Answer, Client, Descriptor, attach, detach};
use crate::server::{Finding, Server};

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
/// A layer that is an image already: erolith links it. Of the names of such layers, one that containerd 2.1 takes, too.
const NATIVE: &str = "application/vnd.erofs";

/// One caller.
pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) console: Arc<Console>,
    pub(crate) setup: Setup,
    pub(crate) server: Server,
    /// Of this life of the machine, for names that never come again.
    pub(crate) boot: u64,
    /// Scratch of this caller, in memory.
    dir: PathBuf,
    calls: AtomicU64,
    who: String,
    spoiled: AtomicBool,
}

impl World {
    pub(crate) fn new(
        console: Arc<Console>,
        (server, setup): (Server, &Setup),
        boot: u64,
        who: &str,
    ) -> Self {
        let client = Client::connect(&setup.socket());
        let dir = Path::new("/run/callers").join(who);
        fs::create_dir_all(&dir).unwrap();
        let (setup, who) = (setup.clone(), who.to_owned());
        let (calls, spoiled) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { client, console, setup, server, boot, dir, calls, who, spoiled }
    }

    /// A name that was never used.
    pub(crate) fn name(&self, what: &str) -> String {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        format!("{what}{}-{}-{number}", self.boot, self.who)
    }

    /// Tells of something that is not as it must be: the end, for a server that must be right.
    pub(crate) fn found(&self, finding: Finding, why: &str) {
        assert!(!self.server.must_be_right(), "{finding}: {why}");
        self.spoiled.store(true, Ordering::Relaxed);
        self.console.say_now(&format!("FOUND {finding} {why}"));
    }

    /// Whether anything was found.
    pub(crate) fn is_spoiled(&self) -> bool {
        self.spoiled.load(Ordering::Relaxed)
    }

    /// Makes one call, which must succeed; `None` where one that does not is no end.
    pub(crate) fn act(&self, op: &Op) -> Option<()> {
        self.act_or(op, Finding::Refused)
    }

    /// As [`World::act`], for calls whose failure has another name.
    pub(crate) fn act_or(&self, op: &Op, finding: Finding) -> Option<()> {
        let id = self.name("");
        self.console.say_now(&format!("+ {id} {op}"));
        if let Err(status) = self.call(op) {
            self.found(finding, &format!("{op}: {status}"));
            return None;
        }
        self.console.say(&format!(". {id}"));
        Some(())
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
        let digest = sha256(&bytes);
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
    pub(crate) fn look(&self, name: &str) -> Result<Tree, (Finding, String)> {
        let cannot = |why: String| (Finding::Unmountable, format!("{name}: {why}"));
        let key = self.name("look");
        let mounts = self.client.view(&key, name).map_err(|status| cannot(status.to_string()))?;
        let target = self.dir.join("mnt");
        attach(&mounts, &target).map_err(cannot)?;
        let mut out = Tree::new();
        let read = files(&target, &target, &mut out);
        detach(&target);
        self.client.remove(&key).map_err(|s| (Finding::Refused, format!("remove {key}: {s}")))?;
        read.map_err(|why| (Finding::Content, format!("{name}: {why}")))?;
        Ok(out)
    }

    pub(crate) fn rows(&self) -> Rows {
        let all = self.client.list(&[]).unwrap_or_else(|status| {
            assert!(self.server.has_none(&status), "list: {status}");
            Vec::new()
        });
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
fn files(dir: &Path, root: &Path, out: &mut Tree) -> Result<(), String> {
    let why = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
    for entry in fs::read_dir(dir).map_err(|e| why(dir, e))? {
        let path = entry.map_err(|e| why(dir, e))?.path();
        let found = path.symlink_metadata().map_err(|e| why(&path, e))?;
        let kind = found.file_type();
        if kind.is_dir() {
            files(&path, root, out)?;
            continue;
        }
        // What the lowest layer removes, where there is nothing to remove: a view of it alone shows the mark.
        if kind.is_char_device() && found.rdev() == 0 {
            continue;
        }
        if !kind.is_file() {
            return Err(format!("{}: {kind:?}", path.display()));
        }
        let name = path.strip_prefix(root).unwrap().display().to_string();
        out.insert(name, fs::read(&path).map_err(|e| why(&path, e))?);
    }
    Ok(())
}
