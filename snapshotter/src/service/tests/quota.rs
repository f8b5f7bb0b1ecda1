//! Writable layers with a limit, kept by project quota. `tests/vm/quota.sh` runs these where there are such quotas.

use std::os::fd::AsFd;

use rustix::io::Errno;

use super::*;
use crate::kernel::{Feature, KernelCaps};
use crate::mounts::table::block_device;
use crate::sys::quota::{Amount, Quotas};
use crate::uppers;
use erolith_errors::ErrorStatus;

const FULL: [Errno; 2] = [Errno::NOSPC, Errno::DQUOT];

/// Runs `work` where there are quotas, in the state that is asked for. Limits that it leaves are gone before the next
/// one begins.
fn with_quotas(state: &str, work: impl FnOnce(&Site) + Send) {
    if !std::env::var(QUOTA).is_ok_and(|now| now == state) {
        return;
    }
    with_mounts(work);
    if state == "on" {
        let place = Path::new("/var/tmp");
        let dir = File::open(place).unwrap();
        for (number, _) in uppers::in_use(place) {
            Quotas::of(dir.as_fd(), block_device).set_limit(number, Amount::default()).unwrap();
        }
    }
}

/// The projects of ours that have a limit or a use, where there are quotas.
fn projects(site: &Site) -> Vec<(u32, Amount)> {
    match limit_by() {
        LimitBy::Quota => uppers::in_use(site.dir.path()),
        _ => Vec::new(),
    }
}

/// Waits until these are all, for XFS counts what was deleted a moment longer.
pub(super) fn wait_for_projects(site: &Site, wanted: &[(u32, Amount)], what: &str) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while projects(site) != wanted {
        assert!(std::time::Instant::now() < deadline, "{what}: {:?}", projects(site));
        std::thread::yield_now();
    }
}

/// Writes until there is no more room. Returns how many bytes there was room for.
fn fill(path: &Path) -> u64 {
    let mut file = File::create(path).unwrap();
    let mut bytes = 0;
    loop {
        match file.write(&[7; 65536]).and_then(|n| file.sync_data().map(|()| n)) {
            Ok(n) => bytes += n as u64,
            Err(error) => {
                let errno = Errno::from_io_error(&error).unwrap();
                assert!(FULL.contains(&errno), "{error}");
                return bytes;
            }
        }
        assert!(bytes <= LIMIT, "{bytes} bytes were written");
    }
}

#[test]
fn quotas_are_found_and_chosen() {
    with_quotas("on", |site| {
        let caps = KernelCaps::probe(site.dir.path()).unwrap();
        assert!(caps.has(Feature::ProjectQuota));
        wait_for_projects(site, &[], "nothing is there yet");
        let service = Snapshotter::open(Config { limit_by: LimitBy::Auto, ..site.config() });
        let service = service.unwrap();
        service.prepare("k", "", &limited()).unwrap();
        assert!(!service.dir(1).join(layerdir::RWLAYER).exists());
        let limit = Amount { bytes: LIMIT, inodes: LIMIT / 4096 };
        assert_eq!(projects(site).iter().map(|(_, limit)| *limit).collect::<Vec<_>>(), [limit]);
        // Over an image, too, when it is asked for.
        drop(service);
        let service = Snapshotter::open(Config { limit_by: LimitBy::Image, ..site.config() });
        let service = service.unwrap();
        service.prepare("image", "", &limited()).unwrap();
        let id = service.store.snapshot("image").unwrap().id;
        assert!(service.dir(id).join(layerdir::RWLAYER).exists());
        for key in ["k", "image"] {
            service.mounts(key).unwrap();
            service.remove(key).unwrap();
        }
        service.cleanup().unwrap();
        assert_eq!((site.directories(), site.lowers()), (vec![], vec![]));
        wait_for_projects(site, &[], "everything is removed");
    });
}

