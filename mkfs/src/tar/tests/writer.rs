//! The writer, by what is in its bytes.

use std::io::Write;

use super::archive::{end, pax, ustar};
use super::{one, read};
use crate::meta::{Meta, Segment, Time, Xattr};
use crate::tar::{Entry, Kind, Problem, Writer};

fn file(path: &str, size: u64) -> Entry {
    Entry { path: path.into(), size, ..Entry::default() }
}

/// An archive of one member whose content is zeros.
fn write(entry: &Entry) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    writer.write_entry(entry).unwrap();
    if entry.kind == Kind::Regular {
        writer.write_all(&vec![0; usize::try_from(entry.size).unwrap()]).unwrap();
    }
    writer.finish().unwrap()
}

fn refused(entry: &Entry) -> &'static str {
    let mut writer = Writer::new(Vec::new());
    let error = writer.write_entry(entry).unwrap_err();
    assert_eq!(writer.position(), 0, "something was written");
    error.code()
}

#[test]
fn plain_members_are_one_ustar_header() {
    let meta = Meta { mode: 0o644, uid: 0, gid: 0, mtime: Time::default() };
    let bytes = write(&Entry { meta, ..file("dir/f", 3) });
    let zero = |h: &mut crate::tar::header::Header| {
        (h.uid, h.gid) = (*b"0000000\0", *b"0000000\0");
        (h.major, h.minor) = (*b"0000000\0", *b"0000000\0");
        h.mtime = *b"00000000000\0";
    };
    let mut expected = ustar(b'0', "dir/f").with(zero).data(&[0; 3]);
    // POSIX and Go end the checksum with NUL and space.
    expected[155] = b' ';
    assert_eq!(bytes, [expected, end()].concat());
}

