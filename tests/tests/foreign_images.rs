//! Images of another writer, mkfs.erofs: read as the kernel reads them, and found clean; and damaged ones, which
//! fsck.erofs never refuses alone.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use erolith_mkfs::check::{Limits, Report, check};
use erolith_mkfs::format::{SUPER_OFFSET, checksum};
use erolith_mkfs::image::{ExtentLocation, Image};
use erolith_mkfs::io::ReadAt;
use erolith_tests::listing::{Blind, Listing};
use erolith_tests::mount::Mounted;
use erolith_tests::{need, tools};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, makedev, mknodat, setxattr,
    utimensat,
};

/// Writes a file of words, which compress, or of noise, which does not.
fn content(len: usize, noise: bool, seed: u64) -> Vec<u8> {
    let mut random = Random(seed | 1);
    let mut out = Vec::with_capacity(len + 16);
    while out.len() < len {
        if noise {
            out.extend_from_slice(&random.next().to_le_bytes());
        } else {
            write!(out, "word-{} ", random.below(500)).unwrap();
        }
    }
    out.truncate(len);
    out
}

/// xorshift: the same numbers on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }
}

fn put(path: impl AsRef<Path>, data: &[u8]) {
    File::create(path).unwrap().write_all(data).unwrap();
}

/// A tree with what matters to layouts: sizes around block borders, repetition, many names, odd names, every
/// type of file, and xattrs alone and shared.
fn make_tree(root: &Path) {
    fs::create_dir_all(root.join("dir/deep")).unwrap();
    fs::create_dir(root.join("many")).unwrap();
    for len in [0, 1, 511, 512, 513, 4000, 4095, 4096, 4097, 8192, 12_345, 65_536, 150_001] {
        put(root.join(format!("text-{len}")), &content(len, false, 3));
        put(root.join(format!("noise-{len}")), &content(len, true, 5));
    }
    let text = content(1 << 20, false, 7);
    put(root.join("twice"), &text);
    put(root.join("partly"), &[&text[4096..300_000], &content(9000, true, 9)].concat());
    put(root.join("zeros"), &vec![0; 300_000]);
    for i in 0..400 {
        let path = root.join("many").join(format!("name-{i:04}-{}", "x".repeat(i % 40)));
        put(&path, &content(i % 200, false, 11));
        if i < 10 {
            setxattr(&path, "user.shared.by.many", b"value", XattrFlags::empty()).unwrap();
            setxattr(&path, format!("user.own-{i}"), &vec![b'v'; i], XattrFlags::empty()).unwrap();
        }
    }
    for name in ["!", "-first", "+", "..a", ".b", " space", "caf\u{e9}"] {
        put(root.join(name), name.as_bytes());
    }
    setxattr(root.join("dir"), "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
    setxattr(root.join("text-512"), "user.big", &[b'B'; 3000], XattrFlags::empty()).unwrap();
    fs::hard_link(root.join("twice"), root.join("dir/hard-link")).unwrap();
    symlink("../twice", root.join("dir/symlink")).unwrap();
    symlink("x".repeat(4000), root.join("long-symlink")).unwrap();
    let node = |name: &str, kind, dev| {
        mknodat(CWD, root.join(name), kind, Mode::from_raw_mode(0o600), dev).unwrap();
    };
    node("fifo", FileType::Fifo, 0);
    node("char", FileType::CharacterDevice, makedev(5, 300));
    node("whiteout", FileType::CharacterDevice, makedev(0, 0));
    node("block", FileType::BlockDevice, makedev(259, 70_000));
    std::os::unix::fs::chown(root.join("text-1"), Some(100_000), Some(200_000)).unwrap();
    fs::set_permissions(root.join("text-511"), fs::Permissions::from_mode(0o4755)).unwrap();
    set_times(root);
    // Not before 1970: mkfs.erofs 1.9.4 wraps such times in 48-bit images.
    set_time(&root.join("text-4096"), 1);
}

/// Whole seconds, since some variants keep no more.
fn set_times(path: &Path) {
    let kind = fs::symlink_metadata(path).unwrap().file_type();
    if kind.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            set_times(&entry.unwrap().path());
        }
    }
    set_time(path, 1_700_000_000);
}

