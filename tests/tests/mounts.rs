//! Mounts on this kernel: what is seen through them, and what is left when they are gone.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

#[path = "mounts/world.rs"]
mod world;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use erolith_snapshotter::mounts::{
    Backing, MountLayer, MountOptions, Mounted, OverlayRoute, Request, UmountOptions, mount,
    mounted_at, umount,
};
use erolith_snapshotter::{Error, IntegrityError, MountError};
use erolith_tests::mount::resident;
use erolith_tests::tools::skipped;
use world::{World, layer, listing, mount_with};

fn undo(target: &Path) {
    umount(target, UmountOptions::default()).unwrap();
}

#[test]
fn one_layer_is_one_erofs_mount_and_leaves_nothing() {
    let Some(world) = World::on_disk() else { return };
    let tree = world.tree("t");
    tree.file("a", "x").dir("d").file("d/b", "y").link("l", "a");
    let image = world.image(&tree);
    let before = world.account();
    for &backing in &world.backings {
        let mounted = mount_with(&[&image], &world.target, backing, None).unwrap();
        assert_eq!(mounted.overlay, None);
        let loops = mounted.layers[0].loops.len();
        assert!(backing == Backing::Auto || loops == usize::from(backing == Backing::Loop));
        assert_eq!(listing(&world.target), listing(&tree.0));
        let entry = mounted_at(&world.target).unwrap();
        assert_eq!(entry.fs_type, "erofs");
        assert!(entry.options.split(',').any(|o| o == "ro"), "{}", entry.options);
        undo(&world.target);
        world.settles_to(&before);
    }
}

#[test]
fn d20_stacks_of_2_127_128_499_500_mount_and_501_is_refused() {
    let Some(world) = World::on_disk() else { return };
    let images = world.stack(501);
    let before = world.account();
    for count in [2, 127, 128, 499, 500] {
        for &route in &world.routes {
            let start = Instant::now();
            let stack = &images[..count];
            let mounted = mount_with(stack, &world.target, Backing::Auto, Some(route)).unwrap();
            println!("{count} layers, {route:?}: {:?}", start.elapsed());
            assert_eq!(mounted.layers.len(), count);
            let common = fs::read_to_string(world.target.join("common")).unwrap();
            assert_eq!(common, format!("{}\n", count - 1), "the top layer wins");
            for i in [0, 1, count / 2, count - 1] {
                let file = world.target.join(format!("file{i}"));
                assert_eq!(fs::read_to_string(file).unwrap(), format!("{i}\n"), "of {count}");
            }
            assert_eq!(fs::read_dir(&world.target).unwrap().count(), count + 1);
            undo(&world.target);
            world.settles_to(&before);
        }
    }
    let refused = mount_with(&images, &world.target, Backing::Auto, None).unwrap_err();
    assert!(
        matches!(refused, Error::Mount(MountError::TooManyLayers { count: 501, limit: 500 })),
        "{refused}"
    );
    world.settles_to(&before);
}

#[test]
fn a_stack_on_loop_devices_frees_them_all() {
    let Some(world) = World::on_disk() else { return };
    let images = world.stack(20);
    let before = world.account();
    for &route in &world.routes {
        let mounted = mount_with(&images, &world.target, Backing::Loop, Some(route)).unwrap();
        assert!(mounted.layers.iter().all(|layer| layer.loops.len() == 1));
        assert_eq!(listing(&world.target).len(), 21);
        undo(&world.target);
        world.settles_to(&before);
    }
}

