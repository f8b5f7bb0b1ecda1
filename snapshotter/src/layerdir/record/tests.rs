//! Records as they are written, and what is no record.

use std::os::unix::fs::PermissionsExt as _;

use rustix::fs::CWD;

use super::*;
use crate::store::OriginBlob;

fn entry() -> Entry {
    let digest = Digest::parse(&format!("sha256:{}", "1f".repeat(32))).unwrap();
    let root = "ab".repeat(32).parse().unwrap();
    Entry {
        id: 7,
        key: "k8s.io/3/\"ä\"\n".to_owned(),
        parent: Some(3),
        kind: Kind::Committed,
        created: 1_700_000_000_123_456_789,
        updated: 1_700_000_001_000_000_000,
        labels: [("a".to_owned(), "b\u{0}c".to_owned())].into(),
        usage: Usage { size: 4096, inodes: 1 },
        pin: Some(Pin { digest, is_enforced: true }),
        tree: Some(Sidecar { root, hash_offset: 8192 }),
        origin: Some(Origin {
            namespace: "k8s.io".to_owned(),
            diff_id: format!("sha256:{}", "2e".repeat(32)),
            blob: Some(OriginBlob {
                digest: format!("sha256:{}", "3d".repeat(32)),
                media_type: "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
                size: 17,
                annotations: [("a".to_owned(), "b".to_owned())].into(),
            }),
        }),
        damage: Some("cut off".to_owned()),
    }
}

fn bare(kind: Kind) -> Entry {
    let (usage, labels) = (Usage::default(), Labels::new());
    let (pin, tree, origin, damage) = (None, None, None, None);
    Entry { parent: None, kind, labels, usage, pin, tree, origin, damage, ..entry() }
}

#[test]
fn a_record_says_all_that_the_row_says() {
    let dir = tempfile::tempdir().unwrap();
    for entry in [entry(), bare(Kind::Active), bare(Kind::View), bare(Kind::Committed)] {
        begin(dir.path(), &entry).unwrap();
        assert_eq!(read(dir.path(), RECORD, 7), Some(Ok(entry.clone())));
        let mode = std::fs::metadata(dir.path().join(RECORD)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        begin(dir.path(), &entry).unwrap_err();
        forget(dir.path());
        assert_eq!(read(dir.path(), RECORD, 7), None);
    }
}

#[test]
fn a_commit_announces_its_record_and_keeps_or_withdraws_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    begin(dir, &bare(Kind::Active)).unwrap();
    for is_durable in [true, false] {
        announce(dir, &entry(), Durability::of(is_durable)).unwrap();
    }
    assert_eq!(read(dir, RECORD, 7), Some(Ok(bare(Kind::Active))));
    assert_eq!(read(dir, COMMITTING, 7), Some(Ok(entry())));
    assert!(withdraw(dir).unwrap() && !withdraw(dir).unwrap());
    announce(dir, &entry(), Durability::Synced).unwrap();
    for _ in 0..2 {
        adopt(dir).unwrap();
        assert_eq!(read(dir, RECORD, 7), Some(Ok(entry())));
        assert_eq!(std::fs::read_dir(dir).unwrap().count(), 1);
    }
}

#[test]
fn what_is_no_record_is_refused_and_said_to_be() {
    let good = String::from_utf8(encode(&entry()).unwrap()).unwrap();
    let table = [
        (String::new(), "record-form"),
        ("{}".to_owned(), "record-form"),
        ("[".repeat(1 << 20), "record-form"),
        (good.replace(r#""version":2"#, r#""version":3"#), "record-version"),
        (good.replace(r#""version":2"#, r#""version":0"#), "record-version"),
        (good.replace(r#""version":2"#, r#""version":3,"more":3"#), "record-version"),
        (good.replace(r#""version":2"#, r#""version":2,"more":3"#), "record-form"),
        (good.replace(r#""id":7"#, r#""id":8"#), "record-form"),
        (good.replace("committed", "thrown"), "record-form"),
        (good.replace("sha256:", "sha512:"), "record-form"),
        (good.replace("8192", "0"), "record-form"),
        (good.replace("abab", "zzab"), "record-form"),
        (good.replace(r#""inodes":1"#, r#""inodes":-1"#), "record-form"),
        (good.trim_end().trim_end_matches('}').to_owned(), "record-form"),
    ];
    assert_eq!(decode(good.as_bytes(), 7), Ok(entry()));
    // Version 1 had no origin.
    let first = String::from_utf8(encode(&Entry { origin: None, ..entry() }).unwrap()).unwrap();
    let first = first.replace(r#""version":2"#, r#""version":1"#);
    assert_eq!(decode(first.as_bytes(), 7), Ok(Entry { origin: None, ..entry() }));
    for (text, code) in table {
        let error = decode(text.as_bytes(), 7).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(!error.to_string().is_empty());
    }
    let mut nameless = entry();
    nameless.key.clear();
    assert!(decode(&encode(&nameless).unwrap(), 7).is_err());
}

#[test]
fn a_record_that_is_endless_or_no_file_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    File::create(at("long")).unwrap().set_len(1 << 40).unwrap();
    std::fs::create_dir(at("dir")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", at("link")).unwrap();
    let mode = Mode::RUSR | Mode::WUSR;
    rustix::fs::mknodat(CWD, at("pipe"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    for (name, code) in [
        ("long", "record-too-long"),
        ("dir", "record-storage"),
        ("link", "record-storage"),
        ("pipe", "record-form"),
    ] {
        assert_eq!(read(dir.path(), name, 7).unwrap().unwrap_err().code(), code, "{name}");
    }
}
