//! Layers that are damaged under a real containerd: found, put away, and whole again when their image is used the next
//! time, with containerd's garbage collection in between.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use erolith_tests::layout::Layout;
use erolith_tests::need;
use erolith_tests::node::{Containerd, Node, isolated};

const EROLITH: &str = env!("CARGO_BIN_EXE_erolith");
const IMAGE: &str = "image:latest";

fn try_run(node: &Node, name: &str) -> Result<String, String> {
    let shell = "python3 -c 'import numpy; print(numpy.arange(9).sum())'";
    let run = ["run", "--rm", "--snapshotter", "erolith", IMAGE, name, "sh", "-c", shell];
    node.try_ctr(&run)
}

type Damage = (&'static str, fn(&Path));

/// What a fault of a disk, or somebody, may do to an image.
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
            assert!(said.contains("4 sound, 0 damaged, 0 put away"), "{what}: {said}");
        }
        node.leaves_nothing();
    });
}
