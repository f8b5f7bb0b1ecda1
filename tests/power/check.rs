//! What must hold after a power cut: the invariants, and that new work succeeds.
//!
//! The database is sound and has what was acknowledged, with its parents; the rest is there whole or not at all. Every image
//! is a sound one, and shows what its layers say. What no snapshot owns is gone after one cleanup, and nothing stays mounted.
//! What was not acknowledged can be done again.
//!
//! The first thing that is wrong is the end, or everything that is wrong is told: `World::found` decides.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;

use erolith_tests::node::Leftovers;

use crate::content::{Random, Tree, tree};
use crate::model::{Kind, Layer, Model, Op};
use crate::server::Finding;
use crate::world::World;

/// So many snapshots stay for the next life.
const KEPT: usize = 8;

/// Checks everything and leaves only committed snapshots behind: none if `all` are to go. Where something is wrong nothing
/// is known any more: what is left there is to be removed.
pub(crate) fn check(world: &World, model: &mut Model, random: &mut Random, all: bool) {
    forget_looks(world);
    settle(world, model);
    // What follows would say it once more.
    if !world.is_spoiled() {
        finish(world, model);
        cleanup(world, model);
        nothing_leaks(world, model);
        images_are_sound(world, model);
        for name in model.leaves() {
            shows_its_layers(world, model, &name);
        }
    }
    if !world.is_spoiled() {
        reduce(world, model, random, if all { 0 } else { KEPT });
    }
    if world.is_spoiled() {
        *model = Model::default();
    } else if all {
        nothing_is_left(world, model);
    }
    world.console.say("known begin");
    for (name, snapshot) in &model.snapshots {
        world.console.say(&snapshot.line(name));
    }
    world.console.say_now("known end");
}

/// Makes a call that the model knows of; what one is about that fails is forgotten.
fn act(world: &World, model: &mut Model, op: &Op, finding: Finding) -> Option<()> {
    model.begin(op).unwrap_or_else(|| panic!("{op}: of what?"));
    if world.act_or(op, finding).is_none() {
        model.snapshots.remove(op.key());
        return None;
    }
    model.done(op).unwrap_or_else(|| panic!("{op}: of what?"));
    Some(())
}

fn cleanup(world: &World, model: &mut Model) {
    if world.server.has_cleanup() {
        return world.client.cleanup().unwrap_or_else(|status| panic!("cleanup: {status}"));
    }
    let (key, parent) = (world.name("sweep"), String::new());
    act(world, model, &Op::Prepare { key: key.clone(), parent }, Finding::Refused)
        .and_then(|()| act(world, model, &Op::Remove { key }, Finding::Refused));
}

/// An earlier check may have been cut while it looked at something.
fn forget_looks(world: &World) {
    for (key, (kind, _)) in world.rows() {
        if kind == Kind::View
            && key.starts_with("look")
            && let Err(status) = world.client.remove(&key)
        {
            world.found(Finding::Refused, &format!("remove {key}: {status}"));
        }
    }
}

/// What was not acknowledged is there whole or not at all; what was is there, and nothing else.
fn settle(world: &World, model: &mut Model) {
    let rows = world.rows();
    for (id, op) in std::mem::take(&mut model.pending) {
        let happened = op.happened(&rows).unwrap_or_else(|why| {
            world.found(Finding::Half, &why);
            false
        });
        world.console.say_now(&format!("{} {id}", if happened { '.' } else { 'x' }));
        if happened {
            model.done(&op).unwrap_or_else(|| panic!("{op}: of what?"));
        }
    }
    let differences = model.differences(&rows);
    // All of them before the first one is the end.
    assert!(!world.server.must_be_right() || differences.is_empty(), "{differences:#?}");
    for (finding, why) in differences {
        world.found(finding, &why);
    }
    if let Some(verdict) = world.server.database_verdict(&world.setup) {
        assert_eq!(verdict, "ok");
    }
}

/// Everything that is active is finished or removed.
fn finish(world: &World, model: &mut Model) {
    let open = model.snapshots.iter().filter(|(_, s)| s.kind != Kind::Committed);
    let open: BTreeMap<_, _> = open.map(|(name, s)| (name.clone(), s.layer)).collect();
    for (key, layer) in open {
        let whole = match layer {
            // It was not acknowledged: it can be pulled again.
            Layer::Begun(seed) => {
                let op = Op::Apply { key: key.clone(), seed };
                world.act_or(&op, Finding::Again).and_then(|()| model.done(&op))
            }
            Layer::Applied(_) => Some(()),
            // What a container wrote was not acknowledged as durable.
            Layer::Written(_) | Layer::Nothing => None,
        };
        let op = match whole {
            Some(()) => Op::Commit { name: world.name("f"), key },
            None => Op::Remove { key },
        };
        act(world, model, &op, Finding::Refused);
    }
}

