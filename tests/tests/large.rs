//! Many members: time and memory stay in proportion.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use erolith_mkfs::build::Options;
use erolith_mkfs::check::{Limits as CheckLimits, check};
use erolith_mkfs::image::Image;
use erolith_mkfs::io::{FileInput, Stream};
use erolith_tests::build;
use erolith_tests::listing::make::{dir, file, implicit, link, listing};
use erolith_tests::mount::Mounted;
use erolith_tests::need;
use erolith_tests::oracle::{Readers, Subject};
use erolith_tests::tarball::{Header, Tarball};

/// Tells [`child`] how many files to pack.
const ORDER: &str = "EROLITH_TESTS_PACK";

/// An archive that is made while it is read: `files` small files in directories of 1000.
struct Endless {
    next: u64,
    files: u64,
    block: Vec<u8>,
    pos: usize,
}

impl Endless {
    fn new(files: u64) -> Self {
        Self { next: 0, files, block: Vec::new(), pos: 0 }
    }
}

impl Read for Endless {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.pos == self.block.len() {
            if self.next == self.files {
                return Ok(0);
            }
            let name = format!("d{}/file-{}", self.next / 1000, self.next);
            let owner = self.next % 3;
            self.block = Tarball::new()
                .member(Header::new(b'0', &name).owner(owner, owner).mtime(1_600_000_000), &name)
                .unfinished();
            (self.pos, self.next) = (0, self.next + 1);
        }
        let n = buf.len().min(self.block.len() - self.pos);
        buf[..n].copy_from_slice(&self.block[self.pos..self.pos + n]);
        self.pos += n;
        Ok(n)
    }
}

/// Not a test of its own: the process whose memory is measured. Prints the peak in bytes.
#[test]
fn child() {
    let Ok(files) = std::env::var(ORDER) else { return };
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let input = Stream(BufReader::with_capacity(1 << 16, Endless::new(files.parse().unwrap())));
    let summary = build::from_tar(input, &image, &Options::default()).unwrap();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    println!("peak={} inodes={}", kib << 10, summary.inodes);
}

