//! What is decided, and devices without filesystems on them.

use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;

use super::*;
use crate::layerdir::sidecar_path;
use crate::sys::keyring::tests as keyring;

/// Set where the kernel has dm-verity, as in `tests/vm/dmverity.sh`: then nothing is skipped.
const HAS_DEVICES: &str = "EROLITH_TEST_DM_VERITY";

/// The device mapper; nothing, with a word about it, where this kernel has none.
pub(crate) fn device_mapper() -> Option<DeviceMapper> {
    let mapper = DeviceMapper::with_target(TARGET).ok().flatten();
    if mapper.is_none() {
        assert!(std::env::var_os(HAS_DEVICES).is_none(), "this kernel has no dm-verity");
        println!("skipped: this kernel has no dm-verity; tests/vm/dmverity.sh has one");
    }
    mapper
}

#[test]
fn what_is_required_is_never_left_out() {
    use DmVerity::{Auto, Off, On, Signed};
    let no_sidecar = DmVerityMode::Refused("the layer has no sidecar with a root hash");
    let no_kernel = DmVerityMode::Refused("this kernel has no dm-verity");
    // Mode, sidecar, kernel.
    let table = [
        (Off, true, true, DmVerityMode::Plain),
        (Off, false, false, DmVerityMode::Plain),
        (Auto, true, true, DmVerityMode::Verity),
        (Auto, true, false, DmVerityMode::Plain),
        (Auto, false, true, DmVerityMode::Plain),
        (On, true, true, DmVerityMode::Verity),
        (On, true, false, no_kernel),
        (On, false, true, no_sidecar),
        (On, false, false, no_sidecar),
        (Signed, true, true, DmVerityMode::Verity),
        (Signed, true, false, no_kernel),
        (Signed, false, true, no_sidecar),
    ];
    for (mode, has_sidecar, has_kernel, want) in table {
        assert_eq!(mode.way(has_sidecar, has_kernel), want, "{mode:?} {has_sidecar} {has_kernel}");
    }
}

#[test]
fn others_are_named_a_sidecar_that_the_kernel_can_use() {
    use DmVerity::{Auto, Off, On, Signed};
    let dir = tempfile::tempdir().unwrap();
    let (with, _) = image(dir.path());
    let without = dir.path().join("without.erofs");
    // Mode, sidecar, kernel; nothing for what is refused.
    for (mode, has_sidecar, has_kernel, want) in [
        (Auto, true, true, Some(true)),
        (Auto, true, false, Some(false)),
        (Auto, false, true, Some(false)),
        (On, true, false, Some(true)),
        (On, false, true, None),
        (Signed, true, true, None),
        (Off, true, true, Some(false)),
    ] {
        let image = if has_sidecar { &with } else { &without };
        let got = mode.sidecar_for_others(image, || Ok(has_kernel)).ok();
        assert_eq!(got, want, "{mode:?} {has_sidecar} {has_kernel}");
    }
}

/// 20 blocks with a tree, and its sidecar.
fn image(dir: &Path) -> (std::path::PathBuf, Sidecar) {
    let path = dir.join("layer.erofs");
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    file.write_all_at(&[7; 20 * 4096], 0).unwrap();
    let made = dmverity::append(&file, 12, &|| false).unwrap();
    file.sync_all().unwrap();
    let sidecar = Sidecar::from(&made);
    let to = File::create(sidecar_path(&path)).unwrap();
    to.write_all_at(&sidecar.to_bytes(None), 0).unwrap();
    (path, sidecar)
}

#[test]
fn the_table_is_what_the_kernel_documents() {
    let dir = tempfile::tempdir().unwrap();
    let (path, sidecar) = image(dir.path());
    let file = File::open(&path).unwrap();
    let (header, root) = tree_of(&path, &file, &sidecar).unwrap();
    let salt = "00".repeat(32);
    let want = format!("1 /dev/loop3 /dev/loop3 4096 4096 20 21 sha256 {root} {salt}");
    let signed = format!("{want} 2 root_hash_sig_key_desc a-key");
    for (key, parameters) in [(None, want), (Some("a-key".to_owned()), signed)] {
        let table = table(&header, root, Path::new("/dev/loop3"), key.as_ref());
        assert_eq!(table, Table { target: "verity", bytes: 20 * 4096, parameters });
    }
}

#[test]
fn sidecars_that_do_not_fit_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (path, sidecar) = image(dir.path());
    let devices = Devices::new(DmVerity::On, "none").unwrap();
    let file = File::open(&path).unwrap();
    let open = |bytes: &[u8]| {
        let to = File::create(sidecar_path(&path)).unwrap();
        to.write_all_at(bytes, 0).unwrap();
        devices.open(1, &path, &file).map(drop).map_err(|e| e.code().to_owned())
    };
    assert_eq!(open(b"{}"), Err("dmverity-sidecar".to_owned()));
    assert_eq!(open(&vec![b' '; 5000]), Err("dmverity-sidecar".to_owned()));
    std::fs::remove_file(sidecar_path(&path)).unwrap();
    let missing = devices.open(1, &path, &file).unwrap_err();
    assert_eq!(
        (missing.code(), missing.status()),
        ("unprotected", erolith_errors::ErrorStatus::FailedPrecondition)
    );
    let off = Devices::new(DmVerity::Off, "none").unwrap();
    assert!(off.open(1, &path, &file).unwrap().is_none());
    if device_mapper().is_none() {
        return;
    }
    let wrong = Sidecar { root: RootHash([1; 32]), ..sidecar };
    assert_eq!(open(&wrong.to_bytes(None)), Err("dmverity-root".to_owned()));
    let elsewhere = Sidecar { hash_offset: 4096, ..sidecar };
    assert_eq!(open(&elsewhere.to_bytes(None)), Err("dmverity-no-tree".to_owned()));
    assert_eq!(devices.names().unwrap(), [""; 0]);
}