#[test]
fn valid_access_lists_are_written_as_text_too_where_that_is_wanted() {
    let list = |entries: &[(u16, u16, u32)]| {
        let mut value = vec![2, 0, 0, 0];
        for (tag, permissions, id) in entries {
            value.extend(tag.to_le_bytes());
            value.extend(permissions.to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        value
    };
    let (owner, user, group) = ((1, 6, u32::MAX), (2, 7, 5), (4, 4, u32::MAX));
    let (mask, other) = ((16, 5, u32::MAX), (32, 0, u32::MAX));
    let good = list(&[owner, user, group, mask, other]);
    let text = "user::rw-,user:5:rwx,group::r--,mask::r-x,other::---";
    let (access, default) = ("system.posix_acl_access", "system.posix_acl_default");
    for (kind, name, value, expected) in [
        (Kind::Directory, access, &good, format!("SCHILY.acl.access={text}\n")),
        (Kind::Directory, default, &good, format!("SCHILY.acl.default={text}\n")),
        (Kind::Regular, access, &good, format!("SCHILY.acl.access={text}\n")),
        (Kind::Regular, default, &good, String::new()),
        (Kind::Symlink, access, &good, String::new()),
        (Kind::Regular, access, &list(&[owner, user, group, other]), String::new()),
        (Kind::Regular, "user.k", &good, String::new()),
    ] {
        let xattrs = vec![Xattr { name: name.into(), value: value.clone() }];
        let entry = Entry { kind, xattrs, link: b"x".to_vec(), ..file("a", 0) };
        let mut writer = Writer::new(Vec::new()).with_acl_texts();
        writer.write_entry(&entry).unwrap();
        let with = writer.finish().unwrap();
        let without = write(&entry);
        let holds = |bytes: &[u8]| bytes.windows(11).any(|window| window == b"SCHILY.acl.");
        assert!(!holds(&without), "{kind:?} {name}");
        match expected.as_str() {
            "" => assert!(with == without, "{kind:?} {name}"),
            record => {
                let found = with.windows(record.len()).any(|window| window == record.as_bytes());
                assert!(found, "{kind:?} {name}");
                // For us the attribute is what counts.
                assert_eq!(one(&with).0.xattrs, entry.xattrs, "{kind:?} {name}");
            }
        }
    }
}

#[test]
fn long_paths_are_split_or_become_records() {
    let dir = "d".repeat(150);
    let cases = [
        ("n".repeat(100), 0),
        ("n".repeat(101), 1),
        (format!("{dir}/{}", "n".repeat(100)), 0),
        (format!("{dir}/{}", "n".repeat(101)), 1),
        (format!("{dir}dddddd/n"), 1),
        (format!("{dir}ddddd/n"), 0),
        (format!("{dir}/"), 1),
        (format!("/{}", "n".repeat(100)), 1),
        (format!("a/{}/{}", "n".repeat(99), "m".repeat(60)), 0),
        ("\u{e9}".repeat(50), 0),
    ];
    for (path, records) in cases {
        let bytes = write(&file(&path, 0));
        assert_eq!(one(&bytes).0.path, path.as_bytes());
        assert_eq!(bytes.len(), 512 * (3 + 2 * records), "{path}");
    }
}

#[test]
fn numbers_that_do_not_fit_become_records() {
    let meta =
        Meta { mode: 0o7777, uid: 2_097_152, gid: 0o777_7777, mtime: Time { sec: -1, nsec: 5 } };
    let bytes = write(&Entry { meta, ..file("f", 0) });
    let head = pax(&[("uid", "2097152"), ("mtime", "-0.999999995")]);
    assert_eq!(bytes[512..1024], head[512..1024]);
    assert_eq!(one(&bytes).0.meta, meta);

    let mut writer = Writer::new(Vec::new());
    writer.write_entry(&file("big", 0o777_7777_7777)).unwrap();
    assert_eq!(writer.position(), 512);
    let mut writer = Writer::new(Vec::new());
    writer.write_entry(&file("big", 0o1000_0000_0000)).unwrap();
    assert_eq!(writer.position(), 1536);
}

#[test]
fn times_are_written_short() {
    let cases = [
        (0, 0, None),
        (0o777_7777_7777, 0, None),
        (0o1000_0000_0000, 0, Some("8589934592")),
        (1, 500_000_000, Some("1.5")),
        (0, 1, Some("0.000000001")),
        (-1, 0, Some("-1")),
        (-1, 500_000_000, Some("-0.5")),
        (-2, 500_000_000, Some("-1.5")),
        (i64::MIN, 1, Some("-9223372036854775807.999999999")),
    ];
    for (sec, nsec, text) in cases {
        let mut entry = file("f", 0);
        entry.meta.mtime = Time { sec, nsec };
        let bytes = write(&entry);
        match text {
            Some(text) => assert_eq!(bytes[512..1024], pax(&[("mtime", text)])[512..1024]),
            None => assert_eq!(bytes.len(), 1536),
        }
        assert_eq!(one(&bytes).0.meta.mtime, entry.meta.mtime);
    }
}

#[test]
fn attributes_with_an_equals_sign_are_written_as_libarchive_does() {
    let xattr = |name: &[u8], value: &[u8]| Xattr { name: name.into(), value: value.into() };
    let xattrs = vec![xattr(b"user.a", b"\0\n="), xattr(b"user.b=\xff%", b"hello")];
    let bytes = write(&Entry { xattrs: xattrs.clone(), ..file("f", 0) });
    let records =
        [("SCHILY.xattr.user.a", "\0\n="), ("LIBARCHIVE.xattr.user.b%3D%FF%25", "aGVsbG8")];
    assert_eq!(bytes[512..1024], pax(&records)[512..1024]);
    assert_eq!(one(&bytes).0.xattrs, xattrs);
}

#[test]
fn sparse_files_are_written_dense() {
    let sparse = Some(vec![Segment { offset: 10, len: 1 }]);
    let bytes = write(&Entry { sparse, stored: 1, ..file("f", 100) });
    let (entry, data) = one(&bytes);
    assert_eq!((entry.size, entry.sparse, data), (100, None, vec![0; 100]));
}

#[test]
fn content_has_the_size_that_was_announced() {
    let mut writer = Writer::new(Vec::new());
    writer.write_entry(&file("a", 5)).unwrap();
    writer.write_all(b"abc").unwrap();
    let error = writer.write_entry(&file("b", 0)).unwrap_err();
    assert!(matches!(error.problem, Problem::UnfinishedData { missing: 2 }));
    writer.write_all(b"de").unwrap();
    writer.flush().unwrap();
    let error = writer.write_all(b"f").unwrap_err().downcast::<crate::tar::Error>().unwrap();
    assert_eq!((error.code(), error.offset), ("tar-surplus-data", 517));
    writer.write_entry(&Entry { kind: Kind::Directory, size: 7, ..file("d", 0) }).unwrap();
    assert_eq!(writer.write(b"").unwrap(), 0);
    assert!(writer.write(b"x").is_err());
    let bytes = writer.finish().unwrap();
    assert_eq!(read(&bytes).unwrap().len(), 2);

    let mut writer = Writer::new(Vec::new());
    writer.write_entry(&file("a", 1)).unwrap();
    assert_eq!(writer.finish().unwrap_err().code(), "tar-unfinished-data");
}

#[test]
fn what_no_reader_could_take_is_refused() {
    let device = |rdev| Entry { kind: Kind::Char, rdev, ..file("c", 0) };
    let with_meta = |change: fn(&mut Meta)| {
        let mut entry = file("f", 0);
        change(&mut entry.meta);
        entry
    };
    let with_xattr = |name: &str, len| Entry {
        xattrs: vec![Xattr { name: name.into(), value: vec![0; len] }],
        ..file("f", 0)
    };
    let many = |i: usize| Xattr { name: format!("user.{i}").into(), value: vec![0; 65535] };
    let link = Entry { kind: Kind::Symlink, link: b"a\0".to_vec(), ..file("s", 0) };
    let cases = [
        (file("", 0), "tar-empty-name"),
        (file("a\0b", 0), "tar-nul-byte"),
        (link, "tar-nul-byte"),
        (file("f", 1 << 63), "tar-file-too-large"),
        (device((0x1000, 0)), "tar-out-of-range"),
        (device((0, 0x10_0000)), "tar-out-of-range"),
        (with_meta(|m| m.uid = u32::MAX), "tar-out-of-range"),
        (with_meta(|m| m.gid = u32::MAX), "tar-out-of-range"),
        (with_meta(|m| m.mtime.nsec = 1_000_000_000), "tar-out-of-range"),
        (with_xattr("", 0), "tar-bad-xattr"),
        (with_xattr("user.\0", 0), "tar-bad-xattr"),
        (with_xattr("user.v", 65536), "tar-bad-xattr"),
        (Entry { xattrs: (0..17).map(many).collect(), ..file("f", 0) }, "tar-extension-too-large"),
    ];
    for (entry, code) in cases {
        assert_eq!(refused(&entry), code);
    }
}

#[test]
fn errors_of_the_output_are_passed_on() {
    #[derive(Debug)]
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let error = Writer::new(Full).write_entry(&file("f", 0)).unwrap_err();
    assert_eq!(error.code(), "tar-io");
    assert_eq!(
        erolith_errors::error_chain(&error),
        "tar offset 0, member \"f\": the archive cannot be read or written: no storage space"
    );
    assert_eq!(Writer::new(Full).finish().unwrap_err().code(), "tar-io");
}
