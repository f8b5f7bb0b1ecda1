//! Hash trees of dm-verity as users make and check them, with veritysetup as the judge. It works on plain files, so no
//! device mapper is needed.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use erolith_tests::need;
use erolith_tests::program::{Program, text};
use erolith_tests::tarball::Tarball;
use serde_json::Value;

const EROLITH: Program = Program(env!("CARGO_BIN_EXE_erolith"));

/// A program of the package cryptsetup-bin.
fn veritysetup() -> Result<PathBuf, String> {
    let paths = ["/usr/sbin/veritysetup", "/sbin/veritysetup"];
    let found = paths.iter().map(PathBuf::from).find(|path| path.exists());
    found.ok_or_else(|| "there is no veritysetup: install cryptsetup-bin".to_owned())
}

/// Runs veritysetup. Returns what it prints, or what it complains about.
fn judge(program: &Path, args: &[&str]) -> Result<String, String> {
    let out = Command::new(program).args(args).stdin(Stdio::null()).output().unwrap();
    if out.status.success() { Ok(text(&out.stdout)) } else { Err(text(&out.stderr)) }
}

/// The value of `name` in what veritysetup prints.
fn value<'a>(printed: &'a str, name: &str) -> &'a str {
    let line = printed.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {printed}")).trim()
}

/// A directory with an archive.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        let mut tar = Tarball::new().dir("etc").file("etc/hosts", b"127.0.0.1 localhost\n");
        for i in 0..40_u8 {
            tar = tar.file(format!("file{i}"), vec![i; 9000 * usize::from(i)]);
        }
        fs::write(bench.at("layer.tar"), tar.end()).unwrap();
        bench
    }

    fn at(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    /// Makes an image with a tree. Returns what `mkfs --json` says of the tree.
    fn image(&self, name: &str, options: &[&str]) -> Value {
        let (image, tar) = (self.at(name), self.at("layer.tar"));
        let tar_option = if options.contains(&"--join") { "--tar=i" } else { "--tar=f" };
        let mut args = vec!["mkfs", "--json", "--dm-verity", tar_option];
        args.extend(options);
        args.extend([image.as_str(), tar.as_str()]);
        let made: Value = serde_json::from_str(&EROLITH.printed(&args)).unwrap();
        assert_eq!(made["bytes"], fs::metadata(&image).unwrap().len());
        made["dm_verity"].clone()
    }

    fn flip(&self, name: &str, offset: u64) {
        let file = fs::File::options().read(true).write(true).open(self.at(name)).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
    }
}

#[test]
fn veritysetup_reads_what_is_written_and_writes_the_same() {
    let program = need!(veritysetup());
    let bench = Bench::new();
    let cases = [("-b4096", "4096"), ("-b512", "512"), ("-b1024", "1024"), ("--join", "512")];
    for (option, block) in cases {
        let tree = bench.image("image", &[option]);
        let (image, root) = (bench.at("image"), tree["root_hash"].as_str().unwrap());
        let hash_offset = tree["hash_offset"].as_u64().unwrap();
        let at = format!("--hash-offset={hash_offset}");
        judge(&program, &["verify", &at, &image, &image, root]).unwrap();
        let dump = judge(&program, &["dump", &at, &image]).unwrap();
        let blocks = (hash_offset / block.parse::<u64>().unwrap()).to_string();
        let salt = "00".repeat(32);
        for (name, want) in [
            ("Hash type", "1"),
            ("Data blocks", blocks.as_str()),
            ("Data block size", block),
            ("Hash block size", block),
            ("Hash algorithm", "sha256"),
            ("Salt", salt.as_str()),
        ] {
            assert_eq!(value(&dump, name).split(' ').next(), Some(want), "{option}: {name}");
        }
        // The other way: the same bytes, UUID included.
        let whole = fs::read(&image).unwrap();
        let data = usize::try_from(hash_offset).unwrap();
        fs::write(bench.at("theirs"), &whole[..data]).unwrap();
        let theirs = bench.at("theirs");
        let sizes = [format!("--data-block-size={block}"), format!("--hash-block-size={block}")];
        let blocks = format!("--data-blocks={blocks}");
        let (salt, uuid) = (format!("--salt={salt}"), value(&dump, "UUID"));
        let args =
            ["format", "--uuid", uuid, &salt, &sizes[0], &sizes[1], &blocks, &at, &theirs, &theirs];
        let made = judge(&program, &args).unwrap();
        assert_eq!(value(&made, "Root hash"), root, "{option}");
        assert!(fs::read(&theirs).unwrap() == whole, "{option}: other bytes");
    }
}