#[test]
fn devices_are_what_was_asked_for_and_several_of_a_layer_can_be() {
    let Some(mapper) = device_mapper() else { return };
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let (path, _) = image(dir.path());
    let file = File::open(&path).unwrap();
    let devices = Devices::new(DmVerity::On, "test-devices\n").unwrap();
    let [first, second] = [0, 1].map(|_| devices.open(7, &path, &file).unwrap().unwrap());
    let mut names = devices.names().unwrap();
    names.sort_unstable();
    assert_eq!(names, ["erolith-test-devices-7-0", "erolith-test-devices-7-1"]);
    let parameters = mapper.parameters(&first.name).unwrap();
    assert!(parameters.contains(" 4096 4096 20 21 sha256 "), "{parameters}");
    // Newer kernels say more behind it.
    assert!(mapper.status(&second.name).unwrap().starts_with('V'));
    let mut bytes = vec![0; 20 * 4096];
    first.file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes.iter().all(|&byte| byte == 7));
    let node = format!("/proc/self/fd/{}", first.file.as_raw_fd());
    // Some kernels refuse the open, others the write.
    let written = File::options().write(true).open(node).and_then(|file| {
        file.write_all_at(&[1; 4096], 0)?;
        file.sync_all()
    });
    assert!(written.is_err());
    drop((first, second));
    gone(&devices);
}

/// Of the root hash of [`image`], and by whom:
///
/// ```sh
/// openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 36500 -subj "/CN=erolith's tests"
/// printf %s "$root" | openssl smime -sign -nocerts -noattr -binary -inkey key.pem -signer cert.pem -outform der
/// ```
const SIGNATURE: &[u8] = include_bytes!("testdata/signature.p7s");
const CERTIFICATE: &[u8] = include_bytes!("testdata/certificate.der");
/// Set where the keyring .dm-verity (Linux 7.0) takes certificates.
const TAKES_CERTIFICATES: &str = "EROLITH_TEST_DM_VERITY_KEYRING";

/// Has the kernel trust the certificate. A keyring counts from when it takes no more.
fn trust() {
    let keys = std::fs::read_to_string("/proc/keys").unwrap();
    let line = keys.lines().find(|line| line.contains(" .dm-verity:")).unwrap();
    let ring = line.split_whitespace().next().unwrap();
    keyring::add_certificate(i64::from_str_radix(ring, 16).unwrap(), CERTIFICATE).unwrap();
}

#[test]
fn the_kernel_judges_who_signed_a_layer() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let (path, sidecar) = image(dir.path());
    let file = File::open(&path).unwrap();
    let devices = Devices::new(DmVerity::Signed, "test-signed").unwrap();
    let open = |signature: Option<&[u8]>| {
        let signature = signature.and_then(|bytes| Signature::from_der(bytes.to_vec()));
        let to = File::create(sidecar_path(&path)).unwrap();
        to.write_all_at(&sidecar.to_bytes(signature.as_ref()), 0).unwrap();
        devices
            .open(1, &path, &file)
            .map(|device| drop(device.unwrap()))
            .map_err(|e| e.code().to_owned())
    };
    if device_mapper().is_none() {
        return assert_eq!(open(Some(SIGNATURE)), Err("unprotected".to_owned()));
    }
    assert_eq!(open(None), Err("unprotected".to_owned()));
    assert_eq!(open(Some(SIGNATURE)), Err("untrusted".to_owned()), "nobody knows the certificate");
    assert_eq!(open(Some(b"0 no signature")), Err("untrusted".to_owned()));
    if std::env::var_os(TAKES_CERTIFICATES).is_some() {
        trust();
        assert_eq!(open(Some(SIGNATURE)), Ok(()));
        // The last bytes are what was computed with the key.
        let mut forged = SIGNATURE.to_vec();
        *forged.last_mut().unwrap() ^= 1;
        assert_eq!(open(Some(&forged)), Err("untrusted".to_owned()));
    }
    // Who does not ask does not care.
    let others = Devices::new(DmVerity::On, "test-signed").unwrap();
    assert!(others.open(1, &path, &file).unwrap().is_some());
    gone(&devices);
}

/// Waits until no device is left: the kernel removes one when the last user has closed it, a moment later.
fn gone(devices: &Devices) {
    for _ in 0..500 {
        if devices.names().unwrap().is_empty() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("left: {:?}", devices.names());
}

#[test]
fn what_a_killed_process_left_is_removed_by_the_next_start() {
    let Some(mapper) = device_mapper() else { return };
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let (path, sidecar) = image(dir.path());
    let file = File::open(&path).unwrap();
    let (header, root) = tree_of(&path, &file, &sidecar).unwrap();
    let backing = loopdev::attach(file.as_fd(), 512, Access::ReadOnly).unwrap();
    let table = table(&header, root, &backing.path(), None);
    let name = "erolith-test-left-3-0";
    mapper.create(name, name, &table).unwrap();
    assert_eq!(mapper.create(name, name, &table).unwrap_err(), Errno::BUSY);
    drop(backing);
    // Another root is none of our business.
    let other = Devices::new(DmVerity::Auto, "test-le").unwrap();
    assert_eq!(other.names().unwrap(), [""; 0]);
    let ours = Devices { mode: DmVerity::Auto, prefix: "erolith-test-left-".to_owned() };
    assert_eq!(ours.names().unwrap(), [name]);
    gone(&Devices::new(DmVerity::Auto, "test-left").unwrap());
    // It goes with the device, a moment later.
    while loopdev::find(file.as_fd()).unwrap().is_some() {
        std::thread::yield_now();
    }
}
