//! Layers that are not what they were, and images that must not change.

use std::os::unix::fs::FileExt;

use super::*;
use crate::layerdir::{DAMAGED, IMAGE};
use crate::protect::{self, FsVerityPolicy, is_immutable};
use erolith_errors::ErrorStatus;

const DIFF_ID: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn tree_with(site: &Site, name: &str) -> PathBuf {
    let tree = site.dir.path().join("tree").join(name);
    if !tree.exists() {
        fs::create_dir_all(&tree).unwrap();
        write(&tree.join(name), name);
    }
    tree
}

/// The layer `name` as a foreign differ wrote it.
fn unpacked(site: &Site, service: &Snapshotter, name: &str, parent: &str) -> PathBuf {
    let key = format!("unpacking {name}");
    let image = apply(&service.prepare(&key, parent, &none()).unwrap(), &tree_with(site, name));
    service.commit(name, &key, "", &none()).unwrap();
    image
}

/// Puts another file in the place of an image. The one that was there may be sealed.
fn replace(image: &Path, change: impl FnOnce(&File)) {
    let copy = image.with_extension("copy");
    fs::copy(image, &copy).unwrap();
    change(&File::options().read(true).write(true).open(&copy).unwrap());
    fs::rename(copy, image).unwrap();
}

/// The same layer comes in again, as when the image is pulled. Returns how many that healed.
fn pulled_again(site: &Site, service: &Snapshotter, name: &str) -> u64 {
    let mounts = service.prepare("again", "", &none()).unwrap();
    let image = apply(&mounts, &tree_with(site, name));
    let healed = service.heal(image.parent().unwrap()).unwrap();
    // containerd's own database has the name already, so it gives up what it made.
    service.remove("again").unwrap();
    service.cleanup().unwrap();
    healed
}

fn check_damaged(service: &Snapshotter, image: &Path, said: &str) {
    for key in ["k", "k2"] {
        let error = service.prepare(key, "B", &none()).unwrap_err();
        assert_eq!(
            (error.code(), error.status()),
            ("layer-damaged", ErrorStatus::DataLoss),
            "{said}"
        );
        assert!(error.to_string().contains("layer A "), "{error}");
        assert!(error.advice().is_some());
        assert_eq!(status(service.stat(key)), ErrorStatus::NotFound);
    }
    // A pull unpacks them again; lists and garbage collection show them, and containers go on.
    for name in ["A", "B"] {
        assert_eq!(status(service.stat(name)), ErrorStatus::NotFound, "{said}: {name}");
    }
    service.stat("C").unwrap();
    assert_eq!(service.list(&Filters::parse(&[]).unwrap()).unwrap().len(), 3);
    assert_eq!(status(service.remove("A")), ErrorStatus::FailedPrecondition);
    assert!(!image.exists(), "{said}");
}

#[test]
fn a_damaged_layer_is_quarantined_and_whole_again_when_it_is_pulled() {
    type Damage<'a> = (&'a str, fn(&File));
    let damages: [Damage<'_>; 4] = [
        ("cut off", |file| file.set_len(4095).unwrap()),
        ("empty", |file| file.set_len(0).unwrap()),
        ("overwritten", |file| {
            file.write_all_at(&[0; 2048], 0).unwrap();
        }),
        ("hostile", |file| {
            // The number of the root directory; with a time that its mark does not know.
            file.write_all_at(&[0xFF, 0x7F], 1024 + 14).unwrap();
        }),
    ];
    for profile in [Profile::Plain, Profile::Managed] {
        for (said, damage) in damages {
            with_mounts(|site| {
                let service = opened(Config { profile, ..site.config() });
                let image = unpacked(site, &service, "A", "");
                unpacked(site, &service, "B", "A");
                unpacked(site, &service, "C", "");
                // What is mounted is still whole.
                service.cleanup().unwrap();
                replace(&image, damage);
                check_damaged(&service, &image, said);
                assert!(image.with_file_name(DAMAGED).exists());
                assert_eq!(pulled_again(site, &service, "C"), 0, "another image");
                drop(service);
                let service = opened(Config { profile, ..site.config() });
                check_damaged(&service, &image, said);
                assert_eq!(pulled_again(site, &service, "A"), 1);
                assert!(image.exists() && !image.with_file_name(DAMAGED).exists());
                service.stat("A").unwrap();
                service.stat("B").unwrap();
                let mounts = service.prepare("k", "B", &none()).unwrap();
                if profile == Profile::Plain {
                    assert_eq!(MountedTree::of(&mounts, site.target("k")).names(""), ["A", "B"]);
                }
            });
        }
    }
}

