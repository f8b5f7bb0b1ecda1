//! Mapped owners.

use std::os::unix::fs::MetadataExt;

use std::time::Duration;

use super::*;
use erolith_errors::ErrorStatus;

/// As an image may have them, and as Kubernetes gives them: a range of its own to each pod.
const LAYERS: usize = 121;
const PODS: u32 = 20;

fn mapped(host: u32) -> Labels {
    let map = format!("0:{host}:65536");
    labels(&[
        ("containerd.io/snapshot/uidmapping", map.as_str()),
        ("containerd.io/snapshot/gidmapping", map.as_str()),
    ])
}

fn owner(path: PathBuf) -> (u32, u32) {
    let found = fs::symlink_metadata(path).unwrap();
    (found.uid(), found.gid())
}

#[test]
fn layers_are_seen_with_mapped_owners_and_others_see_them_as_they_are() {
    with_mounts(|site| {
        let service = site.open();
        let mounts = service.prepare("a", "", &none()).unwrap();
        let file = Path::new(&mounts[0].source).join("file");
        write(&file, "file");
        std::os::unix::fs::chown(&file, Some(5), Some(6)).unwrap();
        service.commit("A", "a", "", &none()).unwrap();
        layer(&service, "B", "A");
        for host in [100_000, 200_000] {
            let key = host.to_string();
            let tree = MountedTree::of(
                &service.prepare(&key, "B", &mapped(host)).unwrap(),
                site.target(&key),
            );
            assert_eq!(owner(tree.0.clone()), (host, host));
            assert_eq!(owner(tree.join("file")), (host + 5, host + 6));
            write(&tree.join("file"), "changed");
            assert_eq!(owner(tree.join("file")), (host + 5, host + 6));
            let key = format!("v{host}");
            let view = MountedTree::of(
                &service.view(&key, "A", &mapped(host)).unwrap(),
                site.target(&key),
            );
            assert_eq!(owner(view.join("file")), (host + 5, host + 6));
            assert_eq!(service.mounts(&key).unwrap()[0].options, ["ro", "rbind"]);
        }
        let plain = MountedTree::of(&service.view("v", "B", &none()).unwrap(), site.target("v"));
        assert_eq!(owner(plain.join("file")), (5, 6));
        let base = service.prepare("base", "", &mapped(300_000)).unwrap();
        assert_eq!(owner(PathBuf::from(&base[0].source)), (300_000, 300_000));
        // One space for each way of mapping, and only while it is used.
        let spaces = || names_of(site.state.path()).iter().filter(|n| n.starts_with('m')).count();
        assert_eq!(spaces(), 2);
        drop(plain);
        for key in ["100000", "v100000", "200000", "v200000", "v"] {
            service.remove(key).unwrap();
        }
        service.cleanup().unwrap();
        assert_eq!((spaces(), site.lowers()), (0, Vec::new()));
    });
}

#[test]
fn maps_that_make_no_sense_make_no_snapshot() {
    with_mounts(|site| {
        let service = site.open();
        let one = labels(&[("containerd.io/snapshot/uidmapping", "0:1:1")]);
        assert_eq!(status(service.prepare("k", "", &one)), ErrorStatus::InvalidArgument);
        assert_eq!(status(service.view("k", "", &one)), ErrorStatus::InvalidArgument);
        assert_eq!(site.directories(), Vec::<String>::new());
    });
}

/// On disk, what a container writes has owners of the host.
#[test]
fn what_a_mapped_container_wrote_is_committed_with_owners_of_its_own() {
    with_mounts(|site| {
        let service = site.open();
        layer(&service, "A", "");
        let mounts = service.prepare("k", "A", &mapped(100_000)).unwrap();
        let tree = MountedTree::of(&mounts, site.target("k"));
        let file = tree.join("new");
        write(&file, "new");
        let error = service.commit("B", "k", "", &none()).unwrap_err();
        assert_eq!(
            (error.code(), error.status()),
            ("owner-unmapped", ErrorStatus::FailedPrecondition)
        );
        std::os::unix::fs::chown(&file, Some(100_007), Some(100_008)).unwrap();
        drop(tree);
        service.commit("B", "k", "", &none()).unwrap();
        let view = MountedTree::of(&service.view("v", "B", &none()).unwrap(), site.target("v"));
        assert_eq!(owner(view.join("new")), (7, 8));
        assert_eq!(owner(view.0.clone()), (0, 0));
    });
}