/// What is read through a mounted layer is in the page cache of its files, and not in that of the image as well.
#[test]
fn content_that_is_read_is_in_memory_once() {
    const BYTES: u64 = 24 << 20;
    let Some(world) = World::on_disk() else { return };
    if !world.reads_directly {
        skipped("neither EROFS nor loop devices read directly here");
        return;
    }
    let tree = world.tree("t");
    let content = vec![7; usize::try_from(BYTES / 4).unwrap()];
    for name in ["a", "b", "c", "d"] {
        File::create(tree.0.join(name)).unwrap().write_all(&content).unwrap();
    }
    let image = world.image(&tree);
    for count in [1, 2] {
        let images = vec![image.clone(); count];
        forget(&image);
        assert_eq!(resident(&image).unwrap(), 0, "it was not dropped");
        let mounted = mount_with(&images, &world.target, Backing::Auto, None).unwrap();
        let names = fs::read_dir(&world.target).unwrap().map(|entry| entry.unwrap().path());
        let files: Vec<_> = names.collect();
        for file in &files {
            assert_eq!(fs::read(file).unwrap(), content);
        }
        // An overlay answers for the files below it by what is mapped, so they are counted where there is one layer.
        let front = match count {
            1 => files.iter().map(|file| resident(file).unwrap()).sum(),
            _ => BYTES,
        };
        let loops = mounted.layers.iter().flat_map(|layer| &layer.loops);
        let devices: u64 = loops.map(|device| resident(&device.path).unwrap()).sum();
        let behind = resident(&image).unwrap();
        println!("{BYTES} read: {front} of the files, {behind} of the image, {devices} of devices");
        assert!(front >= BYTES, "{front}");
        assert!(front + behind + devices <= BYTES + BYTES / 10, "{front} {behind} {devices}");
        undo(&world.target);
    }
}