/// Peak resident memory of a process that packs `files` files, and how many inodes it made.
fn peak(files: u64) -> (u64, u64) {
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture", "--test-threads=1"])
        .env(ORDER, files.to_string())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{text}");
    let value = |key: &str| {
        let at = text.find(key).unwrap() + key.len();
        text[at..].split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    (value("peak="), value("inodes="))
}

#[test]
fn memory_is_64_mib_and_200_bytes_an_inode_and_the_tails() {
    const FIXED: u64 = 64 << 20;
    const TAILS: u64 = 24 << 20;
    let (bytes, inodes) = peak(400_000);
    let bound = FIXED + TAILS + 200 * inodes;
    println!("{inodes} inodes: peak of {bytes} bytes, {} of them each", bytes / inodes);
    assert!(bytes <= bound, "{bytes} bytes for {inodes} inodes, the bound is {bound}");
}

/// One directory with many entries, names that share a long prefix.
#[test]
fn p11_a_directory_of_100_000_entries() {
    let names = (0..100_000).map(|i| format!("a-name-that-all-of-them-begin-with-{i}"));
    let tar = names.fold(Tarball::new(), |tar, name| tar.file(&name, b""));
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("image");
    build::from_tar(Stream(tar.end().as_slice()), &image, &Options::default()).unwrap();
    let image = Image::open(std::fs::File::open(&image).unwrap(), Vec::new()).unwrap();
    let mut walk = image.walk();
    let mut found = 0;
    while walk.next_entry().unwrap().is_some() {
        found += 1;
    }
    assert_eq!(found, 100_001);
    for i in [0, 1, 9, 10, 99_999, 31_337] {
        let name = format!("a-name-that-all-of-them-begin-with-{i}");
        assert!(image.lookup(name.as_bytes()).unwrap().is_some(), "{name}");
    }
}

/// A compact inode has 16 bits for its links.
#[test]
fn t16_an_inode_of_70_000_names() {
    let names: Vec<String> = (0..69_999).map(|i| format!("d{}/n{i}", i / 1000)).collect();
    let tar = names.iter().fold(Tarball::new().file("f", b"data"), |tar, n| tar.hardlink(n, "f"));
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("image");
    build::from_tar(Stream(tar.end().as_slice()), &image, &Options::default()).unwrap();
    let image = Image::open(std::fs::File::open(&image).unwrap(), Vec::new()).unwrap();
    let inode = image.lookup(b"f").unwrap().unwrap();
    assert_eq!(inode.nlink, 70_000);
    assert_eq!(image.lookup(b"d69/n69998").unwrap().unwrap().nid, inode.nid);
}

/// Blocks of 512 bytes end at 2 TiB in 32 bits. The archive is a hole, but for its headers and one small file.
#[test]
fn addresses_have_48_bits_when_an_image_needs_them_and_not_before() {
    const HUGE: u64 = 5 << 39;
    let temp = tempfile::tempdir().unwrap();
    let (image, archive) = (temp.path().join("image"), temp.path().join("tar"));
    let index = |size: u64| {
        let size_text = size.to_string();
        let pax = [("size", size_text.as_str())];
        let head = Tarball::new().pax(&pax).header(&Header::new(b'0', "huge")).unfinished();
        let end = Tarball::new().file("behind", b"far away").end();
        let file = File::create(&archive).unwrap();
        file.write_all_at(&head, 0).unwrap();
        file.write_all_at(&end, head.len() as u64 + size).unwrap();
        let bytes = file.metadata().unwrap().len();
        let input = FileInput::new(File::open(&archive).unwrap()).unwrap();
        let _ = std::fs::remove_file(&image);
        build::index_of(input, bytes, &image, &Options::default()).unwrap().feature_incompat
    };
    let wide = erolith_mkfs::format::incompat::LAYOUT_48BIT;
    assert_eq!(index(HUGE / 2) & wide, 0, "what fits into 32 bits mounts on older kernels");
    assert_ne!(index(HUGE) & wide, 0);
    let open = |path: &Path| File::open(path).unwrap();
    let found = Image::open(open(&image), vec![open(&archive)]).unwrap();
    let behind = found.lookup(b"behind").unwrap().unwrap();
    let mut content = [0; 8];
    assert_eq!(found.read_at(&behind, &mut content, 0).unwrap(), 8);
    assert_eq!(&content, b"far away");
    let findings = check(&open(&image), &[&open(&archive)], &CheckLimits::default()).unwrap();
    assert_eq!(findings.errors().count(), 0);
    let mounted = need!(Mounted::erofs(&image, &[&archive]));
    assert_eq!(std::fs::read(mounted.path().join("behind")).unwrap(), b"far away");
    let huge = File::open(mounted.path().join("huge")).unwrap();
    assert_eq!(huge.metadata().unwrap().len(), HUGE);
    let mut last = [1; 512];
    huge.read_exact_at(&mut last, HUGE - 512).unwrap();
    assert_eq!(last, [0; 512]);
}

/// Many different sets of attributes, and one on many files.
#[test]
fn a10_many_sets_of_attributes_and_one_set_on_many_files() {
    let mut tar = Tarball::new().dir("d");
    let mut items = vec![implicit(""), dir("d")];
    for i in 0..2000 {
        let (name, value) = (format!("d/f{i}"), format!("value {}", i / 2));
        let same = ("SCHILY.xattr.security.selinux", "system_u:object_r:usr_t:s0");
        let records = [same, ("SCHILY.xattr.user.k", &value)];
        tar = tar.pax(if i % 2 == 0 { &records } else { &records[..1] }).file(&name, b"x");
        let item = file(&name, b"x").xattr("security.selinux", "system_u:object_r:usr_t:s0");
        items.push(if i % 2 == 0 { item.xattr("user.k", &value) } else { item });
    }
    tar = tar.hardlink("d/again", "d/f7");
    items.push(link("d/again", "d/f7"));
    // The header of a hard link describes the inode anew; it has the defaults too.
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("image");
    build::from_tar(Stream(tar.end().as_slice()), &image, &Options::default()).unwrap();
    let name = "2000 files";
    Readers::new().agree(Subject { image: &image, devices: &[], name }, &listing(items));
}
