//! The local store: what is published, what is refused, what a crash would leave.

use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::Path;

use super::{Ingest, Mode, OciLayout, Provider, Staging as _};
use crate::Digest;

fn text(layout: &OciLayout, digest: &Digest) -> Result<String, &'static str> {
    let blob = layout.open(digest).map_err(crate::testing::code)?;
    let mut text = String::new();
    blob.reader().read_to_string(&mut text).unwrap();
    Ok(text)
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn commit(ingest: Box<dyn Ingest>, content: &[u8]) -> crate::Result<()> {
    ingest.file().write_all(content).unwrap();
    ingest.commit(&Digest::of(content), content.len() as u64)
}

#[test]
fn a_layout_is_made_filled_and_opened_again() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("image");
    let layout = OciLayout::create(&path).unwrap();
    assert_eq!(names(&path), ["index.json", "oci-layout"]);
    let digest = layout.put(b"content").unwrap();
    assert_eq!(layout.put(b"content").unwrap(), digest);
    assert_eq!(text(&OciLayout::open(&path).unwrap(), &digest).unwrap(), "content");
    layout.sweep().unwrap();
    assert_eq!(names(&path), ["blobs", "index.json", "oci-layout"]);
    assert!(OciLayout::create(&path).is_ok(), "it is there");
    layout.update_index(|old| Ok([old, b" "].concat())).unwrap();
    assert!(layout.index().unwrap().ends_with(b"} "));
    assert_eq!(text(&layout, &Digest::of(b"other")), Err("blob-missing"));
}

#[test]
fn directories_that_are_no_layout_are_left_alone() {
    let temp = tempfile::tempdir().unwrap();
    assert_eq!(OciLayout::open(temp.path()).unwrap_err().code(), "layout-invalid");
    std::fs::create_dir(temp.path().join("photos")).unwrap();
    assert_eq!(OciLayout::create(temp.path()).unwrap_err().code(), "layout-invalid");
    assert_eq!(names(temp.path()), ["photos"]);
    let file = temp.path().join("oci-layout");
    for bad in ["", "{}", r#"{"imageLayoutVersion":"2.0.0"}"#] {
        std::fs::File::create(&file).unwrap().write_all(bad.as_bytes()).unwrap();
        assert_eq!(OciLayout::open(temp.path()).unwrap_err().code(), "layout-invalid");
    }
    assert!(OciLayout::open(&temp.path().join("nothing")).is_err());
}

#[test]
fn d17_links_and_other_things_in_place_of_blobs_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let layout = OciLayout::create(temp.path()).unwrap();
    let real = layout.put(b"real").unwrap();
    let named = |digest: &Digest| temp.path().join("blobs/sha256").join(digest.hex());
    let [link, fifo, hard, dir] = [b"1", b"2", b"3", b"4"].map(|b| Digest::of(b));
    symlink("/etc/passwd", named(&link)).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        named(&fifo),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    std::fs::hard_link(named(&real), named(&hard)).unwrap();
    std::fs::create_dir(named(&dir)).unwrap();
    assert_eq!(text(&layout, &link), Err("layout-not-plain"));
    assert_eq!(text(&layout, &fifo), Err("layout-not-plain"));
    assert_eq!(text(&layout, &dir), Err("layout-not-plain"));
    assert_eq!(text(&layout, &hard).unwrap(), "real", "a hard link is a file like any other");
    let moved = temp.path().join("elsewhere");
    std::fs::rename(temp.path().join("blobs/sha256"), &moved).unwrap();
    symlink(&moved, temp.path().join("blobs/sha256")).unwrap();
    assert_eq!(text(&layout, &real), Err("layout-not-plain"));
}

#[test]
fn an_ingest_that_is_not_committed_leaves_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let layout = OciLayout::create(temp.path()).unwrap();
    let ingest = layout.ingest(Mode::Fresh).unwrap();
    ingest.file().write_all(b"half").unwrap();
    assert!(layout.ingest(Mode::Fresh).is_ok(), "others are not in the way");
    layout.sweep().unwrap();
    assert_eq!(names(&temp.path().join("ingest")).len(), 1, "a sweep spares what is in use");
    drop(ingest);
    layout.sweep().unwrap();
    assert_eq!(names(temp.path()), ["index.json", "oci-layout"]);
}

