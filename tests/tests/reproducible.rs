//! The same input and the same options make the same bytes, wherever, however and how often.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs::File;
use std::io::{self, BufReader, Read, Write as _};
use std::path::Path;

use erolith_mkfs::build::Options;
use erolith_mkfs::io::{FileInput, Input, Stream};
use erolith_tests::build;
use erolith_tests::cases::{self, Case, Expect};
use erolith_tests::golden;
use erolith_tests::layout::sha256;
use erolith_tests::need;
use erolith_tests::scratch::Scratch;
use erolith_tests::tarball::{Header, Tarball};

/// Bytes that look like none in particular.
fn text(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from((i * 17 + i / 251 + seed) % 256).unwrap()).collect()
}

/// An archive with one of everything.
fn one_of_each() -> Tarball {
    Tarball::new()
        .header(&Header::new(b'5', "./").mode(0o755).mtime(1))
        .dir("usr")
        .file("usr/empty", b"")
        .file("usr/small", b"small")
        .file("usr/tail", text(5000, 1))
        .file("usr/large", text(1 << 20, 2))
        .file("usr/zeros", vec![0; 300_000])
        .hardlink("usr/again", "usr/tail")
        .symlink("bin", "usr/bin")
        .header(&Header::new(b'3', "null").device(1, 3))
        .header(&Header::new(b'6', "pipe"))
        .file("usr/.wh.gone", b"")
        .file("var/.wh..wh..opq", b"")
        .pax(&[("SCHILY.xattr.security.capability", CAPABILITY)])
        .file("usr/ping", b"ping")
}

/// The same with many files, large enough that file data is copied by the kernel where it can be.
fn everything() -> Vec<u8> {
    let mut tar = one_of_each();
    for i in 0..700 {
        tar = tar
            .pax(&[("SCHILY.xattr.user.common", "same"), ("mtime", "1234567890.123456789")])
            .member(Header::new(b'0', format!("many/{i:04}")).owner(i % 3, 70_000), text(100, 3));
    }
    tar.end()
}

/// `cap_net_raw=ep`.
const CAPABILITY: &str = "\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

fn digest(path: &Path) -> String {
    sha256(&std::fs::read(path).unwrap())
}

/// Reads of 6, 12, 18, ... 102 bytes: never what was asked for.
struct Odd<'a> {
    rest: &'a [u8],
    step: usize,
}

impl Read for Odd<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.step = self.step % 97 + 6;
        let n = self.step.min(buf.len()).min(self.rest.len());
        let (now, rest) = self.rest.split_at(n);
        buf[..n].copy_from_slice(now);
        self.rest = rest;
        Ok(n)
    }
}

fn image_of(input: impl Input, path: &Path, options: &Options) -> String {
    build::from_tar(input, path, options).unwrap();
    let digest = digest(path);
    std::fs::remove_file(path).unwrap();
    digest
}

#[test]
fn file_memory_pipe_and_odd_reads_make_one_image() {
    let dir = tempfile::tempdir().unwrap();
    let (tar, image) = (dir.path().join("tar"), dir.path().join("image"));
    let bytes = everything();
    File::create(&tar).and_then(|mut f| f.write_all(&bytes)).unwrap();
    for options in [
        Options::default(),
        Options { inline_data: false, ..Options::default() },
        Options { block_bits: 9, ..Options::default() },
        Options { block_bits: 16, force_extended: true, ..Options::default() },
    ] {
        let file = FileInput::new(File::open(&tar).unwrap()).unwrap();
        let reference = image_of(file, &image, &options);
        assert_eq!(image_of(Stream(bytes.as_slice()), &image, &options), reference, "from memory");
        for capacity in [61, 513, 65_537] {
            let odd = Odd { rest: &bytes, step: 0 };
            let stream = Stream(BufReader::with_capacity(capacity, odd));
            assert_eq!(image_of(stream, &image, &options), reference, "buffers of {capacity}");
        }
        let (reader, mut writer) = io::pipe().unwrap();
        let piped = std::thread::scope(|scope| {
            scope.spawn(|| {
                writer.write_all(&bytes).unwrap();
                drop(writer);
            });
            image_of(Stream(BufReader::new(reader)), &image, &options)
        });
        assert_eq!(piped, reference, "from a pipe");
    }
}

#[test]
fn file_system_umask_and_what_was_there_change_nothing() {
    let scratch = need!(Scratch::new(1 << 30));
    let disk = tempfile::tempdir().unwrap();
    let bytes = everything();
    let options = Options::default();
    let reference = image_of(Stream(bytes.as_slice()), &disk.path().join("image"), &options);
    let elsewhere = scratch.join("another-name");
    assert_eq!(image_of(Stream(bytes.as_slice()), &elsewhere, &options), reference, "on a tmpfs");
    // The umask is the whole process's; tests that make files beside this one do not look at modes.
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let strict = image_of(Stream(bytes.as_slice()), &disk.path().join("strict"), &options);
    rustix::process::umask(before);
    assert_eq!(strict, reference, "under another umask");
}