#[test]
fn a_container_cannot_write_beyond_its_quota_and_nobody_else_is_harmed() {
    with_quotas("on", |site| {
        let service = site.open();
        layer(&service, "A", "");
        let mounts = service.prepare("k", "A", &limited()).unwrap();
        assert!(mounts[0].options.contains(&format!("upperdir={}/fs", service.dir(2).display())));
        let tree = MountedTree::of(&mounts, site.target("k"));
        let other =
            MountedTree::of(&service.prepare("other", "A", &limited()).unwrap(), site.target("o"));
        let free =
            MountedTree::of(&service.prepare("free", "A", &none()).unwrap(), site.target("f"));
        let bytes = fill(&tree.join("full"));
        assert!((LIMIT - (1 << 20)..=LIMIT).contains(&bytes), "{bytes}");
        write(&other.join("file"), "fine");
        let mut more = File::create(free.join("more")).unwrap();
        more.write_all(&vec![1; 2 * usize::try_from(LIMIT).unwrap()]).unwrap();
        more.sync_all().unwrap();
        fs::remove_file(tree.join("full")).unwrap();
        write(&tree.join("small"), "fits");
        // What is moved, linked and copied up stays within.
        fs::create_dir(tree.join("d")).unwrap();
        fs::rename(tree.join("small"), tree.join("d/moved")).unwrap();
        fs::hard_link(tree.join("d/moved"), tree.join("linked")).unwrap();
        fs::set_permissions(tree.join("A"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(tree.join("A"), tree.join("d/A")).unwrap();
        let bytes = fill(&tree.join("full"));
        assert!((LIMIT - (1 << 20)..=LIMIT).contains(&bytes), "{bytes}");
        // Inodes, too.
        let made = |n: u64| File::create(other.join(&format!("empty {n}")));
        let failed = (0..=LIMIT / 4096).find_map(|n| made(n).err());
        let errno = failed.and_then(|error| Errno::from_io_error(&error)).unwrap();
        assert!(FULL.contains(&errno), "{errno}");
    });
}

#[test]
fn limits_go_with_what_they_limit() {
    with_quotas("on", |site| {
        let service = site.open();
        layer(&service, "A", "");
        for key in ["committed", "applied", "removed"] {
            service.prepare(key, "A", &limited()).unwrap();
        }
        let (applied, _) = projects(site)[1];
        assert_eq!(projects(site).len(), 3);
        let tree = MountedTree::of(&service.mounts("committed").unwrap(), site.target("t"));
        write(&tree.join("B"), "B");
        fs::remove_file(tree.join("A")).unwrap();
        drop(tree);
        service.commit("B", "committed", "", &none()).unwrap();
        let files = site.dir.path().join("files");
        fs::create_dir(&files).unwrap();
        write(&files.join("C"), "C");
        build_image(&files, &service.dir(3).join(layerdir::IMAGE));
        service.commit("C", "applied", "", &none()).unwrap();
        service.remove("removed").unwrap();
        service.cleanup().unwrap();
        // The empty directories of what a differ applied.
        wait_for_projects(site, &[(applied, Amount::default())], "two are gone");
        let tree = MountedTree::of(&service.view("v", "B", &none()).unwrap(), site.target("v"));
        assert_eq!((tree.names(""), tree.read("B")), (vec!["B".to_owned()], "B".to_owned()));
        drop(tree);
        for key in ["v", "B", "C", "A"] {
            service.remove(key).unwrap();
        }
        service.cleanup().unwrap();
        assert_eq!(site.directories(), Vec::<String>::new());
        wait_for_projects(site, &[], "everything is removed");
    });
}

#[test]
fn numbers_of_others_are_passed_over() {
    with_quotas("on", |site| {
        let service = site.open();
        service.prepare("first", "", &limited()).unwrap();
        let number = projects(site)[0].0;
        // That of the next snapshot belongs to another program.
        let dir = File::open(site.dir.path()).unwrap();
        let theirs = Amount { bytes: 4096, inodes: 0 };
        Quotas::of(dir.as_fd(), block_device).set_limit(number + 1, theirs).unwrap();
        service.prepare("second", "", &limited()).unwrap();
        let numbers: Vec<_> = projects(site).iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [number, number + 1, number + 2]);
        for key in ["first", "second"] {
            service.remove(key).unwrap();
        }
        service.cleanup().unwrap();
        wait_for_projects(site, &[(number + 1, theirs)], "ours are removed");
        Quotas::of(dir.as_fd(), block_device).set_limit(number + 1, Amount::default()).unwrap();
    });
}

/// The root of a container can put files of its own into another project, but none of ours loses its limit by that.
#[test]
fn a_container_cannot_take_the_limit_of_another_away() {
    use crate::sys::project::{self, Project};
    with_quotas("on", |site| {
        let service = site.open();
        for key in ["mean", "good"] {
            service.prepare(key, "", &limited()).unwrap();
        }
        let [_, (good, limit)] = projects(site)[..] else { panic!() };
        let root = File::open(service.dir(1).join("fs")).unwrap();
        project::set(root.as_fd(), Project { id: good, inherits: true }).unwrap();
        drop(root);
        service.remove("mean").unwrap();
        service.cleanup().unwrap();
        wait_for_projects(site, &[(good, limit)], "the mean one is removed");
    });
}

#[test]
fn a_directory_of_somebodys_project_is_left_to_him() {
    use crate::sys::project::{self, Project};
    with_quotas("on", |site| {
        let root = site.dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let dir = File::open(&root).unwrap();
        project::set(dir.as_fd(), Project { id: 7, inherits: true }).unwrap();
        let open = |limit_by| opened(Config { limit_by, ..site.config() });
        let service = open(LimitBy::Quota);
        let error = service.prepare("k", "", &limited()).unwrap_err();
        assert_eq!((error.code(), error.status()), ("unlimited", ErrorStatus::FailedPrecondition));
        drop(service);
        let service = open(LimitBy::Auto);
        service.prepare("k", "", &limited()).unwrap();
        let id = service.store.snapshot("k").unwrap().id;
        assert!(service.dir(id).join(layerdir::RWLAYER).exists());
        assert_eq!(site.directories(), [id.to_string()]);
    });
}

/// Two lives of one filesystem: `tests/vm/quota.sh` mounts it without quotas in between.
#[test]
fn a_limit_that_is_no_longer_kept_is_an_error() {
    let root = Path::new("/var/tmp/survives");
    let config = |site: &Site| Config { root: root.to_owned(), ..site.config() };
    with_quotas("last", |site| {
        let service = opened(config(site));
        layer(&service, "A", "");
        service.prepare("k", "A", &limited()).unwrap();
        service.prepare("free", "A", &none()).unwrap();
    });
    with_quotas("off", |site| {
        assert!(!KernelCaps::probe(root).unwrap().has(Feature::ProjectQuota));
        for limit_by in [LimitBy::Auto, LimitBy::Image, LimitBy::Quota] {
            let service = opened(Config { limit_by, ..config(site) });
            let error = service.mounts("k").unwrap_err();
            assert_eq!(
                (error.code(), error.status()),
                ("unlimited", ErrorStatus::FailedPrecondition)
            );
            service.mounts("free").unwrap();
        }
        let service = Snapshotter::open(Config { limit_by: LimitBy::Image, ..config(site) });
        let service = service.unwrap();
        service.prepare("new", "A", &limited()).unwrap();
        // What was written is not lost.
        service.commit("B", "k", "", &none()).unwrap();
        for key in ["B", "free", "new", "A"] {
            service.remove(key).unwrap();
        }
        service.cleanup().unwrap();
        assert_eq!(names_of(&root.join("snapshots")), Vec::<String>::new());
    });
}
