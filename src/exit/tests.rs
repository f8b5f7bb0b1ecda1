//! Every error of a layer, with its code, the exit code of a command, the gRPC code of a call, and the line that a user sees.

use std::io;

use anyhow::Context as _;
use erolith_differ::decode::{Defect, Format};
use erolith_differ::{Digest, Error};
use erolith_mkfs::image::{Corruption, CorruptionKind};
use erolith_mkfs::{dmverity, image, tar};

use super::*;

fn digest() -> Digest {
    Digest::of(b"")
}

fn full() -> io::Error {
    io::Error::from_raw_os_error(28)
}

fn text() -> String {
    "TEXT".to_owned()
}

fn of_layers() -> Vec<Error> {
    vec![
        Error::BadDigest { text: text() },
        Error::Inherits,
        Error::ForeignIndex { work: "/work".into() },
        Error::UnsupportedMediaType { media_type: text() },
        Error::UnsupportedCompression { found: "xz" },
        Error::NotALayer { declared: "tar" },
        Error::Corrupt { format: Format::Gzip, offset: 9, defect: Defect::BadChecksum },
        Error::OutputBudget { limit: 7 },
        Error::RatioBudget { compressed: 1, expanded: 999, ratio: 200 },
        Error::TimeBudget { seconds: 3 },
        Error::BlobSize { digest: digest(), expected: 1, actual: 2 },
        Error::BlobDigest { expected: digest(), actual: digest() },
        Error::DiffId { expected: digest(), actual: digest() },
        Error::BlobMissing { digest: digest() },
        Error::NonDistributable { media_type: text() },
        Error::BadAnnotation { key: text(), reason: "REASON" },
    ]
}

fn of_images() -> Vec<Error> {
    let which = |found| Error::WhichImage {
        transport: "oci",
        reference: Some(text()),
        found,
        names: vec![text()],
    };
    vec![
        Error::NotPlain { path: text() },
        Error::NotALayout { path: text(), reason: "REASON" },
        Error::BadArchive { reason: text() },
        which(false),
        which(true),
        Error::NoPlatform { wanted: text(), there: text() },
        Error::NotAnImage { digest: digest(), media_type: text() },
        Error::BadPlatform { text: text() },
        Error::BadLocation { text: text(), reason: text() },
        Error::BadChange { text: text(), reason: text() },
        Error::BadDocument { what: text(), reason: text() },
        Error::SchemaOne { what: text() },
        Error::LayerCount { layers: 1, diff_ids: 2 },
        Error::DocumentTooLarge { digest: digest(), size: 9, limit: 8 },
        Error::FileTooLarge { limit: 8 },
        Error::Busy { reference: text() },
    ]
}

fn of_integrity() -> Vec<Error> {
    let (expected, actual) = ([1; 32], [2; 32]);
    let fsverity = erolith_mkfs::fsverity::Digest::from_bytes;
    let sealed = |source| Error::Seal { path: text(), source };
    let storage = |source| erolith_snapshotter::Error::Storage { action: text(), source };
    vec![
        Error::BadImage { code: "dir-order".into(), reason: text(), path: text() },
        Error::Verity(dmverity::Error::BadRoot { text: text() }),
        Error::Verity(dmverity::Error::Stopped),
        Error::Verity(dmverity::Error::Io { action: "reading", offset: 5, source: full() }),
        Error::Verity(image::Error::from(CorruptionKind::DirOrder).into()),
        Error::FsVerity { expected: fsverity(expected), actual: fsverity(actual) },
        sealed(Box::new(storage(full()))),
        sealed(Box::new(erolith_snapshotter::Error::NoLayers)),
        sealed(Box::new(full())),
        sealed(Box::from("TEXT")),
    ]
}

fn of_work() -> Vec<Error> {
    let io = |source| Error::Io { action: text(), source };
    vec![
        Error::Processor { processor: text(), media_type: text(), reason: text() },
        Error::ProcessorLoop { media_type: text() },
        Error::Cancelled,
        Error::WorkerDied { stage: "hasher" },
        Error::Told { code: "tar-checksum".into(), text: text() },
        Error::Worker { ended: text() },
        io(full()),
        io(io::ErrorKind::PermissionDenied.into()),
        io(io::Error::other("TEXT")),
        Error::Layer {
            index: 3,
            name: digest(),
            source: Box::new(Error::WorkerDied { stage: "x" }),
        },
        Error::Layer { index: 3, name: digest(), source: Box::new(io(full())) },
        Error::Layer {
            index: 3,
            name: digest(),
            source: Box::new(Error::Build(erolith_mkfs::Error::Output(full()))),
        },
    ]
}

fn of_building() -> Vec<erolith_mkfs::Error> {
    use erolith_mkfs::Error;
    let unreadable = image::Error::Io { device: 0, offset: 1, len: 2, source: full() };
    let corrupt = image::Error::Corrupt(Corruption::new(CorruptionKind::DirOrder).nid(7));
    vec![
        Error::Tar(tar::Error { offset: 512, path: None, problem: tar::Problem::Io(full()) }),
        Error::Tar(tar::Error { offset: 512, path: None, problem: tar::Problem::BadChecksum }),
        Error::Input { what: text(), source: full() },
        Error::Input { what: text(), source: io::Error::other("TEXT") },
        Error::Changed { what: text() },
        Error::Overlay { what: text(), why: "WHY" },
        Error::Index { what: text(), why: "WHY" },
        Error::Marks { what: text(), mark: text(), why: "WHY" },
        Error::Owner { what: text(), id: 1 },
        Error::Output(full()),
        Error::TooLarge { limit: 9 },
        Error::Options("OPTIONS"),
        Error::Internal("INTERNAL"),
        Error::Image(unreadable),
        Error::Image(corrupt),
    ]
}

#[test]
fn every_error_of_a_layer_has_a_code_an_exit_code_a_status_and_a_line() {
    let mut table = Vec::new();
    let building = of_building().into_iter().map(Error::Build);
    let all = of_layers().into_iter().chain(of_images()).chain(of_integrity()).chain(of_work());
    for error in all.chain(building) {
        let name = error.code().to_owned();
        let error = serve::Error::from(error);
        let status = format!("{:?}", error.code());
        let error = anyhow::Error::new(error);
        table.push(format!("{name} {} {status}: {}", code(&error), message(&error)));
    }
    for error in of_building() {
        let name = error.code().to_owned();
        let error = Err::<(), _>(error).context("CONTEXT").unwrap_err();
        table.push(format!("{name} {}: {}", code(&error), message(&error)));
    }
    let expected: Vec<&str> = include_str!("errors.txt").lines().collect();
    assert!(table == expected, "{}", table.join("\n"));
}