#[test]
fn a_directory_makes_the_same_image_whatever_the_order_of_its_entries() {
    let (one, two) = (need!(Scratch::new(1 << 28)), need!(Scratch::new(1 << 28)));
    let names: Vec<String> = (0..300).map(|i| format!("file-{i:03}")).collect();
    let make = |root: &Scratch, names: &mut dyn Iterator<Item = &String>| {
        for name in names {
            let mut file = File::create(root.join(name)).unwrap();
            file.write_all(name.as_bytes()).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
        }
        let root = File::open(root.path()).unwrap();
        root.set_modified(std::time::UNIX_EPOCH).unwrap();
    };
    make(&one, &mut names.iter());
    make(&two, &mut names.iter().rev());
    let dir = tempfile::tempdir().unwrap();
    let image = |root: &Scratch, name: &str| {
        let path = dir.path().join(name);
        build::from_dir(root.path(), &path, &Options::default()).unwrap();
        digest(&path)
    };
    assert_eq!(image(&one, "one"), image(&two, "two"));
}

/// The image that a text describes, beside its digest.
const ONE_OF_EACH: &str = "one of each";
/// That text: `EROLITH_TESTS_UPDATE=1` writes it anew.
const GOLDEN: &str = "one-of-each.txt";

/// Digests of images of archives that never change. If a change of the writer was intended, update them, and say in the
/// change log that images of the same layer will differ.
const PINNED: &[(&str, &str)] = &[
    ("everything", "bf559e582cddf9c49bc333e6d11dfe16ee1bc48cfcf7eb357775af7a19ac96fe"),
    (
        "everything, blocks of 512",
        "5ca9384edd6ffb8797d4dcc23ace180b827fc62e157d59ef5df26d21deac884b",
    ),
    (
        "everything, no inline data",
        "9b9ac47220b148c6616c2b19db07d464a8c2c4ad87f1a0c19892a831873187e0",
    ),
    ("everything, an index", "fc8f1f52059cee6327254a368dcf74c6e329529e4b8adfd09c9890b278a1d725"),
    (ONE_OF_EACH, "9e706f2570376555c5c2e425483a554cb056c8f5733f20a1c06f94b88a79c384"),
    ("F02 (two zero blocks)", "8c393b7629ab7636a395f48a4c5095ca0c70e857fc38332a69145988acfa2515"),
    (
        "T23 (sizes around every boundary)",
        "3cabe6105cf94aafb2116a6800928b97dd2fd4d2a1d715cb3fb7314d45ffdf80",
    ),
    (
        "W03 (before its children)",
        "63ad5072e5279f64fae11756ef5dd01601ed0feed0397d24d3dc05ee7608a1c1",
    ),
    (
        "A06 (access and default ACL of a directory)",
        "c91295e0cbe7b4d7ee9bde5677fe413058f64c860ed93cc659ca03ed99973aa8",
    ),
    ("S04 (pax 1.0)", "2e41a35453d43020cc4e5b8886aedad76b648d72081a3fd347171afeb8d71a20"),
];

#[test]
fn pinned_images_have_not_changed() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let catalogue = cases::all();
    let mut seen = Vec::new();
    for (name, _) in PINNED {
        let mut options = Options::default();
        let archive = match *name {
            "everything" => everything(),
            "everything, blocks of 512" => {
                options.block_bits = 9;
                everything()
            }
            "everything, no inline data" => {
                options.inline_data = false;
                everything()
            }
            "everything, an index" => {
                options.tar_index = true;
                everything()
            }
            ONE_OF_EACH => one_of_each().end(),
            case => archive_of(&catalogue, case),
        };
        let input = Stream(archive.as_slice());
        let bytes = archive.len() as u64;
        if options.tar_index {
            build::index_of(input, bytes, &image, &options).unwrap();
        } else {
            build::from_tar(input, &image, &options).unwrap();
        }
        if *name == ONE_OF_EACH {
            let text = golden::dump(File::open(&image).unwrap()).unwrap();
            golden::compare(GOLDEN, &text).unwrap();
        }
        seen.push((*name, digest(&image)));
        std::fs::remove_file(&image).unwrap();
    }
    let seen: Vec<_> = seen.iter().map(|(name, digest)| (*name, digest.as_str())).collect();
    assert_eq!(seen, PINNED, "if intentional, update");
}

fn archive_of(catalogue: &[Case], name: &str) -> Vec<u8> {
    let case = catalogue.iter().find(|case| case.name() == name).unwrap();
    assert!(matches!(case.expect, Expect::Tree(_)));
    case.archive.clone()
}
