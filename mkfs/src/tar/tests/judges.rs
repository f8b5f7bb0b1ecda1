//! Second opinions: archives of the crate `tar` and of GNU tar are read, and what is written here is read
//! by the crates `tar` and `tar-core`, as far as they are right.

use std::io::{Read, Write};
use std::process::Command;

use tar_core::parse::{ParseEvent, Parser};

use super::{Member, one, read};
use crate::meta::{Meta, Time, Xattr};
use crate::tar::{Entry, Kind, Writer};

const KINDS: [(Kind, u8); 7] = [
    (Kind::Regular, b'0'),
    (Kind::Hardlink, b'1'),
    (Kind::Symlink, b'2'),
    (Kind::Char, b'3'),
    (Kind::Block, b'4'),
    (Kind::Directory, b'5'),
    (Kind::Fifo, b'6'),
];

/// Members with names, links, sizes and owners on both sides of what a ustar header holds.
fn ordinary() -> Vec<Member> {
    let mut members = Vec::new();
    for (i, (kind, _)) in KINDS.into_iter().cycle().take(42).enumerate() {
        let is_link = matches!(kind, Kind::Symlink | Kind::Hardlink);
        let is_device = matches!(kind, Kind::Char | Kind::Block);
        let data = if kind == Kind::Regular { vec![b'd'; i * 100] } else { Vec::new() };
        let mode = if kind == Kind::Symlink { 0o777 } else { 0o4750 };
        let xattr = Xattr { name: b"user.x".to_vec(), value: vec![b'v'; i] };
        let number = u32::try_from(i).unwrap();
        let path = format!("dir{i}{}", "/name".repeat(i));
        let slash = if kind == Kind::Directory { "/" } else { "" };
        members.push((
            Entry {
                path: [path, slash.to_owned()].concat().into_bytes(),
                kind,
                link: if is_link { vec![b'l'; i * 10 + 1] } else { Vec::new() },
                size: data.len() as u64,
                stored: data.len() as u64,
                rdev: if is_device { (number, number * 1000) } else { (0, 0) },
                meta: Meta {
                    mode,
                    uid: number << (i % 27),
                    gid: number,
                    mtime: Time { sec: 1_700_000_000, nsec: 0 },
                },
                xattrs: if i.is_multiple_of(3) { vec![xattr] } else { Vec::new() },
                ..Entry::default()
            },
            data,
        ));
    }
    members
}

fn written() -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (entry, data) in ordinary() {
        writer.write_entry(&entry).unwrap();
        writer.write_all(&data).unwrap();
    }
    writer.finish().unwrap()
}

#[test]
fn the_crate_tar_reads_what_is_written() {
    let bytes = written();
    let mut archive = tar::Archive::new(&bytes[..]);
    let mut theirs = archive.entries().unwrap();
    for (entry, data) in ordinary() {
        let mut their = theirs.next().unwrap().unwrap();
        assert_eq!(*their.path_bytes(), *entry.path);
        assert_eq!(their.link_name_bytes().unwrap_or_default(), entry.link);
        let header = their.header();
        assert!(KINDS.contains(&(entry.kind, header.entry_type().as_byte())));
        assert_eq!(header.mode().unwrap(), u32::from(entry.meta.mode));
        assert_eq!(header.mtime().unwrap(), 1_700_000_000);
        assert_eq!(header.device_major().unwrap(), Some(entry.rdev.0));
        assert_eq!(header.device_minor().unwrap(), Some(entry.rdev.1));
        let mut content = Vec::new();
        their.read_to_end(&mut content).unwrap();
        assert_eq!(content, data);
        let xattr = their.pax_extensions().unwrap().and_then(|mut records| {
            let is_xattr = |r: &tar::PaxExtension<'_>| r.key_bytes() == b"SCHILY.xattr.user.x";
            records.find_map(|r| r.ok().filter(is_xattr).map(|r| r.value_bytes().to_vec()))
        });
        assert_eq!(xattr, entry.xattrs.first().map(|x| x.value.clone()));
    }
    assert!(theirs.next().is_none());
}

