//! What must hold after a power cut: the invariants, and that new work succeeds.
//!
//! The database is sound and has what was acknowledged, with its parents; the rest is there whole or not at all. Every image
//! is a sound one, and shows what its layers say. What nobody owns is gone after one cleanup, and nothing stays mounted.
//! What was not acknowledged can be done again.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use erolith_tests::node::Leftovers;

use crate::content::{Random, tree};
use crate::model::{Kind, Layer, Model, Op};
use crate::world::World;

/// So many snapshots stay for the next life.
const KEPT: usize = 8;

/// Checks everything and leaves only committed snapshots behind: none if `all` are to go.
pub(crate) fn check(world: &World, model: &mut Model, random: &mut Random, all: bool) {
    forget_looks(world);
    settle(world, model);
    assert_eq!(world.setup.database_verdict(), "ok");
    finish(world, model);
    cleanup(world);
    nothing_leaks(world, model);
    images_are_sound(world, model);
    for name in model.leaves() {
        shows_its_layers(world, model, &name);
    }
    let keep = if all { 0 } else { KEPT };
    while model.snapshots.len() > keep {
        let leaves = model.leaves();
        let key = leaves[random.below(leaves.len())].clone();
        act(world, model, &Op::Remove { key });
    }
    cleanup(world);
    nothing_leaks(world, model);
    if all {
        // An image that was linked has a name in containerd's store, too, and stays known as long as it is there.
        let blobs = world.blobs();
        fs::remove_dir_all(&blobs).and_then(|()| fs::create_dir(&blobs)).unwrap();
        cleanup(world);
        let (root, state) = (&world.setup.root, &world.setup.state);
        Leftovers::vanish(std::process::id(), root, state).unwrap_or_else(|why| panic!("{why}"));
    }
    world.console.say("known begin");
    for (name, snapshot) in &model.snapshots {
        world.console.say(&snapshot.line(name));
    }
    world.console.say("known end");
}

/// Makes a call that the model knows of.
fn act(world: &World, model: &mut Model, op: &Op) {
    model.begin(op).unwrap_or_else(|| panic!("{op}: of what?"));
    world.act(op);
    model.done(op).unwrap_or_else(|| panic!("{op}: of what?"));
}

fn cleanup(world: &World) {
    world.client.cleanup().unwrap_or_else(|status| panic!("cleanup: {status}"));
}

/// An earlier check may have been cut while it looked at something.
fn forget_looks(world: &World) {
    for (key, (kind, _)) in world.rows() {
        if kind == Kind::View && key.starts_with("look") {
            world.client.remove(&key).unwrap_or_else(|status| panic!("remove {key}: {status}"));
        }
    }
}

/// What was not acknowledged is there whole or not at all; what was is there, and nothing else.
fn settle(world: &World, model: &mut Model) {
    let rows = world.rows();
    for (id, op) in std::mem::take(&mut model.pending) {
        let happened = op.happened(&rows).unwrap_or_else(|why| panic!("{why}"));
        world.console.say_now(&format!("{} {id}", if happened { '.' } else { 'x' }));
        if happened {
            model.done(&op).unwrap_or_else(|| panic!("{op}: of what?"));
        }
    }
    let differences = model.differences(&rows);
    assert!(differences.is_empty(), "{differences:#?}");
}

/// Everything that is active is finished or removed.
fn finish(world: &World, model: &mut Model) {
    let open = model.snapshots.iter().filter(|(_, s)| s.kind != Kind::Committed);
    let open: BTreeMap<_, _> = open.map(|(name, s)| (name.clone(), s.layer)).collect();
    for (key, layer) in open {
        match layer {
            // Nobody was told that it is there: it can be pulled again.
            Layer::Begun(seed) => act(world, model, &Op::Apply { key: key.clone(), seed }),
            Layer::Applied(_) => {}
            // Nobody was told that what a container wrote is durable.
            Layer::Written(_) | Layer::Nothing => {
                act(world, model, &Op::Remove { key });
                continue;
            }
        }
        act(world, model, &Op::Commit { name: world.name("f"), key });
    }
}

/// Directories, images and mounts are those of snapshots.
fn nothing_leaks(world: &World, model: &Model) {
    let root = &world.setup.root;
    let left = Leftovers::of(std::process::id(), root, &world.setup.state).unwrap();
    assert_eq!(left.layers.len(), model.snapshots.len(), "{left:#?}");
    assert!(left.mounts.is_empty() && left.loops.is_empty(), "{left:#?}");
    for image in &left.images {
        let links = root.join("images").join(image).metadata().unwrap().nlink();
        assert!(links > 1, "nobody uses images/{image}");
    }
    let known = ["fs", "work", ".erofslayer", "layer.erofs", "snapshot.json"];
    for layer in &left.layers {
        for entry in fs::read_dir(root.join("snapshots").join(layer)).unwrap() {
            let name = entry.unwrap().file_name().display().to_string();
            assert!(known.contains(&name.as_str()), "snapshots/{layer}/{name} is nobody's");
        }
    }
    let known = ["lock", "identity", "metadata.db", "metadata.db-wal", "metadata.db-shm"];
    for entry in fs::read_dir(root).unwrap() {
        let name = entry.unwrap().file_name().display().to_string();
        let is_known = known.contains(&name.as_str()) || ["snapshots", "images"].contains(&&*name);
        assert!(is_known, "{name} is nobody's");
    }
}

/// Every committed snapshot has an image that `erolith fsck` has nothing against.
fn images_are_sound(world: &World, model: &Model) {
    let snapshots = world.setup.root.join("snapshots");
    let mut images = 0;
    for entry in fs::read_dir(&snapshots).unwrap() {
        let image = entry.unwrap().path().join("layer.erofs");
        let out = Command::new(&world.setup.program).args(["fsck", "--data"]).arg(&image).output();
        let out = out.unwrap();
        let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
        assert!(out.status.success(), "{}: {said}", image.display());
        images += 1;
    }
    assert_eq!(images, model.snapshots.len(), "images");
}

fn shows_its_layers(world: &World, model: &Model, name: &str) {
    let wanted = tree(&model.layers(name).unwrap_or_else(|why| panic!("{why}")));
    let found = world.look(name);
    let names = |tree: &crate::content::Tree| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(&wanted), "files of {name}");
    for (path, content) in &wanted {
        assert!(found[path] == *content, "{name}: {path} has other content");
    }
}
