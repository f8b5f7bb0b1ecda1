//! Trees on a directory of the host, by a process with any rights.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::sync::Arc;

use erolith_mkfs::build::{Builder, Finish, Options};
use erolith_mkfs::io::{FileSink, Stream};
use erolith_mkfs::tar::Limits;

use super::*;

const PLAIN: RestoredAttributes =
    RestoredAttributes { owners: false, xattrs: false, devices: false };

/// An image of `usr/bin/a`, of `b` as another name of it, and of a private directory.
fn image(dir: &Path) -> Image<Blob> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = |name: &str, kind: tar::EntryType, mode: u32, data: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(1_700_000_000);
        header.set_size(data.len() as u64);
        if kind == tar::EntryType::Link {
            header.set_link_name("usr/bin/a").unwrap();
        }
        archive.append_data(&mut header, name, data).unwrap();
    };
    header("usr/bin/", tar::EntryType::Directory, 0o755, b"");
    header("usr/bin/a", tar::EntryType::Regular, 0o4751, &[b'a'; 5000]);
    header("private/", tar::EntryType::Directory, 0o000, b"");
    header("zz", tar::EntryType::Link, 0o4751, b"");
    let archive = archive.into_inner().unwrap();
    let at = dir.join("image");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&at).unwrap();
    let sink = FileSink::new(file, File::open(dir).unwrap().into());
    let mut builder = Builder::new(sink, Options::default()).unwrap();
    builder.fill_from_tar(Stream(&*archive), Limits::default()).unwrap();
    builder.finish(&Finish::default()).unwrap();
    let file = File::open(at).unwrap();
    let size = file.metadata().unwrap().len();
    Image::open(Blob::new(Arc::new(file), 0, size), Vec::new()).unwrap()
}

fn walk(image: &Image<Blob>, mut take: impl FnMut(TreeEntry<'_>)) {
    let mut walk = image.walk();
    while let Some(entry) = walk.next_entry().unwrap() {
        let (path, parent, id) = (entry.path, entry.parent, entry.inode.nid);
        take(TreeEntry { path, parent, id, image, inode: entry.inode, xattrs: Vec::new() });
    }
}

#[test]
fn files_directories_and_links_are_as_the_image_has_them() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path());
    let to = dir.path().join("tree");
    let mut extractor = Extractor::create(&to, PLAIN).unwrap();
    assert_eq!(fs::metadata(&to).unwrap().mode() & 0o777, 0o700);
    walk(&image, |entry| extractor.make(entry).unwrap());
    assert_eq!(fs::metadata(to.join("private")).unwrap().mode() & 0o777, 0o700);
    walk(&image, |entry| extractor.finish(entry).unwrap());
    assert_eq!(extractor.devices_left_out(), 0);
    extractor.close().unwrap();
    let file = fs::metadata(to.join("usr/bin/a")).unwrap();
    assert_eq!((file.mode() & 0o7777, file.mtime(), file.nlink()), (0o4751, 1_700_000_000, 2));
    assert_eq!(fs::metadata(to.join("zz")).unwrap().ino(), file.ino());
    assert_eq!(fs::read(to.join("zz")).unwrap(), [b'a'; 5000]);
    let private = fs::metadata(to.join("private")).unwrap();
    assert_eq!((private.mode() & 0o7777, private.mtime()), (0, 1_700_000_000));
    assert_eq!(fs::metadata(&to).unwrap().mode() & 0o777, 0o755);
    // Otherwise it could not be removed without rights.
    fs::set_permissions(to.join("private"), fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn a_directory_with_files_is_refused_and_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    drop(File::create(dir.path().join("file")).unwrap());
    let mode = fs::metadata(dir.path()).unwrap().mode();
    let error = Extractor::create(dir.path(), PLAIN).unwrap_err();
    assert!(matches!(error, Error::NotEmpty), "{error}");
    assert_eq!(fs::metadata(dir.path()).unwrap().mode(), mode);
}

#[test]
fn owners_that_no_file_has_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path());
    let owners = RestoredAttributes { owners: true, ..PLAIN };
    let mut extractor = Extractor::create(&dir.path().join("tree"), owners).unwrap();
    let inode = image.root().unwrap();
    let entry = |path, uid| {
        let inode = Inode { uid, mode: 0o100_644, size: 0, ..inode };
        TreeEntry { path, parent: 1, id: 2, image: &image, inode, xattrs: Vec::new() }
    };
    let start = TreeEntry { id: 1, inode, ..entry(b"", 0) };
    extractor.make(start).unwrap();
    let error = extractor.make(entry(b"file", u32::MAX)).unwrap_err();
    assert!(matches!(error, Error::BadOwner { uid: u32::MAX, .. }), "{error}");
}