/// Directories, images and mounts are those of snapshots.
fn nothing_leaks(world: &World, model: &Model) {
    let root = &world.setup.root;
    let leftover = |why: String| world.found(Finding::Leftover, &why);
    let left = Leftovers::of(std::process::id(), root, &world.setup.state).unwrap();
    match left.layers.len().cmp(&model.snapshots.len()) {
        Ordering::Less => world.found(Finding::Gone, &format!("directories: {left:?}")),
        Ordering::Equal => {}
        Ordering::Greater => leftover(format!("directories: {left:?}")),
    }
    let mounts = !world.server.keeps_mounts() && !left.mounts.is_empty();
    if mounts || !left.loops.is_empty() {
        leftover(format!("{left:#?}"));
    }
    for image in &left.images {
        let links = root.join("images").join(image).metadata().unwrap().nlink();
        if links < 2 {
            leftover(format!("nobody uses images/{image}"));
        }
    }
    let mut dirs = vec![(root.clone(), world.server.files())];
    let layers = left.layers.iter().map(|layer| root.join("snapshots").join(layer));
    dirs.extend(layers.map(|layer| (layer, world.server.files_of_a_snapshot())));
    for (dir, known) in dirs {
        for entry in fs::read_dir(&dir).unwrap() {
            let name = entry.unwrap().file_name().display().to_string();
            if !known.contains(&name.as_str()) {
                leftover(format!("{}/{name} is nobody's", dir.display()));
            }
        }
    }
}

/// Every committed snapshot has an image in which the checker finds nothing.
fn images_are_sound(world: &World, model: &Model) {
    let snapshots = world.setup.root.join("snapshots");
    let mut images = 0;
    for entry in fs::read_dir(&snapshots).unwrap() {
        let image = entry.unwrap().path().join("layer.erofs");
        let Ok(bytes) = fs::read(&image) else { continue };
        images += 1;
        if bytes.iter().all(|&byte| byte == 0) {
            world.found(Finding::Empty, &format!("{}: {} bytes", image.display(), bytes.len()));
            continue;
        }
        let out = world.server.judge(&image).output().unwrap();
        if !out.status.success() {
            let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
            world.found(Finding::Damaged, &format!("{}: {said}", image.display()));
        }
    }
    let wanted = model.snapshots.len();
    for _ in images..wanted {
        world.found(Finding::Missing, &format!("{images} images, not {wanted}"));
    }
}

fn shows_its_layers(world: &World, model: &Model, name: &str) {
    let wanted = tree(&model.layers(name).unwrap_or_else(|why| panic!("{why}")));
    let found = match world.look(name) {
        Ok(found) => found,
        Err((finding, why)) => return world.found(finding, &why),
    };
    let length = |tree: &Tree, path| tree.get(path).map(Vec::len);
    let paths = found.keys().chain(wanted.keys());
    let others = paths.filter(|path| found.get(*path) != wanted.get(*path));
    let others: BTreeSet<_> =
        others.map(|path| (path, length(&wanted, path), length(&found, path))).collect();
    if !others.is_empty() {
        let why = format!("{name}: the path, bytes that it had, and that it has: {others:?}");
        world.found(Finding::Content, &why);
    }
}

/// Removes all but a few, each when it has no children.
fn reduce(world: &World, model: &mut Model, random: &mut Random, keep: usize) {
    while model.snapshots.len() > keep {
        let leaves = model.leaves();
        let key = leaves[random.below(leaves.len())].clone();
        act(world, model, &Op::Remove { key }, Finding::Refused);
    }
    cleanup(world, model);
    nothing_leaks(world, model);
}

/// Nothing, when the last snapshot is gone.
fn nothing_is_left(world: &World, model: &mut Model) {
    // An image that was linked has a name in containerd's store, too, and stays known as long as it is there.
    let blobs = world.blobs();
    fs::remove_dir_all(&blobs).and_then(|()| fs::create_dir(&blobs)).unwrap();
    cleanup(world, model);
    let (root, state) = (&world.setup.root, &world.setup.state);
    let left = Leftovers::vanish(std::process::id(), root, state);
    left.unwrap_or_else(|why| world.found(Finding::Leftover, &why));
}
