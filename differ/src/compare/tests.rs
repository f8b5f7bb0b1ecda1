use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use erolith_overlay::{Marks, OverlayLayer, Stack};

use super::{Compare, Compared, LayerFormat};
use crate::decode::{Cancel, LayerStream, OnBytes, Request};
use crate::{Compression, Digest, Error};

fn write(path: &Path, bytes: &[u8]) {
    File::create(path).unwrap().write_all(bytes).unwrap();
}

fn compare(dir: &Path, compare: &Compare) -> crate::Result<(Compared, Vec<u8>)> {
    let mut out = Vec::new();
    compare.write(&Stack::default(), &stack(dir), &mut out).map(|compared| (compared, out))
}

/// The directory alone.
fn stack(dir: &Path) -> Stack {
    Stack::new(vec![layer(dir)], Marks::default())
}

fn layer(dir: &Path) -> Arc<OverlayLayer> {
    OverlayLayer::dir(File::open(dir).unwrap().into())
}

fn base() -> Compare {
    Compare::new(LayerFormat::Tar(Compression::None))
}

/// The names in an archive, and what kind of member each is.
fn names(archive: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().unwrap().map(Result::unwrap);
    let text = |entry: tar::Entry<'_, &[u8]>| {
        let kind = char::from(entry.header().entry_type().as_byte());
        format!("{kind} {}", String::from_utf8_lossy(&entry.path_bytes()))
    };
    entries.map(text).collect()
}