/// Has the kernel forget the content of a file.
fn forget(path: &Path) {
    let file = File::open(path).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

#[test]
fn images_on_tmpfs_fall_back_to_a_loop_device() {
    let Some(world) = World::on("/dev/shm") else { return };
    let tree = world.tree("t");
    tree.file("a", "x");
    let image = world.image(&tree);
    let before = world.account();
    match mount_with(&[&image], &world.target, Backing::File, None) {
        Err(e) => assert!(e.to_string().contains("ENOTBLK"), "{e}"),
        Ok(_) => undo(&world.target),
    }
    world.settles_to(&before);
    mount_with(&[&image], &world.target, Backing::Auto, None).unwrap();
    assert_eq!(listing(&world.target), ["a: x"]);
    undo(&world.target);
    world.settles_to(&before);
}

#[test]
fn whiteouts_and_opaque_directories_hide_what_is_below() {
    let Some(world) = World::on_disk() else { return };
    let lower = world.tree("lower");
    lower
        .file("gone", "1")
        .file("kept", "1")
        .dir("d")
        .file("d/old", "1")
        .dir("e")
        .file("e/old", "1");
    let upper = world.tree("upper");
    upper.whiteout("gone").dir("d").xattr("d", "trusted.overlay.opaque", "y").file("d/new", "2");
    upper.dir("e").file("e/new", "2");
    let top = world.tree("top");
    top.file("gone", "3").whiteout("e");
    let images = [&lower, &upper, &top].map(|tree| world.image(tree));
    let before = world.account();
    for &route in &world.routes {
        for &backing in &world.backings {
            mount_with(&images[..2], &world.target, backing, Some(route)).unwrap();
            let want = ["d/", "d/new: 2", "e/", "e/new: 2", "e/old: 1", "kept: 1"];
            assert_eq!(listing(&world.target), want, "{route:?} {backing:?}");
            undo(&world.target);
            mount_with(&images, &world.target, backing, Some(route)).unwrap();
            assert_eq!(listing(&world.target), ["d/", "d/new: 2", "gone: 3", "kept: 1"]);
            undo(&world.target);
            world.settles_to(&before);
        }
    }
}

#[test]
fn a_layer_cannot_redirect_to_what_another_hides() {
    let Some(world) = World::on_disk() else { return };
    let lower = world.tree("lower");
    lower.dir("secret").file("secret/key", "k");
    let upper = world.tree("upper");
    upper.whiteout("secret").dir("window").xattr("window", "trusted.overlay.redirect", "/secret");
    let images = [&lower, &upper].map(|tree| world.image(tree));
    for &route in &world.routes {
        mount_with(&images, &world.target, Backing::Auto, Some(route)).unwrap();
        assert!(!world.target.join("secret").exists());
        assert!(!world.target.join("window/key").exists(), "{route:?}");
        undo(&world.target);
    }
}

#[test]
fn devices_and_programs_work_through_an_overlay_and_options_forbid_them() {
    let Some(world) = World::on_disk() else { return };
    let lower = world.tree("lower");
    lower.device("zero", 1, 5, 0o666);
    lower.file("program", "#!/bin/sh\n");
    fs::set_permissions(lower.0.join("program"), fs::Permissions::from_mode(0o755)).unwrap();
    let upper = world.tree("upper");
    upper.file("a", "x");
    let images = [&lower, &upper].map(|tree| world.image(tree));
    let try_both = |target: &Path| {
        let mut byte = [1];
        let device = File::open(target.join("zero")).and_then(|mut f| f.read_exact(&mut byte));
        let program = Command::new(target.join("program")).status();
        (device.is_ok(), program.is_ok_and(|status| status.success()))
    };
    for &route in &world.routes {
        mount_with(&images, &world.target, Backing::Auto, Some(route)).unwrap();
        assert_eq!(try_both(&world.target), (true, true), "{route:?}");
        undo(&world.target);
        let request = Request {
            layers: images.iter().map(|image| layer(image)).collect(),
            target: world.target.clone(),
            backing: Backing::Auto,
            options: MountOptions::parse("nodev,noexec,nosuid").unwrap(),
            route: Some(route),
        };
        mount(request, &|_| Ok(())).unwrap();
        assert_eq!(try_both(&world.target), (false, false), "{route:?}");
        let entry = mounted_at(&world.target).unwrap();
        for option in ["ro", "nodev", "noexec", "nosuid"] {
            assert!(entry.options.split(',').any(|o| o == option), "{}", entry.options);
        }
        undo(&world.target);
    }
}

#[test]
fn truncated_images_are_refused_before_the_kernel_sees_them() {
    let Some(world) = World::on_disk() else { return };
    let tree = world.tree("t");
    tree.file("a", &"x".repeat(100_000));
    let image = world.image(&tree);
    let before = world.account();
    let size = fs::metadata(&image).unwrap().len();
    File::options().write(true).open(&image).unwrap().set_len(size - 1).unwrap();
    match mount_with(&[&image], &world.target, Backing::Auto, None).unwrap_err() {
        Error::Integrity(IntegrityError::Truncated { size: got, need, .. }) => {
            assert_eq!((got, need), (size - 1, size))
        }
        other => panic!("{other}"),
    }
    File::options().write(true).open(&image).unwrap().set_len(1100).unwrap();
    let error = mount_with(&[&image], &world.target, Backing::Auto, None).unwrap_err();
    assert_eq!(error.code(), "not-erofs");
    world.settles_to(&before);
}

#[test]
fn the_file_that_was_checked_is_the_file_that_is_mounted() {
    let Some(world) = World::on_disk() else { return };
    let (good, bad) = (world.tree("good"), world.tree("bad"));
    good.file("good", "");
    bad.file("bad", "");
    let (good, bad) = (world.image(&good), world.image(&bad));
    let swapped = world.path("name.erofs");
    fs::rename(&good, &swapped).unwrap();
    let request = Request {
        layers: vec![layer(&swapped)],
        target: world.target.clone(),
        backing: Backing::Auto,
        options: MountOptions::default(),
        route: None,
    };
    mount(request, &|_| fs::rename(&bad, &swapped).map_err(Into::into)).unwrap();
    assert_eq!(listing(&world.target), ["good: "]);
    undo(&world.target);
}

#[test]
fn a_failed_check_mounts_nothing() {
    let Some(world) = World::on_disk() else { return };
    let images = world.stack(3);
    let before = world.account();
    let request = Request {
        layers: images.iter().map(|image| layer(image)).collect(),
        target: world.target.clone(),
        backing: Backing::Loop,
        options: MountOptions::default(),
        route: None,
    };
    let check = |layer: &MountLayer| {
        if layer.name == "2.erofs" { Err("inode 7: no such block".into()) } else { Ok(()) }
    };
    let error = mount(request, &check).unwrap_err();
    assert_eq!(error.code(), "image-check");
    assert!(error.line().contains("2.erofs") && error.line().contains("inode 7"));
    world.settles_to(&before);
}

#[test]
fn kernel_refusals_say_what_failed_and_leave_nothing() {
    let Some(world) = World::on_disk() else { return };
    let images = world.stack(2);
    // An incompatible feature that no kernel has.
    let file = File::options().write(true).open(&images[1]).unwrap();
    file.write_all_at(&[0, 0, 0, 0x40], 1024 + 80).unwrap();
    let before = world.account();
    for &backing in &world.backings {
        let error = mount_with(&images, &world.target, backing, None).unwrap_err();
        assert!(error.to_string().starts_with("1.erofs: erofs: mount: E"), "{error}");
        assert!(error.advice().is_some());
        world.settles_to(&before);
    }
    let missing = mount_with(&images[..1], &world.path("nowhere"), Backing::Auto, None);
    assert!(missing.unwrap_err().to_string().contains("ENOENT"));
}

#[test]
fn long_paths_do_not_matter() {
    let Some(world) = World::on_disk() else { return };
    let images = world.stack(2);
    let mut deep = world.path("deep");
    for _ in 0..4 {
        deep.push("d".repeat(200));
    }
    fs::create_dir_all(deep.join("target")).unwrap();
    let moved: Vec<PathBuf> = images
        .iter()
        .map(|image| {
            let to = deep.join(image.file_name().unwrap());
            fs::rename(image, &to).unwrap();
            to
        })
        .collect();
    let before = world.account();
    for &backing in &world.backings {
        mount_with(&moved, &deep.join("target"), backing, None).unwrap();
        undo(&deep.join("target"));
        world.settles_to(&before);
    }
}

#[test]
fn umount_refuses_what_is_not_ours() {
    let Some(world) = World::on_disk() else { return };
    let not_mounted = umount(&world.target, UmountOptions::default()).unwrap_err();
    assert_eq!(not_mounted.code(), "not-mounted");
    rustix::mount::mount("none", &world.target, "tmpfs", rustix::mount::MountFlags::empty(), None)
        .unwrap();
    fs::create_dir(world.target.join("sub")).unwrap();
    let sub = umount(&world.target.join("sub"), UmountOptions::default()).unwrap_err();
    assert_eq!(sub.code(), "not-mounted", "a directory inside a mount is none");
    let foreign = umount(&world.target, UmountOptions::default()).unwrap_err();
    assert!(
        matches!(&foreign, Error::Mount(MountError::NotOurs { fs_type, .. }) if fs_type == "tmpfs"),
        "{foreign}"
    );
    umount(&world.target, UmountOptions { force: true, lazy: false }).unwrap();
    assert_eq!(mounted_at(&world.target).unwrap_err().code(), "not-mounted");
}

#[test]
fn a_mount_in_use_is_busy_and_lazily_detached_on_demand() {
    let Some(world) = World::on_disk() else { return };
    let images = world.stack(2);
    let before = world.account();
    mount_with(&images, &world.target, Backing::Loop, None).unwrap();
    let held = File::open(world.target.join("common")).unwrap();
    let busy = umount(&world.target, UmountOptions::default()).unwrap_err();
    assert!(busy.to_string().contains("EBUSY"), "{busy}");
    assert!(busy.advice().is_some());
    umount(&world.target, UmountOptions { force: false, lazy: true }).unwrap();
    assert_eq!(mounted_at(&world.target).unwrap_err().code(), "not-mounted");
    drop(held);
    world.settles_to(&before);
}

#[test]
fn i5_1000_cycles_leak_nothing() {
    let Some(world) = World::on_disk() else { return };
    let images = world.stack(3);
    let before = world.account();
    for cycle in 0..1000 {
        let backing = if cycle % 4 == 0 { Backing::Loop } else { Backing::Auto };
        let route = world.routes[cycle / 2 % world.routes.len()];
        mount_with(&images, &world.target, backing, Some(route)).unwrap();
        undo(&world.target);
    }
    world.settles_to(&before);
}

/// Not a test by itself: the process that the next one kills.
#[test]
fn victim_mounts_and_unmounts_until_killed() {
    let Some(root) = std::env::var_os("EROLITH_TEST_VICTIM").map(PathBuf::from) else { return };
    let images: Vec<PathBuf> = (0..30).map(|i| root.join(format!("{i}.erofs"))).collect();
    let target = root.join("target");
    for cycle in 0usize.. {
        println!("step: mount");
        let backing = if cycle % 2 == 0 { Backing::Loop } else { Backing::Auto };
        let route = (cycle % 4 < 2).then_some(OverlayRoute::Scratch);
        mount_with(&images, &target, backing, route).unwrap();
        println!("step: mounted");
        assert_eq!(listing(&target).len(), 31);
        undo(&target);
    }
}

#[test]
fn kill_at_any_moment_leaves_the_whole_mount_or_nothing() {
    let Some(world) = World::on_disk() else { return };
    world.stack(30);
    let before = world.account();
    let mut whole = 0;
    for round in 0..40u32 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "victim_mounts_and_unmounts_until_killed", "--nocapture"])
            .env("EROLITH_TEST_VICTIM", world.path(""))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut steps = lines.map(Result::unwrap).filter(|line| line.contains("step: "));
        steps.nth(round as usize % 6).unwrap();
        let instant = Instant::now() + Duration::from_micros(u64::from(round / 6) * 500);
        while Instant::now() < instant {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        drop(steps);
        if mounted_at(&world.target).is_ok() {
            whole += 1;
            assert_eq!(listing(&world.target).len(), 31, "round {round}");
            undo(&world.target);
        }
        world.settles_to(&before);
    }
    assert!((1..40).contains(&whole), "{whole} of 40 kills found the whole mount");
}

