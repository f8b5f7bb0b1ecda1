//! Small images: by our own writer, and, for what it does not write, by mkfs.erofs where that is installed.

use std::error::Error;
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::path::Path;
use std::process::Command;

use erolith_mkfs::build::{Builder, Finish, Options};
use erolith_mkfs::io::{FileSink, Stream};
use erolith_mkfs::meta::Xattr;
use erolith_mkfs::tar::{Entry, Kind, Limits, Writer};

/// Options of mkfs.erofs, one image each.
const FOREIGN: &[(&str, &[&str])] = &[
    ("chunks", &["--chunksize=4096", "-Eforce-chunk-indexes"]),
    ("lz4-compact", &["-zlz4"]),
    ("lz4-full", &["-zlz4", "-Elegacy-compress"]),
    ("lz4-big", &["-zlz4", "-C16384"]),
    ("lz4-48bit", &["-zlz4", "-C16384", "-E48bit"]),
    ("lz4-tail", &["-zlz4", "-C16384", "-Eztailpacking"]),
    ("lz4-fragments", &["-zlz4", "-C16384", "-Efragments"]),
    ("lz4-dedupe", &["-zlz4", "-C16384", "-Ededupe"]),
    ("lz4-directories", &["-zlz4", "--zD"]),
    ("lzma", &["-zlzma", "-C16384"]),
    ("deflate", &["-zdeflate", "-C16384"]),
    ("zstd", &["-zzstd", "-C16384"]),
    ("metabox", &["-m4096", "-zlz4"]),
    ("prefixes", &["-x0", "--xattr-prefix=user.long."]),
];

/// Writes all seeds into `dir`.
pub fn write(dir: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(dir)?;
    let text: String = (0..2500).map(|i| format!("line {i}\n")).collect();
    for (name, block_bits) in [("own-512", 9), ("own-1024", 10), ("own-4096", 12)] {
        fs::write(dir.join(name), own(&archive(&text)?, block_bits)?)?;
    }
    let tree = tempfile::tempdir()?;
    fs::create_dir(tree.path().join("dir"))?;
    fs::write(tree.path().join("dir/text"), &text)?;
    fs::write(tree.path().join("again"), &text[8000..])?;
    fs::write(tree.path().join("small"), "small")?;
    std::os::unix::fs::symlink("dir/text", tree.path().join("link"))?;
    for (name, options) in FOREIGN {
        let mut command = Command::new("mkfs.erofs");
        let command = command.arg("--quiet").args(*options).arg(dir.join(name)).arg(tree.path());
        if !command.status().is_ok_and(|status| status.success()) {
            eprintln!("no seed {name}: mkfs.erofs is missing, or too old for {options:?}");
        }
    }
    Ok(())
}

fn archive(text: &str) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut writer = Writer::new(Vec::new());
    let mut add = |kind, path: &str, data: &[u8]| -> Result<(), Box<dyn Error>> {
        let name = b"user.k".to_vec();
        let xattrs = vec![Xattr { name, value: path.into() }];
        let (path, link, size) = (path.into(), b"text".to_vec(), data.len() as u64);
        writer.write_entry(&Entry { path, kind, link, size, xattrs, ..Entry::default() })?;
        Ok(std::io::Write::write_all(&mut writer, data)?)
    };
    add(Kind::Directory, "dir", b"")?;
    add(Kind::Regular, "dir/small", b"small")?;
    add(Kind::Regular, "text", text.as_bytes())?;
    add(Kind::Hardlink, "again", b"")?;
    add(Kind::Symlink, "link", b"")?;
    add(Kind::Fifo, "fifo", b"")?;
    Ok(writer.finish()?)
}

fn own(archive: &[u8], block_bits: u8) -> Result<Vec<u8>, Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("image");
    let file = File::options().read(true).write(true).create_new(true).open(path)?;
    let sink = FileSink::new(file, File::open(dir.path())?.into());
    let options = Options { block_bits, ..Options::default() };
    let mut builder = Builder::new(sink, options)?;
    builder.fill_from_tar(Stream(archive), Limits::default())?;
    let (sink, _) = builder.finish(&Finish::default())?;
    let (mut file, mut bytes) = (sink.into_file(), Vec::new());
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}
