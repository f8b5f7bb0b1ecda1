//! Files without names, as images are sealed. Most of it wants a kernel with fs-verity: `tests/vm/verity.sh`.

use std::io::Write;
use std::os::unix::fs::FileExt;

use super::*;

/// Set where the filesystem of `/var/tmp` is known to have fs-verity: then nothing is skipped.
const VERITY: &str = "EROLITH_TEST_VERITY";

/// Whether files of `/var/tmp` can have fs-verity. Says so where they cannot.
pub(crate) fn has_verity() -> bool {
    match try_out(Path::new("/var/tmp")) {
        Ok(()) => true,
        Err(error) => {
            assert!(std::env::var_os(VERITY).is_none(), "no fs-verity on /var/tmp: {error}");
            println!("skipped: no fs-verity on /var/tmp: {error}");
            false
        }
    }
}

fn protector(verity: FsVerityPolicy) -> Protector {
    Protector { verity }
}

fn filled(dir: &Path) -> File {
    let mut file = scratch(open_dir(dir).unwrap().as_fd()).unwrap();
    file.write_all(&[3; 100_001]).unwrap();
    file
}

fn name(file: &File, path: &Path) {
    let from = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = rustix::fs::AtFlags::SYMLINK_FOLLOW;
    rustix::fs::linkat(rustix::fs::CWD, from, rustix::fs::CWD, path, flags).unwrap();
}

#[test]
fn a_sealed_file_carries_its_digest_and_gets_a_name() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let protector = protector(FsVerityPolicy::IfPossible);
    for is_durable in [false, true] {
        let sealed = protector.seal(filled(dir.path()), dir.path(), is_durable, None).unwrap();
        let digest = Digest::of(&sealed, &mut |_| {}).unwrap();
        let found = FsVerityState::of(&sealed, dir.path()).unwrap();
        assert_eq!((found.digest(), found.is_shared), (Some(digest), false));
        let path = dir.path().join(format!("image {is_durable}"));
        name(&sealed, &path);
        assert_eq!(std::fs::read(&path).unwrap(), [3; 100_001]);
        let pin = protector.commit(&File::open(&path).unwrap(), &path).unwrap().unwrap();
        assert_eq!((pin.digest, pin.is_enforced), (digest, found.measured.is_some()));
        protector.require(&sealed, &path, Some(pin)).unwrap();
    }
}

/// What the kernel cannot hold it against is kept all the same.
#[test]
fn if_possible_keeps_a_digest_everywhere() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let can = try_out(dir.path()).is_ok();
    let protector = protector(FsVerityPolicy::IfPossible);
    let path = dir.path().join("image");
    let plain = filled(dir.path());
    name(&plain, &path);
    drop(plain);
    let pin = protector.commit(&File::open(&path).unwrap(), &path).unwrap().unwrap();
    assert_eq!(pin.is_enforced, can);
    assert_eq!(pin.digest, Digest::of(&File::open(&path).unwrap(), &mut |_| {}).unwrap());
}

#[test]
fn off_means_that_nothing_is_done() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let off = protector(FsVerityPolicy::Off);
    let file = off.seal(filled(dir.path()), dir.path(), true, None).unwrap();
    assert_eq!(FsVerityState::of(&file, dir.path()).unwrap().digest(), None);
    assert_eq!(off.commit(&file, dir.path()).unwrap(), None);
    let pin = Pin { digest: Digest::from_bytes([0; 32]), is_enforced: true };
    off.require(&file, dir.path(), Some(pin)).unwrap();
}

#[test]
fn without_fs_verity_what_is_required_is_refused() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    if try_out(dir.path()).is_ok() {
        println!("skipped: /var/tmp has fs-verity");
        return;
    }
    let required = protector(FsVerityPolicy::Required);
    let error = required.seal(filled(dir.path()), dir.path(), false, None).unwrap_err();
    assert_eq!(error.code(), "kernel");
    let file = filled(dir.path());
    let error = required.require(&file, dir.path(), None).unwrap_err();
    assert_eq!(error.code(), "verity-missing");
}

#[test]
fn a_sealed_file_is_measured_and_cannot_be_written() {
    if !has_verity() {
        return;
    }
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let protector = protector(FsVerityPolicy::Required);
    let path = dir.path().join("image");
    let sealed = protector.seal(filled(dir.path()), &path, true, None).unwrap();
    name(&sealed, &path);
    let digest = Digest::of(&sealed, &mut |_| {}).unwrap();
    let found = FsVerityState::of(&sealed, &path).unwrap();
    assert_eq!((found.noted, found.digest()), (Some(digest), Some(digest)));
    let denied = File::options().write(true).open(&path).unwrap_err();
    assert_eq!(denied.kind(), io::ErrorKind::PermissionDenied);
    // A copy has the same bytes and no measurement of the kernel; another file is measured as what it is.
    let pin = Pin { digest, is_enforced: true };
    let copy = dir.path().join("copy");
    std::fs::copy(&path, &copy).unwrap();
    let error = protector.require(&File::open(&copy).unwrap(), &copy, Some(pin)).unwrap_err();
    assert_eq!(error.code(), "verity-lost");
    let other = filled(dir.path());
    other.write_all_at(b"x", 5000).unwrap();
    let other = protector.seal(other, &path, false, None).unwrap();
    let error = protector.require(&other, &path, Some(pin)).unwrap_err();
    assert_eq!(error.code(), "verity-mismatch");
    assert!(error.to_string().contains(&digest.to_string()), "{error}");
}

/// As when a helper was forked at the wrong moment: it is tried until the other descriptor is gone.
#[test]
fn a_writer_that_goes_away_is_waited_for() {
    if !has_verity() {
        return;
    }
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let file = filled(dir.path());
    let writer = file.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(PAUSE * 5);
            drop(writer);
        });
        let protector = protector(FsVerityPolicy::Required);
        let sealed = protector.seal(file, dir.path(), false, None).unwrap();
        assert!(FsVerityState::of(&sealed, dir.path()).unwrap().measured.is_some());
    });
}

/// Layers of other differs have their name when they are committed.
#[test]
fn a_file_that_somebody_else_wrote_is_sealed_at_the_commit() {
    if !has_verity() {
        return;
    }
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = dir.path().join("image");
    File::create(&path).unwrap().write_all(&[9; 8192]).unwrap();
    let file = File::open(&path).unwrap();
    let pin = protector(FsVerityPolicy::IfPossible).commit(&file, &path).unwrap().unwrap();
    assert!(pin.is_enforced);
    assert_eq!(protector(FsVerityPolicy::IfPossible).commit(&file, &path).unwrap(), Some(pin));
}
