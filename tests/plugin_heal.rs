//! Layers that are damaged under a real containerd: found, quarantined, and rebuilt from its content store, with containerd's
//! garbage collection in between. Every way of healing that `docs/install.md` names is here.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

mod rpc;

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use erolith_tests::layout::Layout;
use erolith_tests::need;
use erolith_tests::node::{Containerd, Node, Registry, isolated};
use erolith_tests::tarball::Tarball;

use crate::rpc::Client;

const EROLITH: &str = env!("CARGO_BIN_EXE_erolith");
const IMAGE: &str = "image:latest";

fn try_run(node: &Node, name: &str) -> Result<String, String> {
    let shell = "python3 -c 'import numpy; print(numpy.arange(9).sum())'";
    let run = ["run", "--rm", "--snapshotter", "erolith", IMAGE, name, "sh", "-c", shell];
    node.try_ctr(&run)
}

type Damage = (&'static str, fn(&Path));

/// What a faulty disk, or a user, may do to an image.
const DAMAGES: [Damage; 3] = [
    ("one bit in the middle", |image| {
        let (file, mut byte) = (File::options().read(true).write(true).open(image).unwrap(), [0]);
        let middle = file.metadata().unwrap().len() / 2;
        file.read_exact_at(&mut byte, middle).unwrap();
        file.write_all_at(&[byte[0] ^ 1], middle).unwrap();
    }),
    ("most of it", |image| {
        File::options().write(true).open(image).unwrap().set_len(1 << 20).unwrap()
    }),
    ("all of it", |image| fs::remove_file(image).unwrap()),
];

/// The largest image.
fn victim(node: &Node) -> PathBuf {
    let layers = fs::read_dir(node.root().join("snapshots")).unwrap();
    let images = layers.map(|layer| layer.unwrap().path().join("layer.erofs"));
    images.max_by_key(|image| fs::metadata(image).map_or(0, |found| found.len())).unwrap()
}

/// Bytes on the disk, and not those in memory, are looked at, beside the daemon. Says whether all is sound.
fn scrub(node: &Node) -> Result<String, String> {
    let root = node.root().display().to_string();
    node.try_exec(&[EROLITH, "scrub", "--quarantine", "--root", &root])
}

fn sound(node: &Node, what: &str) {
    let said = scrub(node).unwrap_or_else(|said| panic!("{what}: {said}"));
    assert!(said.contains(" 0 damaged, 0 quarantined"), "{what}: {said}");
}

/// Waits until the daemon has rebuilt everything.
fn rebuilt(node: &Node, what: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while let Err(said) = scrub(node) {
        assert!(Instant::now() < deadline, "{what}: {said}");
        std::thread::sleep(Duration::from_millis(100));
    }
    sound(node, what);
}

fn every_image(node: &Node) -> Vec<PathBuf> {
    let layers = fs::read_dir(node.root().join("snapshots")).unwrap();
    let images = layers.map(|layer| layer.unwrap().path().join("layer.erofs"));
    images.filter(|image| image.exists()).collect()
}

/// A node with the image in a registry and in containerd, unpacked.
fn pulled() -> Result<(Node, Registry, String), String> {
    let image = Layout::real_image()?;
    let node = Node::start(EROLITH, Containerd::Sid, &[("erolith", "erolith")], "")?;
    let registry = Registry::start(&node)?;
    let name = format!("{}/image:latest", registry.address);
    node.import(&image.0);
    node.ctr(&["images", "tag", IMAGE, &name]);
    node.ctr(&["images", "push", "--plain-http", &name]);
    for image in [IMAGE, &name] {
        node.ctr(&["images", "rm", "--sync", image]);
    }
    pull(&node, &name, &[])?;
    Ok((node, registry, name))
}

fn pull(node: &Node, name: &str, how: &[&str]) -> Result<String, String> {
    let words = ["images", "pull", "--plain-http", "--snapshotter", "erolith"];
    node.try_ctr(&[&words[..], how, &[name]].concat())
}

fn start(node: &Node, name: &str) -> Result<String, String> {
    let words =
        ["run", "--rm", "--snapshotter", "erolith", name, "c", "python3", "-c", "print(6 * 6)"];
    node.try_ctr(&words)
}

#[test]
fn every_way_that_the_documents_name_heals() {
    isolated(|| {
        let (node, _registry, name) = need!(pulled());
        type Way<'a> = (&'a str, &'a dyn Fn(&Node) -> Result<String, String>);
        let ways: [Way<'_>; 4] = [
            ("pull", &|node| pull(node, &name, &[])),
            ("pull --local", &|node| pull(node, &name, &["--local"])),
            ("run", &|node| start(node, &name)),
            ("nothing", &|_| Ok(String::new())),
        ];
        let victim = victim(&node);
        for (number, (way, act)) in ways.into_iter().enumerate() {
            let (what, damage) = DAMAGES[number % DAMAGES.len()];
            let what = format!("{way}: {what}");
            damage(&victim);
            scrub(&node).unwrap_err();
            act(&node).unwrap_or_else(|said| panic!("{what}: {said}"));
            match way {
                "nothing" => rebuilt(&node, &what),
                _ => sound(&node, &what),
            }
            assert_eq!(start(&node, &name).as_deref(), Ok("36\n"), "{what}");
        }
        // The whole chain, whose upper layers take attributes from those below.
        every_image(&node).iter().for_each(|image| fs::remove_file(image).unwrap());
        scrub(&node).unwrap_err();
        pull(&node, &name, &[]).unwrap();
        sound(&node, "all layers");
        assert_eq!(start(&node, &name).as_deref(), Ok("36\n"));
        node.leaves_nothing();
    });
}

/// Where the blob is gone or damaged, the log says what to do, and that works.
#[test]
fn without_the_blob_the_log_says_what_brings_the_layer() {
    isolated(|| {
        let (node, _registry, name) = need!(pulled());
        let blobs = node.place().join("root/io.containerd.content.v1.content/blobs/sha256");
        let blobs = fs::read_dir(blobs).unwrap().map(|entry| entry.unwrap().path());
        let blob = blobs.max_by_key(|blob| fs::metadata(blob).unwrap().len()).unwrap();
        let digest = format!("sha256:{}", blob.file_name().unwrap().to_str().unwrap());
        let said = |word: &str| {
            let deadline = Instant::now() + Duration::from_secs(60);
            while !node.log().contains(word) {
                assert!(Instant::now() < deadline, "{word} is missing in the log");
                std::thread::sleep(Duration::from_millis(100));
            }
        };
        // The blob is there, and damaged.
        DAMAGES[0].1(&victim(&node));
        DAMAGES[0].1(&blob);
        scrub(&node).unwrap_err();
        start(&node, &name).unwrap_err();
        said("is damaged, too");
        said("images rm --sync");
        node.ctr(&["images", "rm", "--sync", &name]);
        pull(&node, &name, &[]).unwrap();
        assert_eq!(start(&node, &name).as_deref(), Ok("36\n"));
        sound(&node, "a new blob");
        // The blob is gone, and the layer damaged.
        DAMAGES[0].1(&victim(&node));
        node.ctr(&["content", "rm", &digest]);
        scrub(&node).unwrap_err();
        start(&node, &name).unwrap_err();
        said("no blob of namespace default is known to be its content");
        pull(&node, &name, &["--local"]).unwrap();
        assert_eq!(start(&node, &name).as_deref(), Ok("36\n"));
        // As with CRI: the image is removed, and pulled again.
        DAMAGES[0].1(&victim(&node));
        node.ctr(&["content", "rm", &digest]);
        scrub(&node).unwrap_err();
        node.ctr(&["images", "rm", "--sync", &name]);
        pull(&node, &name, &[]).unwrap();
        sound(&node, "a new image");
        assert_eq!(start(&node, &name).as_deref(), Ok("36\n"));
        node.leaves_nothing();
    });
}

/// A layer that is an image already shares its file with the content store: what damages one damages both.
#[test]
fn layers_that_are_images_heal_too() {
    isolated(|| {
        for config in ["", "[differ]\nshare = \"never\"\n"] {
            let node =
                need!(Node::start(EROLITH, Containerd::Sid, &[("erolith", "erolith")], config));
            let tar = Tarball::new().dir("srv/").file("srv/kept", "kept\n".repeat(99999)).end();
            let blob = image_of(&tar, &node.place().join("blob"));
            let layout = node.place().join("native");
            // containerd 2.1 takes no other type of an image for one of a layer.
            let media_type = "application/vnd.oci.image.layer.v1.erofs";
            Layout::of_blobs(&layout, &[(media_type, &blob, &blob)]).unwrap();
            let archive = format!("{}.tar", layout.display());
            node.exec(&["tar", "-C", &layout.display().to_string(), "-cf", &archive, "."]);
            let import = ["images", "import", "--local", "--snapshotter", "erolith"];
            let import = [&import[..], &["--base-name", "image", &archive]].concat();
            node.ctr(&import);
            let chain = format!("sha256:{}", erolith_tests::layout::sha256(&blob));
            let stand = || {
                let snapshots = |words: &[&str]| {
                    node.try_ctr(&[&["snapshots", "--snapshotter", "erolith"], words].concat())
                };
                snapshots(&["view", "v", &chain])?;
                // Without a lease, containerd's collector may have removed it first.
                snapshots(&["rm", "v"])
                    .or_else(|said| if said.contains("not found") { Ok(said) } else { Err(said) })
            };
            let victim = victim(&node);
            // Only the name of the layer goes.
            fs::remove_file(&victim).unwrap();
            scrub(&node).unwrap_err();
            stand().unwrap();
            sound(&node, config);
            for (what, damage) in &DAMAGES[..1] {
                damage(&victim);
                scrub(&node).expect_err(what);
                if config.is_empty() {
                    // The blob is the same file.
                    stand().unwrap_err();
                    assert!(node.log().contains("is damaged, too"), "{what}");
                    node.ctr(&["images", "rm", "--sync", IMAGE]);
                    node.ctr(&import);
                }
                stand().unwrap_or_else(|said| panic!("{config}: {what}: {said}"));
                sound(&node, what);
            }
            node.leaves_nothing();
        }
    });
}

/// The EROFS image of an archive.
fn image_of(tar: &[u8], path: &Path) -> Vec<u8> {
    let archive = path.with_extension("tar");
    fs::write(&archive, tar).unwrap();
    let made = std::process::Command::new(EROLITH)
        .args(["mkfs", "--tar=f"])
        .arg(path)
        .arg(&archive)
        .output();
    let made = made.unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    fs::read(path).unwrap()
}

/// A layer that came from a cache is a link, with no digest and no blob on record.
#[test]
fn a_layer_of_a_cache_is_made_from_its_blob_or_found_again() {
    isolated(|| {
        let node = need!(Node::start(EROLITH, Containerd::Sid, &[("erolith", "erolith")], ""));
        let place = node.place();
        let tar = Tarball::new().dir("srv/").file("srv/kept", "kept\n").end();
        let layout = Layout::create(&place.join("layout"), std::slice::from_ref(&tar)).unwrap();
        let diff_id = format!("sha256:{}", erolith_tests::layout::sha256(&tar));
        let cached = place.join("cache/sha256").join(&diff_id[7..9]);
        fs::create_dir_all(&cached).unwrap();
        let cached = cached.join(format!("{}.erofs", &diff_id[7..]));
        image_of(&tar, &cached);
        // What the daemon stages for containerd 2.4, which this one is not: a link into the cache.
        let name = format!("default/2/{diff_id}");
        let client = Client::connect(&node.socket());
        client.prepare("default/1/extract", "").unwrap();
        let dir = fs::read_dir(node.root().join("snapshots")).unwrap().next().unwrap().unwrap();
        let link = dir.path().join("layer.erofs");
        std::os::unix::fs::symlink(&cached, &link).unwrap();
        client.commit(&name, "default/1/extract").unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), cached);
        // Neither blob nor cache; then the cache has it again; then it has not, but there is a blob.
        let aside = cached.with_extension("aside");
        fs::rename(&cached, &aside).unwrap();
        client.view("default/3/v", &name).unwrap_err();
        assert!(node.log().contains("no blob of namespace default"), "{}", node.log());
        fs::rename(&aside, &cached).unwrap();
        client.view("default/3/v", &name).unwrap();
        client.remove("default/3/v").unwrap();
        client.cleanup().unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), cached);
        fs::remove_file(&cached).unwrap();
        node.import(&layout.0);
        client.view("default/4/v", &name).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_file());
        client.remove("default/4/v").unwrap();
        client.remove(&name).unwrap();
        client.cleanup().unwrap();
        node.leaves_nothing();
    });
}