fn tree() -> TempDir {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::create_dir(path("d")).unwrap();
    write(&path("d/file"), b"content");
    write(&path("big"), &b"0123456789".repeat(70_000));
    fs::hard_link(path("big"), path("d/same")).unwrap();
    symlink("d/file", path("link")).unwrap();
    UnixListener::bind(path("socket")).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

#[test]
fn members_come_in_the_order_of_their_names_and_sockets_do_not() {
    let dir = tree();
    let (compared, archive) = compare(dir.path(), &base()).unwrap();
    let expected = ["0 big", "5 d/", "0 d/file", "1 d/same", "2 link"];
    assert_eq!(names(&archive), expected);
    assert_eq!(compared.entries, 5);
}

#[test]
fn digests_and_sizes_are_those_of_the_blob_and_of_the_archive_in_it() {
    let dir = tree();
    let (plain, archive) = compare(dir.path(), &base()).unwrap();
    assert_eq!((&plain.digest, plain.size), (&Digest::of(&archive), archive.len() as u64));
    assert_eq!((&plain.diff_id, plain.raw_size), (&plain.digest, plain.size));
    for compression in [Compression::Gzip, Compression::Zstd] {
        let how = Compare::new(LayerFormat::Tar(compression));
        let (compared, blob) = compare(dir.path(), &how).unwrap();
        assert_eq!(compared.digest, Digest::of(&blob));
        assert_eq!(compared.size, blob.len() as u64);
        assert_eq!((&compared.diff_id, compared.raw_size), (&plain.digest, plain.size));
        assert!(compared.size < plain.size / 2, "{compression:?}: {} bytes", compared.size);
        let stream = LayerStream::open(io::Cursor::new(blob.clone()), Request::default()).unwrap();
        assert_eq!(stream.compression(), compression);
        assert_eq!(stream.finish().unwrap().diff_id, Some(plain.digest.clone()));
        assert_eq!(compare(dir.path(), &how).unwrap().1, blob, "not reproducible");
    }
}

#[test]
fn no_time_is_later_than_the_epoch_and_earlier_ones_stay() {
    let dir = TempDir::new().unwrap();
    let at = |sec| std::time::UNIX_EPOCH + std::time::Duration::from_secs(sec);
    for (name, sec) in [("early", 1_000), ("late", 2_000_000_000)] {
        let file = File::create(dir.path().join(name)).unwrap();
        file.set_modified(at(sec)).unwrap();
    }
    // So that the root has an entry.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let how = Compare { source_date_epoch: Some(1_500), ..base() };
    let (_, archive) = compare(dir.path(), &how).unwrap();
    let mut archive = tar::Archive::new(archive.as_slice());
    let times = archive.entries().unwrap().map(|e| e.unwrap().header().mtime().unwrap());
    let times: Vec<u64> = times.collect();
    assert_eq!(times, [1_500, 1_000, 1_500], "of the root, `early` and `late`");
}

#[test]
fn an_empty_directory_is_an_empty_archive() {
    let dir = TempDir::new().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (compared, archive) = compare(dir.path(), &base()).unwrap();
    assert_eq!((compared.entries, archive), (0, vec![0; 1024]));
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(names(&compare(dir.path(), &base()).unwrap().1), ["5 ./"]);
    // An upper directory has the attributes that it was made with.
    let lower = Stack::new(vec![layer(TempDir::new().unwrap().path())], Marks::default());
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let upper = lower.with_upper(layer(dir.path()));
    assert_eq!(base().write(&lower, &upper, &mut Vec::new()).unwrap().entries, 0);
}

/// Does something to the file that is being read, once.
fn meddle(path: &Path, how: fn(&Path)) -> OnBytes {
    let path = Mutex::new(Some(path.to_owned()));
    OnBytes::new(move |_| {
        if let Some(path) = path.lock().unwrap().take() {
            how(&path);
        }
    })
}

/// Waits until a change of the file would be seen: times of files are those of the last tick of the clock.
fn next_tick(path: &Path) {
    let changed = |path: &Path| fs::metadata(path).map(|m| (m.ctime(), m.ctime_nsec())).unwrap();
    let probe = path.with_extension("probe");
    loop {
        write(&probe, b"");
        if changed(&probe) != changed(path) {
            break fs::remove_file(&probe).unwrap();
        }
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_an_error() {
    let append: fn(&Path) = |path| {
        File::options().append(true).open(path).unwrap().write_all(b"more").unwrap();
    };
    let cut: fn(&Path) = |path| File::options().write(true).open(path).unwrap().set_len(3).unwrap();
    let backdate: fn(&Path) = |path| {
        let modified = fs::metadata(path).unwrap().modified().unwrap();
        let mut file = File::options().write(true).open(path).unwrap();
        file.write_all(b"other").unwrap();
        file.set_modified(modified).unwrap();
    };
    for (name, how) in [("append", append), ("cut", cut), ("backdate", backdate)] {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("file");
        write(&path, &vec![7; 1 << 20]);
        next_tick(&path);
        let how = Compare { progress: meddle(&path, how), ..base() };
        let error = compare(dir.path(), &how).expect_err(name);
        assert_eq!(error.code(), "input-changed", "{name}: {error}");
        assert!(error.to_string().contains("file"), "{error}");
        assert!(compare(dir.path(), &base()).is_ok());
    }
}

#[test]
fn it_can_be_called_off() {
    let dir = tree();
    let cancel = Cancel::default();
    let (stop, how) = (cancel.clone(), base());
    let progress = OnBytes::new(move |_| stop.cancel());
    let error = compare(dir.path(), &Compare { cancel, progress, ..how }).unwrap_err();
    assert!(matches!(error, Error::Cancelled), "{error}");
}

/// An output that has room for so many bytes.
struct Room(usize);

impl Write for Room {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(buf.len()).ok_or(io::ErrorKind::StorageFull)?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_output_without_room_is_named_as_the_reason() {
    let dir = tree();
    for format in LayerFormat::ALL {
        let how = Compare::new(format);
        let nothing = Stack::default();
        let error = how.write(&nothing, &stack(dir.path()), &mut Room(0)).unwrap_err();
        let Error::Io { source, .. } = &error else { panic!("{error:?}") };
        assert_eq!(source.kind(), io::ErrorKind::StorageFull, "{error}");
    }
}

#[test]
fn a_name_with_a_meaning_is_refused() {
    let dir = TempDir::new().unwrap();
    write(&dir.path().join(".wh.name"), b"");
    let error = compare(dir.path(), &base()).unwrap_err();
    assert_eq!(error.code(), "tar-reserved-name");
    compare(dir.path(), &Compare::new(LayerFormat::Erofs)).unwrap();
}