#[test]
fn a_layer_that_is_gone_heals_too_and_can_always_be_removed() {
    with_mounts(|site| {
        let service = site.open();
        let image = unpacked(site, &service, "A", "");
        unpacked(site, &service, "B", "A");
        unpacked(site, &service, "C", "");
        // What is mounted is still whole.
        service.cleanup().unwrap();
        fs::remove_file(&image).unwrap();
        check_damaged(&service, &image, "gone");
        assert_eq!(pulled_again(site, &service, "A"), 1);
        assert_eq!(
            MountedTree::of(&service.view("v", "B", &none()).unwrap(), site.target("v")).names(""),
            ["A", "B"]
        );
        service.remove("v").unwrap();
        // The whole directory, and a start in between.
        fs::remove_dir_all(image.parent().unwrap()).unwrap();
        drop(service);
        unmount_below(site.state.path());
        let service = site.open();
        assert_eq!(status(service.stat("B")), ErrorStatus::NotFound);
        assert_eq!(pulled_again(site, &service, "A"), 1);
        service.stat("B").unwrap();
        fs::remove_file(&image).unwrap();
        service.view("v", "A", &none()).unwrap_err();
        for name in ["B", "A", "C"] {
            service.remove(name).unwrap();
        }
        service.cleanup().unwrap();
        assert_eq!(site.directories(), Vec::<String>::new());
    });
}

/// An image that is known by its diffID would come back as the layer that it damaged.
#[test]
fn a_damaged_image_is_not_linked_again() {
    with_mounts(|site| {
        let service = site.open();
        let image = unpacked(site, &service, "A", "");
        let good = image.with_extension("good");
        fs::rename(&image, &good).unwrap();
        build_image(&tree_with(site, "other"), &image);
        File::options().write(true).open(&image).unwrap().set_len(100).unwrap();
        service.images().keep(DIFF_ID, &image, BLOB).unwrap();
        assert!(service.images().find(DIFF_ID).is_some());
        assert_eq!(service.view("v", "A", &none()).unwrap_err().code(), "layer-damaged");
        assert_eq!(service.images().find(DIFF_ID), None);
        // One that is good heals as soon as it is linked.
        service.images().keep(DIFF_ID, &good, BLOB).unwrap();
        let unpack = labels(&[
            ("containerd.io/snapshot.ref", "c"),
            ("containerd.io/snapshot/diff-id", DIFF_ID),
        ]);
        service.prepare_staged("k", "", &unpack, &STAGES).unwrap();
        service.stat("A").unwrap();
        service.view("v", "A", &none()).unwrap();
    });
}

/// Containers stand on what they have; a mount that shows a damaged layer is not for new ones.
#[test]
fn what_was_found_damaged_by_others_is_not_stood_upon() {
    with_mounts(|site| {
        let service = site.open();
        unpacked(site, &service, "A", "");
        let running = service.prepare("running", "A", &none()).unwrap();
        let tree = MountedTree::of(&running, site.target("running"));
        assert!(service.store.set_damaged(1, "by erolith scrub").unwrap());
        let error = service.prepare("k", "A", &none()).unwrap_err();
        assert!(error.to_string().contains("by erolith scrub"), "{error}");
        assert_eq!(service.standing_mounts("running").unwrap_err().code(), "layer-damaged");
        assert_eq!(tree.read("A"), "A");
        assert_eq!(pulled_again(site, &service, "A"), 1);
        service.mounts("running").unwrap();
    });
}

#[test]
fn fs_verity_that_is_required_is_tried_at_the_start() {
    with_mounts(|site| {
        let config = Config { verity: FsVerityPolicy::Required, ..site.config() };
        let has_verity = protect::try_out(site.dir.path()).is_ok();
        match Snapshotter::open(config) {
            Ok(service) => {
                assert!(has_verity);
                unpacked(site, &service, "A", "");
                service.view("v", "A", &none()).unwrap();
            }
            Err(error) => {
                assert!(!has_verity);
                assert_eq!(error.code(), "verity-unavailable");
                assert_eq!(error.status(), ErrorStatus::FailedPrecondition);
            }
        }
    });
}

