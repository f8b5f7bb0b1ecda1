//! The life of an image on one daemon, as calls that can be repeated: two layers that our differ applies, a container whose
//! changes are committed, a view of all, and the removal of what is not needed.
#![allow(dead_code, reason = "not every test uses everything")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use erolith_tests::layout::sha256;
use erolith_tests::node::{Leftovers, Setup};
use erolith_tests::tarball::Tarball;
use tonic::{Code, Status};

use crate::rpc::{Answer, Client, Descriptor, attach, detach};

/// What the view of everything shows: files and their content.
const WHOLE: [(&str, &str); 4] =
    [("etc/hosts", "container"), ("etc/kept", "kept"), ("new", "n"), ("srv/data", "second")];

/// One step of a life.
pub(crate) type Step = fn(&Life, &Client) -> Answer<()>;

/// The steps, in order. Each can be repeated, whether or not it was done, once or in part.
pub(crate) const STEPS: [(&str, Step); 15] = [
    ("prepare 1", |_, c| exists(c.prepare("x-1", ""))),
    ("apply 1", |life, c| life.apply(c, 0, "x-1")),
    ("commit 1", |_, c| committed(c, "l1", "x-1")),
    ("prepare 2", |_, c| exists(c.prepare("x-2", "l1"))),
    ("apply 2", |life, c| life.apply(c, 1, "x-2")),
    ("commit 2", |_, c| committed(c, "l2", "x-2")),
    ("prepare the container", |_, c| exists(c.prepare("box", "l2"))),
    ("run it", |life, c| life.run(c)),
    ("commit it", |_, c| committed(c, "l3", "box")),
    ("view", |_, c| exists(c.view("v", "l3"))),
    ("look", |life, c| life.look(c)),
    ("remove the view", |_, c| absent(c.remove("v"))),
    ("prepare for nothing", |_, c| exists(c.prepare("y", "l2"))),
    ("remove that", |_, c| absent(c.remove("y"))),
    ("cleanup", |_, c| c.cleanup()),
];

/// The inputs of one life, and a place.
pub(crate) struct Life {
    layers: Vec<Descriptor>,
    dir: PathBuf,
}

/// Prepare and View: that the key is there already is as good.
fn exists<T>(answer: Answer<T>) -> Answer<()> {
    match answer {
        Ok(_) => Ok(()),
        Err(status) if status.code() == Code::AlreadyExists => Ok(()),
        Err(status) => Err(status),
    }
}

fn absent(answer: Answer<()>) -> Answer<()> {
    answer.or_else(|status| if status.code() == Code::NotFound { Ok(()) } else { Err(status) })
}

fn committed(client: &Client, name: &str, key: &str) -> Answer<()> {
    match client.commit(name, key) {
        // Done before, and not answered then: the key is gone with it.
        Err(status) if [Code::AlreadyExists, Code::NotFound].contains(&status.code()) => {
            match (client.stat(name), client.stat(key)) {
                (Ok(info), Err(gone)) if gone.code() == Code::NotFound => {
                    let wanted = info.kind == 3;
                    wanted.then_some(()).ok_or_else(|| Status::internal("not committed"))
                }
                both => Err(Status::internal(format!("{status}: half committed: {both:?}"))),
            }
        }
        answer => answer,
    }
}

impl Life {
    /// Puts the layers where the daemon finds containerd's blobs.
    pub(crate) fn new(setup: &Setup) -> Self {
        let first = Tarball::new()
            .dir("etc")
            .file("etc/hosts", b"first")
            .file("etc/kept", b"kept")
            .dir("srv")
            .file("srv/data", vec![b'1'; 300_000])
            .file("gone", b"x")
            .end();
        let second = Tarball::new().file("srv/data", b"second").file(".wh.gone", b"").end();
        let layers = [first, second].iter().map(|tar| put(setup, tar)).collect();
        Self { layers, dir: setup.dir.clone() }
    }

