//! Mapped owners.

use std::os::unix::fs::MetadataExt;

use super::*;
use crate::Status;

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
            let tree =
                Tree::of(&service.prepare(&key, "B", &mapped(host)).unwrap(), site.target(&key));
            assert_eq!(owner(tree.0.clone()), (host, host));
            assert_eq!(owner(tree.join("file")), (host + 5, host + 6));
            write(&tree.join("file"), "changed");
            assert_eq!(owner(tree.join("file")), (host + 5, host + 6));
            let key = format!("v{host}");
            let view =
                Tree::of(&service.view(&key, "A", &mapped(host)).unwrap(), site.target(&key));
            assert_eq!(owner(view.join("file")), (host + 5, host + 6));
            assert_eq!(service.mounts(&key).unwrap()[0].options, ["ro", "rbind"]);
        }
        let plain = Tree::of(&service.view("v", "B", &none()).unwrap(), site.target("v"));
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
        assert_eq!(status(service.prepare("k", "", &one)), Status::InvalidArgument);
        assert_eq!(status(service.view("k", "", &one)), Status::InvalidArgument);
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
        let tree = Tree::of(&mounts, site.target("k"));
        let file = tree.join("new");
        write(&file, "new");
        let error = service.commit("B", "k", "", &none()).unwrap_err();
        assert_eq!((error.code(), error.status()), ("owner-unmapped", Status::FailedPrecondition));
        std::os::unix::fs::chown(&file, Some(100_007), Some(100_008)).unwrap();
        drop(tree);
        service.commit("B", "k", "", &none()).unwrap();
        let view = Tree::of(&service.view("v", "B", &none()).unwrap(), site.target("v"));
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
        let tree = Tree::of(
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
        let tree = Tree::of(&mounts, site.target("k"));
        assert_eq!(owner(tree.0.clone()), (100_000, 100_000));
        assert_eq!(owner(tree.join("file")), (100_000, 100_000));
        drop(tree);
        let error = service.prepare("ns/5/k", COPY, &mapped(200_000)).unwrap_err();
        assert_eq!((error.code(), error.status()), ("id-map", Status::InvalidArgument));
        assert!(error.to_string().contains("owners containerd mapped otherwise"), "{error}");
    });
}