/// Every layer is pinned, also that of a foreign differ; a file that says the same and is another one is refused.
#[test]
fn a_sealed_layer_that_was_replaced_is_refused() {
    with_mounts(|site| {
        let service = site.open();
        let image = unpacked(site, &service, "A", "");
        let id = layer(&service, "B", "");
        let enforced = protect::try_out(site.dir.path()).is_ok();
        for id in [1, id] {
            // Sealing changes the time of a file, which alone causes no second check.
            let file = File::open(service.dir(id).join(IMAGE)).unwrap();
            assert!(layerdir::is_marked(&file));
            assert_eq!(service.store.pin_of(id).unwrap().unwrap().is_enforced, enforced);
        }
        if !enforced {
            println!("skipped: no fs-verity on /var/tmp");
            return;
        }
        replace(&image, |_| {});
        let error = service.view("v", "A", &none()).unwrap_err();
        assert!(error.to_string().contains("no fs-verity any more"), "{error}");
        assert_eq!(pulled_again(site, &service, "A"), 1);
        service.view("v", "A", &none()).unwrap();
        // Sealed, of the same size, and a good image: but another one.
        let image = service.dir(id).join(IMAGE);
        fs::remove_file(&image).unwrap();
        build_image(&tree_with(site, "C"), &image);
        let file = File::open(&image).unwrap();
        assert!(service.protector().commit(&file, &image).unwrap().unwrap().is_enforced);
        let error = service.view("w", "B", &none()).unwrap_err();
        assert!(error.to_string().contains("its fs-verity digest is"), "{error}");
        assert!(error.to_string().matches("sha256:").count() == 2, "{error}");
    });
}