fn with_devices(image: &Path, devices: &[&Path]) -> MountLayer {
    let devices = devices.iter().map(|device| File::open(device).unwrap()).collect();
    MountLayer { devices, ..layer(image) }
}

fn mount_layer(
    layer: MountLayer,
    target: &Path,
    backing: Backing,
) -> erolith_snapshotter::Result<Mounted> {
    let request = Request {
        layers: vec![layer],
        target: target.to_owned(),
        backing,
        options: MountOptions::default(),
        route: None,
    };
    mount(request, &|_| Ok(()))
}

#[test]
fn tar_indexes_mount_with_the_tar_as_device_or_joined() {
    let Some(world) = World::on_disk() else { return };
    let tree = world.tree("t");
    tree.file("a", &"y".repeat(5000)).dir("d").file("d/b", "z");
    let archive = world.path("t.tar");
    let mut pack = Command::new("tar");
    pack.arg("-C").arg(&tree.0).arg("-cf").args([&archive]).arg(".");
    assert!(pack.status().unwrap().success());
    let index = world.tar_index(&archive);
    let joined = world.path("joined.erofs");
    let both = [fs::read(&index).unwrap(), fs::read(&archive).unwrap()].concat();
    File::create(&joined).and_then(|f| f.write_all_at(&both, 0)).unwrap();
    let before = world.account();
    for &backing in &world.backings {
        let separate = with_devices(&index, &[&archive]);
        let mounted = mount_layer(separate, &world.target, backing).unwrap();
        let loops = mounted.layers[0].loops.len();
        assert!(backing == Backing::Auto || loops == if backing == Backing::Loop { 2 } else { 0 });
        assert_eq!(listing(&world.target), listing(&tree.0), "{backing:?}");
        undo(&world.target);
        if world.joined {
            mount_layer(layer(&joined), &world.target, backing).unwrap();
            assert_eq!(listing(&world.target), listing(&tree.0), "{backing:?}");
            undo(&world.target);
        }
        world.settles_to(&before);
    }
    let alone = mount_layer(layer(&index), &world.target, Backing::Auto).unwrap_err();
    assert!(
        matches!(alone, Error::Mount(MountError::Devices { slots: 1, given: 0, .. })),
        "{alone}"
    );
    let two = with_devices(&index, &[&archive, &archive]);
    let two = mount_layer(two, &world.target, Backing::Auto).unwrap_err();
    assert!(matches!(two, Error::Mount(MountError::Devices { slots: 1, given: 2, .. })), "{two}");
    File::options().write(true).open(&archive).unwrap().set_len(1024).unwrap();
    let short = mount_layer(with_devices(&index, &[&archive]), &world.target, Backing::Auto);
    let short = short.unwrap_err().to_string();
    assert!(short.starts_with("t.index.erofs, device 1: truncated"), "{short}");
}

#[test]
fn every_block_size_of_this_kernel_mounts_both_ways() {
    let Some(world) = World::on_disk() else { return };
    for bits in 9..=12 {
        let tree = world.tree(&format!("t{bits}"));
        tree.file("a", &"y".repeat(5000));
        let image = world.image_with(&tree, bits);
        for &backing in &world.backings {
            mount_with(&[&image], &world.target, backing, None).unwrap();
            assert_eq!(listing(&world.target), listing(&tree.0), "2^{bits} {backing:?}");
            undo(&world.target);
        }
    }
}