fn set_time(path: &Path, tv_sec: i64) {
    let time = Timespec { tv_sec, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// What is given to mkfs.erofs, by the name of the variant.
const VARIANTS: &[(&str, &[&str])] = &[
    ("plain", &[]),
    ("all inodes of one time", &["--ignore-mtime", "-T1700000000"]),
    ("no inline data", &["-Enoinline_data"]),
    ("blocks of 512", &["-b512"]),
    ("blocks of 1024", &["-b1024"]),
    ("blocks of 2048, lz4", &["-b2048", "-zlz4"]),
    ("chunks of 4 KiB", &["--chunksize=4096"]),
    ("chunks of 64 KiB", &["--chunksize=65536"]),
    ("chunk indexes", &["--chunksize=8192", "-Eforce-chunk-indexes"]),
    ("a blob device", &["--chunksize=4096", "--blobdev=BLOB"]),
    ("lz4", &["-zlz4"]),
    ("lz4, full indexes", &["-zlz4", "-Elegacy-compress"]),
    ("lz4hc, 64 KiB", &["-zlz4hc", "-C65536"]),
    ("lz4, 1 MiB", &["-zlz4", "-C1048576"]),
    ("lzma", &["-zlzma", "-C65536"]),
    ("deflate", &["-zdeflate", "-C65536"]),
    ("zstd", &["-zzstd", "-C65536"]),
    ("two algorithms", &["-zlz4:lzma", "-C65536"]),
    ("inline tails", &["-zlz4", "-C65536", "-Eztailpacking"]),
    ("inline tails, lzma", &["-zlzma", "-C65536", "-Eztailpacking"]),
    ("fragments", &["-zlz4", "-C65536", "-Efragments"]),
    ("all in fragments", &["-zlz4", "-C65536", "-Eall-fragments"]),
    ("deduplicated", &["-zlz4", "-C65536", "-Ededupe,fragments"]),
    ("deduplicated, zstd", &["-zzstd", "-C65536", "-Ededupe"]),
    ("deduplicated, deflate", &["-zdeflate", "-C65536", "-Ededupe"]),
    ("deduplicated, lzma", &["-zlzma", "-C65536", "-Ededupe"]),
    ("48 bits", &["-E48bit"]),
    ("48 bits, lz4", &["-zlz4", "-E48bit", "-C65536"]),
    ("48 bits, zstd, fragments", &["-zzstd", "-E48bit,fragments,dedupe", "-C65536"]),
    ("no dot entries", &["-Edot-omitted"]),
    ("a metabox", &["-m4096"]),
    ("a metabox, lz4", &["-m65536", "-zlz4", "-C65536"]),
    ("a metabox, fragments", &["-m65536:1", "-zlz4:zstd", "-C65536", "-Efragments"]),
    ("compressed directories", &["-zlz4", "-C16384", "--zD"]),
    ("all xattrs shared", &["-x0"]),
    ("long prefixes", &["--xattr-prefix=user.shared.", "--xattr-prefix=trusted.overlay."]),
    ("plain long prefixes", &["-Eplain-xattr-prefixes", "--xattr-prefix=user.shared."]),
    ("long prefixes in the packed inode", &["-zlz4", "-Efragments", "--xattr-prefix=user.shared."]),
    ("metadata in a zone", &["--MZ"]),
    ("no checksum", &["-Enosbcrc"]),
];

/// Writes an image; returns it and its extra device.
fn mkfs(tool: &Path, dir: &Path, tree: &Path, options: &[&str]) -> (PathBuf, Option<PathBuf>) {
    let (image, blob) = (dir.join("image"), dir.join("blob"));
    for path in [&image, &blob] {
        let _ = fs::remove_file(path);
    }
    let blob_option = format!("--blobdev={}", blob.display());
    let options =
        options.iter().map(|o| if *o == "--blobdev=BLOB" { blob_option.as_str() } else { o });
    let out =
        Command::new(tool).arg("--quiet").args(options).arg(&image).arg(tree).output().unwrap();
    assert!(out.status.success(), "mkfs.erofs: {}", String::from_utf8_lossy(&out.stderr));
    let blob = blob.exists().then_some(blob);
    (image, blob)
}

fn check_files(image: &Path, devices: &[&Path]) -> Report {
    let open = |path: &Path| File::open(path).unwrap();
    let devices: Vec<File> = devices.iter().map(|path| open(path)).collect();
    let devices: Vec<&dyn ReadAt> = devices.iter().map(|file| file as &dyn ReadAt).collect();
    check(&open(image), &devices, &Limits::default()).unwrap()
}

fn texts(report: &Report) -> String {
    report.findings.iter().map(|f| format!("\n  {f}")).collect()
}

fn open(image: &Path, devices: &[&Path]) -> Image {
    let open = |path: &Path| -> Arc<dyn ReadAt> { Arc::new(File::open(path).unwrap()) };
    Image::open(open(image), devices.iter().map(|path| open(path)).collect()).unwrap()
}

#[test]
fn every_variant_of_mkfs_erofs_is_read_right_and_found_clean() {
    let tool = need!(tools::program("mkfs.erofs"));
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    make_tree(&tree);
    // mkfs.erofs marks directories with whiteouts for overlayfs.
    let blind = [Blind::DirLinks, Blind::OverlayXattrs];
    let source = Listing::from_dir(&tree).unwrap().blind(&blind);
    for (what, options) in VARIANTS {
        let (path, blob) = mkfs(&tool, dir.path(), &tree, options);
        let devices: Vec<&Path> = blob.iter().map(PathBuf::as_path).collect();
        let ours =
            Listing::from_image(&open(&path, &devices)).unwrap_or_else(|e| panic!("{what}: {e}"));
        // The times of the source are not in an image whose inodes have one time.
        if !options.contains(&"--ignore-mtime") {
            let ours = ours.clone().blind(&blind);
            ours.assert_eq(&source, ("our reader", "the source"), what);
        }
        let report = check_files(&path, &devices);
        assert!(report.is_clean(), "{what}:{}", texts(&report));
        match Mounted::erofs(&path, &devices) {
            Ok(mounted) => {
                let kernel = Listing::from_dir(&mounted.path()).unwrap();
                ours.assert_eq(&kernel, ("our reader", "the kernel"), what);
            }
            Err(why) => tools::skipped(&format!("{what}: {why}")),
        }
    }
}

/// What marks an extent as a hole.
#[derive(Debug, Clone, Copy)]
enum Mark {
    /// The flag of its head.
    Flag,
    /// A count of no blocks behind its head, if there is a count.
    Count,
}

/// Makes holes of all compressed extents of a file with full indexes. Returns how many.
fn mark_holes(image: &Path, file: &str, mark: Mark) -> usize {
    const HEAD_1: u16 = 1;
    const HOLE: u16 = 1 << 14;
    const BLOCK_COUNT: u16 = 0x800;
    let mut bytes = fs::read(image).unwrap();
    let inode = Image::open(&bytes, Vec::new()).unwrap().lookup(file.as_bytes()).unwrap().unwrap();
    let table = usize::try_from(inode.body_end()).unwrap().next_multiple_of(8) + 16;
    let count = usize::try_from(inode.size).unwrap().div_ceil(4096);
    let mut marked = 0;
    for at in (0..count).map(|lcn| table + 8 * lcn) {
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        if word(at) != HEAD_1 {
            continue;
        }
        let (at, value) = match mark {
            Mark::Flag => (at, HEAD_1 | HOLE),
            Mark::Count if word(at + 12) & BLOCK_COUNT != 0 => (at + 12, BLOCK_COUNT),
            Mark::Count => continue,
        };
        bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
        marked += 1;
    }
    let at = usize::try_from(SUPER_OFFSET).unwrap();
    bytes[at + 4..at + 8].fill(0);
    let sum = checksum(&bytes[at..4096]).unwrap();
    bytes[at + 4..at + 8].copy_from_slice(&sum.to_le_bytes());
    put(image, &bytes);
    marked
}

/// Holes in compressed files came with Linux 7.2, and with no mkfs.erofs up to 1.9.4. Earlier kernels decode the zeros that a
/// hole stands for.
#[test]
fn holes_of_linux_7_2_are_holes_here_and_zeros_for_this_kernel() {
    let tool = need!(tools::program("mkfs.erofs"));
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    put(tree.join("zeros"), &vec![0; 300_000]);
    put(tree.join("text"), &content(100_000, false, 3));
    set_times(&tree);
    let source = Listing::from_dir(&tree).unwrap().blind(&[Blind::DirLinks]);
    for (what, options, mark) in [
        ("a flag", &["-zlz4", "-Elegacy-compress"][..], Mark::Flag),
        ("a flag, 64 KiB", &["-zlz4", "-Elegacy-compress", "-C65536"], Mark::Flag),
        ("a count, 64 KiB", &["-zlz4", "-Elegacy-compress", "-C65536"], Mark::Count),
    ] {
        let (path, _) = mkfs(&tool, dir.path(), &tree, options);
        let marked = mark_holes(&path, "zeros", mark);
        let image = open(&path, &[]);
        let inode = image.lookup(b"zeros").unwrap().unwrap();
        let extents: Vec<_> = image.extents(&inode).map(Result::unwrap).collect();
        let holes = extents.iter().filter(|extent| extent.place == ExtentLocation::Hole).count();
        assert!(marked > 0 && holes == marked, "{what}: {marked} marked, {extents:?}");
        let ours = Listing::from_image(&image).unwrap();
        ours.clone().blind(&[Blind::DirLinks]).assert_eq(
            &source,
            ("our reader", "the source"),
            what,
        );
        let report = check_files(&path, &[]);
        assert!(report.is_clean(), "{what}:{}", texts(&report));
        match Mounted::erofs(&path, &[]) {
            Ok(mounted) => {
                let kernel = Listing::from_dir(&mounted.path()).unwrap();
                ours.assert_eq(&kernel, ("our reader", "the kernel"), what);
            }
            Err(why) => tools::skipped(&format!("{what}: {why}")),
        }
        // Flags on what is not zeros: another file for this kernel than for the next.
        if matches!(mark, Mark::Flag) {
            assert!(mark_holes(&path, "text", mark) > 0, "{what}");
            let report = check_files(&path, &[]);
            let is_found = report.errors().any(|finding| finding.code() == "map-hole");
            assert!(is_found, "{what}:{}", texts(&report));
        }
    }
}

#[test]
fn tar_indexes_of_mkfs_erofs_are_read_right_beside_their_tar_and_with_it_behind() {
    let tool = need!(tools::program("mkfs.erofs"));
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("layer.tar");
    let mut builder = tar::Builder::new(File::create(&archive).unwrap());
    for (name, len) in [("a", 0), ("b", 5), ("c", 100_000)] {
        let mut header = tar::Header::new_ustar();
        header.set_size(len as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, &*content(len, true, 3)).unwrap();
    }
    builder.into_inner().unwrap();
    let (image, _) = mkfs(&tool, dir.path(), &archive, &["--tar=i"]);
    let beside = Listing::from_image(&open(&image, &[&archive])).unwrap();
    let kernel = need!(Mounted::erofs(&image, &[&archive]));
    let kernel = Listing::from_dir(&kernel.path()).unwrap();
    beside.assert_eq(&kernel, ("our reader", "the kernel"), "beside");
    let report = check_files(&image, &[&archive]);
    assert!(report.is_clean(), "beside:{}", texts(&report));

    // What the superblock calls the device's place is the end of the image.
    let mut joined = File::options().append(true).open(&image).unwrap();
    std::io::copy(&mut File::open(&archive).unwrap(), &mut joined).unwrap();
    let behind = Listing::from_image(&open(&image, &[])).unwrap();
    behind.assert_eq(&beside, ("behind", "beside"), "joined");
    let report = check_files(&image, &[]);
    assert!(report.is_clean(), "joined:{}", texts(&report));
}

#[test]
fn a_tail_that_mkfs_erofs_rotates_wrongly_is_refused_and_not_misread() {
    // mkfs.erofs 1.9.4 stores an incompressible tail of the packed inode behind the index, unrotated, in an inode
    // that says its stored extents are rotated. The kernel and fsck.erofs read other bytes than went in.
    let tool = need!(tools::program("mkfs.erofs"));
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    put(tree.join("a"), &content(40_001, false, 3));
    put(tree.join("b"), &content(90_000, true, 5));
    set_times(&tree);
    let options = ["-zlz4", "-C65536", "-Efragments,ztailpacking"];
    let (image, _) = mkfs(&tool, dir.path(), &tree, &options);
    let report = check_files(&image, &[]);
    if report.is_clean() {
        // A newer mkfs.erofs: then the bytes must be right.
        let ours = Listing::from_image(&open(&image, &[])).unwrap();
        let source = Listing::from_dir(&tree).unwrap();
        ours.assert_eq(&source, ("our reader", "the source"), "rotated tail");
        return;
    }
    assert!(report.errors().all(|f| f.code() == "map-interlaced"), "{}", texts(&report));
    assert!(Listing::from_image(&open(&image, &[])).is_err());
}

#[test]
fn what_fsck_erofs_refuses_our_check_refuses() {
    let tool = need!(tools::program("mkfs.erofs"));
    let fsck = need!(tools::program("fsck.erofs"));
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("dir/deep")).unwrap();
    put(tree.join("text"), &content(100_000, false, 3));
    put(tree.join("small"), &content(300, false, 5));
    put(tree.join("dir/deep/noise"), &content(9000, true, 7));
    symlink("text", tree.join("symlink")).unwrap();
    setxattr(tree.join("small"), "user.k", b"value", XattrFlags::empty()).unwrap();
    let variants: &[&[&str]] = &[
        &[],
        &["--chunksize=4096"],
        &["-zlz4", "-C16384"],
        &["-zlz4", "-Elegacy-compress"],
        &["-zlz4", "-C65536", "-E48bit"],
        &["-zlz4", "-C65536", "-Efragments"],
    ];
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut refused = 0;
    for options in variants {
        let (path, _) = mkfs(&tool, dir.path(), &tree, options);
        let clean = fs::read(&path).unwrap();
        for round in 0..60 {
            let bytes = damaged(&clean, &mut random);
            let damaged = dir.path().join("damaged");
            File::create(&damaged).unwrap().write_all_at(&bytes, 0).unwrap();
            let out = Command::new(&fsck).arg(&damaged).output().unwrap();
            if !out.status.success() {
                refused += 1;
                let report = check_files(&damaged, &[]);
                let said =
                    String::from_utf8_lossy(&out.stderr) + String::from_utf8_lossy(&out.stdout);
                assert!(!report.is_clean(), "{options:?}, round {round}: fsck.erofs: {said}");
            }
        }
    }
    assert!(refused > 20, "only {refused} images were bad enough to say anything");
}

/// Changes a few bytes of the first 8 KiB, where the metadata of small images is, and makes the checksum right.
fn damaged(clean: &[u8], random: &mut Random) -> Vec<u8> {
    let start = usize::try_from(SUPER_OFFSET).unwrap();
    let mut bytes = clean.to_vec();
    for _ in 0..=random.below(3) {
        let at = start + random.below(3000);
        bytes[at] = match random.below(3) {
            0 => 0,
            1 => bytes[at] ^ (1 << random.below(8)),
            _ => random.next().to_le_bytes()[0],
        };
    }
    bytes[start + 4..start + 8].fill(0);
    let sum = checksum(&bytes[start..4096]).unwrap();
    bytes[start + 4..start + 8].copy_from_slice(&sum.to_le_bytes());
    bytes
}