/// Flips a bit wherever the disk has this page, of which nothing of `image` is in memory afterwards. Returns how often.
fn flip(device: &Path, page: &[u8], image: &Path) -> usize {
    rustix::fs::sync();
    let disk = File::options().read(true).write(true).open(device).unwrap();
    let (mut buffer, mut at, mut found) = (vec![0; 1 << 20], 0, 0);
    loop {
        let n = disk.read_at(&mut buffer, at).unwrap();
        if n == 0 {
            break;
        }
        for (index, block) in buffer[..n].chunks(4096).enumerate() {
            if block == page {
                let place = at + 4096 * index as u64 + 1111;
                disk.write_all_at(&[page[1111] ^ 4], place).unwrap();
                found += 1;
            }
        }
        at += n as u64;
    }
    disk.sync_all().unwrap();
    write(Path::new("/proc/sys/vm/drop_caches"), "3");
    // Linux 6.1 drops no page there that a processor has just seen.
    let image = File::open(image).unwrap();
    rustix::fs::fadvise(&image, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    found
}

/// The kernel finds it when the page is read; a layer whose first page it was is quarantined.
#[test]
fn a_bit_that_flips_on_the_disk_is_an_error_and_not_data() {
    let device = std::env::var_os("EROLITH_TEST_VERITY").map(PathBuf::from);
    let Some(device) = device.filter(|device| device.starts_with("/dev")) else {
        println!("skipped: no disk to flip bits of: see tests/vm/verity.sh");
        return;
    };
    with_mounts(|site| {
        let service = site.open();
        let tree = tree_with(site, "A");
        let page = (0..512).map(|n| format!("{n:07} ")).collect::<String>().into_bytes();
        let file = File::create(tree.join("page")).unwrap();
        file.write_all_at(&page, 0).unwrap();
        let modified = file.metadata().unwrap().modified().unwrap();
        let image = unpacked(site, &service, "A", "");
        assert!(service.store.pin_of(1).unwrap().unwrap().is_enforced);
        assert!(flip(&device, &page, &image) >= 1);
        let shown = MountedTree::of(&service.view("v", "A", &none()).unwrap(), site.target("v"));
        let error = fs::read(shown.join("page")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
        drop(shown);
        service.remove("v").unwrap();
        service.cleanup().unwrap();
        // The source is on that disk too.
        file.write_all_at(&page, 0).unwrap();
        file.set_modified(modified).unwrap();
        let first = fs::read(&image).map(drop).unwrap_err();
        assert_eq!(first.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
        let mut superblock = vec![0; 4096];
        File::open(&image).unwrap().read_exact_at(&mut superblock, 0).unwrap();
        assert!(flip(&device, &superblock, &image) >= 1);
        let error = service.view("v", "A", &none()).unwrap_err();
        assert_eq!(error.code(), "layer-damaged", "{error}");
        assert_eq!(pulled_again(site, &service, "A"), 1);
        let shown = MountedTree::of(&service.view("v", "A", &none()).unwrap(), site.target("v"));
        assert_eq!(fs::read(shown.join("page")).unwrap(), page);
    });
}

#[test]
fn images_are_immutable_while_they_are_layers() {
    with_mounts(|site| {
        let config = || Config { immutable: true, ..site.config() };
        let service = opened(config());
        let ours = service.dir(layer(&service, "A", "")).join(IMAGE);
        let theirs = unpacked(site, &service, "B", "A");
        if !is_immutable(&ours) {
            assert!(std::env::var_os("CI").is_none(), "no immutable files on /var/tmp");
            println!("skipped: no immutable files on /var/tmp");
            return;
        }
        assert!(is_immutable(&theirs));
        assert!(!service.images().keep(DIFF_ID, &ours, BLOB).unwrap());
        assert_eq!(
            MountedTree::of(&service.view("v", "B", &none()).unwrap(), site.target("v")).names(""),
            ["A", "B"]
        );
        // A file with other hard links is not changed, nor is it refused.
        let blob = site.dir.path().join("blob");
        let mounts = service.prepare("native", "", &none()).unwrap();
        let image = apply(&mounts, &tree_with(site, "native"));
        fs::hard_link(&image, &blob).unwrap();
        service.commit("N", "native", "", &none()).unwrap();
        assert!(!is_immutable(&image));
        // Killed after the commit, or between the flag and the removal.
        protect::clear_immutable(&ours).unwrap();
        drop(service);
        let service = opened(config());
        assert!(is_immutable(&ours) && !is_immutable(&blob));
        for name in ["v", "B", "N"] {
            service.remove(name).unwrap();
        }
        let gone = site.dir.path().join("root/snapshots/gone-99");
        fs::rename(theirs.parent().unwrap(), &gone).unwrap();
        protect::clear_immutable(&gone.join(IMAGE)).unwrap();
        drop(service);
        // Who does not want the flag any more gets rid of what has it.
        let service = site.open();
        service.remove("A").unwrap();
        service.cleanup().unwrap();
        assert_eq!(site.directories(), Vec::<String>::new());
        assert!(blob.exists());
    });
}

#[test]
fn an_immutable_layer_that_is_damaged_is_quarantined() {
    with_mounts(|site| {
        let config = Config { immutable: true, ..site.config() };
        let service = opened(config);
        let image = unpacked(site, &service, "A", "");
        protect::clear_immutable(&image).unwrap();
        replace(&image, |file| file.set_len(0).unwrap());
        let is_set = protect::set_immutable(&image).unwrap();
        assert_eq!(service.view("v", "A", &none()).unwrap_err().code(), "layer-damaged");
        let damaged = image.with_file_name(DAMAGED);
        assert!(damaged.exists() && !is_immutable(&damaged), "{is_set}");
        assert_eq!(pulled_again(site, &service, "A"), 1);
        service.view("v", "A", &none()).unwrap();
    });
}

/// What a daemon that rebuilds layers asks and does, with and without a digest to compare.
#[test]
fn a_rebuilt_image_is_taken_only_if_it_is_the_one_that_was_lost() {
    with_mounts(|site| {
        let service = site.open();
        let image = unpacked(site, &service, "A", "");
        let above = unpacked(site, &service, "B", "A");
        service.cleanup().unwrap();
        let good = image.with_extension("good");
        fs::copy(&image, &good).unwrap();
        let id = service.store.snapshot("A").unwrap().id;
        assert_eq!(service.broken(id).unwrap(), None);
        replace(&image, |file| file.set_len(100).unwrap());
        service.view("v", "B", &none()).unwrap_err();
        let broken = service.broken(id).unwrap().unwrap();
        assert_eq!((broken.name.as_str(), broken.parent.as_deref()), ("A", None));
        assert!(broken.pin.is_some() && broken.origin.is_none() && broken.lowers.is_empty());
        assert_eq!(service.store.damaged_below("B").unwrap(), [id]);
        assert_eq!(service.store.damaged_below("none").unwrap(), Vec::<u64>::new());
        // Nothing, and another image.
        assert_eq!(service.healed(id).unwrap_err().code(), "gone");
        fs::copy(&above, &image).unwrap();
        assert_eq!(service.healed(id).unwrap_err().code(), "verity-mismatch");
        assert_eq!(status(service.stat("B")), ErrorStatus::NotFound);
        fs::copy(&good, &image).unwrap();
        service.healed(id).unwrap();
        assert!(!image.with_file_name(DAMAGED).exists());
        service.stat("B").unwrap();
        service.view("v", "B", &none()).unwrap();
        assert_eq!(service.broken(id).unwrap(), None);
    });
}

/// What a layer was made of is known until it is committed, and durable from then on.
#[test]
fn the_origin_of_a_layer_comes_with_its_commit() {
    with_mounts(|site| {
        let service = site.open();
        let origin = |diff_id: &str| Origin {
            namespace: "default".to_owned(),
            diff_id: diff_id.to_owned(),
            blob: None,
        };
        for name in ["A", "B"] {
            let mounts = service.prepare(name, "", &none()).unwrap();
            let image = apply(&mounts, &tree_with(site, name));
            service.note_origin(image.parent().unwrap(), origin(name));
        }
        service.note_origin(site.dir.path(), origin("elsewhere"));
        service.remove("B").unwrap();
        service.commit("L", "A", "", &none()).unwrap();
        let id = service.store.snapshot("L").unwrap().id;
        assert!(service.origins.lock().unwrap().is_empty());
        drop(service);
        let service = site.open();
        assert_eq!(service.store.origin_of(id).unwrap(), Some(origin("A")));
    });
}
