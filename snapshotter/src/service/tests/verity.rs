//! Layers with hash trees, from their commit to their last unmount.

use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;

use erolith_mkfs::protect::append_tree;
use erolith_verity::dmverity::sidecar::Sidecar;
use erolith_verity::dmverity::{self, BlockContents, DmVerityTree, RootHash};

use super::*;
use crate::sys::loopdev;
use crate::verity::tests::device_mapper;

fn open(site: &Site, dm_verity: DmVerity) -> Snapshotter {
    opened(Config { dm_verity, ..site.config() })
}

fn write_sidecar(image: &Path, sidecar: Sidecar) {
    let file = File::create(layerdir::sidecar_path(image)).unwrap();
    file.write_all_at(&sidecar.to_bytes(None), 0).unwrap();
}

/// The committed layer `A` with a file `large` of 16 blocks, from block 1 of the image on, and a hash tree.
fn protected(site: &Site, service: &Snapshotter) -> (PathBuf, DmVerityTree) {
    let tree = site.dir.path().join("tree");
    fs::create_dir_all(&tree).unwrap();
    write(&tree.join("large"), &"content ".repeat(16 * 512));
    let image = apply(&service.prepare("a", "", &none()).unwrap(), &tree);
    let file = File::options().read(true).write(true).open(&image).unwrap();
    let verity = append_tree(&file, &|| false).unwrap();
    file.sync_all().unwrap();
    write_sidecar(&image, Sidecar::from(&verity));
    service.commit("A", "a", "", &none()).unwrap();
    (image, verity)
}

fn flip(image: &Path, offset: u64) {
    let file = File::options().read(true).write(true).open(image).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
    file.sync_all().unwrap();
}

/// The layer of [`protected`] comes in again.
fn heal(site: &Site, service: &Snapshotter, verity: &DmVerityTree) {
    let mounts = service.prepare("again", "", &none()).unwrap();
    let image = apply(&mounts, &site.dir.path().join("tree"));
    let file = File::options().read(true).write(true).open(&image).unwrap();
    append_tree(&file, &|| false).unwrap();
    drop(file);
    write_sidecar(&image, Sidecar::from(verity));
    assert_eq!(service.heal(image.parent().unwrap()).unwrap(), 1);
    service.remove("again").unwrap();
}

#[test]
fn a_sidecar_that_is_not_the_one_of_the_commit_is_damage() {
    type Change<'a> = (&'a str, fn(&Path, Sidecar));
    let changes: [Change<'_>; 4] = [
        ("another root", |image, pinned| {
            write_sidecar(image, Sidecar { root: RootHash([3; 32]), ..pinned });
        }),
        ("another place", |image, pinned| {
            let hash_offset = pinned.hash_offset - 4096;
            write_sidecar(image, Sidecar { hash_offset, ..pinned });
        }),
        ("none", |image, _| fs::remove_file(layerdir::sidecar_path(image)).unwrap()),
        ("nothing in it", |image, _| {
            File::create(layerdir::sidecar_path(image)).unwrap();
        }),
    ];
    for (said, change) in changes {
        with_mounts(|site| {
            let config = || Config { profile: Profile::Managed, ..site.config() };
            let service = opened(config());
            let (image, verity) = protected(site, &service);
            let pinned = Sidecar::from(&verity);
            assert_eq!(service.store.tree_of(1).unwrap(), Some(pinned), "{said}");
            service.view("v", "A", &none()).unwrap();
            service.remove("v").unwrap();
            change(&image, pinned);
            // Who does not look at them does not care.
            drop(service);
            let off = Config { dm_verity: DmVerity::Off, ..config() };
            let service = opened(off);
            service.view("v", "A", &none()).unwrap();
            service.remove("v").unwrap();
            drop(service);
            let service = opened(config());
            for key in ["v", "w"] {
                let error = service.view(key, "A", &none()).unwrap_err();
                assert_eq!(error.code(), "layer-damaged", "{said}: {error}");
                assert!(error.to_string().contains(&pinned.root.to_string()), "{said}: {error}");
            }
            heal(site, &service, &verity);
            service.view("v", "A", &none()).unwrap();
            assert_eq!(layerdir::read_sidecar(&image).unwrap(), Some(pinned));
        });
    }
}