#[test]
fn the_crate_tar_core_reads_what_is_written() {
    let bytes = written();
    let mut rest = &bytes[..];
    let mut parser = Parser::with_defaults();
    for (entry, data) in ordinary() {
        let ParseEvent::Entry { consumed, entry: their } = parser.parse(rest).unwrap() else {
            panic!("no member");
        };
        assert_eq!(*their.path, *entry.path);
        assert_eq!(their.link_target.as_deref().unwrap_or_default(), entry.link);
        assert!(KINDS.contains(&(entry.kind, their.entry_type.to_byte())));
        assert_eq!(their.mode, u32::from(entry.meta.mode));
        assert_eq!((their.uid, their.gid), (entry.meta.uid.into(), entry.meta.gid.into()));
        assert_eq!((their.mtime, their.size), (1_700_000_000, entry.size));
        assert_eq!(their.dev_minor, Some(entry.rdev.1));
        let xattrs: Vec<Xattr> = (their.xattrs.iter())
            .map(|(name, value)| Xattr { name: name.to_vec(), value: value.to_vec() })
            .collect();
        assert_eq!(xattrs, entry.xattrs);
        let after = consumed + usize::try_from(their.padded_size()).unwrap();
        assert_eq!(rest[consumed..consumed + data.len()], data);
        rest = &rest[after..];
    }
    assert!(matches!(parser.parse(rest).unwrap(), ParseEvent::End { .. }));
}

#[test]
fn archives_of_the_crate_tar_are_read() {
    let mut builder = tar::Builder::new(Vec::new());
    let mut expected = Vec::new();
    for (entry, data) in ordinary() {
        let link = String::from_utf8(entry.link.clone()).unwrap();
        let path = String::from_utf8(entry.path.clone()).unwrap();
        let (_, byte) = KINDS.into_iter().find(|(kind, _)| *kind == entry.kind).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::new(byte));
        header.set_mode(entry.meta.mode.into());
        header.set_uid(entry.meta.uid.into());
        header.set_gid(entry.meta.gid.into());
        header.set_mtime(1_700_000_000);
        header.set_size(data.len() as u64);
        header.set_device_major(entry.rdev.0).unwrap();
        header.set_device_minor(entry.rdev.1).unwrap();
        if entry.link.is_empty() {
            builder.append_data(&mut header, path, &data[..]).unwrap();
        } else {
            builder.append_link(&mut header, path, link).unwrap();
        }
        expected.push((Entry { xattrs: Vec::new(), ..entry }, data));
    }
    let members = read(&builder.into_inner().unwrap()).unwrap();
    assert_eq!(members.len(), expected.len());
    for ((entry, data), expected) in members.into_iter().zip(expected) {
        assert_eq!((Entry { offset: 0, data_offset: 0, ..entry }, data), expected);
    }
}

/// Real archives of sparse files, in all four forms.
#[test]
fn s01_to_s04_archives_of_gnu_tar_are_read() {
    let is_gnu = Command::new("tar").arg("--version").output();
    if !is_gnu.is_ok_and(|out| out.stdout.starts_with(b"tar (GNU tar)")) {
        assert!(std::env::var_os("CI").is_none(), "GNU tar is missing");
        println!("skipped: GNU tar is not installed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(dir.path().join("sparse")).unwrap();
    let mut expected = vec![0; 4 << 20];
    for i in 0..40 {
        let at = i * (100 << 10);
        expected[at..at + 5000].fill(b'a' + u8::try_from(i % 26).unwrap());
        std::os::unix::fs::FileExt::write_all_at(&file, &expected[at..at + 5000], at as u64)
            .unwrap();
    }
    file.set_len(expected.len() as u64).unwrap();
    for format in [
        &["--format=gnu"][..],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ] {
        let mut command = Command::new("tar");
        // The test knows where data is, so it does not matter whether the filesystem does.
        command.args(["--sparse", "--hole-detection=raw"]).args(format);
        let out = command.arg("-C").arg(dir.path()).args(["-cf-", "sparse"]).output().unwrap();
        assert!(out.status.success(), "{}", out.stderr.escape_ascii());
        let (entry, mut data) = one(&out.stdout);
        assert_eq!(
            (&*entry.path, entry.size),
            (&b"sparse"[..], expected.len() as u64),
            "{format:?}"
        );
        let runs = entry.sparse.unwrap();
        assert!(runs.len() >= 40 && entry.stored < 1 << 20, "{format:?}");
        let mut expanded = vec![0; expected.len()];
        for run in runs {
            let (at, len) =
                (usize::try_from(run.offset).unwrap(), usize::try_from(run.len).unwrap());
            let rest = data.split_off(len);
            expanded[at..at + len].copy_from_slice(&data);
            data = rest;
        }
        assert!(expanded == expected, "{format:?}");
    }
}
