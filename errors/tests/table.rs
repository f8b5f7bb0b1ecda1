//! A table as a crate uses it.
#![allow(missing_docs, clippy::unwrap_used)]

use std::error::Error as _;
use std::io;

use erolith_errors::{ErrorClass, ErrorFacts, ErrorStatus, error_chain, error_table};

error_table! {
    /// Of the disk.
    pub enum Disk {
        /// A page that is lost. The disk
        /// forgot it.
        Lost {
            /// Which.
            page: u64,
            /// Why.
            source: io::Error,
        } => {
            code: { if *page == 0 { "first-page" } else { "page" } },
            class: Io,
            status: { ErrorStatus::of_io(source) },
            text: ("page {page}"),
            cause: source,
            advice: { (*page == 0).then_some("format it") },
        }
    }
}

error_table! {
    /// Of anything.
    pub enum Any {
        /// A word that is none.
        Word => {
            code: "word",
            class: Usage,
            status: InvalidArgument,
            text: ("no word"),
            advice: "say another one",
        }
    }
    families {
        /// Of the disk.
        Disk(Disk),
    }
}

#[test]
fn an_error_says_what_its_row_says() {
    let word = ErrorFacts {
        advice: Some("say another one"),
        ..ErrorFacts::new("word", ErrorClass::Usage, ErrorStatus::InvalidArgument)
    };
    assert_eq!(Any::Word.facts(), word);
    let lost = |page, kind: io::ErrorKind| Any::from(Disk::Lost { page, source: kind.into() });
    let full = lost(7, io::ErrorKind::StorageFull);
    let page = ErrorFacts::new("page", ErrorClass::Io, ErrorStatus::ResourceExhausted);
    assert_eq!(full.facts(), page);
    assert_eq!(error_chain(&full), "page 7: no storage space");
    let first = lost(0, io::ErrorKind::Other);
    assert_eq!(first.facts().code, "first-page");
    assert_eq!(first.facts().advice, Some("format it"));
    assert_eq!(first.source().unwrap().to_string(), "other error");
}

#[test]
fn rows_say_what_is_the_same_for_every_error() {
    let [word] = Any::ROWS else { panic!("one row") };
    assert_eq!(word.codes().collect::<Vec<_>>(), ["word"]);
    assert_eq!(word.class, Some(ErrorClass::Usage));
    assert_eq!(word.status, Some(ErrorStatus::InvalidArgument));
    assert_eq!(word.advice, Some("say another one"));
    let [lost] = Disk::ROWS else { panic!("one row") };
    assert_eq!(lost.codes().collect::<Vec<_>>(), ["first-page", "page"]);
    assert_eq!((lost.class, lost.status, lost.advice), (Some(ErrorClass::Io), None, None));
    assert_eq!((word.summary(), lost.summary()), ("A word that is none.", "A page that is lost."));
    assert_eq!((Any::VARIANTS, Disk::VARIANTS), (&["Word"][..], &["Lost"][..]));
}