#[test]
fn a_changed_bit_is_found_and_named() {
    let bench = Bench::new();
    let tree = bench.image("image", &[]);
    let (image, root) = (bench.at("image"), tree["root_hash"].as_str().unwrap());
    let hash_offset = tree["hash_offset"].as_u64().unwrap();
    let fsck = |more: &[&str]| {
        let mut args = vec!["fsck", "--json", "--dm-verity-root", root];
        args.extend(more);
        args.push(&image);
        let out = EROLITH.run(&args);
        let object: Value = serde_json::from_slice(&out.stdout).unwrap();
        (out.status.code().unwrap(), object["dm_verity"].clone())
    };
    assert_eq!(fsck(&[]).0, 0);
    assert_eq!(fsck(&["--dm-verity-offset", &hash_offset.to_string()]).0, 0);
    let said = EROLITH.printed(&["fsck", "--dm-verity-root", root, &image]);
    assert!(said.ends_with("as its dm-verity tree says\n"), "{said}");
    let (code, found) = fsck(&["--dm-verity-offset", "4096"]);
    assert_eq!((code, &found["code"]), (1, &"dmverity-no-tree".into()));
    // In the middle of a file: nothing else would notice.
    bench.flip("image", 100_000);
    assert_eq!(EROLITH.printed(&["fsck", "--data", &image]).lines().count(), 1);
    let (code, found) = fsck(&[]);
    assert_eq!((code, &found["code"]), (1, &"dmverity-block".into()));
    let why = found["error"].as_str().unwrap();
    assert!(why.starts_with("block 24 of the data, at byte 98304,"), "{why}");
    if let Ok(program) = veritysetup() {
        let at = format!("--hash-offset={hash_offset}");
        judge(&program, &["verify", &at, &image, &image, root]).unwrap_err();
    }
    let out = EROLITH.run(&["fsck", "--dm-verity-root", root, &image]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stdout).starts_with("error[dmverity-block]: block 24"));
    let out = EROLITH.run(&["fsck", "--dm-verity-root", "abc", &image]);
    assert_eq!(out.status.code(), Some(2), "{}", text(&out.stderr));
}

#[test]
fn images_with_trees_are_read_as_others_and_inspected() {
    let bench = Bench::new();
    let tree = bench.image("image", &[]);
    let image = bench.at("image");
    EROLITH.printed(&["mkfs", "--quiet", "--tar=f", &bench.at("plain"), &bench.at("layer.tar")]);
    assert_eq!(
        EROLITH.printed(&["ls", "-l", &image]),
        EROLITH.printed(&["ls", "-l", &bench.at("plain")])
    );
    assert_eq!(EROLITH.printed(&["cat", &image, "/etc/hosts"]), "127.0.0.1 localhost\n");
    let seen: Value =
        serde_json::from_str(&EROLITH.printed(&["inspect", "--json", &image])).unwrap();
    let (found, root) = (&seen["dm_verity"], tree["root_hash"].as_str().unwrap());
    assert_eq!(found["root"], root);
    assert_eq!(found["hash_offset"], tree["hash_offset"]);
    let bytes = found["end"].as_u64().unwrap() - found["hash_offset"].as_u64().unwrap();
    assert_eq!(seen["space"]["verity"], bytes);
    assert!(EROLITH.printed(&["inspect", &image]).contains(&format!("root hash {root}")));
    let plain: Value =
        serde_json::from_str(&EROLITH.printed(&["inspect", "--json", &bench.at("plain")])).unwrap();
    assert_eq!((&plain["dm_verity"], &plain["space"]["verity"]), (&Value::Null, &0.into()));
    // The archive would be covered by nothing.
    let (image, tar) = (bench.at("index"), bench.at("layer.tar"));
    let out = EROLITH.run(&["mkfs", "--tar=i", "--dm-verity", &image, &tar]);
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out.stderr).contains("--join") && !Path::new(&image).exists());
}
