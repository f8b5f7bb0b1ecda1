//! Layers with hash trees, from their commit to their last unmount.

use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;

use erolith_mkfs::dmverity::sidecar::Sidecar;
use erolith_mkfs::dmverity::{self, Holds, RootHash, Verity};

use super::*;
use crate::sys::loopdev;
use crate::verity::tests::device_mapper;

fn open(site: &Site, dm_verity: DmVerity) -> Snapshotter {
    let config = || Config { dm_verity, ..site.config() };
    let is_passing = |error: &Error| matches!(error, Error::InUse { .. });
    patiently(is_passing, || Snapshotter::open(config())).unwrap()
}

fn write_sidecar(image: &Path, sidecar: Sidecar) {
    let file = File::create(layerdir::sidecar_path(image)).unwrap();
    file.write_all_at(&sidecar.to_bytes(), 0).unwrap();
}

/// The committed layer `A` with a file `large` of 16 blocks, from block 1 of the image on, and a hash tree.
fn protected(site: &Site, service: &Snapshotter) -> (PathBuf, Verity) {
    let tree = site.dir.path().join("tree");
    fs::create_dir_all(&tree).unwrap();
    write(&tree.join("large"), &"content ".repeat(16 * 512));
    let image = apply(&service.prepare("a", "", &none()).unwrap(), &tree);
    let file = File::options().read(true).write(true).open(&image).unwrap();
    let verity = dmverity::append_to_image(&file, &|| false).unwrap();
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
        let view = Tree::of(&service.view("v", "A", &none()).unwrap(), site.target("v"));
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
        let view = Tree::of(&service.view("v", "A", &none()).unwrap(), site.target("v"));
        let refused = fs::read(view.join("large")).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
        assert_eq!(device_mapper().unwrap().status(&devices(site)[0]).unwrap(), "C");
        let file = File::open(&image).unwrap();
        match dmverity::verify(&file, verity.hash_offset, verity.root, &|| false).unwrap_err() {
            dmverity::Error::Block { holds: Holds::Data, block: 3, offset: 12288 } => {}
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
        assert_eq!((error.code(), error.status()), ("dmverity-root", crate::Status::DataLoss));
        assert!(error.to_string().contains(&verity.root.to_string()), "{error}");
        write_sidecar(&image, Sidecar::from(&verity));
        // In the superblock of the filesystem: the mount itself fails.
        flip(&image, 1024 + 40);
        let error = service.view("w", "A", &none()).unwrap_err();
        assert_eq!((error.code(), error.status()), ("dmverity-block", crate::Status::DataLoss));
        assert!(error.to_string().contains("block 0 of the data"), "{error}");
        nothing_left(site, &image);
        // Put right, it can be mounted.
        flip(&image, 1024 + 40);
        let view = Tree::of(&service.view("x", "A", &none()).unwrap(), site.target("x"));
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
        let service = open(site, DmVerity::On);
        layer(&service, "A", "");
        let error = service.view("v", "A", &none()).unwrap_err();
        let want = ("unprotected", crate::Status::FailedPrecondition);
        assert_eq!((error.code(), error.status()), want);
        assert_eq!(site.lowers(), Vec::<String>::new());
        drop(service);
        for (mode, key) in [(DmVerity::Auto, "w"), (DmVerity::Off, "x")] {
            let service = open(site, mode);
            let view = Tree::of(&service.view(key, "A", &none()).unwrap(), site.target(key));
            assert_eq!(view.names(""), ["A"]);
        }
    });
}

/// Others open the device then.
#[test]
fn the_mount_manager_is_told_where_the_sidecar_is() {
    with_mounts(|site| {
        let managed = |dm_verity| {
            let config = Config { profile: Profile::Managed, dm_verity, ..site.config() };
            let is_passing = |error: &Error| matches!(error, Error::InUse { .. });
            patiently(is_passing, || Snapshotter::open(config.clone())).unwrap()
        };
        let service = managed(DmVerity::Auto);
        let (image, _) = protected(site, &service);
        let mounts = service.view("v", "A", &none()).unwrap();
        let option = format!("X-containerd.dmverity={}.dmverity", image.display());
        assert_eq!(mounts[0].options, ["ro", "loop", option.as_str()]);
        drop(service);
        let service = managed(DmVerity::Off);
        assert_eq!(service.mounts("v").unwrap()[0].options, ["ro", "loop"]);
        drop(service);
        fs::remove_file(layerdir::sidecar_path(&image)).unwrap();
        let service = managed(DmVerity::Auto);
        assert_eq!(service.mounts("v").unwrap()[0].options, ["ro", "loop"]);
        drop(service);
        let service = managed(DmVerity::On);
        assert_eq!(service.mounts("v").unwrap_err().code(), "unprotected");
    });
}