/// What containerd does without the capability `remap-ids`: it changes the owners in a copy, and then names the maps too.
#[test]
fn a_copy_whose_owners_containerd_changed_is_not_mapped_again() {
    const COPY: &str = "ns/3/A-100000-100000";
    with_mounts(|site| {
        let service = site.open();
        let image = service.prepare("ns/0/a", "", &none()).unwrap();
        write(&Path::new(&image[0].source).join("image"), "image");
        service.commit("ns/1/A", "ns/0/a", "", &none()).unwrap();
        let tree = MountedTree::of(
            &service.prepare("ns/2/A-100000-100000-remap", "ns/1/A", &none()).unwrap(),
            site.target("copy"),
        );
        let file = tree.join("file");
        write(&file, "file");
        for path in [&tree.0, &file] {
            std::os::unix::fs::chown(path, Some(100_000), Some(100_000)).unwrap();
        }
        drop(tree);
        service.commit(COPY, "ns/2/A-100000-100000-remap", "", &none()).unwrap();
        let mounts = service.prepare("ns/4/k", COPY, &mapped(100_000)).unwrap();
        assert_eq!(service.mounts("ns/4/k").unwrap(), mounts);
        let tree = MountedTree::of(&mounts, site.target("k"));
        assert_eq!(owner(tree.0.clone()), (100_000, 100_000));
        assert_eq!(owner(tree.join("file")), (100_000, 100_000));
        drop(tree);
        let error = service.prepare("ns/5/k", COPY, &mapped(200_000)).unwrap_err();
        assert_eq!((error.code(), error.status()), ("id-map", ErrorStatus::InvalidArgument));
        assert!(error.to_string().contains("owners containerd mapped otherwise"), "{error}");
    });
}

/// An image of many layers, in which each layer has a file of its own. Returns the name of its top.
fn many_layers(service: &Snapshotter, count: usize) -> String {
    let mut top = String::new();
    for number in 0..count {
        let name = format!("L{number}");
        layer(service, &name, &top);
        top = name;
    }
    top
}

#[test]
fn mounts_do_not_grow_with_layers_times_pods_that_have_maps_of_their_own() {
    with_mounts(|site| {
        let config = || Config { sync: false, ..site.config() };
        let service = opened(config());
        let top = many_layers(&service, LAYERS);
        let base = |pod: u32| pod * 65_536;
        let trees: Vec<_> = (1..=PODS)
            .map(|pod| {
                let key = format!("pod {pod}");
                let mounts = service.prepare(&key, &top, &mapped(base(pod))).unwrap();
                MountedTree::of(&mounts, site.target(&key))
            })
            .collect();
        let with_all = LAYERS * (1 + usize::try_from(PODS).unwrap());
        assert_eq!(site.lowers().len(), with_all);
        // A caller that was given names a moment ago may not have used them.
        let left = service.release_mapped(Duration::from_secs(3600)).unwrap();
        assert_eq!((left, site.lowers().len()), (with_all - LAYERS, with_all));
        // The next daemon finds it all again.
        drop(service);
        let service = opened(config());
        assert_eq!(service.release_mapped(Duration::ZERO).unwrap(), 0);
        assert_eq!(site.lowers().len(), LAYERS, "each layer once for the node");
        for (pod, tree) in (1..).zip(&trees) {
            assert_eq!((tree.read("L0"), tree.read(&top)), ("L0".to_owned(), top.clone()));
            assert_eq!(owner(tree.join("L0")), (base(pod), base(pod)));
            write(&tree.join("L1"), "changed");
            assert_eq!(owner(tree.join("L1")), (base(pod), base(pod)));
        }
        // A container that is started again asks again.
        drop(trees);
        let again = service.mounts("pod 1").unwrap();
        assert_eq!(service.release_mapped(Duration::ZERO).unwrap(), LAYERS);
        let tree = MountedTree::of(&again, site.target("again"));
        assert_eq!((tree.read("L1"), tree.read("L0")), ("changed".to_owned(), "L0".to_owned()));
        assert_eq!(service.release_mapped(Duration::ZERO).unwrap(), 0);
        assert_eq!(site.lowers().len(), LAYERS);
    });
}

#[test]
fn mapped_layers_stay_mounted_for_whom_they_are_waiting() {
    with_mounts(|site| {
        let service = site.open();
        let top = many_layers(&service, 3);
        let maps = mapped(100_000);
        let first = service.prepare("first", &top, &maps).unwrap();
        let second = service.prepare("second", &top, &maps).unwrap();
        let view = service.view("view", "L1", &maps).unwrap();
        let bare = service.view("bare", "L0", &maps).unwrap();
        // Three for overlays and one to be bound.
        let mapped_now = || site.lowers().iter().filter(|name| name.starts_with('m')).count();
        let left = |wanted| assert_eq!(service.release_mapped(Duration::ZERO).unwrap(), wanted);
        assert_eq!(mapped_now(), 4);
        left(3);
        let _first = MountedTree::of(&first, site.target("first"));
        left(3);
        let _second = MountedTree::of(&second, site.target("second"));
        // Only the view is to come, and it has no top.
        left(2);
        let view = MountedTree::of(&view, site.target("view"));
        left(0);
        assert_eq!((mapped_now(), owner(view.join("L1"))), (1, (100_000, 100_000)));
        let bare = MountedTree::of(&bare, site.target("bare"));
        assert_eq!(owner(bare.join("L0")), (100_000, 100_000));
        // One that is gone needs nothing.
        service.prepare("third", &top, &maps).unwrap();
        service.remove("third").unwrap();
        left(0);
        assert_eq!(mapped_now(), 1);
    });
}
