//! Writes seeds for the fuzz targets: small valid inputs with a feature each, so that the fuzzer starts
//! behind the first checks. Run it in this directory.

mod images;

use std::error::Error;
use std::fs;
use std::io::Write;
use std::path::Path;

use erolith_mkfs::meta::{Meta, Time, Xattr};
use erolith_mkfs::tar::{Entry, Kind, Writer};

fn main() -> Result<(), Box<dyn Error>> {
    let dir = Path::new("corpus/tar");
    fs::create_dir_all(dir)?;
    for (name, bytes) in tar_seeds()? {
        fs::File::create(dir.join(name))?.write_all(&bytes)?;
    }
    images::write(Path::new("corpus/image"))?;
    images::write(Path::new("corpus/check"))
}

type Seeds = Vec<(&'static str, Vec<u8>)>;

/// One archive per feature. The target repairs checksums, so types that the writer does not write are
/// patched into what it does.
fn tar_seeds() -> Result<Seeds, Box<dyn Error>> {
    let sparse_0_0 = record("GNU.sparse.size", "4096")
        + &record("GNU.sparse.numblocks", "2")
        + &record("GNU.sparse.offset", "0")
        + &record("GNU.sparse.numbytes", "3")
        + &record("GNU.sparse.offset", "100")
        + &record("GNU.sparse.numbytes", "2");
    let sparse_0_1 = record("GNU.sparse.size", "4096")
        + &record("GNU.sparse.numblocks", "2")
        + &record("GNU.sparse.map", "0,3,100,2")
        + &record("GNU.sparse.name", "name");
    let sparse_1_0 = record("GNU.sparse.major", "1")
        + &record("GNU.sparse.minor", "0")
        + &record("GNU.sparse.realsize", "4096");
    let map = format!("{:\0<512}hello", "2\n0\n3\n100\n2\n");
    let libarchive = record("LIBARCHIVE.xattr.user.a%3D", "aGVsbG8") + &record("size", "5");
    let hello = || file("f", b"hello");
    Ok(vec![
        ("kinds", kinds()?),
        ("records", records()?),
        ("global", [patch(file("g", b"19 path=pax/global\n")?, b'g', false), hello()?].concat()),
        ("longname", [patch(file("L", b"a/long/name\0")?, b'L', true), hello()?].concat()),
        ("longlink", [patch(file("K", b"target\0")?, b'K', true), hello()?].concat()),
        ("libarchive", [pax(&libarchive)?, hello()?].concat()),
        ("sparse00", [pax(&sparse_0_0)?, hello()?].concat()),
        ("sparse01", [pax(&sparse_0_1)?, hello()?].concat()),
        ("sparse10", [pax(&sparse_1_0)?, file("f", map.as_bytes())?].concat()),
        ("oldgnu", old_gnu()?),
    ])
}

fn file(path: &str, data: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut writer = Writer::new(Vec::new());
    let size = data.len() as u64;
    writer.write_entry(&Entry { path: path.into(), size, ..Entry::default() })?;
    writer.write_all(data)?;
    let mut bytes = writer.finish()?;
    // Without the end, so that more can follow.
    bytes.truncate(bytes.len() - 1024);
    Ok(bytes)
}

/// Changes the type of the first header, and its magic to that of GNU.
fn patch(mut bytes: Vec<u8>, kind: u8, gnu: bool) -> Vec<u8> {
    bytes[156] = kind;
    if gnu {
        bytes[257..265].copy_from_slice(b"ustar  \0");
    }
    bytes
}

fn record(key: &str, value: &str) -> String {
    let body = key.len() + value.len() + 3;
    let len = (body..).find(|len| body + len.to_string().len() == *len).unwrap_or(body);
    format!("{len} {key}={value}\n")
}

fn pax(records: &str) -> Result<Vec<u8>, Box<dyn Error>> {
    Ok(patch(file("x", records.as_bytes())?, b'x', false))
}

fn kinds() -> Result<Vec<u8>, Box<dyn Error>> {
    let mut writer = Writer::new(Vec::new());
    let kinds = [
        Kind::Directory,
        Kind::Symlink,
        Kind::Hardlink,
        Kind::Char,
        Kind::Block,
        Kind::Fifo,
        Kind::Regular,
    ];
    for kind in kinds {
        let meta = Meta { mode: 0o755, uid: 1000, gid: 100, mtime: Time { sec: 1, nsec: 0 } };
        let (path, link) = (b"name".to_vec(), b"target".to_vec());
        writer.write_entry(&Entry { path, kind, link, rdev: (1, 3), meta, ..Entry::default() })?;
    }
    Ok(writer.finish()?)
}

fn records() -> Result<Vec<u8>, Box<dyn Error>> {
    let mut writer = Writer::new(Vec::new());
    let xattr = |name: &str| Xattr { name: name.into(), value: b"\x01\0\n=".to_vec() };
    writer.write_entry(&Entry {
        path: b"p/".repeat(140),
        link: vec![b'l'; 101],
        kind: Kind::Symlink,
        meta: Meta { mode: 0o777, uid: 1 << 30, gid: 1 << 31, mtime: Time { sec: -2, nsec: 5 } },
        xattrs: vec![xattr("security.ima"), xattr("user.a=b")],
        ..Entry::default()
    })?;
    Ok(writer.finish()?)
}

/// A map of three runs: one in the header, two in a block behind it.
fn old_gnu() -> Result<Vec<u8>, Box<dyn Error>> {
    let mut bytes = patch(file("f", b"hello")?, b'S', true);
    let slot = |offset, len| format!("{offset:011o}\0{len:011o}\0").into_bytes();
    bytes[386..410].copy_from_slice(&slot(0, 1));
    bytes[482] = 1;
    bytes[483..495].copy_from_slice(b"00000010000\0");
    let mut block = [slot(100, 2), slot(200, 2)].concat();
    block.resize(512, 0);
    let data = bytes.split_off(512);
    Ok([bytes, block, data].concat())
}
