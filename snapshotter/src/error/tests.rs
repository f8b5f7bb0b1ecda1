//! What every error is to callers: code, class, status, text, advice.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use erolith_mkfs::dmverity::{self, RootHash};

use super::*;
use crate::protect::Digest;
use crate::store::Kind;

fn text(word: &str) -> String {
    word.to_owned()
}

fn io(errno: Errno) -> io::Error {
    errno.into()
}

fn kernel(errno: Errno) -> Error {
    Error::Kernel { action: text("mount x"), errno, log: vec![] }
}

fn mount_errors() -> Vec<Error> {
    vec![
        Error::NoLayers,
        Error::TooManyLayers { count: 501, limit: 500 },
        Error::OptionsTooLong { layers: 90, bytes: 4100, limit: 4095 },
        Error::ValueTooLong { key: text("source"), bytes: 300, limit: 255 },
        Error::Option { option: text("rw"), reason: "no" },
        Error::Devices { image: text("i"), slots: 2, given: 1 },
        Error::NotMounted { dir: "/m".into() },
        Error::NotOurs { dir: "/m".into(), fs_type: text("ext4"), from: text("/dev/vda") },
    ]
}

fn kernel_errors() -> Vec<Error> {
    let errnos = [
        Errno::NOENT,
        Errno::NOTDIR,
        Errno::IO,
        Errno::BADMSG,
        Errno::UCLEAN,
        Errno::PERM,
        Errno::NODEV,
        Errno::NOTBLK,
        Errno::OPNOTSUPP,
        Errno::INVAL,
        Errno::BUSY,
        Errno::NOSPC,
        Errno::MFILE,
        Errno::AGAIN,
        Errno::XDEV,
    ];
    let log = vec![text("one"), text("two")];
    let logged = Error::Kernel { action: text("mount x"), errno: Errno::INVAL, log };
    let more = [
        logged,
        Error::LoopRace { tries: 64 },
        Error::LoopNode { number: 7, errno: Errno::NOENT },
        Error::LoopNode { number: 7, errno: Errno::MFILE },
        Error::MountTable { line: 3 },
    ];
    errnos.map(kernel).into_iter().chain(more).collect()
}

fn integrity_errors() -> Vec<Error> {
    let image = || text("i");
    let sidecar = |byte| Sidecar { root: RootHash([byte; 32]), hash_offset: 4096 };
    let digest = |byte| Digest::from_bytes([byte; 32]);
    let unsealed = |fault| Error::Unsealed { image: image(), fault };
    let verity_io = |errno| dmverity::Error::Io { action: "reading", offset: 5, source: io(errno) };
    vec![
        Error::NotErofs { image: image(), reason: text("zeros") },
        Error::Truncated { image: image(), size: 1, need: 2 },
        Error::Check { image: image(), source: "a finding".into() },
        Error::Read { image: image(), source: io(Errno::IO) },
        Error::Read { image: image(), source: io(Errno::NOMEM) },
        Error::Verity { image: image(), source: dmverity::Error::NoTree { offset: 9 } },
        Error::Verity { image: image(), source: verity_io(Errno::IO) },
        Error::Verity { image: image(), source: verity_io(Errno::NOSPC) },
        Error::Sidecar { image: image(), pinned: sidecar(1), found: None },
        Error::Sidecar { image: image(), pinned: sidecar(1), found: Some(sidecar(2)) },
        Error::Unprotected { image: image(), why: "there is no tree" },
        Error::Untrusted { image: image(), errno: Errno::INVAL },
        unsealed(FsVerityMismatch::Changed { pinned: digest(1), measured: None }),
        unsealed(FsVerityMismatch::Changed { pinned: digest(1), measured: Some(digest(2)) }),
        unsealed(FsVerityMismatch::Lost { pinned: digest(1) }),
        unsealed(FsVerityMismatch::Missing),
        Error::NoVerity { dir: "/d".into(), reason: text("no") },
        Error::Damaged { id: 5, name: text("n"), reason: text("cut") },
        Error::Gone { id: 5, path: "/p".into() },
    ]
}