    /// Where containers are mounted.
    pub(crate) fn target(&self) -> PathBuf {
        self.dir.join("mnt")
    }

    fn apply(&self, client: &Client, layer: usize, key: &str) -> Answer<()> {
        let mounts = client.mounts(key)?;
        let applied = client.apply(&self.layers[layer], &mounts)?;
        assert_eq!(applied.digest, self.layers[layer].digest, "the diffID");
        Ok(())
    }

    fn run(&self, client: &Client) -> Answer<()> {
        let target = self.target();
        attach(&client.mounts("box")?, &target).map_err(Status::internal)?;
        put_file(&target.join("etc/hosts"), b"container");
        put_file(&target.join("new"), b"n");
        detach(&target);
        Ok(())
    }

    fn look(&self, client: &Client) -> Answer<()> {
        let target = self.target();
        attach(&client.mounts("v")?, &target).map_err(Status::internal)?;
        let found = files(&target, &target);
        detach(&target);
        let wanted: BTreeMap<_, _> =
            WHOLE.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        assert_eq!(found, wanted);
        Ok(())
    }

    /// What must hold after a life: every layer is a whole image, nothing is without an owner, the whole is what it should
    /// be; and after removal of everything nothing is left.
    pub(crate) fn check(&self, client: &Client, setup: &Setup, context: &str) {
        let fail = |status: Status| -> ! { panic!("{context}: {status}") };
        client.cleanup().unwrap_or_else(|s| fail(s));
        let rows = client.list(&[]).unwrap_or_else(|s| fail(s));
        for row in &rows {
            let parent = rows.iter().any(|other| other.name == row.parent);
            assert!(parent || row.parent.is_empty(), "{context}: {row:?} has no parent");
        }
        let left = left(setup);
        assert_eq!(left.layers.len(), rows.len(), "{context}: {left:#?}\n{rows:#?}");
        for layer in &left.layers {
            let image = setup.root.join("snapshots").join(layer).join("layer.erofs");
            if image.exists() {
                sound(&image, context);
            }
        }
        exists(client.view("v", "l3")).unwrap_or_else(|s| fail(s));
        self.look(client).unwrap_or_else(|s| fail(s));
        client.empty().unwrap_or_else(|s| fail(s));
        let gone = Leftovers::vanish(std::process::id(), &setup.root, &setup.state);
        gone.unwrap_or_else(|e| panic!("{context}: {e}"));
    }
}

pub(crate) fn left(setup: &Setup) -> Leftovers {
    Leftovers::of(std::process::id(), &setup.root, &setup.state).unwrap()
}

/// Our own check of an image.
fn sound(image: &Path, context: &str) {
    let out = Command::new(env!("CARGO_BIN_EXE_erolith")).arg("fsck").arg(image).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{context}: {}: {text}", image.display());
}

/// A blob in containerd's store, as far as the daemon looks at it.
pub(crate) fn put(setup: &Setup, tar: &[u8]) -> Descriptor {
    let digest = sha256(tar);
    let blobs = setup.containerd.1.join("io.containerd.content.v1.content/blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    put_file(&blobs.join(&digest), tar);
    Descriptor {
        media_type: "application/vnd.oci.image.layer.v1.tar".into(),
        digest: format!("sha256:{digest}"),
        size: i64::try_from(tar.len()).unwrap(),
        annotations: BTreeMap::new(),
    }
}

fn put_file(path: &Path, content: &[u8]) {
    #[expect(clippy::disallowed_methods, reason = "an input need not be published atomically")]
    fs::write(path, content).unwrap();
}

/// Regular files below a directory with their content as text.
fn files(dir: &Path, root: &Path) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.extend(files(&path, root));
        } else {
            let name = path.strip_prefix(root).unwrap().display().to_string();
            out.insert(name, fs::read_to_string(&path).unwrap());
        }
    }
    out
}