#[test]
fn a_layer_that_the_commit_makes_has_a_tree_where_all_shall_have_one() {
    with_mounts(|site| {
        let profile = Profile::Managed;
        let config = Config { profile, dm_verity: DmVerity::On, ..site.config() };
        let service = opened(config);
        let id = layer(&service, "A", "");
        let image = service.dir(id).join(layerdir::IMAGE);
        let found = layerdir::read_sidecar(&image).unwrap().unwrap();
        assert_eq!(service.store.tree_of(id).unwrap(), Some(found));
        let file = File::open(&image).unwrap();
        dmverity::verify(&file, found.hash_offset, found.root, &|| false).unwrap();
        service.view("v", "A", &none()).unwrap();
    });
}

/// The devices of this root.
fn devices(site: &Site) -> Vec<String> {
    let identity = fs::read_to_string(site.dir.path().join("root/identity")).unwrap();
    crate::verity::Devices::new(DmVerity::Off, &identity).unwrap().names().unwrap()
}

/// Nothing is mounted, and no device is left, once the kernel has had its time.
fn nothing_left(site: &Site, image: &Path) {
    assert_eq!(site.lowers(), Vec::<String>::new());
    let file = File::open(image).unwrap();
    let is_left = || {
        let looped = loopdev::find(file.as_fd()).unwrap().is_some();
        if devices(site).is_empty() && !looped { Ok(()) } else { Err((devices(site), looped)) }
    };
    patiently(|_| true, is_left).unwrap();
}

#[test]
fn a_layer_is_read_through_a_device_that_goes_with_its_mount() {
    if device_mapper().is_none() {
        return;
    }
    with_mounts(|site| {
        let service = open(site, DmVerity::On);
        let (image, verity) = protected(site, &service);
        let view = MountedTree::of(&service.view("v", "A", &none()).unwrap(), site.target("v"));
        assert_eq!(view.read("large").len(), 16 * 4096);
        assert_eq!(devices(site).len(), 1);
        let mapper = device_mapper().unwrap();
        let parameters = mapper.parameters(&devices(site)[0]).unwrap();
        assert!(parameters.contains(&verity.root.to_string()), "{parameters}");
        // Unmounted below a container that goes on; mounted again under another name.
        service.lowers.forget(1).unwrap();
        assert_eq!(view.read("large").len(), 16 * 4096);
        service.mounts("v").unwrap();
        assert_eq!(devices(site).len(), 2);
        // The next daemon finds what is mounted, and takes nothing away.
        drop(service);
        let service = open(site, DmVerity::On);
        assert_eq!(view.read("large").len(), 16 * 4096);
        drop(view);
        service.remove("v").unwrap();
        service.cleanup().unwrap();
        nothing_left(site, &image);
    });
}

#[test]
fn a_changed_bit_of_a_file_cannot_be_read_and_is_named() {
    if device_mapper().is_none() {
        return;
    }
    with_mounts(|site| {
        let service = open(site, DmVerity::Auto);
        let (image, verity) = protected(site, &service);
        flip(&image, 3 * 4096 + 17);
        let view = MountedTree::of(&service.view("v", "A", &none()).unwrap(), site.target("v"));
        let refused = fs::read(view.join("large")).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
        assert!(device_mapper().unwrap().status(&devices(site)[0]).unwrap().starts_with('C'));
        let file = File::open(&image).unwrap();
        match dmverity::verify(&file, verity.hash_offset, verity.root, &|| false).unwrap_err() {
            dmverity::Error::Block { holds: BlockContents::Data, block: 3, offset: 12288 } => {}
            other => panic!("{other}"),
        }
        drop(view);
        service.remove("v").unwrap();
        service.cleanup().unwrap();
        nothing_left(site, &image);
    });
}

