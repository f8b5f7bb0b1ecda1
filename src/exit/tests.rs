//! Every error of a layer, with its code, the exit code of a command, the gRPC code of a call, and the line that a user sees.

use std::io;

use anyhow::Context as _;
use erolith_differ::decode::{CompressedFormat, Defect};
use erolith_differ::error::{
    BudgetError, ContentError, LayerError, MismatchError, OciImageError, ProcessError,
};
use erolith_differ::{Digest, Error};
use erolith_mkfs::image::{Corruption, CorruptionKind};
use erolith_mkfs::{image, tar};
use erolith_verity::dmverity;

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
        Error::Content(ContentError::BadDigest { text: text() }),
        Error::Layer(LayerError::Inherits {}),
        Error::Layer(LayerError::ForeignIndex { work: "/work".into() }),
        Error::Layer(LayerError::UnsupportedMediaType { media_type: text() }),
        Error::Layer(LayerError::UnsupportedCompression { found: "xz" }),
        Error::Layer(LayerError::NotALayer { declared: "tar" }),
        Error::Layer(LayerError::Corrupt {
            format: CompressedFormat::Gzip,
            offset: 9,
            defect: Defect::BadChecksum,
        }),
        Error::Budget(BudgetError::Output { limit: 7 }),
        Error::Budget(BudgetError::Ratio { compressed: 1, expanded: 999, ratio: 200 }),
        Error::Budget(BudgetError::Time { seconds: 3 }),
        Error::Mismatch(MismatchError::BlobSize { digest: digest(), expected: 1, actual: 2 }),
        Error::Mismatch(MismatchError::BlobDigest { expected: digest(), actual: digest() }),
        Error::Mismatch(MismatchError::DiffId { expected: digest(), actual: digest() }),
        Error::Content(ContentError::BlobMissing { digest: digest() }),
        Error::Layer(LayerError::NonDistributable { media_type: text() }),
        Error::Layer(LayerError::BadAnnotation { key: text(), reason: "REASON" }),
    ]
}

fn of_images() -> Vec<Error> {
    let which = |found| {
        Error::Image(OciImageError::WhichImage {
            transport: "oci",
            reference: Some(text()),
            found,
            names: vec![text()],
        })
    };
    vec![
        Error::Content(ContentError::NotPlain { path: text() }),
        Error::Content(ContentError::NotALayout { path: text(), reason: "REASON" }),
        Error::Content(ContentError::BadArchive { reason: text() }),
        which(false),
        which(true),
        Error::Image(OciImageError::NoPlatform { wanted: text(), there: text() }),
        Error::Image(OciImageError::NotAnImage { digest: digest(), media_type: text() }),
        Error::Image(OciImageError::BadPlatform { text: text() }),
        Error::Image(OciImageError::BadLocation { text: text(), reason: text() }),
        Error::Image(OciImageError::BadChange { text: text(), reason: text() }),
        Error::Image(OciImageError::BadDocument { what: text(), reason: text() }),
        Error::Image(OciImageError::SchemaOne { what: text() }),
        Error::Image(OciImageError::LayerCount { layers: 1, diff_ids: 2 }),
        Error::Budget(BudgetError::Document { digest: digest(), size: 9, limit: 8 }),
        Error::Budget(BudgetError::File { limit: 8 }),
        Error::Content(ContentError::Busy { reference: text() }),
    ]
}

fn of_integrity() -> Vec<Error> {
    let (expected, actual) = ([1; 32], [2; 32]);
    let fsverity = erolith_verity::fsverity::Digest::from_bytes;
    let sealed = |source| Error::Seal { path: text(), source };
    let storage =
        |source| erolith_snapshotter::Error::Storage { action: "ACTION".to_owned(), source };
    vec![
        Error::Layer(LayerError::BadImage {
            code: "dir-order".into(),
            reason: text(),
            path: text(),
        }),
        Error::Verity(dmverity::Error::BadRoot { text: text() }),
        Error::Verity(dmverity::Error::Stopped),
        Error::Verity(dmverity::Error::Io { action: "reading", offset: 5, source: full() }),
        Error::Build(image::Error::from(CorruptionKind::DirOrder).into()),
        Error::Layer(LayerError::FsVerity {
            expected: fsverity(expected),
            actual: fsverity(actual),
        }),
        sealed(Box::new(storage(full()))),
        sealed(Box::new(erolith_snapshotter::Error::from(
            erolith_snapshotter::MountError::NoLayers,
        ))),
        sealed(Box::new(full())),
        sealed(Box::from("CAUSE")),
    ]
}

fn of_work() -> Vec<Error> {
    let io = |source| Error::Io { action: text(), source };
    vec![
        Error::Process(ProcessError::Processor {
            processor: text(),
            media_type: text(),
            reason: text(),
        }),
        Error::Process(ProcessError::ProcessorLoop { media_type: text() }),
        Error::Cancelled,
        Error::Process(ProcessError::ThreadDied { stage: "hasher" }),
        Error::Process(ProcessError::Reported { code: "tar-checksum".into(), text: text() }),
        Error::Process(ProcessError::WorkerDied { ended: text() }),
        io(full()),
        io(io::ErrorKind::PermissionDenied.into()),
        io(io::Error::other("CAUSE")),
        Error::InLayer {
            index: 3,
            name: digest(),
            source: Box::new(Error::Process(ProcessError::ThreadDied { stage: "x" })),
        },
        Error::InLayer { index: 3, name: digest(), source: Box::new(io(full())) },
        Error::InLayer {
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
        Error::Input { what: text(), source: io::Error::other("CAUSE") },
        Error::Output(full()),
        Error::TooLarge { limit: 9 },
        Error::Options("OPTIONS"),
        Error::Internal("INTERNAL"),
        Error::Image(unreadable),
        Error::Image(corrupt),
    ]
}

fn of_comparing() -> Vec<erolith_overlay::Error> {
    use erolith_overlay::Error;
    vec![
        Error::Input { what: text(), source: full() },
        Error::Changed { what: text() },
        Error::Overlay { what: text(), why: "WHY" },
        Error::Index { what: text(), why: "WHY" },
        Error::Marks { what: text(), mark: text(), why: "WHY" },
        Error::Owner { what: text(), id: 1 },
    ]
}

#[test]
fn every_error_of_a_layer_has_a_code_an_exit_code_a_status_and_a_line() {
    let mut table = Vec::new();
    let building = of_building().into_iter().map(Error::Build);
    let comparing = of_comparing().into_iter().map(Error::Overlay);
    let all = of_layers().into_iter().chain(of_images()).chain(of_integrity()).chain(of_work());
    for error in all.chain(building).chain(comparing) {
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
    for error in of_comparing() {
        let name = error.code().to_owned();
        let error = Err::<(), _>(error).context("CONTEXT").unwrap_err();
        table.push(format!("{name} {}: {}", code(&error), message(&error)));
    }
    let expected: Vec<&str> = include_str!("errors.txt").lines().collect();
    assert!(table == expected, "{}", table.join("\n"));
}