/// A daemon that is killed while it rebuilds leaves the layer quarantined or whole, and the next one goes on.
#[test]
fn a_kill_during_a_rebuild_changes_nothing() {
    isolated(|| {
        let (mut node, _registry, name) = need!(pulled());
        let victim = victim(&node);
        for fault in [
            "EROLITH_FAULTS=output.before_sync=kill",
            "EROLITH_FAULTS=output.after_name=kill",
            "EROLITH_FAULTS=heal.after_image=kill",
            "EROLITH_FAULTS=heal.before_transaction=kill",
            "EROLITH_FAULTS=heal.after_transaction=kill",
        ] {
            node.stop_daemon();
            fs::remove_file(&victim).unwrap();
            scrub(&node).unwrap_err();
            // It rebuilds as soon as it is there.
            node.die_of(fault);
            node.start_daemon();
            node.reconnected();
            pull(&node, &name, &[]).unwrap_or_else(|said| panic!("{fault}: {said}"));
            sound(&node, fault);
            assert!(!victim.with_file_name("damaged.erofs").exists(), "{fault}");
        }
        assert_eq!(start(&node, &name).as_deref(), Ok("36\n"));
        node.leaves_nothing();
    });
}

#[test]
fn a_damaged_layer_is_whole_again_when_its_image_is_used() {
    isolated(|| {
        let image = need!(Layout::real_image());
        let mut node = need!(Node::start(EROLITH, Containerd::Sid, &[("erolith", "erolith")], ""));
        node.import(&image.0);
        assert_eq!(try_run(&node, "before").unwrap(), "36\n");
        let victim = victim(&node);
        let root = node.root().display().to_string();
        for (number, (what, damage)) in DAMAGES.into_iter().enumerate() {
            // Nothing of it is mounted, nor in memory.
            node.stop_daemon();
            damage(&victim);
            let scrub = || node.try_exec(&[EROLITH, "scrub", "--quarantine", "--root", &root]);
            let said = scrub().unwrap_err();
            assert!(said.contains("1 damaged"), "{what}: {said}");
            node.start_daemon();
            node.reconnected();
            // The collector meets the damaged layer, and goes on.
            node.ctr(&["leases", "create", "--id", "collect"]);
            node.ctr(&["leases", "delete", "--sync", "collect"]);
            // containerd does not find the layer, so it unpacks the image once more.
            let again = try_run(&node, &format!("after-{number}"));
            assert_eq!(again.as_deref(), Ok("36\n"), "{what}");
            let said = node.exec(&[EROLITH, "scrub", "--root", &root]);
            assert!(said.contains("4 sound, 0 damaged, 0 quarantined"), "{what}: {said}");
        }
        node.leaves_nothing();
    });
}