#[test]
fn what_does_not_fit_is_not_mounted_and_nothing_is_left() {
    if device_mapper().is_none() {
        return;
    }
    with_mounts(|site| {
        let service = open(site, DmVerity::Auto);
        let (image, verity) = protected(site, &service);
        let wrong = Sidecar { root: RootHash([3; 32]), hash_offset: verity.hash_offset };
        write_sidecar(&image, wrong);
        let error = service.view("v", "A", &none()).unwrap_err();
        assert_eq!(
            (error.code(), error.status()),
            ("layer-damaged", erolith_errors::ErrorStatus::DataLoss)
        );
        assert!(error.to_string().contains(&verity.root.to_string()), "{error}");
        heal(site, &service, &verity);
        // In the superblock of the filesystem: the mount itself fails.
        flip(&image, 1024 + 40);
        let error = service.view("w", "A", &none()).unwrap_err();
        assert_eq!(
            (error.code(), error.status()),
            ("dmverity-block", erolith_errors::ErrorStatus::DataLoss)
        );
        assert!(error.to_string().contains("block 0 of the data"), "{error}");
        nothing_left(site, &image);
        // Put right, it can be mounted.
        flip(&image, 1024 + 40);
        let view = MountedTree::of(&service.view("x", "A", &none()).unwrap(), site.target("x"));
        assert_eq!(view.names(""), ["large"]);
        drop(view);
        for key in ["v", "w", "x"] {
            let _ = service.remove(key);
        }
        service.cleanup().unwrap();
        nothing_left(site, &image);
    });
}

#[test]
fn layers_without_a_tree_are_refused_where_one_is_required() {
    with_mounts(|site| {
        layer(&open(site, DmVerity::Auto), "A", "");
        let service = open(site, DmVerity::On);
        let error = service.view("v", "A", &none()).unwrap_err();
        let want = ("unprotected", erolith_errors::ErrorStatus::FailedPrecondition);
        assert_eq!((error.code(), error.status()), want);
        assert_eq!(site.lowers(), Vec::<String>::new());
        drop(service);
        for (mode, key) in [(DmVerity::Auto, "w"), (DmVerity::Off, "x")] {
            let service = open(site, mode);
            let view = MountedTree::of(&service.view(key, "A", &none()).unwrap(), site.target(key));
            assert_eq!(view.names(""), ["A"]);
        }
    });
}

/// Others open the device then.
#[test]
fn the_mount_manager_is_told_where_the_sidecar_is() {
    with_mounts(|site| {
        let managed =
            |dm_verity| opened(Config { profile: Profile::Managed, dm_verity, ..site.config() });
        let service = managed(DmVerity::Auto);
        let (image, _) = protected(site, &service);
        let mounts = service.view("v", "A", &none()).unwrap();
        let option = format!("X-containerd.dmverity={}.dmverity", image.display());
        let has_kernel = crate::verity::is_in_kernel().unwrap();
        let want = [&["ro", "loop"][..], &[option.as_str()][..usize::from(has_kernel)]].concat();
        assert_eq!(mounts[0].options, want);
        drop(service);
        let service = managed(DmVerity::Off);
        assert_eq!(service.mounts("v").unwrap()[0].options, ["ro", "loop"]);
        drop(service);
        let service = managed(DmVerity::Auto);
        layer(&service, "B", "");
        assert_eq!(service.view("w", "B", &none()).unwrap()[0].options, ["ro", "loop"]);
        drop(service);
        let service = managed(DmVerity::On);
        assert_eq!(service.mounts("w").unwrap_err().code(), "unprotected");
        assert_eq!(service.mounts("v").unwrap()[0].options[2], option);
        fs::remove_file(layerdir::sidecar_path(&image)).unwrap();
        assert_eq!(service.mounts("v").unwrap_err().code(), "layer-damaged");
    });
}