/// The directory for new content comes and goes: a process that finds it empty removes it.
#[test]
fn many_write_and_sweep_at_the_same_time() {
    let temp = tempfile::tempdir().unwrap();
    let layout = OciLayout::create(temp.path()).unwrap();
    std::thread::scope(|scope| {
        for who in 0..4 {
            let layout = &layout;
            scope.spawn(move || {
                for round in 0..100 {
                    let content = format!("{who} {round}");
                    commit(layout.ingest(Mode::Fresh).unwrap(), content.as_bytes()).unwrap();
                    layout.sweep().unwrap();
                }
            });
        }
    });
    assert_eq!(names(&temp.path().join("blobs/sha256")).len(), 400);
    assert_eq!(names(temp.path()), ["blobs", "index.json", "oci-layout"]);
}

#[test]
fn what_a_process_that_died_left_is_swept() {
    let temp = tempfile::tempdir().unwrap();
    let layout = OciLayout::create(temp.path()).unwrap();
    let left = temp.path().join("ingest").join("build-1-0");
    std::fs::create_dir(temp.path().join("ingest")).unwrap();
    std::fs::File::create(&left).unwrap().write_all(b"half of something long").unwrap();
    commit(layout.ingest(Mode::Fresh).unwrap(), b"whole").unwrap();
    assert_eq!(text(&layout, &Digest::of(b"whole")).unwrap(), "whole");
    assert!(left.exists());
    layout.sweep().unwrap();
    assert_eq!(names(temp.path()), ["blobs", "index.json", "oci-layout"]);
}

#[test]
fn an_ingest_can_be_resumed() {
    let temp = tempfile::tempdir().unwrap();
    let layout = OciLayout::create(temp.path()).unwrap();
    let first = layout.ingest(Mode::Resume("fetch")).unwrap();
    first.file().write_all(b"first half, ").unwrap();
    let busy = layout.ingest(Mode::Resume("fetch")).unwrap_err();
    assert_eq!(busy.code(), "ingest-busy");
    drop(first);
    layout.sweep().unwrap();
    let second = layout.ingest(Mode::Resume("fetch")).unwrap();
    let mut there = Vec::new();
    second.file().read_to_end(&mut there).unwrap();
    assert_eq!(there, b"first half, ");
    second.file().write_all(b"second half").unwrap();
    let whole = b"first half, second half";
    second.commit(&Digest::of(whole), whole.len() as u64).unwrap();
    assert_eq!(text(&layout, &Digest::of(whole)).unwrap(), "first half, second half");
}

#[test]
fn z13_a_blob_of_another_size_is_not_published() {
    let temp = tempfile::tempdir().unwrap();
    let layout = OciLayout::create(temp.path()).unwrap();
    let ingest = layout.ingest(Mode::Fresh).unwrap();
    ingest.file().write_all(b"abc").unwrap();
    let digest = Digest::of(b"abc");
    assert_eq!(ingest.commit(&digest, 4).unwrap_err().code(), "blob-size-mismatch");
    assert_eq!(text(&layout, &digest), Err("blob-missing"));
}

#[test]
fn a_damaged_blob_is_replaced_when_it_is_made_again() {
    let temp = tempfile::tempdir().unwrap();
    let layout = OciLayout::create(temp.path()).unwrap();
    let digest = layout.put(b"content").unwrap();
    let path = temp.path().join("blobs/sha256").join(digest.hex());
    std::fs::File::create(&path).unwrap().write_all(b"CONTENT").unwrap();
    layout.put(b"content").unwrap();
    assert_eq!(text(&layout, &digest).unwrap(), "content");
}

#[test]
fn d08_documents_are_limited_and_verified() {
    let temp = tempfile::tempdir().unwrap();
    let layout = OciLayout::create(temp.path()).unwrap();
    let digest = layout.put(b"0123456789").unwrap();
    let blob = layout.open(&digest).unwrap();
    assert_eq!(blob.document(&digest, 10, 10).unwrap(), b"0123456789");
    assert_eq!(blob.document(&digest, 10, 9).unwrap_err().code(), "document-too-large");
    assert_eq!(blob.document(&digest, 9, 10).unwrap_err().code(), "blob-size-mismatch");
    let other = Digest::of(b"x");
    assert_eq!(blob.document(&other, 10, 10).unwrap_err().code(), "blob-digest-mismatch");
}
