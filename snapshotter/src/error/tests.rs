//! What every error is to callers: code, class, status, text, advice.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use erolith_errors::ErrorStatus;
use erolith_verity::dmverity::sidecar::Sidecar;
use erolith_verity::dmverity::{self, RootHash};

use super::*;
use crate::protect::{Digest, FsVerityMismatch};
use crate::store::Kind;
use crate::store::{DatabaseError, SnapshotError};
use crate::{IntegrityError, KernelError, LimitError, MountError, ServiceError};

fn text(word: &str) -> String {
    word.to_owned()
}

fn io(errno: Errno) -> io::Error {
    errno.into()
}

fn kernel(errno: Errno) -> Error {
    Error::Kernel(KernelError::Call { action: text("mount x"), errno, log: vec![] })
}

fn mount_errors() -> Vec<Error> {
    vec![
        Error::Mount(MountError::NoLayers),
        Error::Mount(MountError::TooManyLayers { count: 501, limit: 500 }),
        Error::Mount(MountError::OptionsTooLong { layers: 90, bytes: 4100, limit: 4095 }),
        Error::Mount(MountError::ValueTooLong { key: text("source"), bytes: 300, limit: 255 }),
        Error::Mount(MountError::BadOption { option: text("rw"), reason: "no" }),
        Error::Mount(MountError::Devices { image: text("i"), slots: 2, given: 1 }),
        Error::Mount(MountError::NotMounted { dir: "/m".into() }),
        Error::Mount(MountError::NotOurs {
            dir: "/m".into(),
            fs_type: text("ext4"),
            from: text("/dev/vda"),
        }),
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
    let logged =
        Error::Kernel(KernelError::Call { action: text("mount x"), errno: Errno::INVAL, log });
    let more = [
        logged,
        Error::Kernel(KernelError::LoopRace { tries: 64 }),
        Error::Kernel(KernelError::LoopNode { number: 7, errno: Errno::NOENT }),
        Error::Kernel(KernelError::LoopNode { number: 7, errno: Errno::MFILE }),
        Error::Kernel(KernelError::MountTable { line: 3 }),
    ];
    errnos.map(kernel).into_iter().chain(more).collect()
}

fn integrity_errors() -> Vec<Error> {
    let image = || text("i");
    let sidecar = |byte| Sidecar { root: RootHash([byte; 32]), hash_offset: 4096 };
    let digest = |byte| Digest::from_bytes([byte; 32]);
    let unsealed = |fault| Error::Integrity(IntegrityError::FsVerity { image: image(), fault });
    let verity_io = |errno| dmverity::Error::Io { action: "reading", offset: 5, source: io(errno) };
    vec![
        Error::Integrity(IntegrityError::NotErofs { image: image(), reason: text("zeros") }),
        Error::Integrity(IntegrityError::Truncated { image: image(), size: 1, need: 2 }),
        Error::Integrity(IntegrityError::Check { image: image(), source: "a finding".into() }),
        Error::Integrity(IntegrityError::Read { image: image(), source: io(Errno::IO) }),
        Error::Integrity(IntegrityError::Read { image: image(), source: io(Errno::NOMEM) }),
        Error::Integrity(IntegrityError::DmVerity {
            image: image(),
            fault: dmverity::Error::NoTree { offset: 9 },
        }),
        Error::Integrity(IntegrityError::DmVerity { image: image(), fault: verity_io(Errno::IO) }),
        Error::Integrity(IntegrityError::DmVerity {
            image: image(),
            fault: verity_io(Errno::NOSPC),
        }),
        Error::Integrity(IntegrityError::Sidecar {
            image: image(),
            pinned: sidecar(1),
            found: None,
        }),
        Error::Integrity(IntegrityError::Sidecar {
            image: image(),
            pinned: sidecar(1),
            found: Some(sidecar(2)),
        }),
        Error::Integrity(IntegrityError::Unprotected { image: image(), why: "there is no tree" }),
        Error::Integrity(IntegrityError::Untrusted { image: image(), errno: Errno::INVAL }),
        unsealed(FsVerityMismatch::Changed { pinned: digest(1), measured: None }),
        unsealed(FsVerityMismatch::Changed { pinned: digest(1), measured: Some(digest(2)) }),
        unsealed(FsVerityMismatch::Lost { pinned: digest(1) }),
        unsealed(FsVerityMismatch::Missing),
        Error::Integrity(IntegrityError::NoFsVerity { dir: "/d".into(), reason: text("no") }),
        Error::Integrity(IntegrityError::Damaged { id: 5, name: text("n"), reason: text("cut") }),
        Error::Integrity(IntegrityError::Gone { id: 5, path: "/p".into() }),
    ]
}

fn limit_errors() -> Vec<Error> {
    let status = ExitStatus::from_raw(256);
    vec![
        Error::Limit(LimitError::BadSize { what: "label", value: text("x"), reason: "no number" }),
        Error::Limit(LimitError::Unlimited { dir: "/d".into(), reason: text("no quota") }),
        Error::Limit(LimitError::Program { program: "p", package: "q", source: io(Errno::NOENT) }),
        Error::Limit(LimitError::Mkfs { image: text("i"), status, said: text("no") }),
    ]
}

fn service_errors() -> Vec<Error> {
    vec![
        Error::Service(ServiceError::IdMap { label: "l", value: text("v"), reason: "no" }),
        Error::Service(ServiceError::Config { setting: "root", value: text("/r"), reason: "no" }),
        Error::Service(ServiceError::Committed { key: text("k") }),
        Error::Service(ServiceError::Finished { dir: "/d".into() }),
        Error::Service(ServiceError::InUse { dir: "/d".into(), pid: None }),
        Error::Service(ServiceError::InUse { dir: "/d".into(), pid: Some(7) }),
        Error::Service(ServiceError::DatabaseMissing { root: "/r".into() }),
        Error::Service(ServiceError::DatabaseSound { path: "/r/db".into(), state: "sound" }),
        Error::Service(ServiceError::Raced { key: text("k") }),
    ]
}

fn storage_errors() -> Vec<Error> {
    let storage = |errno| Error::Storage { action: text("making /x"), source: io(errno) };
    let convert = |source| Error::Service(ServiceError::Convert { id: 5, source });
    vec![
        storage(Errno::NOSPC),
        storage(Errno::IO),
        storage(Errno::DQUOT),
        storage(Errno::TXTBSY),
        convert(erolith_mkfs::Error::TooLarge { limit: 9 }.into()),
        convert(erolith_mkfs::Error::Output(io(Errno::NOSPC)).into()),
        convert(erolith_mkfs::Error::Input { what: text("/f"), source: io(Errno::IO) }.into()),
        convert(erolith_overlay::Error::Changed { what: text("/f") }),
    ]
}

fn store_errors() -> Vec<Error> {
    use store::Error as E;
    let key = || text("k");
    let path = || "/r/db".into();
    let kind = Kind::View;
    let all = vec![
        E::Snapshot(SnapshotError::NotFound { key: key() }),
        E::Snapshot(SnapshotError::AlreadyExists { key: key() }),
        E::Snapshot(SnapshotError::NotActive { key: key(), kind }),
        E::Snapshot(SnapshotError::NotCreatable { key: key(), kind }),
        E::Snapshot(SnapshotError::ParentNotFound { key: key(), parent: text("p") }),
        E::Snapshot(SnapshotError::ParentNotCommitted { key: key(), parent: text("p"), kind }),
        E::Snapshot(SnapshotError::RebaseNotCommitted { key: key(), parent: text("p"), kind }),
        E::Snapshot(SnapshotError::ParentDiffers {
            key: key(),
            parent: text("p"),
            given: text("g"),
        }),
        E::Snapshot(SnapshotError::HasChildren { key: key(), child: text("c") }),
        E::Snapshot(SnapshotError::BadFilter { filter: text("f"), at: 3, reason: text("no") }),
        E::Snapshot(SnapshotError::BadFieldPath { path: text("f") }),
        E::Snapshot(SnapshotError::EmptyKey),
        E::Database(DatabaseError::TooNew { path: path(), version: 9, known: 8 }),
        E::Database(DatabaseError::TooOld { path: path() }),
        E::Database(DatabaseError::Corrupt { path: path(), reason: text("zeros") }),
        E::Database(DatabaseError::DiskFull { path: path() }),
        E::Database(DatabaseError::Busy { path: path() }),
        E::Database(DatabaseError::Directory { path: path(), source: io(Errno::IO) }),
        E::Database(DatabaseError::Sqlite {
            path: path(),
            source: rusqlite::Error::QueryReturnedNoRows,
        }),
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

#[test]
fn every_error_is_what_it_was() {
    let rows = all().into_iter().map(|error| {
        let damage = if error.is_damage() { " damage" } else { "" };
        let errno = error.errno().map_or(String::new(), |errno| format!(" {errno:?}"));
        let (code, class, status) = (error.code(), error.class(), error.status());
        let advice = error.advice().map_or(String::new(), |advice| format!("\n    {advice}"));
        format!("{code} {class:?} {status:?}{damage}{errno}\n    {}{advice}\n", error.line())
    });
    let (rows, want) = (rows.collect::<String>(), include_str!("tests/errors.txt"));
    for (row, want) in rows.lines().zip(want.lines()) {
        assert_eq!(row, want);
    }
    assert_eq!(rows, want);
}

#[test]
fn what_is_used_up_is_told_from_what_is_broken() {
    let storage = |errno| Error::Storage { action: text("x"), source: io(errno) };
    let kernel = |errno| Error::kernel("mount", errno);
    let layers = MountError::TooManyLayers { count: 501, limit: 500 };
    let table = [
        (storage(Errno::NOSPC), ErrorStatus::ResourceExhausted),
        (storage(Errno::DQUOT), ErrorStatus::ResourceExhausted),
        (storage(Errno::IO), ErrorStatus::Internal),
        (kernel(Errno::MFILE), ErrorStatus::ResourceExhausted),
        (kernel(Errno::UCLEAN), ErrorStatus::DataLoss),
        (kernel(Errno::PERM), ErrorStatus::Internal),
        (layers.into(), ErrorStatus::FailedPrecondition),
        (ServiceError::Committed { key: text("k") }.into(), ErrorStatus::FailedPrecondition),
    ];
    for (error, want) in table {
        assert_eq!(error.status(), want, "{error}");
    }
}

/// Codes that two variants have, and why: it is one mistake of a caller at two calls.
const SHARED_CODES: [&str; 1] = ["parent-not-committed"];

/// Which families there are, with their variants.
const FAMILIES: [&[&str]; 9] = [
    Error::VARIANTS,
    MountError::VARIANTS,
    KernelError::VARIANTS,
    IntegrityError::VARIANTS,
    LimitError::VARIANTS,
    ServiceError::VARIANTS,
    store::Error::VARIANTS,
    SnapshotError::VARIANTS,
    DatabaseError::VARIANTS,
];

/// The name of the variant, as `Debug` has it behind those of its families.
fn variant(error: &Error) -> String {
    let debug = format!("{error:?}");
    let end = debug.find([' ', '{']).unwrap_or(debug.len());
    debug[..end].trim_end_matches(')').rsplit('(').next().unwrap().to_owned()
}

#[test]
fn every_variant_has_a_code_of_its_own() {
    let mut codes = BTreeMap::<&str, BTreeSet<String>>::new();
    let mut variants = BTreeSet::new();
    let errors = all();
    for error in &errors {
        let variant = variant(error);
        // These have the code of the error inside.
        if !["DmVerity", "Convert"].contains(&variant.as_str()) {
            codes.entry(error.code()).or_default().insert(variant.clone());
        }
        variants.insert(variant);
    }
    for (code, variants) in codes {
        assert!(code.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{code}");
        assert!(variants.len() == 1 || SHARED_CODES.contains(&code), "{code}: {variants:?}");
    }
    let declared: BTreeSet<_> = FAMILIES.concat().into_iter().map(str::to_owned).collect();
    assert_eq!(variants, declared, "this test has every variant");
    for family in FAMILIES {
        assert!(family.len() <= 12, "{family:?}");
    }
}

#[test]
fn no_message_repeats_its_cause() {
    for error in all() {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        assert!(cause.is_none_or(|cause| !error.to_string().contains(&cause)), "{error}");
    }
}