fn limit_errors() -> Vec<Error> {
    let status = ExitStatus::from_raw(256);
    vec![
        Error::Limit { what: "label", value: text("x"), reason: "no number" },
        Error::Unlimited { dir: "/d".into(), reason: text("no quota") },
        Error::Program { program: "p", package: "q", source: io(Errno::NOENT) },
        Error::Mkfs { image: text("i"), status, said: text("no") },
    ]
}

fn service_errors() -> Vec<Error> {
    vec![
        Error::IdMap { label: "l", value: text("v"), reason: "no" },
        Error::Config { setting: "root", value: text("/r"), reason: "no" },
        Error::Committed { key: text("k") },
        Error::Finished { dir: "/d".into() },
        Error::InUse { dir: "/d".into(), pid: None },
        Error::InUse { dir: "/d".into(), pid: Some(7) },
        Error::DatabaseMissing { root: "/r".into() },
        Error::DatabaseSound { path: "/r/db".into(), state: "sound" },
        Error::Raced { key: text("k") },
    ]
}

fn storage_errors() -> Vec<Error> {
    let storage = |errno| Error::Storage { action: text("making /x"), source: io(errno) };
    let convert = |source| Error::Convert { id: 5, source };
    vec![
        storage(Errno::NOSPC),
        storage(Errno::IO),
        storage(Errno::DQUOT),
        storage(Errno::TXTBSY),
        convert(erolith_mkfs::Error::TooLarge { limit: 9 }),
        convert(erolith_mkfs::Error::Output(io(Errno::NOSPC))),
        convert(erolith_mkfs::Error::Input { what: text("/f"), source: io(Errno::IO) }),
        convert(erolith_mkfs::Error::Changed { what: text("/f") }),
    ]
}

fn store_errors() -> Vec<Error> {
    use store::Error as E;
    let key = || text("k");
    let path = || "/r/db".into();
    let kind = Kind::View;
    let all = vec![
        E::NotFound { key: key() },
        E::AlreadyExists { key: key() },
        E::NotActive { key: key(), kind },
        E::NotCreatable { key: key(), kind },
        E::ParentNotFound { key: key(), parent: text("p") },
        E::ParentNotCommitted { key: key(), parent: text("p"), kind },
        E::RebaseNotCommitted { key: key(), parent: text("p"), kind },
        E::ParentDiffers { key: key(), parent: text("p"), given: text("g") },
        E::HasChildren { key: key(), child: text("c") },
        E::BadFilter { filter: text("f"), at: 3, reason: text("no") },
        E::BadFieldPath { path: text("f") },
        E::EmptyKey,
        E::TooNew { path: path(), version: 9, known: 8 },
        E::TooOld { path: path() },
        E::Corrupt { path: path(), reason: text("zeros") },
        E::DiskFull { path: path() },
        E::Busy { path: path() },
        E::Directory { path: path(), source: io(Errno::IO) },
        E::Sqlite { path: path(), source: rusqlite::Error::QueryReturnedNoRows },
    ];
    all.into_iter().map(Error::Store).collect()
}

fn all() -> Vec<Error> {
    [
        mount_errors(),
        kernel_errors(),
        integrity_errors(),
        limit_errors(),
        service_errors(),
        storage_errors(),
        store_errors(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The chain of causes on one line, without a cause that an error of another crate has quoted, as users see it.
fn line(error: &Error) -> String {
    let mut line = String::new();
    let first: &dyn std::error::Error = error;
    for cause in std::iter::successors(Some(first), |error| error.source()) {
        let cause = cause.to_string();
        if !line.contains(&cause) {
            let colon = if line.is_empty() { "" } else { ": " };
            line = format!("{line}{colon}{cause}");
        }
    }
    line
}

#[test]
fn every_error_is_what_it_was() {
    let rows = all().into_iter().map(|error| {
        let damage = if error.is_damage() { " damage" } else { "" };
        let errno = error.errno().map_or(String::new(), |errno| format!(" {errno:?}"));
        let (code, class, status) = (error.code(), error.class(), error.status());
        let advice = error.advice().map_or(String::new(), |advice| format!("\n    {advice}"));
        format!("{code} {class:?} {status:?}{damage}{errno}\n    {}{advice}\n", line(&error))
    });
    let (rows, want) = (rows.collect::<String>(), include_str!("tests/errors.txt"));
    for (row, want) in rows.lines().zip(want.lines()) {
        assert_eq!(row, want);
    }
    assert_eq!(rows, want);
}
